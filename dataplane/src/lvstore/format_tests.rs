//! The format on the disk stays readable, and what a newer version wrote is refused untouched.
//!
//! `fixtures/NAME.img` is an lvstore as some version of this program left it, `fixtures/NAME.txt` what is in it. They are never written
//! again: a change of the format adds a pair. `VDA_LVSTORE_FIXTURES=new` writes those that are missing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::codec::{CHECKPOINT_HEADER, FEATURE_CLONES, PAGE_LEN, seal};
use super::load::read_super;
use super::module::{ClearMethod, CreateStore, LvolModule, LvsSelector};
use super::state::Parent;
use super::store::Store;
use super::{LvolClear, LvolError};
use crate::bdev::malloc::{self, MallocParams};
use crate::bdev::sim_disk::{SimBdev, SimDisk};
use crate::bdev::{Descriptor, NewBdev, Registry};

const LVS: LvsSelector<'static> = LvsSelector::Name("lvs");
const BLOCKS: u64 = 2048;
const CLUSTER: u32 = 65536;
const PER_CLUSTER: u64 = CLUSTER as u64 / PAGE_LEN as u64;
const PER_MIB: u64 = (1 << 20) / PAGE_LEN as u64;
/// The external snapshot; its block `n` is full of `EXTERNAL_STAMP + n`.
const EXTERNAL: Uuid = Uuid::from_u128(0xe7e7);
const EXTERNAL_STAMP: u64 = 1000;
/// Page of the disk, for those that are not zero.
type Image = BTreeMap<u64, Vec<u8>>;

fn run<F: Future>(test: F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, test)
}

fn stamped(stamp: u64, blocks: u64) -> Bytes {
    Bytes::from(stamp.to_le_bytes().repeat(blocks as usize * PAGE_LEN / 8))
}

struct Booted {
    registry: Registry,
    module: Rc<LvolModule>,
}

async fn boot(disk: &Rc<SimDisk>) -> Booted {
    let registry = Registry::new();
    let module = LvolModule::new(registry.clone());
    let name = Some("ext".to_owned());
    let external =
        MallocParams { name, num_blocks: PER_MIB, block_size: PAGE_LEN as u32, uuid: Some(EXTERNAL) };
    malloc::create(&registry, external).unwrap();
    let (ext, _events) = registry.open("ext", true).unwrap();
    for block in 0..PER_MIB {
        ext.write(block, stamped(EXTERNAL_STAMP + block, 1), false).await.unwrap();
    }
    drop(ext);
    let bdev = Rc::new(SimBdev(Rc::clone(disk)));
    registry.register(NewBdev { name: "disk".to_owned(), aliases: vec![], bdev }).unwrap();
    registry.wait_for_examine().await;
    Booted { registry, module }
}

impl Booted {
    fn open(&self, name: &str) -> Descriptor {
        self.registry.open(&format!("lvs/{name}"), true).unwrap().0
    }

    async fn write(&self, name: &str, block: u64, stamp: u64, blocks: u64) {
        self.open(name).write(block, stamped(stamp, blocks), true).await.unwrap();
    }

    async fn create(&self, name: &str, mib: u64, thin: bool, clear: LvolClear) {
        self.module.create(LVS, name, mib, thin, clear).await.unwrap();
    }

    /// All that users see of the lvstore.
    async fn describe(&self) -> String {
        let store = self.module.stores(None).unwrap().remove(0);
        let mut text = format!(
            "{} {}: {} of {} clusters free\n",
            store.name, store.uuid, store.free_clusters, store.total_data_clusters
        );
        for lvol in self.module.lvols(None).unwrap() {
            let info = self.registry.info(&lvol.alias).unwrap();
            let flag = |is: bool, name: &'static str| if is { name } else { "" };
            write!(
                text,
                "{} {}: {} blocks, {} clusters{}{}{}{}{}{}:",
                lvol.name,
                lvol.uuid,
                info.num_blocks,
                lvol.num_allocated_clusters,
                flag(lvol.thin, ", thin"),
                flag(lvol.snapshot, ", snapshot"),
                flag(lvol.clone, ", clone"),
                flag(lvol.esnap_clone, ", external"),
                flag(lvol.degraded, ", degraded"),
                flag(!info.supported.contains(&crate::bdev::IoType::Write), ", read-only"),
            )
            .unwrap();
            let (bdev, _events) = self.registry.open(&lvol.alias, false).unwrap();
            let got = bdev.read(0, BytesMut::zeroed(info.num_blocks as usize * PAGE_LEN)).await.unwrap();
            let mut stamps = Vec::new();
            for block in got.chunks(PAGE_LEN) {
                let stamp = u64::from_le_bytes(block[..8].try_into().unwrap());
                assert!(block.chunks(8).all(|w| w == stamp.to_le_bytes()), "a block of pieces");
                stamps.push(stamp);
            }
            for same in stamps.chunk_by(|a, b| a == b) {
                write!(text, " {}x{}", same[0], same.len()).unwrap();
            }
            text.push('\n');
        }
        text
    }

