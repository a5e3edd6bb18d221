//! What a PD's bdev is made of.

use vda_model::ids::PdId;
use vda_model::names::{OwnedName, pd_base_bdev};
use vda_proto::v1::{PdBackend, pd_backend::Kind};
use vda_reconcile::parts::lvstore::Format;
use vda_spdk::Bdev;

/// Block size of bdevs whose medium does not prescribe one, in bytes.
pub(crate) const BLOCK_SIZE: u32 = 4096;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A bdev module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    Malloc,
    Aio,
    Uring,
    Nvme,
    /// None that VDA uses.
    Other,
}

/// What a PD's bdev should be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    Malloc { size_bytes: u64 },
    Aio { filename: String },
    Uring { filename: String },
    Nvme { traddr: String },
}

impl Backend {
    /// `None`: the message names none.
    pub(crate) fn of(backend: &PdBackend) -> Option<Self> {
        Some(match backend.kind.as_ref()? {
            Kind::Malloc(m) => Self::Malloc { size_bytes: m.size_bytes },
            Kind::Aio(f) => Self::Aio { filename: f.filename.clone() },
            Kind::Uring(f) => Self::Uring { filename: f.filename.clone() },
            Kind::Nvme(n) => Self::Nvme { traddr: n.traddr.clone() },
        })
    }

    pub(crate) const fn module(&self) -> Module {
        match self {
            Self::Malloc { .. } => Module::Malloc,
            Self::Aio { .. } => Module::Aio,
            Self::Uring { .. } => Module::Uring,
            Self::Nvme { .. } => Module::Nvme,
        }
    }

    /// Its content does not survive a restart of the data plane.
    pub(crate) const fn volatile(&self) -> bool {
        matches!(self, Self::Malloc { .. })
    }

    /// Name of the bdev.
    pub(crate) fn bdev(&self, pd: PdId) -> String {
        pd_base_bdev(pd, matches!(self, Self::Nvme { .. })).to_string()
    }

    pub(crate) const fn filename(&self) -> Option<&String> {
        match self {
            Self::Aio { filename } | Self::Uring { filename } => Some(filename),
            Self::Malloc { .. } | Self::Nvme { .. } => None,
        }
    }
}

/// What a PD's bdev is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BdevState {
    pub name: String,
    pub module: Module,
    pub filename: Option<String>,
    pub size_bytes: u64,
}

impl From<Bdev> for BdevState {
    fn from(b: Bdev) -> Self {
        let size_bytes = b.size();
        let specific = b.driver_specific;
        let (module, filename) = if let Some(aio) = specific.aio {
            (Module::Aio, Some(aio.filename))
        } else if let Some(uring) = specific.uring {
            (Module::Uring, Some(uring.filename))
        } else if specific.nvme.is_some() {
            (Module::Nvme, None)
        } else if b.product_name == "Malloc disk" {
            (Module::Malloc, None)
        } else {
            (Module::Other, None)
        };
        Self { name: b.name, module, filename, size_bytes }
    }
}

impl BdevState {
    /// Why it is not what `backend` asks for.
    pub(crate) fn mismatch(&self, backend: &Backend) -> Option<String> {
        if self.module != backend.module() {
            return Some(format!(
                "bdev {} is a {:?} device, not {:?}",
                self.name,
                self.module,
                backend.module()
            ));
        }
        match (backend.filename(), &self.filename) {
            (Some(wanted), Some(found)) if wanted != found => {
                Some(format!("bdev {} is on {found}, not on {wanted}", self.name))
            }
            _ => None,
        }
    }

    /// How its lvstore is laid out: clusters small enough not to waste space, large enough for a short load after a crash.
    pub(crate) fn format(&self) -> Format {
        let cluster_bytes = match self.size_bytes {
            0..=0xF_FFFF_FFFF => MIB,
            size if size <= 4096 * GIB => 4 * MIB,
            _ => 32 * MIB,
        };
        let clusters = (self.size_bytes / cluster_bytes).max(1);
        // One page for every VD and every 512 of its clusters: a tenth is plenty on a large disk, a small one gets more.
        let ratio = (102_400 / clusters).clamp(10, 100);
        Format {
            cluster_bytes: u32::try_from(cluster_bytes).unwrap_or(u32::MAX),
            md_pages_per_cluster_ratio: u32::try_from(ratio).ok(),
            blank: false,
        }
    }
}

/// The NVMe controller of a PD that is a PCIe disk.
pub(crate) fn controller(pd: PdId) -> String {
    OwnedName::PdNvmeController(pd).to_string()
}
