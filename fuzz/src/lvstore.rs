//! The metadata of an lvstore: an image of a real one with any changes, checksums repaired or not.
//!
//! Loading must not panic, hang or take memory out of proportion: it gives an lvstore or refuses. One that is given can be used: its lvols
//! are read and written, made and deleted.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use tokio::task::LocalSet;
use vda_dataplane::bdev::malloc::{self, MallocParams};
use vda_dataplane::bdev::{Registration, Registry};
use vda_dataplane::lvstore::{ClearMethod, CreateStore, LvolClear, LvolModule, LvsSelector};

use crate::Input;

const PAGE: usize = 4096;
/// 8 MiB.
const PAGES: u64 = 2048;
const DISK: &str = "disk";
const STORE: LvsSelector<'_> = LvsSelector::Name("store");
/// Page numbers at and above this one have their checksum left as it is.
const UNSEALED: u16 = 0x8000;

/// The pages of the disk that are not zero.
type Image = BTreeMap<u64, Vec<u8>>;

struct Disk {
    registry: Registry,
    module: std::rc::Rc<LvolModule>,
    malloc: Registration,
}

impl Disk {
    fn new() -> Self {
        let registry = Registry::new();
        registry.set_auto_examine(false);
        let module = LvolModule::new(registry.clone());
        let params =
            MallocParams { name: Some(DISK.into()), num_blocks: PAGES, block_size: PAGE as u32, uuid: None };
        let malloc = malloc::create(&registry, params).expect("a disk");
        Self { registry, module, malloc }
    }

    async fn load(&self) {
        self.registry.examine(DISK).expect("examined by hand");
        self.registry.wait_for_examine().await;
    }

    async fn write(&self, image: &Image) {
        let (disk, _) = self.registry.open(DISK, true).expect("free");
        for (page, data) in image {
            disk.write(*page, Bytes::copy_from_slice(data), false).await.expect("written");
        }
    }

    async fn image(&self) -> Image {
        let (disk, _) = self.registry.open(DISK, false).expect("readable");
        let mut image = Image::new();
        for page in 0..PAGES {
            let data = disk.read(page, BytesMut::zeroed(PAGE)).await.expect("read");
            if data.iter().any(|b| *b != 0) {
                image.insert(page, data.to_vec());
            }
        }
        image
    }

    /// Uses whatever was loaded.
    async fn use_it(&self) {
        let Ok(lvols) = self.module.lvols(None) else { return };
        for lvol in lvols {
            let Ok((bdev, _)) = self.registry.open(&lvol.alias, true) else { continue };
            let last = bdev.num_blocks().saturating_sub(1);
            for lba in [0, last] {
                let _ = bdev.read(lba, BytesMut::zeroed(PAGE)).await;
                let _ = bdev.write(lba, Bytes::from(vec![7; PAGE]), true).await;
            }
            drop(bdev);
            let _ = self.module.delete(&lvol.alias).await;
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let rt = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    LocalSet::new().block_on(&rt, work)
}

/// A store with a checkpoint, and with records of each kind in its journal.
fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        block_on(async {
            let d = Disk::new();
            let create = CreateStore {
                bdev_name: DISK.into(),
                lvs_name: "store".into(),
                cluster_sz: Some(64 << 10),
                clear_method: ClearMethod::None,
                num_md_pages_per_cluster_ratio: None,
                md_page_size: None,
            };
            d.module.create_store(create).await.expect("a store");
            for name in ["a", "b"] {
                d.module.create(STORE, name, 1, true, LvolClear::Unmap).await.expect("an lvol");
            }
            let (a, _) = d.registry.open("store/a", true).expect("open");
            a.write(3, Bytes::from(vec![1; PAGE * 40]), true).await.expect("written");
            a.unmap(0, 16).await.expect("unmapped");
            drop(a);
            d.module.rename("store/b", "c").await.expect("renamed");
            d.module.resize("store/c", 2).await.expect("resized");
            d.module.set_read_only("store/c").await.expect("read-only");
            d.module.snapshot("store/a", "s").await.expect("a snapshot");
            d.module.clone_lvol("store/s", "d").await.expect("a clone");
            d.module.clone_lvol("store/s", "e").await.expect("a clone");
            let (a, _) = d.registry.open("store/a", true).expect("open");
            a.unmap(16, 16).await.expect("unmapped");
            a.write(40, Bytes::from(vec![2; PAGE]), true).await.expect("written");
            drop(a);
            d.module.decouple_parent("store/d").await.expect("decoupled");
            d.module.inflate("store/e").await.expect("inflated");
            d.image().await
        })
    })
}

