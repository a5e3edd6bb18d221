//! `bdev_nvme_*`: remote NVMe/TCP controllers.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use vda_spdk::{
    BdevNvmeAttachController, BdevNvmeDetachController, BdevNvmeDisableController, BdevNvmeEnableController,
    BdevNvmeGetControllerHealthInfo, BdevNvmeGetControllers, BdevNvmeGetIoPaths, BdevNvmeGetPathIostat,
    BdevNvmeGetTransportStatistics, BdevNvmeResetController, BdevNvmeSetHotplug, BdevNvmeSetMultipathPolicy,
    BdevNvmeSetOptions, BdevNvmeSetPreferredPath, ControllerHealth, Errno, IoPath, IoPathGroup, IoPaths,
    MultipathMode, MultipathPolicy, MultipathSelector, NvmeController, NvmeControllerGroup, NvmeHost,
    TransportStatistics,
};

use super::{Methods, RpcError, State, config};
use crate::app::App;
use crate::bdev::nvme::{Attach, Multipath, NvmeError, NvmeModule, NvmeOptions, controller_state, trid};
use crate::initiator::{Group, Path, Resilience};

impl From<NvmeError> for RpcError {
    fn from(e: NvmeError) -> Self {
        let cause = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
        tracing::info!(refusal = %e, %cause, "bdev_nvme call refused");
        match &e {
            NvmeError::Already { .. } => Self::new(Errno::EALREADY.code(), e.to_string()),
            NvmeError::Different { .. } => Self::new(Errno::EINVAL.code(), e.to_string()),
            NvmeError::Invalid { .. } => Self::errno(Errno::EINVAL),
            NvmeError::Duplicate { .. } => Self::errno(Errno::EEXIST),
            NvmeError::NotFound { .. } => Self::errno(Errno::ENODEV),
            NvmeError::NoPath { .. } => Self::errno(Errno::ENXIO),
            NvmeError::Connect { .. } => Self::errno(Errno::EIO),
            NvmeError::Register { source, .. } => Self::errno(Errno(source.errno())),
            NvmeError::Held { .. } => Self::errno(Errno::ETIMEDOUT),
            NvmeError::Attached => Self::new(Errno::EPERM.code(), e.to_string()),
        }
    }
}

/// Makes the module over the process's bdevs and registers the handlers.
pub(super) fn register(methods: &mut Methods, app: &Rc<App>) {
    let module = &NvmeModule::new(app.bdevs.clone());
    let stopped = Rc::clone(module);
    app.on_stop(async move |_| {
        stopped.shutdown().await;
        Ok(())
    });
    let m = Rc::clone(module);
    methods.config_parts(move |_| config::nvme_parts(&m));
    attachments(methods, module);
    options(methods, module);
    controllers(methods, module);
    paths(methods, module);
}

fn invalid(message: impl Into<String>) -> RpcError {
    RpcError::new(Errno::EINVAL.code(), message.into())
}

/// I/O queues a controller may be asked for.
const IO_QUEUES_MAX: u32 = 65536;

/// The longest name of which bdev names can be made.
const NAME_MAX: usize = 511;