    fn features(&self, disk: &SimDisk) -> [u64; 2] {
        [0, 1].map(|page| u64::from_le_bytes(disk.contents(page, 1)[16..24].try_into().unwrap()))
    }
}

async fn make_plain_store(b: &Booted) {
    let params = CreateStore {
        bdev_name: "disk".to_owned(),
        lvs_name: "lvs".to_owned(),
        cluster_sz: Some(CLUSTER),
        clear_method: ClearMethod::None,
        num_md_pages_per_cluster_ratio: Some(2),
        ..CreateStore::default()
    };
    b.module.create_store(params).await.unwrap();
}

/// Two generations of checkpoints and a journal without anything that needs a feature.
async fn make_plain(disk: &Rc<SimDisk>) {
    let b = boot(disk).await;
    make_plain_store(&b).await;
    for (name, thin) in
        [("thick", false), ("thin", true), ("gone", true), ("old-name", true), ("fixed", true)]
    {
        b.create(name, 1, thin, LvolClear::Unmap).await;
        b.write(name, 3, 7, 20).await;
    }
    b.module.delete("lvs/gone").await.unwrap();
    drop(b);
    let b = boot(disk).await;
    b.module.rename("lvs/old-name", "new-name").await.unwrap();
    b.module.resize("lvs/new-name", 2).await.unwrap();
    b.write("new-name", PER_MIB + 1, 8, 1).await;
    b.module.set_read_only("lvs/fixed").await.unwrap();
    b.open("thin").unmap(0, PER_CLUSTER).await.unwrap();
    b.write("thick", PER_MIB - 1, 9, 1).await;
}

/// Everything that feature 1 stands for.
async fn make_clones(disk: &Rc<SimDisk>) {
    make_plain(disk).await;
    let b = boot(disk).await;
    b.create("zeroed", 1, true, LvolClear::WriteZeroes).await;
    b.create("left", 1, true, LvolClear::None).await;
    b.module.snapshot("lvs/thick", "s1").await.unwrap();
    b.write("thick", 5, 11, 1).await;
    b.module.snapshot("lvs/thick", "s2").await.unwrap();
    b.module.clone_lvol("lvs/s1", "c1").await.unwrap();
    b.open("c1").unmap(0, PER_CLUSTER).await.unwrap();
    b.module.clone_bdev("ext", "lvs", "e1").await.unwrap();
    b.write("e1", 2 * PER_CLUSTER, 12, 2).await;
    b.module.clone_lvol("lvs/s2", "alone").await.unwrap();
    b.module.inflate("lvs/alone").await.unwrap();
    drop(b);
    let b = boot(disk).await;
    b.open("e1").unmap(0, PER_CLUSTER).await.unwrap();
    b.module.clone_lvol("lvs/s2", "c2").await.unwrap();
    b.module.decouple_parent("lvs/c2").await.unwrap();
    b.create("child", 1, true, LvolClear::Unmap).await;
    b.module.set_parent("lvs/child", "lvs/s1").await.unwrap();
    b.module.resize("lvs/c1", 2).await.unwrap();
    b.module.snapshot("lvs/thin", "s3").await.unwrap();
    b.write("thin", 30, 13, 1).await;
    b.module.delete("lvs/s3").await.unwrap();
}

fn path(name: &str, suffix: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/lvstore/fixtures/{name}.{suffix}"))
}

/// Pages with their number and length; the length of one that repeats eight bytes has the highest bit set.
const REPEATS: u16 = 0x8000;

