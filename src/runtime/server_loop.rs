//! The serving side of a loop: a protocol server, its socket and its clock.
//!
//! A server's loop has one, and so has a relay's, over the tree that its other side
//! fills. Datagrams are taken before time is: a process that was stopped for a while
//! reads what came meanwhile before it lets a lease run out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tracing::debug;
use tracing::info;

use crate::layout::Parent;
use crate::layout::ParentId;
use crate::layout::leaf_wire_len;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::layout::limits::DATAGRAM_SIZE_MAX;
use crate::layout::limits::DATAGRAM_SIZE_MIN;
use crate::layout::limits::RESPONSE_BODY_LEN;
use crate::net::Offload;
use crate::net::RecvBatch;
use crate::net::SocketOptions;
use crate::net::UdpSocket;
use crate::runtime::adapter::TreeLeaves;
use crate::runtime::buffers;
use crate::runtime::buffers::Asked;
use crate::runtime::clock::Clock;
use crate::runtime::clock::OsRandom;
use crate::runtime::clock::STRIDE;
use crate::runtime::clock::Turn;
use crate::runtime::clock::cookie_mac;
use crate::runtime::control::Stop;
use crate::runtime::error::LoopError;
use crate::runtime::metrics::Counters;
use crate::runtime::options::Multicast;
use crate::runtime::options::ReloadableConfig;
use crate::runtime::options::SEND_BUFFER;
use crate::runtime::options::Transport;
use crate::runtime::outlet::Outlet;
use crate::runtime::outlet::OutletParts;
use crate::runtime::outlet::trace_in;
use crate::runtime::poll::Poller;
use crate::runtime::poll::Source;
use crate::sync::CommitId;
use crate::sync::PeriodEnd;
use crate::sync::Reports;
use crate::sync::Role;
use crate::sync::ServedLeaves;
use crate::sync::Server;
use crate::sync::ServerConfig;
use crate::sync::ServerEvent;
use crate::sync::SourceState;
use crate::sync::Time;
use crate::tree::Layout;

/// Names under which the two kinds of server count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    server: &'static str,
    outlet: OutletParts,
}

/// A server that owns its tree.
pub(super) const SERVER: Parts = Parts {
    server: "server",
    outlet: OutletParts { socket: "socket", ring: "ring", arena: "arena" },
};

/// The serving side of a mirror.
pub(super) const RELAY: Parts = Parts {
    server: "relay",
    outlet: OutletParts { socket: "relay_socket", ring: "relay_ring", arena: "relay_arena" },
};

/// A period of no length ends when the input is drained. Where it never is, one ends
/// after this: a tenth of what people notice, and time for a thousand REPORTs.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// A period waits so often for [`INTERVAL_MIN`] at most while the threads that send are
/// behind. Its changes are conflated meanwhile, which is better than to drop them; but
/// a machine that has no time for them at all still hears of the period.
const LATE_MAX: u32 = 100;

/// Where and how a server listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listen {
    pub(super) address: SocketAddr,
    pub(super) datagram_size: usize,
    pub(super) transport: Transport,
    pub(super) ring_size: usize,
    pub(super) burst: usize,
    pub(super) receive_buffer: usize,
    pub(super) multicast: Option<Multicast>,
    pub(super) zerocopy: Offload,
}

