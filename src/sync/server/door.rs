//! The server's door: cookies, sessions opened, clients refused.

use core::net::SocketAddr;
use core::time::Duration;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::CHANGES_ROOM;
use crate::sync::budget::TokenBucket;
use crate::sync::cookie::Cookie;
use crate::sync::join::Role;
use crate::sync::leaves::ServedLeaves;
use crate::sync::outbox::Destination;
use crate::sync::prefix::is_allowed;
use crate::sync::server::Reported;
use crate::sync::server::Reports;
use crate::sync::server::Server;
use crate::sync::server::ServerEvent;
use crate::sync::server::clamp;
use crate::sync::session::Delivery;
use crate::sync::session::Session;
use crate::sync::time::Time;
use crate::sync::view::Selection;
use crate::sync::view::View;
use crate::wire::ByeReason;
use crate::wire::DatagramType;
use crate::wire::GroupBody;
use crate::wire::Header;
use crate::wire::InitBody;
use crate::wire::PROTOCOL_VERSION;
use crate::wire::WelcomeBody;

/// A half-open session is kept for this long: READY follows in a round trip.
const HALF_OPEN_LIVES: Duration = Duration::from_secs(5);

impl Server {
    pub(super) fn greet(&mut self, now: Time, from: SocketAddr, header: &Header) {
        if !is_allowed(from.ip(), &self.config.allowed) {
            self.counters.dropped_not_allowed += 1;
            return;
        }
        let nonce = header.channel.get();
        let cookie = self.cookies.issue(now, from, nonce);
        self.counters.cookies += 1;
        let answer = Header {
            event_num: U64::new(cookie.time_ms),
            watermark: U64::new(cookie.mac[0]),
            digest: U64::new(cookie.mac[1]),
            ..self.header(DatagramType::Cookie, nonce)
        };
        self.outbox.datagram(Destination::One(from), &answer, &(), &[], 0);
    }

    pub(super) fn open(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: &Header,
        init: &InitBody,
        tree: &impl ServedLeaves,
    ) {
        let nonce = header.channel.get();
        let cookie = Cookie {
            time_ms: init.cookie_time.get(),
            mac: [init.cookie_mac[0].get(), init.cookie_mac[1].get()],
        };
        if !is_allowed(from.ip(), &self.config.allowed) {
            self.counters.dropped_not_allowed += 1;
        } else if !self.cookies.accepts(now, from, nonce, cookie) {
            self.counters.dropped_cookie += 1;
        } else if !self.door_budget.take_one(now) {
            self.counters.dropped_door_budget += 1;
        } else {
            match self.admit(now, from, nonce, init, tree) {
                Ok(()) => self.welcome(from, nonce, tree),
                Err((reason, detail)) => self.refuse(from, nonce, reason, detail),
            }
        }
    }

    /// Finds or makes the session of a client that has proven its address. A
    /// session that the address has already goes on until the new one is confirmed:
    /// an old INIT that comes again must not end it.
    fn admit(
        &mut self,
        now: Time,
        from: SocketAddr,
        nonce: u64,
        init: &InitBody,
        tree: &impl ServedLeaves,
    ) -> Result<(), (ByeReason, u32)> {
        if self.session_of(from, nonce).is_some() {
            return Ok(());
        }
        if init.level != 0 {
            return Err((ByeReason::Level, 0));
        }
        let role = Role::from_code(init.role).unwrap_or(Role::Replica);
        if role == Role::Device && self.config.reports == Reports::Refuse {
            return Err((ByeReason::NoReports, 0));
        }
        if self.is_full_for(from) {
            return Err((ByeReason::SessionsFull, clamp(self.config.sessions_max)));
        }
        let view = match role {
            Role::Device => None,
            Role::Replica => Some(self.view_for(now, init, tree)?),
        };
        if let Some(index) = self.half_open.iter().position(|(other, _)| *other == from) {
            self.drop_half_open(index);
        }
        if self.half_open.len() >= self.config.half_open_max {
            self.counters.half_open_dropped += 1;
            self.drop_half_open(0);
        }
        let session = Session {
            id: self.random.id(),
            nonce,
            role,
            view,
            expires: now.after(HALF_OPEN_LIVES),
            budget: TokenBucket::new(self.config.request_rate, self.config.request_burst, now),
            reported: Reported::new(),
            delivery: Delivery::Own,
        };
        self.half_open.push_back((from, session));
        Ok(())
    }

    /// The session of an address, half-open or open, that was made for a nonce.
    fn session_of(&self, from: SocketAddr, nonce: u64) -> Option<&Session> {
        let half_open = self.half_open.iter().find(|(other, _)| *other == from);
        let half_open = half_open.map(|(_, session)| session);
        half_open.into_iter().chain(self.sessions.get(&from)).find(|one| one.nonce == nonce)
    }

    pub(super) fn drop_half_open(&mut self, index: usize) {
        if let Some((_, session)) = self.half_open.remove(index) {
            self.leave_view(session.view, None);
        }
    }

