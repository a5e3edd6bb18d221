//! Writes that follow from other writes, so that no caller can forget them:
//! - the generation of a node, from any change of its desired state;
//! - `name/dn/{address}` and `name/cn/{address}`, from the old and the new `DnSpec` / `CnSpec`.

use std::collections::{BTreeMap, BTreeSet};

use vda_model::delta::{Node, node_of};
use vda_model::keys::{AnyKey, CnGenKey, CnNameKey, CnSpecKey, DnGenKey, DnNameKey, DnSpecKey, Key};
use vda_proto::v1::{CnSpec, DnSpec, NameIndex};

use crate::store::decode;
use crate::{KvError, Tx};

pub(crate) async fn derive(tx: &Tx) -> Result<(), KvError> {
    let written = tx.written();
    let nodes: BTreeSet<Node> = written.iter().filter_map(node_of).collect();
    for node in nodes {
        derive_generation(tx, node);
    }
    let mut dns = BTreeMap::new();
    let mut cns = BTreeMap::new();
    for key in &written {
        match key {
            AnyKey::DnSpec(dn) => {
                let old = tx.before(&DnSpecKey(*dn), true).await?;
                let new = new_record::<DnSpec>(tx, key)?;
                note_names(&mut dns, old.map(|r| (r.address, r.dn_id)), new.map(|r| (r.address, r.dn_id)));
            }
            AnyKey::CnSpec(cn) => {
                let old = tx.before(&CnSpecKey(*cn), true).await?;
                let new = new_record::<CnSpec>(tx, key)?;
                note_names(&mut cns, old.map(|r| (r.address, r.cn_id)), new.map(|r| (r.address, r.cn_id)));
            }
            _ => {}
        }
    }
    write_names(tx, dns, DnNameKey).await?;
    write_names(tx, cns, CnNameKey).await
}

/// A node that is removed takes its generation with it.
fn derive_generation(tx: &Tx, node: Node) {
    match node {
        Node::Dn(dn) if tx.own_write(&AnyKey::DnSpec(dn)) == Some(None) => tx.delete(&DnGenKey(dn)),
        Node::Dn(dn) => tx.touch_dn(dn),
        Node::Cn(cn) if tx.own_write(&AnyKey::CnSpec(cn)) == Some(None) => tx.delete(&CnGenKey(cn)),
        Node::Cn(cn) => tx.touch_cn(cn),
    }
}

fn new_record<V: prost::Message + Default>(tx: &Tx, key: &AnyKey) -> Result<Option<V>, KvError> {
    let bytes = tx.own_write(key).flatten();
    let decoded = bytes.map(|bytes| decode::<V>(&bytes)).transpose();
    decoded.map_err(|detail| KvError::Corrupt { key: key.to_string(), detail })
}

/// For each address that may change hands: the id that is to hold it afterwards, and the one that held it before.
type Names = BTreeMap<String, (Option<String>, Option<String>)>;

fn note_names(names: &mut Names, old: Option<(String, String)>, new: Option<(String, String)>) {
    if old == new {
        return;
    }
    if let Some((address, id)) = old {
        names.entry(address).or_default().1 = Some(id);
    }
    if let Some((address, id)) = new {
        names.entry(address).or_default().0 = Some(id);
    }
}

async fn write_names<K>(tx: &Tx, names: Names, key_of: impl Fn(String) -> K) -> Result<(), KvError>
where
    K: Key<Value = NameIndex>,
{
    for (address, (after, before)) in names {
        let key = key_of(address);
        // What is there now, whoever wrote it: the entry of a name is never taken from another record.
        let holder = tx.before(&key, before.is_none()).await?.map(|entry| entry.id);
        if let Some(holder) = holder
            && Some(&holder) != before.as_ref()
            && Some(&holder) != after.as_ref()
        {
            return Err(KvError::IndexTaken { key: key.any().to_string(), holder });
        }
        match after {
            Some(id) => tx.put(&key, &NameIndex { schema_version: vda_proto::SCHEMA_VERSION, id }),
            None => tx.delete(&key),
        }
    }
    Ok(())
}
