//! How long an answer may take.

use core::time::Duration;

/// Wait before the first answer was seen.
const TIMEOUT_FIRST: Duration = Duration::from_millis(100);

/// Shortest wait: a busy server answers between two periods' work.
const TIMEOUT_MIN: Duration = Duration::from_millis(5);

/// Longest wait.
const TIMEOUT_MAX: Duration = Duration::from_secs(1);

/// Smoothed round trip and its deviation, as in RFC 6298 section 2, with a
/// shorter least wait: a repeated request costs little here.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoundTrip {
    smoothed: Option<Duration>,
    deviation: Duration,
    backoffs: u32,
}

impl RoundTrip {
    /// Takes a measured round trip.
    pub(crate) fn measured(&mut self, sample: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.deviation = sample / 2;
            }
            Some(smoothed) => {
                self.deviation = (self.deviation * 3 + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
        self.backoffs = 0;
    }

    /// Notes that an answer came, too late or too unclear to measure.
    pub(crate) fn answered(&mut self) {
        self.backoffs = 0;
    }

    /// Doubles the wait: nothing came at all.
    pub(crate) fn back_off(&mut self) {
        self.backoffs = (self.backoffs + 1).min(16);
    }

    /// How often in a row nothing came.
    pub(crate) fn backoffs(&self) -> u32 {
        self.backoffs
    }

    /// How long to wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        let measured = self.smoothed.map(|smoothed| smoothed + self.deviation * 4);
        let wait = measured.unwrap_or(TIMEOUT_FIRST).max(TIMEOUT_MIN);
        wait.saturating_mul(1 << self.backoffs).min(TIMEOUT_MAX)
    }

    /// How long to wait for a part that others overtook: a quarter of a round trip.
    pub(crate) fn grace(&self) -> Duration {
        self.smoothed.unwrap_or(TIMEOUT_FIRST) / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_the_round_trip_and_doubles_in_silence() {
        let mut trip = RoundTrip::default();
        assert_eq!(trip.timeout(), TIMEOUT_FIRST);
        for _ in 0..100 {
            trip.measured(Duration::from_millis(20));
        }
        assert!(trip.timeout() >= Duration::from_millis(20));
        assert!(trip.timeout() < Duration::from_millis(30));
        let before = trip.timeout();
        trip.back_off();
        assert_eq!(trip.timeout(), before * 2);
        for _ in 0..100 {
            trip.back_off();
        }
        assert_eq!(trip.timeout(), TIMEOUT_MAX);
        trip.answered();
        assert_eq!(trip.timeout(), before);
    }

    #[test]
    fn a_fast_path_still_gets_the_least_wait() {
        let mut trip = RoundTrip::default();
        for _ in 0..100 {
            trip.measured(Duration::from_micros(50));
        }
        assert_eq!(trip.timeout(), TIMEOUT_MIN);
    }
}
