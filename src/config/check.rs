//! Converts text to checked values, one function per kind of setting. Every error names what would be accepted.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::membership::MAX_NAME_BYTES;

/// Why a value is invalid, and what to write instead.
pub(super) struct Refusal {
    pub(super) problem: String,
    pub(super) remedy: String,
}

pub(super) fn refuse<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { problem: problem.into(), remedy: remedy.into() })
}

pub(super) fn name(text: &str) -> Result<String, Refusal> {
    let fits = (1..=MAX_NAME_BYTES).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && text.chars().any(|c| c != '.');
    if fits {
        return Ok(text.to_owned());
    }
    refuse(
        format!("'{text}' is not a node name"),
        format!("use 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' and '.'"),
    )
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, Refusal> {
    let spelled = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    match spelled.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        Ok(_) => refuse(format!("'{text}' has port 0"), "give a port from 1 to 65535"),
        Err(_) if text.starts_with(':') => {
            refuse(format!("'{text}' has no IP address"), format!("write '0.0.0.0{text}' for all interfaces"))
        }
        Err(_) if host_port(text).is_ok() => refuse(
            format!("'{text}' is a name"),
            "a node listens on an IP address, such as 127.0.0.1:8401 or 0.0.0.0:8401; give the name as advertise-addr",
        ),
        Err(_) => refuse(
            format!("'{text}' is not an IP address and a port"),
            "write IP:PORT, such as 127.0.0.1:8401 or [::1]:8401",
        ),
    }
}

/// Checks a host at which others reach this node. Removes the brackets of IPv6 addresses.
pub(super) fn host(text: &str) -> Result<String, Refusal> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Some(inner) = bare {
        return match inner.parse::<Ipv6Addr>() {
            Ok(_) => host(inner),
            Err(_) => refuse(format!("'{text}' is not an IPv6 address"), "write it as '[::1]' or '::1'"),
        };
    }
    if text.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
        return refuse(
            format!("no other machine can reach '{text}'"),
            "give the host name or the IP address of this node",
        );
    }
    if text.parse::<IpAddr>().is_ok() || is_host_name(text) {
        return Ok(text.to_owned());
    }
    if host_port(text).is_ok() {
        return refuse(
            format!("'{text}' has a port"),
            "leave it out: the ports are rpc-port's and bind-addr's",
        );
    }
    refuse(format!("'{text}' is not a host name or an IP address"), "write it as 'node-1.example.org'")
}

/// Checks `HOST:PORT`; the name is not resolved.
pub(super) fn host_port(text: &str) -> Result<String, Refusal> {
    let Some((name, port)) = text.rsplit_once(':') else {
        let example = if is_host_name(text) { text } else { "node-1" };
        return refuse(format!("'{text}' has no port"), format!("write HOST:PORT, such as '{example}:8401'"));
    };
    if !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return refuse(format!("'{text}' has no valid port"), "write HOST:PORT with a port from 1 to 65535");
    }
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let address = bracketed.unwrap_or(name).parse::<IpAddr>().ok();
    match address {
        Some(address) if address.is_unspecified() => refuse(
            format!("no node can be reached at '{text}'"),
            "give the host name or IP address of a node",
        ),
        Some(address) if address.is_ipv6() != bracketed.is_some() => {
            refuse(format!("'{text}' is ambiguous"), "write an IPv6 address in brackets, such as [::1]:8401")
        }
        Some(_) => Ok(text.to_owned()),
        None if is_host_name(name) => Ok(text.to_owned()),
        None => {
            refuse(format!("'{text}' is not a host and a port"), "write HOST:PORT, such as 'node-1:8401'")
        }
    }
}

/// Whether `text` is a valid host name (RFC 1123, plus the underscores that occur in practice).
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    // Digits and dots alone are a mistyped IPv4 address.
    let wrong_address = name.chars().all(|c| c.is_ascii_digit() || c == '.');
    name.len() <= 253 && !wrong_address && name.split('.').all(label)
}

pub(super) fn port(text: &str) -> Result<u16, Refusal> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port),
        _ if text.contains("://") => refuse(
            format!("'{text}' is not a port"),
            "Kubernetes sets such variables for services: set enableServiceLinks: false on the pod",
        ),
        _ => refuse(format!("'{text}' is not a port"), "give a number from 1 to 65535"),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, Refusal> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => refuse(format!("'{text}' is neither true nor false"), "write true or false"),
    }
}

pub(super) fn count(text: &str, least: u64, most: u64) -> Result<u64, Refusal> {
    match text.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => refuse(
            format!("'{text}' is not a number from {least} to {most}"),
            "write it in digits, without a unit",
        ),
    }
}

const BYTE_UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Parses a number of bytes: digits and an optional unit.
///
/// # Errors
/// What a user has to write instead.
pub fn any_bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = BYTE_UNITS
        .iter()
        .find_map(|(unit, size)| Some((lower.strip_suffix(&unit.to_ascii_lowercase())?, *size)))
        .unwrap_or((lower.as_str(), 1));
    let number = digits.trim_end().parse::<u64>().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("'{text}' is not a number of bytes, such as 65536, 64KiB, 1MiB or 2GiB"))
}

