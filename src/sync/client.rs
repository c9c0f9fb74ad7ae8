//! The client's side of the protocol: a copy that is kept equal to the server's.

use core::time::Duration;
use std::collections::VecDeque;

use crate::layout::LayoutHash;
use crate::layout::Life;
use crate::layout::Revision;
use crate::layout::TreeId;
use crate::sync::counters::ClientCounters;
use crate::sync::ear::Change;
use crate::sync::ear::Ear;
use crate::sync::follow::Desk;
use crate::sync::follow::FollowConfig;
use crate::sync::follow::Follower;
use crate::sync::follow::Progress;
use crate::sync::join::JoinError;
use crate::sync::join::JoinOutcome;
use crate::sync::join::Joined;
use crate::sync::join::Joiner;
use crate::sync::join::RETRY_FULL;
use crate::sync::join::Role;
use crate::sync::join::Wants;
use crate::sync::join::bye;
use crate::sync::join::silence_limit;
use crate::sync::layout_pull::LayoutPull;
use crate::sync::leaves::ReplicaLeaves;
use crate::sync::outbox::Outbox;
use crate::sync::outbox::Queued;
use crate::sync::time::RandomSource;
use crate::sync::time::Time;
use crate::sync::transmit::Recipients;
use crate::sync::transmit::Transmit;
use crate::sync::view::Selection;
use crate::wire;
use crate::wire::ByeReason;
use crate::wire::Datagram;
use crate::wire::Header;
use crate::wire::INIT_FILTER_LEN_MAX;

/// REQUESTs, or LAYOUT_REQUESTs, in a row that nobody answers before the session is believed
/// dead, although EVENTs may still come, from a group for instance.
const UNANSWERED_MAX: u32 = 12;

/// Events that one datagram or timeout makes at most, and some more.
const EVENTS_ROOM: usize = 16;

/// The tree that a client already has a copy of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldTree {
    /// Its id: a server with another one is refused.
    pub tree_id: TreeId,
    /// Its layout.
    pub layout_hash: LayoutHash,
    /// The life that the copy follows.
    pub life: Life,
    /// Every change up to here is held.
    pub watermark: Revision,
}

/// How much of a copy may be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// No leaf came yet.
    Nothing,
    /// Some leaves are there, nobody knows which are right: checksums will tell.
    Partial,
    /// Every change up to the watermark is there.
    UpTo {
        /// The life that the copy followed.
        life: Life,
        /// The revision.
        watermark: Revision,
    },
}

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Path of the parent whose leaves are wanted; empty means the whole tree.
    pub filter: String,
    /// What is there from an earlier run.
    pub held: Option<HeldTree>,
    /// The socket's receive buffer as the kernel counts it, in bytes.
    pub receive_buffer: usize,
    /// Every leaf is compared by its checksum once in this time.
    pub audit_interval: Duration,
}

impl ClientConfig {
    /// The defaults: the whole tree, nothing held, an audit a minute.
    pub fn new(receive_buffer: usize) -> ClientConfig {
        ClientConfig {
            filter: String::new(),
            held: None,
            receive_buffer,
            audit_interval: Duration::from_secs(60),
        }
    }
}

/// What happened, for whoever drives the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// A session was opened. If no tree with this layout is attached, the driver
    /// attaches the one it holds, or waits for [`ClientEvent::Layout`].
    Joined(Joined),
    /// The layout is there: make, open or grow the tree, and attach it.
    Layout,
    /// The server cannot be joined; the client has stopped.
    Refused(JoinError),
    /// The server fell silent or ended the session: the client is at the door
    /// again and keeps its copy.
    Rejoining,
    /// The copy equals the server's, by its digest.
    InSync,
    /// It does not, or it is not known.
    OutOfSync,
    /// EVENTs come by the multicast group.
    GroupHeard,
    /// Nothing comes by the multicast group: EVENTs come to the client's own address.
    GroupSilent,
}

/// A client without sockets: see the module's contract.
pub struct Client {
    config: ClientConfig,
    random: Box<dyn RandomSource + Send>,
    joiner: Joiner,
    joined: Option<Joined>,
    last_heard: Time,
    last_driven: Time,
    pull: Option<LayoutPull>,
    layout_blob: Vec<u8>,
    follower: Option<Follower>,
    ear: Ear,
    was_in_sync: bool,
    outbox: Outbox,
    events: VecDeque<ClientEvent>,
    counters: ClientCounters,
}

