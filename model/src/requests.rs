//! What users send, validated and with its defaults filled in. Every violation of a request is reported, not only the first.

use std::net::IpAddr;

use vda_proto::v1::{self, pd_backend};

use crate::{
    defaults::{self, GIB, MIB},
    error::{Error, Violation},
    names::{BadName, check_host_nqn, check_node_address, check_request_id, check_user_name},
    sizes, sizing,
};

/// Host NQNs with this start are controllers of ours, and no host may use them.
const OWN_NQNS: &str = "nqn.2016-06.io.vda:";

/// A DN or CN to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewNode {
    pub address: String,
    pub listener: v1::NvmfListener,
    pub location: String,
    pub offline: bool,
    /// CNs only.
    pub max_cntlrs: u32,
}

/// A PD to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPd {
    pub dn_address: String,
    pub pd_name: String,
    pub backend: v1::PdBackend,
    pub offline: bool,
    pub qos_budget: v1::Qos,
}

/// A DA to be created: one leg of one group.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDa {
    pub da_name: String,
    pub size_bytes: u64,
    pub physical_min_bytes: u64,
    pub stripes: u32,
    pub strip_size_kib: u32,
    pub replicas: u32,
    pub qos: v1::Qos,
}

impl NewDa {
    /// Sizes of its leg.
    pub fn leg_size(&self) -> sizing::LegSize {
        let strip = u64::from(self.strip_size_kib) << 10;
        sizing::leg(self.size_bytes, self.physical_min_bytes, self.stripes, strip)
    }
}

/// An EXP to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewExp {
    pub da_name: String,
    pub exp_name: String,
    pub initiator_nqns: Vec<String>,
}

/// Collects what is wrong with a request.
#[derive(Default)]
struct Checks(Vec<Violation>);

impl Checks {
    fn name(&mut self, checked: Result<(), BadName>) {
        if let Err(bad) = checked {
            self.0.push(bad.into());
        }
    }

    fn require(&mut self, ok: bool, violation: impl FnOnce() -> Violation) {
        if !ok {
            self.0.push(violation());
        }
    }

    fn done(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self.0)) }
    }
}

/// Validates a `CreateDn`.
///
/// # Errors
/// [`Error::Invalid`].
pub fn new_dn(request: &v1::CreateDnRequest) -> Result<NewNode, Error> {
    node(&request.request_id, &request.address, request.listener.as_ref(), &request.location)
        .map(|node| NewNode { offline: request.offline, ..node })
}

/// Validates a `CreateCn`.
///
/// # Errors
/// [`Error::Invalid`].
pub fn new_cn(request: &v1::CreateCnRequest) -> Result<NewNode, Error> {
    let node = node(&request.request_id, &request.address, request.listener.as_ref(), &request.location)?;
    let max_cntlrs = if request.max_cntlrs == 0 { defaults::MAX_CNTLRS_PER_CN } else { request.max_cntlrs };
    Ok(NewNode { offline: request.offline, max_cntlrs, ..node })
}

fn node(
    id: &str,
    address: &str,
    listener: Option<&v1::NvmfListener>,
    location: &str,
) -> Result<NewNode, Error> {
    let mut checks = Checks::default();
    checks.name(check_request_id(id));
    checks.name(check_node_address("address", address));
    check_location(&mut checks, location);
    let listener = check_listener(&mut checks, listener);
    checks.done()?;
    Ok(NewNode {
        address: address.to_owned(),
        listener,
        location: location.to_owned(),
        offline: false,
        max_cntlrs: 0,
    })
}

fn check_location(checks: &mut Checks, location: &str) {
    if !location.is_empty() {
        checks.name(check_user_name("location", location));
    }
}

/// Validates a change of a node's `location`.
///
/// # Errors
/// [`Error::Invalid`].
pub fn location(location: &str) -> Result<(), Error> {
    let mut checks = Checks::default();
    check_location(&mut checks, location);
    checks.done()
}

fn check_listener(checks: &mut Checks, listener: Option<&v1::NvmfListener>) -> v1::NvmfListener {
    let Some(listener) = listener else {
        checks.0.push(Violation::new("listener", "", "must be given: trtype, adrfam, traddr and trsvcid"));
        return v1::NvmfListener::default();
    };
    let listener = v1::NvmfListener {
        trtype: listener.trtype.to_ascii_lowercase(),
        adrfam: listener.adrfam.to_ascii_lowercase(),
        ..listener.clone()
    };
    checks.require(listener.trtype == "tcp", || Violation::new("listener.trtype", &listener.trtype, "tcp"));
    let ip = listener.traddr.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
    let family = match listener.adrfam.as_str() {
        "ipv4" => ip.map(|ip| ip.is_ipv4()),
        "ipv6" => ip.map(|ip| ip.is_ipv6()),
        _ => {
            checks.0.push(Violation::new("listener.adrfam", &listener.adrfam, "ipv4 or ipv6"));
            ip.map(|_| true)
        }
    };
    checks.require(family == Some(true), || {
        Violation::new(
            "listener.traddr",
            &listener.traddr,
            "an address of that family that hosts can reach, not a name",
        )
    });
    let port = listener.trsvcid.parse::<u16>().ok().filter(|p| *p != 0 && p.to_string() == listener.trsvcid);
    checks.require(port.is_some(), || {
        Violation::new("listener.trsvcid", &listener.trsvcid, "a port, 1 to 65535")
    });
    listener
}

