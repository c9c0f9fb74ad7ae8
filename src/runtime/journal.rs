//! Numbers of a running loop, published every second and logged now and then.
//!
//! Two sets of counters take turns: while one is on the board, the other waits to be
//! filled. A reader that holds on to one for longer than a second costs the loop
//! another set; nothing else here allocates, but what writes the log.

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
    /// What is published next; there is none while it is filled.
    spare: Option<Arc<Counters>>,
    risen: Counters,
}

impl Journal {
    pub(super) fn new(control: &Control, now: Time) -> Journal {
        Journal {
            board: control.board(),
            next_publish: now,
            next_log: now.after(LOG_INTERVAL),
            logged: Counters::with_room(),
            spare: None,
            risen: Counters::with_room(),
        }
    }

    /// When counters are wanted next.
    pub(super) fn deadline(&self) -> Time {
        self.next_publish
    }

    /// Publishes counters if it is time; `gather` is called only then, with an empty
    /// list that it fills.
    pub(super) fn keep(&mut self, now: Time, gather: impl FnOnce(&mut Counters)) {
        if now < self.next_publish {
            return;
        }
        self.next_publish = now.after(PUBLISH_INTERVAL);
        let mut next = self.spare.take().unwrap_or_else(|| Arc::new(Counters::with_room()));
        // Somebody may still look at it; then it is theirs.
        let counters = Arc::make_mut(&mut next);
        counters.clear();
        gather(counters);
        if now >= self.next_log {
            self.next_log = now.after(LOG_INTERVAL);
            self.log(&next);
        }
        self.spare = Some(self.board.publish(next));
    }

    /// Publishes and logs what a loop counted from its begin to its end.
    pub(super) fn end(self, counters: &Counters) {
        let all = counters.risen_since(&Counters::default());
        if !all.is_empty() {
            info!("in all: {all}");
        }
        self.board.publish(Arc::new(counters.clone()));
    }

    fn log(&mut self, counters: &Counters) {
        self.risen.set_risen(counters, &self.logged);
        if !self.risen.is_empty() {
            info!("in the last 10 s: {}", self.risen);
        }
        self.logged.copy_from(counters);
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
            journal.keep(Time(5 + second * 1_000_000), |counters| {
                gathered += 1;
                assert!(counters.is_empty());
                counters.add("loop", [("turns", "Turns.", gathered)].into_iter());
            });
        }
        assert_eq!(gathered, 3);
        assert_eq!(control.board().counters().value("loop", "turns"), Some(3));
        assert_eq!(journal.deadline(), Time(3_000_005));
    }

    #[test]
    fn what_a_reader_holds_is_not_written_to() {
        let control = Control::new().unwrap();
        let mut journal = Journal::new(&control, Time(0));
        let mut held = Vec::new();
        for second in 0..20 {
            journal.keep(Time(second * 1_000_000), |counters| {
                counters.add("loop", [("turns", "Turns.", second)].into_iter());
            });
            held.push(control.board().counters());
        }
        let values: Vec<_> = held.iter().map(|held| held.value("loop", "turns")).collect();
        assert_eq!(values, (0..20).map(Some).collect::<Vec<_>>());
        assert_eq!(journal.logged.value("loop", "turns"), Some(10));
        assert_eq!(journal.risen.value("loop", "turns"), Some(10));
    }
}
