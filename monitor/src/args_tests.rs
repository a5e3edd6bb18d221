use clap::CommandFactory;

use super::*;

fn config(args: &[&str]) -> anyhow::Result<Config> {
    Config::try_from(Args::try_parse_from([&["vda_monitor"], args].concat())?)
}

#[test]
fn the_definition_is_consistent_and_the_defaults_are_valid() {
    Args::command().debug_assert();
    let config = config(&[]).unwrap();
    assert_eq!(config.etcd.endpoints, ["localhost:2379"]);
    assert_eq!(config.prefix.as_str(), "/vda");
}

#[test]
fn bad_values_name_the_flag() {
    for (args, names) in [
        (["--etcd-endpoints", ","], "--etcd-endpoints"),
        (["--prefix", "vda"], "--prefix"),
        (["--monitor-id", "xyz"], "--monitor-id"),
        (["--member-ttl", "1"], "--member-ttl"),
        (["--node-timeout-ms", "10"], "--node-timeout-ms"),
    ] {
        let error = format!("{:#}", config(&args).unwrap_err());
        assert!(error.contains(names), "{error}");
    }
}
