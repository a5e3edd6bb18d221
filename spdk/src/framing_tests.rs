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

/// As recorded from SPDK: what cannot become JSON any more closes the connection, what can is waited for.
#[test]
fn malformed_json_is_refused_at_the_byte_that_makes_it_so() {
    for refused in [
        r#"{"a":}"#,
        r#"{"jsonrpc":"2.0","id":1,,"#,
        r#"{"id":1 "x""#,
        "[nulx",
        r#"{"id":01"#,
        r#"{"id":1,"method":"rpc\q"#,
        r#"{"a" 1"#,
        r#"{"a":1]"#,
        "[1 2",
        "{\"a\":\"\u{1}",
        "{1:2",
        "[/* c */",
        "[// c",
        "[tru,",
        r#"{"a":+"#,
        "[1,]",
        r#"{"a":1,}"#,
        r#"["\u12g"#,
        "[1.e",
        "[1e,",
    ] {
        let mut framer = Framer::new(1024);
        framer.buffer().extend_from_slice(refused.as_bytes());
        assert!(framer.next_value().is_err(), "{refused}");
    }
    for awaited in
        [r#"{"jsonrpc":"2.0","id":1,"method":"#, "[1,2", r#"["abc"#, "[nul", "[-", "[1e", "[1.", r#"["\u12"#]
    {
        let mut framer = Framer::new(1024);
        framer.buffer().extend_from_slice(awaited.as_bytes());
        assert_eq!(framer.next_value(), Ok(None), "{awaited}");
    }
}

/// Where the first value of a text ends; `None` if it may still come, an error if not.
fn decode(text: &str) -> Result<Option<usize>, ()> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => Ok(Some(values.byte_offset())),
        Some(Err(error)) if error.is_eof() => Ok(None),
        _ => Err(()),
    }
}

/// Texts of pieces of JSON in any order: the framer and `serde_json` agree on what is a value, what may become one, and what not.
#[test]
fn the_framer_and_the_decoder_agree() {
    const PIECES: [&str; 24] = [
        "{", "}", "[", "]", ",", ":", " ", "\"a\"", "\"", "\\", "\\n", "\\u00e9", "0", "1", "-", ".", "e",
        "+", "true", "nul", "l", "false", "{\"k\":", "[1",
    ];
    let mut seed = 1_u64;
    let mut below = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    let mut ends = [0; 3];
    for _ in 0..100_000 {
        let start = if below(2) == 0 { "{" } else { "[" };
        let pieces = (0..below(9)).map(|_| PIECES[below(PIECES.len())]).collect::<String>();
        let text = format!("{start}{pieces}");
        let mut framer = Framer::new(1024);
        framer.buffer().extend_from_slice(text.as_bytes());
        let framed = framer.next_value().map(|value| value.map(<[u8]>::len)).map_err(|_| ());
        let mut decoded = decode(&text);
        if decoded.is_err() && text.ends_with(['-', '+', '.', 'e']) {
            // The decoder takes an unfinished number for a wrong one.
            decoded = decode(&format!("{text}0"));
        }
        assert_eq!(framed, decoded, "{text}");
        ends[match framed {
            Ok(Some(_)) => 0,
            Ok(None) => 1,
            Err(()) => 2,
        }] += 1;
    }
    assert!(ends.iter().all(|count| *count > 1000), "{ends:?}");
}