fn pack(disk: &SimDisk) -> Vec<u8> {
    let mut packed = Vec::new();
    for page in 0..BLOCKS {
        let data = disk.contents(page, 1);
        let end = data.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
        if end == 0 {
            continue;
        }
        packed.put_u32_le(page as u32);
        if data.chunks(8).all(|w| w == &data[..8]) {
            packed.put_u16_le(REPEATS | 8);
            packed.put_slice(&data[..8]);
        } else {
            packed.put_u16_le(end as u16);
            packed.put_slice(&data[..end]);
        }
    }
    packed
}

fn unpack(mut packed: &[u8]) -> Image {
    let mut image = Image::new();
    while !packed.is_empty() {
        let (page, len) = (packed.get_u32_le(), packed.get_u16_le());
        let (data, rest) = packed.split_at(usize::from(len & !REPEATS));
        packed = rest;
        let mut whole = if len & REPEATS == 0 { data.to_vec() } else { data.repeat(PAGE_LEN / 8) };
        whole.resize(PAGE_LEN, 0);
        image.insert(page.into(), whole);
    }
    image
}

/// A disk with an image, as it is when the power comes.
async fn disk_of(image: &Image) -> Rc<SimDisk> {
    let disk = SimDisk::new(1, PAGE_LEN as u32, BLOCKS);
    let registry = Registry::new();
    registry.set_auto_examine(false);
    let bdev = Rc::new(SimBdev(Rc::clone(&disk)));
    registry.register(NewBdev { name: "disk".to_owned(), aliases: vec![], bdev }).unwrap();
    let (opened, _events) = registry.open("disk", true).unwrap();
    for (page, data) in image {
        opened.write(*page, Bytes::copy_from_slice(data), true).await.unwrap();
    }
    disk.after_power_cut(1)
}

async fn fixture(name: &str) -> (Image, String) {
    let (image, text) = (path(name, "img"), path(name, "txt"));
    if std::env::var("VDA_LVSTORE_FIXTURES").is_ok_and(|v| v == "new") && !image.exists() {
        let disk = SimDisk::new(2, PAGE_LEN as u32, BLOCKS);
        match name {
            "v1-plain" => make_plain(&disk).await,
            _ => make_clones(&disk).await,
        }
        // Everything was acknowledged, and the process is gone.
        let disk = disk.after_kill(3);
        std::fs::create_dir_all(image.parent().unwrap()).unwrap();
        std::fs::write(&image, pack(&disk)).unwrap();
        std::fs::write(&text, boot(&disk).await.describe().await).unwrap();
    }
    (unpack(&std::fs::read(&image).unwrap()), std::fs::read_to_string(&text).unwrap())
}

/// A fixture is read as it was written, nothing is written by that, and it can be used.
async fn is_read_and_used(name: &str, features: u64) {
    let (image, text) = fixture(name).await;
    let disk = disk_of(&image).await;
    let b = boot(&disk).await;
    assert_eq!(b.describe().await, text, "{name}");
    assert_eq!(disk.changes(), 0, "{name}: something was written by looking at it");
    assert_eq!(b.features(&disk), [features; 2]);
    b.write("thin", 0, 77, 1).await;
    b.write("thick", 0, 78, 1).await;
    b.create("another", 1, false, LvolClear::Unmap).await;
    b.write("another", 0, 79, 1).await;
    b.module.resize("lvs/another", 2).await.unwrap();
    b.module.rename("lvs/another", "other").await.unwrap();
    b.module.delete("lvs/new-name").await.unwrap();
    let after = b.describe().await;
    assert_ne!(after, text);
    assert_eq!(b.features(&disk), [features; 2], "a version without clones could not read it any more");
    drop(b);
    let b = boot(&disk.after_kill(4)).await;
    assert_eq!(b.describe().await, after, "{name}, after it was used");
}

#[test]
fn what_the_first_version_wrote_is_read_for_ever() {
    run(async {
        is_read_and_used("v1-plain", 0).await;
        is_read_and_used("v1-clones", FEATURE_CLONES).await;
    });
}

