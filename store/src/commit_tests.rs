use bytes::Bytes;

use super::*;
use crate::tx::{NewValue, Writes};

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

/// Where the keys as found are enough: the history is empty. What is found out from a history is tested in `stm_tests`.
async fn verdict(footprint: Footprint, found: Vec<(String, Option<KeyValue>)>) -> Result<Outcome, KvError> {
    judge(&crate::MemKv::new(), &footprint, MARK, found, "lost".into()).await
}

#[tokio::test]
async fn our_mark_proves_that_it_was_applied() {
    let seen = vec![found("/cap", "others", 9), ("/da".into(), None), found("/gen", marked(MARK), 8)];
    assert_eq!(verdict(footprint(), seen).await, Ok(Outcome::Committed(8)));
}

#[tokio::test]
async fn an_untouched_key_proves_that_it_was_not() {
    let seen = vec![found("/cap", "books", 5), found("/da", "record", 9), found("/gen", marked(3), 9)];
    assert_eq!(
        verdict(footprint(), seen.clone()).await,
        Ok(Outcome::Refused(seen)),
        "even where somebody wrote the same bytes"
    );
}

#[tokio::test]
async fn what_wrote_nothing_was_not_applied() {
    let seen = vec![found("/cap", "others", 9)];
    let read_only = Footprint { writes: Writes::new(), ..footprint() };
    assert_eq!(verdict(read_only, seen.clone()).await, Ok(Outcome::Refused(seen)));
}

#[tokio::test]
async fn without_any_history_nobody_knows() {
    let seen = vec![found("/cap", "books", 9), ("/da".into(), None), found("/gen", marked(3), 9)];
    assert!(matches!(verdict(footprint(), seen).await, Err(KvError::Ambiguous { .. })));
}

#[test]
fn only_guarded_transactions_are_repeated() {
    assert!(repeatable(&footprint()));
    let blind = Footprint { writes: [("/a".to_owned(), new("x", false))].into(), ..Footprint::default() };
    assert!(!repeatable(&blind));
    let touch = Footprint { writes: [("/gen".to_owned(), new("", true))].into(), ..Footprint::default() };
    assert!(repeatable(&touch));
}
