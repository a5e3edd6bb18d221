//! Pages of lists: after which item the next page starts, in a token that says which list it belongs to.

use tonic::Status;
use vda_model::{Error, Violation, requests};

use crate::status;

/// Where a page starts, and how long it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) size: usize,
    /// Name of the last item of the page before; empty: the first page.
    pub(crate) after: String,
}

impl Page {
    /// # Errors
    /// If the size is too large, or the token not one of this list.
    pub(crate) fn parse(list: &str, page_size: u32, token: &str) -> Result<Self, Status> {
        let size = requests::page_size(page_size).map_err(|e| status::refused(&e))?;
        if token.is_empty() {
            return Ok(Self { size, after: String::new() });
        }
        let after =
            decode(token).and_then(|text| text.strip_prefix(list)?.strip_prefix(':').map(str::to_owned));
        let bad = || {
            let violation = Violation::new(
                "page_token",
                token,
                "empty, or what the page before answered as next_page_token",
            );
            status::refused(&Error::Invalid(vec![violation]))
        };
        Ok(Self { size, after: after.ok_or_else(bad)? })
    }
}

/// The token of the page after the item `last`.
pub(crate) fn next(list: &str, last: &str) -> String {
    format!("{list}:{last}").bytes().map(|b| format!("{b:02x}")).collect()
}

fn decode(token: &str) -> Option<String> {
    if !token.is_ascii() || !token.len().is_multiple_of(2) {
        return None;
    }
    let bytes: Option<Vec<u8>> =
        (0..token.len()).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16).ok()).collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_continues_its_own_list_only() {
        let token = next("da", "da17");
        assert_eq!(Page::parse("da", 10, &token).unwrap(), Page { size: 10, after: "da17".into() });
        for (list, token) in [("dn", token.as_str()), ("da", "zz"), ("da", "a"), ("da", "é"), ("da", "+1+1")]
        {
            assert_eq!(
                Page::parse(list, 0, token).unwrap_err().code(),
                tonic::Code::InvalidArgument,
                "{token}"
            );
        }
        assert_eq!(Page::parse("da", 0, "").unwrap().size, 100);
        assert!(Page::parse("da", 1001, "").is_err());
    }
}
