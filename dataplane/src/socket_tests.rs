//! Whatever arrives in whatever pieces, and whoever still holds what came before: the bytes are those that were sent.

use std::future::poll_fn;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

/// Pieces of a stream: first a command, then data PDUs of all sizes, some larger than what is read at a time.
const PIECES: &[usize] =
    &[72, 24 + (64 << 10), 72, 24 + (128 << 10), 72, 24 + 4096, 72 + 4096, 24 + (200 << 10), 1, 24 + 512, 72];

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    (ours.expect("connect"), theirs.expect("accept").0)
}

/// The `n`th byte of the stream.
fn byte(n: usize) -> u8 {
    (n % 251) as u8
}

fn stream(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(byte).collect()
}

/// Sends each piece when the one before was received, and receives it as a queue would: `held` pieces stay in use.
async fn transfer(held: usize) {
    let (mut ours, mut theirs) = pair().await;
    let (mut buffer, mut at) = (BytesMut::new(), 0);
    let mut in_use: Vec<(usize, Bytes)> = Vec::new();
    for &len in PIECES.iter().cycle().take(60) {
        let expected = if len > 72 { len - 24 } else { 0 };
        let piece = stream(at, len);
        let send = async { theirs.write_all(&piece).await.expect("sent") };
        let receive = async {
            let mut lined_up = None;
            while buffer.len() < len {
                let missing = if buffer.is_empty() { 0 } else { len - buffer.len() };
                let hints = (missing, expected);
                let first = buffer.is_empty();
                let n =
                    poll_fn(|cx| poll_receive(&mut ours, cx, &mut buffer, hints)).await.expect("received");
                assert!(n > 0, "the end of the stream");
                if first {
                    lined_up = Some(buffer.as_ptr().addr());
                }
            }
            lined_up
        };
        let ((), start) = tokio::join!(send, receive);
        let header = if expected > 0 { 24 } else { 72 };
        assert!(start.is_some_and(|s| (s + header).is_multiple_of(page::LINE)), "{len} bytes at {start:?}");
        let moved = start != Some(buffer.as_ptr().addr());
        assert!(!moved || held > 0 || expected > 128 << 10, "{len} bytes were moved");
        in_use.push((at, buffer.split_to(len).freeze()));
        at += len;
        assert!(buffer.is_empty(), "more than was sent");
        if in_use.len() > held {
            let (from, bytes) = in_use.remove(0);
            assert!(bytes == stream(from, bytes.len()), "bytes from {from} on");
        }
    }
    for (from, bytes) in in_use {
        assert!(bytes == stream(from, bytes.len()), "bytes from {from} on, held to the end");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_received_is_what_was_sent_and_data_begins_at_a_cache_line() {
    for held in [0, 1, 3, 100] {
        transfer(held).await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_same_memory_is_used_again_when_nobody_holds_it() {
    let (mut ours, mut theirs) = pair().await;
    let (mut buffer, mut places) = (BytesMut::new(), std::collections::BTreeSet::new());
    for _ in 0..50 {
        theirs.write_all(&[7; 24 + 4096]).await.expect("sent");
        while buffer.len() < 24 + 4096 {
            let hints = (0, 128 << 10);
            poll_fn(|cx| poll_receive(&mut ours, cx, &mut buffer, hints)).await.expect("received");
        }
        places.insert(buffer.as_ptr());
        buffer.clear();
    }
    assert!(places.len() <= 2, "{places:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn connections_without_anything_to_receive_keep_no_memory_and_share_what_they_use() {
    const CONNECTIONS: usize = 50;
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        all.push((pair().await, BytesMut::new()));
    }
    let mut places = std::collections::BTreeSet::new();
    for ((ours, theirs), buffer) in &mut all {
        // Large data is expected, part of a command is here, then all of it.
        for (len, expected) in [(24 + (100 << 10), 128 << 10), (72, 0)] {
            theirs.write_all(&vec![7; len]).await.expect("sent");
            while buffer.len() < len {
                let hints = (len - buffer.len(), expected);
                poll_fn(|cx| poll_receive(ours, cx, buffer, hints)).await.expect("received");
                places.insert(buffer.as_ptr().addr() & !page::LINE.wrapping_sub(1));
            }
            let nothing = poll_fn(|cx| Poll::Ready(poll_receive(ours, cx, buffer, (0, expected)))).await;
            assert!(nothing.is_pending() && buffer.len() == len, "what is there stays");
            buffer.clear();
            let nothing = poll_fn(|cx| Poll::Ready(poll_receive(ours, cx, buffer, (0, expected)))).await;
            assert!(nothing.is_pending());
            assert_eq!(buffer.capacity(), 0, "nothing is there, and nothing comes");
        }
    }
    assert!(places.len() <= 4, "{places:?} for {CONNECTIONS} connections");
    assert!(receive_chunks::kept() <= LARGE_CHUNK + READ_CHUNK);
}