/// Why a disk is not loaded.
async fn refusal(image: &Image) -> String {
    let disk = disk_of(image).await;
    let b = boot(&disk).await;
    assert!(b.module.stores(None).unwrap().is_empty(), "it was loaded");
    assert_eq!(disk.changes(), 0, "something was written to what is not understood");
    let (base, _events) = b.registry.open("disk", false).unwrap();
    let error = match read_super(&base).await {
        Ok(Some(sb)) => Store::load(base, sb).await.err(),
        Ok(None) => None,
        Err(e) => Some(e),
    };
    let error = error.expect("an error");
    assert!(matches!(error, LvolError::Format(_)), "{error}");
    assert_eq!(error.errno(), libc::EILSEQ);
    error.to_string()
}

/// Changes pages that begin with a mark, and makes their checksum right.
fn patched(image: &Image, mark: &[u8], at: usize, patch: impl Fn(&mut Vec<u8>)) -> Image {
    let mut image = image.clone();
    let pages = image.values_mut().filter(|page| page.starts_with(mark));
    let mut count = 0;
    for page in pages {
        patch(page);
        seal(page, at);
        count += 1;
    }
    assert!(count > 0);
    image
}

/// Changes what follows the name of an lvol in every checkpoint that has it.
fn patched_lvol(image: &Image, name: &str, at: usize, value: u8) -> Image {
    let mut image = image.clone();
    let headers: Vec<u64> =
        image.iter().filter(|(_, page)| page.starts_with(b"VDALVCHK")).map(|(n, _)| *n).collect();
    let wanted = [&[name.len() as u8], name.as_bytes()].concat();
    let mut count = 0;
    for header in headers {
        let body = image.get_mut(&(header + 1)).unwrap();
        let Some(found) = body.windows(wanted.len()).position(|w| w == wanted) else { continue };
        body[found + wanted.len() + at] = value;
        let body = body.clone();
        let page = image.get_mut(&header).unwrap();
        let len = u64::from_le_bytes(page[36..44].try_into().unwrap()) as usize;
        page[44..48].copy_from_slice(&crc32c::crc32c(&body[..len]).to_le_bytes());
        seal(&mut page[..CHECKPOINT_HEADER], 8);
        count += 1;
    }
    assert!(count > 0, "no checkpoint has {name}");
    image
}

#[test]
fn what_a_newer_version_wrote_is_refused_and_not_touched() {
    run(async {
        let (image, _) = fixture("v1-clones").await;
        let newer = "lvstore is damaged or of a newer version: ";
        let version = patched(&image, b"VDALVSTR", 8, |page| page[12] = 2);
        assert_eq!(refusal(&version).await, format!("{newer}unknown version"));
        let feature = patched(&image, b"VDALVSTR", 8, |page| page[16] |= 2);
        let unknown = "made with features that this version does not have";
        assert_eq!(refusal(&feature).await, format!("{newer}{unknown}"));
        let record = patched(&image, b"VLVJ", 4, |page| page[38] = 200);
        let unknown = "a record of a kind that this version does not have";
        assert_eq!(refusal(&record).await, format!("{newer}{unknown}"));
        let flag = patched_lvol(&image, "fixed", 0, 64);
        let unknown = "an lvol with features that this version does not have";
        assert_eq!(refusal(&flag).await, format!("{newer}{unknown}"));
        let parent = patched_lvol(&image, "fixed", 12, 9);
        let unknown = "a kind of parent that this version does not have";
        assert_eq!(refusal(&parent).await, format!("{newer}{unknown}"));
    });
}

/// The older checkpoint, with its journal, is intact beside a damaged one; but it is what the lvstore was, not what it is.
#[test]
fn a_damaged_checkpoint_does_not_bring_the_one_before_back() {
    run(async {
        let (image, text) = fixture("v1-clones").await;
        let generation = |page: &[u8]| u64::from_le_bytes(page[28..36].try_into().unwrap());
        let mut headers: Vec<_> = image.iter().filter(|(_, page)| page.starts_with(b"VDALVCHK")).collect();
        headers.sort_by_key(|(_, page)| generation(page));
        let (older, newest) = (*headers[0].0, *headers[1].0);
        let damaged = |header: u64| {
            let mut image = image.clone();
            image.get_mut(&(header + 1)).unwrap()[9] ^= 1;
            image
        };
        assert_eq!(boot(&disk_of(&damaged(older)).await).await.describe().await, text);
        let refused = refusal(&damaged(newest)).await;
        assert_eq!(refused, "lvstore is damaged or of a newer version: the newest checkpoint is damaged");
    });
}