impl Listen {
    /// Binds a socket, if those who reach it are meant to.
    pub(super) fn bind(&self, config: &ReloadableConfig) -> Result<Outlet, LoopError> {
        self.admits(config)?;
        let Listen { address, datagram_size: found, .. } = *self;
        let (min, max) = (DATAGRAM_SIZE_MIN, DATAGRAM_SIZE_MAX);
        if !(min..=max).contains(&found) {
            return Err(LoopError::DatagramRange { min, max, found });
        }
        let options = SocketOptions {
            receive_buffer: self.receive_buffer,
            send_buffer: SEND_BUFFER,
            zerocopy: self.zerocopy,
            ..SocketOptions::default()
        };
        let mut socket = UdpSocket::bind(address, &options)
            .map_err(|source| LoopError::Bind { address, source })?;
        let asked = Asked { receive: options.receive_buffer, send: options.send_buffer };
        buffers::check("the server's socket", &socket, asked);
        self.transport.apply(&mut socket)?;
        if let Some(multicast) = self.multicast {
            let Multicast { group, interface, hops } = multicast;
            let reach = match group.ip().is_multicast() && group.is_ipv4() == address.is_ipv4() {
                true => socket.reach_groups(interface, hops),
                false => Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "wanted a multicast address of the family of the server's, such as 239.1.2.3",
                )),
            };
            reach.map_err(|source| LoopError::Group { group, source })?;
        }
        let group = self.multicast.map(|multicast| multicast.group);
        Outlet::of_server(socket, self.ring_size, self.burst, group)
            .map_err(LoopError::system("map the event ring"))
    }

    /// Checks that those who reach the address are meant to.
    pub(super) fn admits(&self, config: &ReloadableConfig) -> Result<(), LoopError> {
        let address = self.address;
        if !address.ip().is_loopback() && config.allowed.is_empty() {
            return Err(LoopError::Exposed { address });
        }
        Ok(())
    }
}

/// Datagrams that the receive buffer of a socket may hold at most: joined ones share
/// what the kernel books beside their bytes, and none of ours is shorter than a
/// header; of shorter ones the kernel books more.
pub(super) fn buffered_max(socket: &UdpSocket) -> usize {
    socket.receive_buffer_len().unwrap_or(0) / DATAGRAM_HEADER_LEN
}

/// Checks that the largest leaf of every parent fits a RESPONSE.
pub(super) fn check_capacities(layout: &Layout, datagram_size: usize) -> Result<(), LoopError> {
    let needed = |row: &Parent| {
        let heads = DATAGRAM_HEADER_LEN + RESPONSE_BODY_LEN;
        heads + leaf_wire_len(row.capacity.get() as usize)
    };
    let largest = layout.owners().max_by_key(|row| row.capacity.get());
    match largest.filter(|row| needed(row) > datagram_size) {
        None => Ok(()),
        Some(row) => Err(LoopError::DatagramSize {
            parent: layout.parent_path(ParentId(row.parent_id.get())).unwrap_or_default(),
            capacity: row.capacity.get(),
            datagram_size,
            needed: needed(row),
        }),
    }
}

/// A protocol server with its socket.
pub(super) struct ServingSide {
    server: Server,
    outlet: Outlet,
    batch: RecvBatch,
    live: Arc<ArcSwap<ReloadableConfig>>,
    clock: Clock,
    parts: Parts,
    reports: Reports,
    datagram_size: usize,
    period: Duration,
    /// Time in which the slices of a period leave.
    spread: Duration,
    next_tick: Time,
    /// Times that the period under way was put off.
    late: u32,
    last_source: SourceState,
    /// Datagrams that the receive buffer may hold: after so many, all that lay in it
    /// when a turn began has been read.
    buffered_max: usize,
}

impl ServingSide {
    /// A server of `tree` on a socket that was bound.
    pub(super) fn new(
        outlet: Outlet,
        live: Arc<ArcSwap<ReloadableConfig>>,
        kind: (Parts, Reports),
        datagram_size: usize,
        clock: Clock,
        (end, tree): (PeriodEnd, &mut TreeLeaves),
    ) -> Result<ServingSide, LoopError> {
        let (parts, reports) = kind;
        let random = OsRandom::new().map_err(LoopError::system("draw random numbers"))?;
        let config = ServerConfig {
            group: outlet.group,
            ..server_config(&live.load(), datagram_size, reports)
        };
        let (period, spread) = (config.period, spread(&config));
        let server = Server::new(config, Box::new(random), clock.now(), end, tree);
        Ok(ServingSide {
            server,
            buffered_max: buffered_max(&outlet.socket),
            outlet,
            batch: RecvBatch::default(),
            live,
            next_tick: clock.now(),
            late: 0,
            last_source: end.source,
            clock,
            parts,
            reports,
            datagram_size,
            period,
            spread,
        })
    }

