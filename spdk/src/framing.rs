//! Framing of JSON-RPC on a stream: JSON values one after the other, with nothing between them but white space.

mod grammar;

use grammar::Grammar;
use serde_json::value::RawValue;

/// The stream cannot be read any further: there is no point to resynchronise at.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    #[error("unexpected byte {0:#04x} where a JSON object or array must start")]
    Start(u8),
    #[error("brackets do not match")]
    Mismatch,
    #[error("unexpected byte {0:#04x}: this is no JSON")]
    Syntax(u8),
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("a value is longer than {0} bytes")]
    TooLong(usize),
}

const MAX_DEPTH: usize = 64;

/// Cuts a byte stream into JSON objects and arrays. Every byte is looked at once, however the stream is chunked. What cannot become
/// valid JSON any more is an error at once, as in SPDK: a peer that waits for an answer to it would wait for ever. (That strings are
/// UTF-8 is for the decoder to check.)
#[derive(Debug)]
pub struct Framer {
    buf: Vec<u8>,
    /// Start of the current value in `buf`.
    start: usize,
    /// How far the current value has been scanned.
    scanned: usize,
    grammar: Grammar,
    max_len: usize,
}

impl Framer {
    /// `max_len`: the longest value accepted, in bytes.
    pub fn new(max_len: usize) -> Self {
        Self { buf: Vec::new(), start: 0, scanned: 0, grammar: Grammar::default(), max_len }
    }

    /// The buffer to append received bytes to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.compact();
        &mut self.buf
    }

    /// The next complete value, or `None` until more bytes are there.
    ///
    /// # Errors
    /// [`FramingError`]; the stream is unusable from then on.
    pub fn next_value(&mut self) -> Result<Option<&[u8]>, FramingError> {
        while self.scanned < self.buf.len() {
            let byte = self.buf[self.scanned];
            self.scanned += 1;
            if self.step(byte)? {
                let value = self.start..self.scanned;
                self.start = self.scanned;
                return Ok(Some(&self.buf[value]));
            }
        }
        if self.scanned - self.start > self.max_len {
            return Err(FramingError::TooLong(self.max_len));
        }
        Ok(None)
    }

    /// Takes one byte; true when it ends a value.
    fn step(&mut self, byte: u8) -> Result<bool, FramingError> {
        if self.grammar.is_idle() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.start = self.scanned;
                    return Ok(false);
                }
                b'{' | b'[' | b'}' | b']' => {}
                _ => return Err(FramingError::Start(byte)),
            }
        }
        self.grammar.step(byte)
    }

    /// Gives back what was consumed; a buffer that one large value blew up does not stay large.
    fn compact(&mut self) {
        if self.start > 0 {
            self.buf.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
            if self.buf.is_empty() && self.buf.capacity() > 64 * 1024 {
                self.buf = Vec::new();
            }
        }
    }
}

/// A request as it is on the wire.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Request<'a, P> {
    pub(crate) jsonrpc: &'static str,
    pub(crate) id: u64,
    pub(crate) method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) params: Option<&'a P>,
}

/// An answer as it is on the wire; `result` stays text until the caller knows its type.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Response {
    pub(crate) id: Option<u64>,
    pub(crate) result: Option<Box<RawValue>>,
    pub(crate) error: Option<ErrorObject>,
}

/// `error` of an answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ErrorObject {
    pub code: i64,
    pub message: String,
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
