//! The way out of a loop: plans of the protocol become datagrams on a socket.
//!
//! Datagrams of leaves are laid out once and sent to all who get them straight
//! from there: EVENTs in the event ring, RESPONSEs in an arena of the same kind.
//! Small finished datagrams are gathered until the end of a batch; those to one
//! address, of one length, leave as segments of one message.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use tracing::Level;
use tracing::trace;
use zerocopy::FromBytes;

use crate::layout::DataLocId;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::layout::limits::DATAGRAM_SIZE_MAX;
use crate::net::Destinations;
use crate::net::Lent;
use crate::net::MESSAGE_LEN_MAX;
use crate::net::Segments;
use crate::net::Support;
use crate::net::UdpSocket;
use crate::runtime::control::Stop;
use crate::runtime::metrics::Counters;
use crate::runtime::options::ARENA_SIZE;
use crate::runtime::pacing::Pacing;
use crate::runtime::pacing::Way;
use crate::runtime::ring::Batch;
use crate::runtime::ring::EventRing;
use crate::runtime::ring::Lender;
use crate::runtime::ring::RingCounters;
use crate::runtime::senders::OwnWay;
use crate::runtime::senders::Senders;
use crate::sync::Recipients;
use crate::sync::Time;
use crate::sync::Transmit;
use crate::wire::Header;
use crate::wire::LeafSource;
use crate::wire::Pretty;

/// Gathered bytes at which a server sends them without waiting for the end of a batch.
const SERVER_GATHERS: usize = 256 << 10;

/// The same of a client: what it gathers goes to one address, and fills one message.
const CLIENT_GATHERS: usize = MESSAGE_LEN_MAX;

/// Small datagrams to one peer, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    to: Option<SocketAddr>,
    bytes: Range<usize>,
    segment: usize,
}

/// Small datagrams that wait for the end of a batch.
#[derive(Debug)]
struct Gathered {
    bytes: Vec<u8>,
    runs: Vec<Run>,
    /// Bytes at which they wait no longer.
    max: usize,
}

impl Gathered {
    /// Room for all that may wait: a burst of ACKs or REQUESTs costs no allocation. Pages
    /// that are not needed are not touched.
    fn up_to(max: usize) -> Gathered {
        Gathered {
            bytes: Vec::with_capacity(max + DATAGRAM_SIZE_MAX),
            runs: Vec::with_capacity(max / DATAGRAM_HEADER_LEN + 1),
            max,
        }
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= self.max
    }

    fn push(&mut self, to: Option<SocketAddr>, datagram: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(datagram);
        let end = self.bytes.len();
        match self.runs.last_mut() {
            Some(run) if run.to == to && takes(run, datagram.len()) => run.bytes.end = end,
            _ => self.runs.push(Run { to, bytes: start..end, segment: datagram.len().max(1) }),
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.runs.clear();
    }
}

/// All segments of a message are of one length but the last, which may be shorter.
fn takes(run: &Run, len: usize) -> bool {
    let whole = run.bytes.len().is_multiple_of(run.segment);
    whole && (1..=run.segment).contains(&len) && run.bytes.len() + len <= MESSAGE_LEN_MAX
}

/// The source of those who send no leaves of a tree.
pub(super) struct NoLeaves;

impl LeafSource for NoLeaves {
    fn copy_wire(&self, _: DataLocId, _: &mut [u8]) -> Option<usize> {
        None
    }
}

/// A socket with the memory that it sends from.
#[derive(Debug)]
pub(super) struct Outlet {
    /// The socket; receiving goes past the outlet.
    pub(super) socket: UdpSocket,
    /// EVENTs and RESPONSEs; nothing on the side of a client, which sends no leaves
    /// of a tree.
    memory: Option<Memory>,
    gathered: Gathered,
    /// The multicast group that the socket is prepared to send to.
    pub(super) group: Option<SocketAddr>,
}

#[derive(Debug)]
struct Memory {
    events: Events,
    arena: EventRing,
    pacing: Pacing,
}

/// How EVENTs leave.
#[derive(Debug)]
enum Events {
    /// The loop sends them itself.
    Own(EventRing),
    /// It does, from memory that the kernel reads afterwards as well.
    Lent(EventRing),
    /// Threads of their own do.
    Handed(Box<Senders>),
}

impl Outlet {
    /// The way out of a client or device.
    pub(super) fn of_client(socket: UdpSocket) -> Outlet {
        Outlet { socket, memory: None, gathered: Gathered::up_to(CLIENT_GATHERS), group: None }
    }

