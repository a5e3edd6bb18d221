//! Creates, renames, resizes and deletes volumes that no host has, gives them other parents, makes them read-only and copies them; takes
//! snapshots of all, and makes clones leave their parents.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use rand::RngExt;
use rand::rngs::SmallRng;

use super::model::{Allowed, Shared, Vol, stamp_of, zeros};
use super::{BLOCK, End, LOOKED_AT, LVS, external_stamp};
use crate::bdev::Registry;
use crate::lvstore::{LvolClear, LvolError, LvolModule};

pub(super) struct Admin {
    pub(super) registry: Registry,
    pub(super) module: Rc<LvolModule>,
    pub(super) model: Shared,
    pub(super) end: End,
    /// Volumes that no host has.
    pub(super) idle: Vec<u64>,
    pub(super) rng: SmallRng,
}

impl Admin {
    pub(super) async fn run(mut self) {
        for _ in 0..16 {
            let pick = (!self.idle.is_empty()).then(|| self.rng.random_range(0..self.idle.len()));
            let any = {
                let vols: Vec<_> = self.model.borrow().vols.keys().copied().collect();
                (!vols.is_empty()).then(|| vols[self.rng.random_range(0..vols.len())])
            };
            match (self.rng.random_range(0..16), pick, any) {
                (0 | 1, Some(n), _) => self.delete(n).await,
                (2, Some(n), _) => self.rename(self.idle[n]).await,
                (3, Some(n), _) => {
                    let mib = self.rng.random_range(0..3);
                    self.resize(self.idle[n], mib).await;
                }
                (4 | 5, _, Some(id)) => self.snapshot(id).await,
                (6, Some(n), _) => self.clone_of(self.idle[n]).await,
                (7, ..) => self.clone_external().await,
                (8, _, Some(id)) => self.leave_parent(id, true).await,
                (9, _, Some(id)) => self.leave_parent(id, false).await,
                (10 | 11, Some(n), _) => self.other_parent(self.idle[n]).await,
                (12, Some(n), _) if self.rng.random_bool(0.3) => self.set_read_only(self.idle[n]).await,
                (13, Some(n), _) => self.shallow_copy(self.idle[n]).await,
                _ => {
                    let thin = self.rng.random_bool(0.7);
                    self.create(thin).await;
                }
            }
        }
    }

    fn vol(&self, id: u64) -> Vol {
        self.model.borrow().vols[&id].clone()
    }

    fn with<T>(&self, id: u64, f: impl FnOnce(&mut Vol) -> T) -> T {
        f(self.model.borrow_mut().vols.get_mut(&id).unwrap())
    }

    /// A volume that is about to be made.
    fn begin(&self, mib: u64, blocks: Vec<Allowed>) -> (u64, String) {
        let mut model = self.model.borrow_mut();
        let id = model.fresh();
        let name = format!("v{id}");
        model.vols.insert(id, Vol::new(name.clone(), mib, blocks));
        (id, name)
    }

    /// It was made, or not.
    fn made(&mut self, id: u64, result: Result<uuid::Uuid, LvolError>) -> bool {
        match result {
            Ok(_) => {
                self.with(id, |v| v.may_be_absent = false);
                self.idle.push(id);
                true
            }
            Err(LvolError::NoSpace | LvolError::Io(crate::bdev::IoError::NoSpace)) => {
                self.model.borrow_mut().vols.remove(&id);
                false
            }
            Err(e) => panic!("{e}"),
        }
    }

    async fn create(&mut self, thin: bool) {
        // There is room for one thick one at a time.
        let (id, name) = self.begin(1, zeros());
        let clear = [LvolClear::Unmap, LvolClear::WriteZeroes, LvolClear::None][self.rng.random_range(0..3)];
        let created = self.module.create(LVS, &name, 1, thin, clear).await;
        self.made(id, created);
    }