fn attach_request(c: BdevNvmeAttachController, o: &NvmeOptions) -> Result<Attach, RpcError> {
    if c.max_bdevs == Some(0) {
        return Err(invalid("max_bdevs cannot be zero"));
    }
    check_adrfam(c.adrfam.as_deref())?;
    // SPDK finds no transport of that name when it connects.
    if !c.trtype.eq_ignore_ascii_case("tcp") {
        return Err(RpcError::errno(Errno::ENODEV));
    }
    if c.num_io_queues.is_some_and(|n| n == 0 || n > IO_QUEUES_MAX) {
        return Err(invalid(format!("num_io_queues out of bounds, min: 1 max: {IO_QUEUES_MAX}")));
    }
    if c.name.is_empty() || c.name.len() > NAME_MAX {
        return Err(RpcError::errno(Errno::EINVAL));
    }
    let multipath = o.multipath.with(c.multipath_opts.as_ref());
    if multipath.meaning().is_none() {
        return Err(RpcError::errno(Errno::EINVAL));
    }
    let ip: IpAddr =
        c.traddr.parse().map_err(|_| invalid(format!("traddr is no IP address: {}", c.traddr)))?;
    let service = c.trsvcid.unwrap_or_default();
    let port: u16 = service.parse().map_err(|_| invalid(format!("trsvcid is no port: {service}")))?;
    let Some(subnqn) = c.subnqn.filter(|s| !s.is_empty() && s.len() <= vda_nvme::NQN_MAX_LEN) else {
        return Err(invalid("subnqn must be an NQN"));
    };
    if c.psk.is_some() || c.dhchap_key.is_some() || c.dhchap_ctrlr_key.is_some() {
        return Err(invalid("authentication and TLS are not supported"));
    }
    let given = (c.ctrlr_loss_timeout_sec, c.reconnect_delay_sec, c.fast_io_fail_timeout_sec);
    let resilience = match given {
        (None, None, None) => None,
        (loss, delay, fast) => Some(merge(o.resilience, loss, delay, fast)?),
    };
    Ok(Attach {
        name: c.name,
        address: SocketAddr::new(ip, port),
        subnqn,
        hostnqn: c.hostnqn,
        header_digest: c.hdgst.unwrap_or(false),
        data_digest: c.ddgst.unwrap_or(false),
        // One thread does all I/O: SPDK, too, opens one queue per thread, whatever is granted.
        io_queues: 1,
        resilience,
        multipath,
        mode: c.multipath.unwrap_or(MultipathMode::Multipath),
    })
}

fn merge(
    d: Resilience,
    loss: Option<i32>,
    delay: Option<u32>,
    fast: Option<u32>,
) -> Result<Resilience, RpcError> {
    let secs = |t: Duration| u32::try_from(t.as_secs()).unwrap_or(u32::MAX);
    let default_loss = d.loss_timeout.map_or(-1, |t| i32::try_from(t.as_secs()).unwrap_or(i32::MAX));
    let merged = Resilience::from_secs(
        loss.unwrap_or(default_loss),
        delay.unwrap_or_else(|| secs(d.reconnect_delay)),
        fast.unwrap_or_else(|| secs(d.fast_io_fail)),
    );
    merged.map_err(|reason| {
        tracing::info!(reason, "parameters refused");
        RpcError::errno(Errno::EINVAL)
    })
}

/// The words of `spdk_nvme_transport_id_parse_adrfam`.
fn check_adrfam(adrfam: Option<&str>) -> Result<(), RpcError> {
    let known =
        |given: &str| ["IPv4", "IPv6", "IB", "FC"].iter().any(|word| given.eq_ignore_ascii_case(word));
    match adrfam {
        Some(given) if !known(given) => Err(invalid(format!("Failed to parse adrfam: {given}"))),
        _ => Ok(()),
    }
}

fn attachments(methods: &mut Methods, module: &Rc<NvmeModule>) {
    let m = Rc::clone(module);
    methods.method::<BdevNvmeAttachController>(State::Runtime, async move |_, call| {
        let request = attach_request(call, &m.options())?;
        Ok(m.attach(request).await?)
    });
    let m = Rc::clone(module);
    methods.method::<BdevNvmeDetachController>(State::Runtime, async move |_, c| {
        check_adrfam(c.adrfam.as_deref())?;
        let same = |given: &Option<String>, value: String| {
            given.as_ref().is_none_or(|g| g.eq_ignore_ascii_case(&value))
        };
        let which = |g: &Group, p: &Path| {
            same(&c.trtype, "TCP".into())
                && same(&c.traddr, p.address.ip().to_string())
                && same(&c.trsvcid, p.address.port().to_string())
                // The host's own address is never chosen here.
                && c.hostaddr.is_none()
                && c.hostsvcid.is_none()
                && c.subnqn.as_ref().is_none_or(|n| *n == g.subnqn)
        };
        m.detach(&c.name, which).await?;
        Ok(true)
    });
}

