//! What SPDK answers when a method's parameters cannot be decoded: the code and the text differ from file to file.

use vda_spdk::code;

use super::RpcError;

const DECODE: &str = "spdk_json_decode_object failed";
const INVALID: &str = "Invalid parameters";

/// The answer to missing, unknown or mistyped parameters.
pub(super) fn bad_parameters(method: &str) -> RpcError {
    match method {
        "bdev_raid_add_base_bdev" => RpcError::internal(DECODE),
        _ if method.starts_with("bdev_raid_") => RpcError::new(code::PARSE_ERROR, DECODE),
        "bdev_examine" => RpcError::invalid_params(DECODE),
        _ if method.starts_with("bdev_error_") => RpcError::invalid_params(DECODE),
        "bdev_nvme_reset_controller"
        | "bdev_nvme_enable_controller"
        | "bdev_nvme_disable_controller"
        | "bdev_nvme_set_hotplug" => RpcError::invalid_params("Invalid argument"),
        "bdev_nvme_get_io_paths" => RpcError::invalid_params("bdev_nvme_get_io_paths requires no parameters"),
        "framework_get_config" => RpcError::invalid_params("Invalid arguments"),
        "bdev_set_options" | "rpc_get_methods" | "spdk_kill_instance" => RpcError::invalid_params(INVALID),
        _ if method.starts_with("nvmf_") => RpcError::invalid_params(INVALID),
        _ => RpcError::internal(DECODE),
    }
}

/// The answer to any parameters at all, of a method that has none.
pub(super) fn no_parameters(method: &'static str) -> RpcError {
    RpcError::invalid_params(match method {
        "spdk_get_version" => "spdk_get_version method requires no parameters".to_owned(),
        "framework_get_reactors" => "`framework_get_reactors` requires no arguments".to_owned(),
        "framework_get_subsystems" | "thread_get_stats" | "bdev_nvme_get_transport_statistics" => {
            format!("'{method}' requires no arguments")
        }
        _ => format!("{method} requires no parameters"),
    })
}