impl Client {
    /// A client that knocks at the server's door at once.
    pub fn new(
        config: ClientConfig,
        mut random: Box<dyn RandomSource + Send>,
        now: Time,
    ) -> Client {
        let wants = Wants {
            role: Role::Replica,
            filter: config.filter.clone(),
            tree_id: config.held.map(|held| held.tree_id),
            life: config.held.map_or(Life(0), |held| held.life),
            layout_hash: config.held.map_or(LayoutHash(0), |held| held.layout_hash),
            watermark: config.held.map_or(Revision::ZERO, |held| held.watermark),
        };
        let mut client = Client {
            joiner: Joiner::new(wants, &mut *random, now),
            config,
            random,
            joined: None,
            last_heard: now,
            last_driven: now,
            pull: None,
            layout_blob: Vec::new(),
            follower: None,
            ear: Ear::CLOSED,
            was_in_sync: false,
            outbox: Outbox::with_room(0, 0),
            events: VecDeque::with_capacity(EVENTS_ROOM),
            counters: ClientCounters::default(),
        };
        let found = client.config.filter.len();
        if found > INIT_FILTER_LEN_MAX {
            client.fail(JoinError::FilterTooLong { found });
        }
        client
    }

    /// Takes note that the driver has joined the multicast group that
    /// [`Joined::group`] names, and gives what comes there to
    /// [`Client::handle_group_datagram`].
    pub fn listen(&mut self, now: Time) {
        if let Some(joined) = self.joined.filter(|joined| joined.group.is_some()) {
            self.ear = Ear::open(&joined, now);
        }
    }

    /// Takes one datagram that came by the group from the server's own address. What
    /// waits by the group is to be handled before what waits in the other socket.
    pub fn handle_group_datagram<T: ReplicaLeaves>(
        &mut self,
        now: Time,
        bytes: &[u8],
        tree: Option<&mut T>,
    ) {
        self.wake(now);
        let decoded = wire::decode(bytes).ok().filter(|(header, datagram)| {
            let is_shared = matches!(datagram, Datagram::Event(_) | Datagram::Tick(_));
            let is_ours = |joined: &Joined| is_of_view(joined, header);
            is_shared && self.ear.is_open() && self.joined.as_ref().is_some_and(is_ours)
        });
        let (Some((header, datagram)), Some(joined)) = (decoded, self.joined) else {
            self.counters.group_foreign += 1;
            return;
        };
        self.counters.group_datagrams += 1;
        self.last_heard = now;
        let change = self.ear.heard(now);
        self.note_ear(change);
        self.dispatch(now, &joined, header, datagram, tree);
    }

    /// Counts a datagram that came by the group from another address than the server's.
    pub fn note_group_stranger(&mut self) {
        self.counters.group_foreign += 1;
    }

    fn note_ear(&mut self, change: Option<Change>) {
        match change {
            None => {}
            Some(Change::Heard) => {
                self.counters.group_heard += 1;
                self.events.push_back(ClientEvent::GroupHeard);
            }
            Some(Change::Silent) => {
                self.counters.group_silent += 1;
                self.events.push_back(ClientEvent::GroupSilent);
            }
        }
    }

    /// Takes one datagram. `tree` is the copy, if there is one already.
    pub fn handle_datagram<T: ReplicaLeaves>(
        &mut self,
        now: Time,
        bytes: &[u8],
        tree: Option<&mut T>,
    ) {
        self.wake(now);
        self.counters.datagrams_in += 1;
        let Ok((header, datagram)) = wire::decode(bytes) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        match datagram {
            Datagram::Cookie | Datagram::Welcome(..) => self.knock(now, header, &datagram, tree),
            Datagram::Bye(reason) => self.take_bye(now, header, reason, tree),
            datagram => self.take(now, header, datagram, tree),
        }
    }