/// Validates a `CreatePd`.
///
/// # Errors
/// [`Error::Invalid`].
pub fn new_pd(request: &v1::CreatePdRequest) -> Result<NewPd, Error> {
    let mut checks = Checks::default();
    checks.name(check_request_id(&request.request_id));
    checks.name(check_node_address("dn_address", &request.dn_address));
    checks.name(check_user_name("pd_name", &request.pd_name));
    check_backend(&mut checks, request.backend.as_ref().and_then(|b| b.kind.as_ref()));
    checks.done()?;
    Ok(NewPd {
        dn_address: request.dn_address.clone(),
        pd_name: request.pd_name.clone(),
        backend: request.backend.clone().unwrap_or_default(),
        offline: request.offline,
        qos_budget: request.qos_budget.unwrap_or_default(),
    })
}

fn check_backend(checks: &mut Checks, backend: Option<&pd_backend::Kind>) {
    let path = |field, name: &str| {
        let fits = name.starts_with('/') && name.len() <= 4095 && !name.chars().any(char::is_control);
        (!fits).then(|| {
            Violation::new(field, name, "an absolute path of a file or block device of the disk node")
        })
    };
    let violation = match backend {
        None => Some(Violation::new("backend", "", "one of malloc, aio, uring, nvme")),
        Some(pd_backend::Kind::Malloc(malloc)) => {
            let fits = malloc.size_bytes >= defaults::MIN_MALLOC_BYTES
                && malloc.size_bytes.is_multiple_of(MIB)
                && malloc.size_bytes <= defaults::MAX_DA_BYTES;
            (!fits).then(|| {
                Violation::new(
                    "backend.malloc.size_bytes",
                    malloc.size_bytes,
                    "a multiple of 1 MiB, at least 16 MiB",
                )
            })
        }
        Some(pd_backend::Kind::Aio(file)) => path("backend.aio.filename", &file.filename),
        Some(pd_backend::Kind::Uring(file)) => path("backend.uring.filename", &file.filename),
        Some(pd_backend::Kind::Nvme(nvme)) => (!is_pci_address(&nvme.traddr))
            .then(|| Violation::new("backend.nvme.traddr", &nvme.traddr, "a PCI address like 0000:5e:00.0")),
    };
    checks.0.extend(violation);
}

