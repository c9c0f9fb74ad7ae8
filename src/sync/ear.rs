//! How a client hears the multicast group of its view, and what it tells the server.
//!
//! The flags of every REQUEST say how it stands. A change of them is told at once and
//! again until it is answered: while the server does not know, a client may get
//! nothing, or everything twice.

use core::time::Duration;

use crate::sync::join::Joined;
use crate::sync::time::Time;
use crate::wire::Flags;

/// Heartbeats without a datagram of the group after which a client goes on by its own
/// address: half of what it takes its server for gone.
const SILENCE_HEARTBEATS: u32 = 4;

/// Time after which a group that was not heard is tried again: a switch that was
/// restarted learns its members within two minutes, and a try costs a client a REQUEST.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is no group, or nobody joined it.
    Closed,
    /// It is listened to and was not heard yet. Waiting begins when the server is told.
    Listening { until: Option<Time> },
    /// It is heard.
    Hearing { until: Time },
    /// It was silent.
    Deaf { until: Time },
}

/// What changed, for whoever drives the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The first datagram came by the group.
    Heard,
    /// Nothing comes by the group.
    Silent,
}

/// The ear of one client in one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ear {
    state: State,
    silence: Duration,
    heartbeat: Duration,
    /// When the flags are to be told; nothing once they were answered.
    tell_at: Option<Time>,
    /// Number of the first empty REQUEST that told the flags as they are now.
    told_by: Option<u32>,
}

impl Ear {
    /// Of a client that joined no group.
    pub(crate) const CLOSED: Ear = Ear {
        state: State::Closed,
        silence: Duration::ZERO,
        heartbeat: Duration::ZERO,
        tell_at: None,
        told_by: None,
    };

    /// Of one that has just joined the group of its session.
    pub(crate) fn open(joined: &Joined, now: Time) -> Ear {
        let heartbeat = joined.heartbeat;
        let silence = heartbeat * SILENCE_HEARTBEATS;
        let state = State::Listening { until: None };
        Ear { state, silence, heartbeat, tell_at: Some(now), told_by: None }
    }

    /// Whether there is a group that is listened to.
    pub(crate) fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// What a REQUEST says.
    pub(crate) fn flags(&self) -> u16 {
        match self.state {
            State::Closed | State::Deaf { .. } => 0,
            State::Listening { .. } => Flags::GROUP_WANTED,
            State::Hearing { .. } => Flags::GROUP_WANTED | Flags::GROUP_HEARD,
        }
    }

    /// A datagram of the view came by the group.
    pub(crate) fn heard(&mut self, now: Time) -> Option<Change> {
        let before = self.state;
        if before == State::Closed {
            return None;
        }
        self.state = State::Hearing { until: now.after(self.silence) };
        if matches!(before, State::Hearing { .. }) {
            return None;
        }
        self.tell(now);
        Some(Change::Heard)
    }

    /// Looks at the clock.
    pub(crate) fn handle_timeout(&mut self, now: Time) -> Option<Change> {
        if self.turns_at().is_none_or(|due| now < due) {
            return None;
        }
        let (next, change) = match self.state {
            State::Deaf { .. } => (State::Listening { until: None }, None),
            _ => (State::Deaf { until: now.after(TRY_AGAIN) }, Some(Change::Silent)),
        };
        self.state = next;
        self.tell(now);
        change
    }

    /// The flags changed.
    fn tell(&mut self, now: Time) {
        (self.tell_at, self.told_by) = (Some(now), None);
    }

    /// Whether an empty REQUEST is due.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        self.tell_at.is_some_and(|due| due <= now)
    }

    /// The empty REQUEST of this number was sent with the flags. It is repeated unless
    /// it is answered.
    pub(crate) fn told(&mut self, now: Time, number: u32) {
        self.told_by.get_or_insert(number);
        if self.tell_at.is_some() {
            self.tell_at = Some(now.after(self.heartbeat));
        }
        if self.state == (State::Listening { until: None }) {
            self.state = State::Listening { until: Some(now.after(self.silence)) };
        }
    }

    /// The empty REQUEST of this number was answered. If it told other flags than those
    /// of now the server may have heard it after the newer one: they are told again.
    pub(crate) fn answered(&mut self, now: Time, number: u32) {
        match self.told_by {
            Some(first) if first <= number => self.tell_at = None,
            _ if self.is_open() => self.tell_at = self.tell_at.or(Some(now)),
            _ => {}
        }
    }

    /// When something is due.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.turns_at().into_iter().chain(self.tell_at).min()
    }

    /// When the state changes though nothing comes.
    fn turns_at(&self) -> Option<Time> {
        match self.state {
            State::Closed => None,
            State::Listening { until } => until,
            State::Hearing { until } | State::Deaf { until } => Some(until),
        }
    }
}
