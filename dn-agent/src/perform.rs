//! Carrying actions out.

use vda_model::ids::{BootId, PdId};
use vda_model::names::{Namespace, OwnedName};
use vda_reconcile::parts::{export, lvol, lvstore};
use vda_reconcile::{Fault, Observed, rpc};
use vda_spdk::{
    BdevAioCreate, BdevAioDelete, BdevMallocCreate, BdevMallocDelete, BdevNvmeAttachController,
    BdevNvmeDetachController, BdevUringCreate, BdevUringDelete, NvmfDeleteSubsystem, NvmfGetSubsystems, Rpc,
};

use crate::backend::{BLOCK_SIZE, Backend, Module, controller};
use crate::medium;
use crate::resources::Action;

pub(crate) async fn perform(target: &impl Rpc, action: &Action) -> Result<(), Fault> {
    match action {
        Action::CreateBdev { pd, backend } => create_bdev(target, *pd, backend).await,
        Action::DeleteBdev { pd, module } => delete_bdev(target, *pd, *module).await,
        Action::Inspect { filename, lvstore } => match rpc::lvstore(target, lvstore).await {
            Observed::Known(_) => Ok(()),
            Observed::Absent | Observed::Unknown => medium::inspect(filename).await,
        },
        Action::Lvstore(action) => lvstore::perform(target, action).await,
        Action::Lvol(action) => lvol::perform(target, action).await,
        Action::Export(action) => export::perform(target, action).await,
    }
}

/// Removes the subsystems named by another boot of this node, before anything else is done: what has such a name must not be found any more. After
/// a real start of the node there is none.
pub(crate) async fn withdraw_old_boots(target: &impl Rpc, boot: BootId) -> Result<(), Fault> {
    for subsystem in target.call(NvmfGetSubsystems::default()).await? {
        let old = match OwnedName::parse(Namespace::Nqn, &subsystem.nqn) {
            Some(OwnedName::VdSubsystem(_, Some(of))) => of != boot,
            _ => false,
        };
        if old {
            tracing::warn!(nqn = subsystem.nqn, %boot, "exported with another boot of this node: removed");
            target.call(NvmfDeleteSubsystem::new(subsystem.nqn)).await?;
        }
    }
    Ok(())
}

async fn create_bdev(target: &impl Rpc, pd: PdId, backend: &Backend) -> Result<(), Fault> {
    let name = OwnedName::PdBdev(pd).to_string();
    match backend {
        Backend::Malloc { size_bytes } => {
            let blocks = size_bytes / u64::from(BLOCK_SIZE);
            let call = BdevMallocCreate { name: Some(name), ..BdevMallocCreate::new(BLOCK_SIZE, blocks) };
            target.call(call).await.map(drop)?;
        }
        Backend::Aio { filename } => {
            let call =
                BdevAioCreate { block_size: Some(BLOCK_SIZE), ..BdevAioCreate::new(name, filename.clone()) };
            target.call(call).await.map(drop)?;
        }
        Backend::Uring { filename } => {
            let call = BdevUringCreate {
                block_size: Some(BLOCK_SIZE),
                ..BdevUringCreate::new(filename.clone(), name)
            };
            target.call(call).await.map(drop)?;
        }
        Backend::Nvme { traddr } => {
            target
                .call(BdevNvmeAttachController::new(controller(pd), "PCIe", traddr.clone()))
                .await
                .map(drop)?;
        }
    }
    Ok(())
}

async fn delete_bdev(target: &impl Rpc, pd: PdId, module: Module) -> Result<(), Fault> {
    let name = OwnedName::PdBdev(pd).to_string();
    match module {
        Module::Malloc => target.call(BdevMallocDelete::new(name)).await.map(drop)?,
        Module::Aio => target.call(BdevAioDelete::new(name)).await.map(drop)?,
        Module::Uring => target.call(BdevUringDelete::new(name)).await.map(drop)?,
        Module::Nvme => target.call(BdevNvmeDetachController::new(controller(pd))).await.map(drop)?,
        Module::Other => {
            let message = format!("bdev {name} belongs to a module VDA does not use: remove it by hand");
            return Err(Fault::refused("bdev_get_bdevs", message));
        }
    }
    Ok(())
}
