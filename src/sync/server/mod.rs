//! The server's side of the protocol.

mod answer;
mod commit;
mod config;
mod door;
mod period;

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::collections::VecDeque;

use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::CHANGES_ROOM;
use crate::layout::DataLocId;
use crate::layout::Revision;
use crate::sync::budget::TokenBucket;
use crate::sync::cookie::CookieJar;
use crate::sync::counters::ServerCounters;
use crate::sync::join::Role;
use crate::sync::leaves::Leaves;
use crate::sync::leaves::ServedLeaves;
use crate::sync::outbox::Destination;
use crate::sync::outbox::Outbox;
use crate::sync::outbox::Queued;
use crate::sync::server::answer::Asked;
use crate::sync::server::commit::HeldAcks;
use crate::sync::session::Delivery;
use crate::sync::session::Session;
use crate::sync::time::RandomSource;
use crate::sync::time::Time;
use crate::sync::transmit::Recipients;
use crate::sync::transmit::Transmit;
use crate::sync::view::View;
use crate::wire;
use crate::wire::ByeReason;
use crate::wire::Datagram;
use crate::wire::DatagramType;
use crate::wire::DecodeError;
use crate::wire::Flags;
use crate::wire::Header;
use crate::wire::PROTOCOL_VERSION;

pub(crate) use commit::Reported;
pub use config::PeriodEnd;
pub use config::Reports;
pub use config::ServerConfig;
pub use config::SourceState;

/// Leases and half-open sessions are looked through this often, so that a client
/// that is gone gets nothing for longer than its lease and this.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// What happened, for logs and tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// A session was opened.
    Joined {
        /// Its client.
        address: SocketAddr,
        /// What the client is.
        role: Role,
    },
    /// A client said goodbye.
    Left {
        /// The client.
        address: SocketAddr,
    },
    /// A lease ran out.
    Expired {
        /// The client.
        address: SocketAddr,
    },
    /// A client was refused.
    Refused {
        /// The client.
        address: SocketAddr,
        /// Why.
        reason: ByeReason,
    },
}

/// A server without sockets: see the module's contract.
pub struct Server {
    config: ServerConfig,
    random: Box<dyn RandomSource + Send>,
    cookies: CookieJar,
    door_budget: TokenBucket,
    sessions: BTreeMap<SocketAddr, Session>,
    /// Sessions that wait for the client's first datagram, oldest first.
    half_open: VecDeque<(SocketAddr, Session)>,
    views: Vec<Option<View>>,
    identity: Identity,
    /// The end of the last period.
    end: PeriodEnd,
    next_sweep: Time,
    changed: Vec<DataLocId>,
    writes_in_period: u64,
    held: HeldAcks,
    outbox: Outbox,
    events: VecDeque<ServerEvent>,
    counters: ServerCounters,
}

/// What every header says about the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    tree_id: U64,
    life: U32,
    layout_hash: U32,
}

impl Identity {
    fn of(tree: &impl Leaves) -> Identity {
        Identity {
            tree_id: U64::new(tree.tree_id().0),
            life: U32::new(tree.life().0),
            layout_hash: U32::new(tree.layout_hash().0),
        }
    }

    fn matches(&self, header: &Header) -> bool {
        self.tree_id == header.tree_id
            && self.life == header.life
            && self.layout_hash == header.layout_hash
    }
}

/// Events for the driver are few; a driver that does not ask loses the oldest.
const EVENTS_MAX: usize = 1024;

impl Server {
    /// A server of `tree` without clients.
    ///
    /// ChangeFlags that an earlier run left set are cleared: no client of this
    /// run is owed their EVENT, each of them asks for what it lacks.
    pub fn new(
        config: ServerConfig,
        mut random: Box<dyn RandomSource + Send>,
        now: Time,
        end: PeriodEnd,
        tree: &mut impl ServedLeaves,
    ) -> Server {
        let cookies = CookieJar::new(config.mac, &mut *random, now);
        let room = tree.leaf_count().min(CHANGES_ROOM) as usize;
        let mut changed = Vec::with_capacity(room);
        tree.take_changes(&mut changed);
        Server {
            door_budget: TokenBucket::new(config.door_rate, config.door_rate, now),
            cookies,
            random,
            sessions: BTreeMap::new(),
            half_open: VecDeque::with_capacity(config.half_open_max + 1),
            views: Vec::new(),
            identity: Identity::of(tree),
            end,
            next_sweep: now.after(SWEEP_INTERVAL),
            changed,
            writes_in_period: 0,
            held: HeldAcks::default(),
            outbox: Outbox::with_room(usize::from(config.credit_max), room),
            events: VecDeque::with_capacity(EVENTS_MAX),
            counters: ServerCounters::default(),
            config,
        }
    }

    /// Takes over new settings; sessions go on. The datagram size and the
    /// half-open pool stay as they were: clients were told the one, the other is
    /// allocated. So does the group, which clients were told as well.
    pub fn set_config(&mut self, config: ServerConfig) {
        let datagram_size = self.config.datagram_size;
        let half_open_max = self.config.half_open_max;
        let group = self.config.group;
        self.config = ServerConfig { datagram_size, half_open_max, group, ..config };
    }

