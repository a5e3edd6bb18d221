//! Exports: an NVMe subsystem with one namespace, exactly the allowed hosts and one listener.

use std::collections::BTreeSet;
use std::time::Duration;

use vda_spdk::{
    AnaState, ListenAddress, NamespaceParams, NsAnaState, NvmfCreateSubsystem, NvmfDeleteSubsystem,
    NvmfNamespace, NvmfSubsystem, NvmfSubsystemAddHost, NvmfSubsystemAddListener, NvmfSubsystemAddNs,
    NvmfSubsystemAllowAnyHost, NvmfSubsystemGetListeners, NvmfSubsystemGetQpairs,
    NvmfSubsystemListenerSetAnaState, NvmfSubsystemRemoveHost, NvmfSubsystemRemoveListener,
    NvmfSubsystemRemoveNs, Rpc, Trid, Uuid,
};

use crate::execute::Fault;
use crate::graph::Observed;

/// How long a forbidden host's connections may still be listed after the data plane said it is gone.
const FENCE_LIMIT: Duration = Duration::from_secs(5);
const FENCE_POLL: Duration = Duration::from_millis(10);

/// What an export should be.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportSpec {
    pub nqn: String,
    pub serial_number: String,
    pub model_number: String,
    /// First and last controller id it may give; `None`: any.
    pub cntlids: Option<(u16, u16)>,
    pub max_namespaces: u32,
    /// With ANA reporting, the state of its listener.
    pub ana: Option<AnaState>,
    /// Exactly these may connect.
    pub hosts: BTreeSet<String>,
    pub listener: ListenAddress,
    pub namespace: NamespaceSpec,
}

/// The one namespace of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceSpec {
    /// Name or alias.
    pub bdev: String,
    pub uuid: Uuid,
    /// 32 hex digits.
    pub nguid: String,
}

/// What an export is.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportState {
    pub subsystem: NvmfSubsystem,
    /// ANA state of each listener; `None`: not looked at.
    pub ana: Option<Vec<(Trid, NsAnaState)>>,
}

impl ExportState {
    /// The one host that may connect, if it is exactly one.
    pub fn only_host(&self) -> Option<&str> {
        match self.subsystem.hosts.as_slice() {
            [host] if !self.subsystem.allow_any_host => Some(&host.nqn),
            _ => None,
        }
    }

    /// The ANA state shown at `listener`.
    pub fn ana_at(&self, listener: &ListenAddress) -> Option<NsAnaState> {
        self.ana.as_ref()?.iter().find(|(trid, _)| listener.is(trid)).map(|(_, state)| *state)
    }
}

/// Calls about an export.
#[derive(Debug, Clone, PartialEq)]
pub enum ExportAction {
    Create(Box<NvmfCreateSubsystem>),
    ForbidAnyHost {
        nqn: String,
    },
    AllowHost {
        nqn: String,
        host: String,
    },
    /// A fence: done only when the host is disconnected and cannot return.
    ForbidHost {
        nqn: String,
        host: String,
    },
    AddNamespace {
        nqn: String,
        namespace: NamespaceSpec,
    },
    RemoveNamespace {
        nqn: String,
        nsid: u32,
    },
    AddListener {
        nqn: String,
        address: ListenAddress,
    },
    RemoveListener {
        nqn: String,
        address: ListenAddress,
    },
    SetAna {
        nqn: String,
        address: ListenAddress,
        ana: AnaState,
    },
    Delete {
        nqn: String,
    },
}

/// What to do about an export.
#[derive(Debug, Clone, PartialEq)]
pub enum ExportVerdict {
    Fine,
    Adjust(Vec<ExportAction>),
    /// It was made with other fixed properties.
    Remake,
}

impl ExportSpec {
    /// What makes it, when it is absent. The listener comes last: nobody connects to something half made.
    pub fn create(&self) -> Vec<ExportAction> {
        let create = NvmfCreateSubsystem {
            serial_number: Some(self.serial_number.clone()),
            model_number: Some(self.model_number.clone()),
            max_namespaces: Some(self.max_namespaces),
            allow_any_host: Some(false),
            ana_reporting: Some(self.ana.is_some()),
            min_cntlid: self.cntlids.map(|(min, _)| min),
            max_cntlid: self.cntlids.map(|(_, max)| max),
            ..NvmfCreateSubsystem::new(self.nqn.clone())
        };
        let mut actions = vec![ExportAction::Create(Box::new(create))];
        actions.extend(self.hosts.iter().map(|host| self.allow(host)));
        actions.push(self.add_namespace());
        actions.extend(self.listen());
        actions
    }

