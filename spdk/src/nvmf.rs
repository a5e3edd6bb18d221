//! The NVMe-oF target: `nvmf_*` calls. Bad parameters are answered with -32602 here.

use crate::{
    NvmfController, NvmfListener, NvmfQpair, NvmfReferral, NvmfStats, NvmfSubsystem, NvmfTransport, Trid,
    Uuid,
};

rpc! {
    /// `nvmf_create_transport`: makes the target speak a transport. -32603 "... already exists".
    NvmfCreateTransport = "nvmf_create_transport" -> bool, {
        trtype: String,
        ;
        tgt_name: String,
        max_queue_depth: u16,
        max_io_qpairs_per_ctrlr: u16,
        /// Bytes.
        in_capsule_data_size: u32,
        /// Bytes.
        max_io_size: u32,
        /// Bytes.
        io_unit_size: u32,
        max_aq_depth: u32,
        num_shared_buffers: u32,
        buf_cache_size: u32,
        iobuf_small_cache_size: u32,
        iobuf_large_cache_size: u32,
        zcopy: bool,
        num_cqe: i32,
        max_srq_depth: u32,
        no_srq: bool,
        c2h_success: bool,
        dif_insert_or_strip: bool,
        sock_priority: u32,
        acceptor_backlog: i32,
        abort_timeout_sec: u32,
        no_wr_batching: bool,
        control_msg_num: u16,
        disable_mappable_bar0: bool,
        disable_adaptive_irq: bool,
        disable_shadow_doorbells: bool,
        acceptor_poll_rate: u32,
        ack_timeout: u32,
        data_wr_pool_size: u32,
        disable_command_passthru: bool,
        /// Granularity of the keep-alive timer, 100 ms.
        kas: u16,
        /// Milliseconds the keep-alive time is rounded up to.
        min_kato: u32,
        masked_oncs: Vec<String>,
        masked_fuses: Vec<String>,
    }

    /// `nvmf_get_transports`: all transports, or one type (-19 if it was not created).
    NvmfGetTransports = "nvmf_get_transports" -> Vec<NvmfTransport>, {
        ;
        tgt_name: String,
        trtype: String,
    }

    /// `nvmf_create_subsystem`: a subsystem. The answer to a duplicate NQN is -32603 "Unable to create subsystem ...", as to a malformed one.
    NvmfCreateSubsystem = "nvmf_create_subsystem" -> bool, {
        nqn: String,
        ;
        tgt_name: String,
        serial_number: String,
        model_number: String,
        admin_label: String,
        max_namespaces: u32,
        allow_any_host: bool,
        ana_reporting: bool,
        min_cntlid: u16,
        max_cntlid: u16,
        dmrsl: u32,
        wzsl: u8,
        passthrough: bool,
        enable_nssr: bool,
    }

    /// `nvmf_delete_subsystem`: deletes a subsystem and disconnects its hosts.
    NvmfDeleteSubsystem = "nvmf_delete_subsystem" -> bool, {
        nqn: String,
        ;
        tgt_name: String,
    }

    /// `nvmf_get_subsystems`: all subsystems, or one; the first is the discovery subsystem.
    NvmfGetSubsystems = "nvmf_get_subsystems" -> Vec<NvmfSubsystem>, {
        ;
        nqn: String,
        tgt_name: String,
    }

    /// `nvmf_get_targets`: names of the NVMe-oF targets of the process.
    NvmfGetTargets = "nvmf_get_targets" -> Vec<String>, { ; }

    /// `nvmf_subsystem_add_ns`: exposes a bdev; answers the namespace id.
    NvmfSubsystemAddNs = "nvmf_subsystem_add_ns" -> u32, {
        nqn: String,
        namespace: NamespaceParams,
        ;
        tgt_name: String,
    }

    /// `nvmf_subsystem_remove_ns`: takes a namespace away when its I/O is done.
    NvmfSubsystemRemoveNs = "nvmf_subsystem_remove_ns" -> bool, {
        nqn: String,
        nsid: u32,
        ;
        tgt_name: String,
    }

    /// `nvmf_subsystem_set_ns_ana_group`: moves a namespace to another ANA group.
    NvmfSubsystemSetNsAnaGroup = "nvmf_subsystem_set_ns_ana_group" -> bool, {
        nqn: String,
        nsid: u32,
        anagrpid: u32,
        ;
        tgt_name: String,
    }

    /// `nvmf_ns_add_host`: shows a namespace created with `no_auto_visible` to a host.
    NvmfNsAddHost = "nvmf_ns_add_host" -> bool, {
        nqn: String,
        nsid: u32,
        host: String,
        ;
        tgt_name: String,
    }

    /// `nvmf_ns_remove_host`: hides it again.
    NvmfNsRemoveHost = "nvmf_ns_remove_host" -> bool, {
        nqn: String,
        nsid: u32,
        host: String,
        ;
        tgt_name: String,
    }

    /// `nvmf_subsystem_add_host`: allows a host. -32603 if it is allowed already.
    NvmfSubsystemAddHost = "nvmf_subsystem_add_host" -> bool, {
        nqn: String,
        host: String,
        ;
        tgt_name: String,
        psk: String,
        dhchap_key: String,
        dhchap_ctrlr_key: String,
    }

    /// `nvmf_subsystem_remove_host`: forbids a host and disconnects it. A fence only when the answer is `true`.
    NvmfSubsystemRemoveHost = "nvmf_subsystem_remove_host" -> bool, {
        nqn: String,
        host: String,
        ;
        tgt_name: String,
        /// Milliseconds.
        timeout_ms: u64,
    }

    /// `nvmf_subsystem_allow_any_host`: whether the list of hosts is ignored.
    NvmfSubsystemAllowAnyHost = "nvmf_subsystem_allow_any_host" -> bool, {
        nqn: String,
        allow_any_host: bool,
        ;
        tgt_name: String,
    }

    /// `nvmf_subsystem_add_listener`: lets hosts connect to a subsystem at an address.
    NvmfSubsystemAddListener = "nvmf_subsystem_add_listener" -> bool, {
        nqn: String,
        listen_address: ListenAddress,
        ;
        tgt_name: String,
        secure_channel: bool,
        ana_state: AnaState,
        sock_impl: String,
        numa_id: i32,
    }

    /// `nvmf_subsystem_remove_listener`: takes the address away and drops its connections; hosts queue and retry elsewhere.
    NvmfSubsystemRemoveListener = "nvmf_subsystem_remove_listener" -> bool, {
        nqn: String,
        listen_address: ListenAddress,
        ;
        tgt_name: String,
    }

    /// `nvmf_subsystem_listener_set_ana_state`: the ANA state of namespaces seen through a listener. Does not wait for I/O in flight.
    NvmfSubsystemListenerSetAnaState = "nvmf_subsystem_listener_set_ana_state" -> bool, {
        nqn: String,
        listen_address: ListenAddress,
        ana_state: AnaState,
        ;
        tgt_name: String,
        anagrpid: u32,
    }

    /// `nvmf_subsystem_get_listeners`: the listeners of a subsystem with the ANA state of each group.
    NvmfSubsystemGetListeners = "nvmf_subsystem_get_listeners" -> Vec<NvmfListener>, {
        nqn: String,
        ;
        tgt_name: String,
    }

    /// `nvmf_subsystem_get_controllers`: the connected hosts of a subsystem.
    NvmfSubsystemGetControllers = "nvmf_subsystem_get_controllers" -> Vec<NvmfController>, {
        nqn: String,
        ;
        tgt_name: String,
    }

    /// `nvmf_subsystem_get_qpairs`: the connections of a subsystem.
    NvmfSubsystemGetQpairs = "nvmf_subsystem_get_qpairs" -> Vec<NvmfQpair>, {
        nqn: String,
        ;
        tgt_name: String,
    }

    /// `nvmf_get_stats`: counters of the target.
    NvmfGetStats = "nvmf_get_stats" -> NvmfStats, {
        ;
        tgt_name: String,
    }

    /// `nvmf_discovery_add_referral`: points hosts to another discovery service.
    NvmfDiscoveryAddReferral = "nvmf_discovery_add_referral" -> bool, {
        address: ListenAddress,
        ;
        tgt_name: String,
        secure_channel: bool,
        subnqn: String,
    }

    /// `nvmf_discovery_remove_referral`: stops doing so.
    NvmfDiscoveryRemoveReferral = "nvmf_discovery_remove_referral" -> bool, {
        address: ListenAddress,
        ;
        tgt_name: String,
        subnqn: String,
    }

    /// `nvmf_discovery_get_referrals`: where hosts are pointed to.
    NvmfDiscoveryGetReferrals = "nvmf_discovery_get_referrals" -> Vec<NvmfReferral>, {
        ;
        tgt_name: String,
    }

    /// `nvmf_set_config`: options of the target, before `framework_start_init` only.
    NvmfSetConfig = "nvmf_set_config" -> bool, {
        ;
        admin_cmd_passthru: AdminCmdPassthru,
        poll_groups_mask: String,
        discovery_filter: String,
        discovery_filters: Vec<String>,
        dhchap_digests: Vec<String>,
        dhchap_dhgroups: Vec<String>,
        dup_host_policy: DupHostPolicy,
    }

    /// `nvmf_set_max_subsystems`: how many subsystems there may be, before `framework_start_init` only.
    NvmfSetMaxSubsystems = "nvmf_set_max_subsystems" -> bool, {
        max_subsystems: u32,
        ;
    }

    /// `nvmf_set_crdt`: command retry delays, in 100 ms, before `framework_start_init` only.
    NvmfSetCrdt = "nvmf_set_crdt" -> bool, {
        ;
        crdt1: u16,
        crdt2: u16,
        crdt3: u16,
    }
}

