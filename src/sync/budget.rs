//! Token buckets: what an address may cost.

use crate::sync::time::Time;

/// Tokens are kept in millionths, so that slow rates lose nothing to rounding.
const MILLION: u64 = 1_000_000;

/// Fills at a rate, holds at most a burst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    rate_per_s: u64,
    burst: u64,
    millionths: u64,
    filled: Time,
}

impl TokenBucket {
    pub(crate) fn new(rate_per_s: u32, burst: u32, now: Time) -> TokenBucket {
        let burst = u64::from(burst);
        TokenBucket {
            rate_per_s: u64::from(rate_per_s),
            burst,
            millionths: burst * MILLION,
            filled: now,
        }
    }

    /// Whole tokens that are there now.
    pub(crate) fn available(&mut self, now: Time) -> u64 {
        // One token a second is one millionth a microsecond.
        let micros = now.0.saturating_sub(self.filled.0);
        let filled = self.millionths.saturating_add(micros.saturating_mul(self.rate_per_s));
        self.millionths = filled.min(self.burst * MILLION);
        self.filled = self.filled.max(now);
        self.millionths / MILLION
    }

    /// Takes tokens that [`TokenBucket::available`] promised; fewer leave none.
    pub(crate) fn take(&mut self, tokens: u64) {
        self.millionths = self.millionths.saturating_sub(tokens.saturating_mul(MILLION));
    }

    /// Takes one token if there is one.
    pub(crate) fn take_one(&mut self, now: Time) -> bool {
        let there = self.available(now) > 0;
        if there {
            self.take(1);
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = TokenBucket::new(10, 3, Time(0));
        let taken = (0..10).filter(|_| bucket.take_one(Time(0))).count();
        assert_eq!(taken, 3);
        assert!(!bucket.take_one(Time(99_999)));
        assert!(bucket.take_one(Time(100_000)));
        assert_eq!(bucket.available(Time(1_000_000_000)), 3, "never more than the burst");
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let mut bucket = TokenBucket::new(10, 1, Time(1_000_000));
        assert!(bucket.take_one(Time(1_000_000)));
        assert!(!bucket.take_one(Time(0)));
        assert!(!bucket.take_one(Time(1_050_000)));
    }
}
