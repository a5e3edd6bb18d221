//! Framing of JSON-RPC on a stream: JSON values one after the other, with nothing between them but white space.

use serde_json::value::RawValue;

/// The stream cannot be read any further: there is no point to resynchronise at.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    #[error("unexpected byte {0:#04x} where a JSON object or array must start")]
    Start(u8),
    #[error("brackets do not match")]
    Mismatch,
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("a value is longer than {0} bytes")]
    TooLong(usize),
}

const MAX_DEPTH: usize = 64;

/// Cuts a byte stream into JSON objects and arrays. Every byte is looked at once, however the stream is chunked; whether a
/// value is valid JSON is for the decoder to say.
#[derive(Debug)]
pub struct Framer {
    buf: Vec<u8>,
    /// Start of the current value in `buf`.
    start: usize,
    /// How far the current value has been scanned.
    scanned: usize,
    open: Vec<u8>,
    in_string: bool,
    escaped: bool,
    max_len: usize,
}

impl Framer {
    /// `max_len`: the longest value accepted, in bytes.
    pub fn new(max_len: usize) -> Self {
        Self {
            buf: Vec::new(),
            start: 0,
            scanned: 0,
            open: Vec::new(),
            in_string: false,
            escaped: false,
            max_len,
        }
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
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b'{' | b'[' if self.open.len() == MAX_DEPTH => return Err(FramingError::TooDeep),
            b'{' => self.open.push(b'}'),
            b'[' => self.open.push(b']'),
            b'}' | b']' => {
                if self.open.pop() != Some(byte) {
                    return Err(FramingError::Mismatch);
                }
                return Ok(self.open.is_empty());
            }
            b' ' | b'\t' | b'\r' | b'\n' if self.open.is_empty() => self.start = self.scanned,
            _ if self.open.is_empty() => return Err(FramingError::Start(byte)),
            b'"' => self.in_string = true,
            _ => {}
        }
        Ok(false)
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
