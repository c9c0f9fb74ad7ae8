//! Memory that is lent to the kernel: sends that go on when their call has returned
//! (`MSG_ZEROCOPY`), and which of them are over.
//!
//! The kernel numbers the messages of a socket that lend, and tells by the socket's
//! error queue which are over, in any order, and whether it copied after all. A
//! ledger keeps the numbers; system calls are another file's.

use std::ops::Range;

use crate::net::options::Offload;
use crate::net::options::Support;

/// Bytes to a destination from which lending pays: below, to pin pages and to read
/// what is over costs more than to copy.
pub(super) const LEN_MIN: usize = 16 << 10;

/// Messages copied in a row after which a socket stops lending: the device, or what
/// lies between, needs the bytes itself.
const COPIES_MAX: u64 = 64;

/// Ranges that are over while one before them is not. Devices finish in order, so
/// that there are a few; one that finds no room counts as not over, for ever.
const APART_MAX: usize = 256;

/// A moment in what a socket sent: what was lent before it is over, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lent(u64);

#[cfg(test)]
impl Lent {
    /// The moment after so many messages.
    pub(crate) fn at(messages: u64) -> Lent {
        Lent(messages)
    }
}

/// What the kernel says of messages `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Over {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) how: How,
}

/// How messages that lent left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// From where they lay.
    InPlace,
    /// The kernel copied them.
    Copied,
}

/// The numbers of the messages that one socket lent.
#[derive(Debug)]
pub(super) struct Ledger {
    support: Support,
    /// Messages lent: the number of the next one. The kernel's number is its low half.
    lent: u64,
    /// All messages below this one are over.
    over: u64,
    /// What else is over, ascending, with gaps between.
    apart: Vec<Range<u64>>,
    copies_in_a_row: u64,
}

impl Ledger {
    /// Of a socket that lends as far as this says.
    pub(super) fn new(support: Support) -> Ledger {
        let room = if support == Support::Available { APART_MAX } else { 0 };
        Ledger { support, lent: 0, over: 0, apart: Vec::with_capacity(room), copies_in_a_row: 0 }
    }

    /// Of one that never does.
    pub(super) fn unused() -> Ledger {
        Ledger::new(Support::Disabled)
    }

    /// Whether it is in use.
    pub(super) fn support(&self) -> Support {
        self.support
    }

    /// Whether so many bytes to each destination are worth lending.
    pub(super) fn takes(&self, bytes: usize) -> bool {
        self.support == Support::Available && bytes >= LEN_MIN
    }

    /// Takes note of messages that the kernel took.
    pub(super) fn note_lent(&mut self, messages: usize) {
        self.lent += messages as u64;
    }

    /// Takes note of messages that are over, and says how many.
    pub(super) fn note_over(&mut self, told: Over) -> u64 {
        let first = self.over + u64::from(told.first.wrapping_sub(self.over as u32));
        let end = first + u64::from(told.last.wrapping_sub(told.first)) + 1;
        // Not a message that is under way: whoever said so speaks of another socket.
        if end > self.lent {
            return 0;
        }
        self.copies_in_a_row = match told.how {
            How::Copied => self.copies_in_a_row + (end - first),
            How::InPlace => 0,
        };
        if self.copies_in_a_row >= COPIES_MAX && self.support == Support::Available {
            self.support = Support::GivenUp;
        }
        self.insert(first..end);
        end - first
    }

    /// The moment now; nothing if all that was lent is over.
    pub(super) fn now(&self) -> Option<Lent> {
        (self.over < self.lent).then_some(Lent(self.lent))
    }

    /// Whether all that was lent before is over.
    pub(super) fn is_over(&self, lent: Lent) -> bool {
        self.over >= lent.0
    }

    fn insert(&mut self, range: Range<u64>) {
        let at = self.apart.partition_point(|other| other.start < range.start);
        if self.apart.len() < APART_MAX {
            self.apart.insert(at, range);
        }
        let mut in_order = 0;
        for range in &self.apart {
            if range.start > self.over {
                break;
            }
            self.over = self.over.max(range.end);
            in_order += 1;
        }
        self.apart.drain(..in_order);
    }
}

