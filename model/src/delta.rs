//! What a transition wants changed.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ids::{CnId, DnId},
    keys::{AnyKey, Key, Sink, Write},
};

/// A record with the revision of its last change (etcd's `mod_revision`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Versioned<T> {
    pub value: T,
    pub revision: u64,
}

impl<T> Versioned<T> {
    /// `value` as of `revision`.
    pub const fn new(value: T, revision: u64) -> Self {
        Self { value, revision }
    }

    /// The same with a borrowed value.
    pub const fn as_ref(&self) -> Versioned<&T> {
        Versioned { value: &self.value, revision: self.revision }
    }
}

/// Writes that belong into one transaction; at most one for each key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    writes: BTreeMap<AnyKey, Write>,
}

impl Delta {
    /// Stores `value` at `key`.
    pub fn put<K: Key>(&mut self, key: K, value: K::Value)
    where
        Write: From<(K, Option<K::Value>)>,
    {
        self.writes.insert(key.any(), (key, Some(value)).into());
    }

    /// Removes `key`.
    pub fn delete<K: Key>(&mut self, key: K)
    where
        Write: From<(K, Option<K::Value>)>,
    {
        self.writes.insert(key.any(), (key, None).into());
    }

    /// The writes, in the order of their keys.
    pub fn writes(&self) -> impl Iterator<Item = &Write> {
        self.writes.values()
    }

    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Nodes whose desired state changes; the store gives each a new generation.
    pub fn nodes(&self) -> BTreeSet<Node> {
        self.writes.keys().filter_map(node_of).collect()
    }

    /// Operations this costs in a transaction, with those the store derives: generations and name indexes.
    pub fn ops(&self) -> usize {
        let indexed = |w: &&Write| matches!(w, Write::DnSpec(..) | Write::CnSpec(..));
        self.writes.len() + self.nodes().len() + self.writes.values().filter(indexed).count()
    }

    /// Hands every write to `sink`.
    pub fn apply<S: Sink + ?Sized>(&self, sink: &mut S) {
        for write in self.writes.values() {
            write.apply(sink);
        }
    }
}

/// A node of either kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    Dn(DnId),
    Cn(CnId),
}

/// The node whose agent must be told when `key` changes. The books of a node are not told to its agent.
pub const fn node_of(key: &AnyKey) -> Option<Node> {
    match key {
        AnyKey::DnSpec(dn) | AnyKey::PdSpec(dn, _) | AnyKey::DnShare(dn, _) => Some(Node::Dn(*dn)),
        AnyKey::CnSpec(cn) | AnyKey::CntlrSpec(cn, _) | AnyKey::ExpSpec(cn, _, _) => Some(Node::Cn(*cn)),
        _ => None,
    }
}
