//! The boots of disk nodes in etcd (ADR 0091).

use vda_model::ids::{BootId, DnId};
use vda_model::keys::DnBootKey;
use vda_proto::SCHEMA_VERSION;
use vda_proto::v1::{BootRecord, DnStatus};
use vda_store::{KvError, Snapshot, Tx};

/// Writes it when it changes, and only then: its revision is that of the names of the node's mirrored VDs.
pub(crate) async fn record(tx: &Tx, dn: DnId, boot: BootId) -> Result<(), KvError> {
    let stored = tx.get(&DnBootKey(dn)).await?.map(|stored| stored.value.boot);
    if stored.as_deref() != Some(&boot.to_string()) {
        let record = BootRecord { schema_version: SCHEMA_VERSION, dn_id: dn.into(), boot: boot.into() };
        tx.put(&DnBootKey(dn), &record);
    }
    Ok(())
}

/// Whether etcd names another boot of a DN than its agent does: a monitor that was late has recorded what was true before.
pub(crate) fn differs(snapshot: &Snapshot, dn: DnId, reported: &DnStatus) -> bool {
    let stored = snapshot.get(&DnBootKey(dn)).ok().flatten();
    reported.boot.parse::<BootId>().is_ok() && stored.is_none_or(|stored| stored.value.boot != reported.boot)
}

#[cfg(test)]
#[path = "boot_tests.rs"]
mod tests;