fn options(methods: &mut Methods, module: &Rc<NvmeModule>) {
    let m = Rc::clone(module);
    methods.method::<BdevNvmeSetOptions>(State::Any, async move |_, c| {
        let d = m.options();
        let resilience =
            merge(d.resilience, c.ctrlr_loss_timeout_sec, c.reconnect_delay_sec, c.fast_io_fail_timeout_sec)?;
        let retry_count = c.bdev_retry_count.unwrap_or(d.retry_count);
        let timeout_us = c.timeout_us.unwrap_or(d.timeout_us);
        let multipath = d.multipath.with(c.multipath_opts.as_ref());
        let admin_only = timeout_us == 0 && c.timeout_admin_us.is_some_and(|t| t > 0);
        if retry_count < -1 || admin_only || multipath.meaning().is_none() {
            return Err(RpcError::errno(Errno::EINVAL));
        }
        let millis = |ms: Option<u32>, default| ms.map_or(default, |v| Duration::from_millis(v.into()));
        m.set_options(NvmeOptions {
            retry_count,
            resilience,
            keep_alive: millis(c.keep_alive_timeout_ms, d.keep_alive),
            connect_timeout: millis(c.tcp_connect_timeout_ms.filter(|v| *v > 0), d.connect_timeout),
            multipath,
            timeout_us,
        })?;
        Ok(true)
    });
    // There are no local NVMe devices to be plugged.
    methods.method::<BdevNvmeSetHotplug>(State::Any, async move |_, _| Ok(true));
}

fn show_group(g: &Group) -> NvmeControllerGroup {
    let controller = |p: &Rc<Path>| NvmeController {
        state: controller_state(p.state()),
        trid: trid(p.address, Some(&g.subnqn)),
        cntlid: p.cntlid(),
        host: NvmeHost {
            nqn: p.options.hostnqn.clone(),
            addr: String::new(),
            svcid: String::new(),
            no_shn_notification: Some(false),
        },
        cuse_device: None,
        alternate_trids: None,
        numa_id: None,
    };
    NvmeControllerGroup { name: g.name.clone(), ctrlrs: g.paths().iter().map(controller).collect() }
}

/// The paths of a controller: all, or the one of a controller id.
fn pick(group: &Group, cntlid: Option<u16>) -> Result<Vec<Rc<Path>>, RpcError> {
    let picked: Vec<_> =
        group.paths().into_iter().filter(|p| cntlid.is_none_or(|id| p.cntlid() == id)).collect();
    if picked.is_empty() { Err(RpcError::errno(Errno::ENODEV)) } else { Ok(picked) }
}

fn controllers(methods: &mut Methods, module: &Rc<NvmeModule>) {
    let m = Rc::clone(module);
    methods.method::<BdevNvmeGetControllers>(State::Runtime, async move |_, c| match c.name {
        None => Ok(m.groups().iter().map(|g| show_group(g)).collect()),
        Some(name) => match m.group(&name) {
            Ok(g) => Ok(vec![show_group(&g)]),
            Err(_) => Err(invalid(format!("Controller {name} does not exist"))),
        },
    });
    let m = Rc::clone(module);
    methods.method::<BdevNvmeResetController>(State::Runtime, async move |_, c| {
        let group = m.group(&c.name)?;
        let mut all = true;
        for path in pick(&group, c.cntlid)? {
            all &= group.reset(&path).await;
        }
        if all { Ok(true) } else { Err(RpcError::errno(Errno::EIO)) }
    });
    let m = Rc::clone(module);
    methods.method::<BdevNvmeEnableController>(State::Runtime, async move |_, c| {
        let group = m.group(&c.name)?;
        let mut all = true;
        for path in pick(&group, c.cntlid)? {
            all &= group.enable(&path).await;
        }
        if all { Ok(true) } else { Err(RpcError::errno(Errno::EIO)) }
    });
    let m = Rc::clone(module);
    methods.method::<BdevNvmeDisableController>(State::Runtime, async move |_, c| {
        let group = m.group(&c.name)?;
        for path in pick(&group, c.cntlid)? {
            group.disable(&path).await;
        }
        Ok(true)
    });
    let m = Rc::clone(module);
    methods.method::<BdevNvmeGetControllerHealthInfo>(State::Runtime, async move |_, c| {
        let group = m.group(&c.name).map_err(|_| RpcError::internal("Device not found"))?;
        let path = group.paths().into_iter().find(|p| p.session().is_some());
        let path = path.ok_or_else(|| RpcError::errno(Errno::ENXIO))?;
        let session = path.session().ok_or_else(|| RpcError::errno(Errno::ENXIO))?;
        let page = session.health().await.map_err(|_| RpcError::errno(Errno::EIO))?;
        Ok(health(&session.identify, path.address, &page))
    });
}