/// `domain:bus:device.function`, in lower-case hex as `lspci -D` prints it.
fn is_pci_address(text: &str) -> bool {
    let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = text.split(':');
    let (Some(domain), Some(bus), Some(slot), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    slot.split_once('.').is_some_and(|(device, function)| {
        hex(domain, 4) && hex(bus, 2) && hex(device, 2) && matches!(function.as_bytes(), [b'0'..=b'7'])
    })
}

/// Validates a `CreateDa` and fills in the defaults.
///
/// # Errors
/// [`Error::Invalid`]; [`Error::NotServed`] for several legs, groups or controllers, and for thin arrays.
pub fn new_da(request: &v1::CreateDaRequest) -> Result<NewDa, Error> {
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    let da = NewDa {
        da_name: request.da_name.clone(),
        size_bytes: request.size_bytes,
        physical_min_bytes: request.physical_size_bytes,
        stripes: or(request.stripes, defaults::STRIPES),
        strip_size_kib: or(request.strip_size_kib, defaults::STRIP_SIZE_KIB),
        replicas: or(request.replicas, defaults::REPLICAS),
        qos: request.qos.unwrap_or_default(),
    };
    let mut checks = Checks::default();
    checks.name(check_request_id(&request.request_id));
    checks.name(check_user_name("da_name", &da.da_name));
    check_da_size(&mut checks, &da);
    check_da_shape(&mut checks, &da);
    checks.done()?;
    served(request)?;
    Ok(da)
}

fn check_da_size(checks: &mut Checks, da: &NewDa) {
    let unit = sizing::cluster_bytes(da.size_bytes);
    let fits =
        da.size_bytes > 0 && da.size_bytes <= defaults::MAX_DA_BYTES && da.size_bytes.is_multiple_of(unit);
    checks.require(fits, || {
        let allowed = format!(
            "a multiple of {} up to {} (of 1MiB below {}, of 4MiB up to 2TiB, of 32MiB above)",
            sizes::format(unit),
            sizes::format(defaults::MAX_DA_BYTES),
            sizes::format(GIB),
        );
        Violation::new("size_bytes", da.size_bytes, allowed)
    });
    checks.require(da.physical_min_bytes <= 2 * defaults::MAX_DA_BYTES, || {
        Violation::new("physical_size_bytes", da.physical_min_bytes, "0 (computed), or up to 128TiB")
    });
}

fn check_da_shape(checks: &mut Checks, da: &NewDa) {
    let vds = u64::from(da.stripes) * u64::from(da.replicas);
    let most = u64::from(defaults::MAX_VDS_PER_DA);
    let replicas_fit = da.replicas <= defaults::MAX_REPLICAS;
    checks.require(replicas_fit, || {
        Violation::new("replicas", da.replicas, format!("1 to {}", defaults::MAX_REPLICAS))
    });
    checks.require(!replicas_fit || vds <= most, || {
        Violation::new("stripes", da.stripes, format!("stripes times replicas at most {most}"))
    });
    let (least, most) = defaults::STRIP_SIZE_KIB_RANGE;
    let strip_fits = da.strip_size_kib.is_power_of_two() && (least..=most).contains(&da.strip_size_kib);
    checks.require(strip_fits, || {
        Violation::new("strip_size_kib", da.strip_size_kib, format!("a power of two from {least} to {most}"))
    });
}

fn served(request: &v1::CreateDaRequest) -> Result<(), Error> {
    let refuse =
        |field, value: u64, served| Err(Error::NotServed { field, value: value.to_string(), served });
    if request.cntlrs > 1 {
        return refuse("cntlrs", request.cntlrs.into(), "one controller");
    }
    if request.legs > 1 {
        return refuse("legs", request.legs.into(), "one leg");
    }
    if request.groups > 1 {
        return refuse("groups", request.groups.into(), "one group");
    }
    if request.physical_size_bytes > 0 && request.physical_size_bytes < request.size_bytes {
        return refuse(
            "physical_size_bytes",
            request.physical_size_bytes,
            "at least size_bytes (thin arrays are not)",
        );
    }
    Ok(())
}

/// Validates a `CreateExp`.
///
/// # Errors
/// [`Error::Invalid`].
pub fn new_exp(request: &v1::CreateExpRequest) -> Result<NewExp, Error> {
    let mut checks = Checks::default();
    checks.name(check_request_id(&request.request_id));
    checks.name(check_user_name("da_name", &request.da_name));
    checks.name(check_user_name("exp_name", &request.exp_name));
    checks.require(!request.initiator_nqns.is_empty(), || {
        Violation::new(
            "initiator_nqns",
            "",
            "at least one host NQN: an EXP admits exactly the hosts it names",
        )
    });
    check_hosts(&mut checks, "initiator_nqns", &request.initiator_nqns);
    checks.done()?;
    Ok(NewExp {
        da_name: request.da_name.clone(),
        exp_name: request.exp_name.clone(),
        initiator_nqns: request.initiator_nqns.clone(),
    })
}

/// Validates the lists of a `ModifyExp`.
///
/// # Errors
/// [`Error::Invalid`].
pub fn exp_change(request: &v1::ModifyExpRequest) -> Result<(), Error> {
    let mut checks = Checks::default();
    check_hosts(&mut checks, "add_initiator_nqns", &request.add_initiator_nqns);
    for nqn in &request.remove_initiator_nqns {
        checks.require(!request.add_initiator_nqns.contains(nqn), || {
            Violation::new("remove_initiator_nqns", nqn, "not also in add_initiator_nqns")
        });
    }
    checks.done()
}

fn check_hosts(checks: &mut Checks, field: &'static str, nqns: &[String]) {
    checks.require(nqns.len() <= defaults::MAX_HOSTS_PER_EXP, || {
        Violation::new(field, nqns.len(), format!("at most {} hosts", defaults::MAX_HOSTS_PER_EXP))
    });
    for (i, nqn) in nqns.iter().enumerate() {
        checks.name(check_host_nqn(field, nqn));
        checks.require(!nqns[..i].contains(nqn), || Violation::new(field, nqn, "each host once"));
        checks.require(!nqn.starts_with(OWN_NQNS), || Violation::new(field, nqn, "no NQN of VDA's own"));
    }
}

/// Validates the `request_id` of a request.
///
/// # Errors
/// [`Error::Invalid`].
pub fn request_id(id: &str) -> Result<(), Error> {
    let mut checks = Checks::default();
    checks.name(check_request_id(id));
    checks.done()
}

/// The number of items a page holds.
///
/// # Errors
/// [`Error::Invalid`] above 1000.
pub fn page_size(asked: u32) -> Result<usize, Error> {
    match asked {
        0 => Ok(defaults::PAGE_SIZE as usize),
        n if n <= defaults::MAX_PAGE_SIZE => Ok(n as usize),
        n => Err(Error::Invalid(vec![Violation::new("page_size", n, "0 (100) to 1000")])),
    }
}

#[cfg(test)]
mod tests;
