//! How long the turns of a loop take, and how much of that the loop is to blame for.
//!
//! On a machine with other work a thread waits for a processor, by tens of milliseconds.
//! The kernel counts that for each thread, so it can be told apart from what stalled
//! the thread itself: a page that has to be read or written, a lock, a long call.

use std::fs;
use std::time::Duration;
use std::time::Instant;

use hdrhistogram::Histogram;

/// Times are kept from a nanosecond to a minute, to a tenth of a percent.
pub(crate) fn time_histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000_000, 3).expect("the bounds are sound")
}

/// The kernel's count is read so often, which takes some microseconds, and after each
/// turn that was longer.
const READ_INTERVAL: Duration = Duration::from_millis(1);

/// Turns of the thread that notes them, from one note to the next, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    /// As the clock has it.
    pub(crate) whole: Histogram<u64>,
    /// Without what long ones waited for a processor.
    pub(crate) own: Histogram<u64>,
    last: Option<Instant>,
    /// What the thread had waited for a processor in all, and when that was read.
    waited: Option<(Instant, u64)>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { whole: time_histogram(), own: time_histogram(), last: None, waited: None }
    }
}

impl Turns {
    /// A turn ends and the next begins, at the moment that is given.
    pub(crate) fn note(&mut self) -> Instant {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.add(now, now - last);
        }
        now
    }

    fn add(&mut self, now: Instant, took: Duration) {
        let is_long = took > READ_INTERVAL;
        let mut own = took;
        if is_long || self.waited.is_none_or(|(read, _)| now - read > READ_INTERVAL) {
            let waited = waited_for_a_processor();
            // It may have waited before this turn began, since the last reading: then a
            // little too much is taken off, but only of what is more than an interval.
            let risen =
                waited.zip(self.waited).map(|(now, (_, before))| now.saturating_sub(before));
            if is_long {
                own = took.saturating_sub(Duration::from_nanos(risen.unwrap_or(0)));
            }
            self.waited = waited.map(|waited| (now, waited));
        }
        self.whole.saturating_record(took.as_nanos() as u64);
        self.own.saturating_record(own.as_nanos() as u64);
    }
}

/// Nanoseconds that this thread was ready and had no processor; nothing where the kernel
/// does not count them.
fn waited_for_a_processor() -> Option<u64> {
    fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_turn_that_slept_is_long_and_its_own() {
        let mut turns = Turns::default();
        turns.note();
        assert_eq!(turns.whole.len(), 0, "nothing has ended yet");
        turns.note();
        thread::sleep(Duration::from_millis(30));
        turns.note();
        assert_eq!((turns.whole.len(), turns.own.len()), (2, 2));
        assert!(turns.whole.max() >= 30_000_000, "{}", turns.whole.max());
        // Sleep is not a wait for a processor; what came after it may be.
        assert!(turns.own.max() <= turns.whole.max() && turns.own.max() >= 10_000_000);
    }

    #[test]
    fn the_wait_for_a_processor_is_counted_and_only_rises() {
        let before = waited_for_a_processor();
        thread::sleep(Duration::from_millis(2));
        assert!(before.is_some() && waited_for_a_processor() >= before);
    }
}
