//! Durations, sizes, shares and addresses as people write them.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use std::net::SocketAddr;
use std::net::ToSocketAddrs;

use anyhow::Context;
use anyhow::bail;

use mapleaf::layout::limits::DATAGRAM_SIZE_MAX;
use mapleaf::layout::limits::DATAGRAM_SIZE_MIN;
use mapleaf::net::Interface;
use mapleaf::net::Offload;
use mapleaf::runtime::Transport;

/// Units of time, with their length in microseconds.
const TIME_UNITS: [(&str, u64); 5] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];

/// Units of size, with their length in bytes.
const SIZE_UNITS: [(&str, u64); 5] =
    [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// A duration such as `100ms`, `1.5s` or `2m`; `0` needs no unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    scaled(text, &TIME_UNITS)
        .map(Duration::from_micros)
        .ok_or_else(|| "wanted a duration such as 100ms, 5s or 2m".to_owned())
}

/// A duration that is not zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("wanted a duration above 0".to_owned()),
        duration => Ok(duration),
    }
}

/// A size in bytes such as `1200` or `64KiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZE_UNITS)
        .ok_or_else(|| "wanted a size such as 1200 (bytes) or 64KiB".to_owned())
}

/// A size that fits a u32.
pub(crate) fn size_u32(text: &str) -> Result<u32, String> {
    let bytes = size(text)?;
    u32::try_from(bytes).map_err(|_| format!("wanted less than 4GiB, found {bytes} bytes"))
}

/// A multicast group, `239.1.2.3:4721` or `[ff15::1]:4721`.
pub(crate) fn group(text: &str) -> Result<SocketAddr, String> {
    text.parse::<SocketAddr>()
        .ok()
        .filter(|group| group.ip().is_multicast() && group.port() != 0)
        .ok_or_else(|| "wanted a multicast group such as 239.1.2.3:4721 or [ff15::1]:4721".into())
}

/// A network interface, by its name.
pub(crate) fn interface(name: &str) -> Result<Interface, String> {
    Interface::named(name).map_err(|error| error.to_string())
}

/// What datagrams leave by.
pub(crate) fn transport(text: &str) -> Result<Transport, String> {
    match text {
        "udp" => Ok(Transport::Udp),
        "raw" => Ok(Transport::Raw),
        _ => Err("wanted udp or raw".to_owned()),
    }
}

/// Whether something that the system may have is used.
pub(crate) fn offload(text: &str) -> Result<Offload, String> {
    match text {
        "auto" => Ok(Offload::Detect),
        "off" => Ok(Offload::Off),
        _ => Err("wanted auto or off".to_owned()),
    }
}

/// The size of a datagram's payload.
pub(crate) fn datagram_size(text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| (DATAGRAM_SIZE_MIN..=DATAGRAM_SIZE_MAX).contains(bytes))
        .ok_or_else(|| {
            format!("wanted {DATAGRAM_SIZE_MIN} to {DATAGRAM_SIZE_MAX} bytes, found {bytes}")
        })
}

/// A share from 0 to one half.
pub(crate) fn loss(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=0.5).contains(share))
        .ok_or_else(|| "wanted a share from 0 to 0.5".to_owned())
}

/// A number with an optional fraction, times its unit; whole in the end.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(*factor)?.checked_add(part(fraction, *factor)?)
}

/// `0.fraction` of `factor`, if that is a whole number.
fn part(fraction: &str, factor: u64) -> Option<u64> {
    let tens = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let product = fraction.parse::<u64>().ok()?.checked_mul(factor)?;
    (product % tens == 0).then_some(product / tens)
}