    /// The address that it listens on.
    pub(super) fn address(&self) -> Result<SocketAddr, LoopError> {
        self.outlet.socket.local_addr().map_err(LoopError::system("name the socket"))
    }

    /// Largest datagram that it sends.
    pub(super) fn datagram_size(&self) -> usize {
        self.datagram_size
    }

    /// Lets a poll watch the socket.
    pub(super) fn register(&self, poller: &mut Poller) -> Result<Source, LoopError> {
        poller.add(&self.outlet.socket).map_err(LoopError::system("watch the socket"))
    }

    /// When the next turn is due though no datagram comes.
    pub(super) fn deadline(&self) -> Time {
        let timeout = self.server.poll_timeout();
        let tick = (!self.period.is_zero() || self.late > 0).then_some(self.next_tick);
        // Neither is there while nobody listens and ticks are made by changes.
        let slice = self.outlet.next_due();
        timeout.into_iter().chain(tick).chain(slice).min().unwrap_or(Time(u64::MAX))
    }

    /// Takes what came, ends a period if it is time, and looks at the clock. `end`
    /// says how far the tree is.
    pub(super) fn turn(
        &mut self,
        poller: &mut Poller,
        source: Source,
        turn: Turn,
        end: impl Fn(&TreeLeaves) -> PeriodEnd,
        tree: &mut TreeLeaves,
    ) {
        let mut read = 0;
        while poller.is_ready(source) && read <= self.buffered_max {
            let count = self.receive(tree);
            read += count;
            if count == 0 || self.batch.emptied_queue() {
                poller.drained(source);
                break;
            }
            self.tick(end(tree), tree);
        }
        self.tick(end(tree), tree);
        self.tick_on_change(end(tree), tree);
        self.server.handle_timeout(turn.time_of_timers(self.clock));
        self.drain(tree);
        self.outlet.flush();
    }

    /// Ends a period if it is time.
    pub(super) fn tick(&mut self, end: PeriodEnd, tree: &mut TreeLeaves) {
        let now = self.clock.now();
        self.outlet.send_due(now);
        if now < self.next_tick {
            return;
        }
        if self.puts_off(now) {
            return;
        }
        self.next_tick = next_end(self.next_tick, now, self.period);
        if !self.period.is_zero() || self.has_news(end, tree) {
            self.end_period(now, end, tree);
        }
    }

    /// Counts leaves that were written past the protocol.
    pub(super) fn note_writes(&mut self, count: u64) {
        self.server.note_writes(count);
    }

    /// Ends a period of no length if a commit has stored something: nothing may come
    /// that would begin another turn.
    pub(super) fn tell_news(&mut self, end: PeriodEnd, tree: &mut TreeLeaves) {
        self.tick_on_change(end, tree);
        self.outlet.flush();
    }

    /// Acknowledges what this commit and those before it made durable.
    pub(super) fn committed(&mut self, commit: CommitId, tree: &TreeLeaves) {
        self.server.handle_committed(commit);
        self.drain(tree);
        self.outlet.flush();
    }

    /// Lets so many threads send the EVENTs. `waker` wakes the loop when one panics.
    pub(super) fn start_senders(
        &mut self,
        count: usize,
        ring_size: usize,
        waker: &Stop,
    ) -> Result<(), LoopError> {
        let started = self.outlet.start_senders(count, ring_size, waker);
        started.map_err(LoopError::system("start threads that send"))
    }

    /// # Errors
    /// A thread that sends has panicked.
    pub(super) fn check_senders(&self) -> Result<(), LoopError> {
        if self.outlet.has_panicked() { Err(LoopError::Sender) } else { Ok(()) }
    }

