use super::*;
use crate::nvmf::DEFAULT_CAPACITY;

#[test]
fn what_is_given_changes_and_the_rest_stays() {
    let pools = register(&mut Methods::default());
    assert_eq!(pools.bytes(), DEFAULT_CAPACITY);
    let small = IobufSetOptions { small_pool_count: Some(64), ..IobufSetOptions::default() };
    assert_eq!(pools.change(&small), Ok(()));
    let large = IobufSetOptions { large_pool_count: Some(8), ..IobufSetOptions::default() };
    assert_eq!(pools.change(&large), Ok(()));
    assert_eq!(pools.bytes(), 64 * (8 << 10) + 8 * (132 << 10));
    let sizes = IobufSetOptions {
        small_bufsize: Some(4096),
        large_bufsize: Some(8192),
        ..IobufSetOptions::default()
    };
    assert_eq!(pools.change(&sizes), Ok(()));
    assert_eq!(pools.bytes(), 64 * 4096 + 8 * 8192);
}

#[test]
fn below_the_minima_nothing_changes() {
    let pools = register(&mut Methods::default());
    let none = IobufSetOptions::default;
    for call in [
        IobufSetOptions { small_pool_count: Some(63), ..none() },
        IobufSetOptions { large_pool_count: Some(7), ..none() },
        IobufSetOptions { small_bufsize: Some(4095), ..none() },
        IobufSetOptions { large_bufsize: Some(8191), large_pool_count: Some(9), ..none() },
    ] {
        assert_eq!(pools.change(&call), Err(Errno::EINVAL), "{call:?}");
        assert_eq!(pools.bytes(), DEFAULT_CAPACITY);
    }
}