    async fn delete(&mut self, n: usize) {
        let id = self.idle[n];
        let alias = self.with(id, |v| {
            v.may_be_absent = true;
            v.alias()
        });
        match self.module.delete(&alias).await {
            Ok(()) => {
                self.with(id, |v| v.must_be_absent = true);
                self.idle.remove(n);
            }
            Err(LvolError::HasClones { .. }) => self.with(id, |v| v.may_be_absent = false),
            Err(e) => panic!("{e}"),
        }
    }

    async fn rename(&mut self, id: u64) {
        let new = format!("v{id}r{}", self.model.borrow_mut().fresh());
        let old = self.with(id, |v| {
            v.names.push(new.clone());
            v.alias()
        });
        let read_only = self.vol(id).read_only;
        match self.module.rename(&old, &new).await {
            Ok(()) => self.with(id, |v| v.names = vec![new]),
            Err(LvolError::ReadOnly { .. }) if read_only => self.with(id, |v| v.names.truncate(1)),
            Err(e) => panic!("{e}"),
        }
    }

    async fn resize(&mut self, id: u64, mib: u64) {
        if self.vol(id).read_only {
            return;
        }
        let alias = self.with(id, |v| {
            v.mib.push(mib);
            if mib == 0 {
                // What is cut off comes back as zeros.
                v.blocks.iter_mut().for_each(|a| a.after.push(0));
            }
            v.alias()
        });
        let done = self.module.resize(&alias, mib).await;
        self.with(id, |v| match done {
            Ok(()) => {
                v.mib = vec![mib];
                if mib == 0 {
                    v.blocks.fill(Allowed::default());
                }
            }
            Err(_) => {
                v.mib.pop();
            }
        });
    }

    async fn snapshot(&mut self, of: u64) {
        let origin = self.vol(of);
        if origin.read_only || origin.must_be_absent || origin.taking.is_some() {
            return;
        }
        let taking = self.model.borrow().snapshot_of(of);
        let found = |(now, after): (Vec<u64>, Vec<u64>)| Allowed {
            after: if self.end == End::Kill { now.clone() } else { after },
            now,
            coming: Vec::new(),
        };
        let blocks = taking.blocks.into_iter().zip(taking.after).map(found).collect();
        let (id, name) = self.begin(origin.mib[0], blocks);
        self.with(id, |v| v.read_only = true);
        self.with(of, |v| v.taking = Some(id));
        let taken = self.module.snapshot(&origin.alias(), &name).await;
        self.with(of, |v| v.taking = None);
        if self.made(id, taken) {
            // It is durable with what was acknowledged before.
            self.with(id, |v| v.blocks.iter_mut().for_each(|a| a.after.clone_from(&a.now)));
            self.look(id).await;
        }
    }

    /// Reads a volume that nobody writes: from then on it holds that.
    async fn look(&self, id: u64) {
        let vol = self.vol(id);
        if vol.mib[0] == 0 {
            return;
        }
        let (desc, _events) = self.registry.open(&vol.alias(), false).unwrap();
        let got = desc.read(0, BytesMut::zeroed((LOOKED_AT * BLOCK) as usize)).await.unwrap();
        for (n, block) in got.chunks(BLOCK as usize).enumerate() {
            let found = stamp_of(block);
            let allowed = &vol.blocks[n].now;
            assert!(allowed.contains(&found), "v{id} block {n}: {found} not in {allowed:?}");
            self.with(id, |v| v.blocks[n] = Allowed::of(found));
        }
    }

    async fn clone_of(&mut self, of: u64) {
        if !self.vol(of).read_only {
            return;
        }
        self.look(of).await;
        let snapshot = self.vol(of);
        let (id, name) = self.begin(snapshot.mib[0], snapshot.blocks.clone());
        let made = self.module.clone_lvol(&snapshot.alias(), &name).await;
        self.made(id, made);
    }

