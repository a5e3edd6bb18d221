//! The health service says SERVING while etcd answers.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::{HealthReporter, health_reporter},
};
use vda_proto::v1::portal_server::SERVICE_NAME;
use vda_store::{RangeRequest, Store};

/// How often etcd is asked.
const EVERY: Duration = Duration::from_secs(1);

/// The service, which says NOT_SERVING until [`watch`] knows better. Without that, whoever asks first would be told that the whole server
/// is SERVING, and that the portal is an unknown service.
pub(crate) async fn service() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, service) = health_reporter();
    set(&reporter, ServingStatus::NotServing).await;
    (reporter, service)
}

/// Of the portal, and of the server as a whole.
async fn set(reporter: &HealthReporter, status: ServingStatus) {
    reporter.set_service_status("", status).await;
    reporter.set_service_status(SERVICE_NAME, status).await;
}

/// Keeps the status up to date until cancelled.
pub(crate) async fn watch(store: Store, reporter: HealthReporter, cancelled: CancellationToken) {
    let probe = RangeRequest::key(format!("{}/", store.prefix()));
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = cancelled.cancelled() => break,
        }
        let answer = store.kv().range(probe.clone()).await;
        let answers = answer.is_ok();
        if last == Some(answers) {
            continue;
        }
        match answer {
            Ok(_) if last.is_none() => tracing::info!("etcd answers, serving"),
            Ok(_) => tracing::info!("etcd answers again"),
            Err(error) => {
                tracing::warn!(%error, "etcd does not answer; every call will fail until it does, this is tried on")
            }
        }
        last = Some(answers);
        let status = if answers { ServingStatus::Serving } else { ServingStatus::NotServing };
        set(&reporter, status).await;
    }
    set(&reporter, ServingStatus::NotServing).await;
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
