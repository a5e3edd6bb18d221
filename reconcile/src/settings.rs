//! Values of an agent's command line that both agents have.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use vda_proto::v1::NvmfListener;
use vda_spdk::{ListenAddress, NvmfCreateTransport};

/// `--lis-conf`: a listener as JSON, e.g. `{"trtype":"tcp","traddr":"127.0.0.1","adrfam":"ipv4","trsvcid":"4420"}`.
///
/// # Errors
/// What is wrong, and what is allowed.
pub fn listener(text: &str) -> Result<ListenAddress, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Conf {
        trtype: String,
        traddr: String,
        adrfam: String,
        trsvcid: String,
    }
    let conf: Conf = serde_json::from_str(text)
        .map_err(|e| format!("{e}; needed is a JSON object with trtype, traddr, adrfam and trsvcid"))?;
    if !conf.trtype.eq_ignore_ascii_case("tcp") {
        return Err(format!("trtype {:?}, allowed: tcp", conf.trtype));
    }
    let adrfam = match conf.adrfam.to_ascii_lowercase().as_str() {
        "ipv4" => "IPv4",
        "ipv6" => "IPv6",
        _ => return Err(format!("adrfam {:?}, allowed: ipv4, ipv6", conf.adrfam)),
    };
    conf.traddr
        .parse::<std::net::IpAddr>()
        .map_err(|e| format!("traddr {:?}: {e}; needed is an IP address", conf.traddr))?;
    conf.trsvcid.parse::<u16>().map_err(|e| format!("trsvcid {:?}: {e}; needed is a port", conf.trsvcid))?;
    Ok(ListenAddress {
        trtype: "TCP".to_owned(),
        traddr: conf.traddr,
        adrfam: Some(adrfam.to_owned()),
        trsvcid: Some(conf.trsvcid),
    })
}

/// The listener of a stored spec as SPDK spells it.
pub fn listen_address(listener: &NvmfListener) -> ListenAddress {
    let adrfam = if listener.adrfam.eq_ignore_ascii_case("ipv6") { "IPv6" } else { "IPv4" };
    ListenAddress {
        trtype: listener.trtype.to_ascii_uppercase(),
        traddr: listener.traddr.clone(),
        adrfam: Some(adrfam.to_owned()),
        trsvcid: Some(listener.trsvcid.clone()),
    }
}

/// Why a node (`"DN"`, `"CN"`) that was registered with one listener cannot be served by an agent that was started with another.
pub fn listener_conflict(node: &str, registered: &ListenAddress, given: &ListenAddress) -> Option<String> {
    let words =
        |a: &ListenAddress| format!("{} {}:{}", a.trtype, a.traddr, a.trsvcid.as_deref().unwrap_or("?"));
    (registered != given).then(|| {
        format!(
            "the {node} is registered with listener {}, but its agent was started with --lis-conf {}",
            words(registered),
            words(given)
        )
    })
}

/// `--tr-conf`: the parameters of SPDK's `nvmf_create_transport` as JSON, e.g. `{"trtype":"TCP"}`.
///
/// # Errors
/// What is wrong, and what is allowed.
pub fn transport(text: &str) -> Result<NvmfCreateTransport, String> {
    serde_json::from_str(text)
        .map_err(|e| format!("{e}; allowed are the parameters of nvmf_create_transport, trtype is needed"))
}

/// A duration: seconds (`10`, `0.5`) or milliseconds (`500ms`).
///
/// # Errors
/// What is allowed.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "{text:?} is not a positive duration: allowed are seconds (10, 0.5, 10s) or milliseconds (500ms)"
        )
    };
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let value: f64 = number.trim().parse().map_err(|_| wrong())?;
    let duration = Duration::try_from_secs_f64(value * unit).map_err(|_| wrong())?;
    if duration.is_zero() { Err(wrong()) } else { Ok(duration) }
}

/// Where the ledger is if `--state-dir` is not given: beside the data plane's socket.
pub fn state_dir(given: Option<&Path>, sock_path: &str) -> PathBuf {
    given.map_or_else(|| PathBuf::from(format!("{sock_path}.agent")), Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_spelled_as_spdk_does() {
        let l =
            listener(r#"{"trtype":"tcp","traddr":"127.0.0.1","adrfam":"ipv4","trsvcid":"4420"}"#).unwrap();
        assert_eq!((l.trtype.as_str(), l.adrfam.as_deref()), ("TCP", Some("IPv4")));
    }

    #[test]
    fn a_conflict_names_both_listeners() {
        let here =
            listener(r#"{"trtype":"tcp","traddr":"127.0.0.1","adrfam":"ipv4","trsvcid":"4420"}"#).unwrap();
        let spec = |port: &str| NvmfListener {
            trtype: "tcp".into(),
            adrfam: "ipv4".into(),
            traddr: "127.0.0.1".into(),
            trsvcid: port.into(),
        };
        assert_eq!(listener_conflict("DN", &listen_address(&spec("4420")), &here), None);
        let words = listener_conflict("DN", &listen_address(&spec("4421")), &here).unwrap();
        assert!(words.contains("127.0.0.1:4421") && words.contains("127.0.0.1:4420"), "{words}");
    }

    #[test]
    fn wrong_listeners_name_the_field() {
        for (text, word) in [
            (r#"{"trtype":"rdma","traddr":"127.0.0.1","adrfam":"ipv4","trsvcid":"4420"}"#, "rdma"),
            (r#"{"trtype":"tcp","traddr":"localhost","adrfam":"ipv4","trsvcid":"4420"}"#, "traddr"),
            (r#"{"trtype":"tcp","traddr":"127.0.0.1","adrfam":"ipv4","trsvcid":"99999"}"#, "trsvcid"),
            (r#"{"trtype":"tcp"}"#, "traddr"),
        ] {
            let error = listener(text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        for bad in ["", "0", "-1", "ten", "1m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
