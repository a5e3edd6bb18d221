//! `nvmf_*`: the NVMe/TCP target.

use std::rc::Rc;
use std::time::Duration;

use vda_spdk::{
    Errno, NvmfCreateSubsystem, NvmfCreateTransport, NvmfDeleteSubsystem, NvmfDiscoveryAddReferral,
    NvmfDiscoveryGetReferrals, NvmfDiscoveryRemoveReferral, NvmfGetStats, NvmfGetSubsystems, NvmfGetTargets,
    NvmfGetTransports, NvmfNsAddHost, NvmfNsRemoveHost, NvmfSubsystemAddHost, NvmfSubsystemAddListener,
    NvmfSubsystemAddNs, NvmfSubsystemAllowAnyHost, NvmfSubsystemGetControllers, NvmfSubsystemGetListeners,
    NvmfSubsystemGetQpairs, NvmfSubsystemListenerSetAnaState, NvmfSubsystemRemoveHost,
    NvmfSubsystemRemoveListener, NvmfSubsystemRemoveNs, NvmfSubsystemSetNsAnaGroup,
};

use super::bad_params::TARGET;
use super::iobuf::Pools;
use super::{Methods, RpcError, State, config};
use crate::app::App;
use crate::nvmf::{
    NamespaceRequest, SubsystemConfig, Target, TargetError, TransportOptions, ana_state_from_call,
    socket_address,
};

impl From<TargetError> for RpcError {
    fn from(e: TargetError) -> Self {
        // The answer is SPDK's and says little; the log says the rest.
        tracing::info!(refusal = ?e, "nvmf call refused");
        Self::new(e.code(), e.to_string())
    }
}

/// Makes the target over the process's bdevs and registers the handlers. Data of its commands may take as much memory as `iobuf` says.
pub(super) fn register(methods: &mut Methods, app: &Rc<App>, iobuf: &Rc<Pools>) {
    let target = &Target::new(app.bdevs.clone());
    let stopped = Rc::clone(target);
    app.on_stop(async move |_| {
        stopped.shutdown().await;
        Ok(())
    });
    transports(methods, target, iobuf);
    subsystems(methods, target);
    namespaces(methods, target);
    hosts(methods, target);
    listeners(methods, target);
    views(methods, target);
    referrals(methods, target);
    let t = Rc::clone(target);
    methods.subsystem("nvmf", &["bdev", "iobuf"], move |_| config::nvmf_calls(&t));
}

