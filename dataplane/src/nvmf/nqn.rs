//! Rules for NVMe Qualified Names (NVM Express Base 2.0, 4.5), as SPDK checks them.

const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// Whether `nqn` is `nqn.yyyy-mm.reverse.domain:name`, a uuid NQN, or the discovery NQN.
pub(super) fn is_valid(nqn: &str) -> bool {
    if nqn.len() > vda_nvme::NQN_MAX_LEN || nqn.chars().any(char::is_control) {
        return false;
    }
    if nqn == vda_nvme::DISCOVERY_NQN {
        return true;
    }
    if let Some(uuid) = nqn.strip_prefix(UUID_PREFIX) {
        return uuid.len() == 36 && uuid::Uuid::try_parse(uuid).is_ok();
    }
    let Some((head, name)) = nqn.split_once(':') else { return false };
    let Some(rest) = head.strip_prefix("nqn.") else { return false };
    let Some((date, domain)) = rest.split_once('.') else { return false };
    // SPDK does not look at how the domain ends.
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    !name.is_empty() && is_date(date) && (domain.is_empty() || domain.split('.').all(is_label))
}

/// Digits where a year and a month would be; SPDK does not ask which month.
fn is_date(date: &str) -> bool {
    let Some((year, month)) = date.split_once('-') else { return false };
    let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    digits(year, 4) && digits(month, 2)
}

fn is_label(label: &str) -> bool {
    let b = label.as_bytes();
    let (Some(first), Some(last)) = (b.first(), b.last()) else { return false };
    b.len() <= 63
        && first.is_ascii_alphabetic()
        && last.is_ascii_alphanumeric()
        && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn names_of_the_specification_pass_and_others_do_not() {
        for good in [
            "nqn.2016-06.io.vda:vd:0123456789abcdef",
            "nqn.2016-06.io.spdk:host0",
            "nqn.2014-08.org.nvmexpress.discovery",
            "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-1111-1111-111111111111",
        ] {
            assert!(is_valid(good), "{good}");
        }
        let long = format!("nqn.2016-06.io.spdk:{}", "x".repeat(204));
        for bad in [
            "",
            "badnqn",
            "nqn.2016-06.io.spdk",
            "nqn.2016-06.io.spdk:",
            "nqn.2016-1.io.spdk:a",
            "nqn.216-06.io.spdk:a",
            "nqn.2016-06.io..spdk:a",
            "nqn.2016-06.1o.spdk:a",
            "nqn.2016-06.io.spdk:a\n",
            "nqn.2014-08.org.nvmexpress:uuid:xyz",
            &long,
        ] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
