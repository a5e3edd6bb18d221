use super::*;

fn refusal(code: i64, message: &str) -> Error {
    Error::rpc("m", code, message)
}

#[test]
fn errno_is_found_in_code_or_message() {
    assert_eq!(refusal(-19, "No such device").errno(), Some(Errno::ENODEV));
    assert_eq!(refusal(-32602, "File exists").errno(), Some(Errno::EEXIST));
    assert_eq!(
        refusal(-32602, "Failed to configure rate limit: Resource temporarily unavailable").errno(),
        Some(Errno::EAGAIN)
    );
    assert_eq!(refusal(-32602, "Invalid parameters").errno(), None);
}

#[test]
fn existing_and_missing_are_recognised_in_every_module() {
    for (code, message) in [
        (-17, "File exists"),
        (-17, "Failed to create RAID bdev x: File exists"),
        (-32602, "File exists"),
        (-32603, "Transport type 'TCP' already exists"),
        (-114, "A controller named a already exists with the specified network path"),
    ] {
        assert!(refusal(code, message).is_exists(), "{code} {message}");
        assert!(!refusal(code, message).is_not_found(), "{code} {message}");
    }
    for (code, message) in [
        (-19, "No such device"),
        (-2, "Lvol store nope not found"),
        (-6, "No such device or address"),
        (-22, "Controller nope does not exist"),
        (-32602, "Subsystem with NQN 'nqn.x:none' not found"),
        (-32602, "bdev does not exist"),
    ] {
        assert!(refusal(code, message).is_not_found(), "{code} {message}");
        assert!(!refusal(code, message).is_exists(), "{code} {message}");
    }
    let other = refusal(-22, "A controller named a already exists, but uses a different subnqn (nqn.a)");
    assert!(!other.is_exists() && !other.is_not_found());
}

#[test]
fn an_unknown_method_is_not_a_missing_object() {
    let error = refusal(-32601, "Method not found");
    assert!(error.is_unknown_method());
    assert!(!error.is_not_found());
}

#[test]
fn wrong_state_is_told_from_eperm() {
    assert!(
        refusal(
            -1,
            "Method may only be called after framework is initialized using framework_start_init RPC."
        )
        .is_invalid_state()
    );
    assert!(!refusal(-1, "Operation not permitted").is_invalid_state());
}

#[test]
fn retryable_is_about_circumstances_not_about_the_request() {
    assert!(refusal(-16, "Device or resource busy").retryable());
    assert!(refusal(-32603, "Timeout reached during host removal").retryable());
    assert!(Error::Timeout { method: "m", after: Duration::from_secs(1) }.retryable());
    assert!(!refusal(-22, "Invalid argument").retryable());
    assert!(!refusal(-17, "File exists").retryable());
}
