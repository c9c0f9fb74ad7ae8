//! The mirror's loop: it keeps a replica of a server's tree, and may serve it on.
//!
//! Datagrams are taken before time is: a process that was stopped for a while reads
//! what came meanwhile before it believes its server to be gone.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;

use tracing::info;
use tracing::warn;

use crate::bridge::Coverage;
use crate::layout::Life;
use crate::layout::TreeId;
use crate::net::RecvBatch;
use crate::net::SocketOptions;
use crate::net::UdpSocket;
use crate::runtime::adapter::Following;
use crate::runtime::adapter::Noting;
use crate::runtime::buffers;
use crate::runtime::buffers::Asked;
use crate::runtime::clock::Clock;
use crate::runtime::clock::OsRandom;
use crate::runtime::clock::STRIDE;
use crate::runtime::clock::Turn;
use crate::runtime::control::Control;
use crate::runtime::error::LoopError;
use crate::runtime::error::MirrorError;
use crate::runtime::group::GroupSide;
use crate::runtime::journal::Journal;
use crate::runtime::keeper::Keeper;
use crate::runtime::lookout::Lookout;
use crate::runtime::metrics::Counters;
use crate::runtime::mirror_core::Core;
use crate::runtime::observer::Changes;
use crate::runtime::observer::MirrorObserver;
use crate::runtime::observer::MirrorStatus;
use crate::runtime::options::MirrorOptions;
use crate::runtime::options::SEND_BUFFER;
use crate::runtime::outlet::Outlet;
use crate::runtime::outlet::OutletParts;
use crate::runtime::outlet::trace_in;
use crate::runtime::poll::Poller;
use crate::runtime::poll::Source;
use crate::runtime::relay::Relay;
use crate::runtime::server_loop::buffered_max;
use crate::sync::Client;
use crate::sync::ClientConfig;
use crate::sync::Leaves;
use crate::sync::Time;
use crate::tree::Mark;

/// Progress is told ten times a second: a bar moves, and nobody notices the cost.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Progress is saved every second: what a crash costs is to ask again for what
/// changed since.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// Names under which a mirror's socket counts.
const PARTS: OutletParts = OutletParts { socket: "socket", ring: "ring", arena: "arena" };

/// Why a mirror ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorEnd {
    /// Its control asked for it.
    Stopped,
    /// It was in sync, as its options asked for.
    InSync,
    /// Its time was up.
    TimeUp,
    /// Its observer has seen enough.
    Observer,
}

/// What a mirror did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MirrorReport {
    /// Why it ended.
    pub end: MirrorEnd,
    /// Where it stood.
    pub status: MirrorStatus,
    /// The tree, if a session was ever opened.
    pub tree_id: Option<TreeId>,
    /// The life of its server.
    pub life: Life,
    /// Everything that was counted.
    pub counters: Counters,
}

/// Keeps a replica until the control, the options or the observer end it.
///
/// A server that cannot be reached is tried for ever, unless the options bound the
/// time to the first session. The replica's file is locked for as long as this runs,
/// and resumed from the next time.
///
/// # Errors
/// The file is not a replica of this server's tree or cannot follow its layout, the
/// server refuses, does not answer in the time that was given, (a relay) the address
/// is not to be had, or (later) the file was cut by somebody.
pub fn mirror(
    options: MirrorOptions,
    control: Control,
    observer: &mut dyn MirrorObserver,
) -> Result<MirrorReport, MirrorError> {
    if options.serve.is_some() && !is_whole(&options.filter) {
        return Err(MirrorError::RelayFilter { filter: options.filter });
    }
    let mut mirror = Mirror::new(options, &control, observer)?;
    let mut control = control;
    let outcome = mirror.turns(&mut control);
    mirror.finish(outcome)
}