/// Whoever does not know clones must not open an lvstore from the first record on that needs them: both copies say so, durably.
#[test]
fn a_feature_is_noted_before_it_is_used() {
    run(async {
        let (image, _) = fixture("v1-plain").await;
        for seed in 0..3 {
            let disk = disk_of(&image).await;
            let b = boot(&disk).await;
            assert_eq!(b.features(&disk), [0, 0]);
            match seed {
                0 => drop(b.module.snapshot("lvs/thin", "s").await.unwrap()),
                1 => drop(b.module.clone_lvol("lvs/fixed", "c").await.unwrap()),
                _ => b.create("zeroed", 1, true, LvolClear::WriteZeroes).await,
            }
            let disk = disk.after_power_cut_with(seed, |_| false);
            assert_eq!(b.features(&disk), [FEATURE_CLONES; 2], "{seed}");
        }
    });
}

/// A version that changes the superblock does so one copy after the other; until both have it, nothing was written that needs it.
#[test]
fn a_feature_in_one_copy_of_the_superblock_only_does_not_count() {
    run(async {
        let (image, text) = fixture("v1-plain").await;
        for copy in [0, 1] {
            let mut half = image.clone();
            let page = half.get_mut(&copy).unwrap();
            page[16] |= 2;
            seal(page, 8);
            assert_eq!(boot(&disk_of(&half).await).await.describe().await, text);
        }
    });
}

/// Holes cost metadata. When there is no room for more of them, what a clone unmaps takes clusters of zeros; when there are none of those
/// either the host is told; and what was done before stays as it is, and can be loaded.
#[test]
fn more_holes_than_there_is_room_for() {
    run(async {
        let disk = SimDisk::new(5, PAGE_LEN as u32, BLOCKS);
        let b = boot(&disk).await;
        make_plain_store(&b).await;
        // As large as a host likes: everything in it is inherited.
        let mib = 128;
        let params = MallocParams {
            name: Some("large".to_owned()),
            num_blocks: mib * PER_MIB,
            block_size: PAGE_LEN as u32,
            uuid: None,
        };
        malloc::create(&b.registry, params).unwrap();
        let uuid = b.registry.info("large").unwrap().uuid;
        b.module.clone_bdev("large", "lvs", "c").await.unwrap();
        let (c, _events) = b.registry.open("lvs/c", true).unwrap();
        let (base, _) = b.registry.open("disk", false).unwrap();
        let layout = read_super(&base).await.unwrap().unwrap().layout;
        let free = |b: &Booted| b.module.stores(None).unwrap()[0].free_clusters;
        let clusters = free(&b);
        let room = layout.max_extents() - 2 * clusters;
        let mut holes = 0;
        // Every second cluster: none joins another.
        for n in 0..room + clusters {
            c.unmap(2 * n * PER_CLUSTER, PER_CLUSTER).await.unwrap();
            holes += u64::from(free(&b) == clusters);
        }
        assert_eq!((holes, free(&b)), (room, 0), "beyond the room, each takes a cluster");
        let beyond = 2 * (room + clusters) * PER_CLUSTER;
        assert!(beyond < c.num_blocks());
        assert_eq!(c.unmap(beyond, PER_CLUSTER).await, Err(crate::bdev::IoError::NoSpace));
        // Nor is there room for what a larger clone would have to say about its end.
        let grown = b.module.resize("lvs/c", mib + 1).await;
        assert_eq!(grown.unwrap_err().errno(), libc::ENOSPC);
        drop(c);
        b.module.rename("lvs/c", "d").await.unwrap();
        let disk = disk.after_kill(6);
        let b = boot(&disk).await;
        let store = Rc::clone(&b.module);
        assert_eq!(store.stores(None).unwrap()[0].free_clusters, 0);
        let lvol = store.lvols(None).unwrap().remove(0);
        assert!(lvol.degraded && lvol.esnap_clone, "{:?} is not here", Parent::External(uuid));
        b.module.delete("lvs/d").await.unwrap();
        assert_eq!(free(&b), clusters);
    });
}
