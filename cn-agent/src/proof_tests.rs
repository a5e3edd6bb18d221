use super::*;

/// A raid1 of `slots`, with a rebuild onto `target`.
fn mirror(slots: &[&str], target: Option<&str>) -> MirrorState {
    MirrorState {
        online: true,
        slots: slots.iter().map(|slot| Some((*slot).to_owned())).collect(),
        rebuild: target.map(|target| (target.to_owned(), 50)),
        ..MirrorState::default()
    }
}

/// Looks at it, `ms` after `start`: who is in sync, and who of them was rebuilt.
fn look(proofs: &mut Proofs, start: Instant, ms: u64, mut mirror: MirrorState) -> (Vec<String>, Vec<String>) {
    proofs.judge(&mut mirror, start + Duration::from_millis(ms));
    let members = mirror.slots.iter().flatten();
    (members.filter(|m| mirror.in_sync(m)).cloned().collect(), mirror.rebuilt.iter().cloned().collect())
}

fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

#[test]
fn those_a_raid_is_created_from_have_its_data_at_once() {
    let (mut proofs, t) = (Proofs::default(), Instant::now());
    proofs.created(names(&["a", "b"]));
    assert_eq!(look(&mut proofs, t, 0, mirror(&["a", "b"], None)), (names(&["a", "b"]), vec![]));
}

#[test]
fn a_rebuild_that_does_not_show_yet_proves_nothing() {
    let (mut proofs, t) = (Proofs::default(), Instant::now());
    proofs.created(names(&["a"]));
    proofs.adding("b");
    assert_eq!(look(&mut proofs, t, 0, mirror(&["a", "b"], None)), (names(&["a"]), vec![]));
    assert_eq!(look(&mut proofs, t, 900, mirror(&["a", "b"], Some("b"))).0, names(&["a"]));
    // The time it showed none before does not count.
    assert_eq!(look(&mut proofs, t, 1100, mirror(&["a", "b"], None)).0, names(&["a"]));
    assert_eq!(look(&mut proofs, t, 2000, mirror(&["a", "b"], None)).0, names(&["a"]));
    assert_eq!(look(&mut proofs, t, 2100, mirror(&["a", "b"], None)), (names(&["a", "b"]), names(&["b"])));
}

#[test]
fn a_rebuild_that_failed_proves_nothing_either() {
    let (mut proofs, t) = (Proofs::default(), Instant::now());
    proofs.created(names(&["a"]));
    proofs.adding("b");
    look(&mut proofs, t, 0, mirror(&["a", "b"], Some("b")));
    // It has stopped, and the member is not taken out yet.
    assert_eq!(look(&mut proofs, t, 10, mirror(&["a", "b"], None)).0, names(&["a"]));
    assert_eq!(look(&mut proofs, t, 20, mirror(&["a"], None)).0, names(&["a"]));
    // Added again later, it begins anew.
    proofs.adding("b");
    assert_eq!(look(&mut proofs, t, 5000, mirror(&["a", "b"], None)).0, names(&["a"]));
}

#[test]
fn a_rebuilt_member_whose_source_is_gone_is_still_known_to_be_rebuilt() {
    let (mut proofs, t) = (Proofs::default(), Instant::now());
    proofs.created(names(&["a"]));
    proofs.adding("b");
    look(&mut proofs, t, 0, mirror(&["a", "b"], Some("b")));
    assert_eq!(look(&mut proofs, t, 500, mirror(&["b"], None)).0, names(&[]));
    assert_eq!(look(&mut proofs, t, 1500, mirror(&["b"], None)), (names(&["b"]), names(&["b"])));
}

#[test]
fn what_was_there_before_the_agent_is_taken_as_it_is_unless_it_is_seen_to_be_rebuilt() {
    let (mut proofs, t) = (Proofs::default(), Instant::now());
    assert_eq!(look(&mut proofs, t, 0, mirror(&["a", "b", "c"], Some("c"))).0, names(&["a", "b"]));
    assert_eq!(look(&mut proofs, t, 1, mirror(&["a", "b", "c"], None)).0, names(&["a", "b"]));
    assert_eq!(look(&mut proofs, t, 1500, mirror(&["a", "b", "c"], None)).1, names(&["c"]));
    proofs.forget();
    assert_eq!(look(&mut proofs, t, 1501, mirror(&["a", "c"], None)), (names(&["a", "c"]), vec![]));
}
