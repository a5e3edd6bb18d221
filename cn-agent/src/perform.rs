//! Carrying actions out.

use vda_reconcile::Fault;
use vda_reconcile::parts::{export, lvol, lvstore};
use vda_spdk::{
    BdevNullCreate, BdevNullDelete, BdevNvmeDetachController, BdevRaidAddBaseBdev, BdevRaidDelete,
    BdevRaidRemoveBaseBdev, Rpc,
};

use crate::resources::Action;

pub(crate) async fn perform(target: &impl Rpc, action: &Action) -> Result<(), Fault> {
    match action.clone() {
        Action::Attach(call) => target.call(*call).await.map(drop)?,
        Action::Detach { name } => target.call(BdevNvmeDetachController::new(name)).await.map(drop)?,
        Action::CreateNull { name, block_size, blocks } => {
            target.call(BdevNullCreate::new(name, block_size, blocks)).await.map(drop)?;
        }
        Action::DeleteNull { name } => target.call(BdevNullDelete::new(name)).await.map(drop)?,
        Action::CreateRaid(call) => target.call(*call).await.map(drop)?,
        Action::DeleteRaid { name } => target.call(BdevRaidDelete::new(name)).await.map(drop)?,
        Action::AddBase { raid, bdev } => {
            target.call(BdevRaidAddBaseBdev::new(raid, bdev)).await.map(drop)?
        }
        Action::RemoveBase { bdev } => target.call(BdevRaidRemoveBaseBdev::new(bdev)).await.map(drop)?,
        Action::Lvstore(action) => lvstore::perform(target, &action).await?,
        Action::Lvol(action) => lvol::perform(target, &action).await?,
        Action::Export(action) => export::perform(target, &action).await?,
    }
    Ok(())
}
