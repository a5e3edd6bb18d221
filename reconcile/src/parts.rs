//! Kinds of resources that disk nodes and controller nodes have in common: what they are, what brings them into shape, how it is called.

pub mod export;
pub mod lvol;
pub mod lvstore;
