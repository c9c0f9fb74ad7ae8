//! Threads that send what the loop has laid out.
//!
//! The loop copies changed leaves into parts of memory, each as long as one message
//! for the kernel, and hands them over (`handover`); so many threads send them, each
//! through a handle of the loop's own socket: nothing arrives anywhere else, nobody
//! else can bind the port, and the kernel takes no lock between senders.
//!
//! An address belongs to one thread for as long as the server runs, so what goes to
//! one client leaves in the order in which it was planned. The threads find no part
//! free: what was to be laid out is dropped and counted, a loss like any other. Nobody
//! waits for anybody.
//!
//! What goes to a multicast group the loop sends itself, from the same part, before it
//! hands that over. So it has left when anything is planned that speaks of it, and a
//! client may change between the group and an address of its own without a loss: the
//! lanes are never ahead of the group. Threads that are behind cost the group nothing.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::TryLockError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use memmap2::MmapMut;
use memmap2::MmapOptions;

use crate::net;
use crate::net::Destinations;
use crate::net::Segments;
use crate::net::UdpSocket;
use crate::runtime::control::Stop;
use crate::runtime::handover::Handover;
use crate::runtime::handover::Lanes;
use crate::runtime::handover::Taken;
use crate::runtime::handover::Taker;
use crate::runtime::lists::InGroup;
use crate::runtime::lists::List;
use crate::runtime::lists::Lists;
use crate::runtime::lists::lane_of;
use crate::runtime::metrics::Counters;
use crate::runtime::order::Builder;
use crate::runtime::order::JoinHandle;
use crate::runtime::outlet::trace_out;
use crate::runtime::ring::Batch;
use crate::runtime::ring::EventRing;
use crate::runtime::ring::RingCounters;
use crate::runtime::ring::lay_out_piece;
use crate::wire::LeafSource;

/// Length of a part: as much as one message of segments holds, or one datagram of any
/// size (65,507 bytes).
pub(super) const PART_LEN: usize = 64 << 10;

/// Fewest parts: one is laid out while others are sent, and a period of 300,000 bytes
/// finds room behind one that is still on its way.
const PARTS_MIN: usize = 16;

/// To whom a part goes.
#[derive(Clone, Debug)]
enum To {
    One(SocketAddr),
    List(Arc<List>),
}

/// Finished datagrams on their way.
#[derive(Debug)]
struct Part {
    memory: MmapMut,
    used: usize,
    segment: usize,
    to: To,
}

impl Part {
    fn new() -> io::Result<Part> {
        let memory = MmapOptions::new().len(PART_LEN).populate().map_anon()?;
        let nobody = Arc::new(List::empty());
        Ok(Part { memory, used: 0, segment: 1, to: To::List(nobody) })
    }

    fn send(&self, lane: usize, socket: &mut UdpSocket) {
        let to = match &self.to {
            To::One(address) => std::slice::from_ref(address),
            To::List(list) => list.of_lane[lane].as_slice(),
        };
        self.send_to(to, socket);
    }

    fn send_to(&self, to: &[SocketAddr], socket: &mut UdpSocket) {
        let segments = Segments::new(&self.memory[..self.used], self.segment);
        socket.send_segments(Destinations::Each(to), segments);
    }
}

/// Who is sent something, and in which lanes they are.
#[derive(Clone)]
pub(super) struct Route {
    lanes: Lanes,
    count: usize,
    to: To,
    /// The group that the loop sends the same to.
    group: Option<SocketAddr>,
}

/// A part that is laid out and waits for its time.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    lanes: Lanes,
    group: Option<SocketAddr>,
}

/// What the loop itself sends with: to a group, and where no part is free from memory
/// of its own.
pub(super) struct OwnWay<'a> {
    pub(super) socket: &'a mut UdpSocket,
    pub(super) arena: &'a mut EventRing,
}