closed! {
    /// States a listener can be set to.
    AnaState { Optimized = "optimized", NonOptimized = "non_optimized", Inaccessible = "inaccessible", }

    /// What to do with a second controller of the same host.
    DupHostPolicy { Allow = "allow", RestrictPerListener = "restrict_per_listener", }
}

param_object! {
    /// Where a subsystem listens.
    ListenAddress {
        /// `TCP`.
        trtype: String,
        /// An IP address.
        traddr: String,
        ;
        /// `IPv4` or `IPv6`.
        adrfam: String,
        /// The TCP port.
        trsvcid: String,
    }

    /// `namespace` of [`NvmfSubsystemAddNs`].
    NamespaceParams {
        /// Name, alias or UUID of the bdev.
        bdev_name: String,
        ;
        nsid: u32,
        /// 32 hexadecimal digits.
        nguid: String,
        /// 16 hexadecimal digits.
        eui64: String,
        uuid: Uuid,
        ptpl_file: String,
        anagrpid: u32,
        no_auto_visible: bool,
        hide_metadata: bool,
    }

    /// `admin_cmd_passthru` of [`NvmfSetConfig`].
    AdminCmdPassthru {
        ;
        identify_ctrlr: bool,
        identify_uuid_list: bool,
        get_log_page: bool,
        get_set_features: bool,
        sanitize: bool,
        security_send_recv: bool,
        fw_update: bool,
        nvme_mi: bool,
        vendor_specific: bool,
    }
}

impl ListenAddress {
    /// NVMe/TCP at an IP address and port.
    pub fn tcp(address: std::net::SocketAddr) -> Self {
        Self {
            trtype: "TCP".to_owned(),
            traddr: address.ip().to_string(),
            adrfam: Some(if address.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned()),
            trsvcid: Some(address.port().to_string()),
        }
    }

    /// Whether a target that shows `trid` listens here. Types and families are not case-sensitive.
    pub fn is(&self, trid: &Trid) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| match (a, b) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            _ => true,
        };
        self.trtype.eq_ignore_ascii_case(&trid.trtype)
            && Some(&self.traddr) == trid.traddr.as_ref()
            && same(&self.adrfam, &trid.adrfam)
            && self.trsvcid == trid.trsvcid
    }
}
