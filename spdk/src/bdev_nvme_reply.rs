//! Replies of `bdev_nvme_*`.

use crate::IoCounters;

object! {
    /// A transport address as a target shows it.
    Trid {
        /// `TCP`, `PCIe`, ...
        trtype: String,
        ;
        adrfam: String,
        traddr: String,
        trsvcid: String,
        subnqn: String,
    }

    /// An element of the reply of [`crate::BdevNvmeGetControllers`]: the paths that carry one name.
    NvmeControllerGroup {
        name: String,
        ctrlrs: Vec<NvmeController>,
        ;
    }

    /// A path to a controller.
    NvmeController {
        state: ControllerState,
        trid: Trid,
        cntlid: u16,
        host: NvmeHost,
        ;
        cuse_device: String,
        /// Paths to take when this one is lost (`failover`).
        alternate_trids: Vec<Trid>,
        numa_id: i32,
    }

    /// How the target presents itself to a controller.
    NvmeHost {
        nqn: String,
        addr: String,
        svcid: String,
        ;
        no_shn_notification: bool,
    }

    /// An element of `driver_specific.nvme` of a bdev: the namespace seen through one path.
    NvmeNamespace {
        trid: Trid,
        ctrlr_data: CtrlrData,
        vs: NvmeVersion,
        ns_data: NsData,
        ;
        pci_address: String,
        cuse_device: String,
        security: Security,
    }

    /// `ctrlr_data` of an [`NvmeNamespace`].
    CtrlrData {
        cntlid: u16,
        /// Hexadecimal with `0x`.
        vendor_id: String,
        model_number: String,
        serial_number: String,
        firmware_revision: String,
        oacs: Oacs,
        multi_ctrlr: bool,
        ana_reporting: bool,
        ;
        subnqn: String,
    }

    /// Optional admin commands of a controller, 0 or 1 each.
    Oacs {
        security: u32,
        format: u32,
        firmware: u32,
        ns_manage: u32,
        ;
    }

    /// `vs` of an [`NvmeNamespace`].
    NvmeVersion {
        nvme_version: String,
        ;
    }

    /// `ns_data` of an [`NvmeNamespace`].
    NsData {
        id: u32,
        can_share: bool,
        ;
        ana_state: NsAnaState,
    }

    /// `security` of an [`NvmeNamespace`].
    Security {
        opal: bool,
        ;
    }

    /// Reply of [`crate::BdevNvmeGetIoPaths`].
    IoPaths {
        poll_groups: Vec<IoPathGroup>,
        ;
    }

    /// The paths used by one thread.
    IoPathGroup {
        thread: String,
        io_paths: Vec<IoPath>,
        ;
    }

    /// A path of a bdev.
    IoPath {
        bdev_name: String,
        cntlid: u16,
        current: bool,
        connected: bool,
        accessible: bool,
        transport: Trid,
        ;
    }

    /// Reply of [`crate::BdevNvmeGetPathIostat`].
    PathIostat {
        name: String,
        stats: Vec<PathStat>,
        ;
    }

    /// Counters of one path.
    PathStat {
        trid: Trid,
        stat: IoCounters,
        ;
    }

    /// Reply of [`crate::BdevNvmeGetTransportStatistics`].
    TransportStatistics {
        poll_groups: Vec<TransportStatisticsGroup>,
        ;
    }

    /// Counters of one thread.
    TransportStatisticsGroup {
        thread: String,
        /// `trname` and the counters of that transport.
        transports: Vec<serde_json::Map<String, serde_json::Value>>,
        ;
    }

    /// Reply of [`crate::BdevNvmeGetControllerHealthInfo`].
    ControllerHealth {
        model_number: String,
        serial_number: String,
        firmware_revision: String,
        traddr: String,
        critical_warning: u64,
        /// Wraps below zero, as SPDK prints it unsigned.
        temperature_celsius: u64,
        available_spare_percentage: u64,
        available_spare_threshold_percentage: u64,
        percentage_used: u64,
        data_units_read: u128,
        data_units_written: u128,
        host_read_commands: u128,
        host_write_commands: u128,
        controller_busy_time: u128,
        power_cycles: u128,
        power_on_hours: u128,
        unsafe_shutdowns: u128,
        media_errors: u128,
        num_err_log_entries: u128,
        warning_temperature_time_minutes: u64,
        critical_composite_temperature_time_minutes: u64,
        ;
    }

    /// Reply of [`crate::BdevNvmeSendCmd`], in URL-safe base64.
    PassthruReply {
        /// The completion queue entry.
        cpl: String,
        ;
        data: String,
        metadata: String,
    }
}

closed! {
    /// State of a path.
    ControllerState {
        Enabled = "enabled",
        Disabled = "disabled",
        Failed = "failed",
        Deleting = "deleting",
        Resetting = "resetting",
        ReconnectIsDelayed = "reconnect_is_delayed",
    }

    /// ANA state of a namespace as a host sees it.
    NsAnaState {
        Optimized = "optimized",
        NonOptimized = "non_optimized",
        Inaccessible = "inaccessible",
        PersistentLoss = "persistent_loss",
        Change = "change",
    }
}