    /// The view of the client's filter, with one member more.
    fn view_for(
        &mut self,
        now: Time,
        init: &InitBody,
        tree: &impl ServedLeaves,
    ) -> Result<usize, (ByeReason, u32)> {
        let selection = init
            .filter_path()
            .and_then(|path| Selection::at(path, tree))
            .ok_or((ByeReason::UnknownParent, 0))?;
        let same = |view: &Option<View>| {
            view.as_ref().is_some_and(|view| view.selection.root == selection.root)
        };
        let index = match self.views.iter().position(same) {
            Some(index) => index,
            None => self.new_view(now, selection, tree)?,
        };
        let view = self.views[index].as_mut().ok_or((ByeReason::ViewsFull, 0))?;
        view.members += 1;
        Ok(index)
    }

    fn new_view(
        &mut self,
        now: Time,
        selection: Selection,
        tree: &impl ServedLeaves,
    ) -> Result<usize, (ByeReason, u32)> {
        if self.views.iter().flatten().count() >= self.config.views_max {
            return Err((ByeReason::ViewsFull, clamp(self.config.views_max)));
        }
        // The digest is that of the last period's end only if nothing changed
        // since; otherwise the next end brings it.
        let view = View {
            id: self.random.id(),
            digest: (!tree.has_changes()).then(|| selection.digest(tree)),
            selection,
            event_num: 0,
            last_close: now,
            members: 0,
            addresses: Vec::new(),
            listeners: 0,
        };
        let free = self.views.iter().position(Option::is_none);
        let index = free.unwrap_or(self.views.len());
        if free.is_none() {
            self.views.push(None);
        }
        self.views[index] = Some(view);
        // The EVENTs of a period may carry every leaf of every view.
        let wanted = self.views.iter().flatten().map(|view| view.selection.leaf_count());
        let most = wanted.fold(0, u32::saturating_add).min(CHANGES_ROOM);
        self.outbox.leaves.reserve(most as usize);
        Ok(index)
    }

    fn welcome(&mut self, to: SocketAddr, nonce: u64, tree: &impl ServedLeaves) {
        let Some(session) = self.session_of(to, nonce) else { return };
        let view = session.view.and_then(|index| self.views[index].as_ref());
        let body = WelcomeBody {
            nonce: U64::new(session.nonce),
            view_id: U64::new(view.map_or(0, |view| view.id)),
            life_start: U64::new(tree.life_start().0),
            period_us: U32::new(clamp(self.config.period.as_micros())),
            heartbeat_ms: U32::new(clamp(self.config.heartbeat.as_millis())),
            lease_ms: U32::new(clamp(self.config.lease.as_millis())),
            datagram_size: U32::new(clamp(self.config.datagram_size)),
            leaf_count: U32::new(tree.leaf_count()),
            layout_len: U32::new(clamp(tree.layout_blob().len())),
            credit_max: U32::new(u32::from(self.config.credit_max)),
            level: 0,
            reserved: [0; 3],
        };
        let header = Header {
            event_num: U64::new(view.map_or(0, |view| view.event_num)),
            watermark: U64::new(self.end.watermark.0),
            ..self.header(DatagramType::Welcome, session.id)
        };
        let group = self.config.group.filter(|_| view.is_some_and(View::is_whole));
        let group = group.map(GroupBody::new);
        let tail = group.as_ref().map_or(&[][..], IntoBytes::as_bytes);
        self.outbox.datagram(Destination::One(to), &header, &body, tail, 0);
    }

    pub(super) fn refuse_version(&mut self, from: SocketAddr, bytes: &[u8]) {
        if !is_allowed(from.ip(), &self.config.allowed) {
            self.counters.dropped_not_allowed += 1;
            return;
        }
        // Every version keeps the version and the nonce of a HELLO in their place.
        // The answer carries the client's own version: it reads no other.
        let Some(hello) = bytes.first_chunk::<32>() else { return };
        let nonce = u64::from_le_bytes(hello[24..].try_into().unwrap_or_default());
        self.counters.refused += 1;
        let reason = ByeReason::Version;
        self.happened(ServerEvent::Refused { address: from, reason });
        let header = Header {
            version: hello[3],
            flags: U16::new(reason.code()),
            detail: U32::new(u32::from(PROTOCOL_VERSION)),
            ..self.header(DatagramType::Bye, nonce)
        };
        self.outbox.datagram(Destination::One(from), &header, &(), &[], 0);
    }

    /// Tells a client that its session found no room.
    pub(super) fn refuse_full(&mut self, to: SocketAddr, channel: u64) {
        let limit = clamp(self.config.sessions_max);
        self.refuse(to, channel, ByeReason::SessionsFull, limit);
    }

    fn refuse(&mut self, to: SocketAddr, channel: u64, reason: ByeReason, detail: u32) {
        self.counters.refused += 1;
        self.happened(ServerEvent::Refused { address: to, reason });
        self.bye(to, channel, reason, detail);
    }

    pub(super) fn bye(&mut self, to: SocketAddr, channel: u64, reason: ByeReason, detail: u32) {
        let header = Header {
            flags: U16::new(reason.code()),
            detail: U32::new(detail),
            ..self.header(DatagramType::Bye, channel)
        };
        self.outbox.datagram(Destination::One(to), &header, &(), &[], 0);
    }
}
