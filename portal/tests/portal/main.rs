//! The portal's service over gRPC on loopback, on the store in memory and on a real etcd.
#![allow(clippy::unwrap_used, reason = "a test ends there")]

mod bad_input;
mod bed;
mod capacity;
mod etcd;
mod idempotency;
mod life;
mod lists;
mod process;
mod watch;

/// Runs a scenario on both kinds of store.
macro_rules! on_both {
    ($($(#[$meta:meta])* $name:ident),+ $(,)?) => {
        $(
            $(#[$meta])*
            mod $name {
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn in_memory() {
                    super::run::$name(crate::bed::Bed::in_memory().await).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_etcd() {
                    super::run::$name(crate::bed::Bed::on_etcd().await).await;
                }
            }
        )+
    };
}
pub(crate) use on_both;