    /// The way out of a server.
    ///
    /// # Errors
    /// There is no memory for the ring.
    pub(super) fn of_server(
        socket: UdpSocket,
        ring_size: usize,
        burst: usize,
        group: Option<SocketAddr>,
    ) -> io::Result<Outlet> {
        let events = match socket.capabilities().zerocopy {
            Support::Available => Events::Lent(EventRing::of_lender(ring_size)?),
            _ => Events::Own(EventRing::new(ring_size)?),
        };
        let arena = EventRing::new(ARENA_SIZE)?;
        let memory = Some(Memory { events, arena, pacing: Pacing::new(burst) });
        Ok(Outlet { socket, memory, gathered: Gathered::up_to(SERVER_GATHERS), group })
    }

    /// Lets so many threads send the EVENTs of a server, from a ring of their own.
    ///
    /// # Errors
    /// There is no memory, no descriptor, or no thread to be had.
    pub(super) fn start_senders(
        &mut self,
        count: usize,
        ring_size: usize,
        waker: &Stop,
    ) -> io::Result<()> {
        let memory = self.memory.as_mut().expect("only a server has senders");
        let senders = Senders::start(&self.socket, count, ring_size, self.group, waker)?;
        memory.events = Events::Handed(Box::new(senders));
        Ok(())
    }

    /// Whether a thread that sends has panicked.
    pub(super) fn has_panicked(&self) -> bool {
        self.senders().is_some_and(Senders::has_panicked)
    }

    /// Whether the threads that send are so far behind that a period should wait. It
    /// does then, and is counted.
    pub(super) fn puts_off(&mut self) -> bool {
        match &mut self.memory {
            Some(Memory { events: Events::Handed(senders), .. }) => senders.puts_off(),
            _ => false,
        }
    }

    /// What is sent from now on belongs to a period that ended at `now`, and may take this
    /// long where it is more than a burst.
    pub(super) fn begin_period(&mut self, now: Time, time: Duration) {
        self.send_rest();
        self.memory.iter_mut().for_each(|memory| memory.pacing.begin(now, time));
    }

    /// Sends the slices of a period that are due.
    pub(super) fn send_due(&mut self, now: Time) {
        if let Some((pacing, way)) = self.waiting() {
            pacing.send_due(now, way);
        }
    }

    /// Sends all slices of a period that wait.
    pub(super) fn send_rest(&mut self) {
        if let Some((pacing, way)) = self.waiting() {
            pacing.send_rest(way);
        }
    }

    /// When the next slice is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.memory.as_ref().and_then(|memory| memory.pacing.next_due())
    }

    /// The slices that wait, if there are any, with their way out.
    fn waiting(&mut self) -> Option<(&mut Pacing, Way<'_>)> {
        let memory = self.memory.as_mut().filter(|memory| !memory.pacing.is_idle())?;
        let Memory { events, arena, pacing } = memory;
        Some((pacing, events.way(&mut self.socket, arena)))
    }

    fn senders(&self) -> Option<&Senders> {
        match &self.memory {
            Some(Memory { events: Events::Handed(senders), .. }) => Some(senders),
            _ => None,
        }
    }

    /// Takes one plan: small datagrams wait for [`Outlet::flush`], all others are sent.
    ///
    /// A datagram that finds no room, or whose address fails, is lost and counted.
    pub(super) fn send(&mut self, transmit: Transmit<'_>, source: &impl LeafSource) {
        match transmit {
            Transmit::Datagram { to: Recipients::Peer, bytes } => self.gather(None, bytes),
            Transmit::Datagram { to: Recipients::One(to), bytes } => self.gather(Some(to), bytes),
            Transmit::Datagram { to: Recipients::All(to), bytes } => self.send_shared(to, bytes),
            Transmit::Leaves { to, packets, leaves, segment } => {
                self.send_leaves(to, Batch { packets, leaves, segment }, source);
            }
        }
    }

