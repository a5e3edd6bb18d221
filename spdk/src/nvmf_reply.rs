//! Replies of `nvmf_*`.

use crate::{NsAnaState, Trid, Uuid};

object! {
    /// An element of the reply of [`crate::NvmfGetSubsystems`]. What is optional is missing for the discovery subsystem.
    NvmfSubsystem {
        nqn: String,
        subtype: SubsystemType,
        listen_addresses: Vec<Trid>,
        allow_any_host: bool,
        hosts: Vec<NvmfHost>,
        ;
        serial_number: String,
        model_number: String,
        admin_label: String,
        max_namespaces: u32,
        passthrough: bool,
        min_cntlid: u32,
        max_cntlid: u32,
        dmrsl: u32,
        wzsl: u8,
        namespaces: Vec<NvmfNamespace>,
    }

    /// An allowed host.
    NvmfHost {
        nqn: String,
        ;
        dhchap_key: String,
        dhchap_ctrlr_key: String,
        psk: String,
    }

    /// A namespace of a subsystem.
    NvmfNamespace {
        nsid: u32,
        bdev_name: String,
        /// The same as `bdev_name`.
        name: String,
        ;
        /// 32 upper-case hexadecimal digits.
        nguid: String,
        /// 16 upper-case hexadecimal digits.
        eui64: String,
        uuid: Uuid,
        /// With ANA reporting only.
        anagrpid: u32,
        ptpl_file: String,
    }

    /// An element of the reply of [`crate::NvmfSubsystemGetListeners`].
    NvmfListener {
        address: Trid,
        ;
        /// With ANA reporting only: one entry per group, from group 1 on.
        ana_states: Vec<AnaGroupState>,
    }

    /// The state of an ANA group at a listener.
    AnaGroupState {
        ana_group: u32,
        ana_state: NsAnaState,
        ;
    }

    /// An element of the reply of [`crate::NvmfSubsystemGetControllers`].
    NvmfController {
        cntlid: u16,
        /// `io`, `discovery` or `administrative`.
        cntrltype: String,
        hostnqn: String,
        hostid: Uuid,
        num_io_qpairs: u32,
        ;
    }

    /// An element of the reply of [`crate::NvmfSubsystemGetQpairs`].
    NvmfQpair {
        cntlid: u16,
        qid: u16,
        state: QpairState,
        thread: String,
        hostnqn: String,
        ;
        listen_address: Trid,
        peer_address: Trid,
    }

    /// An element of the reply of [`crate::NvmfGetTransports`].
    NvmfTransport {
        trtype: String,
        max_queue_depth: u32,
        max_io_qpairs_per_ctrlr: u32,
        /// Bytes.
        in_capsule_data_size: u32,
        /// Bytes.
        max_io_size: u32,
        max_aq_depth: u32,
        ;
        /// Bytes; older targets only.
        io_unit_size: u32,
        iobuf_small_cache_size: u32,
        iobuf_large_cache_size: u32,
        dif_insert_or_strip: bool,
        zcopy: bool,
        c2h_success: bool,
        sock_priority: u32,
        abort_timeout_sec: u32,
        ack_timeout: u32,
        data_wr_pool_size: u32,
        disable_command_passthru: bool,
        /// 100 ms.
        kas: u16,
        /// Milliseconds.
        min_kato: u32,
    }

    /// Reply of [`crate::NvmfGetStats`].
    NvmfStats {
        /// Ticks a second.
        tick_rate: u64,
        poll_groups: Vec<NvmfPollGroup>,
        ;
    }

    /// Counters of one thread of the target.
    NvmfPollGroup {
        name: String,
        admin_qpairs: u32,
        io_qpairs: u32,
        current_admin_qpairs: u32,
        current_io_qpairs: u32,
        pending_bdev_io: u64,
        transports: Vec<serde_json::Map<String, serde_json::Value>>,
        ;
        current_unassociated_qpairs: u32,
        completed_nvme_io: u64,
    }

    /// An element of the reply of [`crate::NvmfDiscoveryGetReferrals`].
    NvmfReferral {
        address: Trid,
        ;
        secure_channel: bool,
        subnqn: String,
    }
}

closed! {
    /// Kind of a subsystem.
    SubsystemType { Nvme = "NVMe", Discovery = "Discovery", }

    /// State of a connection.
    QpairState {
        Uninitialized = "uninitialized",
        Connecting = "connecting",
        Authenticating = "authenticating",
        Enabled = "enabled",
        Deactivating = "deactivating",
        Error = "error",
    }
}
