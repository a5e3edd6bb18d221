//! What SPDK answers when a method's parameters cannot be decoded: the code and the text differ from file to file.

use vda_spdk::code;

use super::RpcError;

const DECODE: &str = "spdk_json_decode_object failed";
const INVALID: &str = "Invalid parameters";

/// Parameters that it does not know are nothing to these methods: other parts of SPDK may know them (its `*_relaxed` decoder).
pub(super) fn ignores_unknown(method: &str) -> bool {
    matches!(
        method,
        "nvmf_create_transport"
            | "nvmf_discovery_add_referral"
            | "nvmf_subsystem_add_host"
            | "nvmf_subsystem_add_listener"
            | "nvmf_subsystem_add_ns"
    )
}

/// Whether the parameters are not looked at, whatever they are.
pub(super) fn ignores_all(method: &str) -> bool {
    method == "framework_wait_init"
}

/// The answer to missing, unknown or mistyped parameters.
pub(super) fn bad_parameters(method: &str) -> RpcError {
    match method {
        "bdev_raid_add_base_bdev" => RpcError::internal(DECODE),
        _ if method.starts_with("bdev_raid_") => RpcError::new(code::PARSE_ERROR, DECODE),
        "bdev_examine" | "iobuf_set_options" => RpcError::invalid_params(DECODE),
        _ if method.starts_with("bdev_error_") => RpcError::invalid_params(DECODE),
        "bdev_nvme_reset_controller"
        | "bdev_nvme_enable_controller"
        | "bdev_nvme_disable_controller"
        | "bdev_nvme_set_hotplug" => RpcError::invalid_params("Invalid argument"),
        "bdev_nvme_get_controller_health_info" => RpcError::internal(INVALID),
        // Asked before the parameters are looked at.
        "bdev_nvme_get_path_iostat" => path_iostat_is_off(),
        "bdev_nvme_get_io_paths" => RpcError::invalid_params("bdev_nvme_get_io_paths requires no parameters"),
        "framework_get_config" => RpcError::invalid_params("Invalid arguments"),
        "bdev_set_options" | "rpc_get_methods" | "spdk_kill_instance" => RpcError::invalid_params(INVALID),
        _ if method.starts_with("nvmf_") => RpcError::invalid_params(INVALID),
        _ => RpcError::internal(DECODE),
    }
}

/// The name of the one NVMe-oF target, as SPDK calls it.
pub(super) const TARGET: &str = "nvmf_tgt";

/// The answer to a `tgt_name` of a target that does not exist, if `params` has one.
pub(super) fn unknown_target(method: &str, params: &str) -> Option<RpcError> {
    #[derive(serde::Deserialize)]
    struct Params {
        tgt_name: Option<String>,
    }
    if !method.starts_with("nvmf_") || !params.contains("tgt_name") {
        return None;
    }
    let name = serde_json::from_str::<Params>(params).ok()?.tgt_name.filter(|name| name != TARGET)?;
    Some(match method {
        "nvmf_create_subsystem" => RpcError::internal(format!("Unable to find target {name}")),
        "nvmf_discovery_get_referrals" => RpcError::internal("Unable to find a target"),
        "nvmf_create_transport"
        | "nvmf_discovery_add_referral"
        | "nvmf_discovery_remove_referral"
        | "nvmf_get_stats"
        | "nvmf_get_transports" => RpcError::internal("Unable to find a target."),
        _ => RpcError::invalid_params(format!("NVMf target '{name}' not found")),
    })
}

/// The answer to `bdev_nvme_get_path_iostat`: paths are not measured one by one.
pub(super) fn path_iostat_is_off() -> RpcError {
    RpcError::new(code::INVALID_STATE, "RPC not enabled if enable_io_path_stat is false")
}

/// The answer to any parameters at all, of a method that has none.
pub(super) fn no_parameters(method: &'static str) -> RpcError {
    RpcError::invalid_params(match method {
        "spdk_get_version" => "spdk_get_version method requires no parameters".to_owned(),
        "framework_get_reactors" => "`framework_get_reactors` requires no arguments".to_owned(),
        "framework_get_subsystems" | "thread_get_stats" | "bdev_nvme_get_transport_statistics" => {
            format!("'{method}' requires no arguments")
        }
        "nvmf_get_targets" => format!("{method} has no parameters."),
        _ => format!("{method} requires no parameters"),
    })
}
