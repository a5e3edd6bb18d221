use bytes::Bytes;

use super::*;
use crate::tx::NewValue;

const MARK: u64 = 7;

fn new(bytes: &'static str, generation: bool) -> Option<NewValue> {
    Some(NewValue { bytes: bytes.into(), lease: None, generation })
}

fn found(key: &str, value: impl Into<Bytes>, mod_revision: u64) -> (String, Option<KeyValue>) {
    let kv = KeyValue { key: key.into(), value: value.into(), create_revision: 1, mod_revision, lease: None };
    (key.into(), Some(kv))
}

/// Changes books that were at revision 5, creates a record, raises a generation.
fn footprint() -> Footprint {
    let reads = [("/cap".to_owned(), 5), ("/da".to_owned(), 0)].into();
    let writes = [
        ("/cap".to_owned(), new("books", false)),
        ("/da".to_owned(), new("record", false)),
        ("/gen".to_owned(), new("", true)),
    ];
    Footprint { reads, writes: writes.into() }
}

fn verdict(found: Vec<(String, Option<KeyValue>)>) -> Result<Outcome, KvError> {
    judge(&footprint(), MARK, found, "lost".into())
}

#[test]
fn our_mark_proves_that_it_was_applied() {
    let seen = vec![found("/cap", "others", 9), ("/da".into(), None), found("/gen", marked(MARK), 8)];
    assert_eq!(verdict(seen), Ok(Outcome::Committed(8)));
}

#[test]
fn an_untouched_key_proves_that_it_was_not() {
    let seen = vec![found("/cap", "books", 5), found("/da", "record", 9), found("/gen", marked(3), 9)];
    assert_eq!(verdict(seen.clone()), Ok(Outcome::Refused(seen)), "even where somebody wrote the same bytes");
}

#[test]
fn our_bytes_at_a_new_revision_tell_that_it_was_applied() {
    let seen = vec![found("/cap", "others", 9), found("/da", "record", 8), found("/gen", marked(3), 9)];
    assert_eq!(verdict(seen), Ok(Outcome::Committed(8)));
}

#[test]
fn when_everything_was_overwritten_nobody_knows() {
    let seen = vec![found("/cap", "others", 9), ("/da".into(), None), found("/gen", marked(3), 9)];
    assert!(matches!(verdict(seen), Err(KvError::Ambiguous { .. })));
}

#[test]
fn only_guarded_transactions_are_repeated() {
    assert!(repeatable(&footprint()));
    let blind = Footprint { writes: [("/a".to_owned(), new("x", false))].into(), ..Footprint::default() };
    assert!(!repeatable(&blind));
    let touch = Footprint { writes: [("/gen".to_owned(), new("", true))].into(), ..Footprint::default() };
    assert!(repeatable(&touch));
}
