//! I/O of a raid1.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures::future::{join, join_all};

use super::{Member, Members, OnMember, Raid, has};
use crate::bdev::{IoError, IoType};

/// Does an I/O on a member and counts it there meanwhile.
async fn on<T>(member: &Rc<Member>, io: impl Future<Output = T>) -> T {
    let on = OnMember::begin(member);
    let result = io.await;
    drop(on);
    result
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
            match on(&member, member.desc.read(lba, buf)).await {
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
        let members = self.members.borrow();
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let (late, early) = members.split_at(turn % members.len().max(1));
        early
            .iter()
            .chain(late)
            .filter(|m| m.in_sync.get() && !failed.iter().any(|(f, _)| Rc::ptr_eq(f, m)))
            .min_by_key(|m| m.inflight.get())
            .cloned()
    }

    /// Writes to all members. Acknowledged when those that stay members have it.
    pub(super) async fn mirror_write(
        self: Rc<Self>,
        lba: u64,
        data: Bytes,
        fua: bool,
    ) -> Result<(), IoError> {
        let blocks = data.len() as u64 / u64::from(self.block_size.get());
        let locked = self.changes.lock(lba, lba + blocks).await;
        let result = self.on_all(|m| m.desc.write(lba, data.clone(), fua)).await;
        drop(locked);
        result
    }

    /// Makes blocks zero on all members.
    pub(super) async fn mirror_zero(self: Rc<Self>, lba: u64, blocks: u64, fua: bool) -> Result<(), IoError> {
        let locked = self.changes.lock(lba, lba + blocks).await;
        let result = self.on_all(|m| m.desc.write_zeroes(lba, blocks, fua)).await;
        drop(locked);
        result
    }

    /// Deallocates blocks on all members. What a member reads there afterwards is its own affair, but all members have to read the
    /// same: so they are made zero, which costs nothing where they were given back.
    pub(super) async fn mirror_unmap(self: Rc<Self>, lba: u64, blocks: u64) -> Result<(), IoError> {
        let locked = self.changes.lock(lba, lba + blocks).await;
        // Deallocation is a hint: all members take it, or none.
        let result = if self.members.borrow().iter().all(|m| m.desc.supports(IoType::Unmap)) {
            match self.on_all(|m| m.desc.unmap(lba, blocks)).await {
                Ok(()) => self.on_all(|m| m.desc.write_zeroes(lba, blocks, false)).await,
                Err(e) => Err(e),
            }
        } else {
            Ok(())
        };
        drop(locked);
        result
    }

    /// Makes durable on all members what was acknowledged.
    pub(super) async fn mirror_flush(self: Rc<Self>) -> Result<(), IoError> {
        loop {
            let members = self.members();
            let result = self.on_each(&members, |m| m.desc.flush()).await;
            // All who flushed have been replaced meanwhile: then those who are in sync now have to.
            let replaced = || self.members().iter().any(|m| m.in_sync.get() && !has(&members, m));
            match result {
                Err(IoError::Removed) if replaced() => {}
                result => return result,
            }
        }
    }

    /// Does the same on all who are members now, and waits for all of them.
    async fn on_all<F>(self: &Rc<Self>, io: impl Fn(&Member) -> F) -> Result<(), IoError>
    where
        F: Future<Output = Result<(), IoError>>,
    {
        self.on_each(&self.members(), io).await
    }

    async fn on_each<F>(self: &Rc<Self>, members: &Members, io: impl Fn(&Member) -> F) -> Result<(), IoError>
    where
        F: Future<Output = Result<(), IoError>>,
    {
        match &**members {
            // What is nearly always so, without allocation.
            [one] => {
                let result = on(one, io(one)).await;
                self.settle(members, &[result])
            }
            [one, two] => {
                let (first, second) = join(on(one, io(one)), on(two, io(two))).await;
                self.settle(members, &[first, second])
            }
            _ => {
                let results = join_all(members.iter().map(|m| on(m, io(m)))).await;
                self.settle(members, &results)
            }
        }
    }

    /// Decides what an operation on several members means: who failed where another succeeded is no member any more, before
    /// anybody is told of the success.
    fn settle(self: &Rc<Self>, members: &Members, results: &[Result<(), IoError>]) -> Result<(), IoError> {
        let unchanged = Rc::ptr_eq(members, &self.members.borrow());
        if unchanged && !members.is_empty() && results.iter().all(Result::is_ok) {
            return Ok(());
        }
        let outcome = || members.iter().zip(results).filter(|(m, _)| self.has(m));
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
        let others: Vec<_> = outcome().map(|(m, _)| Rc::clone(m)).collect();
        for member in others {
            if keep.as_ref().is_none_or(|k| !Rc::ptr_eq(k, &member)) {
                self.fail(&member, error);
            }
        }
        Err(error)
    }

    /// Drops a member for an I/O error, unless it is the last one in sync.
    pub(super) fn fail(self: &Rc<Self>, member: &Rc<Member>, error: IoError) {
        let others = self.members.borrow().iter().any(|m| m.in_sync.get() && !Rc::ptr_eq(m, member));
        if !others || !self.detach(member) {
            return;
        }
        tracing::warn!(raid = %self.name, member = member.desc.name(), %error, "member dropped from the mirror");
        // The descriptor closes when the last I/O on it has ended; nobody waits for that here.
    }
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