/// Sending threads, and the memory that they send from.
#[derive(Debug)]
pub(super) struct Senders {
    handover: Handover<Part>,
    /// Where each part goes that waits for its time.
    kept: Vec<Kept>,
    threads: Vec<JoinHandle<()>>,
    /// What each thread's handle of the socket counts.
    totals: Vec<Arc<Mutex<net::Counters>>>,
    /// What was read of them last.
    read: Vec<Cell<net::Counters>>,
    panicked: Arc<AtomicBool>,
    lists: Lists,
    group: Option<SocketAddr>,
    /// For each lane how many parts it had been handed when the last EVENTs were.
    shared_until: Vec<u64>,
    ring: RingCounters,
    dropped: u64,
    late: u64,
}

impl Senders {
    /// Starts `count` threads that send through handles of `socket`, from `ring_size`
    /// bytes of memory, all of it taken now. `group` is an address that the loop sends to
    /// itself. `waker` wakes it when a thread panics.
    ///
    /// # Errors
    /// There is no memory, no descriptor, or no thread to be had.
    pub(super) fn start(
        socket: &UdpSocket,
        count: usize,
        ring_size: usize,
        group: Option<SocketAddr>,
        waker: &Stop,
    ) -> io::Result<Senders> {
        let parts = (0..(ring_size / PART_LEN).max(PARTS_MIN)).map(|_| Part::new());
        let (handover, takers) = Handover::new(parts.collect::<io::Result<_>>()?, count);
        let mut senders = Senders {
            kept: vec![Kept::default(); handover.parts()],
            handover,
            threads: Vec::with_capacity(count),
            totals: (0..count).map(|_| Arc::default()).collect(),
            read: vec![Cell::default(); count],
            panicked: Arc::default(),
            lists: Lists::new(count, group),
            group,
            shared_until: vec![0; count],
            ring: RingCounters::default(),
            dropped: 0,
            late: 0,
        };
        // Whoever was started before one that was not to be had ends with `senders`.
        for taker in takers {
            senders.spawn(taker, socket.try_clone()?, waker.clone())?;
        }
        Ok(senders)
    }

    fn spawn(&mut self, taker: Taker<Part>, socket: UdpSocket, waker: Stop) -> io::Result<()> {
        let lane = taker.lane();
        let totals = Arc::clone(&self.totals[lane]);
        let alarm = Alarm { panicked: Arc::clone(&self.panicked), waker };
        let thread = Builder::new()
            .name(format!("mapleaf-send-{lane}"))
            .spawn(move || send_all(taker, socket, &totals, alarm))?;
        self.handover.attach(lane, thread.thread().clone());
        self.threads.push(thread);
        Ok(())
    }

