//! The cluster at a glance.

use std::collections::BTreeMap;

use tonic::Status;
use vda_model::{ids::DnId, keys::*, view};
use vda_proto::v1::{self, Condition};

use crate::{page::Page, pd, server::Portal, status};

/// Lines of problems shown.
const MAX_PROBLEMS: usize = 20;
/// DAs read at once.
const PAGE: usize = 500;

struct Summary {
    reply: v1::ClusterSummary,
}

impl Summary {
    fn problem(&mut self, line: impl FnOnce() -> String) {
        if self.reply.problems.len() < MAX_PROBLEMS {
            self.reply.problems.push(line());
        }
    }

    /// Counts one node or PD.
    fn count(
        &mut self,
        name: &str,
        nodes: fn(&mut v1::ClusterSummary) -> &mut Option<v1::cluster_summary::Nodes>,
        offline: bool,
        status: &v1::ResourceStatus,
    ) {
        let counted = nodes(&mut self.reply).get_or_insert_default();
        counted.total += 1;
        counted.offline += u32::from(offline);
        match status.condition() {
            Condition::Ready => counted.ready += 1,
            Condition::Deleting => {
                self.reply.deleting += 1;
                nodes(&mut self.reply).get_or_insert_default().not_ready += 1;
            }
            _ => {
                counted.not_ready += 1;
                let words = view::words(status);
                self.problem(|| if words.starts_with(name) { words } else { format!("{name}: {words}") });
            }
        }
    }
}

impl Portal {
    pub(crate) async fn summary(&self) -> Result<v1::ClusterSummary, Status> {
        // Also tells whether etcd answers: the rest is from the copy the watch keeps.
        let tombstones = self.store.list_all(Scope::DaTombstones, 0).await.map_err(|e| status::store(&e))?;
        let nodes = Some(v1::cluster_summary::Nodes::default());
        let reply = v1::ClusterSummary {
            dns: nodes,
            pds: nodes,
            cns: nodes,
            deleting: u32::try_from(tombstones.entries.len()).unwrap_or(u32::MAX),
            ..v1::ClusterSummary::default()
        };
        let mut summary = Summary { reply };
        self.summarise_nodes(&mut summary);
        self.summarise_das(&mut summary).await?;
        Ok(summary.reply)
    }

    fn summarise_nodes(&self, summary: &mut Summary) {
        let mut dns: BTreeMap<DnId, v1::Dn> = BTreeMap::new();
        let mut pds = Vec::new();
        self.cluster.cache.read(|snapshot| {
            summary.reply.monitors = u32::try_from(snapshot.monitors().len()).unwrap_or(u32::MAX);
            for (key, raw) in snapshot.iter() {
                match key {
                    AnyKey::DnSpec(dn) => {
                        let Ok(spec) = raw.decode::<DnSpecKey>(key) else { continue };
                        let observed = snapshot.get(&DnStatusKey(*dn)).ok().flatten().map(|s| s.value);
                        let books = snapshot.get(&DnCapacityKey(*dn)).ok().flatten().map(|b| b.value.pds);
                        let status = view::dn(&spec.value, observed.as_ref());
                        summary.count(
                            &format!("DN {}", spec.value.address),
                            |r| &mut r.dns,
                            spec.value.offline,
                            &status,
                        );
                        let pds = books.unwrap_or_default();
                        dns.insert(
                            *dn,
                            v1::Dn {
                                spec: Some(spec.value),
                                revision: 0,
                                status: Some(status),
                                observed,
                                pds,
                            },
                        );
                    }
                    AnyKey::CnSpec(cn) => {
                        let Ok(spec) = raw.decode::<CnSpecKey>(key) else { continue };
                        let observed = snapshot.get(&CnStatusKey(*cn)).ok().flatten().map(|s| s.value);
                        let status = view::cn(&spec.value, observed.as_ref());
                        summary.count(
                            &format!("CN {}", spec.value.address),
                            |r| &mut r.cns,
                            spec.value.offline,
                            &status,
                        );
                    }
                    AnyKey::PdSpec(dn, _) => {
                        if let Ok(spec) = raw.decode::<PdSpecKey>(key) {
                            pds.push((*dn, spec));
                        }
                    }
                    _ => {}
                }
            }
        });
        for (dn, spec) in pds {
            let Some(dn) = dns.get(&dn) else { continue };
            let pd = pd::reply(dn, spec.value, spec.revision);
            let name = format!("PD {}/{}", pd.dn_address, pd.spec.as_ref().map_or("", |s| &s.pd_name));
            let offline = pd.spec.as_ref().is_some_and(|s| s.offline);
            summary.count(&name, |r| &mut r.pds, offline, &pd.status.unwrap_or_default());
            let books = pd.capacity.unwrap_or_default();
            summary.reply.total_bytes += books.total_bytes;
            summary.reply.used_bytes += books.used_bytes;
        }
    }

    async fn summarise_das(&self, summary: &mut Summary) -> Result<(), Status> {
        let mut statuses: BTreeMap<String, v1::ResourceStatus> = BTreeMap::new();
        let listing = self.store.list_all(Scope::CnStatuses, 0).await.map_err(|e| status::store(&e))?;
        for (key, raw) in &listing.entries {
            if let (AnyKey::CntlrStatus(_, da), Ok(observed)) = (key, raw.decode::<CntlrStatusKey>(key)) {
                statuses.insert(da.to_string(), observed.value.status.unwrap_or_default());
            }
        }
        let mut page = Page { size: PAGE, after: String::new() };
        loop {
            let (records, more) = self.da_page(&page).await?;
            for record in records {
                summary.reply.das += 1;
                summary.reply.exps += u32::try_from(record.value.exps.len()).unwrap_or(u32::MAX);
                let status = statuses.get(&record.value.da_id).cloned().unwrap_or_default();
                if status.condition() != Condition::Ready {
                    summary.problem(|| format!("DA {}: {}", record.value.da_name, view::words(&status)));
                }
            }
            match more {
                Some(last) => page.after = last,
                None => return Ok(()),
            }
        }
    }
}
