use super::*;

const TIMEOUT: Duration = Duration::from_secs(3);

fn at(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

#[tokio::test(start_paused = true)]
async fn a_short_absence_is_not_told() {
    let start = Instant::now();
    let mut node = Liveness::new(TIMEOUT, start);
    assert!(node.heard(at(start, 10), true, 10));
    node.lost("connection reset".into());
    assert!(!node.check(at(start, 2000), 2000));
    assert!(!node.heard(at(start, 2500), true, 2500), "still reachable: nothing to write");
    assert!(!node.check(at(start, 5000), 5000));
}

#[tokio::test(start_paused = true)]
async fn a_long_absence_is_told_once_and_so_is_the_return() {
    let start = Instant::now();
    let mut node = Liveness::new(TIMEOUT, start);
    assert!(node.heard(at(start, 0), true, 0));
    node.lost("connection refused".into());
    assert_eq!(node.deadline(), Some(at(start, 3000)));
    assert!(node.check(at(start, 3000), 3000));
    let verdict = node.verdict().unwrap().clone();
    assert_eq!((verdict.condition(), verdict.since_ms), (Condition::Failed, 3000));
    assert_eq!(verdict.message, "agent unreachable: connection refused");
    assert!(!node.check(at(start, 9000), 9000));
    assert_eq!(node.deadline(), None);
    assert!(!node.heard(at(start, 9100), false, 9100), "connected, but has not told everything yet");
    assert!(node.heard(at(start, 9200), true, 9200));
    assert_eq!(node.verdict().unwrap().condition(), Condition::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_node_never_reached_is_told_after_the_timeout() {
    let start = Instant::now();
    let mut node = Liveness::new(TIMEOUT, start);
    assert!(node.verdict().is_none());
    assert!(node.check(at(start, 3001), 3001));
    assert!(node.verdict().unwrap().message.contains("no contact yet"));
}
