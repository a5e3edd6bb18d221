//! I/O of a raid1.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;

use super::{Member, OnMember, Raid};
use crate::bdev::{IoError, IoFuture, IoType};

/// What changes data.
#[derive(Clone)]
pub(super) enum Change {
    Write { data: Bytes, fua: bool },
    Unmap { blocks: u64 },
    Zero { blocks: u64, fua: bool },
}

impl Change {
    fn submit(&self, member: &Rc<Member>, lba: u64) -> IoFuture<()> {
        let on = OnMember::begin(member);
        let desc = &member.desc;
        let io: IoFuture<()> = match self {
            Self::Write { data, fua } => Box::pin(desc.write(lba, data.clone(), *fua)),
            Self::Unmap { blocks } if desc.supports(IoType::Unmap) => Box::pin(desc.unmap(lba, *blocks)),
            // Deallocation is a hint.
            Self::Unmap { .. } => Box::pin(std::future::ready(Ok(()))),
            Self::Zero { blocks, fua } => Box::pin(desc.write_zeroes(lba, *blocks, *fua)),
        };
        Box::pin(async move {
            let result = io.await;
            drop(on);
            result
        })
    }
}

impl Raid {
    /// Reads from one member in sync; one that fails is dropped if another can answer.
    pub(super) async fn mirror_read(self: Rc<Self>, lba: u64, buf: BytesMut) -> Result<BytesMut, IoError> {
        let len = buf.len();
        let mut next = Some(buf);
        let mut failed: Vec<(Rc<Member>, IoError)> = Vec::new();
        loop {
            let Some(member) = self.pick(&failed) else {
                return Err(failed.first().map_or(IoError::Removed, |(_, e)| *e));
            };
            let buf = next.take().unwrap_or_else(|| BytesMut::zeroed(len));
            let on = OnMember::begin(&member);
            let result = member.desc.read(lba, buf).await;
            drop(on);
            match result {
                Ok(buf) => {
                    for (member, e) in &failed {
                        self.fail(member, *e);
                    }
                    return Ok(buf);
                }
                Err(e) if e.is_request_error() => return Err(e),
                Err(e) => failed.push((member, e)),
            }
        }
    }

    /// The member in sync with the least to do, taking turns among equals.
    fn pick(&self, failed: &[(Rc<Member>, IoError)]) -> Option<Rc<Member>> {
        let slots = self.slots.borrow();
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let n = slots.len();
        (0..n)
            .filter_map(|i| slots[(turn % n + i) % n].member.as_ref())
            .filter(|m| m.in_sync.get() && !failed.iter().any(|(f, _)| Rc::ptr_eq(f, m)))
            .min_by_key(|m| m.inflight.get())
            .cloned()
    }

    /// Makes a change on all members. It is acknowledged when those that stay members have it.
    pub(super) async fn mirror_change(
        self: Rc<Self>,
        lba: u64,
        blocks: u64,
        change: Change,
    ) -> Result<(), IoError> {
        let _entered = self.writes.write(lba, lba + blocks).await;
        let members = self.members();
        let ios: Vec<_> = members.iter().map(|m| change.submit(m, lba)).collect();
        let results = join_all(ios).await;
        self.settle(&members, &results)
    }

    /// Makes durable on all members what was acknowledged.
    pub(super) async fn mirror_flush(self: Rc<Self>) -> Result<(), IoError> {
        let members = self.members();
        let flushes = members.iter().map(|member| {
            let (on, flush) = (OnMember::begin(member), member.desc.flush());
            async move {
                let result = flush.await;
                drop(on);
                result
            }
        });
        let results = join_all(flushes).await;
        self.settle(&members, &results)
    }

    /// Decides what an operation on several members means: who failed where another succeeded is no member any more, before
    /// anybody is told of the success.
    fn settle(
        self: &Rc<Self>,
        members: &[Rc<Member>],
        results: &[Result<(), IoError>],
    ) -> Result<(), IoError> {
        let current = |m: &Rc<Member>| self.has(m);
        let outcome = || members.iter().zip(results).filter(|(m, _)| current(m));
        if outcome().any(|(m, r)| m.in_sync.get() && r.is_ok()) {
            for (member, result) in members.iter().zip(results) {
                if let Err(e) = result {
                    self.fail(member, *e);
                }
            }
            return Ok(());
        }
        let errors: Vec<_> = outcome().filter_map(|(m, r)| r.err().map(|e| (m, e))).collect();
        let Some((_, error)) = errors.first().copied() else { return Err(IoError::Removed) };
        if results.iter().all(|r| r.is_err_and(IoError::is_request_error)) {
            return Err(error);
        }
        // All in sync failed: they may have different halves of it now. One stays, whichever is still there.
        let in_sync = || errors.iter().filter(|(m, _)| m.in_sync.get());
        let keep = in_sync().find(|(_, e)| *e != IoError::Removed).or_else(|| in_sync().next());
        let keep = keep.map(|(m, _)| Rc::clone(m));
        for (member, _) in outcome() {
            if keep.as_ref().is_none_or(|k| !Rc::ptr_eq(k, member)) {
                self.fail(member, error);
            }
        }
        Err(error)
    }

    /// Drops a member for an I/O error, unless it is the last one in sync.
    pub(super) fn fail(self: &Rc<Self>, member: &Rc<Member>, error: IoError) {
        let others = self.members().iter().any(|m| m.in_sync.get() && !Rc::ptr_eq(m, member));
        if !others || !self.detach(member) {
            return;
        }
        tracing::warn!(raid = %self.name, member = member.desc.name(), %error, "member dropped from the mirror");
        // The descriptor closes when the last I/O on it has ended; nobody waits for that here.
    }
}
