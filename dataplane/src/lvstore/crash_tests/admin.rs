//! Creates, renames and resizes volumes that no host has, gives them other parents, makes them read-only and copies them; deletes
//! volumes and takes snapshots of all, makes clones leave their parents, and grows the lvstore.

use std::rc::Rc;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;

use super::machine::Booted;
use super::model::{Allowed, Shared, Vol, contents, external, reach, zeros};
use super::resizer::{leave_parent, resize};
use super::{BLOCK, End, LVS, PER_MIB};
use crate::lvstore::{LvolClear, LvolError};

pub(super) struct Admin {
    pub(super) booted: Rc<Booted>,
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
                (0, Some(n), _) => self.delete(self.idle[n]).await,
                (1, _, Some(id)) if self.rng.random_bool(0.5) => self.delete(id).await,
                (2, Some(n), _) => self.rename(self.idle[n]).await,
                (3, Some(n), _) => {
                    let mib = self.rng.random_range(0..=3);
                    resize(&self.booted.module, &self.model, self.idle[n], mib).await;
                }
                (4 | 5, _, Some(id)) => self.snapshot(id).await,
                (6, Some(n), _) => self.clone_of(self.idle[n]).await,
                (7, ..) => self.clone_external().await,
                (8, _, Some(id)) => leave_parent(&self.booted.module, &self.model, id, true).await,
                (9, _, Some(id)) => leave_parent(&self.booted.module, &self.model, id, false).await,
                (10 | 11, Some(n), _) => self.other_parent(self.idle[n]).await,
                (12, Some(n), _) if self.rng.random_bool(0.3) => self.set_read_only(self.idle[n]).await,
                (13, Some(n), _) => self.shallow_copy(self.idle[n]).await,
                (14, ..) => self.grow_store().await,
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

    fn somebody_leaves(&self) -> bool {
        self.model.borrow().vols.values().any(|v| v.leaving > 0)
    }

    /// A volume that is about to be made.
    fn begin(&self, mib: Vec<u64>, blocks: Vec<Allowed>) -> (u64, String) {
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
        let (id, name) = self.begin(vec![1], zeros());
        let clear = [LvolClear::Unmap, LvolClear::WriteZeroes, LvolClear::None][self.rng.random_range(0..3)];
        let created = self.booted.module.create(LVS, &name, 1, thin, clear).await;
        self.made(id, created);
    }