    /// Takes one datagram.
    pub fn handle_datagram(
        &mut self,
        now: Time,
        from: SocketAddr,
        bytes: &[u8],
        tree: &mut impl ServedLeaves,
    ) {
        self.counters.datagrams_in += 1;
        match wire::decode(bytes) {
            Err(DecodeError::Version { hello: true, .. }) => self.refuse_version(from, bytes),
            Err(_) => self.counters.dropped_malformed += 1,
            Ok((header, Datagram::Hello)) => self.greet(now, from, header),
            Ok((header, Datagram::Init(init))) => self.open(now, from, header, init, tree),
            Ok((header, datagram)) => self.serve(now, from, header, datagram, tree),
        }
    }

    /// Ends a period: takes the changes and plans the EVENTs that bring them to
    /// every view (claim 13).
    pub fn handle_changes(&mut self, now: Time, end: PeriodEnd, tree: &mut impl ServedLeaves) {
        let mut changed = core::mem::take(&mut self.changed);
        changed.clear();
        tree.take_changes(&mut changed);
        self.counters.periods += 1;
        self.counters.leaves_changed += changed.len() as u64;
        self.counters.conflated += self.writes_in_period.saturating_sub(changed.len() as u64);
        self.writes_in_period = 0;
        let turned = self.end.source != end.source;
        self.end = end;
        for index in 0..self.views.len() {
            self.close_period(now, index, &changed, turned, tree);
        }
        self.changed = changed;
    }

    /// Counts leaves that the driver stored itself since the period began (its own, and
    /// those of a commit), so that those that a newer one of the period replaced count as
    /// conflated.
    pub fn note_writes(&mut self, count: u64) {
        self.writes_in_period += count;
    }

    /// Ends what has run out of time and sends heartbeats.
    pub fn handle_timeout(&mut self, now: Time) {
        self.cookies.turn(&mut *self.random, now);
        if now >= self.next_sweep {
            self.next_sweep = now.after(SWEEP_INTERVAL);
            self.sweep(now);
        }
        for index in 0..self.views.len() {
            let due = self.views[index]
                .as_ref()
                .is_some_and(|view| now >= view.last_close.after(self.config.heartbeat));
            if due {
                self.tick(now, index);
            }
        }
    }

    /// Sends every client back to the door: the tree has a new life or layout.
    pub fn rejoin_all(&mut self, end: PeriodEnd, tree: &mut impl ServedLeaves) {
        self.bye_all(ByeReason::Rejoin);
        self.identity = Identity::of(tree);
        self.end = end;
        self.changed.clear();
        tree.take_changes(&mut self.changed);
    }

    /// Says goodbye to every client.
    pub fn leave(&mut self) {
        self.bye_all(ByeReason::Leaving);
    }

    /// The next thing to send. Leaves have to be laid out before the tree changes.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        let queued = self.outbox.pop()?;
        let outbox = &self.outbox;
        Some(match queued {
            Queued::Datagram { to, bytes } => {
                Transmit::Datagram { to: recipients(&self.views, to), bytes: &outbox.bytes[bytes] }
            }
            Queued::Leaves { to, packets, segment } => Transmit::Leaves {
                to: recipients(&self.views, to),
                packets: &outbox.packets[packets],
                leaves: &outbox.leaves,
                segment,
            },
        })
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// When `handle_timeout` is due. Periods are the driver's.
    pub fn poll_timeout(&self) -> Option<Time> {
        let heartbeat = self.config.heartbeat;
        let views = self.views.iter().flatten().map(|view| view.last_close.after(heartbeat));
        let has_sessions = self.session_count() > 0;
        views.chain(has_sessions.then_some(self.next_sweep)).min()
    }

    /// What was counted.
    pub fn counters(&self) -> &ServerCounters {
        &self.counters
    }

    /// Sessions that there are, half-open ones included.
    pub fn session_count(&self) -> usize {
        self.sessions.len() + self.half_open.len()
    }

    fn bye_all(&mut self, reason: ByeReason) {
        let sessions = core::mem::take(&mut self.sessions);
        for (address, session) in &sessions {
            self.bye(*address, session.id, reason, 0);
        }
        self.half_open.clear();
        self.views.clear();
    }

    // Sessions.

    fn serve(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: &Header,
        datagram: Datagram<'_>,
        tree: &mut impl ServedLeaves,
    ) {
        if !self.renew(now, from, header) {
            return;
        }
        match datagram {
            Datagram::Ready => {}
            Datagram::LayoutRequest(request) => {
                self.answer_layout(now, from, request.offset.get(), request.credit.get(), tree);
            }
            Datagram::Request(request, question) => {
                let asked = Asked {
                    id: request.request_id.get(),
                    first: request.first_leaf.get(),
                    count: request.leaf_count.get(),
                    credit: request.credit.get(),
                    since: Revision(header.watermark.get()),
                    question,
                };
                self.redirect(from, Delivery::asked(Flags(header.flags.get())));
                self.answer_request(now, from, &asked, tree);
            }
            Datagram::Report(leaves) => self.take_report(from, header, leaves, tree),
            Datagram::Bye(_) => {
                self.remove(from);
                self.counters.sessions_left += 1;
                self.happened(ServerEvent::Left { address: from });
            }
            _ => self.counters.dropped_unexpected += 1,
        }
    }