/// A socket whose only peer is `server`.
pub(super) fn connected(server: SocketAddr, receive_buffer: usize) -> Result<UdpSocket, LoopError> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let (address, send_buffer) = (SocketAddr::new(any, 0), SEND_BUFFER);
    let options = SocketOptions { receive_buffer, send_buffer, ..SocketOptions::default() };
    let bind = || UdpSocket::bind(address, &options);
    let socket = with_port_of_its_own(server.port(), bind)
        .map_err(|source| LoopError::Bind { address, source })?;
    buffers::check(
        "the client's socket",
        &socket,
        Asked { receive: receive_buffer, send: send_buffer },
    );
    let to_server = |source| LoopError::Connect { address: server, source };
    socket.connect(server).map_err(to_server)?;
    Ok(socket)
}

/// A socket whose port is not the server's. The system may give that one where server and
/// client share a machine and the server is down: the client would hear itself, and the
/// server could not come back.
fn with_port_of_its_own(
    servers: u16,
    mut bind: impl FnMut() -> io::Result<UdpSocket>,
) -> io::Result<UdpSocket> {
    let first = bind()?;
    // The first is held until the second has another port.
    if first.local_addr()?.port() == servers { bind() } else { Ok(first) }
}

fn is_whole(filter: &str) -> bool {
    filter.is_empty() || filter == "/"
}

struct Mirror<'o> {
    clock: Clock,
    poller: Poller,
    source: Source,
    outlet: Outlet,
    batch: RecvBatch,
    buffered_max: usize,
    core: Core<'o>,
    group: GroupSide,
    relay: Option<Relay>,
    journal: Journal,
    lookout: Lookout,
    deadlines: Deadlines,
}

/// Moments that are not the protocol's.
struct Deadlines {
    started: Time,
    connect: Option<Time>,
    end: Option<Time>,
    progress: Time,
    save: Time,
}

