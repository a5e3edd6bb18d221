//! The grammar of JSON (RFC 8259), byte by byte: what cannot become a value any more is known at the byte that makes it so.

use super::{FramingError, MAX_DEPTH};

/// What may come next between tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Expect {
    #[default]
    Value,
    /// Behind `[`.
    ValueOrEnd,
    /// Behind `{`.
    KeyOrEnd,
    /// Behind a comma in an object.
    Key,
    Colon,
    CommaOrEnd,
}

/// Where in a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

/// The token that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Token {
    #[default]
    None,
    /// `hex`: digits of `\u` still to come.
    Text {
        key: bool,
        escaped: bool,
        hex: u8,
    },
    /// What is left of `true`, `false` or `null`.
    Word(&'static [u8]),
    Number(Number),
}

/// How far a value has been read.
#[derive(Debug, Default)]
pub(super) struct Grammar {
    /// The brackets to come, the next one last.
    open: Vec<u8>,
    expect: Expect,
    token: Token,
}

impl Grammar {
    /// Whether no value has begun.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes one byte; true when it ends an outermost object or array.
    pub(super) fn step(&mut self, byte: u8) -> Result<bool, FramingError> {
        match self.token {
            Token::Text { key, escaped, hex } => self.text(byte, key, escaped, hex).map(|()| false),
            Token::Word([next, rest @ ..]) if *next == byte => {
                self.token = if rest.is_empty() { Token::None } else { Token::Word(rest) };
                Ok(false)
            }
            Token::Word(_) => Err(FramingError::Syntax(byte)),
            Token::Number(at) => self.number(byte, at),
            Token::None => self.structure(byte),
        }
    }

    fn text(&mut self, byte: u8, key: bool, escaped: bool, hex: u8) -> Result<(), FramingError> {
        let (escaped, hex) = match byte {
            _ if hex > 0 && byte.is_ascii_hexdigit() => (false, hex - 1),
            _ if hex > 0 => return Err(FramingError::Syntax(byte)),
            b'u' if escaped => (false, 4),
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' if escaped => (false, 0),
            _ if escaped => return Err(FramingError::Syntax(byte)),
            b'"' => {
                self.token = Token::None;
                self.expect = if key { Expect::Colon } else { Expect::CommaOrEnd };
                return Ok(());
            }
            b'\\' => (true, 0),
            0..0x20 => return Err(FramingError::Syntax(byte)),
            _ => (false, 0),
        };
        self.token = Token::Text { key, escaped, hex };
        Ok(())
    }

    fn number(&mut self, byte: u8, at: Number) -> Result<bool, FramingError> {
        use Number::{Exponent, Fraction, Integer, Minus, Point, Power, Sign, Zero};
        let next = match (at, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Integer, b'0'..=b'9') => Integer,
            (Zero | Integer, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Integer | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => Sign,
            (Exponent | Sign | Power, b'0'..=b'9') => Power,
            // It ends before this byte.
            (Zero | Integer | Fraction | Power, _) => {
                self.token = Token::None;
                return self.structure(byte);
            }
            _ => return Err(FramingError::Syntax(byte)),
        };
        self.token = Token::Number(next);
        Ok(false)
    }

    fn structure(&mut self, byte: u8) -> Result<bool, FramingError> {
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            return Ok(false);
        }
        match (byte, self.expect) {
            (b'}' | b']', _) => return self.close(byte),
            (b'"', Expect::KeyOrEnd | Expect::Key) => {
                self.token = Token::Text { key: true, escaped: false, hex: 0 };
            }
            (b':', Expect::Colon) => self.expect = Expect::Value,
            (b',', Expect::CommaOrEnd) => {
                self.expect = if self.open.last() == Some(&b'}') { Expect::Key } else { Expect::Value };
            }
            (_, Expect::Value | Expect::ValueOrEnd) => self.value(byte)?,
            _ => return Err(FramingError::Syntax(byte)),
        }
        Ok(false)
    }

    fn value(&mut self, byte: u8) -> Result<(), FramingError> {
        if let b'{' | b'[' = byte {
            if self.open.len() == MAX_DEPTH {
                return Err(FramingError::TooDeep);
            }
            let object = byte == b'{';
            self.open.push(if object { b'}' } else { b']' });
            self.expect = if object { Expect::KeyOrEnd } else { Expect::ValueOrEnd };
            return Ok(());
        }
        self.token = match byte {
            b'"' => Token::Text { key: false, escaped: false, hex: 0 },
            b't' => Token::Word(b"rue"),
            b'f' => Token::Word(b"alse"),
            b'n' => Token::Word(b"ull"),
            b'-' => Token::Number(Number::Minus),
            b'0' => Token::Number(Number::Zero),
            b'1'..=b'9' => Token::Number(Number::Integer),
            _ => return Err(FramingError::Syntax(byte)),
        };
        self.expect = Expect::CommaOrEnd;
        Ok(())
    }

    fn close(&mut self, byte: u8) -> Result<bool, FramingError> {
        if self.open.pop() != Some(byte) {
            return Err(FramingError::Mismatch);
        }
        if !matches!(self.expect, Expect::ValueOrEnd | Expect::KeyOrEnd | Expect::CommaOrEnd) {
            return Err(FramingError::Syntax(byte));
        }
        let ended = self.open.is_empty();
        self.expect = if ended { Expect::Value } else { Expect::CommaOrEnd };
        Ok(ended)
    }
}
