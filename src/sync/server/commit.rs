//! ACKs that wait until what they promise is on the medium.
//!
//! A tree that survives power loss takes a write long before it is durable, and makes
//! many durable at once. So a REPORT is taken at once, and acknowledged when the driver
//! says that its commit is done. Until then it is neither applied again nor answered.

use core::net::SocketAddr;
use std::collections::VecDeque;

use crate::sync::handled::Handled;
use crate::sync::handled::Sequence;
use crate::sync::leaves::CommitId;
use crate::sync::server::Server;
use crate::wire::AckRefusal;

/// Most ACKs that wait at a time: 256 devices with a full window each. REPORTs beyond
/// are not taken, and come again.
pub(super) const HELD_ACKS_MAX: usize = 16_384;

/// An ACK that waits.
#[derive(Debug)]
struct HeldAck {
    commit: CommitId,
    to: SocketAddr,
    session_id: u64,
    sequence: u64,
    refusals: Vec<AckRefusal>,
}

/// ACKs that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct HeldAcks(VecDeque<HeldAck>);

impl HeldAcks {
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= HELD_ACKS_MAX
    }

    /// Keeps an ACK. Room for all comes with the first one: 1.3 MB, of which untouched
    /// pages cost nothing, in a server that has commits at all.
    fn push(&mut self, held: HeldAck) {
        if self.0.capacity() == 0 {
            self.0.reserve_exact(HELD_ACKS_MAX);
        }
        self.0.push_back(held);
    }

    fn pop_up_to(&mut self, commit: CommitId) -> Option<HeldAck> {
        let is_done = self.0.front().is_some_and(|held| held.commit <= commit);
        if is_done { self.0.pop_front() } else { None }
    }
}

/// REPORTs of a session: those that were taken, and of them those that may be
/// acknowledged. Without commits both are the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reported {
    taken: Handled,
    committed: Handled,
}

/// What is to be done about a REPORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// It is new: apply it.
    Apply,
    /// It was applied and is safe: acknowledge it again.
    Acknowledge,
    /// It was applied and its commit is under way: the ACK will come.
    Wait,
    /// It lies beyond the window.
    Drop,
}

impl Reported {
    pub(crate) const fn new() -> Reported {
        Reported { taken: Handled::new(), committed: Handled::new() }
    }

    pub(crate) fn due(&self, sequence: u64) -> Due {
        match (self.taken.look_up(sequence), self.committed.look_up(sequence)) {
            // A device keeps its window from the first that is not acknowledged.
            (Sequence::Beyond, _) | (_, Sequence::Beyond) => Due::Drop,
            (Sequence::New, _) => Due::Apply,
            (Sequence::Repeated, Sequence::New) => Due::Wait,
            (Sequence::Repeated, Sequence::Repeated) => Due::Acknowledge,
        }
    }

    pub(crate) fn take(&mut self, sequence: u64) {
        self.taken.note(sequence);
    }

    pub(crate) fn commit(&mut self, sequence: u64) {
        self.committed.note(sequence);
    }
}

impl Server {
    /// Acknowledges a REPORT that was taken: now, or when its commit is done.
    pub(super) fn acknowledge_when_safe(
        &mut self,
        to: SocketAddr,
        sequence: u64,
        refusals: Vec<AckRefusal>,
        commit: Option<CommitId>,
    ) {
        let Some(session) = self.sessions.get_mut(&to) else { return };
        session.reported.take(sequence);
        let session_id = session.id;
        if let Some(commit) = commit {
            self.held.push(HeldAck { commit, to, session_id, sequence, refusals });
            return;
        }
        session.reported.commit(sequence);
        self.acknowledge(to, session_id, sequence..=sequence, &refusals);
    }

    /// Acknowledges the REPORTs whose writes are durable: those that were taken when
    /// [`ServedLeaves::commit`](crate::sync::ServedLeaves::commit) named this commit or
    /// an earlier one.
    pub fn handle_committed(&mut self, commit: CommitId) {
        while let Some(held) = self.held.pop_up_to(commit) {
            // The session may have ended: its device asks again in the next one.
            if !self.note_committed(&held) {
                continue;
            }
            let HeldAck { to, session_id, sequence, refusals, .. } = held;
            let mut last = sequence;
            while refusals.is_empty() && self.next_follows(commit, to, session_id, last) {
                let Some(next) = self.held.0.pop_front() else { break };
                self.note_committed(&next);
                last = next.sequence;
            }
            self.acknowledge(to, session_id, sequence..=last, &refusals);
        }
    }

    fn note_committed(&mut self, held: &HeldAck) -> bool {
        let session = self.sessions.get_mut(&held.to);
        let session = session.filter(|session| session.id == held.session_id);
        session.map(|session| session.reported.commit(held.sequence)).is_some()
    }

    /// Whether the next ACK that waits fits into the one for `last` of this session.
    fn next_follows(&self, commit: CommitId, to: SocketAddr, session_id: u64, last: u64) -> bool {
        self.held.0.front().is_some_and(|next| {
            let same = next.to == to && next.session_id == session_id;
            same && next.commit <= commit && next.sequence == last + 1 && next.refusals.is_empty()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_acknowledged_when_it_is_safe() {
        let mut reported = Reported::new();
        assert_eq!(reported.due(1), Due::Apply);
        reported.take(1);
        reported.take(2);
        assert_eq!((reported.due(1), reported.due(2)), (Due::Wait, Due::Wait));
        reported.commit(2);
        assert_eq!((reported.due(1), reported.due(2)), (Due::Wait, Due::Acknowledge));
        reported.commit(1);
        assert_eq!(reported.due(1), Due::Acknowledge);
        assert_eq!(reported.due(67), Due::Drop);
    }

    #[test]
    fn the_window_waits_for_what_is_not_safe() {
        let mut reported = Reported::new();
        (1..=64).for_each(|sequence| reported.take(sequence));
        assert_eq!(reported.due(65), Due::Drop, "no device has more under way");
        reported.commit(1);
        assert_eq!(reported.due(65), Due::Apply);
    }
}
