//! What the `nvmf_*_get_*` calls show of the target.

use vda_nvme::log::AnaState;
use vda_spdk::{
    AnaGroupState, NsAnaState, NvmfController, NvmfHost, NvmfListener, NvmfNamespace, NvmfPollGroup,
    NvmfQpair, NvmfStats, NvmfSubsystem, QpairState, SubsystemType, Trid,
};

use super::namespace::{Namespace, show_id};
use super::subsystem::Subsystem;
use super::{Target, TargetError, transport};
use crate::bdev::TICK_RATE;

/// The one thread of the target, as SPDK would call it.
const THREAD: &str = "nvmf_tgt_poll_group_000";

/// ANA state of a call.
#[must_use]
pub fn ana_state_from_call(state: vda_spdk::AnaState) -> AnaState {
    match state {
        vda_spdk::AnaState::Optimized => AnaState::Optimized,
        vda_spdk::AnaState::NonOptimized => AnaState::NonOptimized,
        vda_spdk::AnaState::Inaccessible => AnaState::Inaccessible,
    }
}

/// ANA state as shown.
pub(crate) fn show_ana_state(state: AnaState) -> NsAnaState {
    match state {
        AnaState::Optimized => NsAnaState::Optimized,
        AnaState::NonOptimized => NsAnaState::NonOptimized,
        AnaState::Inaccessible => NsAnaState::Inaccessible,
        AnaState::PersistentLoss => NsAnaState::PersistentLoss,
        AnaState::Change => NsAnaState::Change,
    }
}

impl Target {
    /// `nvmf_get_subsystems`.
    ///
    /// # Errors
    /// [`TargetError::NoSubsystem`] if `nqn` is given and unknown.
    pub fn show_subsystems(&self, nqn: Option<&str>) -> Result<Vec<NvmfSubsystem>, TargetError> {
        if let Some(nqn) = nqn {
            return Ok(vec![show_subsystem(&*self.subsystem(nqn)?)]);
        }
        Ok(self.subsystems.borrow().iter().map(|s| show_subsystem(s)).collect())
    }

    /// The hosts that see a namespace, if not all do.
    pub fn namespace_seen_by(&self, nqn: &str, nsid: u32) -> Option<Vec<String>> {
        self.subsystem(nqn).ok()?.namespaces.borrow().get(&nsid)?.seen_by()
    }

    /// Whether a subsystem reports ANA states.
    pub fn reports_ana(&self, nqn: &str) -> bool {
        self.subsystem(nqn).is_ok_and(|s| s.config.ana_reporting)
    }

    /// `nvmf_subsystem_get_listeners`.
    ///
    /// # Errors
    /// [`TargetError::NoSubsystem`].
    pub fn show_listeners(&self, nqn: &str) -> Result<Vec<NvmfListener>, TargetError> {
        let subsystem = self.subsystem(nqn)?;
        let ana = subsystem.config.ana_reporting;
        let listeners = subsystem.listeners.borrow();
        let groups = |states: Vec<AnaState>| {
            let shown = states.into_iter().map(show_ana_state);
            (1..).zip(shown).map(|(ana_group, ana_state)| AnaGroupState { ana_group, ana_state }).collect()
        };
        Ok(listeners
            .iter()
            .map(|l| NvmfListener {
                address: transport::trid(l.address),
                ana_states: ana.then(|| groups(l.ana_states())),
            })
            .collect())
    }

    /// `nvmf_subsystem_get_controllers`.
    ///
    /// # Errors
    /// [`TargetError::NoSubsystem`].
    pub fn show_controllers(&self, nqn: &str) -> Result<Vec<NvmfController>, TargetError> {
        let subsystem = self.subsystem(nqn)?;
        let kind = if subsystem.config.discovery { "discovery" } else { "io" };
        let shown = subsystem.all_controllers().into_iter().map(|c| {
            // All of them, whatever SPDK calls the field.
            let queues = c.links.borrow().len();
            NvmfController {
                cntlid: c.cntlid,
                cntrltype: kind.into(),
                hostnqn: c.hostnqn.clone(),
                hostid: c.hostid,
                num_io_qpairs: u32::try_from(queues).unwrap_or(u32::MAX),
            }
        });
        Ok(shown.collect())
    }