/// Repairs the checksum of a page of metadata, of whatever kind it is (`docs/lvstore-format.md`).
fn seal(page: &mut [u8]) {
    let (at, end) = match page {
        [b'V', b'D', b'A', b'L', b'V', b'S', b'T', b'R', ..] => (8, PAGE),
        [b'V', b'D', b'A', b'L', b'V', b'C', b'H', b'K', ..] => (8, 48),
        [b'V', b'L', b'V', b'J', ..] => (4, PAGE),
        _ => return,
    };
    let crc = crc32c::crc32c(&page[at + 4..end]);
    page[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The body of a checkpoint follows its header page; its checksum is in the header.
fn seal_checkpoint(image: &mut Image, header: u64) {
    let Some(page) = image.get(&header) else { return };
    let number = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap_or_default());
    let length = number(36) as usize;
    let body: Vec<u8> =
        (header + 1..).map_while(|p| image.get(&p)).take(length / PAGE + 1).flatten().copied().collect();
    let Some(body) = body.get(..length) else { return };
    let crc = crc32c::crc32c(body);
    if let Some(page) = image.get_mut(&header) {
        page[44..48].copy_from_slice(&crc.to_le_bytes());
        seal(page);
    }
}

/// The image with the changes of an input: page (of those that are not zero), offset, length, bytes.
fn changed(mut input: Input<'_>) -> Image {
    let mut image = image().clone();
    let pages: Vec<u64> = image.keys().copied().collect();
    while !input.is_empty() {
        let (page, at, len) = (input.word(), usize::from(input.word()), usize::from(input.byte()));
        let bytes = input.take(len);
        let number = pages[usize::from(page & !UNSEALED) % pages.len()];
        let Some(data) = image.get_mut(&number) else { continue };
        for (to, from) in data.iter_mut().skip(at % PAGE).zip(bytes) {
            *to = *from;
        }
        if page < UNSEALED {
            seal(data);
            let before = pages.iter().copied().filter(|p| *p <= number);
            let headers: Vec<u64> = before.filter(|p| image[p].starts_with(b"VDALVCHK")).collect();
            if let Some(header) = headers.last() {
                seal_checkpoint(&mut image, *header);
            }
        }
    }
    image
}

pub(crate) fn run(input: &[u8]) {
    let image = changed(Input(input));
    block_on(async {
        let d = Disk::new();
        d.write(&image).await;
        d.load().await;
        d.use_it().await;
        // Whatever was loaded goes with its disk; nothing is left of it, or a long run takes all memory.
        d.malloc.unregister().await;
        assert!(d.module.stores(None).is_ok_and(|stores| stores.is_empty()), "an lvstore without a disk");
    });
}

/// Nothing changed, and each page changed at its front.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let pages = image().len().min(64) as u16;
    let patch = |page: u16, at: u16, bytes: &[u8]| {
        [&page.to_le_bytes()[..], &at.to_le_bytes(), &[bytes.len() as u8], bytes].concat()
    };
    let mut all = vec![Vec::new()];
    all.extend((0..pages).map(|p| patch(p, 34, &[0xff])));
    all.extend((0..pages).map(|p| patch(p, 100, &[0xff; 4])));
    all.push(patch(0, 12, &[1, 0, 0, 0]));
    all.push(patch(UNSEALED, 0, b"X"));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(image: &Image) -> Vec<String> {
        block_on(async {
            let d = Disk::new();
            d.write(image).await;
            d.load().await;
            d.module.lvols(None).expect("listed").into_iter().map(|l| l.name).collect()
        })
    }

    /// Otherwise the target would only ever test the checksums.
    #[test]
    fn changes_get_behind_the_checksums() {
        let good = image().clone();
        assert_eq!(names(&good), ["a", "c", "s", "d", "e"]);
        let find = |page: &[u8]| page.starts_with(b"VLVJ");
        let journal = good.iter().position(|(_, page)| find(page)).expect("a journal page") as u16;
        let page = good.values().find(|p| find(p)).expect("a journal page");
        // Kind, id, uuid, length of the name, name of the first lvol.
        let at = page.windows(2).position(|w| w == [1, b'a']).expect("a record with a name") as u16 + 1;
        let patch = |page: u16| {
            let mut input = page.to_le_bytes().to_vec();
            input.extend_from_slice(&at.to_le_bytes());
            input.extend_from_slice(&[1, b'z']);
            changed(Input(&input))
        };
        assert!(names(&patch(journal)).contains(&"z".to_owned()), "sealed");
        assert_ne!(names(&patch(journal | UNSEALED)), names(&good), "not sealed: the journal ends before it");
    }
}