/// The health page (NVM Express Base 2.0, 5.16.1.3) as SPDK shows it.
fn health(id: &vda_nvme::identify::Controller, address: SocketAddr, page: &[u8]) -> ControllerHealth {
    let number = |at: usize, len: usize| -> u128 {
        let bytes = page.get(at..at + len).unwrap_or_default();
        bytes.iter().rev().fold(0, |n, b| n << 8 | u128::from(*b))
    };
    let small = |at, len| number(at, len) as u64;
    ControllerHealth {
        model_number: id.model.clone(),
        serial_number: id.serial.clone(),
        firmware_revision: id.firmware.clone(),
        traddr: address.ip().to_string(),
        critical_warning: small(0, 1),
        temperature_celsius: small(1, 2).wrapping_sub(273),
        available_spare_percentage: small(3, 1),
        available_spare_threshold_percentage: small(4, 1),
        percentage_used: small(5, 1),
        data_units_read: number(32, 16),
        data_units_written: number(48, 16),
        host_read_commands: number(64, 16),
        host_write_commands: number(80, 16),
        controller_busy_time: number(96, 16),
        power_cycles: number(112, 16),
        power_on_hours: number(128, 16),
        unsafe_shutdowns: number(144, 16),
        media_errors: number(160, 16),
        num_err_log_entries: number(176, 16),
        warning_temperature_time_minutes: small(192, 4),
        critical_composite_temperature_time_minutes: small(196, 4),
    }
}

fn paths(methods: &mut Methods, module: &Rc<NvmeModule>) {
    let m = Rc::clone(module);
    methods
        .method::<BdevNvmeGetIoPaths>(State::Runtime, async move |_, c| Ok(io_paths(&m, c.name.as_deref())));
    let m = Rc::clone(module);
    methods.method::<BdevNvmeSetPreferredPath>(State::Runtime, async move |_, c| {
        let (_, ns) = m.find_bdev(&c.name).ok_or_else(|| RpcError::errno(Errno::ENODEV))?;
        if ns.prefer(c.cntlid) { Ok(true) } else { Err(RpcError::errno(Errno::ENODEV)) }
    });
    let m = Rc::clone(module);
    methods.method::<BdevNvmeSetMultipathPolicy>(State::Runtime, async move |_, c| {
        if c.policy == MultipathPolicy::ActivePassive && c.selector.is_some() {
            // SPDK's words for it.
            return Err(RpcError::internal("spdk_json_decode_object failed"));
        }
        let selector = c.selector.unwrap_or(MultipathSelector::RoundRobin);
        let wanted = Multipath { policy: c.policy, selector, min_io: c.rr_min_io.unwrap_or(1) };
        let policy = wanted.meaning().ok_or_else(|| RpcError::errno(Errno::EINVAL))?;
        let (_, ns) = m.find_bdev(&c.name).ok_or_else(|| RpcError::errno(Errno::ENODEV))?;
        ns.set_policy(policy);
        Ok(true)
    });
    methods.method::<BdevNvmeGetPathIostat>(State::Runtime, async move |_, _| {
        Err(super::bad_params::path_iostat_is_off())
    });
    methods.method::<BdevNvmeGetTransportStatistics>(State::Runtime, async move |_, _| {
        Ok(TransportStatistics { poll_groups: Vec::new() })
    });
}

/// The paths of bdevs that somebody has open.
fn io_paths(m: &NvmeModule, bdev: Option<&str>) -> IoPaths {
    let mut shown = Vec::new();
    for group in m.groups() {
        for ns in group.namespaces() {
            let name = format!("{}n{}", group.name, ns.nsid);
            let wanted = bdev.is_none_or(|b| m.find_bdev(b).is_some_and(|(_, n)| Rc::ptr_eq(&n, &ns)));
            if !wanted || !m.is_open(&name) {
                continue;
            }
            for p in group.paths() {
                let Some(state) = p.ana_state(ns.nsid) else { continue };
                shown.push(IoPath {
                    bdev_name: name.clone(),
                    cntlid: p.cntlid(),
                    current: ns.is_current(&p),
                    connected: p.session().is_some(),
                    accessible: matches!(
                        state,
                        vda_nvme::log::AnaState::Optimized | vda_nvme::log::AnaState::NonOptimized
                    ),
                    transport: trid(p.address, None),
                });
            }
        }
    }
    if shown.is_empty() {
        return IoPaths { poll_groups: Vec::new() };
    }
    IoPaths { poll_groups: vec![IoPathGroup { thread: "app_thread".into(), io_paths: shown }] }
}
