//! What is on a medium before it is formatted. The data plane's examine recognises its own lvstores only.

use std::io;

use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use vda_reconcile::Fault;

/// Everything that is recognised begins within this many bytes.
const HEAD: usize = 132 << 10;

/// Marks that others leave, by offset in bytes (as libblkid knows them).
const SIGNATURES: [(&str, usize, &[u8]); 18] = [
    ("an ext2, ext3 or ext4 filesystem", 0x438, &[0x53, 0xef]),
    ("an XFS filesystem", 0, b"XFSB"),
    ("a Btrfs filesystem", 0x10040, b"_BHRfS_M"),
    ("an LVM physical volume", 0, b"LABELONE"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("a GUID partition table", 512, b"EFI PART"),
    ("a GUID partition table", 4096, b"EFI PART"),
    ("a boot sector or partition table", 510, &[0x55, 0xaa]),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("a member of a Linux software RAID", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a member of a Linux software RAID", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a member of a ZFS pool", 0x20000, &[0x0c, 0xb1, 0xba, 0x00, 0, 0, 0, 0]),
    ("a Ceph OSD", 0, b"bluestore block device"),
    ("a DRBD or LINSTOR volume", 4096, b"\x83\x74\x02\x6b"),
    ("an SPDK blobstore that cannot be loaded", 0, b"SPDKBLOB"),
    // The superblock of vda_dataplane and its copy (docs/lvstore-format.md): damaged, or of a version that is not known here.
    ("an lvstore that cannot be loaded", 0, b"VDALVSTR"),
    ("an lvstore that cannot be loaded", 4096, b"VDALVSTR"),
];

/// What the first bytes of a medium say that it holds; `None`: nothing that is known.
pub(crate) fn signature(head: &[u8]) -> Option<&'static str> {
    let found = SIGNATURES.iter().find(|(_, offset, mark)| {
        head.get(*offset..*offset + mark.len()).is_some_and(|bytes| bytes == *mark)
    });
    found.map(|(what, ..)| *what)
}

/// Refuses a file or block device that holds something, or that cannot be looked at.
///
/// # Errors
/// Says what was found and how to make the medium usable.
pub(crate) async fn inspect(filename: &str) -> Result<(), Fault> {
    let head = read_head(filename).await.map_err(|error| {
        let message = format!(
            "{filename} cannot be looked at before it is formatted ({error}): the agent needs to be able to read it"
        );
        Fault::refused("inspect", message)
    })?;
    match signature(&head) {
        None => Ok(()),
        Some(what) => {
            let message = format!(
                "{filename} holds {what}: it is not formatted. If nothing on it is needed, clear it and it will be used (wipefs --all {filename}; what wipefs does not know: dd if=/dev/zero of={filename} bs=1M count=1 conv=notrunc)"
            );
            Err(Fault::refused("inspect", message))
        }
    }
}

async fn read_head(filename: &str) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    File::open(filename).await?.take(HEAD as u64).read_to_end(&mut head).await?;
    Ok(head)
}

#[cfg(test)]
#[path = "medium_tests.rs"]
mod tests;
