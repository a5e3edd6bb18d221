//! The vocabulary of the planner: resources, what is wanted of them, what is seen of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};

/// What is known about one thing. Unknown is not absent: nothing that depends on an unknown thing is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed<T> {
    /// Looked for, and not there.
    Absent,
    /// There, like this.
    Known(T),
    /// Could not be looked at.
    Unknown,
}

impl<T> Observed<T> {
    /// What it is like, if known.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(state) => Some(state),
            Self::Absent | Self::Unknown => None,
        }
    }

    /// Applies `f` to what is known.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Observed<U> {
        match self {
            Self::Absent => Observed::Absent,
            Self::Known(state) => Observed::Known(f(state)),
            Self::Unknown => Observed::Unknown,
        }
    }
}

/// A family of resources and the rules of each kind. All functions are pure.
pub trait Domain: Debug + Clone + PartialEq + Send + Sync + 'static {
    /// Names one resource of this node.
    type Id: Ord + Clone + Debug + Display + Send + Sync + 'static;
    /// What one resource should be.
    type Spec: Debug + Clone + PartialEq + Send + Sync + 'static;
    /// What one resource is.
    type State: Debug + Clone + PartialEq + Send + Sync + 'static;
    /// One call to the data plane.
    type Action: Debug + Clone + PartialEq + Send + Sync + 'static;

    /// What a wanted resource asks for. `id` is seen as absent with all its needs usable, or as known.
    fn judge(id: &Self::Id, spec: &Self::Spec, actual: &Actual<Self>) -> Verdict<Self>;

    /// How a resource that must go is taken away. With `erase` its contents are given up, without it they must survive.
    fn remove(id: &Self::Id, state: &Self::State, erase: bool, actual: &Actual<Self>) -> Removal<Self>;

    /// Whether others may be built on it.
    fn usable(_id: &Self::Id, _state: &Self::State) -> bool {
        true
    }

    /// Whether it must go because what it sits on must; by default as soon as one of its bases must.
    fn falls(_id: &Self::Id, sits_on: &BTreeSet<Self::Id>, doomed: &BTreeSet<Self::Id>) -> bool {
        sits_on.iter().any(|base| doomed.contains(base))
    }
}

/// What the planner should do about a wanted resource.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict<D: Domain> {
    /// It is as wanted.
    Fine,
    /// It is absent and can be made. `destructive`: whatever was on its medium is lost.
    Create { actions: Vec<D::Action>, destructive: bool },
    /// It is there and can be changed in place.
    Update(Vec<D::Action>),
    /// It must go (perhaps to be made again).
    Remove,
    /// Nothing can be done until something outside of this component happens, in words a user knows.
    Wait(String),
    /// It cannot be made without harm, or not at all.
    Refuse(Refusal),
}

/// Why something will not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The call or step that would have been next.
    pub op: &'static str,
    /// In words for a person.
    pub message: String,
}

/// How something goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Removal<D: Domain> {
    /// By these calls. `destructive`: its contents are lost.
    Steps { actions: Vec<D::Action>, destructive: bool },
    /// Together with what it sits on: it neither needs a call nor keeps its base.
    WithBase,
    /// Not before something else happens.
    Wait(String),
}

/// A wanted resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Want<D: Domain> {
    pub spec: D::Spec,
    /// What must be usable before it is made.
    pub needs: BTreeSet<D::Id>,
}

/// What is wanted of one component.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired<D: Domain> {
    pub wants: BTreeMap<D::Id, Want<D>>,
    /// Looked at because something here needs it, but of another component: never changed.
    pub context: BTreeSet<D::Id>,
    /// To be removed with their contents. What is neither wanted nor listed here is removed so that its contents survive.
    pub erase: BTreeSet<D::Id>,
}

impl<D: Domain> Default for Desired<D> {
    fn default() -> Self {
        Self { wants: BTreeMap::new(), context: BTreeSet::new(), erase: BTreeSet::new() }
    }
}

impl<D: Domain> Desired<D> {
    /// Adds a wanted resource.
    pub fn want(&mut self, id: D::Id, spec: D::Spec, needs: impl IntoIterator<Item = D::Id>) {
        self.wants.insert(id, Want { spec, needs: needs.into_iter().collect() });
    }

    /// Everything that has to be observed to plan for this.
    pub fn ids(&self) -> BTreeSet<D::Id> {
        self.wants.keys().chain(&self.context).chain(&self.erase).cloned().collect()
    }

    /// What belongs to the component: all but the context.
    pub fn own_ids(&self) -> BTreeSet<D::Id> {
        self.wants.keys().chain(&self.erase).cloned().collect()
    }
}

/// What was seen of one resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen<D: Domain> {
    pub state: Observed<D::State>,
    /// What it is built on, as far as that shows or follows from its name.
    pub sits_on: BTreeSet<D::Id>,
}

/// What was seen of a component.
#[derive(Debug, Clone, PartialEq)]
pub struct Actual<D: Domain> {
    pub seen: BTreeMap<D::Id, Seen<D>>,
}

impl<D: Domain> Default for Actual<D> {
    fn default() -> Self {
        Self { seen: BTreeMap::new() }
    }
}

impl<D: Domain> Actual<D> {
    /// Adds an observation.
    pub fn saw(&mut self, id: D::Id, state: Observed<D::State>, sits_on: impl IntoIterator<Item = D::Id>) {
        self.seen.insert(id, Seen { state, sits_on: sits_on.into_iter().collect() });
    }

    /// The state of `id`. What was not looked at is unknown.
    pub fn state(&self, id: &D::Id) -> &Observed<D::State> {
        self.seen.get(id).map_or(&Observed::Unknown, |seen| &seen.state)
    }

    /// The state of `id`, if known.
    pub fn known(&self, id: &D::Id) -> Option<&D::State> {
        self.state(id).known()
    }

    /// Whether `id` is there and can be built on.
    pub fn usable(&self, id: &D::Id) -> bool {
        self.known(id).is_some_and(|state| D::usable(id, state))
    }

    /// Whether `id` was looked for and is not there.
    pub fn absent(&self, id: &D::Id) -> bool {
        matches!(self.state(id), Observed::Absent)
    }

    /// Nothing could be looked at.
    pub fn unknown(ids: &BTreeSet<D::Id>) -> Self {
        let unknown = || Seen { state: Observed::Unknown, sits_on: BTreeSet::new() };
        Self { seen: ids.iter().map(|id| (id.clone(), unknown())).collect() }
    }
}