    /// Takes over the configuration that is in force now.
    pub(super) fn reconfigure(&mut self) {
        let config = server_config(&self.live.load(), self.datagram_size, self.reports);
        (self.period, self.spread) = (config.period, spread(&config));
        self.next_tick = self.clock.now();
        self.server.set_config(config);
    }

    /// Sends every client to the door again: the tree has another life or layout.
    pub(super) fn rejoin_all(&mut self, end: PeriodEnd, tree: &mut TreeLeaves) {
        self.outlet.send_rest();
        self.last_source = end.source;
        self.server.rejoin_all(end, tree);
        self.drain(tree);
        self.outlet.flush();
    }

    /// Says goodbye to every client.
    pub(super) fn leave(&mut self, tree: &TreeLeaves) {
        self.outlet.send_rest();
        self.server.leave();
        self.drain(tree);
        self.outlet.flush();
    }

    /// Adds what the server and its socket count.
    pub(super) fn count(&self, counters: &mut Counters) {
        counters.add(self.parts.server, self.server.counters().entries());
        let sessions = self.server.session_count() as u64;
        let help = "Sessions that are open, or half open.";
        counters.add_level(self.parts.server, "sessions", help, sessions);
        self.outlet.count(self.parts.outlet, counters);
    }

    /// Takes one batch of datagrams and says how many came.
    fn receive(&mut self, tree: &mut TreeLeaves) -> usize {
        // An unconnected socket tells no errors of peers; what else fails (no memory)
        // is tried again when the next datagram comes.
        let count = self.outlet.socket.receive(&mut self.batch).unwrap_or(0);
        let mut now = self.clock.now();
        for (index, (from, datagram)) in self.batch.iter().enumerate() {
            if index % STRIDE == STRIDE - 1 {
                now = self.clock.now();
                self.outlet.flush();
            }
            trace_in(from, datagram);
            self.server.handle_datagram(now, from, datagram, tree);
            send_all(&mut self.server, &mut self.outlet, tree);
        }
        self.outlet.flush();
        self.log_events();
        count
    }

    /// The input is drained: periods of no length end now.
    fn tick_on_change(&mut self, end: PeriodEnd, tree: &mut TreeLeaves) {
        if self.period.is_zero() && self.has_news(end, tree) {
            let now = self.clock.now();
            if !self.puts_off(now) {
                self.end_period(now, end, tree);
            }
        }
    }

    /// Puts the end of the period off if the threads that send are behind.
    fn puts_off(&mut self, now: Time) -> bool {
        if self.late < LATE_MAX && self.outlet.puts_off() {
            self.late += 1;
            self.next_tick = now.after(INTERVAL_MIN);
            return true;
        }
        self.late = 0;
        false
    }

    fn has_news(&self, end: PeriodEnd, tree: &TreeLeaves) -> bool {
        tree.has_changes() || end.source != self.last_source
    }

    fn end_period(&mut self, now: Time, end: PeriodEnd, tree: &mut TreeLeaves) {
        self.last_source = end.source;
        self.outlet.begin_period(now, self.spread);
        self.server.handle_changes(now, end, tree);
        self.drain(tree);
    }

    fn drain(&mut self, tree: &TreeLeaves) {
        send_all(&mut self.server, &mut self.outlet, tree);
        self.log_events();
    }

    fn log_events(&mut self) {
        while let Some(event) = self.server.poll_event() {
            match event {
                ServerEvent::Joined { address, role: Role::Replica } => {
                    info!("{address} joined as a replica");
                }
                ServerEvent::Joined { address, role: Role::Device } => {
                    debug!("{address} joined as a device");
                }
                ServerEvent::Left { address } => debug!("{address} left"),
                ServerEvent::Expired { address } => {
                    info!("{address} was not heard of for its lease and is dropped");
                }
                ServerEvent::Refused { address, reason } => {
                    debug!("{address} was refused: {reason:?}");
                }
            }
        }
    }
}

/// Sends what the server planned, before its tree may change.
fn send_all(server: &mut Server, outlet: &mut Outlet, tree: &TreeLeaves) {
    while let Some(transmit) = server.poll_transmit() {
        outlet.send(transmit, tree);
    }
}

