//! Following a resource until it is ready or gone, with progress on stderr.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};
use vda_proto::v1::{ResourceRef, WatchReply, WatchRequest, resource_ref::Kind, watch_request::Until};

use crate::{args::Patience, cell, failure::Failure, output::complain, session::Session};

/// What to wait for.
pub(crate) struct Goal {
    /// Noun and name: "da da0".
    pub(crate) about: String,
    pub(crate) request: WatchRequest,
}

impl Goal {
    /// Ready as specified at `revision` or later.
    pub(crate) fn ready(kind: Kind, noun: &str, name: &str, revision: u64) -> Self {
        Self::new(kind, noun, name, Until::Ready, revision, String::new())
    }

    /// Deleted without a trace. `id` is that of the [`vda_proto::v1::DeleteReply`].
    pub(crate) fn gone(kind: Kind, noun: &str, name: &str, id: String) -> Self {
        Self::new(kind, noun, name, Until::Gone, 0, id)
    }

    fn new(kind: Kind, noun: &str, name: &str, until: Until, min_revision: u64, id: String) -> Self {
        let resource = Some(ResourceRef { kind: kind.into(), name: name.to_owned() });
        let request = WatchRequest { resource, until: until.into(), min_revision, id };
        Self { about: format!("{noun} {}", name.replace('/', " ")), request }
    }

    /// What has become of a deletion.
    pub(crate) fn fate(&self, gone: bool) -> String {
        match gone {
            true => format!("{} deleted\n", self.about),
            false => format!("{} is being deleted\n", self.about),
        }
    }

    fn until(&self) -> &'static str {
        match self.request.until() {
            Until::Gone => "gone",
            Until::Ready | Until::Unspecified => "ready",
        }
    }
}

/// How a portal that has gone away is tried again while waiting: another one may answer at this address.
const RECONNECT: Duration = Duration::from_millis(250);

impl Session {
    /// Follows `goal` as long as `patience` says; whether it was met. With [`Patience::Remark`] nothing here is an error: the request itself was accepted.
    pub(crate) async fn wait(&self, goal: &Goal, patience: Patience) -> Result<bool, Failure> {
        let limit = match patience {
            Patience::None => return Ok(false),
            Patience::Remark(limit) | Patience::Insist(limit) => limit,
        };
        let started = Instant::now();
        let mut progress = Progress::new(&goal.about);
        let followed = timeout_at(started + limit, self.follow(goal, &mut progress)).await;
        match followed {
            Ok(Ok(())) => {
                progress.done(goal.until(), started.elapsed());
                Ok(true)
            }
            Ok(Err(failure)) if matches!(patience, Patience::Remark(_)) => {
                progress.end();
                complain(&format!("accepted, but cannot be followed:\n{}", failure.render(false)));
                Ok(false)
            }
            Ok(Err(failure)) => {
                progress.end();
                Err(failure)
            }
            Err(_) => {
                let last = progress.end();
                let failure =
                    Failure::TimedOut { about: goal.about.clone(), until: goal.until(), after: limit, last };
                match patience {
                    Patience::Insist(_) => Err(failure),
                    _ => {
                        complain(&failure.render(false).replacen("error:", "accepted, but", 1));
                        Ok(false)
                    }
                }
            }
        }
    }

    async fn follow(&self, goal: &Goal, progress: &mut Progress<'_>) -> Result<(), Failure> {
        loop {
            match self.follow_once(goal, progress).await {
                Ok(()) => return Ok(()),
                Err(status) if status.code() == Code::Unavailable => {
                    progress.show(format!("portal unavailable: {}", status.message()));
                    sleep(RECONNECT).await;
                }
                Err(status) => return Err(self.failed(&goal.about, None, status)),
            }
        }
    }

    async fn follow_once(&self, goal: &Goal, progress: &mut Progress<'_>) -> Result<(), Status> {
        let mut replies = self.portal().watch(goal.request.clone()).await?.into_inner();
        while let Some(reply) = replies.next().await {
            let reply = reply?;
            if reply.met {
                return Ok(());
            }
            progress.show(describe(&reply));
        }
        Err(Status::unavailable("the portal ended the watch"))
    }
}

fn describe(reply: &WatchReply) -> String {
    cell::phrase(reply.status.as_ref())
}

/// One line that is rewritten on a terminal; elsewhere a line per change.
struct Progress<'a> {
    about: &'a str,
    terminal: bool,
    last: String,
}

impl<'a> Progress<'a> {
    fn new(about: &'a str) -> Self {
        Self { about, terminal: io::stderr().is_terminal(), last: String::new() }
    }

    fn show(&mut self, state: String) {
        if state == self.last {
            return;
        }
        match self.terminal {
            true => complain(&format!("\r\x1b[K{}: {state}", self.about)),
            false => complain(&format!("{}: {state}\n", self.about)),
        }
        self.last = state;
    }

    fn done(&mut self, until: &str, after: Duration) {
        self.clear();
        complain(&format!("{}: {until} after {:.2} s\n", self.about, after.as_secs_f64()));
    }

    /// The last state shown.
    fn end(&mut self) -> String {
        self.clear();
        match self.last.is_empty() {
            true => "nothing observed yet".to_owned(),
            false => self.last.clone(),
        }
    }

    fn clear(&self) {
        if self.terminal && !self.last.is_empty() {
            complain("\r\x1b[K");
        }
    }
}
