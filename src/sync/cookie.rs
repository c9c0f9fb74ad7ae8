//! The stateless door: a cookie proves that an address receives what we send it.

use core::net::IpAddr;
use core::net::SocketAddr;
use core::time::Duration;

use crate::sync::time::RandomSource;
use crate::sync::time::Time;

/// A keyed hash of 128 bits, given from outside as time and randomness are: the
/// core brings no cryptography of its own. SipHash-2-4 with 128 bits fits.
pub type CookieMac = fn(key: [u64; 2], message: &[u8]) -> [u64; 2];

/// A secret serves for this long, and for as long again as the previous one.
const SECRET_TURNS: Duration = Duration::from_secs(60);

/// A cookie is taken for this long: several round trips of any path.
const COOKIE_LIVES: Duration = Duration::from_secs(10);

/// Address (16), port (2), nonce (8), time (8).
const MESSAGE_LEN: usize = 34;

/// What a COOKIE carries beside the nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cookie {
    /// The server's time in milliseconds.
    pub(crate) time_ms: u64,
    pub(crate) mac: [u64; 2],
}

/// Issues and checks cookies; keeps two secrets and nothing about anybody.
#[derive(Debug)]
pub(crate) struct CookieJar {
    mac: CookieMac,
    current: [u64; 2],
    previous: [u64; 2],
    turned: Time,
}

impl CookieJar {
    pub(crate) fn new(mac: CookieMac, random: &mut dyn RandomSource, now: Time) -> CookieJar {
        let mut key = || [random.next_u64(), random.next_u64()];
        CookieJar { mac, current: key(), previous: key(), turned: now }
    }

    /// Draws a new secret when the current one has served its time.
    pub(crate) fn turn(&mut self, random: &mut dyn RandomSource, now: Time) {
        if now.since(self.turned) < SECRET_TURNS {
            return;
        }
        self.previous = self.current;
        self.current = [random.next_u64(), random.next_u64()];
        self.turned = now;
    }

    pub(crate) fn issue(&self, now: Time, from: SocketAddr, nonce: u64) -> Cookie {
        let time_ms = now.0 / 1000;
        Cookie { time_ms, mac: (self.mac)(self.current, &message(from, nonce, time_ms)) }
    }

    pub(crate) fn accepts(&self, now: Time, from: SocketAddr, nonce: u64, cookie: Cookie) -> bool {
        let issued = Time(cookie.time_ms.saturating_mul(1000));
        if issued > now || now.since(issued) > COOKIE_LIVES {
            return false;
        }
        let message = message(from, nonce, cookie.time_ms);
        [self.current, self.previous]
            .into_iter()
            .any(|key| same((self.mac)(key, &message), cookie.mac))
    }
}

/// Compares without stopping at the first difference, so that the time taken
/// tells nothing about the right MAC.
fn same(a: [u64; 2], b: [u64; 2]) -> bool {
    ((a[0] ^ b[0]) | (a[1] ^ b[1])) == 0
}

fn message(from: SocketAddr, nonce: u64, time_ms: u64) -> [u8; MESSAGE_LEN] {
    let address = match from.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut bytes = [0; MESSAGE_LEN];
    bytes[..16].copy_from_slice(&address);
    bytes[16..18].copy_from_slice(&from.port().to_le_bytes());
    bytes[18..26].copy_from_slice(&nonce.to_le_bytes());
    bytes[26..].copy_from_slice(&time_ms.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::Seeded;
    use crate::sync::testing::mac;

    const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(core::net::Ipv4Addr::LOCALHOST), 9);

    fn jar() -> (CookieJar, Seeded) {
        let mut random = Seeded::new(1);
        (CookieJar::new(mac, &mut random, Time(0)), random)
    }

    #[test]
    fn a_cookie_is_taken_from_its_address_with_its_nonce_in_its_time() {
        let (jar, _) = jar();
        let now = Time(5_000_000);
        let cookie = jar.issue(now, FROM, 7);
        let other = SocketAddr::new(FROM.ip(), 10);
        assert!(jar.accepts(now, FROM, 7, cookie));
        assert!(jar.accepts(now.after(COOKIE_LIVES), FROM, 7, cookie));
        assert!(!jar.accepts(now.after(COOKIE_LIVES * 2), FROM, 7, cookie), "too old");
        assert!(!jar.accepts(Time(0), FROM, 7, cookie), "from the future");
        assert!(!jar.accepts(now, FROM, 8, cookie), "another nonce");
        assert!(!jar.accepts(now, other, 7, cookie), "another port");
        let forged = Cookie { mac: [cookie.mac[0], cookie.mac[1] ^ 1], ..cookie };
        assert!(!jar.accepts(now, FROM, 7, forged));
    }

    #[test]
    fn a_cookie_outlives_one_turn_of_the_secret_but_not_two() {
        let (mut jar, mut random) = jar();
        let now = Time(0).after(SECRET_TURNS);
        let cookie = jar.issue(now, FROM, 7);
        jar.turn(&mut random, now);
        assert!(jar.accepts(now, FROM, 7, cookie));
        jar.turned = Time(0);
        jar.turn(&mut random, now);
        assert!(!jar.accepts(now, FROM, 7, cookie));
    }
}