    /// What turns `state` into it. Without the bdev (`bdev` is its name when it is there) only what needs none: above all, hosts that
    /// must not connect any more.
    pub fn adjust(&self, state: &ExportState, bdev: Option<&str>) -> ExportVerdict {
        let found = &state.subsystem;
        if !self.same_make(found) {
            return ExportVerdict::Remake;
        }
        let mut actions = self.adjust_hosts(found);
        actions.extend(self.remove_strange_listeners(found));
        if let Some(bdev) = bdev {
            actions.extend(self.adjust_namespaces(found, bdev));
            actions.extend(self.adjust_listener(state));
        }
        if actions.is_empty() { ExportVerdict::Fine } else { ExportVerdict::Adjust(actions) }
    }

    fn same_make(&self, found: &NvmfSubsystem) -> bool {
        let cntlids = self.cntlids.is_none_or(|(min, max)| {
            found.min_cntlid == Some(u32::from(min)) && found.max_cntlid == Some(u32::from(max))
        });
        found.serial_number.as_deref() == Some(self.serial_number.as_str())
            && found.model_number.as_deref() == Some(self.model_number.as_str())
            && cntlids
    }

    fn allow(&self, host: &str) -> ExportAction {
        ExportAction::AllowHost { nqn: self.nqn.clone(), host: host.to_owned() }
    }

    fn add_namespace(&self) -> ExportAction {
        ExportAction::AddNamespace { nqn: self.nqn.clone(), namespace: self.namespace.clone() }
    }

    fn listen(&self) -> Vec<ExportAction> {
        let add = ExportAction::AddListener { nqn: self.nqn.clone(), address: self.listener.clone() };
        // A new listener shows `optimized`.
        let ana = self.ana.filter(|ana| *ana != AnaState::Optimized).map(|ana| self.set_ana(ana));
        std::iter::once(add).chain(ana).collect()
    }

    fn set_ana(&self, ana: AnaState) -> ExportAction {
        ExportAction::SetAna { nqn: self.nqn.clone(), address: self.listener.clone(), ana }
    }

    /// Hosts that must not connect go before others come: two owners at a time would be one too many.
    fn adjust_hosts(&self, found: &NvmfSubsystem) -> Vec<ExportAction> {
        let there: BTreeSet<&str> = found.hosts.iter().map(|h| h.nqn.as_str()).collect();
        let nqn = || self.nqn.clone();
        let mut actions = Vec::new();
        if found.allow_any_host {
            actions.push(ExportAction::ForbidAnyHost { nqn: nqn() });
        }
        let strangers = there.iter().filter(|h| !self.hosts.contains(**h));
        actions.extend(strangers.map(|h| ExportAction::ForbidHost { nqn: nqn(), host: (*h).to_owned() }));
        actions.extend(self.hosts.iter().filter(|h| !there.contains(h.as_str())).map(|h| self.allow(h)));
        actions
    }

    fn remove_strange_listeners(&self, found: &NvmfSubsystem) -> Vec<ExportAction> {
        let strange = found.listen_addresses.iter().filter(|trid| !self.listener.is(trid));
        let address = |trid: &Trid| ListenAddress {
            trtype: trid.trtype.clone(),
            traddr: trid.traddr.clone().unwrap_or_default(),
            adrfam: trid.adrfam.clone(),
            trsvcid: trid.trsvcid.clone(),
        };
        strange.map(|t| ExportAction::RemoveListener { nqn: self.nqn.clone(), address: address(t) }).collect()
    }

    fn adjust_namespaces(&self, found: &NvmfSubsystem, bdev: &str) -> Vec<ExportAction> {
        let all: &[NvmfNamespace] = found.namespaces.as_deref().unwrap_or_default();
        let right = |ns: &NvmfNamespace| {
            ns.bdev_name == bdev
                && ns.uuid.is_none_or(|uuid| uuid == self.namespace.uuid)
                && ns.nguid.as_deref().is_none_or(|nguid| nguid.eq_ignore_ascii_case(&self.namespace.nguid))
        };
        let wrong = all.iter().filter(|ns| !right(ns));
        let mut actions: Vec<_> =
            wrong.map(|ns| ExportAction::RemoveNamespace { nqn: self.nqn.clone(), nsid: ns.nsid }).collect();
        if !all.iter().any(right) {
            actions.push(self.add_namespace());
        }
        actions
    }

