//! What users may call things.

/// Longest name of a DA, EXP or PD.
pub const MAX_USER_NAME_BYTES: usize = 63;
/// Longest NQN (NVM Express Base Specification, section 4.7 "NVMe Qualified Names").
pub const MAX_NQN_BYTES: usize = 223;
/// Longest `request_id`.
pub const MAX_REQUEST_ID_BYTES: usize = 64;

/// A value that is not allowed, with what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?} is not allowed: {allowed}")]
pub struct BadName {
    /// The request's field.
    pub field: &'static str,
    /// What it held, shortened to be printable.
    pub value: String,
    /// What it may hold.
    pub allowed: &'static str,
}

fn refuse(field: &'static str, value: &str, allowed: &'static str) -> BadName {
    const SHOWN: usize = 80;
    let mut shown: String = value.chars().take(SHOWN).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    BadName { field, value: shown, allowed }
}

/// Checks the name of a DA, EXP or PD.
///
/// # Errors
/// Unless it is 1-63 characters of `[A-Za-z0-9._-]`, the first a letter or digit.
pub fn check_user_name(field: &'static str, name: &str) -> Result<(), BadName> {
    let bytes = name.as_bytes();
    let fits = (1..=MAX_USER_NAME_BYTES).contains(&bytes.len());
    let first = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
    let rest = bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits && first && rest {
        return Ok(());
    }
    Err(refuse(field, name, "1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit"))
}

/// Checks the address of a node: `host:port` as its agent is reached, which is also the name users give the node.
///
/// # Errors
/// Unless the host is a DNS name, an IPv4 address or a bracketed IPv6 address and the port is 1-65535.
pub fn check_node_address(field: &'static str, address: &str) -> Result<(), BadName> {
    const ALLOWED: &str =
        "host:port of the node's agent, like 127.0.0.1:9720, dn-7.rack-2:9720 or [fd00::7]:9720";
    let bad = || refuse(field, address, ALLOWED);
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let host_fits = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host_name(host),
    };
    let port_fits = port.parse::<u16>().is_ok_and(|p| p != 0 && p.to_string() == port);
    if host_fits && port_fits { Ok(()) } else { Err(bad()) }
}

/// Letters, digits, '-', '_' and '.' (RFC 1123, and the underscore that container networks use); IPv4 addresses are such names.
fn is_host_name(host: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// Checks the NQN of a host that may use an EXP.
///
/// # Errors
/// Unless it has the form `nqn.yyyy-mm.reverse.domain[:rest]` or `nqn.2014-08.org.nvmexpress:uuid:…` (NVM Express Base Specification,
/// section 4.7), in at most 223 printable ASCII characters without spaces. SPDK accepts the same (`nvmf_nqn_is_valid`).
pub fn check_host_nqn(field: &'static str, nqn: &str) -> Result<(), BadName> {
    const ALLOWED: &str = "an NVMe qualified name of at most 223 characters, like nqn.2014-08.org.nvmexpress:uuid:<uuid> or nqn.2024-01.com.example:host0";
    let bad = || refuse(field, nqn, ALLOWED);
    if nqn.len() > MAX_NQN_BYTES || !nqn.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad());
    }
    let (date, domain) = nqn.strip_prefix("nqn.").and_then(|rest| rest.split_once('.')).ok_or_else(bad)?;
    let (year, month) = date.split_once('-').ok_or_else(bad)?;
    let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    let date_fits =
        digits(year, 4) && digits(month, 2) && month.parse::<u8>().is_ok_and(|m| (1..=12).contains(&m));
    let (domain, rest) = domain.split_once(':').map_or((domain, None), |(d, r)| (d, Some(r)));
    let domain_fits = domain.split('.').all(|l| {
        l.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    if date_fits && domain_fits && rest != Some("") { Ok(()) } else { Err(bad()) }
}

/// Checks a client's `request_id`, which becomes a part of a key.
///
/// # Errors
/// Unless it is empty (no idempotency asked for) or 1-64 printable ASCII characters without `/` and spaces.
pub fn check_request_id(id: &str) -> Result<(), BadName> {
    if id.len() <= MAX_REQUEST_ID_BYTES && id.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
        return Ok(());
    }
    Err(refuse("request_id", id, "at most 64 printable ASCII characters without '/' and spaces"))
}