    /// Whoever has it open loses it.
    async fn delete(&mut self, id: u64) {
        if self.vol(id).must_be_absent {
            return;
        }
        let alias = self.with(id, |v| {
            v.may_be_absent = true;
            v.alias()
        });
        let busy = self.somebody_leaves();
        match self.booted.module.delete(&alias).await {
            Ok(()) => {
                self.with(id, |v| v.must_be_absent = true);
                self.idle.retain(|idle| *idle != id);
            }
            Err(LvolError::HasClones { .. }) => self.with(id, |v| v.may_be_absent = false),
            // It, or who descends from it, leaves its parent.
            Err(LvolError::Busy { .. }) if busy || self.somebody_leaves() => {
                self.with(id, |v| v.may_be_absent = false);
            }
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
        match self.booted.module.rename(&old, &new).await {
            Ok(()) => self.with(id, |v| v.names = vec![new]),
            Err(LvolError::ReadOnly { .. }) if read_only => self.with(id, |v| v.names.truncate(1)),
            Err(e) => panic!("{e}"),
        }
    }

    /// The base bdev grows, and the lvstore takes all that it has.
    async fn grow_store(&mut self) {
        let (before, metadata) = (self.booted.clusters(), self.model.borrow().metadata);
        if before >= self.model.borrow().grows_to {
            return;
        }
        self.booted.grow().await;
        let whole = self.booted.base_clusters() - metadata;
        self.model.borrow_mut().clusters = (before, whole);
        self.booted.module.grow_store(LVS).await.unwrap();
        // There are not so many holes that the metadata could not tell of it.
        assert_eq!(self.booted.clusters(), whole, "the lvstore did not grow with the base bdev");
        self.model.borrow_mut().clusters = (whole, whole);
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
        let (id, name) = self.begin(origin.mib.clone(), blocks);
        self.with(id, |v| v.read_only = true);
        self.with(of, |v| v.taking = Some(id));
        let busy = self.somebody_leaves();
        let taken = self.booted.module.snapshot(&origin.alias(), &name).await;
        self.with(of, |v| v.taking = None);
        if let Err(LvolError::Busy { .. }) = taken {
            assert!(busy || self.somebody_leaves(), "the origin is not busy");
            self.model.borrow_mut().vols.remove(&id);
            return;
        }
        if self.made(id, taken) {
            // It is durable with what was acknowledged before.
            self.with(id, |v| v.blocks.iter_mut().for_each(|a| a.after.clone_from(&a.now)));
            self.look(id).await;
        }
    }

    /// Reads a volume that nobody writes: from then on it holds that, and has that size.
    async fn look(&self, id: u64) {
        let vol = self.vol(id);
        let (desc, _events) = self.booted.registry.open(&vol.alias(), false).unwrap();
        let mib = desc.num_blocks() / PER_MIB;
        assert!(vol.mib.contains(&mib), "v{id} has {mib} MiB, not one of {:?}", vol.mib);
        self.with(id, |v| v.has_size(mib));
        for (n, found) in contents(&desc).await.unwrap().into_iter().enumerate() {
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
        let alias = snapshot.alias();
        let (id, name) = self.begin(snapshot.mib, snapshot.blocks);
        let made = self.booted.module.clone_lvol(&alias, &name).await;
        self.made(id, made);
    }

    async fn clone_external(&mut self) {
        let (id, name) = self.begin(vec![1], external());
        let made = self.booted.module.clone_bdev("ext", "lvs", &name).await;
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
        let external = external();
        let parent = self.rng.random_range(0..=parents.len());
        let below = parents.get(parent).map_or(&external, |p| &p.blocks);
        self.with(id, |v| {
            for (block, below) in v.blocks[..reach(vol.mib[0])].iter_mut().zip(below) {
                block.after.extend(&below.now);
                block.now.extend(&below.now);
            }
        });
        let done = match parents.get(parent) {
            Some(parent) => self.booted.module.set_parent(&vol.alias(), &parent.alias()).await,
            None => self.booted.module.set_parent_bdev(&vol.alias(), "ext").await,
        };
        match done {
            Ok(()) => {
                self.with(id, |v| v.blocks.iter_mut().for_each(|a| a.after.clone_from(&a.now)));
                self.look(id).await;
            }
            // It does not fit, or is that already; or one that descends from it leaves its parent.
            Err(LvolError::Invalid { .. } | LvolError::Exists { .. } | LvolError::Busy { .. }) => {
                self.with(id, |v| v.blocks = vol.blocks);
            }
            Err(e) => panic!("{e}"),
        }
    }

    async fn set_read_only(&mut self, id: u64) {
        self.with(id, |v| v.read_only = true);
        self.booted.module.set_read_only(&self.vol(id).alias()).await.unwrap();
    }

    /// The copy has what the volume has itself, and elsewhere what was there before.
    async fn shallow_copy(&mut self, id: u64) {
        if !self.vol(id).read_only || self.vol(id).mib[0] == 0 {
            return;
        }
        self.look(id).await;
        let before = u64::MAX;
        let mib = self.vol(id).mib[0];
        let pattern = Bytes::from(vec![0xff; (mib * PER_MIB * BLOCK) as usize]);
        self.booted.registry.open("copy", true).unwrap().0.write(0, pattern, false).await.unwrap();
        let vol = self.vol(id);
        let number = self.booted.module.start_shallow_copy(&vol.alias(), "copy").await.unwrap();
        loop {
            let status = self.booted.module.check_shallow_copy(number).unwrap();
            assert_eq!(status.error, None);
            if status.done {
                break;
            }
            tokio::task::yield_now().await;
        }
        let (copy, _events) = self.booted.registry.open("copy", false).unwrap();
        for (n, found) in contents(&copy).await.unwrap().into_iter().take(reach(mib)).enumerate() {
            let allowed = &vol.blocks[n].now;
            assert!(
                found == before || allowed.contains(&found),
                "copy of v{id} block {n}: {found} not in {allowed:?}"
            );
        }
    }
}