    /// Whether a thread has panicked. It has said why.
    pub(super) fn has_panicked(&self) -> bool {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Whether the threads are so far behind that a period should wait: half of the
    /// parts are on their way. It is counted.
    pub(super) fn puts_off(&mut self) -> bool {
        let lags = self.handover.backlog() * 2 > self.handover.parts() as u64;
        self.late += u64::from(lags);
        lags
    }

    /// Whether everything that a client was to get with others of its view has left: who
    /// sends to it now does not overtake.
    pub(super) fn is_idle_for(&self, to: SocketAddr) -> bool {
        let lane = lane_of(to, self.handover.lanes());
        self.handover.is_done(lane, self.shared_until[lane])
    }

    /// The way to all clients of a view.
    pub(super) fn route_of(&mut self, view: u64, to: &[SocketAddr]) -> Route {
        let list = self.lists.of(view, to);
        let group = self.group.filter(|_| list.group == InGroup::Listened);
        Route { lanes: list.lanes, count: list.count, to: To::List(list), group }
    }

    /// The way to one client.
    pub(super) fn route_to(&self, to: SocketAddr) -> Route {
        let lanes = Lanes::one(lane_of(to, self.handover.lanes()));
        Route { lanes, count: 1, to: To::One(to), group: None }
    }

    /// Lays datagrams of leaves out for all clients of a view and has them sent.
    pub(super) fn send_shared_leaves(
        &mut self,
        to: &[SocketAddr],
        batch: Batch<'_>,
        source: &impl LeafSource,
        mut own: OwnWay<'_>,
    ) {
        let Some(view) = batch.view() else { return };
        let route = self.route_of(view, to);
        for piece in batch.pieces(PART_LEN) {
            self.send_piece(route.clone(), piece, source, &mut own);
        }
        self.note_shared();
    }

    /// Lays datagrams of leaves out for one client and has them sent behind what it was
    /// to get before.
    pub(super) fn send_leaves_to(
        &mut self,
        to: SocketAddr,
        batch: Batch<'_>,
        source: &impl LeafSource,
        mut own: OwnWay<'_>,
    ) {
        let route = self.route_to(to);
        for piece in batch.pieces(PART_LEN) {
            self.send_piece(route.clone(), piece, source, &mut own);
        }
    }

    /// Lays a piece out, no longer than a part, and has it sent; where no part is free, to
    /// the group alone.
    pub(super) fn send_piece(
        &mut self,
        route: Route,
        piece: Batch<'_>,
        source: &impl LeafSource,
        own: &mut OwnWay<'_>,
    ) {
        let (count, group) = (route.count, route.group);
        if let Some(part) = self.keep_piece(route, piece, source) {
            return self.send_kept(part, own.socket);
        }
        self.dropped += (piece.packets.len() * count) as u64;
        let Some(group) = group else { return };
        own.arena.lay_out(piece, source, |bytes| {
            let segments = Segments::new(bytes, piece.segment);
            own.socket.send_segments(Destinations::Each(&[group]), segments);
        });
    }

    /// The number of the part that the next piece is laid out in.
    pub(super) fn next_part(&self) -> usize {
        self.handover.next()
    }

    /// Lays a piece out, no longer than a part, for [`Senders::send_kept`]. Gives the
    /// number of its part; nothing if that is not free.
    pub(super) fn keep_piece(
        &mut self,
        route: Route,
        piece: Batch<'_>,
        source: &impl LeafSource,
    ) -> Option<usize> {
        let count = piece.packets.len();
        let part = self.keep(route, count, piece.segment, |memory| {
            let used = lay_out_piece(piece, source, &mut memory[..count * piece.segment]);
            memory[..used].chunks(piece.segment).for_each(trace_out);
            used
        })?;
        self.ring.leaves += piece.leaf_count();
        Some(part)
    }

    /// Has a part sent that was kept.
    pub(super) fn send_kept(&mut self, part: usize, socket: &mut UdpSocket) {
        let Kept { lanes, group } = std::mem::take(&mut self.kept[part]);
        self.handover.hand_over(part, lanes, |part| {
            if let Some(group) = group {
                part.send_to(&[group], socket);
            }
        });
    }

    /// Has one datagram sent to all clients of a view, whose id is `view`.
    pub(super) fn send_shared(
        &mut self,
        view: u64,
        to: &[SocketAddr],
        datagram: &[u8],
        own: OwnWay<'_>,
    ) {
        let (route, segment) = (self.route_of(view, to), datagram.len().max(1));
        if let Some(group) = route.group {
            let segments = Segments::new(datagram, segment);
            own.socket.send_segments(Destinations::Each(&[group]), segments);
        }
        if route.count == 0 {
            return;
        }
        let count = route.count;
        let kept = self.keep(Route { group: None, ..route }, 1, segment, |memory| {
            memory[..datagram.len()].copy_from_slice(datagram);
            datagram.len()
        });
        match kept {
            Some(part) => self.send_kept(part, own.socket),
            None => self.dropped += count as u64,
        }
        self.note_shared();
    }

    /// Counts a piece that waits for its time.
    pub(super) fn note_slice(&mut self) {
        self.ring.slices += 1;
    }

    /// Adds what the threads count to what the loop's socket does.
    pub(super) fn add_sent(&self, socket: &mut net::Counters) {
        for (totals, read) in self.totals.iter().zip(&self.read) {
            match totals.try_lock() {
                Ok(now) => read.set(*now),
                Err(TryLockError::Poisoned(now)) => read.set(*now.into_inner()),
                // It is being written: what was read before will do.
                Err(TryLockError::WouldBlock) => {}
            }
            *socket += read.get();
        }
    }

    /// Whether everything that was handed over has left, and was counted.
    #[cfg(test)]
    pub(super) fn are_done(&self) -> bool {
        let mut lanes = 0..self.handover.lanes();
        lanes.all(|lane| self.handover.is_done(lane, self.handover.published(lane)))
    }

    /// What was laid out.
    pub(super) fn ring(&self) -> &RingCounters {
        &self.ring
    }

    /// Adds what the hand-over counts.
    pub(super) fn count(&self, counters: &mut Counters) {
        let part = "senders";
        let help = "Threads that send.";
        counters.add_level(part, "threads", help, self.threads.len() as u64);
        let handed = (0..self.handover.lanes()).map(|lane| self.handover.published(lane)).sum();
        let entries = [
            ("handed_over", "Pieces of a period handed to a thread.", handed),
            ("wakes", "Times that a sleeping thread was woken.", self.handover.wakes()),
            ("dropped", "Datagrams lost because the threads were too far behind.", self.dropped),
            (
                "late",
                "Times that a period was put off because the threads were too far behind.",
                self.late,
            ),
        ];
        counters.add(part, entries.into_iter());
    }

    /// Lets `fill` fill a part, if one is free.
    fn keep(
        &mut self,
        Route { lanes, to, group, .. }: Route,
        datagrams: usize,
        segment: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<usize> {
        #[cfg(test)]
        let segment = if injected::take() { 0 } else { segment };
        let mut used = 0;
        let kept = self.handover.fill(|part| {
            used = fill(&mut part.memory);
            (part.used, part.segment, part.to) = (used, segment, to);
        });
        let part = kept.ok()?;
        self.kept[part] = Kept { lanes, group };
        self.ring.datagrams += datagrams as u64;
        self.ring.bytes += used as u64;
        self.ring.laps += u64::from(self.handover.next() == 0);
        Some(part)
    }

    /// What was handed over until now is for the clients of a view.
    pub(super) fn note_shared(&mut self) {
        for (lane, until) in self.shared_until.iter_mut().enumerate() {
            *until = self.handover.published(lane);
        }
    }
}

/// Threads end when they have sent what they were handed: no socket blocks them.
impl Drop for Senders {
    fn drop(&mut self) {
        self.handover.end();
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Tells the loop when its thread panics.
struct Alarm {
    panicked: Arc<AtomicBool>,
    waker: Stop,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.panicked.store(true, Ordering::Relaxed);
            self.waker.wake();
        }
    }
}

/// A sending thread.
fn send_all(
    mut taker: Taker<Part>,
    mut socket: UdpSocket,
    totals: &Mutex<net::Counters>,
    alarm: Alarm,
) {
    let lane = taker.lane();
    let mut send = |part: &Part| {
        part.send(lane, &mut socket);
        // The loop looks at it once a second, and does not wait for it.
        *totals.lock().unwrap_or_else(PoisonError::into_inner) = socket.counters();
    };
    while taker.take(&mut send) == Taken::One {}
    drop(alarm);
}

/// A part that makes a thread panic, for tests.
#[cfg(test)]
pub(super) mod injected {
    use std::cell::Cell;

    thread_local! {
        static WANTED: Cell<bool> = const { Cell::new(false) };
    }

    /// The next part that this thread hands over is one of datagrams without length.
    pub(in crate::runtime) fn break_next() {
        WANTED.set(true);
    }

    pub(super) fn take() -> bool {
        WANTED.take()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::IpAddr;
    use std::time::Duration;
    use std::time::Instant;

    use zerocopy::FromBytes;
    use zerocopy::IntoBytes;

    use super::*;
    use crate::layout::limits::DATAGRAM_HEADER_LEN;
    use crate::net::Interface;
    use crate::net::RecvBatch;
    use crate::net::SocketOptions;
    use crate::runtime::control::Control;
    use crate::runtime::order::current;
    use crate::runtime::outlet::NoLeaves;
    use crate::wire::DatagramType;
    use crate::wire::Header;
    use crate::wire::Packet;

    const WATCHDOG: Duration = Duration::from_secs(60);

    fn socket() -> UdpSocket {
        let options = SocketOptions { receive_buffer: 1 << 20, ..SocketOptions::default() };
        UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap()
    }

    /// Senders, and what their loop has.
    struct Loop {
        senders: Senders,
        control: Control,
        socket: UdpSocket,
        arena: EventRing,
    }

    impl Loop {
        fn start(count: usize, group: Option<SocketAddr>) -> Loop {
            let (control, socket) = (Control::new().unwrap(), socket());
            let stop = control.stop_handle();
            let senders = Senders::start(&socket, count, 0, group, &stop).unwrap();
            Loop { senders, control, socket, arena: EventRing::new(0).unwrap() }
        }

        /// Threads that get no time: lanes that nobody takes from.
        fn stalled(parts: usize, group: Option<SocketAddr>) -> (Loop, Vec<Taker<Part>>) {
            let parts = (0..parts).map(|_| Part::new().unwrap()).collect();
            let (mut handover, takers) = Handover::new(parts, 1);
            handover.attach(0, current());
            let mut work = Loop::start(1, group);
            work.senders.handover.end();
            work.senders.kept = vec![Kept::default(); handover.parts()];
            work.senders.handover = handover;
            (work, takers)
        }

        fn send_shared(&mut self, to: &[SocketAddr], datagram: &[u8]) {
            let own = OwnWay { socket: &mut self.socket, arena: &mut self.arena };
            self.senders.send_shared(5, to, datagram, own);
        }

        /// Sends an EVENT without leaves.
        fn send_event(&mut self, to: &[SocketAddr], event_num: u64) {
            let header = Header { event_num: event_num.into(), ..Header::default() };
            let packets = [Packet { header, response: None, leaves: 0..0 }];
            let batch = Batch { packets: &packets, leaves: &[], segment: DATAGRAM_HEADER_LEN };
            let own = OwnWay { socket: &mut self.socket, arena: &mut self.arena };
            self.senders.send_shared_leaves(to, batch, &NoLeaves, own);
        }
    }

    /// A group of this test process alone, and a member of it.
    fn member(number: u8) -> (SocketAddr, UdpSocket) {
        let [.., a, b] = std::process::id().to_be_bytes();
        let group = SocketAddr::from(([239, 160 + number, a, b], 4_722));
        let local = IpAddr::from([127, 0, 0, 1]);
        let options = SocketOptions { receive_buffer: 1 << 20, ..SocketOptions::default() };
        (group, UdpSocket::join_group(group, local, Interface::OfRoutes, &options).unwrap())
    }

    /// The numbers of so many EVENTs that a socket gets next.
    fn event_nums(from: &mut UdpSocket, count: usize) -> Vec<u64> {
        let (mut batch, mut found) = (RecvBatch::default(), Vec::new());
        wait_until("EVENTs come", || {
            from.receive(&mut batch).unwrap();
            let head = |(_, datagram): (_, &[u8])| {
                Header::ref_from_prefix(datagram).unwrap().0.event_num.get()
            };
            found.extend(batch.iter().map(head));
            found.len() >= count
        });
        found
    }

    fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < WATCHDOG, "waited too long: {what}");
            thread::yield_now();
        }
    }

