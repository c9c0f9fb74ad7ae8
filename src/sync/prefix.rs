//! Address prefixes, and which addresses a server answers.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

/// The addresses that begin with the same bits, such as `10.1.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// Nothing if `len` is beyond the address (32 or 128 bits).
    pub fn new(address: IpAddr, len: u8) -> Option<Prefix> {
        (len <= width(address)).then_some(Prefix { address, len })
    }

    /// Whether the address lies in this prefix.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if address.is_ipv4() != self.address.is_ipv4() {
            return false;
        }
        let shift = u32::from(width(address) - self.len);
        let differ = bits(address) ^ bits(self.address);
        differ.checked_shr(shift).unwrap_or(0) == 0
    }
}

/// Whether an address may come in: those of the prefixes, and loopback where none
/// are named.
pub(crate) fn is_allowed(address: IpAddr, allowed: &[Prefix]) -> bool {
    if allowed.is_empty() {
        return address.to_canonical().is_loopback();
    }
    allowed.iter().any(|prefix| prefix.contains(address))
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Prefix, String> {
        let wanted =
            || format!("expected a prefix such as 10.1.0.0/16 or fd00::/8, found {text:?}");
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wanted())?;
        let len = match len {
            Some(len) => len.parse().map_err(|_| wanted())?,
            None => width(address),
        };
        Prefix::new(address, len).ok_or_else(wanted)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(prefix: &str, address: &str) -> bool {
        prefix.parse::<Prefix>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_prefix_holds_what_begins_with_its_bits() {
        assert!(holds("10.1.0.0/16", "10.1.255.3"));
        assert!(!holds("10.1.0.0/16", "10.2.0.3"));
        assert!(holds("0.0.0.0/0", "200.1.2.3"));
        assert!(holds("10.1.2.3", "10.1.2.3"));
        assert!(!holds("10.1.2.3", "10.1.2.2"));
        assert!(holds("fd00::/8", "fdab::1"));
        assert!(!holds("::/0", "10.1.2.3"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"), "an IPv4 address on an IPv6 socket");
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in ["", "10.1.0.0/33", "fd00::/129", "10.1.0.0/x", "host/8", "10.1.0.0/-1"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn without_prefixes_only_loopback_comes_in() {
        assert!(is_allowed("127.0.0.1".parse().unwrap(), &[]));
        assert!(is_allowed("::1".parse().unwrap(), &[]));
        assert!(is_allowed("::ffff:127.0.0.1".parse().unwrap(), &[]));
        assert!(!is_allowed("10.0.0.1".parse().unwrap(), &[]));
    }
}
