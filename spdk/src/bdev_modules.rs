//! Block devices made of memory, files or nothing, and the two that disturb others: `bdev_malloc_*`, `bdev_null_*`, `bdev_aio_*`,
//! `bdev_uring_*`, `bdev_delay_*`, `bdev_error_*`, `bdev_passthru_*`.

use crate::Uuid;

rpc! {
    /// `bdev_malloc_create`: a bdev of memory; answers its name.
    BdevMallocCreate = "bdev_malloc_create" -> String, {
        /// Bytes.
        block_size: u32,
        /// In blocks of `block_size`.
        num_blocks: u64,
        ;
        name: String,
        uuid: Uuid,
        optimal_io_boundary: u32,
        md_size: u32,
        md_interleave: bool,
        dif_type: i32,
        dif_is_head_of_md: bool,
        physical_block_size: u32,
        dif_pi_format: u32,
        numa_id: i32,
    }

    /// `bdev_malloc_delete`: deletes it.
    BdevMallocDelete = "bdev_malloc_delete" -> bool, {
        name: String,
        ;
    }

    /// `bdev_null_create`: a bdev that discards writes and reads as whatever was in the buffer; answers its name.
    BdevNullCreate = "bdev_null_create" -> String, {
        name: String,
        /// Bytes.
        block_size: u32,
        /// In blocks of `block_size`.
        num_blocks: u64,
        ;
        uuid: Uuid,
        physical_block_size: u32,
        md_size: u32,
        dif_type: i32,
        dif_pi_format: u32,
        dif_is_head_of_md: bool,
        preferred_write_granularity: u32,
        preferred_write_alignment: u32,
        optimal_write_size: u32,
        preferred_unmap_granularity: u32,
        preferred_unmap_alignment: u32,
    }

    /// `bdev_null_delete`: deletes it.
    BdevNullDelete = "bdev_null_delete" -> bool, {
        name: String,
        ;
    }

    /// `bdev_null_resize`: changes its size.
    BdevNullResize = "bdev_null_resize" -> bool, {
        name: String,
        /// MiB.
        new_size: u64,
        ;
    }

    /// `bdev_aio_create`: a bdev of a file or block device; answers its name.
    BdevAioCreate = "bdev_aio_create" -> String, {
        name: String,
        filename: String,
        ;
        /// Bytes.
        block_size: u32,
        readonly: bool,
        fallocate: bool,
        uuid: Uuid,
        nowait: bool,
    }

    /// `bdev_aio_rescan`: takes over a changed size of the file.
    BdevAioRescan = "bdev_aio_rescan" -> bool, {
        name: String,
        ;
    }

    /// `bdev_aio_delete`: closes it; the file stays.
    BdevAioDelete = "bdev_aio_delete" -> bool, {
        name: String,
        ;
    }

    /// `bdev_uring_create`: a bdev of a file or block device through io_uring; answers its name.
    BdevUringCreate = "bdev_uring_create" -> String, {
        filename: String,
        name: String,
        ;
        /// Bytes.
        block_size: u32,
        uuid: Uuid,
    }

    /// `bdev_uring_rescan`: takes over a changed size of the file.
    BdevUringRescan = "bdev_uring_rescan" -> bool, {
        name: String,
        ;
    }

    /// `bdev_uring_delete`: closes it; the file stays.
    BdevUringDelete = "bdev_uring_delete" -> bool, {
        name: String,
        ;
    }

    /// `bdev_delay_create`: a bdev that delays another one's I/O; answers its name.
    BdevDelayCreate = "bdev_delay_create" -> String, {
        name: String,
        base_bdev_name: String,
        /// Microseconds.
        avg_read_latency: u64,
        /// Microseconds.
        p99_read_latency: u64,
        /// Microseconds.
        avg_write_latency: u64,
        /// Microseconds.
        p99_write_latency: u64,
        ;
        uuid: Uuid,
    }

    /// `bdev_delay_update_latency`: changes one of its latencies.
    BdevDelayUpdateLatency = "bdev_delay_update_latency" -> bool, {
        delay_bdev_name: String,
        latency_type: DelayLatency,
        /// Microseconds.
        latency_us: u64,
        ;
    }

    /// `bdev_delay_delete`: deletes it.
    BdevDelayDelete = "bdev_delay_delete" -> bool, {
        name: String,
        ;
    }

    /// `bdev_error_create`: a bdev `EE_{base_name}` into which errors can be injected.
    BdevErrorCreate = "bdev_error_create" -> bool, {
        base_name: String,
        ;
        uuid: Uuid,
    }

    /// `bdev_error_delete`: deletes it.
    BdevErrorDelete = "bdev_error_delete" -> bool, {
        name: String,
        ;
    }

    /// `bdev_error_inject_error`: lets the next `num` operations of a kind fail.
    BdevErrorInjectError = "bdev_error_inject_error" -> bool, {
        name: String,
        io_type: ErrorIoType,
        error_type: ErrorType,
        ;
        nvme_sct: u32,
        nvme_sc: u32,
        num: u32,
        queue_depth: u64,
        corrupt_offset: u64,
        corrupt_value: u8,
    }

    /// `bdev_error_resume_pending`: lets the operations go that were injected as `pending`.
    BdevErrorResumePending = "bdev_error_resume_pending" -> bool, {
        name: String,
        ;
    }

    /// `bdev_passthru_create`: a bdev that passes everything on; answers its name.
    BdevPassthruCreate = "bdev_passthru_create" -> String, {
        name: String,
        base_bdev_name: String,
        ;
        uuid: Uuid,
    }

    /// `bdev_passthru_delete`: deletes it.
    BdevPassthruDelete = "bdev_passthru_delete" -> bool, {
        name: String,
        ;
    }
}

closed! {
    /// Operations to fail.
    ErrorIoType { Clear = "clear", Read = "read", Write = "write", Unmap = "unmap", Flush = "flush", All = "all", }

    /// How to fail.
    ErrorType {
        Failure = "failure",
        Pending = "pending",
        CorruptData = "corrupt_data",
        Nomem = "nomem",
        NvmeFailure = "nvme_failure",
    }

    /// A latency of a delay bdev.
    DelayLatency { AvgRead = "avg_read", P99Read = "p99_read", AvgWrite = "avg_write", P99Write = "p99_write", }
}

object! {
    /// `driver_specific.aio` and `.uring` of a bdev.
    FileSpecific {
        filename: String,
        ;
        /// aio only.
        block_size_override: bool,
        /// aio only.
        readonly: bool,
        /// aio only.
        fallocate: bool,
        /// aio only.
        nowait: bool,
    }

    /// `driver_specific.delay` of a bdev. Microseconds.
    DelaySpecific {
        name: String,
        base_bdev_name: String,
        avg_read_latency: i64,
        p99_read_latency: i64,
        avg_write_latency: i64,
        p99_write_latency: i64,
        ;
        uuid: Uuid,
    }

    /// `driver_specific.error_disk` of a bdev.
    ErrorSpecific {
        base_bdev: String,
        ;
    }
}
