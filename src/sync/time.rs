//! Time and randomness as arguments.

use core::time::Duration;

/// A moment, in microseconds since a start that the driver chose. A u64 lasts
/// for 584,000 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The start.
    pub const START: Time = Time(0);

    /// The moment `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Time {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(micros))
    }

    /// How long ago `earlier` was, zero if it is still to come.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Where random numbers come from: the operating system, or a seed.
///
/// Session ids, nonces and the door's secret are drawn from it: outside a
/// simulation it must not be guessable.
pub trait RandomSource {
    /// 64 random bits.
    fn next_u64(&mut self) -> u64;

    /// A random duration below `limit`.
    fn below(&mut self, limit: Duration) -> Duration {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.next_u64() % micros)
    }

    /// 64 random bits that are not all zero: zero means "none" in an id.
    fn id(&mut self) -> u64 {
        self.next_u64().max(1)
    }
}
