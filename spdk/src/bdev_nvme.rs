//! The NVMe-oF host inside a target: `bdev_nvme_*` calls.

use crate::{ControllerHealth, IoPaths, NvmeControllerGroup, PassthruReply, PathIostat, TransportStatistics};

rpc! {
    /// `bdev_nvme_attach_controller`: connects a controller and makes bdevs `{name}n{nsid}` of its namespaces; answers their names.
    BdevNvmeAttachController = "bdev_nvme_attach_controller" -> Vec<String>, {
        name: String,
        trtype: String,
        traddr: String,
        ;
        adrfam: String,
        trsvcid: String,
        priority: String,
        subnqn: String,
        hostnqn: String,
        hostaddr: String,
        hostsvcid: String,
        prchk_reftag: bool,
        prchk_guard: bool,
        hdgst: bool,
        ddgst: bool,
        fabrics_connect_timeout_us: u64,
        multipath: MultipathMode,
        num_io_queues: u32,
        /// Seconds until a lost controller is deleted; -1: never.
        ctrlr_loss_timeout_sec: i32,
        /// Seconds between two attempts to reconnect.
        reconnect_delay_sec: u32,
        /// Seconds until I/O to a lost controller fails.
        fast_io_fail_timeout_sec: u32,
        psk: String,
        max_bdevs: u32,
        dhchap_key: String,
        dhchap_ctrlr_key: String,
        allow_unrecognized_csi: bool,
        multipath_opts: MultipathOpts,
        disable_sq_flow_control: bool,
    }

    /// `bdev_nvme_detach_controller`: disconnects a controller, or one of its paths. -110 after 10 s while something holds a bdev.
    BdevNvmeDetachController = "bdev_nvme_detach_controller" -> bool, {
        name: String,
        ;
        trtype: String,
        traddr: String,
        adrfam: String,
        trsvcid: String,
        subnqn: String,
        hostaddr: String,
        hostsvcid: String,
    }

    /// `bdev_nvme_get_controllers`: all controllers, or one (-22 if there is none).
    BdevNvmeGetControllers = "bdev_nvme_get_controllers" -> Vec<NvmeControllerGroup>, {
        ;
        name: String,
    }

    /// `bdev_nvme_set_options`: options for controllers attached afterwards; -1 while one is attached.
    BdevNvmeSetOptions = "bdev_nvme_set_options" -> bool, {
        ;
        action_on_timeout: TimeoutAction,
        timeout_us: u64,
        timeout_admin_us: u64,
        /// Milliseconds.
        keep_alive_timeout_ms: u32,
        arbitration_burst: u32,
        low_priority_weight: u32,
        medium_priority_weight: u32,
        high_priority_weight: u32,
        nvme_adminq_poll_period_us: u64,
        nvme_ioq_poll_period_us: u64,
        io_queue_requests: u32,
        delay_cmd_submit: bool,
        transport_retry_count: u32,
        bdev_retry_count: i32,
        transport_ack_timeout: u8,
        /// Seconds until a lost controller is deleted; -1: never.
        ctrlr_loss_timeout_sec: i32,
        /// Seconds between two attempts to reconnect.
        reconnect_delay_sec: u32,
        /// Seconds until I/O to a lost controller fails.
        fast_io_fail_timeout_sec: u32,
        disable_auto_failback: bool,
        generate_uuids: bool,
        transport_tos: u8,
        nvme_error_stat: bool,
        rdma_srq_size: u32,
        io_path_stat: bool,
        allow_accel_sequence: bool,
        rdma_max_cq_size: u32,
        rdma_cm_event_timeout_ms: u16,
        dhchap_digests: Vec<String>,
        dhchap_dhgroups: Vec<String>,
        rdma_umr_per_io: bool,
        tcp_connect_timeout_ms: u32,
        enable_flush: bool,
        multipath_opts: MultipathOpts,
    }

    /// `bdev_nvme_set_hotplug`: looks for new PCIe devices.
    BdevNvmeSetHotplug = "bdev_nvme_set_hotplug" -> bool, {
        enable: bool,
        ;
        period_us: u64,
    }

    /// `bdev_nvme_reset_controller`: disconnects and reconnects a controller.
    BdevNvmeResetController = "bdev_nvme_reset_controller" -> bool, {
        name: String,
        ;
        cntlid: u16,
    }

    /// `bdev_nvme_enable_controller`: undoes `bdev_nvme_disable_controller`.
    BdevNvmeEnableController = "bdev_nvme_enable_controller" -> bool, {
        name: String,
        ;
        cntlid: u16,
    }

    /// `bdev_nvme_disable_controller`: disconnects a controller and leaves it so.
    BdevNvmeDisableController = "bdev_nvme_disable_controller" -> bool, {
        name: String,
        ;
        cntlid: u16,
    }

    /// `bdev_nvme_get_io_paths`: the paths of each bdev.
    BdevNvmeGetIoPaths = "bdev_nvme_get_io_paths" -> IoPaths, {
        ;
        name: String,
    }

    /// `bdev_nvme_set_preferred_path`: which path `active_passive` uses.
    BdevNvmeSetPreferredPath = "bdev_nvme_set_preferred_path" -> bool, {
        name: String,
        cntlid: u16,
        ;
    }

    /// `bdev_nvme_set_multipath_policy`: deprecated in favour of `multipath_opts` at attach.
    BdevNvmeSetMultipathPolicy = "bdev_nvme_set_multipath_policy" -> bool, {
        name: String,
        policy: MultipathPolicy,
        ;
        selector: MultipathSelector,
        rr_min_io: u32,
    }

    /// `bdev_nvme_get_path_iostat`: counters per path; -1 unless `io_path_stat` is on.
    BdevNvmeGetPathIostat = "bdev_nvme_get_path_iostat" -> PathIostat, {
        name: String,
        ;
    }

    /// `bdev_nvme_get_transport_statistics`: counters per transport.
    BdevNvmeGetTransportStatistics = "bdev_nvme_get_transport_statistics" -> TransportStatistics, { ; }

    /// `bdev_nvme_get_controller_health_info`: the SMART page of a controller.
    BdevNvmeGetControllerHealthInfo = "bdev_nvme_get_controller_health_info" -> ControllerHealth, {
        name: String,
        ;
    }

    /// `bdev_nvme_send_cmd`: a raw NVMe command. `cmdbuf`, `data` and the reply are URL-safe base64.
    BdevNvmeSendCmd = "bdev_nvme_send_cmd" -> PassthruReply, {
        name: String,
        cmd_type: NvmeCmdType,
        data_direction: DataDirection,
        cmdbuf: String,
        ;
        data: String,
        metadata: String,
        data_len: u32,
        metadata_len: u32,
        /// Milliseconds.
        timeout_ms: u32,
    }
}

closed! {
    /// What a second `bdev_nvme_attach_controller` of the same name does.
    MultipathMode { Failover = "failover", Multipath = "multipath", Disable = "disable", }

    /// How I/O is spread over paths.
    MultipathPolicy { ActivePassive = "active_passive", ActiveActive = "active_active", }

    /// Which path `active_active` takes next.
    MultipathSelector { RoundRobin = "round_robin", QueueDepth = "queue_depth", }

    /// What to do with a command that takes too long.
    TimeoutAction { None = "none", Reset = "reset", Abort = "abort", }

    /// Queue of a raw command.
    NvmeCmdType { Admin = "admin", Io = "io", }

    /// Direction of a raw command's data.
    DataDirection { HostToController = "h2c", ControllerToHost = "c2h", }
}

param_object! {
    /// `multipath_opts` of [`BdevNvmeAttachController`] and [`BdevNvmeSetOptions`].
    MultipathOpts {
        ;
        policy: MultipathPolicy,
        selector: MultipathSelector,
        /// I/Os to a path before the next one is taken (`round_robin`).
        min_io: u32,
    }
}