/// When the period ends that follows one which was to end at `due`. On a grid, so that
/// periods do not drift; one that was missed is left out.
fn next_end(due: Time, now: Time, period: Duration) -> Time {
    let interval = if period.is_zero() { INTERVAL_MIN } else { period };
    let next = due.after(interval);
    if next > now { next } else { now.after(interval) }
}

/// Half a period, as a change waits for its end that long at the mean; and half a
/// heartbeat, as a TICK sends the rest at once.
fn spread(config: &ServerConfig) -> Duration {
    config.period.min(config.heartbeat) / 2
}

fn server_config(live: &ReloadableConfig, datagram_size: usize, reports: Reports) -> ServerConfig {
    ServerConfig {
        datagram_size,
        period: live.period,
        heartbeat: live.heartbeat,
        lease: live.lease,
        sessions_max: live.sessions_max,
        views_max: live.views_max,
        request_rate: live.request_rate,
        reports,
        allowed: live.allowed.clone(),
        ..ServerConfig::new(cookie_mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_capacity_decides_about_the_datagram_size() {
        let text = "[[parent]]\nname = \"small\"\nleaves = 2\ncapacity = 64\n\
                    [[parent]]\nname = \"large\"\nleaves = 1\ncapacity = 1096\n";
        let layout = Layout::from_toml(text).unwrap();
        assert!(check_capacities(&layout, 1_200).is_ok(), "80 + 24 + 1,096");
        let layout = Layout::from_toml(&text.replace("1096", "1097")).unwrap();
        match check_capacities(&layout, 1_200) {
            Err(LoopError::DatagramSize { parent, capacity: 1_097, needed: 1_208, .. }) => {
                assert_eq!(parent, "/large");
            }
            other => panic!("{other:?}"),
        }
        assert!(check_capacities(&layout, 1_208).is_ok());
    }

    #[test]
    fn periods_of_any_length_end_on_a_grid() {
        let (ms, us) = (Duration::from_millis, Duration::from_micros);
        let due = Time(5_000_000_000);
        for period in [us(50), us(250), ms(1), ms(100)] {
            assert_eq!(next_end(due, due, period), due.after(period));
            assert_eq!(next_end(due, due.after(period / 2), period), due.after(period), "late");
            let missed = due.after(period * 3 / 2);
            assert_eq!(next_end(due, missed, period), missed.after(period), "left out");
        }
        assert_eq!(next_end(due, due, Duration::ZERO), due.after(INTERVAL_MIN));
    }

    #[test]
    fn an_address_that_others_reach_needs_prefixes() {
        let listen = Listen {
            address: "0.0.0.0:0".parse().unwrap(),
            datagram_size: 1_200,
            transport: Transport::Udp,
            ring_size: 0,
            burst: 0,
            receive_buffer: 0,
            multicast: None,
            zerocopy: Offload::Off,
        };
        let mut config = ReloadableConfig::default();
        assert!(matches!(listen.bind(&config), Err(LoopError::Exposed { .. })));
        config.allowed.push("127.0.0.0/8".parse().unwrap());
        assert!(listen.bind(&config).is_ok());
        let small = Listen { datagram_size: 1_199, ..listen };
        assert!(matches!(small.bind(&config), Err(LoopError::DatagramRange { .. })));
    }

    #[test]
    fn a_port_that_is_taken_is_told() {
        let config = ReloadableConfig::default();
        let mut listen = Listen {
            address: "127.0.0.1:0".parse().unwrap(),
            datagram_size: 1_200,
            transport: Transport::Udp,
            ring_size: 0,
            burst: 0,
            receive_buffer: 0,
            multicast: None,
            zerocopy: Offload::Off,
        };
        let first = listen.bind(&config).unwrap();
        listen.address = first.socket.local_addr().unwrap();
        let error = listen.bind(&config).unwrap_err();
        assert!(error.to_string().contains("the port is taken"), "{error}");
    }
}
