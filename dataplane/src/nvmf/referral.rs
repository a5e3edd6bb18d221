//! Referrals of the discovery service: what else there is to be asked, on whatever transport.

use vda_nvme::DISCOVERY_NQN;
use vda_nvme::fabrics::CNTLID_DYNAMIC;
use vda_nvme::log::{DiscoveryEntry, SubsystemType};
use vda_spdk::{ListenAddress, NvmfReferral, Trid};

use super::{Target, TargetError, nqn};

/// Fields of a discovery log page entry: longest address and service id, without the terminating zero that SPDK keeps.
const TRADDR_MAX: usize = 256;
const TRSVCID_MAX: usize = 32;

/// Another discovery service, or a subsystem elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Referral {
    /// In capitals, as SPDK shows it. Any word: it is for the host to know.
    trtype: String,
    adrfam: Family,
    traddr: String,
    trsvcid: String,
    secure_channel: bool,
    subnqn: String,
}

/// Address family (NVM Express Base 2.0, figure 264).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    None = 0,
    Ipv4 = 1,
    Ipv6 = 2,
    Ib = 3,
    Fc = 4,
}

impl Family {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Ipv4, "IPv4"), (Self::Ipv6, "IPv6"), (Self::Ib, "IB"), (Self::Fc, "FC")];

    fn parse(text: &str) -> Result<Self, TargetError> {
        let found = Self::ALL.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        found.map(|(family, _)| *family).ok_or_else(|| TargetError::invalid("adrfam", text, "unknown"))
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(family, _)| *family == self).map_or("unknown", |(_, name)| name)
    }
}

impl Referral {
    fn new(a: &ListenAddress, subnqn: Option<&str>) -> Result<Self, TargetError> {
        let trtype = a.trtype.to_ascii_uppercase();
        let on_sockets = matches!(&*trtype, "TCP" | "RDMA");
        let adrfam = match &a.adrfam {
            Some(family) => Family::parse(family)?,
            None if on_sockets => Family::Ipv4,
            None => Family::None,
        };
        let trsvcid = a.trsvcid.clone().unwrap_or_default();
        for (field, text, max) in [("traddr", &a.traddr, TRADDR_MAX), ("trsvcid", &trsvcid, TRSVCID_MAX)] {
            if text.len() > max {
                return Err(TargetError::invalid(field, text, "too long"));
            }
        }
        if on_sockets && trsvcid.is_empty() {
            return Err(TargetError::NoService);
        }
        let subnqn = subnqn.filter(|nqn| !nqn.is_empty()).unwrap_or(DISCOVERY_NQN).to_owned();
        Ok(Self { trtype, adrfam, traddr: a.traddr.clone(), trsvcid, secure_channel: false, subnqn })
    }

    /// Whether both lead to the same.
    fn is(&self, other: &Self) -> bool {
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        self.trtype == other.trtype
            && self.adrfam == other.adrfam
            && same(&self.traddr, &other.traddr)
            && same(&self.trsvcid, &other.trsvcid)
            && self.subnqn == other.subnqn
    }

    /// The entry of the discovery log page (NVM Express Base 2.0, figure 264).
    pub(super) fn entry(&self) -> DiscoveryEntry {
        DiscoveryEntry {
            adrfam: self.adrfam as u8,
            trtype: match &*self.trtype {
                "RDMA" => 1,
                "FC" => 2,
                "TCP" => vda_nvme::log::TRTYPE_TCP,
                // SPDK's own numbers for others do not fit into the field: nothing is left of them.
                _ => 0,
            },
            subtype: match self.subnqn == DISCOVERY_NQN {
                true => SubsystemType::Referral,
                false => SubsystemType::Nvm,
            },
            // Secure channel: required, or not required.
            treq: if self.secure_channel { 1 } else { 2 },
            portid: 0,
            cntlid: CNTLID_DYNAMIC,
            asqsz: 0,
            trsvcid: self.trsvcid.clone(),
            subnqn: self.subnqn.clone(),
            traddr: self.traddr.clone(),
        }
    }

    fn show(&self) -> NvmfReferral {
        let address = Trid {
            trtype: self.trtype.clone(),
            adrfam: Some(self.adrfam.name().to_owned()),
            traddr: Some(self.traddr.clone()),
            trsvcid: Some(self.trsvcid.clone()),
            subnqn: None,
        };
        let (secure_channel, subnqn) = (Some(self.secure_channel), Some(self.subnqn.clone()));
        NvmfReferral { address, secure_channel, subnqn }
    }
}

impl Target {
    /// `nvmf_discovery_add_referral`. One that is there already stays as it is.
    ///
    /// # Errors
    /// An address family that does not exist, a text that is too long, no service id for TCP or RDMA, a malformed NQN.
    pub fn add_referral(
        &self,
        address: &ListenAddress,
        secure_channel: bool,
        subnqn: Option<&str>,
    ) -> Result<(), TargetError> {
        let referral = Referral { secure_channel, ..Referral::new(address, subnqn)? };
        if !nqn::is_valid(&referral.subnqn) {
            return Err(TargetError::Internal { reason: format!("{} is not an NQN", referral.subnqn) });
        }
        if self.referrals.borrow().iter().any(|other| other.is(&referral)) {
            return Ok(());
        }
        // The newest is shown first, as in SPDK.
        self.referrals.borrow_mut().insert(0, referral);
        self.discovery_changed(None);
        Ok(())
    }

    /// `nvmf_discovery_remove_referral`.
    ///
    /// # Errors
    /// [`TargetError::NoReferral`], and what [`Self::add_referral`] refuses of an address.
    pub fn remove_referral(&self, address: &ListenAddress, subnqn: Option<&str>) -> Result<(), TargetError> {
        let referral = match Referral::new(address, subnqn) {
            // SPDK does not ask for it here, and finds none without.
            Err(TargetError::NoService) => return Err(TargetError::NoReferral),
            made => made?,
        };
        let mut referrals = self.referrals.borrow_mut();
        let before = referrals.len();
        referrals.retain(|other| !other.is(&referral));
        if referrals.len() == before {
            return Err(TargetError::NoReferral);
        }
        drop(referrals);
        self.discovery_changed(None);
        Ok(())
    }

    /// `nvmf_discovery_get_referrals`.
    pub fn show_referrals(&self) -> Vec<NvmfReferral> {
        self.referrals.borrow().iter().map(Referral::show).collect()
    }
}
