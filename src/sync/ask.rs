//! A REQUEST that waits for its RESPONSEs.

use core::ops::Range;
use core::time::Duration;

use crate::layout::Revision;
use crate::sync::time::Time;

/// Most RESPONSEs to one REQUEST that are told apart.
pub(crate) const ASK_CREDIT_MAX: u32 = 256;

/// How a REQUEST says what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// By what was lost, part by part.
    Holes,
    /// By the checksum of every leaf in the range.
    Checksums,
    /// By the revision up to which every change is held.
    Since(Revision),
}

/// What an arriving RESPONSE means for its REQUEST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// More is to come.
    Partly,
    /// All of it came.
    Whole,
}

/// One REQUEST under way.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) id: u32,
    pub(crate) range: Range<u32>,
    pub(crate) credit: u32,
    pub(crate) sent: Time,
    /// Last EVENT that had come when it was sent: an answer cannot speak of an
    /// earlier one.
    pub(crate) event_num: u64,
    pub(crate) deadline: Time,
    /// The parts that it names lack what EVENTs up to the one before this carried, and
    /// it asks for nothing else.
    pub(crate) holes_up_to: Option<u64>,
    /// Leaves that are older than ours are taken too: the server lost history.
    pub(crate) takes_older: bool,
    /// One bit for each RESPONSE that came.
    seen: [u64; ASK_CREDIT_MAX as usize / 64],
    last: Option<u32>,
}

impl Ask {
    pub(crate) fn new(id: u32, range: Range<u32>, credit: u32, now: Time, wait: Duration) -> Ask {
        Ask {
            id,
            range,
            credit,
            sent: now,
            event_num: 0,
            deadline: now.after(wait),
            holes_up_to: None,
            takes_older: false,
            seen: [0; ASK_CREDIT_MAX as usize / 64],
            last: None,
        }
    }

    pub(crate) fn is_unanswered(&self) -> bool {
        self.seen == [0; ASK_CREDIT_MAX as usize / 64]
    }

    /// Notes the RESPONSE at `index`. Each that comes extends the wait; once the
    /// last one has come, what is missing gets the `grace` only.
    pub(crate) fn came(
        &mut self,
        now: Time,
        index: u16,
        is_last: bool,
        wait: Duration,
        grace: Duration,
    ) -> Answer {
        let index = u32::from(index);
        if let Some(word) = self.seen.get_mut(index as usize / 64) {
            *word |= 1 << (index % 64);
        }
        if is_last {
            self.last = Some(index);
        }
        let count: u32 = self.seen.iter().map(|word| word.count_ones()).sum();
        self.deadline = now.after(if self.last.is_some() { grace } else { wait });
        match self.last {
            Some(last) if count > last => Answer::Whole,
            _ => Answer::Partly,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(50);
    const GRACE: Duration = Duration::from_millis(1);

    #[test]
    fn an_answer_is_whole_when_every_part_came_in_any_order() {
        let mut ask = Ask::new(1, 0..10, 256, Time(0), WAIT);
        assert!(ask.is_unanswered());
        assert_eq!(ask.came(Time(0), 2, true, WAIT, GRACE), Answer::Partly);
        assert_eq!(ask.deadline, Time(0).after(GRACE));
        assert_eq!(ask.came(Time(0), 0, false, WAIT, GRACE), Answer::Partly);
        assert_eq!(ask.came(Time(0), 0, false, WAIT, GRACE), Answer::Partly, "a repeat");
        assert_eq!(ask.came(Time(0), 1, false, WAIT, GRACE), Answer::Whole);
    }
}