    /// Sends what was gathered.
    pub(super) fn flush(&mut self) {
        if self.gathered.runs.is_empty() {
            return;
        }
        let Gathered { bytes, runs, .. } = &self.gathered;
        let segments = |run: &Run| Segments::new(&bytes[run.bytes.clone()], run.segment);
        for run in runs.iter().filter(|run| run.to.is_none()) {
            self.socket.send_segments(Destinations::Connected, segments(run));
        }
        let addressed = runs.iter().filter_map(|run| Some((run.to?, segments(run))));
        if runs.iter().any(|run| run.to.is_some()) {
            self.socket.send_runs(addressed);
        }
        self.gathered.clear();
    }

    /// Adds what socket and ring count.
    pub(super) fn count(&self, parts: OutletParts, counters: &mut Counters) {
        let mut socket = self.socket.counters();
        if let Some(senders) = self.senders() {
            senders.add_sent(&mut socket);
            senders.count(counters);
        }
        counters.add_socket(parts.socket, &socket);
        if let Some(memory) = &self.memory {
            counters.add(parts.ring, memory.events.counters().entries());
            counters.add(parts.arena, memory.arena.counters().entries());
        }
    }

    fn gather(&mut self, to: Option<SocketAddr>, datagram: &[u8]) {
        trace_out(datagram);
        self.gathered.push(to, datagram);
        if self.gathered.is_full() {
            self.flush();
        }
    }

    fn send_shared(&mut self, to: &[SocketAddr], datagram: &[u8]) {
        trace_out(datagram);
        // It tells the number of the last EVENT.
        self.send_rest();
        if let Some(Memory { events: Events::Handed(senders), arena, .. }) = &mut self.memory {
            // Behind the EVENTs of its view: it tells their number.
            let view = Header::ref_from_prefix(datagram).map_or(0, |(head, _)| head.channel.get());
            let own = OwnWay { socket: &mut self.socket, arena };
            return senders.send_shared(view, to, datagram, own);
        }
        let segments = Segments::new(datagram, datagram.len().max(1));
        self.socket.send_segments(Destinations::Each(to), segments);
    }

    fn send_leaves(&mut self, to: Recipients<'_>, batch: Batch<'_>, source: &impl LeafSource) {
        let hears_group = self.group.is_some();
        // An answer speaks of the whole period: what came behind it would be taken for lost.
        if let Recipients::One(address) = to
            && let Some((pacing, way)) = self.waiting()
            && let Some(due) = pacing.due_for(address, hears_group)
        {
            return pacing.send_behind((address, due), batch, source, way);
        }
        let memory = self.memory.as_mut().expect("only a server sends leaves of a tree");
        if let Recipients::All(addresses) = to
            && memory.pacing.slices(&batch)
        {
            let way = memory.events.way(&mut self.socket, &mut memory.arena);
            return memory.pacing.send(addresses, batch, source, way);
        }
        let (ring, destinations) = match (&mut memory.events, to) {
            (Events::Handed(senders), Recipients::All(addresses)) => {
                let own = OwnWay { socket: &mut self.socket, arena: &mut memory.arena };
                return senders.send_shared_leaves(addresses, batch, source, own);
            }
            // A RESPONSE tells the number of the last EVENT: one that came before that
            // EVENT would be taken for the news of a loss.
            (Events::Handed(senders), Recipients::One(address))
                if !senders.is_idle_for(address) =>
            {
                let own = OwnWay { socket: &mut self.socket, arena: &mut memory.arena };
                return senders.send_leaves_to(address, batch, source, own);
            }
            (Events::Lent(ring), Recipients::All(addresses)) => {
                let to = Destinations::Each(addresses);
                let socket = &mut self.socket;
                let mut lender = ToAll { socket, to, segment: batch.segment };
                return ring.lay_out_to(batch, source, &mut lender);
            }
            (Events::Own(ring), Recipients::All(addresses)) => {
                (ring, Destinations::Each(addresses))
            }
            (_, Recipients::One(_) | Recipients::Peer) => (&mut memory.arena, destinations(&to)),
        };
        let socket = &mut self.socket;
        ring.lay_out(batch, source, |bytes| {
            bytes.chunks(batch.segment).for_each(trace_out);
            let segments = Segments::new(bytes, batch.segment);
            socket.send_segments(destinations, segments);
        });
    }
}