    fn adjust_listener(&self, state: &ExportState) -> Vec<ExportAction> {
        if !state.subsystem.listen_addresses.iter().any(|trid| self.listener.is(trid)) {
            return self.listen();
        }
        let wanted = self.ana.filter(|_| state.ana.is_some());
        wanted
            .filter(|ana| !shows(state.ana_at(&self.listener), *ana))
            .map(|ana| self.set_ana(ana))
            .into_iter()
            .collect()
    }
}

fn shows(found: Option<NsAnaState>, wanted: AnaState) -> bool {
    found.is_some_and(|found| found.as_str() == wanted.as_str())
}

/// Looks at an export; at the ANA states of its listeners only if asked to.
pub async fn observe(rpc: &impl Rpc, nqn: &str, ana: bool) -> Observed<ExportState> {
    let subsystem = match crate::rpc::subsystem(rpc, nqn).await {
        Observed::Known(subsystem) => subsystem,
        Observed::Absent => return Observed::Absent,
        Observed::Unknown => return Observed::Unknown,
    };
    if !ana {
        return Observed::Known(ExportState { subsystem, ana: None });
    }
    match rpc.call(NvmfSubsystemGetListeners::new(nqn)).await {
        Ok(listeners) => {
            let states = listeners.into_iter().filter_map(|l| {
                let state = l.ana_states.as_ref()?.first()?.ana_state;
                Some((l.address, state))
            });
            Observed::Known(ExportState { subsystem, ana: Some(states.collect()) })
        }
        Err(error) if error.is_not_found() => Observed::Absent,
        Err(_) => Observed::Unknown,
    }
}

/// Carries an action out.
///
/// # Errors
/// What the data plane said; a fence that cannot be shown to hold is an error.
pub async fn perform(rpc: &impl Rpc, action: &ExportAction) -> Result<(), Fault> {
    match action.clone() {
        ExportAction::Create(call) => rpc.call(*call).await.map(drop)?,
        ExportAction::ForbidAnyHost { nqn } => {
            rpc.call(NvmfSubsystemAllowAnyHost::new(nqn, false)).await.map(drop)?
        }
        ExportAction::AllowHost { nqn, host } => {
            rpc.call(NvmfSubsystemAddHost::new(nqn, host)).await.map(drop)?
        }
        ExportAction::ForbidHost { nqn, host } => fence(rpc, &nqn, &host).await?,
        ExportAction::AddNamespace { nqn, namespace } => {
            let params = NamespaceParams {
                nsid: Some(1),
                uuid: Some(namespace.uuid),
                nguid: Some(namespace.nguid),
                ..NamespaceParams::new(namespace.bdev)
            };
            rpc.call(NvmfSubsystemAddNs::new(nqn, params)).await.map(drop)?;
        }
        ExportAction::RemoveNamespace { nqn, nsid } => {
            rpc.call(NvmfSubsystemRemoveNs::new(nqn, nsid)).await.map(drop)?
        }
        ExportAction::AddListener { nqn, address } => {
            rpc.call(NvmfSubsystemAddListener::new(nqn, address)).await.map(drop)?;
        }
        ExportAction::RemoveListener { nqn, address } => {
            rpc.call(NvmfSubsystemRemoveListener::new(nqn, address)).await.map(drop)?;
        }
        ExportAction::SetAna { nqn, address, ana } => {
            rpc.call(NvmfSubsystemListenerSetAnaState::new(nqn, address, ana)).await.map(drop)?;
        }
        ExportAction::Delete { nqn } => rpc.call(NvmfDeleteSubsystem::new(nqn)).await.map(drop)?,
    }
    Ok(())
}

/// Forbids a host. Some data planes answer before the connections are gone, so they are looked for.
async fn fence(rpc: &impl Rpc, nqn: &str, host: &str) -> Result<(), Fault> {
    const OP: &str = "nvmf_subsystem_remove_host";
    if !rpc.call(NvmfSubsystemRemoveHost::new(nqn, host)).await? {
        return Err(Fault::refused(OP, format!("host {host} was not removed")));
    }
    let deadline = tokio::time::Instant::now() + FENCE_LIMIT;
    loop {
        let qpairs = rpc.call(NvmfSubsystemGetQpairs::new(nqn)).await?;
        if !qpairs.iter().any(|q| q.hostnqn == host) {
            tracing::info!(nqn, host, "host is fenced off");
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Fault::refused(
                OP,
                format!("host {host} is still connected {FENCE_LIMIT:?} after its removal"),
            ));
        }
        tokio::time::sleep(FENCE_POLL).await;
    }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
