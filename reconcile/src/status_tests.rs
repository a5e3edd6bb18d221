use super::*;
use crate::execute::FaultKind;

#[test]
fn the_worst_part_is_the_whole() {
    let fault = Fault { op: "op".into(), code: -5, message: "m".into(), kind: FaultKind::Refused };
    let parts = [ready(), blocked("DN x"), failed(&fault), degraded("one away")];
    assert_eq!(worst(&parts).condition(), Condition::Failed);
    assert_eq!(worst(&parts[..2]).on, "DN x");
    assert_eq!(worst([]).condition(), Condition::Ready);
}

#[test]
fn since_is_when_the_condition_was_entered() {
    let mut book = Book { now_ms: 10, ..Book::default() };
    assert_eq!(book.stamp("a", ready()).since_ms, 10);
    book.now_ms = 20;
    assert_eq!(book.stamp("a", ready()).since_ms, 10);
    assert_eq!(book.stamp("b", ready()).since_ms, 20);
    assert_eq!(book.stamp("a", blocked("x")).since_ms, 20);
    book.now_ms = 30;
    assert_eq!(book.stamp("a", blocked("x")).since_ms, 20);
    assert_eq!(book.stamp("a", blocked("y")).since_ms, 30);
}
