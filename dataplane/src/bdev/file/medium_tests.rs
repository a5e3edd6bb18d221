use std::fs::File;

use rustix::fs::{OFlags, fcntl_getfl};

use super::super::FileModule;
use super::*;

fn medium(dir: &tempfile::TempDir) -> Medium {
    let path = dir.path().join("disk.img");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let params = FileParams {
        module: FileModule::Aio,
        name: "f".to_owned(),
        filename: path.to_str().unwrap().to_owned(),
        block_size: None,
        readonly: false,
        fallocate: false,
        uuid: None,
    };
    Medium::open(&params).unwrap()
}

fn is_direct(medium: &Medium) -> bool {
    fcntl_getfl(&medium.file).unwrap().contains(OFlags::DIRECT)
}

#[test]
fn all_io_goes_around_the_cache_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut m = medium(&dir);
    assert!(!is_direct(&m), "not before it was asked for");
    match m.go_direct(4096) {
        Ok(()) => assert!(m.direct.is_some_and(|align| align.is_power_of_two() && align <= PAGE)),
        Err(why) => eprintln!("no direct I/O here: {why}"),
    }
    assert_eq!(is_direct(&m), m.direct.is_some());
}

#[test]
fn blocks_smaller_than_the_unit_of_direct_io_go_through_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let mut m = medium(&dir);
    match m.go_direct(64) {
        Err(NotDirect::Alignment { block_size: 64, needed: 512.. } | NotDirect::Refused(_)) => {}
        other => panic!("{other:?}"),
    }
    assert!(!is_direct(&m) && m.direct.is_none());
}
