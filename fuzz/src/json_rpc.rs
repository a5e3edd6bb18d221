//! The framing of JSON-RPC: any bytes on the socket.
//!
//! It must not panic, the stream may be cut anywhere without changing the values, a JSON object or array is given out as it is, and
//! no value longer than the limit is collected.

use vda_spdk::framing::{Framer, FramingError};

use crate::{Input, pieces};

const LONGEST: usize = 4096;

type Framed = (Vec<Vec<u8>>, Option<FramingError>);

fn frame<'a>(stream: impl Iterator<Item = &'a [u8]>) -> Framed {
    let (mut framer, mut values) = (Framer::new(LONGEST), Vec::new());
    for piece in stream {
        framer.buffer().extend_from_slice(piece);
        loop {
            match framer.next_value() {
                Ok(None) => break,
                Ok(Some(value)) => values.push(value.to_vec()),
                Err(error) => return (values, Some(error)),
            }
        }
    }
    (values, None)
}

pub(crate) fn run(input: &[u8]) {
    let mut input = Input(input);
    let seed = u64::from(input.byte());
    let stream = input.0;
    let bytewise = frame(stream.chunks(1));
    assert_eq!(frame(pieces(stream, seed)), bytewise, "the cut changes the values");
    for value in &bytewise.0 {
        assert!(value.len() <= LONGEST + 1, "a value of {} bytes", value.len());
    }
    what_json_says(stream, &bytewise);
}

/// Values that a JSON parser finds one after the other are framed as they are.
fn what_json_says(stream: &[u8], framed: &Framed) {
    let mut parsed = serde_json::Deserializer::from_slice(stream).into_iter::<serde_json::Value>();
    let mut from = 0;
    for value in &framed.0 {
        let Some(Ok(expected)) = parsed.next() else { return };
        let text = &stream[from..parsed.byte_offset()];
        from = parsed.byte_offset();
        assert_eq!(text.trim_ascii(), &value[..], "{expected}");
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let streams = [
        r#"{"jsonrpc":"2.0","id":1,"method":"bdev_get_bdevs","params":{"name":"a\"}\\\u00e9"}}"#,
        "[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\"},{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"b\"}]\r\n{ }\t[]",
        r#"{"a":[[[{"b":{}}],"]"],"{"]}{"c":1e9,"d":null,"e":-0.5}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no"}}"#,
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        "{]",
    ];
    streams.iter().map(|s| [b"\x05", s.as_bytes()].concat()).collect()
}