/// The way of a ring that lends to all clients of a view.
pub(super) struct ToAll<'a> {
    pub(super) socket: &'a mut UdpSocket,
    pub(super) to: Destinations<'a>,
    pub(super) segment: usize,
}

impl Lender for ToAll<'_> {
    fn lend(&mut self, bytes: &[u8]) -> Option<Lent> {
        bytes.chunks(self.segment).for_each(trace_out);
        self.socket.lend_segments(self.to, Segments::new(bytes, self.segment)).1
    }

    fn copy(&mut self, bytes: &[u8]) {
        bytes.chunks(self.segment).for_each(trace_out);
        self.socket.send_segments(self.to, Segments::new(bytes, self.segment));
    }

    fn reclaim(&mut self) {
        self.socket.reclaim();
    }

    fn is_over(&self, lent: Lent) -> bool {
        self.socket.is_over(lent)
    }
}

impl Events {
    /// The way of what leaves in slices.
    fn way<'a>(&'a mut self, socket: &'a mut UdpSocket, arena: &'a mut EventRing) -> Way<'a> {
        match self {
            Events::Own(ring) | Events::Lent(ring) => Way::Ring { ring, socket },
            Events::Handed(senders) => Way::Senders { senders, own: OwnWay { socket, arena } },
        }
    }

    fn counters(&self) -> &RingCounters {
        match self {
            Events::Own(ring) | Events::Lent(ring) => ring.counters(),
            Events::Handed(senders) => senders.ring(),
        }
    }
}

fn destinations<'a>(to: &'a Recipients<'_>) -> Destinations<'a> {
    to.addresses().map_or(Destinations::Connected, Destinations::Each)
}

/// Names under which an outlet counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutletParts {
    pub(super) socket: &'static str,
    pub(super) ring: &'static str,
    pub(super) arena: &'static str,
}

/// One line a datagram, for those who ask for it.
pub(super) fn trace_out(datagram: &[u8]) {
    if tracing::enabled!(Level::TRACE) {
        trace!("out {}", Pretty(datagram));
    }
}

/// One line a datagram, for those who ask for it.
pub(super) fn trace_in(from: SocketAddr, datagram: &[u8]) {
    if tracing::enabled!(Level::TRACE) {
        trace!("in from {from}: {}", Pretty(datagram));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::SocketOptions;

    fn address(port: u16) -> Option<SocketAddr> {
        Some(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[test]
    fn equal_datagrams_to_one_address_are_one_run() {
        let mut gathered = Gathered::up_to(SERVER_GATHERS);
        for (port, len) in [(1, 64), (1, 64), (2, 64), (1, 64), (1, 40), (1, 40), (1, 50)] {
            gathered.push(address(port), &vec![0; len]);
        }
        let found: Vec<_> =
            gathered.runs.iter().map(|run| (run.to, run.bytes.len(), run.segment)).collect();
        let expected = [(1, 128, 64), (2, 64, 64), (1, 104, 64), (1, 40, 40), (1, 50, 50)];
        assert_eq!(found, expected.map(|(port, len, segment)| (address(port), len, segment)));
    }

    #[test]
    fn a_run_is_no_longer_than_a_message() {
        let mut gathered = Gathered::up_to(SERVER_GATHERS);
        (0..60).for_each(|_| gathered.push(None, &[7; 1_200]));
        let lens: Vec<_> = gathered.runs.iter().map(|run| run.bytes.len()).collect();
        assert_eq!(lens, [54 * 1_200, 6 * 1_200]);
    }
    #[test]
    fn whatever_a_client_gathers_finds_room() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = UdpSocket::bind(any, &SocketOptions::default()).unwrap();
        let mut gathered = Outlet::of_client(socket).gathered;
        let room = |gathered: &Gathered| (gathered.bytes.capacity(), gathered.runs.capacity());
        let at_start = room(&gathered);
        // Each longer than the one before is a run of its own.
        for first in [DATAGRAM_HEADER_LEN, DATAGRAM_SIZE_MAX] {
            let mut lens = (first..=DATAGRAM_SIZE_MAX).cycle();
            while !gathered.is_full() {
                gathered.push(None, &vec![0; lens.next().unwrap()]);
            }
            assert_eq!(room(&gathered), at_start);
            gathered.clear();
        }
    }
}
