//! SPDK's JSON-RPC, typed: one struct per method with its reply, closed sets as enums, errors that can be asked
//! what they mean, and a client.
//!
//! The same structs are used from both ends: the client serialises a [`Call`] and decodes its reply, the embedded
//! data plane decodes the call and serialises the reply. What SPDK calls a parameter is a field of the same name.
//!
//! The crate knows SPDK and nothing of VDA.

#[macro_use]
mod macros;

mod bdev;
mod bdev_modules;
mod bdev_nvme;
mod bdev_nvme_reply;
mod client;
mod errno;
mod error;
mod framework;
pub mod framing;
mod lvol;
mod nvmf;
mod nvmf_reply;
mod raid;

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use bdev::*;
pub use bdev_modules::*;
pub use bdev_nvme::*;
pub use bdev_nvme_reply::*;
pub use client::{Client, Endpoint, Link};
pub use errno::Errno;
pub use error::{Error, code};
pub use framework::*;
pub use lvol::*;
pub use nvmf::*;
pub use nvmf_reply::*;
pub use raid::*;
pub use uuid::Uuid;

/// One parameter of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    pub name: &'static str,
    pub required: bool,
}

/// A JSON-RPC method of SPDK. The implementing struct is its `params`.
pub trait Call: Serialize + DeserializeOwned + Debug + Send + Sync + 'static {
    /// The method's name on the wire.
    const METHOD: &'static str;
    /// The parameters in the order of the fields: required ones first.
    const PARAMS: &'static [Param];
    /// `result` of the answer.
    type Reply: Serialize + DeserializeOwned + Debug + Send + 'static;
}

/// Something that answers calls: [`Client`], or a fake in a test.
///
/// A fake matches on `C::METHOD`, and converts with `serde_json::to_value(&call)` and `serde_json::from_value(reply)`.
pub trait Rpc: Send + Sync {
    /// Sends one call and waits for its answer.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::Timeout`] and [`Error::Transport`] it is unknown whether the call was executed.
    fn call<C: Call>(&self, call: C) -> impl Future<Output = Result<C::Reply, Error>> + Send;
}

impl<R: Rpc> Rpc for Arc<R> {
    fn call<C: Call>(&self, call: C) -> impl Future<Output = Result<C::Reply, Error>> + Send {
        self.as_ref().call(call)
    }
}

impl<R: Rpc> Rpc for &R {
    fn call<C: Call>(&self, call: C) -> impl Future<Output = Result<C::Reply, Error>> + Send {
        R::call(self, call)
    }
}
