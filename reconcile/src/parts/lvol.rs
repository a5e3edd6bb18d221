//! Lvols: thin, and never made smaller.

use vda_proto::v1::Qos;
use vda_spdk::{Bdev, BdevLvolCreate, BdevLvolDelete, BdevLvolResize, BdevSetQosLimit, RateLimits, Rpc};

use crate::execute::Fault;

const MIB: u64 = 1 << 20;
/// SPDK rounds limits of I/O operations up to multiples of this.
const IOPS_UNIT: u64 = 1000;

/// What an lvol should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LvolSpec {
    pub lvstore: String,
    /// Within the lvstore.
    pub name: String,
    /// A multiple of MiB.
    pub size_bytes: u64,
    pub limits: Limits,
}

/// What an lvol is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LvolState {
    /// Its bdev's name (the lvol's UUID).
    pub bdev: String,
    pub size_bytes: u64,
    pub limits: Limits,
}

/// Upper limits of I/O; 0: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub rw_ios_per_sec: u64,
    pub rw_mbytes_per_sec: u64,
    pub r_mbytes_per_sec: u64,
    pub w_mbytes_per_sec: u64,
}

impl From<&RateLimits> for Limits {
    fn from(r: &RateLimits) -> Self {
        Self {
            rw_ios_per_sec: r.rw_ios_per_sec,
            rw_mbytes_per_sec: r.rw_mbytes_per_sec,
            r_mbytes_per_sec: r.r_mbytes_per_sec,
            w_mbytes_per_sec: r.w_mbytes_per_sec,
        }
    }
}

impl From<Option<&Qos>> for Limits {
    /// As the data plane will show them.
    fn from(qos: Option<&Qos>) -> Self {
        qos.map_or_else(Self::default, |q| Self {
            rw_ios_per_sec: q.rw_ios_per_sec.div_ceil(IOPS_UNIT).saturating_mul(IOPS_UNIT),
            rw_mbytes_per_sec: q.rw_mbytes_per_sec,
            r_mbytes_per_sec: q.r_mbytes_per_sec,
            w_mbytes_per_sec: q.w_mbytes_per_sec,
        })
    }
}

impl From<&Bdev> for LvolState {
    fn from(b: &Bdev) -> Self {
        Self { bdev: b.name.clone(), size_bytes: b.size(), limits: Limits::from(&b.assigned_rate_limits) }
    }
}

/// Calls about an lvol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LvolAction {
    Create {
        lvstore: String,
        name: String,
        mib: u64,
    },
    /// To a larger size: a smaller one would cut data off.
    Grow {
        alias: String,
        mib: u64,
    },
    SetLimits {
        alias: String,
        limits: Limits,
    },
    /// Deletes its contents.
    Delete {
        alias: String,
    },
}

impl LvolSpec {
    fn alias(&self) -> String {
        format!("{}/{}", self.lvstore, self.name)
    }

    /// What makes it, when it is absent.
    pub fn create(&self) -> Vec<LvolAction> {
        let create = LvolAction::Create {
            lvstore: self.lvstore.clone(),
            name: self.name.clone(),
            mib: self.size_bytes.div_ceil(MIB),
        };
        let limits = (self.limits != Limits::default())
            .then(|| LvolAction::SetLimits { alias: self.alias(), limits: self.limits });
        std::iter::once(create).chain(limits).collect()
    }

    /// What turns `state` into it; empty: it is.
    pub fn adjust(&self, state: &LvolState) -> Vec<LvolAction> {
        let grow = (state.size_bytes < self.size_bytes)
            .then(|| LvolAction::Grow { alias: self.alias(), mib: self.size_bytes.div_ceil(MIB) });
        let limits = (state.limits != self.limits)
            .then(|| LvolAction::SetLimits { alias: self.alias(), limits: self.limits });
        grow.into_iter().chain(limits).collect()
    }
}

/// Carries an action out.
///
/// # Errors
/// What the data plane said.
pub async fn perform(rpc: &impl Rpc, action: &LvolAction) -> Result<(), Fault> {
    match action {
        LvolAction::Create { lvstore, name, mib } => {
            rpc.call(BdevLvolCreate {
                lvs_name: Some(lvstore.clone()),
                thin_provision: Some(true),
                ..BdevLvolCreate::new(name.clone(), *mib)
            })
            .await?;
        }
        LvolAction::Grow { alias, mib } => {
            rpc.call(BdevLvolResize::new(alias.clone(), *mib)).await?;
        }
        LvolAction::SetLimits { alias, limits } => {
            rpc.call(BdevSetQosLimit {
                rw_ios_per_sec: Some(limits.rw_ios_per_sec),
                rw_mbytes_per_sec: Some(limits.rw_mbytes_per_sec),
                r_mbytes_per_sec: Some(limits.r_mbytes_per_sec),
                w_mbytes_per_sec: Some(limits.w_mbytes_per_sec),
                ..BdevSetQosLimit::new(alias.clone())
            })
            .await?;
        }
        LvolAction::Delete { alias } => {
            rpc.call(BdevLvolDelete::new(alias.clone())).await?;
        }
    }
    Ok(())
}
