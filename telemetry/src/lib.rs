//! What every VDA process does the same way: logs, request ids on every hop, shutdown.
//!
//! Knows no other crate of VDA. A binary flattens [`LogArgs`] into its arguments and hands its work to [`run()`]; a gRPC server adds
//! [`RequestIdLayer`], a gRPC client wraps its channel with [`propagate`].

mod logs;
mod request_id;
mod run;
mod shutdown;

pub use logs::{LogArgs, LogFormat};
pub use request_id::{
    HEADER, RequestId, RequestIdLayer, RequestIdService, current, propagate, with_request_id,
};
pub use run::run;
pub use shutdown::Shutdown;
