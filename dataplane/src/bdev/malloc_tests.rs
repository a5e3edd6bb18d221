use super::*;

fn bdev() -> Malloc {
    let memory = Memory { len: 4096 * 512, chunks: BTreeMap::new() };
    Malloc { block_size: 512, num_blocks: 4096, uuid: Uuid::new_v4(), memory: Rc::new(RefCell::new(memory)) }
}

#[tokio::test(flavor = "current_thread")]
async fn reads_back_what_was_written_across_chunks_and_zeros_elsewhere() {
    let b = bdev();
    let data: Vec<u8> = (0..CHUNK * 2).map(|i| (i % 251) as u8).collect();
    b.write(5, Bytes::from(data.clone()), false).await.unwrap();
    let got = b.read(4, BytesMut::zeroed(data.len() + 1024)).await.unwrap();
    assert!(got[..512].iter().all(|x| *x == 0));
    assert_eq!(&got[512..512 + data.len()], &data[..]);
    assert!(got[512 + data.len()..].iter().all(|x| *x == 0));
    assert_eq!(b.compare(5, Bytes::from(data.clone())).await, Ok(()));
    b.write_zeroes(6, 600, false).await.unwrap();
    assert_eq!(b.compare(5, Bytes::from(data)).await, Err(IoError::Miscompare));
    let got = b.read(5, BytesMut::zeroed(602 * 512)).await.unwrap();
    assert_eq!(got[511], (511 % 251) as u8);
    assert!(got[512..601 * 512].iter().all(|x| *x == 0));
    assert_eq!(got[601 * 512], ((601 * 512) % 251) as u8);
}

#[test]
fn chunks_begin_at_pages() {
    let mut memory = Memory { len: 100 * CHUNK as u64, chunks: BTreeMap::new() };
    (0..100).for_each(|n| memory.write(n * CHUNK as u64 + 512, &[1; 512]));
    assert_eq!(memory.chunks.len(), 100);
    for chunk in memory.chunks.values() {
        assert_eq!(chunk.len(), CHUNK);
        assert!(chunk.as_ptr().addr().is_multiple_of(page::PAGE));
    }
}

#[test]
fn bad_geometry_is_refused() {
    for (blocks, size) in [(0, 512), (1, 0), (1, 500), (u64::MAX, 512)] {
        assert_eq!(check_geometry(blocks, size).unwrap_err().errno(), libc::EINVAL, "{blocks} x {size}");
    }
    check_geometry(1, 512).unwrap();
}