    #[test]
    fn every_client_gets_every_datagram_once_and_in_order() {
        let mut work = Loop::start(3, None);
        let mut receivers: Vec<_> = (0..16).map(|_| socket()).collect();
        let to: Vec<_> = receivers.iter().map(|one| one.local_addr().unwrap()).collect();
        for number in 0..200_u32 {
            // No faster than they are sent: otherwise it would be dropped.
            wait_until("the threads send", || work.senders.handover.backlog() < 8);
            work.send_shared(&to, &number.to_le_bytes());
        }
        let mut batch = RecvBatch::default();
        for receiver in &mut receivers {
            let mut found = Vec::new();
            wait_until("the datagrams come", || {
                receiver.receive(&mut batch).unwrap();
                found.extend(batch.iter().map(|(from, datagram)| (from, datagram.to_vec())));
                found.len() >= 200
            });
            let from = work.socket.local_addr().unwrap();
            let expected = (0..200_u32).map(|number| (from, number.to_le_bytes().to_vec()));
            assert!(found.into_iter().eq(expected));
        }
        wait_until("it is counted", || {
            let mut sent = net::Counters::default();
            work.senders.add_sent(&mut sent);
            sent.datagrams_sent == 16 * 200
        });
        assert_eq!((work.senders.dropped, work.senders.ring.datagrams), (0, 200));
    }