    /// Does what is due by now. Datagrams that wait in the socket are to be
    /// handled first: a process that slept must not take its own silence for the
    /// server's.
    pub fn handle_timeout<T: ReplicaLeaves>(&mut self, now: Time, tree: Option<&mut T>) {
        self.wake(now);
        self.joiner.handle_timeout(now, &mut *self.random, &mut self.outbox);
        if let (Some(pull), Some(joined)) = (&mut self.pull, &self.joined) {
            pull.handle_timeout(now, joined, &mut self.outbox);
        }
        let change = self.ear.handle_timeout(now);
        self.note_ear(change);
        let is_silent =
            self.joined.is_some_and(|joined| now.since(self.last_heard) > silence_limit(&joined));
        let following = self.active_follower().map_or(0, Follower::unanswered);
        let unanswered = self.pull.as_ref().map_or(following, LayoutPull::unanswered);
        if is_silent || unanswered > UNANSWERED_MAX {
            self.rejoin(now, Duration::ZERO);
        }
        self.advance(now, tree);
    }

    /// Takes note that the network says nobody listens at the server's address.
    pub fn handle_unreachable(&mut self, now: Time) {
        if self.joined.is_some() {
            self.rejoin(now, Duration::ZERO);
        }
        self.joiner.hold_off(now);
    }

    /// Gives the client its copy: of the layout of the session, and as far right
    /// as `held` says. After [`ClientEvent::Joined`] or [`ClientEvent::Layout`].
    pub fn attach<T: ReplicaLeaves>(&mut self, now: Time, held: Held, tree: &mut T) {
        let Some(joined) = self.joined else { return };
        if tree.layout_hash() != joined.layout_hash {
            return;
        }
        let Some(selection) = Selection::at(&self.config.filter, tree) else {
            self.fail(JoinError::Refused { reason: ByeReason::UnknownParent, detail: 0 });
            return;
        };
        let config = FollowConfig {
            receive_buffer: self.config.receive_buffer,
            audit_interval: self.config.audit_interval,
        };
        self.pull = None;
        self.joiner.wants.tree_id = Some(joined.tree_id);
        self.follower = Some(Follower::new(config, joined, selection, held, tree, now));
        self.advance(now, Some(tree));
    }

    /// Says goodbye.
    pub fn leave(&mut self) {
        if let Some(joined) = self.joined.take() {
            bye(&joined, &mut self.outbox);
        }
        self.joiner.stop();
        self.set_in_sync(false);
    }

