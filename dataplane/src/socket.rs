//! Bytes in and out of a connection, in as few calls as possible.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;
use vda_nvme::codec::Outbox;

/// Bytes asked of the socket at a time, and when much data is expected: then most of its PDUs are received in one piece and not moved.
const READ_CHUNK: usize = 64 << 10;
const LARGE_CHUNK: usize = 160 << 10;
/// Pieces of one `writev`: a header and the data of each of 64 reads.
const SLICES: usize = 128;

/// Reads what is there into `buffer`; `missing` bytes of the PDU that has begun are known to come, `expected` bytes of data were asked for.
/// The number of bytes; 0 is the end of the stream.
pub(crate) fn poll_receive(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    (missing, expected): (usize, usize),
) -> Poll<io::Result<usize>> {
    let chunk = if expected > READ_CHUNK { LARGE_CHUNK } else { READ_CHUNK };
    if buffer.is_empty() {
        // Back to its start, if nobody holds what was there: the same few pages are used again and again.
        let _ = buffer.try_reclaim(chunk);
    }
    let want = missing.max(chunk / 4);
    if buffer.capacity() - buffer.len() < want {
        buffer.reserve(want.max(chunk));
    }
    let result = ready!(poll_read_buf(Pin::new(stream), cx, buffer));
    crate::spin::active();
    Poll::Ready(result)
}

/// Sends as much of `outbox` as the socket takes. `Pending` while something is left.
pub(crate) fn poll_send(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    outbox: &mut Outbox,
) -> Poll<io::Result<()>> {
    while !outbox.is_empty() {
        ready!(stream.poll_write_ready(cx))?;
        let mut slices = [IoSlice::new(&[]); SLICES];
        let n = outbox.chunks_vectored(&mut slices);
        match stream.try_write_vectored(&slices[..n]) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(sent) => outbox.advance(sent),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Poll::Ready(Err(e)),
        }
    }
    Poll::Ready(Ok(()))
}
