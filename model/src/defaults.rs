//! Every default and limit of the API in one table.

/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte, in bytes.
pub const GIB: u64 = 1 << 30;
/// One tebibyte, in bytes.
pub const TIB: u64 = 1 << 40;

/// Stripes of a DA if none are asked for: no raid0.
pub const STRIPES: u32 = 1;
/// Replicas of a DA if none are asked for: not mirrored.
pub const REPLICAS: u32 = 1;
/// Strip of raid0 if none is asked for, in KiB.
pub const STRIP_SIZE_KIB: u32 = 64;
/// Smallest and largest strip of raid0, in KiB; a power of two (`bdev_raid_create`: `strip_size_kb`).
pub const STRIP_SIZE_KIB_RANGE: (u32, u32) = (4, 1024);
/// Most replicas of a mirror set.
pub const MAX_REPLICAS: u32 = 8;
/// Most VDs of a DA: stripes times replicas.
pub const MAX_VDS_PER_DA: u32 = 128;
/// Most DNs a DA may spread over: three puts for each and six more stay below [`MAX_TXN_OPS`].
pub const MAX_DNS_PER_DA: usize = 40;
/// Most operations of one etcd transaction (etcd's `--max-txn-ops`).
pub const MAX_TXN_OPS: usize = 128;
/// Largest DA, in bytes.
pub const MAX_DA_BYTES: u64 = 64 * TIB;
/// Most EXPs of a DA. SPDK claims a bdev for one subsystem, so a volume cannot be in two; one EXP admits many hosts.
pub const MAX_EXPS_PER_DA: usize = 1;
/// Most hosts of an EXP.
pub const MAX_HOSTS_PER_EXP: usize = 64;
/// Most PDs of a DN: their specs are verified together when the DN is deleted.
pub const MAX_PDS_PER_DN: usize = 64;
/// Controllers of a CN if no limit is asked for.
pub const MAX_CNTLRS_PER_CN: u32 = 10_000;
/// Smallest malloc PD: an lvstore's metadata and one cluster of data.
pub const MIN_MALLOC_BYTES: u64 = 16 * MIB;

/// NVMe controller ids of one controller of a DA; disjoint ranges let a host see the same subsystem through several controllers.
/// Sixteen of them stay below the highest id a target may give, 0xFFEF (NVM Express over Fabrics, Connect command, CNTLID).
pub const CNTLIDS_PER_CNTLR: u32 = 4000;
/// What an EXP reports as its model number.
pub const MODEL_NUMBER: &str = "VDA disk array";

/// Items of a page if `page_size` is 0.
pub const PAGE_SIZE: u32 = 100;
/// Most items of a page.
pub const MAX_PAGE_SIZE: u32 = 1000;
/// How long an answered `request_id` is remembered, in seconds.
pub const REQUEST_TTL_SECS: i64 = 24 * 3600;
/// Best few candidates among which a seed chooses, so that portals do not all take the same one.
pub const SPREAD: usize = 4;
