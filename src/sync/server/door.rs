//! The server's door: cookies, sessions opened, clients refused.

use core::net::SocketAddr;
use core::time::Duration;

use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::sync::budget::TokenBucket;
use crate::sync::cookie::Cookie;
use crate::sync::join::Role;
use crate::sync::leaves::ServedLeaves;
use crate::sync::outbox::Destination;
use crate::sync::prefix::is_allowed;
use crate::sync::server::Reports;
use crate::sync::server::Server;
use crate::sync::server::ServerEvent;
use crate::sync::server::clamp;
use crate::sync::session::Session;
use crate::sync::session::Stage;
use crate::sync::time::Time;
use crate::sync::view::Selection;
use crate::sync::view::View;
use crate::wire::ByeReason;
use crate::wire::DatagramType;
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
                Ok(()) => self.welcome(from, tree),
                Err((reason, detail)) => self.refuse(from, nonce, reason, detail),
            }
        }
    }

    /// Finds or makes the session of a client that has proven its address.
    fn admit(
        &mut self,
        now: Time,
        from: SocketAddr,
        nonce: u64,
        init: &InitBody,
        tree: &impl ServedLeaves,
    ) -> Result<(), (ByeReason, u32)> {
        if self.sessions.get(&from).is_some_and(|session| session.nonce == nonce) {
            return Ok(());
        }
        if init.level != 0 {
            return Err((ByeReason::Level, 0));
        }
        let role = Role::from_code(init.role).unwrap_or(Role::Replica);
        if role == Role::Device && self.config.reports == Reports::Refuse {
            return Err((ByeReason::NoReports, 0));
        }
        self.remove(from);
        if self.sessions.len() >= self.config.sessions_max {
            return Err((ByeReason::SessionsFull, clamp(self.config.sessions_max)));
        }
        let view = match role {
            Role::Device => None,
            Role::Replica => Some(self.view_for(now, from, init, tree)?),
        };
        self.make_room_for_half_open();
        self.half_open.push_back(from);
        let session = Session {
            id: self.random.id(),
            nonce,
            role,
            stage: Stage::HalfOpen,
            view,
            expires: now.after(HALF_OPEN_LIVES),
            budget: TokenBucket::new(self.config.request_rate, self.config.request_burst, now),
            next_sequence: 1,
        };
        self.sessions.insert(from, session);
        Ok(())
    }

    fn make_room_for_half_open(&mut self) {
        while self.half_open.len() >= self.config.half_open_max {
            let Some(oldest) = self.half_open.pop_front() else { return };
            self.counters.half_open_dropped += 1;
            self.remove(oldest);
        }
    }

    /// The view of the client's filter, with the client in it.
    fn view_for(
        &mut self,
        now: Time,
        from: SocketAddr,
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
        view.addresses.push(from);
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
            addresses: Vec::new(),
        };
        let free = self.views.iter().position(Option::is_none);
        let index = free.unwrap_or(self.views.len());
        if free.is_none() {
            self.views.push(None);
        }
        self.views[index] = Some(view);
        Ok(index)
    }

    fn welcome(&mut self, to: SocketAddr, tree: &impl ServedLeaves) {
        let Some(session) = self.sessions.get(&to) else { return };
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
        self.outbox.datagram(Destination::One(to), &header, &body, &[], 0);
    }

    pub(super) fn refuse_version(&mut self, from: SocketAddr, bytes: &[u8]) {
        if !is_allowed(from.ip(), &self.config.allowed) {
            self.counters.dropped_not_allowed += 1;
            return;
        }
        // Every version keeps the nonce of a HELLO in the same place.
        let nonce =
            bytes.get(24..32).and_then(|at| at.try_into().ok()).map_or(0, u64::from_le_bytes);
        self.refuse(from, nonce, ByeReason::Version, u32::from(PROTOCOL_VERSION));
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
