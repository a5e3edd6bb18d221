//! All records of a cluster at one revision.

use std::collections::BTreeMap;

use prost::Message;
use vda_proto::{SCHEMA_VERSION, v1};

use crate::{
    delta::{Delta, Node, Versioned},
    keys::{AnyKey, CnGenKey, CnNameKey, CnSpecKey, DnGenKey, DnNameKey, DnSpecKey, Key, Prefix, Sink},
};

/// Records by key, each with the revision of its last change. Also a `Sink`: a store in memory for tests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    records: BTreeMap<AnyKey, Versioned<Vec<u8>>>,
    /// Keys below the prefix that mean nothing.
    foreign: Vec<String>,
    revision: u64,
}

impl Snapshot {
    /// Adds one key as read from etcd.
    pub fn insert(&mut self, prefix: &Prefix, path: &str, value: Vec<u8>, mod_revision: u64) {
        self.revision = self.revision.max(mod_revision);
        match AnyKey::parse(prefix, path) {
            Some(key) => _ = self.records.insert(key, Versioned::new(value, mod_revision)),
            None => self.foreign.push(path.to_owned()),
        }
    }

    /// The highest revision of any record.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Keys below the prefix that are not ours.
    pub fn foreign(&self) -> &[String] {
        &self.foreign
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &AnyKey> {
        self.records.keys()
    }

    /// The record at `key`; `None` if there is none, or its bytes are not of its type.
    pub fn get<K: Key>(&self, key: &K) -> Option<Versioned<K::Value>> {
        let record = self.records.get(&key.any())?;
        Some(Versioned::new(K::Value::decode(record.value.as_slice()).ok()?, record.revision))
    }

    /// All records of one type.
    pub fn all<K: Key + TryFrom<AnyKey>>(&self) -> impl Iterator<Item = (K, Versioned<K::Value>)> {
        self.records.iter().filter_map(|(key, record)| {
            let key = K::try_from(key.clone()).ok()?;
            let value = K::Value::decode(record.value.as_slice()).ok()?;
            Some((key, Versioned::new(value, record.revision)))
        })
    }

    /// Keys whose bytes are not of their type.
    pub fn undecodable(&self) -> Vec<&AnyKey> {
        self.records.iter().filter(|(key, record)| !decodes(key, &record.value)).map(|(key, _)| key).collect()
    }

    /// Applies a transition as `vda-store` would in one transaction, with generations and name indexes, and returns its revision.
    pub fn commit(&mut self, delta: &Delta) -> u64 {
        self.revision += 1;
        delta.apply(self);
        for node in delta.nodes() {
            match node {
                Node::Dn(dn) if self.get(&DnSpecKey(dn)).is_none() => self.delete(&DnGenKey(dn)),
                Node::Dn(dn) => self.put(&DnGenKey(dn), &()),
                Node::Cn(cn) if self.get(&CnSpecKey(cn)).is_none() => self.delete(&CnGenKey(cn)),
                Node::Cn(cn) => self.put(&CnGenKey(cn), &()),
            }
        }
        self.revision
    }
}

/// Keeps the name indexes as `vda-store` does.
impl Sink for Snapshot {
    fn put<K: Key>(&mut self, key: &K, value: &K::Value) {
        let bytes = value.encode_to_vec();
        let revision = self.revision;
        let index = |id: String| v1::NameIndex { schema_version: SCHEMA_VERSION, id };
        match key.any() {
            AnyKey::DnSpec(id) => {
                if let Ok(spec) = v1::DnSpec::decode(bytes.as_slice()) {
                    self.put(&DnNameKey(spec.address), &index(id.to_string()));
                }
            }
            AnyKey::CnSpec(id) => {
                if let Ok(spec) = v1::CnSpec::decode(bytes.as_slice()) {
                    self.put(&CnNameKey(spec.address), &index(id.to_string()));
                }
            }
            _ => {}
        }
        self.records.insert(key.any(), Versioned::new(bytes, revision));
    }

    fn delete<K: Key>(&mut self, key: &K) {
        match key.any() {
            AnyKey::DnSpec(id) => {
                if let Some(old) = self.get(&DnSpecKey(id)) {
                    self.delete(&DnNameKey(old.value.address));
                }
            }
            AnyKey::CnSpec(id) => {
                if let Some(old) = self.get(&CnSpecKey(id)) {
                    self.delete(&CnNameKey(old.value.address));
                }
            }
            _ => {}
        }
        self.records.remove(&key.any());
    }
}

fn decodes(key: &AnyKey, bytes: &[u8]) -> bool {
    fn as_type<M: Message + Default>(bytes: &[u8]) -> bool {
        M::decode(bytes).is_ok()
    }
    match key {
        AnyKey::DnSpec(_) => as_type::<v1::DnSpec>(bytes),
        AnyKey::DnGen(_) | AnyKey::CnGen(_) => as_type::<()>(bytes),
        AnyKey::DnCapacity(_) => as_type::<v1::DnCapacity>(bytes),
        AnyKey::PdSpec(..) => as_type::<v1::PdSpec>(bytes),
        AnyKey::DnShare(..) => as_type::<v1::DnShare>(bytes),
        AnyKey::CnSpec(_) => as_type::<v1::CnSpec>(bytes),
        AnyKey::CnCapacity(_) => as_type::<v1::CnCapacity>(bytes),
        AnyKey::CntlrSpec(..) => as_type::<v1::CntlrSpec>(bytes),
        AnyKey::ExpSpec(..) => as_type::<v1::ExpSpec>(bytes),
        AnyKey::LegState(..) => as_type::<v1::LegState>(bytes),
        AnyKey::Da(_) => as_type::<v1::DaRecord>(bytes),
        AnyKey::DaTombstone(_) => as_type::<v1::DaTombstone>(bytes),
        AnyKey::DnName(_) | AnyKey::CnName(_) => as_type::<v1::NameIndex>(bytes),
        AnyKey::DnStatus(_) => as_type::<v1::DnStatus>(bytes),
        AnyKey::DnBoot(_) => as_type::<v1::BootRecord>(bytes),
        AnyKey::ShareStatus(..) => as_type::<v1::ShareStatus>(bytes),
        AnyKey::CnStatus(_) => as_type::<v1::CnStatus>(bytes),
        AnyKey::CntlrStatus(..) => as_type::<v1::CntlrStatus>(bytes),
        AnyKey::Request(_) => as_type::<v1::RequestRecord>(bytes),
        AnyKey::Monitor(_) => as_type::<v1::MemberRecord>(bytes),
    }
}
