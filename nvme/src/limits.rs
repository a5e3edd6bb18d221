//! What a peer may ask for, in one place: every limit that this crate enforces, and the checks of a command that do not depend on
//! what the command does. `docs/limits.md` is the table of limit, value and what the peer gets; `limits_tests.rs` goes one beyond each.

use crate::cmd::Sqe;
use crate::status::Status;

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;

/// In-capsule data every controller takes on the admin queue and with Fabrics commands, bytes (TCP 3.3.2).
pub const ADMIN_IN_CAPSULE: u32 = 8192;
/// Smallest MAXH2CDATA, bytes (TCP 3.6.2.3).
pub const MIN_H2C_DATA: u32 = 4096;
/// Largest HPDA and CPDA: dwords, zero based (TCP 3.6.2.2, 3.6.2.3).
pub const MAX_ALIGNMENT: u8 = 31;
/// Longest copy of the offending header in a termination request, bytes (TCP 3.6.2.4, 3.6.2.5).
pub const TERM_DATA_MAX: usize = 128;
/// R2Ts that a host lets a controller have outstanding per command (MAXR2T plus one, TCP 3.6.2.2). One: data is asked for in order, and
/// what a controller can make a host queue is never more than the command's data.
pub const HOST_R2TS: u32 = 1;
/// Largest length of an NQN in bytes, without the terminating zero (Base 4.5).
pub const NQN_MAX_LEN: usize = 223;
/// Asynchronous Event Requests a controller holds at most (AERL plus one, Base 5.2).
pub const EVENT_REQUESTS: usize = 4;
/// Abort commands a controller executes at a time (ACL plus one, Base 5.1).
pub const ABORTS: usize = 4;
/// Entries of the error information log (ELPE plus one, Base 5.16.1.2).
pub const ERROR_ENTRIES: usize = 1;
/// Granularity of the Keep Alive Timeout, milliseconds (KAS is this over 100, Base 3.9).
pub const KATO_GRANULARITY_MS: u32 = 10_000;
/// Largest data of half of a fused operation, bytes: a block. ACWU and NACWU of Identify are 0, one block.
pub const FUSED_DATA: u32 = 4096;
/// Smallest buffer that data of a command is kept in, bytes.
pub const SMALLEST_BUFFER: usize = 4 << 10;

/// Everything a peer can ask of this side's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// MAXH2CDATA: largest data of an H2CData PDU, bytes; at least 4096 and a multiple of 4.
    pub max_h2c_data: u32,
    /// Largest data of a C2HData PDU a host takes, bytes.
    pub max_c2h_data: u32,
    /// Largest in-capsule data a controller takes on an I/O queue, bytes (IOCCSZ, Base 5.17.2.1). Until Connect has made a queue an I/O
    /// queue, and on admin queues, it is at least [`ADMIN_IN_CAPSULE`].
    pub in_capsule_data: u32,
    /// Largest data of one command, bytes (MDTS).
    pub max_io_size: u32,
    /// Commands outstanding on a queue, at least 2.
    pub queue_depth: u16,
    /// Alignment this side wants for data it receives, dwords, zero based (CPDA of a controller, HPDA of a host).
    pub alignment: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_h2c_data: 128 << 10,
            max_c2h_data: 1 << 20,
            in_capsule_data: ADMIN_IN_CAPSULE,
            max_io_size: 128 << 10,
            queue_depth: 128,
            alignment: 0,
        }
    }
}

/// Checks what no command may have, whatever it does.
///
/// # Errors
/// `INVALID_FIELD` for PRPs or a metadata SGL (Fabrics commands and NVMe/TCP have one SGL descriptor: Base 3.3.3.1, 6.1; TCP 3.2).
pub fn check_command(sqe: &Sqe) -> Result<(), Status> {
    if sqe.psdt() != Sqe::PSDT_SGL {
        return Err(Status::INVALID_FIELD.dnr());
    }
    Ok(())
}

/// Checks the length of a command's data.
///
/// # Errors
/// `INVALID_FIELD` if it is more than MDTS allows (Base 5.17.2.1).
pub fn check_transfer(length: u32, limits: &Limits) -> Result<(), Status> {
    if length > limits.max_io_size { Err(Status::INVALID_FIELD.dnr()) } else { Ok(()) }
}

/// Memory that `length` bytes of a command's data take, bytes.
#[must_use]
pub fn buffer_size(length: usize) -> usize {
    if length == 0 { 0 } else { length.next_power_of_two().max(SMALLEST_BUFFER) }
}
