//! Time, random numbers and the door's MAC, as the protocol wants them.

use std::io;
use std::time::Duration;
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

/// A loop looks at the clock and sends what waits after so many datagrams of a batch,
/// which may hold thousands: some 50 us, a fraction of a round trip.
pub(super) const STRIDE: usize = 32;

/// A turn that takes longer than this beyond its wait may have been interrupted: the
/// process was stopped, or the machine slept.
const TURN_MAX: Duration = Duration::from_millis(20);

/// One turn of a loop: when its poll was asked, and for how long.
///
/// A process that was stopped must not give a session up, its own or a client's, before
/// it has read what came meanwhile. What had come when the poll was asked is read in
/// this turn. So timers are looked at by the clock in an ordinary turn, and as of that
/// moment in one that took strangely long; the next turn catches up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    asked: Time,
    timeout: Duration,
}

impl Turn {
    /// A turn that begins now and waits until `deadline` at the longest.
    pub(super) fn begin(clock: Clock, deadline: Time) -> Turn {
        let asked = clock.now();
        Turn { asked, timeout: deadline.since(asked) }
    }

    /// How long its poll may wait.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The time by which timers are looked at.
    pub(super) fn time_of_timers(&self, clock: Clock) -> Time {
        self.timers_at(clock.now())
    }

    fn timers_at(&self, now: Time) -> Time {
        let ordinary = now <= self.asked.after(self.timeout).after(TURN_MAX);
        if ordinary { now } else { self.asked }
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
    fn a_turn_that_took_strangely_long_counts_as_of_its_beginning() {
        let turn = Turn { asked: Time(5_000), timeout: Duration::from_millis(100) };
        assert_eq!(turn.timers_at(Time(6_000)), Time(6_000));
        assert_eq!(turn.timers_at(Time(125_000)), Time(125_000), "waited, and worked for 20 ms");
        assert_eq!(turn.timers_at(Time(125_001)), Time(5_000));
        let clock = Clock::start();
        let turn = Turn::begin(clock, clock.now().after(Duration::from_secs(60)));
        assert!(turn.timeout() > Duration::from_secs(30));
        assert!(turn.time_of_timers(clock) >= turn.asked);
        assert_eq!(Turn::begin(clock, Time::START).timeout(), Duration::ZERO);
    }
}
