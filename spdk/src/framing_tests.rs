use super::*;

const STREAM: &[u8] = br#" {"a":"}\"]\\"}[1,[2,{"b":[]}]]
{"c":{}}"#;

fn values(chunk: usize) -> Vec<String> {
    let mut framer = Framer::new(1024);
    let mut out = Vec::new();
    for part in STREAM.chunks(chunk) {
        framer.buffer().extend_from_slice(part);
        while let Some(value) = framer.next_value().unwrap() {
            out.push(String::from_utf8(value.to_vec()).unwrap());
        }
    }
    out
}

#[test]
fn the_same_values_however_the_stream_is_chunked() {
    let whole = values(STREAM.len());
    assert_eq!(whole, [r#"{"a":"}\"]\\"}"#, r#"[1,[2,{"b":[]}]]"#, r#"{"c":{}}"#]);
    for chunk in 1..STREAM.len() {
        assert_eq!(values(chunk), whole, "chunk of {chunk}");
    }
}

fn failure(input: &[u8]) -> FramingError {
    let mut framer = Framer::new(16);
    framer.buffer().extend_from_slice(input);
    framer.next_value().unwrap_err()
}

#[test]
fn a_stream_that_cannot_be_json_rpc_is_refused() {
    assert_eq!(failure(b"nope"), FramingError::Start(b'n'));
    assert_eq!(failure(b"\"text\""), FramingError::Start(b'"'));
    assert_eq!(failure(b"{]"), FramingError::Mismatch);
    assert_eq!(failure(b"}"), FramingError::Mismatch);
    assert_eq!(failure(&[b'['; 65]), FramingError::TooDeep);
    assert_eq!(failure(b"{\"a\":\"0123456789abcdef"), FramingError::TooLong(16));
}