fn transports(methods: &mut Methods, target: &Rc<Target>, iobuf: &Rc<Pools>) {
    let (t, pools) = (Rc::clone(target), Rc::clone(iobuf));
    methods.method::<NvmfCreateTransport>(State::Runtime, async move |_, call| {
        t.create_transport(TransportOptions::from_call(&call)?)?;
        t.set_data_buffers(pools.bytes());
        Ok(true)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfGetTransports>(State::Runtime, async move |_, call| {
        let all: Vec<_> = t.transport().iter().map(TransportOptions::reply).collect();
        match call.trtype {
            None => Ok(all),
            Some(trtype) if trtype.eq_ignore_ascii_case("tcp") && !all.is_empty() => Ok(all),
            Some(_) => Err(RpcError::errno(Errno::ENODEV)),
        }
    });
}

fn subsystems(methods: &mut Methods, target: &Rc<Target>) {
    let t = Rc::clone(target);
    methods.method::<NvmfCreateSubsystem>(State::Runtime, async move |_, c| {
        let d = SubsystemConfig::new(c.nqn);
        let config = SubsystemConfig {
            serial: c.serial_number.unwrap_or(d.serial),
            model: c.model_number.unwrap_or(d.model),
            max_namespaces: c.max_namespaces.unwrap_or(d.max_namespaces),
            ana_reporting: c.ana_reporting.unwrap_or(d.ana_reporting),
            min_cntlid: c.min_cntlid.unwrap_or(d.min_cntlid),
            max_cntlid: c.max_cntlid.unwrap_or(d.max_cntlid),
            dmrsl: c.dmrsl.unwrap_or(d.dmrsl),
            wzsl: c.wzsl.unwrap_or(d.wzsl),
            discovery: false,
            nqn: d.nqn,
        };
        t.create_subsystem(config, c.allow_any_host.unwrap_or(false))?;
        Ok(true)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfDeleteSubsystem>(State::Runtime, async move |_, c| {
        t.delete_subsystem(&c.nqn).await?;
        Ok(true)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfGetSubsystems>(State::Runtime, async move |_, c| {
        Ok(t.show_subsystems(c.nqn.as_deref())?)
    });
}

fn namespaces(methods: &mut Methods, target: &Rc<Target>) {
    let t = Rc::clone(target);
    methods.method::<NvmfSubsystemAddNs>(State::Runtime, async move |_, c| {
        let n = c.namespace;
        let request = NamespaceRequest {
            bdev_name: n.bdev_name,
            nsid: n.nsid,
            nguid: n.nguid,
            eui64: n.eui64,
            uuid: n.uuid,
            ana_group: n.anagrpid,
            ptpl_file: n.ptpl_file.map(Into::into),
            no_auto_visible: n.no_auto_visible.unwrap_or(false),
        };
        Ok(t.add_ns(&c.nqn, &request)?)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfSubsystemRemoveNs>(State::Runtime, async move |_, c| {
        t.remove_ns(&c.nqn, c.nsid).await?;
        Ok(true)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfNsAddHost>(State::Runtime, async move |_, c| {
        t.set_ns_visible(&c.nqn, c.nsid, &c.host, true).await?;
        Ok(true)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfNsRemoveHost>(State::Runtime, async move |_, c| {
        t.set_ns_visible(&c.nqn, c.nsid, &c.host, false).await?;
        Ok(true)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfSubsystemSetNsAnaGroup>(State::Runtime, async move |_, c| {
        t.set_ns_ana_group(&c.nqn, c.nsid, c.anagrpid)?;
        Ok(true)
    });
}

fn hosts(methods: &mut Methods, target: &Rc<Target>) {
    let t = Rc::clone(target);
    methods.method::<NvmfSubsystemAddHost>(State::Runtime, async move |_, c| {
        if c.psk.is_some() || c.dhchap_key.is_some() || c.dhchap_ctrlr_key.is_some() {
            // A host that must prove who it is is never let in without.
            tracing::info!(nqn = %c.nqn, host = %c.host, "keys are not supported");
            return Err(RpcError::invalid_params("Invalid parameters"));
        }
        t.add_host(&c.nqn, &c.host)?;
        Ok(true)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfSubsystemRemoveHost>(State::Runtime, async move |_, c| {
        let timeout = c.timeout_ms.filter(|ms| *ms > 0).map(Duration::from_millis);
        t.remove_host(&c.nqn, &c.host, timeout).await?;
        Ok(true)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfSubsystemAllowAnyHost>(State::Runtime, async move |_, c| {
        t.allow_any_host(&c.nqn, c.allow_any_host)?;
        Ok(true)
    });
}

fn listeners(methods: &mut Methods, target: &Rc<Target>) {
    let t = Rc::clone(target);
    methods.method::<NvmfSubsystemAddListener>(State::Runtime, async move |_, c| {
        t.show_subsystems(Some(&c.nqn))?;
        if c.secure_channel == Some(true) {
            tracing::info!(nqn = %c.nqn, "secure channels are not supported");
            return Err(RpcError::invalid_params("Invalid parameters"));
        }
        let state = c.ana_state.unwrap_or(vda_spdk::AnaState::Optimized);
        t.add_listener(&c.nqn, socket_address(&c.listen_address)?, ana_state_from_call(state))?;
        Ok(true)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfSubsystemRemoveListener>(State::Runtime, async move |_, c| {
        t.show_subsystems(Some(&c.nqn))?;
        t.remove_listener(&c.nqn, socket_address(&c.listen_address)?)?;
        Ok(true)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfSubsystemListenerSetAnaState>(State::Runtime, async move |_, c| {
        t.show_subsystems(Some(&c.nqn))?;
        let address = socket_address(&c.listen_address)?;
        t.set_ana_state(&c.nqn, address, ana_state_from_call(c.ana_state), c.anagrpid)?;
        Ok(true)
    });
}

fn views(methods: &mut Methods, target: &Rc<Target>) {
    let t = Rc::clone(target);
    methods
        .method::<NvmfSubsystemGetListeners>(State::Runtime, async move |_, c| Ok(t.show_listeners(&c.nqn)?));
    let t = Rc::clone(target);
    methods.method::<NvmfSubsystemGetControllers>(State::Runtime, async move |_, c| {
        Ok(t.show_controllers(&c.nqn)?)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfSubsystemGetQpairs>(State::Runtime, async move |_, c| Ok(t.show_qpairs(&c.nqn)?));
    methods.method::<NvmfGetTargets>(State::Runtime, async move |_, _| Ok(vec![TARGET.to_owned()]));
    let t = Rc::clone(target);
    methods.method::<NvmfGetStats>(State::Runtime, async move |_, _| Ok(t.show_stats()));
}

fn referrals(methods: &mut Methods, target: &Rc<Target>) {
    let t = Rc::clone(target);
    methods.method::<NvmfDiscoveryAddReferral>(State::Runtime, async move |_, c| {
        t.add_referral(&c.address, c.secure_channel.unwrap_or(false), c.subnqn.as_deref())?;
        Ok(true)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfDiscoveryRemoveReferral>(State::Runtime, async move |_, c| {
        t.remove_referral(&c.address, c.subnqn.as_deref())?;
        Ok(true)
    });
    let t = Rc::clone(target);
    methods.method::<NvmfDiscoveryGetReferrals>(State::Runtime, async move |_, _| Ok(t.show_referrals()));
}
