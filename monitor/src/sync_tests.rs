use super::*;

const DA: DaId = DaId::new(7);

fn reply(outcome: Outcome, generation: u64) -> SyncReply {
    SyncReply { outcome: outcome.into(), generation, message: "other".into() }
}

fn das() -> BTreeSet<DaId> {
    [DA].into()
}

fn accepted(generation: u64) -> SyncState {
    let mut state = SyncState::default();
    state.sent(&Extent::Full, generation, BTreeSet::new());
    state.answered(&reply(Outcome::Accepted, generation));
    state
}

#[test]
fn the_first_is_full_and_then_only_changes() {
    let mut state = SyncState::default();
    assert_eq!(state.next(0), None, "a node without generation does not exist");
    assert_eq!(state.next(5), Some((Extent::Full, BTreeSet::new())));
    state.sent(&Extent::Full, 5, BTreeSet::new());
    state.note(&Mail { das: das(), ..Mail::default() });
    assert_eq!(state.next(6), None, "one at a time");
    assert_eq!(state.answered(&reply(Outcome::Accepted, 5)), Verdict::Accepted(5));
    assert_eq!(state.next(6), Some((Extent::Delta { base: 5, das: das() }, BTreeSet::new())));
    state.sent(&Extent::Delta { base: 5, das: das() }, 6, BTreeSet::new());
    state.answered(&reply(Outcome::Accepted, 6));
    assert_eq!(state.next(6), None);
}

#[test]
fn any_doubt_is_resolved_by_a_full_one() {
    for outcome in [Outcome::NeedFull, Outcome::Unspecified] {
        let mut state = accepted(5);
        state.sent(&Extent::Delta { base: 5, das: das() }, 6, BTreeSet::new());
        assert_eq!(state.answered(&reply(outcome, 5)), Verdict::Again);
        assert_eq!(state.next(6).unwrap().0, Extent::Full);
    }
    let mut state = accepted(5);
    state.doubt();
    assert_eq!(state.next(5).unwrap().0, Extent::Full);
    let mut state = accepted(5);
    state.sent(&Extent::Delta { base: 5, das: das() }, 6, BTreeSet::new());
    state.failed();
    assert_eq!(state.next(6).unwrap().0, Extent::Full);
}

#[test]
fn a_connection_lost_while_in_flight_makes_its_acceptance_worthless() {
    let mut state = accepted(5);
    state.sent(&Extent::Delta { base: 5, das: das() }, 6, BTreeSet::new());
    state.doubt();
    state.answered(&reply(Outcome::Accepted, 6));
    assert_eq!(state.next(6).unwrap().0, Extent::Full);
}

#[test]
fn behind_the_agent_it_waits_for_etcd() {
    let mut state = accepted(5);
    state.note(&Mail { das: das(), ..Mail::default() });
    state.sent(&Extent::Delta { base: 5, das: das() }, 6, BTreeSet::new());
    state.answered(&reply(Outcome::Stale, 9));
    assert_eq!(state.next(8), None);
    assert_eq!(state.next(9).unwrap().0, Extent::Full);
}

#[test]
fn a_retry_needs_no_new_generation_and_is_not_lost_by_a_failure() {
    let mut state = accepted(5);
    state.note(&Mail { retry: das(), ..Mail::default() });
    assert_eq!(state.next(5), Some((Extent::Delta { base: 5, das: BTreeSet::new() }, das())));
    state.sent(&Extent::Delta { base: 5, das: BTreeSet::new() }, 5, BTreeSet::new());
    assert_eq!(state.next(5), None);
    state.failed();
    assert_eq!(state.next(5), Some((Extent::Full, das())));
}

#[test]
fn a_generation_is_told_with_what_it_stands_for() {
    let mut state = accepted(5);
    assert_eq!(state.next(6), None, "the change itself has not reached us yet");
    state.note(&Mail { node: true, ..Mail::default() });
    assert_eq!(state.next(6).unwrap().0, Extent::Delta { base: 5, das: BTreeSet::new() });
    let mut state = accepted(5);
    state.note(&Mail { resync: true, ..Mail::default() });
    assert_eq!(state.next(6).unwrap().0, Extent::Full, "somebody asked to sync the node");
}

#[test]
fn held_deletions_are_looked_at_again_when_something_happened() {
    let mut state = SyncState::default();
    state.sent(&Extent::Full, 5, das());
    state.answered(&reply(Outcome::Accepted, 5));
    assert_eq!(state.next(5), None);
    state.note(&Mail { held: true, ..Mail::default() });
    assert_eq!(state.next(5).unwrap().0, Extent::Delta { base: 5, das: das() });
    state.skipped(das());
    assert_eq!(state.next(5), None, "still to wait");
    state.note(&Mail { held: true, ..Mail::default() });
    assert!(state.next(5).is_some());
}

#[test]
fn another_nodes_agent_is_named() {
    let mut state = SyncState::default();
    state.sent(&Extent::Full, 5, BTreeSet::new());
    assert_eq!(state.answered(&reply(Outcome::WrongNode, 0)), Verdict::WrongNode("other".into()));
}
