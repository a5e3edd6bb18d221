//! The planner over a small family: disks, stores on them, exports of stores.

use std::fmt;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Id {
    Disk(u8),
    Store(u8),
    Export(u8, u8),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Action {
    Make(Id, u8),
    Change(Id, u8),
    Take(Id),
}

#[derive(Debug, Clone, PartialEq)]
struct Toy;

/// A spec is a shade; an odd one (not of a store) cannot be changed in place, 99 is refused.
impl Domain for Toy {
    type Id = Id;
    type Spec = u8;
    type State = u8;
    type Action = Action;

    fn judge(id: &Id, spec: &u8, actual: &Actual<Self>) -> Verdict<Self> {
        match actual.known(id) {
            _ if *spec == 99 => Verdict::Refuse(Refusal { op: "make", message: "99".into() }),
            None => Verdict::Create {
                actions: vec![Action::Make(*id, *spec)],
                destructive: matches!(id, Id::Store(_)),
            },
            Some(state) if state == spec => Verdict::Fine,
            Some(state) if state % 2 == 1 && !matches!(id, Id::Store(_)) => Verdict::Remove,
            Some(_) => Verdict::Update(vec![Action::Change(*id, *spec)]),
        }
    }

    fn remove(id: &Id, _state: &u8, erase: bool, _actual: &Actual<Self>) -> Removal<Self> {
        match id {
            // A store outlives its export and goes with its disk, unless it is to be erased.
            Id::Store(_) if !erase => Removal::WithBase,
            _ => Removal::Steps { actions: vec![Action::Take(*id)], destructive: erase },
        }
    }
}

fn base(id: Id) -> Option<Id> {
    match id {
        Id::Disk(_) => None,
        Id::Store(n) => Some(Id::Disk(n)),
        Id::Export(n, _) => Some(Id::Store(n)),
    }
}

/// What is there; every call has its preconditions.
#[derive(Debug, Clone, Default, PartialEq)]
struct World(BTreeMap<Id, u8>);

impl World {
    fn actual(&self, ids: &BTreeSet<Id>) -> Actual<Toy> {
        let mut actual = Actual::default();
        for id in ids.iter().chain(self.0.keys()) {
            let state = self.0.get(id).map_or(Observed::Absent, |shade| Observed::Known(*shade));
            actual.saw(*id, state, base(*id));
        }
        actual
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::Make(id, shade) => {
                assert!(base(*id).is_none_or(|b| self.0.contains_key(&b)), "{id} without its base");
                assert!(self.0.insert(*id, *shade).is_none(), "{id} is there already");
            }
            Action::Change(id, shade) => assert!(self.0.insert(*id, *shade).is_some(), "{id} is not there"),
            Action::Take(id) => {
                assert!(self.0.remove(id).is_some(), "{id} is not there");
                // A store goes with its disk; nothing else may be left on anything.
                if let Id::Disk(n) = id {
                    self.0.remove(&Id::Store(*n));
                }
                assert!(
                    !self.0.keys().any(|other| base(*other) == Some(*id)),
                    "{id} is taken from under something"
                );
            }
        }
    }
}

fn desired(ids: &BTreeMap<Id, u8>) -> Desired<Toy> {
    let mut desired = Desired::default();
    for (id, shade) in ids {
        desired.want(*id, *shade, base(*id));
    }
    desired
}

fn closed(ids: BTreeMap<Id, u8>) -> BTreeMap<Id, u8> {
    // Whatever is there has its base there.
    let has = |id: &Id| {
        base(*id).is_none_or(|b| ids.contains_key(&b) && base(b).is_none_or(|bb| ids.contains_key(&bb)))
    };
    ids.iter().filter(|(id, _)| has(id)).map(|(id, shade)| (*id, *shade)).collect()
}

fn set() -> impl Strategy<Value = BTreeMap<Id, u8>> {
    let id = prop_oneof![
        (0..4_u8).prop_map(Id::Disk),
        (0..4_u8).prop_map(Id::Store),
        (0..4_u8, 0..3_u8).prop_map(|(n, m)| Id::Export(n, m))
    ];
    prop::collection::btree_map(id, 0..6_u8, 0..16)
}

