//! The errors of the operating system as SPDK sends them: `-errno` as the code, `strerror` as the message.

use std::fmt;

/// A positive `errno` of Linux.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($( $name:ident = $value:literal $text:literal, )+) => {
        impl Errno {
            $( pub const $name: Self = Self($value); )+

            const TABLE: &'static [(Self, &'static str, &'static str)] = &[$( (Self::$name, stringify!($name), $text), )+];
        }
    };
}

errnos! {
    EPERM = 1 "Operation not permitted",
    ENOENT = 2 "No such file or directory",
    EINTR = 4 "Interrupted system call",
    EIO = 5 "Input/output error",
    ENXIO = 6 "No such device or address",
    EBADF = 9 "Bad file descriptor",
    EAGAIN = 11 "Resource temporarily unavailable",
    ENOMEM = 12 "Cannot allocate memory",
    EACCES = 13 "Permission denied",
    EFAULT = 14 "Bad address",
    EBUSY = 16 "Device or resource busy",
    EEXIST = 17 "File exists",
    ENODEV = 19 "No such device",
    EISDIR = 21 "Is a directory",
    EINVAL = 22 "Invalid argument",
    EFBIG = 27 "File too large",
    ENOSPC = 28 "No space left on device",
    EROFS = 30 "Read-only file system",
    EDOM = 33 "Numerical argument out of domain",
    ERANGE = 34 "Numerical result out of range",
    ENAMETOOLONG = 36 "File name too long",
    ENOSYS = 38 "Function not implemented",
    ENODATA = 61 "No data available",
    EBADMSG = 74 "Bad message",
    EILSEQ = 84 "Invalid or incomplete multibyte or wide character",
    EMSGSIZE = 90 "Message too long",
    EOPNOTSUPP = 95 "Operation not supported",
    EADDRINUSE = 98 "Address already in use",
    EADDRNOTAVAIL = 99 "Cannot assign requested address",
    ECONNABORTED = 103 "Software caused connection abort",
    ECONNRESET = 104 "Connection reset by peer",
    ENOTCONN = 107 "Transport endpoint is not connected",
    ESHUTDOWN = 108 "Cannot send after transport endpoint shutdown",
    ETIMEDOUT = 110 "Connection timed out",
    ECONNREFUSED = 111 "Connection refused",
    EHOSTUNREACH = 113 "No route to host",
    EALREADY = 114 "Operation already in progress",
    ECANCELED = 125 "Operation canceled",
}

impl Errno {
    /// The text of `strerror`, as SPDK puts it into an error's message.
    pub fn message(self) -> &'static str {
        Self::TABLE.iter().find(|(e, _, _)| *e == self).map_or("Unknown error", |(_, _, text)| text)
    }

    /// `"ENODEV"`; `"E?"` for numbers outside the table.
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|(e, _, _)| *e == self).map_or("E?", |(_, name, _)| name)
    }

    /// The errno whose `strerror` is `text`.
    pub fn from_message(text: &str) -> Option<Self> {
        Self::TABLE.iter().find(|(_, _, t)| *t == text).map(|(e, _, _)| *e)
    }

    /// The JSON-RPC code SPDK sends for it.
    pub fn code(self) -> i64 {
        -i64::from(self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message(), self.name())
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}
