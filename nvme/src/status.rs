//! Completion status: status code type, status code, do-not-retry (Base 3.3.3.2.1).

use std::fmt;

/// The 15 status bits of a completion, without the phase tag: `SC | SCT << 8 | CRD << 11 | M << 13 | DNR << 14`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(u16);

const DNR: u16 = 1 << 14;

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $sct:literal / $sc:literal, $text:literal;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Self = Self::new($sct, $sc);)*

            /// The specification's name of the status, if it is one this crate knows.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match (self.sct(), self.sc()) {
                    $(($sct, $sc) => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    /// Successful completion.
    SUCCESS = 0 / 0x00, "success";
    /// The opcode is not supported on this queue.
    INVALID_OPCODE = 0 / 0x01, "invalid opcode";
    /// A field of the command is invalid.
    INVALID_FIELD = 0 / 0x02, "invalid field in command";
    /// The data could not be transferred.
    DATA_TRANSFER_ERROR = 0 / 0x04, "data transfer error";
    /// Internal error of the controller.
    INTERNAL_ERROR = 0 / 0x06, "internal error";
    /// Aborted by an Abort command.
    ABORTED_BY_REQUEST = 0 / 0x07, "command abort requested";
    /// Aborted because the submission queue was deleted.
    ABORTED_SQ_DELETION = 0 / 0x08, "aborted: submission queue deleted";
    /// The other half of a fused pair has failed.
    FAILED_FUSED = 0 / 0x09, "aborted: failed fused command";
    /// Half of a fused pair is missing.
    MISSING_FUSED = 0 / 0x0a, "aborted: missing fused command";
    /// The namespace does not exist, or its format is invalid.
    INVALID_NAMESPACE = 0 / 0x0b, "invalid namespace or format";
    /// Commands came in an order that is not allowed.
    SEQUENCE_ERROR = 0 / 0x0c, "command sequence error";
    /// Invalid SGL segment descriptor.
    INVALID_SGL_SEGMENT = 0 / 0x0d, "invalid SGL segment descriptor";
    /// The SGL's length does not fit the command.
    DATA_SGL_LENGTH_INVALID = 0 / 0x0f, "data SGL length invalid";
    /// The SGL descriptor's type is not supported.
    SGL_TYPE_INVALID = 0 / 0x11, "SGL descriptor type invalid";
    /// The SGL offset points outside of the capsule.
    SGL_OFFSET_INVALID = 0 / 0x16, "SGL offset invalid";
    /// The host identifier has another format than the command asks for.
    HOST_ID_INCONSISTENT = 0 / 0x18, "host identifier inconsistent format";
    /// The Keep Alive Timeout is invalid.
    KEEP_ALIVE_INVALID = 0 / 0x19, "keep alive timeout invalid";
    /// The command was interrupted and may be sent again.
    COMMAND_INTERRUPTED = 0 / 0x21, "command interrupted";
    /// Transport error that may go away: retry.
    TRANSIENT_TRANSPORT_ERROR = 0 / 0x22, "transient transport error";
    /// LBA range exceeds the namespace.
    LBA_OUT_OF_RANGE = 0 / 0x80, "LBA out of range";
    /// Not enough space.
    CAPACITY_EXCEEDED = 0 / 0x81, "capacity exceeded";
    /// The namespace is not ready.
    NAMESPACE_NOT_READY = 0 / 0x82, "namespace not ready";
    /// Another host's reservation is in the way.
    RESERVATION_CONFLICT = 0 / 0x83, "reservation conflict";
    /// Invalid queue identifier.
    INVALID_QUEUE_ID = 1 / 0x01, "invalid queue identifier";
    /// More Abort commands than the controller executes at a time.
    ABORT_LIMIT_EXCEEDED = 1 / 0x03, "abort command limit exceeded";
    /// More Asynchronous Event Requests than the controller takes.
    AER_LIMIT_EXCEEDED = 1 / 0x05, "asynchronous event request limit exceeded";
    /// Log page not supported.
    INVALID_LOG_PAGE = 1 / 0x09, "invalid log page";
    /// The feature cannot be saved.
    FEATURE_NOT_SAVEABLE = 1 / 0x0d, "feature identifier not saveable";
    /// The feature cannot be changed.
    FEATURE_NOT_CHANGEABLE = 1 / 0x0e, "feature not changeable";
    /// Connect: RECFMT not supported (Base 6.3).
    CONNECT_INCOMPATIBLE_FORMAT = 1 / 0x80, "connect: incompatible format";
    /// Connect: the controller is in use.
    CONNECT_BUSY = 1 / 0x81, "connect: controller busy";
    /// Connect: a parameter is invalid; IPO/IATTR in dword 0 say which.
    CONNECT_INVALID_PARAM = 1 / 0x82, "connect: invalid parameters";
    /// Connect: restart discovery.
    CONNECT_RESTART_DISCOVERY = 1 / 0x83, "connect: restart discovery";
    /// Connect: this host may not use the subsystem.
    CONNECT_INVALID_HOST = 1 / 0x84, "connect: invalid host";
    /// Media: write fault.
    WRITE_FAULT = 2 / 0x80, "write fault";
    /// Media: unrecovered read error.
    READ_ERROR = 2 / 0x81, "unrecovered read error";
    /// Media: Compare found a difference.
    COMPARE_FAILURE = 2 / 0x85, "compare failure";
    /// Path: internal path error.
    INTERNAL_PATH_ERROR = 3 / 0x00, "internal path error";
    /// Path: ANA group is in persistent loss.
    ANA_PERSISTENT_LOSS = 3 / 0x01, "asymmetric access persistent loss";
    /// Path: ANA group is inaccessible through this controller.
    ANA_INACCESSIBLE = 3 / 0x02, "asymmetric access inaccessible";
    /// Path: ANA group is in transition.
    ANA_TRANSITION = 3 / 0x03, "asymmetric access transition";
    /// Path: detected by the host.
    HOST_PATH_ERROR = 3 / 0x70, "host pathing error";
    /// Path: aborted by the host.
    HOST_ABORTED = 3 / 0x71, "command aborted by host";
}

impl Status {
    /// Status of type `sct` (0-7) and code `sc`.
    #[must_use]
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self((sct as u16 & 7) << 8 | sc as u16)
    }

    /// From the status bits of a completion shifted right by one, i.e. without the phase tag.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0x7fff)
    }

    /// The 15 status bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The same status with Do Not Retry set.
    #[must_use]
    pub const fn dnr(self) -> Self {
        Self(self.0 | DNR)
    }

    /// Whether the host must not retry.
    #[must_use]
    pub const fn is_dnr(self) -> bool {
        self.0 & DNR != 0
    }

    /// Status code type.
    #[must_use]
    pub const fn sct(self) -> u8 {
        (self.0 >> 8 & 7) as u8
    }

    /// Status code.
    #[must_use]
    pub const fn sc(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// Whether the command succeeded.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Whether type and code are the same, whatever DNR, CRD and More say.
    #[must_use]
    pub const fn same(self, other: Self) -> bool {
        self.0 & 0x7ff == other.0 & 0x7ff
    }

    /// Path Related Status: the same command may succeed on another path.
    #[must_use]
    pub const fn is_path_error(self) -> bool {
        self.sct() == 3
    }

    /// One of the three statuses that an ANA state produces.
    #[must_use]
    pub const fn is_ana_error(self) -> bool {
        self.sct() == 3 && matches!(self.sc(), 1..=3)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (sct {}, sc {:#04x}", self.name().unwrap_or("status"), self.sct(), self.sc())?;
        if self.is_dnr() {
            f.write_str(", do not retry")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
