use super::*;

fn args(level: &str) -> LogArgs {
    LogArgs { log_format: LogFormat::Text, log_level: level.to_owned() }
}

#[test]
fn plain_levels_keep_grpc_internals_quiet() {
    let filter = args("debug").filter().unwrap().to_string();
    assert!(filter.contains("h2=warn") && filter.contains("debug"), "{filter}");
}

#[test]
fn a_named_target_wins() {
    let filter = args("info,h2=trace").filter().unwrap().to_string();
    assert!(filter.contains("h2=trace") && !filter.contains("h2=warn"), "{filter}");
}

#[test]
fn nonsense_names_the_flag_and_what_is_allowed() {
    let error = args("vda_store=loud").filter().unwrap_err().to_string();
    assert!(
        error.contains("--log-level") && error.contains("vda_store=loud") && error.contains("info"),
        "{error}"
    );
}