proptest! {
    /// From any state, with a crash after any call, it converges in few waves; then there is nothing to do.
    #[test]
    fn converges(there in set().prop_map(closed), wanted in set().prop_map(closed), crash in 0..12_usize) {
        let mut world = World(there);
        let mut desired = desired(&wanted);
        desired.erase = world.0.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        let mut budget = crash;
        for wave in 0.. {
            prop_assert!(wave < 12, "too many waves: {:?}", world);
            let plan = plan(&desired, &world.actual(&desired.ids()));
            if plan.steps.is_empty() {
                prop_assert!(plan.settled(), "{:?}", plan);
                break;
            }
            for action in plan.steps.iter().flat_map(|s| &s.actions) {
                if budget == 1 {
                    budget = 0;
                    break;
                }
                budget = budget.saturating_sub(1);
                world.apply(action);
            }
        }
        prop_assert_eq!(&world.0, &wanted);
    }

    /// What could not be looked at stays as it is, and so does everything on it and under it.
    #[test]
    fn unknown_is_not_absent(there in set().prop_map(closed), wanted in set().prop_map(closed), hidden in any::<prop::sample::Index>()) {
        let world = World(there);
        let desired = desired(&wanted);
        let mut actual = world.actual(&desired.ids());
        prop_assume!(!actual.seen.is_empty());
        let ids: Vec<Id> = actual.seen.keys().copied().collect();
        let hidden = ids[hidden.index(ids.len())];
        actual.seen.get_mut(&hidden).unwrap().state = Observed::Unknown;
        let plan = plan(&desired, &actual);
        for step in &plan.steps {
            prop_assert_ne!(step.id, hidden);
            let on_hidden = base(step.id) == Some(hidden);
            prop_assert!(!on_hidden || step.why != Why::Create, "{step:?} on {hidden}");
            prop_assert!(base(hidden) != Some(step.id) || step.why != Why::Remove, "{step:?} under {hidden}");
        }
    }

    /// Contents are given up only on order.
    #[test]
    fn nothing_is_erased_unasked(there in set().prop_map(closed), wanted in set().prop_map(closed)) {
        let world = World(there);
        let desired = desired(&wanted);
        let plan = plan(&desired, &world.actual(&desired.ids()));
        for step in plan.steps.iter().filter(|s| s.destructive) {
            prop_assert_eq!(step.why, Why::Create);
        }
    }
}

#[test]
fn what_is_on_a_thing_that_goes_with_its_base_goes_first() {
    let world = World(BTreeMap::from([(Id::Disk(0), 0), (Id::Store(0), 0), (Id::Export(0, 0), 0)]));
    let none = Desired::default();
    let plan = plan(&none, &world.actual(&BTreeSet::new()));
    assert_eq!(plan.steps.iter().map(|s| s.id).collect::<Vec<_>>(), [Id::Export(0, 0)]);
    assert_eq!(plan.leaving.len(), 3);
}

#[test]
fn the_root_blocker_is_named_and_other_chains_go_on() {
    let wanted = [(Id::Disk(0), 99), (Id::Store(0), 0), (Id::Export(0, 0), 0), (Id::Disk(1), 0)];
    let desired = desired(&BTreeMap::from(wanted));
    let plan = plan(&desired, &World::default().actual(&desired.ids()));
    assert_eq!(plan.root_blocker(&Id::Export(0, 0)), Some(&Blocker::On(Id::Disk(0))));
    assert!(plan.refused.contains_key(&Id::Disk(0)));
    assert_eq!(plan.steps.iter().map(|s| s.id).collect::<Vec<_>>(), [Id::Disk(1)]);
}

#[test]
fn of_other_components_nothing_is_changed() {
    let mut desired = Desired::<Toy>::default();
    desired.context.insert(Id::Disk(0));
    desired.want(Id::Store(0), 0, [Id::Disk(0)]);
    let world = World(BTreeMap::from([(Id::Disk(0), 4)]));
    let plan = plan(&desired, &world.actual(&desired.ids()));
    assert_eq!(plan.steps.iter().map(|s| s.id).collect::<Vec<_>>(), [Id::Store(0)]);
}