    async fn clone_external(&mut self) {
        let blocks = (0..LOOKED_AT).map(|n| Allowed::of(external_stamp(n))).collect();
        let (id, name) = self.begin(1, blocks);
        let made = self.module.clone_bdev("ext", "lvs", &name).await;
        self.made(id, made);
    }

    /// What the volume has itself stays; where it has nothing it shows its new parent.
    async fn other_parent(&mut self, id: u64) {
        let vol = self.vol(id);
        if vol.read_only {
            // Others may show it.
            return;
        }
        let parents: Vec<Vol> = {
            let model = self.model.borrow();
            let fits = |v: &&Vol| v.read_only && v.mib == vol.mib && !v.may_be_absent && v.names != vol.names;
            model.vols.values().filter(fits).cloned().collect()
        };
        let external: Vec<_> = (0..LOOKED_AT).map(|n| Allowed::of(external_stamp(n))).collect();
        let parent = self.rng.random_range(0..=parents.len());
        let below = parents.get(parent).map_or(&external, |p| &p.blocks);
        self.with(id, |v| {
            for (block, below) in v.blocks.iter_mut().zip(below) {
                block.after.extend(&below.now);
                block.now.extend(&below.now);
            }
        });
        let done = match parents.get(parent) {
            Some(parent) => self.module.set_parent(&vol.alias(), &parent.alias()).await,
            None => self.module.set_parent_bdev(&vol.alias(), "ext").await,
        };
        match done {
            Ok(()) => {
                self.with(id, |v| v.blocks.iter_mut().for_each(|a| a.after.clone_from(&a.now)));
                self.look(id).await;
            }
            // It does not fit, or is that already.
            Err(LvolError::Invalid { .. } | LvolError::Exists { .. }) => {
                self.with(id, |v| v.blocks = vol.blocks);
            }
            Err(e) => panic!("{e}"),
        }
    }

    async fn set_read_only(&mut self, id: u64) {
        self.with(id, |v| v.read_only = true);
        self.module.set_read_only(&self.vol(id).alias()).await.unwrap();
    }

    /// The copy has what the volume has itself, and elsewhere what was there before.
    async fn shallow_copy(&mut self, id: u64) {
        if !self.vol(id).read_only || self.vol(id).mib[0] == 0 {
            return;
        }
        self.look(id).await;
        let before = u64::MAX;
        let pattern = Bytes::from(vec![0xff; (LOOKED_AT * BLOCK) as usize]);
        self.registry.open("copy", true).unwrap().0.write(0, pattern, false).await.unwrap();
        let vol = self.vol(id);
        let number = self.module.start_shallow_copy(&vol.alias(), "copy").await.unwrap();
        loop {
            let status = self.module.check_shallow_copy(number).unwrap();
            assert_eq!(status.error, None);
            if status.done {
                break;
            }
            tokio::task::yield_now().await;
        }
        let (copy, _events) = self.registry.open("copy", false).unwrap();
        let got = copy.read(0, BytesMut::zeroed((LOOKED_AT * BLOCK) as usize)).await.unwrap();
        for (n, block) in got.chunks(BLOCK as usize).enumerate() {
            let (found, allowed) = (stamp_of(block), &vol.blocks[n].now);
            assert!(
                found == before || allowed.contains(&found),
                "copy of v{id} block {n}: {found} not in {allowed:?}"
            );
        }
    }

    /// Changes nothing that can be seen.
    async fn leave_parent(&mut self, id: u64, all: bool) {
        let vol = self.vol(id);
        if vol.must_be_absent {
            return;
        }
        let left = match all {
            true => self.module.inflate(&vol.alias()).await,
            false => self.module.decouple_parent(&vol.alias()).await,
        };
        match left {
            Ok(()) | Err(LvolError::NoSpace | LvolError::Invalid { .. }) => {}
            Err(LvolError::Io(crate::bdev::IoError::NoSpace)) => {}
            Err(e) => panic!("{e}"),
        }
    }
}