    /// The next thing to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        match self.outbox.pop()? {
            Queued::Datagram { bytes, .. } => {
                Some(Transmit::Datagram { to: Recipients::Peer, bytes: &self.outbox.bytes[bytes] })
            }
            Queued::Leaves { packets, segment, .. } => Some(Transmit::Leaves {
                to: Recipients::Peer,
                packets: &self.outbox.packets[packets],
                leaves: &self.outbox.leaves,
                segment,
            }),
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        let silence =
            self.joined.map(|joined| self.last_heard.after(silence_limit(&joined)).after(TICK));
        let pull = self.pull.as_ref().map(LayoutPull::poll_timeout);
        let follower = self.active_follower().map(Follower::poll_timeout);
        let ear = follower.and_then(|_| self.ear.poll_timeout());
        [self.joiner.poll_timeout(), silence, pull, follower, ear].into_iter().flatten().min()
    }

    /// What was counted.
    pub fn counters(&self) -> &ClientCounters {
        &self.counters
    }

    /// The session, if there is one.
    pub fn joined(&self) -> Option<&Joined> {
        self.joined.as_ref()
    }

    /// The layout that came last: `parent_count u32 | schema_len u32 | parents
    /// table | schema text`.
    pub fn layout_blob(&self) -> &[u8] {
        &self.layout_blob
    }

    /// Every change up to this revision is held; zero if nothing is sure.
    pub fn watermark(&self) -> Revision {
        self.follower.as_ref().map_or(Revision::ZERO, Follower::watermark)
    }

    /// The same, as a copy that is opened again may rely on it ([`Held::UpTo`]); nothing
    /// while an EVENT is to bring what a RESPONSE left out: what was written down before
    /// holds until then.
    pub fn lasting_watermark(&self) -> Option<Revision> {
        self.follower.as_ref().map_or(Some(Revision::ZERO), Follower::lasting_watermark)
    }

    /// Whether nothing is left to be asked for, as far as is known.
    #[cfg(feature = "sim")]
    pub(crate) fn lacks_nothing(&self) -> bool {
        self.follower.as_ref().is_some_and(Follower::lacks_nothing)
    }

    /// Whether the copy was equal to the server's at the end of the last period
    /// that was seen.
    pub fn is_in_sync(&self) -> bool {
        self.was_in_sync
    }

    /// Whether a copy is attached that follows the session there is. If not, the
    /// driver has to attach one after [`ClientEvent::Joined`].
    pub fn is_attached(&self) -> bool {
        self.active_follower().is_some()
    }

    /// How far the copy has got.
    pub fn progress(&self) -> Progress {
        self.follower.as_ref().map_or_else(Progress::default, Follower::progress)
    }

    /// The follower, if it follows the session that there is.
    fn active_follower(&self) -> Option<&Follower> {
        let joined = self.joined.as_ref()?;
        self.follower.as_ref().filter(|follower| follower.joined == *joined)
    }

    /// A client that slept for longer than its lease has no session any more:
    /// what waits in its socket is old, and must not look like a verdict.
    fn wake(&mut self, now: Time) {
        let slept = now.since(self.last_driven);
        self.last_driven = now;
        if self.joined.is_some_and(|joined| slept > joined.lease) {
            self.rejoin(now, Duration::ZERO);
        }
    }

    fn knock<T: ReplicaLeaves>(
        &mut self,
        now: Time,
        header: &Header,
        datagram: &Datagram<'_>,
        tree: Option<&mut T>,
    ) {
        match self.joiner.handle(now, header, datagram, &mut self.outbox) {
            JoinOutcome::Ignored => self.counters.dropped_unexpected += 1,
            JoinOutcome::Progress => {}
            // One that was in before comes back when there is room.
            JoinOutcome::Failed(error) if self.counters.joins > 0 && error.may_pass() => {
                self.joiner.restart(now, RETRY_FULL, &mut *self.random);
            }
            JoinOutcome::Failed(error) => self.fail(error),
            JoinOutcome::Joined(joined) => self.enter(now, joined, tree),
        }
    }

    /// A session is open: go on with the copy, or get the layout first.
    fn enter<T: ReplicaLeaves>(&mut self, now: Time, joined: Joined, mut tree: Option<&mut T>) {
        self.counters.joins += 1;
        self.joined = Some(joined);
        self.ear = Ear::CLOSED;
        self.last_heard = now;
        self.pull = None;
        let held_layout = self.config.held.map(|held| held.layout_hash);
        let has_layout = match &tree {
            Some(tree) => tree.layout_hash() == joined.layout_hash,
            None => held_layout == Some(joined.layout_hash),
        };
        match (&mut self.follower, &mut tree) {
            (Some(follower), Some(tree)) if has_layout => follower.rejoin(joined, *tree, now),
            _ if has_layout => {}
            _ => self.pull = Some(LayoutPull::new(&joined, now)),
        }
        self.events.push_back(ClientEvent::Joined(joined));
        self.advance(now, tree);
    }

    fn take_bye<T: ReplicaLeaves>(
        &mut self,
        now: Time,
        header: &Header,
        reason: Option<ByeReason>,
        tree: Option<&mut T>,
    ) {
        match self.joined {
            Some(joined) if joined.session_id == header.channel.get() => {
                let delay = match reason {
                    Some(ByeReason::Rejoin) => Duration::ZERO,
                    _ => Duration::from_millis(200),
                };
                self.rejoin(now, delay);
            }
            _ => self.knock(now, header, &Datagram::Bye(reason), tree),
        }
    }

    fn take<T: ReplicaLeaves>(
        &mut self,
        now: Time,
        header: &Header,
        datagram: Datagram<'_>,
        tree: Option<&mut T>,
    ) {
        let Some(joined) = self.joined else {
            self.counters.dropped_foreign += 1;
            return;
        };
        // Everybody in a view knows its id, but only the server and its client know
        // the session's.
        let channel = match datagram {
            Datagram::Event(_) | Datagram::Tick(_) => joined.view_id,
            _ => joined.session_id,
        };
        if joined.tree_id.0 != header.tree_id.get() || channel != header.channel.get() {
            self.counters.dropped_foreign += 1;
            return;
        }
        if joined.life.0 != header.life.get() || joined.layout_hash.0 != header.layout_hash.get() {
            // The goodbye that told of the new life or layout was lost.
            self.counters.dropped_foreign += 1;
            self.rejoin(now, Duration::ZERO);
            return;
        }
        self.last_heard = now;
        self.dispatch(now, &joined, header, datagram, tree);
    }

    fn dispatch<T: ReplicaLeaves>(
        &mut self,
        now: Time,
        joined: &Joined,
        header: &Header,
        datagram: Datagram<'_>,
        tree: Option<&mut T>,
    ) {
        if let Datagram::Layout(body, piece) = datagram {
            let pull = self.pull.as_mut();
            let taken = pull.and_then(|pull| pull.take(now, joined, body, piece, &mut self.outbox));
            match taken {
                Some(Ok(blob)) => {
                    self.pull = None;
                    self.layout_blob = blob;
                    self.events.push_back(ClientEvent::Layout);
                }
                Some(Err(error)) => self.fail(error),
                None => {}
            }
            return;
        }
        let follower = self.follower.as_mut().filter(|follower| follower.joined == *joined);
        let (Some(follower), Some(tree)) = (follower, tree) else {
            self.counters.dropped_unexpected += 1;
            return;
        };
        let mut desk = Desk {
            now,
            random: &mut *self.random,
            outbox: &mut self.outbox,
            counters: &mut self.counters,
            ear: &mut self.ear,
        };
        match datagram {
            Datagram::Event(leaves) => follower.handle_event(&mut desk, header, leaves, tree),
            Datagram::Tick(_) => follower.handle_tick(&mut desk, header, tree),
            Datagram::Response(body, leaves) => {
                follower.handle_response(&mut desk, header, body, leaves, tree);
            }
            _ => desk.counters.dropped_unexpected += 1,
        }
        let verdict = follower.conclude(&mut desk, tree);
        self.tell(now, verdict);
    }

    /// Makes the REQUESTs that are due, and tells a change of the verdict.
    fn advance<T: ReplicaLeaves>(&mut self, now: Time, tree: Option<&mut T>) {
        let Some(joined) = self.joined else {
            self.set_in_sync(false);
            return;
        };
        let follower = self.follower.as_mut().filter(|follower| follower.joined == joined);
        let Some((follower, tree)) = follower.zip(tree) else { return };
        let mut desk = Desk {
            now,
            random: &mut *self.random,
            outbox: &mut self.outbox,
            counters: &mut self.counters,
            ear: &mut self.ear,
        };
        let verdict = follower.conclude(&mut desk, tree);
        self.tell(now, verdict);
    }

    /// Tells a change of the verdict; without one the session is given up.
    fn tell(&mut self, now: Time, is_in_sync: Option<bool>) {
        match is_in_sync {
            Some(is_in_sync) => self.set_in_sync(is_in_sync),
            None => self.rejoin(now, Duration::ZERO),
        }
    }

    fn set_in_sync(&mut self, is_in_sync: bool) {
        if self.was_in_sync != is_in_sync {
            self.was_in_sync = is_in_sync;
            self.events.push_back(if is_in_sync {
                ClientEvent::InSync
            } else {
                ClientEvent::OutOfSync
            });
        }
    }

    fn rejoin(&mut self, now: Time, delay: Duration) {
        self.counters.rejoins += 1;
        self.joined = None;
        self.ear = Ear::CLOSED;
        self.pull = None;
        if let Some(follower) = &mut self.follower {
            follower.pause();
        }
        self.joiner.restart(now, delay, &mut *self.random);
        self.set_in_sync(false);
        self.events.push_back(ClientEvent::Rejoining);
    }

    fn fail(&mut self, error: JoinError) {
        self.joiner.stop();
        self.joined = None;
        self.set_in_sync(false);
        self.events.push_back(ClientEvent::Refused(error));
    }
}

/// Whether a datagram is of the session's tree, life, layout and view.
fn is_of_view(joined: &Joined, header: &Header) -> bool {
    joined.tree_id.0 == header.tree_id.get()
        && joined.view_id == header.channel.get()
        && joined.life.0 == header.life.get()
        && joined.layout_hash.0 == header.layout_hash.get()
}

/// Silence counts when it is longer than its limit, so it is looked at just after.
const TICK: Duration = Duration::from_micros(1);
