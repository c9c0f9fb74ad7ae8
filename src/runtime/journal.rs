//! Numbers of a running loop, published every second and logged now and then.

use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use crate::runtime::control::Control;
use crate::runtime::metrics::Board;
use crate::runtime::metrics::Counters;
use crate::sync::Time;

/// A page that shows the numbers is a second old at most.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// A line every ten seconds shows a trend and fills no disk.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What was published and logged last.
pub(super) struct Journal {
    board: Arc<Board>,
    next_publish: Time,
    next_log: Time,
    logged: Counters,
}

impl Journal {
    pub(super) fn new(control: &Control, now: Time) -> Journal {
        Journal {
            board: control.board(),
            next_publish: now,
            next_log: now.after(LOG_INTERVAL),
            logged: Counters::default(),
        }
    }

    /// When counters are wanted next.
    pub(super) fn deadline(&self) -> Time {
        self.next_publish
    }

    /// Publishes counters if it is time; `gather` is called only then.
    pub(super) fn keep(&mut self, now: Time, gather: impl FnOnce() -> Counters) {
        if now < self.next_publish {
            return;
        }
        self.next_publish = now.after(PUBLISH_INTERVAL);
        let counters = gather();
        if now >= self.next_log {
            self.next_log = now.after(LOG_INTERVAL);
            self.log(&counters);
        }
        self.board.publish(counters);
    }

    /// Publishes and logs what a loop counted from its begin to its end.
    pub(super) fn end(self, counters: &Counters) {
        let all = counters.risen_since(&Counters::default());
        if !all.is_empty() {
            info!("in all: {all}");
        }
        self.board.publish(counters.clone());
    }

    fn log(&mut self, counters: &Counters) {
        let risen = counters.risen_since(&self.logged);
        if !risen.is_empty() {
            info!("in the last 10 s: {risen}");
        }
        self.logged = counters.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_gathered_once_a_second() {
        let control = Control::new().unwrap();
        let mut journal = Journal::new(&control, Time(5));
        let mut gathered = 0;
        for second in [0, 0, 1, 1, 2] {
            journal.keep(Time(5 + second * 1_000_000), || {
                gathered += 1;
                let mut counters = Counters::default();
                counters.add("loop", [("turns", "Turns.", gathered)].into_iter());
                counters
            });
        }
        assert_eq!(gathered, 3);
        assert_eq!(control.board().counters().value("loop", "turns"), Some(3));
        assert_eq!(journal.deadline(), Time(3_000_005));
    }
}