impl<'o> Mirror<'o> {
    fn new(
        options: MirrorOptions,
        control: &Control,
        observer: &'o mut dyn MirrorObserver,
    ) -> Result<Mirror<'o>, MirrorError> {
        let how = following(&options, observer.changes());
        let keeper = Keeper::open(options.server, options.file, how)?;
        let relay = options.serve.map(Relay::bind).transpose()?;
        let mut socket = connected(options.server, options.receive_buffer)?;
        options.transport.apply(&mut socket)?;
        let system = LoopError::system;
        let receive_buffer = socket.receive_buffer_len().map_err(system("size the socket"))?;
        let random = OsRandom::new().map_err(system("draw random numbers"))?;
        let mut poller = Poller::new(options.waiting, control).map_err(system("make a poll"))?;
        let source = poller.add(&socket).map_err(system("watch the socket"))?;
        let config = ClientConfig {
            filter: options.filter,
            held: keeper.held_tree(),
            receive_buffer,
            audit_interval: options.audit_interval,
        };
        let clock = Clock::start();
        let now = clock.now();
        let client = Client::new(config, Box::new(random), now);
        Ok(Mirror {
            clock,
            poller,
            source,
            buffered_max: buffered_max(&socket),
            outlet: Outlet::of_client(socket),
            batch: RecvBatch::default(),
            core: Core::new(client, keeper, observer, how, options.until).with_loss(options.loss),
            group: GroupSide::new(options.group, options.server, options.receive_buffer),
            relay,
            journal: Journal::new(control, now),
            lookout: Lookout::new(now),
            deadlines: Deadlines {
                started: now,
                connect: options.connect_timeout.map(|timeout| now.after(timeout)),
                end: options.run_for.map(|time| now.after(time)),
                progress: now,
                save: now.after(SAVE_INTERVAL),
            },
        })
    }

    fn turns(&mut self, control: &mut Control) -> Result<MirrorEnd, MirrorError> {
        loop {
            self.reload(control);
            let turn = Turn::begin(self.clock, self.deadline());
            let waited = self.poller.wait(turn.timeout(), control);
            waited.map_err(LoopError::system("wait for datagrams"))?;
            self.receive()?;
            let now = self.clock.now();
            self.group.follow(now, &mut self.poller, &self.outlet, &mut self.core);
            self.core.handle_timeout(turn.time_of_timers(self.clock), &mut self.outlet)?;
            self.relay(Some(turn))?;
            self.look()?;
            self.core.tell_changes();
            self.keep();
            if let Some(end) = self.ended(control)? {
                return Ok(end);
            }
        }
    }

    /// Ends if the file is not what it was.
    fn look(&mut self) -> Result<(), LoopError> {
        let Some(leaves) = self.core.keeper.leaves() else { return Ok(()) };
        self.lookout.look(self.clock.now(), leaves.tree())
    }

    fn deadline(&self) -> Time {
        let Deadlines { connect, end, progress, save, .. } = &self.deadlines;
        let connect = connect.filter(|_| !self.core.was_joined);
        let fixed = [Some(*progress), Some(*save), *end, connect, self.core.client.poll_timeout()];
        let relay = self.relay.as_ref().map(Relay::deadline);
        // There is nothing to look at before there is a replica.
        let look = self.core.keeper.leaves().map(|_| self.lookout.deadline());
        let all = fixed.into_iter().chain([relay, look, Some(self.journal.deadline())]);
        all.flatten().min().unwrap_or(Time(u64::MAX))
    }

    /// Takes all that came, so far as it can have lain there when the turn began.
    fn receive(&mut self) -> Result<(), MirrorError> {
        let mut read = 0;
        self.receive_group()?;
        while self.poller.is_ready(self.source) && read <= self.buffered_max {
            match self.outlet.socket.receive(&mut self.batch) {
                Ok(count) => {
                    read += count;
                    self.take_batch()?;
                    if self.batch.emptied_queue() {
                        self.poller.drained(self.source);
                        break;
                    }
                }
                Err(_) => {
                    read += 1;
                    self.core.client.handle_unreachable(self.clock.now());
                    self.core.drain(self.clock.now(), &mut self.outlet)?;
                }
            }
            self.relay(None)?;
            self.receive_group()?;
        }
        Ok(())
    }

    fn receive_group(&mut self) -> Result<(), MirrorError> {
        let (clock, core) = (self.clock, &mut self.core);
        self.group.receive(|| clock.now(), &mut self.poller, &mut self.outlet, core)
    }

    fn take_batch(&mut self) -> Result<(), MirrorError> {
        let mut now = self.clock.now();
        for (index, (from, datagram)) in self.batch.iter().enumerate() {
            if index % STRIDE == STRIDE - 1 {
                now = self.clock.now();
            }
            trace_in(from, datagram);
            self.core.handle_datagram(now, datagram, &mut self.outlet)?;
        }
        Ok(())
    }

    /// Lets the relay go on, if there is one and it has something to serve: by a whole
    /// turn after the poll, by no more than a tick between two batches.
    fn relay(&mut self, turn: Option<Turn>) -> Result<(), MirrorError> {
        let Some(relay) = &mut self.relay else { return Ok(()) };
        let Some(datagram_size) = self.core.attached.map(|joined| joined.datagram_size) else {
            return Ok(());
        };
        let end = self.core.end_of_period();
        if let Some(leaves) = self.core.keeper.leaves_mut() {
            relay.follow(&mut self.poller, self.clock, datagram_size, (end, &mut *leaves))?;
            match turn {
                Some(turn) => relay.turn(&mut self.poller, turn, end, leaves),
                None => relay.tick(end, leaves),
            }
        }
        Ok(())
    }

    /// What is due now and then.
    fn keep(&mut self) {
        let now = self.clock.now();
        if now >= self.deadlines.progress {
            self.deadlines.progress = now.after(PROGRESS_INTERVAL);
            self.core.tell_progress();
        }
        if now >= self.deadlines.save {
            self.deadlines.save = now.after(SAVE_INTERVAL);
            self.core.save();
        }
        let (core, outlet, relay) = (&self.core, &self.outlet, self.relay.as_ref());
        let group = self.group.socket();
        self.journal.keep(now, |counters| count(core, outlet, group, relay, counters));
    }

    fn ended(&self, control: &Control) -> Result<Option<MirrorEnd>, MirrorError> {
        let now = self.clock.now();
        let Deadlines { started, connect, end, .. } = self.deadlines;
        if control.is_stopped() {
            return Ok(Some(MirrorEnd::Stopped));
        }
        if self.core.end.is_some() {
            return Ok(self.core.end);
        }
        if end.is_some_and(|end| now >= end) {
            return Ok(Some(MirrorEnd::TimeUp));
        }
        if !self.core.was_joined && connect.is_some_and(|connect| now >= connect) {
            let (server, waited) = (self.core.keeper.server(), now.since(started));
            return Err(MirrorError::Unreachable { server, waited });
        }
        Ok(None)
    }

    fn reload(&mut self, control: &mut Control) {
        let Some(config) = control.take_reload() else { return };
        let Some(relay) = &mut self.relay else {
            return info!("nothing of a mirror that does not serve is reloaded");
        };
        let taken = config.and_then(|config| relay.reconfigure(config).map_err(|e| e.to_string()));
        match taken {
            Ok(()) => info!("the configuration was read again"),
            Err(error) => warn!("the configuration stays as it is: {error}"),
        }
    }

    /// Says goodbye, saves, and closes the file, however the loop ended.
    fn finish(
        mut self,
        outcome: Result<MirrorEnd, MirrorError>,
    ) -> Result<MirrorReport, MirrorError> {
        let status = self.core.status();
        if let (Some(relay), Some(leaves)) = (&mut self.relay, self.core.keeper.leaves()) {
            relay.leave(leaves);
        }
        self.core.save();
        self.core.client.leave();
        // What happens to a session that is over interests nobody.
        let _ = self.core.drain(self.clock.now(), &mut self.outlet);
        let mut counters = Counters::default();
        let group = self.group.socket();
        count(&self.core, &self.outlet, group, self.relay.as_ref(), &mut counters);
        self.journal.end(&counters);
        let (tree_id, life) = match self.core.keeper.leaves() {
            Some(leaves) => (Some(leaves.tree_id()), leaves.life()),
            None => (None, Life(0)),
        };
        let closed = self.core.keeper.close();
        let end = outcome?;
        closed?;
        Ok(MirrorReport { end, status, tree_id, life, counters })
    }
}

