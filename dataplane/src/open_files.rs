//! How many files and connections the process may have open.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Fewer than this many, and a node of ordinary size runs out of descriptors: a connection is one.
const PLENTY: u64 = 8192;

/// Raises the soft limit of open files to the hard one, and says so where that is still low. A service manager sets the hard
/// limit (`LimitNOFILE` of systemd); the soft one is low for the sake of programs that use `select`, which this is not.
pub fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let before = limit.current;
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays where it is");
            limit.current = before;
        }
    }
    if let Some(files) = limit.current.filter(|files| *files < PLENTY) {
        tracing::warn!(
            "at most {files} open files, and so fewer connections: raise the hard limit (ulimit -Hn, LimitNOFILE=) for more"
        );
    }
}

/// Descriptors the process may have, for a message; `u64::MAX` for no limit.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
