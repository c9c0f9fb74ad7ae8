//! Counters of a running loop, gathered in one place for logs, pages and tools.
//!
//! The loop gathers them about once a second and publishes the result; readers in
//! other threads take the newest [`Counters`] without a lock. What is counted, and
//! the sentence that explains it, is defined where it is counted.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::net;

/// One counter of a running loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// What counts: `server`, `client`, `device`, `relay`, `socket`, ...
    pub part: &'static str,
    /// Name of the counter within its part.
    pub name: &'static str,
    /// What it counts, as a sentence.
    pub help: &'static str,
    /// Whether it may fall.
    pub kind: Kind,
    /// The value.
    pub value: u64,
}

/// Whether a value only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises.
    Total,
    /// It rises and falls.
    Level,
}

/// All counters of a loop at one moment, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(Vec<Counter>);

/// Counters that a loop has at most: a relay, with two sockets, has some 100.
const COUNTERS_ROOM: usize = 128;

impl Counters {
    /// Nothing, with room for all that a loop counts.
    pub(super) fn with_room() -> Counters {
        Counters(Vec::with_capacity(COUNTERS_ROOM))
    }

    /// The counters in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Counter> {
        self.0.iter()
    }

    /// The value of one counter.
    pub fn value(&self, part: &str, name: &str) -> Option<u64> {
        let found = self.0.iter().find(|counter| counter.part == part && counter.name == name);
        found.map(|counter| counter.value)
    }

    /// How much each total rose since `earlier`, without those that did not.
    pub fn risen_since(&self, earlier: &Counters) -> Counters {
        let mut risen = Counters::default();
        risen.set_risen(self, earlier);
        risen
    }

    /// Becomes how much each total of `now` rose since `earlier`.
    pub(super) fn set_risen(&mut self, now: &Counters, earlier: &Counters) {
        let totals = now.0.iter().filter(|counter| counter.kind == Kind::Total);
        let risen = totals.filter_map(|counter| {
            let before = earlier.value(counter.part, counter.name).unwrap_or(0);
            let value = counter.value.saturating_sub(before);
            (value > 0).then_some(Counter { value, ..*counter })
        });
        self.0.clear();
        self.0.extend(risen);
    }

    /// Becomes a copy of others, in the memory that is there.
    pub(super) fn copy_from(&mut self, others: &Counters) {
        self.0.clone_from(&others.0);
    }

    /// Becomes nothing, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the totals of one part.
    pub(super) fn add(
        &mut self,
        part: &'static str,
        entries: impl Iterator<Item = (&'static str, &'static str, u64)>,
    ) {
        let kind = Kind::Total;
        self.0.extend(entries.map(|(name, help, value)| Counter { part, name, help, kind, value }));
    }

    /// Adds one value that may fall.
    pub(super) fn add_level(
        &mut self,
        part: &'static str,
        name: &'static str,
        help: &'static str,
        value: u64,
    ) {
        self.0.push(Counter { part, name, help, kind: Kind::Level, value });
    }

    /// Adds what a socket counts.
    pub(super) fn add_socket(&mut self, part: &'static str, socket: &net::Counters) {
        let entries = [
            ("datagrams_sent", "Datagrams that the kernel accepted.", socket.datagrams_sent),
            ("bytes_sent", "Payload bytes of those datagrams.", socket.bytes_sent),
            ("datagrams_received", "Datagrams received whole.", socket.datagrams_received),
            ("bytes_received", "Payload bytes of those datagrams.", socket.bytes_received),
            ("would_block", "Datagrams lost because the send buffer was full.", socket.would_block),
            (
                "send_errors",
                "Datagrams that another error kept from leaving.",
                socket.send_errors.total(),
            ),
            ("lent", "Messages sent from lent memory that are over.", socket.lent),
            ("lent_copied", "Those of them that the kernel copied.", socket.lent_copied),
            ("truncated", "Datagrams dropped because they were too long.", socket.truncated),
            (
                "queue_drops",
                "Datagrams that the kernel dropped because the receive queue was full.",
                socket.queue_drops,
            ),
        ];
        self.add(part, entries.into_iter());
    }
}

/// One `part.name=value` after the other, those that are zero left out.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for counter in self.0.iter().filter(|counter| counter.value > 0) {
            write!(f, "{gap}{}.{}={}", counter.part, counter.name, counter.value)?;
            gap = " ";
        }
        Ok(())
    }
}

/// Where a loop publishes its counters.
#[derive(Debug, Default)]
pub struct Board(ArcSwap<Counters>);

impl Board {
    /// The counters that were published last.
    pub fn counters(&self) -> Arc<Counters> {
        self.0.load_full()
    }

    /// Publishes counters and gives those that were published before, to be used again.
    pub(super) fn publish(&self, counters: Arc<Counters>) -> Arc<Counters> {
        self.0.swap(counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sent: u64, sessions: u64) -> Counters {
        let mut counters = Counters::default();
        counters.add("server", [("sent", "What was sent.", sent), ("lost", "", 0)].into_iter());
        counters.add_level("server", "sessions", "Sessions.", sessions);
        counters
    }

    #[test]
    fn zeros_are_not_printed() {
        assert_eq!(sample(3, 2).to_string(), "server.sent=3 server.sessions=2");
        assert_eq!(Counters::default().to_string(), "");
    }

    #[test]
    fn only_totals_that_rose_are_news() {
        let risen = sample(10, 1).risen_since(&sample(4, 9));
        assert_eq!(risen.to_string(), "server.sent=6");
        assert!(sample(4, 1).risen_since(&sample(4, 9)).is_empty());
    }

    #[test]
    fn a_board_shows_what_was_published_last() {
        let board = Board::default();
        assert!(board.counters().is_empty());
        board.publish(Arc::new(sample(1, 1)));
        let before = board.publish(Arc::new(sample(2, 1)));
        assert_eq!(before.value("server", "sent"), Some(1));
        assert_eq!(board.counters().value("server", "sent"), Some(2));
    }
}
