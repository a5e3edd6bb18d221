//! Looking at a data plane: what is not there is absent, what could not be asked is unknown.

use vda_spdk::{
    Bdev, BdevGetBdevs, BdevLvolGetLvstores, BdevNvmeGetControllers, Error, Lvstore, NvmeControllerGroup,
    NvmfGetSubsystems, NvmfSubsystem, Rpc,
};

use crate::graph::Observed;

/// The one element of an answer about one thing. Errors other than "not there" leave it unknown.
pub fn one<T>(answer: Result<Vec<T>, Error>) -> Observed<T> {
    match answer {
        Ok(mut list) => match list.pop() {
            Some(thing) => Observed::Known(thing),
            None => Observed::Absent,
        },
        Err(error) if error.is_not_found() => Observed::Absent,
        Err(error) => {
            if error.is_answer() {
                tracing::warn!(%error, "cannot be observed");
            } else {
                tracing::debug!(%error, "cannot be observed");
            }
            Observed::Unknown
        }
    }
}

/// The bdev with this name or alias.
pub async fn bdev(rpc: &impl Rpc, name: &str) -> Observed<Bdev> {
    one(rpc.call(BdevGetBdevs { name: Some(name.to_owned()), timeout: None }).await)
}

/// The lvstore with this name.
pub async fn lvstore(rpc: &impl Rpc, name: &str) -> Observed<Lvstore> {
    one(rpc.call(BdevLvolGetLvstores { lvs_name: Some(name.to_owned()), uuid: None }).await)
}

/// The subsystem with this NQN.
pub async fn subsystem(rpc: &impl Rpc, nqn: &str) -> Observed<NvmfSubsystem> {
    one(rpc.call(NvmfGetSubsystems { nqn: Some(nqn.to_owned()), tgt_name: None }).await)
}

/// The NVMe controller with this name.
pub async fn controller(rpc: &impl Rpc, name: &str) -> Observed<NvmeControllerGroup> {
    one(rpc.call(BdevNvmeGetControllers { name: Some(name.to_owned()) }).await)
}
