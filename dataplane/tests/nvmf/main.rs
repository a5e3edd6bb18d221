//! The NVMe/TCP target against a host that sends whatever it likes, and against Wireshark's reading of what is on the wire.

mod abort;
mod fixture;
mod limits;
mod masking;
mod overload;
mod raw;
mod recorder;
mod reservations;
mod wire;