    /// `nvmf_subsystem_get_qpairs`: connections, also those whose last I/O has not ended yet.
    ///
    /// # Errors
    /// [`TargetError::NoSubsystem`].
    pub fn show_qpairs(&self, nqn: &str) -> Result<Vec<NvmfQpair>, TargetError> {
        let mut shown = Vec::new();
        for c in self.subsystem(nqn)?.all_controllers() {
            for (qid, link) in c.links.borrow().iter() {
                let closing = link.is_closing();
                shown.push(NvmfQpair {
                    cntlid: c.cntlid,
                    qid: *qid,
                    state: if closing { QpairState::Deactivating } else { QpairState::Enabled },
                    thread: THREAD.into(),
                    hostnqn: c.hostnqn.clone(),
                    listen_address: Some(transport::trid(link.local)),
                    peer_address: Some(transport::trid(link.peer)),
                });
            }
        }
        Ok(shown)
    }

    /// `nvmf_get_stats`.
    pub fn show_stats(&self) -> NvmfStats {
        let c = &self.counters;
        let mut tcp = serde_json::Map::new();
        tcp.insert("trtype".into(), "TCP".into());
        let group = NvmfPollGroup {
            name: THREAD.into(),
            admin_qpairs: c.admin_qpairs.get(),
            io_qpairs: c.io_qpairs.get(),
            current_admin_qpairs: c.current_admin_qpairs.get(),
            current_io_qpairs: c.current_io_qpairs.get(),
            pending_bdev_io: 0,
            transports: if self.transport.get().is_some() { vec![tcp] } else { vec![] },
            current_unassociated_qpairs: Some(c.unassociated.get()),
            completed_nvme_io: Some(c.completed.get()),
        };
        NvmfStats { tick_rate: TICK_RATE, poll_groups: vec![group] }
    }
}

fn show_subsystem(s: &Subsystem) -> NvmfSubsystem {
    let nvme = !s.config.discovery;
    let addresses: Vec<Trid> = s.listeners.borrow().iter().map(|l| transport::trid(l.address)).collect();
    let host =
        |nqn: &String| NvmfHost { nqn: nqn.clone(), dhchap_key: None, dhchap_ctrlr_key: None, psk: None };
    let ana = s.config.ana_reporting;
    let namespaces = || s.namespaces.borrow().values().map(|ns| show_namespace(ns, ana)).collect();
    NvmfSubsystem {
        nqn: s.config.nqn.clone(),
        subtype: if nvme { SubsystemType::Nvme } else { SubsystemType::Discovery },
        listen_addresses: addresses,
        allow_any_host: s.allow_any_host.get(),
        hosts: s.hosts.borrow().iter().map(host).collect(),
        serial_number: nvme.then(|| s.config.serial.clone()),
        model_number: nvme.then(|| s.config.model.clone()),
        admin_label: None,
        max_namespaces: nvme.then_some(s.config.max_namespaces),
        passthrough: nvme.then_some(false),
        min_cntlid: nvme.then(|| s.config.min_cntlid.into()),
        max_cntlid: nvme.then(|| s.config.max_cntlid.into()),
        dmrsl: nvme.then_some(s.config.dmrsl),
        wzsl: nvme.then_some(s.config.wzsl),
        namespaces: nvme.then(namespaces),
    }
}

fn show_namespace(ns: &Namespace, ana_reporting: bool) -> NvmfNamespace {
    NvmfNamespace {
        nsid: ns.nsid,
        bdev_name: ns.bdev_name.clone(),
        name: ns.bdev_name.clone(),
        nguid: ns.ids.nguid.map(|id| show_id(&id)),
        eui64: ns.ids.eui64.map(|id| show_id(&id)),
        uuid: Some(ns.ids.uuid),
        anagrpid: ana_reporting.then(|| ns.ana_group.get()),
        ptpl_file: ns.reservations.file().map(|f| f.display().to_string()),
    }
}