fn following(options: &MirrorOptions, changes: Changes) -> Following {
    let relays = options.serve.is_some();
    let wanted = changes == Changes::Wanted;
    Following {
        mark: if relays || wanted { Mark::Changed } else { Mark::Quiet },
        noting: if relays && wanted { Noting::On } else { Noting::Off },
        coverage: if is_whole(&options.filter) { Coverage::Whole } else { Coverage::Part },
    }
}

fn count(
    core: &Core<'_>,
    outlet: &Outlet,
    group: Option<&UdpSocket>,
    relay: Option<&Relay>,
    counters: &mut Counters,
) {
    counters.add("client", core.client.counters().entries());
    let status = core.status();
    let levels = [
        ("in_sync", "1 while the copy is known to equal the server's tree.", status.in_sync.into()),
        ("held_leaves", "Leaves held as the server had them last.", status.held_leaves.into()),
        ("wanted_leaves", "Leaves wanted.", status.wanted_leaves.into()),
    ];
    for (name, help, value) in levels {
        counters.add_level("client", name, help, value);
    }
    outlet.count(PARTS, counters);
    if let Some(group) = group {
        counters.add_socket("group_socket", &group.counters());
    }
    if let Some(relay) = relay {
        relay.count(counters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_not_the_port_of_a_server_that_is_down() {
        let bind = |port| {
            let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
            UdpSocket::bind(address, &SocketOptions::default())
        };
        let server = bind(0).unwrap().local_addr().unwrap().port();
        // The system gives the port that nobody holds, then, as it is held, another.
        let mut ports = [server, 0].into_iter();
        let socket = with_port_of_its_own(server, || bind(ports.next().unwrap())).unwrap();
        assert_ne!(socket.local_addr().unwrap().port(), server);
        assert_eq!(ports.next(), None);
        // It is the server's again.
        assert!(bind(server).is_ok());
    }
}
