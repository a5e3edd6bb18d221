//! The NVMe/TCP target: transport, subsystems with hosts, namespaces and listeners, referrals.

use vda_spdk::{
    AnaState, ConfigEntry, ListenAddress, NamespaceParams, NsAnaState, NvmfCreateSubsystem,
    NvmfCreateTransport, NvmfDiscoveryAddReferral, NvmfListener, NvmfNamespace, NvmfNsAddHost, NvmfSubsystem,
    NvmfSubsystemAddHost, NvmfSubsystemAddListener, NvmfSubsystemAddNs, NvmfSubsystemListenerSetAnaState,
    NvmfTransport, SubsystemType, Trid,
};

use super::entry;
use crate::nvmf::{Target, TransportOptions};

/// The calls, in SPDK's order: hosts are known before listeners let anybody in.
pub(crate) fn calls(target: &Target) -> Vec<ConfigEntry> {
    let mut calls: Vec<_> =
        target.transport().iter().map(|t| entry(&transport(&TransportOptions::reply(t)))).collect();
    // The newest are shown first; made in the order they were, they are shown so again.
    calls.extend(target.show_referrals().into_iter().rev().map(|r| {
        let (secure_channel, subnqn) = (r.secure_channel, r.subnqn);
        let call = NvmfDiscoveryAddReferral::new(address(&r.address));
        entry(&NvmfDiscoveryAddReferral { secure_channel, subnqn, ..call })
    }));
    let shown = target.show_subsystems(None).unwrap_or_default();
    let (discovery, subsystems): (Vec<_>, Vec<_>) =
        shown.into_iter().partition(|s| s.subtype == SubsystemType::Discovery);
    calls.extend(subsystems.iter().map(|s| entry(&subsystem(s, target.reports_ana(&s.nqn)))));
    for s in &subsystems {
        calls.extend(s.hosts.iter().map(|h| entry(&NvmfSubsystemAddHost::new(s.nqn.clone(), h.nqn.clone()))));
    }
    for s in &subsystems {
        for ns in s.namespaces.iter().flatten() {
            let seen_by = target.namespace_seen_by(&s.nqn, ns.nsid);
            let call =
                NamespaceParams { no_auto_visible: seen_by.is_some().then_some(true), ..namespace(ns) };
            calls.push(entry(&NvmfSubsystemAddNs::new(s.nqn.clone(), call)));
            let hosts = seen_by.into_iter().flatten().rev();
            calls.extend(hosts.map(|h| entry(&NvmfNsAddHost::new(s.nqn.clone(), ns.nsid, h))));
        }
    }
    for s in discovery.iter().chain(&subsystems) {
        let listeners = target.show_listeners(&s.nqn).unwrap_or_default();
        calls.extend(listeners.iter().rev().flat_map(|l| listener(&s.nqn, l)));
    }
    calls
}

fn transport(t: &NvmfTransport) -> NvmfCreateTransport {
    let small = |value: u32| u16::try_from(value).ok();
    NvmfCreateTransport {
        max_queue_depth: small(t.max_queue_depth),
        max_io_qpairs_per_ctrlr: small(t.max_io_qpairs_per_ctrlr),
        in_capsule_data_size: Some(t.in_capsule_data_size),
        max_io_size: Some(t.max_io_size),
        max_aq_depth: Some(t.max_aq_depth),
        c2h_success: t.c2h_success,
        sock_priority: t.sock_priority,
        abort_timeout_sec: t.abort_timeout_sec,
        kas: t.kas,
        min_kato: t.min_kato,
        ..NvmfCreateTransport::new(t.trtype.clone())
    }
}

fn subsystem(s: &NvmfSubsystem, ana_reporting: bool) -> NvmfCreateSubsystem {
    let id = |id: Option<u32>| id.and_then(|id| u16::try_from(id).ok());
    NvmfCreateSubsystem {
        ana_reporting: Some(ana_reporting),
        allow_any_host: Some(s.allow_any_host),
        serial_number: s.serial_number.clone(),
        model_number: s.model_number.clone(),
        max_namespaces: s.max_namespaces,
        min_cntlid: id(s.min_cntlid),
        max_cntlid: id(s.max_cntlid),
        dmrsl: s.dmrsl,
        wzsl: s.wzsl,
        ..NvmfCreateSubsystem::new(s.nqn.clone())
    }
}

fn namespace(ns: &NvmfNamespace) -> NamespaceParams {
    NamespaceParams {
        nsid: Some(ns.nsid),
        nguid: ns.nguid.clone(),
        eui64: ns.eui64.clone(),
        uuid: ns.uuid,
        anagrpid: ns.anagrpid,
        ptpl_file: ns.ptpl_file.clone(),
        ..NamespaceParams::new(ns.bdev_name.clone())
    }
}

fn address(trid: &Trid) -> ListenAddress {
    ListenAddress {
        trtype: trid.trtype.clone(),
        traddr: trid.traddr.clone().unwrap_or_default(),
        adrfam: trid.adrfam.clone(),
        trsvcid: trid.trsvcid.clone(),
    }
}

/// SPDK does not save ANA states; without them every listener would be optimized after a restart.
fn listener(nqn: &str, l: &NvmfListener) -> Vec<ConfigEntry> {
    let mut calls = vec![entry(&NvmfSubsystemAddListener::new(nqn, address(&l.address)))];
    for group in l.ana_states.iter().flatten() {
        let state = match group.ana_state {
            NsAnaState::NonOptimized => AnaState::NonOptimized,
            NsAnaState::Inaccessible => AnaState::Inaccessible,
            _ => continue,
        };
        calls.push(entry(&NvmfSubsystemListenerSetAnaState {
            anagrpid: Some(group.ana_group),
            ..NvmfSubsystemListenerSetAnaState::new(nqn, address(&l.address), state)
        }));
    }
    calls
}
