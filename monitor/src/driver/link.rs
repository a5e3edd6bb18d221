//! The Observe stream to an agent, opened again whenever it is lost.

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use vda_store::Backoff;

use crate::agent::{Agent, describe};
use crate::report::Report;

/// In order: `Connected`, any number of `Told`, `Lost`, and again.
#[derive(Debug)]
pub(super) enum LinkEvent {
    Connected,
    Told(Box<Report>),
    Lost(String),
}

/// Until nobody listens any more. A stream that is silent for `silence` is given up: agents send something every second.
pub(super) async fn follow(
    agent: Agent,
    node_id: String,
    silence: Duration,
    listener: mpsc::Sender<LinkEvent>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        let opened = timeout(silence, agent.clone().observe(node_id.clone())).await;
        let detail = match opened {
            Err(_) => format!("no answer to Observe within {silence:?}"),
            Ok(Err(status)) => describe(&status),
            Ok(Ok(mut stream)) => {
                let mut first = true;
                loop {
                    match timeout(silence, stream.next()).await {
                        Err(_) => break format!("silent for {silence:?}"),
                        Ok(None) => break "the agent closed the stream".to_owned(),
                        Ok(Some(Err(status))) => break describe(&status),
                        Ok(Some(Ok(report))) => {
                            if std::mem::replace(&mut first, false) {
                                backoff.reset();
                                if listener.send(LinkEvent::Connected).await.is_err() {
                                    return;
                                }
                            }
                            if listener.send(LinkEvent::Told(Box::new(report))).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            }
        };
        if listener.send(LinkEvent::Lost(detail)).await.is_err() {
            return;
        }
        backoff.wait().await;
    }
}
