//! Bytes in and out of a connection, in as few calls as possible.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;
use vda_nvme::codec::Outbox;
use vda_nvme::pdu::Kind;

use crate::{page, receive_chunks};

/// Bytes asked of the socket at a time: at least, and at most when much data is expected.
const READ_CHUNK: usize = receive_chunks::SIZES[0];
const LARGE_CHUNK: usize = receive_chunks::SIZES[1];
/// Room for headers, and for lining up, beside data that is expected: then its PDU is received in one piece and not moved.
const HEADROOM: usize = 1 << 10;
/// Pieces of one `writev`: a header and the data of each of 64 reads.
const SLICES: usize = 128;

/// Reads what is there into `buffer`; `missing` bytes of the PDU that has begun are known to come, `expected` bytes of data were asked for.
/// The number of bytes; 0 is the end of the stream. When there is nothing, an empty `buffer` keeps no memory.
pub(crate) fn poll_receive(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    (missing, expected): (usize, usize),
) -> Poll<io::Result<usize>> {
    let began = !buffer.is_empty();
    // Back to its start, if nobody holds what was there: the same few pages are used again and again.
    let held = !began && buffer.capacity() > 0 && receive_chunks::rewind(buffer).is_none();
    // What is executed slowly takes chunk after chunk with it: those should be of the size that the allocator has at hand.
    let all = (expected + HEADROOM).min(if held { READ_CHUNK } else { LARGE_CHUNK });
    let want = if began { missing } else { all }.max(READ_CHUNK / 4);
    if buffer.capacity() - buffer.len() < want && !buffer.try_reclaim(want) {
        receive_chunks::replace(buffer, (buffer.len() + want).max(READ_CHUNK));
    }
    if !began {
        // What comes is data that was asked for, else a command, maybe with data: that will be copied from here.
        let header = if expected > 0 { Kind::H2cData } else { Kind::CapsuleCmd };
        page::line_up(buffer, header.header_len());
    }
    let result = poll_read_buf(Pin::new(stream), cx, buffer);
    if result.is_pending() {
        if !began {
            receive_chunks::give(buffer);
        }
        return Poll::Pending;
    }
    crate::spin::active();
    result
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

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
