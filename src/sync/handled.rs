//! Which REPORTs of a device were handled: a counter and a window of bits.

/// REPORTs that a device may have under way: a bit each.
pub(crate) const REPORT_WINDOW: u64 = 64;

/// What is known of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sequence {
    /// It was not handled yet.
    New,
    /// It was handled before.
    Repeated,
    /// It is beyond the window: no device of ours sends it.
    Beyond,
}

/// The sequences of one session that were handled. REPORTs may come in any order:
/// a device has each leaf under way once at a time, so their order does not matter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handled {
    /// Every sequence below was handled.
    next: u64,
    /// Bit i: sequence `next` + i was handled.
    ahead: u64,
}

impl Handled {
    pub(crate) const fn new() -> Handled {
        Handled { next: 1, ahead: 0 }
    }

    pub(crate) fn look_up(&self, sequence: u64) -> Sequence {
        match sequence.checked_sub(self.next) {
            None => Sequence::Repeated,
            Some(REPORT_WINDOW..) => Sequence::Beyond,
            Some(bit) if self.ahead >> bit & 1 == 1 => Sequence::Repeated,
            Some(_) => Sequence::New,
        }
    }

    /// Notes a sequence that [`Handled::look_up`] called new.
    pub(crate) fn note(&mut self, sequence: u64) {
        debug_assert_eq!(self.look_up(sequence), Sequence::New);
        self.ahead |= 1 << (sequence - self.next);
        let run = self.ahead.trailing_ones();
        self.ahead = self.ahead.checked_shr(run).unwrap_or(0);
        self.next += u64::from(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_handled_once_in_any_order() {
        let mut handled = Handled::new();
        for sequence in [3, 1, 2, 64, 5, 4] {
            assert_eq!(handled.look_up(sequence), Sequence::New, "{sequence}");
            handled.note(sequence);
            assert_eq!(handled.look_up(sequence), Sequence::Repeated, "{sequence}");
        }
        assert_eq!(handled.next, 6);
        assert_eq!(handled.look_up(0), Sequence::Repeated);
        assert_eq!(handled.look_up(6), Sequence::New);
        assert_eq!(handled.look_up(69), Sequence::New);
        assert_eq!(handled.look_up(70), Sequence::Beyond);
        assert_eq!(handled.look_up(u64::MAX), Sequence::Beyond);
    }

    #[test]
    fn a_full_window_moves_as_one() {
        let mut handled = Handled::new();
        (2..=64).for_each(|sequence| handled.note(sequence));
        assert_eq!(handled.look_up(65), Sequence::Beyond);
        handled.note(1);
        assert_eq!((handled.next, handled.ahead), (65, 0));
    }
}