    #[test]
    fn what_finds_no_part_is_dropped_and_counted_and_nobody_waits() {
        let socket = socket();
        let (mut work, _takers) = Loop::stalled(4, None);
        let to = [socket.local_addr().unwrap(); 3];
        for count in 1..=2 {
            work.send_shared(&to, b"datagram");
            assert!(!work.senders.puts_off(), "{count} of 4");
        }
        work.send_shared(&to, b"datagram");
        assert!(work.senders.puts_off() && !work.senders.is_idle_for(to[0]));
        (4..=6).for_each(|_| work.send_shared(&to, b"datagram"));
        let senders = &work.senders;
        assert_eq!((senders.dropped, senders.late, senders.ring.datagrams), (2 * 3, 1, 4));
    }

    #[test]
    fn a_group_gets_everything_in_order_however_far_the_threads_are_behind() {
        let (group, mut listener) = member(1);
        let (mut work, mut takers) = Loop::stalled(4, Some(group));
        work.socket.reach_groups(Interface::OfRoutes, 0).unwrap();
        let mut client = socket();
        let to = [group, client.local_addr().unwrap()];
        (1..=6).for_each(|event_num| work.send_event(&to, event_num));
        let mut tick = Header { datagram_type: DatagramType::Tick.code(), ..Header::default() };
        tick.event_num = 7.into();
        work.send_shared(&to, &[tick.as_bytes(), &[0; 32]].concat());
        // All of it has left, two EVENTs from the arena, before a thread sent anything.
        assert_eq!(work.socket.counters().datagrams_sent, 7);
        assert_eq!((work.senders.dropped, work.arena.counters().datagrams), (3, 2));
        assert_eq!(event_nums(&mut listener, 7), [1, 2, 3, 4, 5, 6, 7]);
        // The client gets what found a part, and the group nothing twice.
        let mut own = work.socket.try_clone().unwrap();
        for _ in 0..4 {
            takers[0].take(|part| part.send(0, &mut own));
        }
        assert_eq!(own.counters().datagrams_sent, 4);
        assert_eq!(event_nums(&mut client, 4), [1, 2, 3, 4]);
        // With nobody but the group no thread is asked for.
        work.send_event(&[group], 8);
        work.send_shared(&[group], &[tick.as_bytes(), &[0; 32]].concat());
        assert_eq!(event_nums(&mut listener, 2), [8, 7]);
        assert_eq!(work.senders.handover.backlog(), 0);
    }

    #[test]
    fn a_panic_in_a_thread_is_told_to_the_loop() {
        let mut work = Loop::start(2, None);
        let to = [work.socket.local_addr().unwrap()];
        assert!(!work.senders.has_panicked());
        injected::break_next();
        work.send_shared(&to, b"datagram");
        wait_until("the loop is told", || work.senders.has_panicked());
        let woken = || matches!(work.control.pipe().read(&mut [0]), Ok(1));
        wait_until("the loop is woken", woken);
        // And the others end all the same.
        drop(work.senders);
    }
}