/// What the options make of an offer of the system.
pub(super) fn wanted(offload: Offload, offer: impl FnOnce() -> bool) -> Support {
    match offload {
        Offload::Off => Support::Disabled,
        Offload::Detect if offer() => Support::Available,
        Offload::Detect => Support::Missing,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn over(first: u32, last: u32, how: How) -> Over {
        Over { first, last, how }
    }

    #[test]
    fn what_is_over_in_any_order_is_over_when_nothing_before_it_is_under_way() {
        let mut ledger = Ledger::new(Support::Available);
        assert_eq!(ledger.now(), None);
        ledger.note_lent(3);
        let first = ledger.now().unwrap();
        ledger.note_lent(3);
        let second = ledger.now().unwrap();
        assert_eq!(ledger.note_over(over(1, 4, How::InPlace)), 4);
        assert!(!ledger.is_over(first) && !ledger.is_over(second));
        ledger.note_over(over(0, 0, How::InPlace));
        assert!(ledger.is_over(first) && !ledger.is_over(second));
        ledger.note_over(over(5, 5, How::InPlace));
        assert!(ledger.is_over(second));
        assert_eq!(ledger.now(), None);
    }

    #[test]
    fn the_kernels_numbers_wrap_and_ours_do_not() {
        let mut ledger = Ledger::new(Support::Available);
        let near = u64::from(u32::MAX) - 1;
        (ledger.lent, ledger.over) = (near, near);
        ledger.note_lent(4);
        let lent = ledger.now().unwrap();
        ledger.note_over(over(0, 1, How::InPlace));
        assert!(!ledger.is_over(lent));
        ledger.note_over(over(u32::MAX - 1, u32::MAX, How::InPlace));
        assert!(ledger.is_over(lent));
        assert_eq!(ledger.over, near + 4);
    }

    #[test]
    fn numbers_that_were_never_lent_end_nothing() {
        let mut ledger = Ledger::new(Support::Available);
        ledger.note_lent(2);
        let lent = ledger.now().unwrap();
        assert_eq!(ledger.note_over(over(0, 2, How::InPlace)), 0);
        assert_eq!(ledger.note_over(over(7, 3, How::Copied)), 0);
        assert!(!ledger.is_over(lent));
    }

    #[test]
    fn a_kernel_that_copies_on_and_on_is_lent_nothing_any_more() {
        let mut ledger = Ledger::new(Support::Available);
        ledger.note_lent(200);
        ledger.note_over(over(0, 62, How::Copied));
        ledger.note_over(over(63, 63, How::InPlace));
        ledger.note_over(over(64, 126, How::Copied));
        assert!(ledger.takes(LEN_MIN) && !ledger.takes(LEN_MIN - 1));
        ledger.note_over(over(127, 127, How::Copied));
        assert_eq!(ledger.support(), Support::GivenUp);
        assert!(!ledger.takes(LEN_MIN));
    }

    proptest! {
        #[test]
        fn all_is_over_when_everything_was_told_in_whatever_order(
            lens in proptest::collection::vec(1u32..5, 1..60),
            order in any::<u64>(),
        ) {
            let mut ledger = Ledger::new(Support::Available);
            let mut ranges = Vec::new();
            let mut next = 0;
            for len in lens {
                ranges.push(next..next + len);
                next += len;
            }
            ledger.note_lent(next as usize);
            let lent = ledger.now().unwrap();
            ranges.sort_by_key(|range| u64::from(range.start).wrapping_mul(order | 1).rotate_left(17));
            for range in ranges {
                prop_assert!(!ledger.is_over(lent));
                ledger.note_over(over(range.start, range.end - 1, How::InPlace));
            }
            prop_assert!(ledger.is_over(lent));
            prop_assert!(ledger.apart.is_empty());
        }
    }
}