/// `host:port` or `[v6]:port`, not yet resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The first address that the host's name stands for.
    pub(crate) fn resolve(&self) -> anyhow::Result<SocketAddr> {
        let mut found = (self.host.as_str(), self.port).to_socket_addrs().with_context(|| {
            format!("cannot resolve {:?}; name a host or an address", self.host)
        })?;
        match found.next() {
            Some(address) => Ok(address),
            None => bail!("cannot resolve {:?}: it has no address", self.host),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let wanted = || "wanted host:port or [v6]:port".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
        let bare = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(wanted)?,
            // Without brackets the last group of a v6 address would be the port.
            None if host.contains(':') => return Err(wanted()),
            None => host,
        };
        if bare.is_empty() || bare.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wanted());
        }
        Ok(Address { host: bare.to_owned(), port: port.parse().map_err(|_| wanted())? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Hex digits as bytes; blanks, `:` and `_` between bytes are skipped.
pub(crate) fn hex(text: &str) -> Result<Vec<u8>, String> {
    let wanted = || "wanted pairs of hex digits such as 00ff".to_owned();
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !matches!(c, ' ' | ':' | '_'))
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.ok_or_else(wanted)?;
    let (pairs, rest) = digits.as_chunks::<2>();
    match rest {
        [] => Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect()),
        _ => Err(wanted()),
    }
}

/// Bytes as hex digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let ms = |text| duration(text).map(|duration| duration.as_micros());
        assert_eq!(ms("100ms"), Ok(100_000));
        assert_eq!(ms("5s"), Ok(5_000_000));
        assert_eq!(ms("2m"), Ok(120_000_000));
        assert_eq!(ms("1h"), Ok(3_600_000_000));
        assert_eq!(ms("1.5s"), Ok(1_500_000));
        assert_eq!(ms("250us"), Ok(250));
        assert_eq!(ms("0"), Ok(0));
        for bad in ["", "5", "s", "-1s", "5 s", "1.2.3s", "1e3s", "5sec", ".s", "0.1us"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration("99999999999999999999h").is_err());
        assert!(duration("18446744073709551615h").is_err());
        assert!(positive_duration("0").is_err());
        assert!(positive_duration("0ms").is_err());
    }

    #[test]
    fn sizes_have_units_or_are_bytes() {
        assert_eq!(size("1200"), Ok(1200));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1.5MiB"), Ok(1_572_864));
        assert_eq!(size("2B"), Ok(2));
        for bad in ["", "KiB", "64kb", "-1", "0.3", "1 KiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(size_u32("4GiB").is_err());
        assert_eq!(datagram_size("1200"), Ok(1200));
        assert!(datagram_size("1199").is_err());
        assert!(datagram_size("64KiB").is_err(), "65,507 is the most");
    }

    #[test]
    fn shares_are_bounded() {
        assert_eq!(loss("0.05"), Ok(0.05));
        for bad in ["-0.1", "0.6", "1", "nan", "inf", "x", ""] {
            assert!(loss(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        let show = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        assert_eq!(show("127.0.0.1:0").as_deref(), Ok("127.0.0.1:0"));
        assert_eq!(show("[::1]:47").as_deref(), Ok("[::1]:47"));
        assert_eq!(show("localhost:47").as_deref(), Ok("localhost:47"));
        for bad in ["", "host", ":1", "::1:47", "[::1]", "[::1", "h:65536", "h:-1", "a b:1"] {
            assert!(show(bad).is_err(), "{bad}");
        }
        let v6: Address = "[::1]:47".parse().unwrap();
        assert_eq!(v6.resolve().unwrap(), "[::1]:47".parse().unwrap());
    }

    #[test]
    fn hex_is_pairs_of_digits() {
        assert_eq!(hex("00ff"), Ok(vec![0, 255]));
        assert_eq!(hex("DE:ad be_ef"), Ok(vec![0xde, 0xad, 0xbe, 0xef]));
        assert_eq!(hex(""), Ok(vec![]));
        for bad in ["0", "0g", "0x00", "\u{e9}0"] {
            assert!(hex(bad).is_err(), "{bad}");
        }
        assert_eq!(hex(&to_hex(&[0, 1, 254])), Ok(vec![0, 1, 254]));
    }
}
