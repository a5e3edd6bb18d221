use super::*;

fn init(id: &str) -> Record {
    Record::Initialised(id.to_owned())
}

#[tokio::test]
async fn what_is_remembered_survives() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger
        .remember(vec![Record::Node("n1".into()), Record::Generation(7), init("a"), init("b")])
        .await
        .unwrap();
    ledger.remember(vec![Record::Generation(5), Record::Gone("a".into())]).await.unwrap();
    let before = ledger.memory();
    drop(ledger);
    let ledger = Ledger::open(dir.path()).unwrap();
    assert_eq!(ledger.memory(), before);
    assert_eq!(ledger.position(), ("n1".to_owned(), 7), "a generation never goes back");
    assert!(ledger.initialised("b") && !ledger.initialised("a") && ledger.holds_data());
}

#[tokio::test]
async fn another_node_starts_from_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger.remember(vec![Record::Node("n1".into()), Record::Generation(70), init("a")]).await.unwrap();
    ledger.remember(vec![Record::Node("n2".into()), Record::Generation(3)]).await.unwrap();
    assert_eq!(ledger.position(), ("n2".to_owned(), 3));
    assert!(!ledger.holds_data());
}

#[tokio::test]
async fn any_torn_tail_is_dropped_and_nothing_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger.remember(vec![Record::Node("n1".into()), Record::Generation(1)]).await.unwrap();
    let whole = std::fs::read(&path).unwrap();
    ledger.remember(vec![Record::Generation(2), init("x")]).await.unwrap();
    drop(ledger);
    let longer = std::fs::read(&path).unwrap();
    for cut in whole.len()..longer.len() {
        std::fs::write(&path, &longer[..cut]).unwrap();
        let memory = Ledger::open(dir.path()).unwrap().memory();
        assert_eq!(memory.node_id, "n1");
        assert!(memory.generation == 1 || memory.generation == 2);
        assert!(!memory.initialised.contains("x"), "cut at {cut}");
    }
}

#[tokio::test]
async fn damage_before_the_tail_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger.remember(vec![Record::Node("n1".into()), Record::Generation(1), init("x")]).await.unwrap();
    drop(ledger);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(Ledger::open(dir.path()), Err(LedgerError::Damaged { line: 1, .. })));
}

#[test]
fn one_agent_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = Ledger::open(dir.path()).unwrap();
    assert!(matches!(Ledger::open(dir.path()), Err(LedgerError::InUse { .. })));
    drop(first);
    Ledger::open(dir.path()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_all_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::open(dir.path()).unwrap());
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let ledger = Arc::clone(&ledger);
            tokio::spawn(async move { ledger.remember(vec![init(&format!("v{n}"))]).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    drop(Arc::into_inner(ledger).unwrap());
    assert_eq!(Ledger::open(dir.path()).unwrap().memory().initialised.len(), 200);
}

#[tokio::test]
async fn history_does_not_grow_without_bound() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger.remember(vec![Record::Node("n1".into()), init("kept")]).await.unwrap();
    for round in 0..4 {
        let batch = (1..=2000).map(|n| Record::Generation(round * 2000 + n)).collect();
        ledger.remember(batch).await.unwrap();
    }
    let lines = std::fs::read_to_string(dir.path().join("ledger")).unwrap().lines().count();
    assert!(lines < SLACK_LINES, "{lines}");
    drop(ledger);
    let memory = Ledger::open(dir.path()).unwrap().memory();
    assert_eq!(memory.generation, 8000);
    assert!(memory.initialised.contains("kept"));
}

#[tokio::test]
async fn what_cannot_be_written_is_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger.remember(vec![Record::Node("n1".into())]).await.unwrap();
    // A file opened for reading only stands for a full disk.
    let read_only = File::open(dir.path().join("ledger")).unwrap();
    let writable = std::mem::replace(&mut ledger.disk.lock().await.file, Arc::new(read_only));
    assert!(ledger.remember(vec![Record::Generation(9)]).await.is_err());
    assert_eq!(ledger.position().1, 0);
    ledger.disk.lock().await.file = writable;
    ledger.remember(vec![init("x")]).await.unwrap();
    assert!(ledger.initialised("x"));
}