    /// Finds the session that a datagram belongs to and renews its lease. What
    /// belongs to none is not answered: an answer would amplify.
    fn renew(&mut self, now: Time, from: SocketAddr, header: &Header) -> bool {
        let id = header.channel.get();
        let is_open = self.sessions.get(&from).is_some_and(|session| session.id == id);
        let half_open =
            self.half_open.iter().position(|(other, session)| *other == from && session.id == id);
        if !is_open && half_open.is_none() {
            self.counters.dropped_no_session += 1;
            return false;
        }
        if !self.identity.matches(header) {
            self.counters.dropped_foreign += 1;
            return false;
        }
        if let Some((_, session)) = half_open.and_then(|index| self.half_open.remove(index)) {
            if self.is_full_for(from) {
                self.leave_view(session.view, None);
                self.refuse_full(from, id);
                return false;
            }
            self.confirm(from, session);
        }
        if let Some(session) = self.sessions.get_mut(&from) {
            session.expires = now.after(self.config.lease);
        }
        true
    }

    /// Whether there is no room for a session of this address. It is asked when a
    /// client comes in and again when it confirms: several may have come in
    /// for the last place.
    fn is_full_for(&self, address: SocketAddr) -> bool {
        self.sessions.len() >= self.config.sessions_max && !self.sessions.contains_key(&address)
    }

    /// Opens a session whose client has shown that it knows its id.
    fn confirm(&mut self, from: SocketAddr, session: Session) {
        self.remove(from);
        if let Some(view) = session.view.and_then(|index| self.views[index].as_mut()) {
            view.addresses.push(from);
        }
        self.counters.sessions_opened += 1;
        self.happened(ServerEvent::Joined { address: from, role: session.role });
        self.sessions.insert(from, session);
    }

    fn remove(&mut self, address: SocketAddr) {
        // The group loses its listener before the session is gone.
        self.redirect(address, Delivery::Own);
        if let Some(session) = self.sessions.remove(&address) {
            self.leave_view(session.view, Some(address));
        }
    }

    /// Lets the EVENTs of a client's view go by the ways that it asks for.
    fn redirect(&mut self, address: SocketAddr, wanted: Delivery) {
        let (Some(group), Some(session)) = (self.config.group, self.sessions.get_mut(&address))
        else {
            return;
        };
        let view = session.view.and_then(|index| self.views[index].as_mut());
        let Some(view) = view.filter(|view| view.is_whole()) else { return };
        let change = (core::mem::replace(&mut session.delivery, wanted), wanted);
        view.redirect(address, group, change);
        self.counters.group_joined +=
            u64::from(change.0 != Delivery::Group && change.1 == Delivery::Group);
        self.counters.group_left +=
            u64::from(change.0 == Delivery::Group && change.1 != Delivery::Group);
    }

    /// Takes one member out of a view; a view without members ends.
    fn leave_view(&mut self, view: Option<usize>, address: Option<SocketAddr>) {
        let Some(index) = view else { return };
        let Some(view) = self.views[index].as_mut() else { return };
        if let Some(address) = address {
            view.leave(address);
        }
        view.members -= 1;
        if view.members == 0 {
            self.views[index] = None;
        }
    }

    fn sweep(&mut self, now: Time) {
        while self.half_open.front().is_some_and(|(_, session)| session.expires <= now) {
            self.counters.half_open_dropped += 1;
            self.drop_half_open(0);
        }
        while let Some(address) = self
            .sessions
            .iter()
            .find_map(|(address, session)| (session.expires <= now).then_some(*address))
        {
            self.remove(address);
            self.counters.sessions_expired += 1;
            self.happened(ServerEvent::Expired { address });
        }
    }

    // Small helpers.

    /// A header with what is the same in all of them.
    fn header(&self, datagram_type: DatagramType, channel: u64) -> Header {
        let source = match self.end.source {
            SourceState::InSync => Flags::SOURCE_IN_SYNC,
            SourceState::Behind => 0,
        };
        Header {
            datagram_type: datagram_type.code(),
            version: PROTOCOL_VERSION,
            tree_id: self.identity.tree_id,
            life: self.identity.life,
            layout_hash: self.identity.layout_hash,
            channel: U64::new(channel),
            watermark: U64::new(self.end.watermark.0),
            flags: U16::new(source),
            ..Header::default()
        }
    }

    fn happened(&mut self, event: ServerEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

fn recipients(views: &[Option<View>], to: Destination) -> Recipients<'_> {
    match to {
        Destination::Peer => Recipients::Peer,
        Destination::One(address) => Recipients::One(address),
        Destination::View(index) => {
            let view = views.get(index).and_then(Option::as_ref);
            Recipients::All(view.map_or(&[], |view| &view.addresses))
        }
    }
}

/// The number, or the largest u32: fields on the wire say "at least this".
fn clamp(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}
