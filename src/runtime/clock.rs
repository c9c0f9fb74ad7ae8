//! Time, random numbers and the door's MAC, as the protocol wants them.

use std::io;
use std::time::Instant;

use siphasher::sip128::SipHasher24;

use crate::sync::RandomSource;
use crate::sync::Time;

/// Microseconds since the loop began, by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Clock {
        Clock(Instant::now())
    }

    pub(super) fn now(&self) -> Time {
        Time::START.after(self.0.elapsed())
    }
}

/// Random numbers of the operating system, fetched by the block.
pub(super) struct OsRandom {
    block: [u64; 32],
    left: usize,
}

impl OsRandom {
    /// # Errors
    /// The operating system has no random numbers.
    pub(super) fn new() -> io::Result<OsRandom> {
        let mut random = OsRandom { block: [0; 32], left: 0 };
        random.refill()?;
        Ok(random)
    }

    fn refill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 256];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let (words, _) = bytes.as_chunks::<8>();
        for (to, from) in self.block.iter_mut().zip(words) {
            *to = u64::from_ne_bytes(*from);
        }
        self.left = self.block.len();
        Ok(())
    }
}

impl RandomSource for OsRandom {
    fn next_u64(&mut self) -> u64 {
        if self.left == 0 {
            // Linux never fails once it has answered (random(7)): a guessable
            // number instead would be worse than an end.
            self.refill().expect("the system's random numbers do not run dry");
        }
        self.left -= 1;
        std::mem::take(&mut self.block[self.left])
    }
}

/// SipHash-2-4 with 128 bits: the MAC of the door's cookies.
///
/// A keyed hash of 30 ns for 40 bytes. It has to be unguessable for the ten seconds
/// that a cookie lives.
pub(super) fn cookie_mac(key: [u64; 2], message: &[u8]) -> [u64; 2] {
    let [key0, key1] = key;
    let hash = SipHasher24::new_with_keys(key0, key1).hash(message);
    [hash.h1, hash.h2]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_mac_is_that_of_the_reference_vectors() {
        // vectors.h of the reference implementation: key 00..0f, message 00..0e.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let message: Vec<u8> = (0..15).collect();
        let [low, high] = cookie_mac(key, &message);
        let expected = [
            0x54, 0x93, 0xe9, 0x99, 0x33, 0xb0, 0xa8, 0x11, 0x7e, 0x08, 0xec, 0x0f, 0x97, 0xcf,
            0xc3, 0xd9,
        ];
        assert_eq!([low.to_le_bytes(), high.to_le_bytes()].concat(), expected);
    }

    #[test]
    fn random_numbers_do_not_repeat_over_blocks() {
        let mut random = OsRandom::new().unwrap();
        let mut drawn: Vec<u64> = (0..100).map(|_| random.next_u64()).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 100);
    }

    #[test]
    fn the_clock_never_goes_back() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(clock.now() >= first);
        let later = clock.now().after(Duration::from_secs(60));
        assert!(later.since(clock.now()) > Duration::from_secs(30));
    }
}