pub(super) fn bytes(text: &str, least: u64, most: u64) -> Result<u64, Refusal> {
    let Ok(number) = any_bytes(text) else {
        return refuse(
            format!("'{text}' is not a number of bytes"),
            "write it as 65536, 64KiB, 1MiB or 2GiB",
        );
    };
    if !(least..=most).contains(&number) {
        return refuse(
            format!("'{text}' is out of bounds"),
            format!("give {} to {}", show_bytes(least), show_bytes(most)),
        );
    }
    Ok(number)
}

/// Returns `64KiB` for 65536, plain digits for a number that is no multiple of a unit.
pub(super) fn show_bytes(number: u64) -> String {
    BYTE_UNITS
        .iter()
        .rev()
        .find(|(_, size)| number >= *size && number.is_multiple_of(*size))
        .map_or_else(|| number.to_string(), |(unit, size)| format!("{}{unit}", number / size))
}

/// Parses a length of time: digits and a unit; `0` needs none.
///
/// # Errors
/// What a user has to write instead.
pub fn time(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let millis = match unit.trim_start() {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" | "min" => Some(60_000),
        "h" => Some(3_600_000),
        "" if digits.chars().all(|c| c == '0') => Some(0),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    number
        .zip(millis)
        .and_then(|(number, millis)| number.checked_mul(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("'{text}' is not a length of time, such as 500ms, 5s, 2m or 1h"))
}

pub(super) fn bounded_time(text: &str, least: Duration, most: Duration) -> Result<Duration, Refusal> {
    match time(text) {
        Ok(length) if (least..=most).contains(&length) => Ok(length),
        Ok(_) => refuse(format!("'{text}' is out of bounds"), format!("give {least:?} to {most:?}")),
        Err(_) => {
            refuse(format!("'{text}' is not a length of time"), "write it with its unit: 500ms, 5s, 2m, 1h")
        }
    }
}

pub(super) fn choice(text: &str, choices: &'static [&'static str]) -> Result<&'static str, Refusal> {
    match choices.iter().find(|choice| choice.eq_ignore_ascii_case(text)) {
        Some(choice) => Ok(choice),
        None => refuse(format!("'{text}' is not a choice"), format!("write {}", choices.join(" or "))),
    }
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Checks a level, in upper or lower case, or directives of tracing-subscriber.
pub(super) fn log_filter(text: &str) -> Result<String, Refusal> {
    let lower = text.to_ascii_lowercase();
    if lower == "warning" {
        return Ok("warn".to_owned());
    }
    if LEVELS.contains(&lower.as_str()) {
        return Ok(lower);
    }
    // tracing-subscriber would take a single word that is no level as a module name, and silence everything else.
    let directives = text.contains('=') || text.contains(',');
    if directives && EnvFilter::builder().parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    refuse(
        format!("'{text}' is not a log level"),
        format!("write {}, or directives such as 'info,mokv::raft=debug'", LEVELS.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok<T>(result: Result<T, Refusal>) -> Option<T> {
        result.ok()
    }

    #[test]
    fn names_of_hosts_need_not_resolve_but_must_be_names() {
        for good in
            ["a:1", "mokv-0.mokv.default.svc.cluster.local:8401", "10.0.0.1:8401", "[::1]:8401", "a_b:2"]
        {
            assert_eq!(ok(host_port(good)).as_deref(), Some(good));
        }
        for bad in [
            "a",
            "a:",
            ":1",
            "a:0",
            "a:99999",
            "::1:8401",
            "0.0.0.0:8401",
            "10.0.0:1",
            "a b:1",
            "-a:1",
            "[a]:1",
        ] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
        assert_eq!(ok(host("[::1]")).as_deref(), Some("::1"));
        assert_eq!(ok(host("node-1.example.org")).as_deref(), Some("node-1.example.org"));
        for bad in ["a:1", "0.0.0.0", "::", "[a]", "", "10.0.0"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_and_times_carry_units() {
        assert_eq!(ok(bytes("64KiB", 0, u64::MAX)), Some(65536));
        assert_eq!(ok(bytes("1 mib", 0, u64::MAX)), Some(1 << 20));
        assert_eq!(ok(bytes("17", 0, u64::MAX)), Some(17));
        for bad in ["", "KiB", "-1", "1MB", "99999999999TiB"] {
            assert!(bytes(bad, 0, u64::MAX).is_err(), "{bad}");
        }
        assert!(bytes("2KiB", 0, 1024).is_err());
        assert_eq!(show_bytes(65536), "64KiB");
        assert_eq!(show_bytes(65537), "65537");
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(time("0"), Ok(Duration::ZERO));
        for bad in ["", "5", "s", "-1s", "1.5s", "5 days"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn levels_in_any_case_and_directives_but_no_typos() {
        assert_eq!(ok(log_filter("INFO")).as_deref(), Some("info"));
        assert_eq!(ok(log_filter("Warning")).as_deref(), Some("warn"));
        assert_eq!(ok(log_filter("info,mokv::raft=debug")).as_deref(), Some("info,mokv::raft=debug"));
        for bad in ["inof", "", "mokv=loud"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_service_link_of_kubernetes_is_recognised() {
        let Err(refusal) = port("tcp://10.0.0.1:8400") else { panic!("a URL is no port") };
        assert!(refusal.remedy.contains("enableServiceLinks"));
    }
}
