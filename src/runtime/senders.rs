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
use crate::runtime::lists::List;
use crate::runtime::lists::Lists;
use crate::runtime::lists::lane_of;
use crate::runtime::metrics::Counters;
use crate::runtime::order::Builder;
use crate::runtime::order::JoinHandle;
use crate::runtime::outlet::trace_out;
use crate::runtime::ring::Batch;
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
#[derive(Debug)]
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
        let nobody = Arc::new(List::new(&[], 0));
        Ok(Part { memory, used: 0, segment: 1, to: To::List(nobody) })
    }

    fn send(&self, lane: usize, socket: &mut UdpSocket) {
        let to = match &self.to {
            To::One(address) => std::slice::from_ref(address),
            To::List(list) => list.of_lane[lane].as_slice(),
        };
        let segments = Segments::new(&self.memory[..self.used], self.segment);
        socket.send_segments(Destinations::Each(to), segments);
    }
}

/// Who is sent something, and in which lanes they are.
struct Route {
    lanes: Lanes,
    count: usize,
    to: To,
}

impl Route {
    fn list(list: Arc<List>) -> Route {
        Route { lanes: list.lanes, count: list.all.len(), to: To::List(list) }
    }
}

/// Sending threads, and the memory that they send from.
#[derive(Debug)]
pub(super) struct Senders {
    handover: Handover<Part>,
    threads: Vec<JoinHandle<()>>,
    /// What each thread's handle of the socket counts.
    totals: Vec<Arc<Mutex<net::Counters>>>,
    /// What was read of them last.
    read: Vec<Cell<net::Counters>>,
    panicked: Arc<AtomicBool>,
    lists: Lists,
    /// For each lane how many parts it had been handed when the last EVENTs were.
    shared_until: Vec<u64>,
    ring: RingCounters,
    dropped: u64,
    late: u64,
}

impl Senders {
    /// Starts `count` threads that send through handles of `socket`, from `ring_size`
    /// bytes of memory, all of it taken now. `waker` wakes the loop when one panics.
    ///
    /// # Errors
    /// There is no memory, no descriptor, or no thread to be had.
    pub(super) fn start(
        socket: &UdpSocket,
        count: usize,
        ring_size: usize,
        waker: &Stop,
    ) -> io::Result<Senders> {
        let parts = (0..(ring_size / PART_LEN).max(PARTS_MIN)).map(|_| Part::new());
        let (handover, takers) = Handover::new(parts.collect::<io::Result<_>>()?, count);
        let mut senders = Senders {
            handover,
            threads: Vec::with_capacity(count),
            totals: (0..count).map(|_| Arc::default()).collect(),
            read: vec![Cell::default(); count],
            panicked: Arc::default(),
            lists: Lists::default(),
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

    /// Lays datagrams of leaves out for all clients of a view and has them sent.
    pub(super) fn send_shared_leaves(
        &mut self,
        to: &[SocketAddr],
        batch: Batch<'_>,
        source: &impl LeafSource,
    ) {
        let Some(first) = batch.packets.first() else { return };
        let list = self.lists.of(first.header.channel.get(), to, self.handover.lanes());
        self.send_leaves(|| Route::list(Arc::clone(&list)), batch, source);
        self.note_shared();
    }

    /// Lays datagrams of leaves out for one client and has them sent behind what it was
    /// to get before.
    pub(super) fn send_leaves_to(
        &mut self,
        to: SocketAddr,
        batch: Batch<'_>,
        source: &impl LeafSource,
    ) {
        let lanes = Lanes::one(lane_of(to, self.handover.lanes()));
        self.send_leaves(|| Route { lanes, count: 1, to: To::One(to) }, batch, source);
    }

    /// Has one datagram sent to all clients of a view, whose id is `view`.
    pub(super) fn send_shared(&mut self, view: u64, to: &[SocketAddr], datagram: &[u8]) {
        let list = self.lists.of(view, to, self.handover.lanes());
        let segment = datagram.len().max(1);
        self.hand_over(Route::list(list), 1, segment, |memory| {
            memory[..datagram.len()].copy_from_slice(datagram);
            datagram.len()
        });
        self.note_shared();
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

    fn send_leaves(
        &mut self,
        route: impl Fn() -> Route,
        batch: Batch<'_>,
        source: &impl LeafSource,
    ) {
        for piece in batch.pieces(PART_LEN) {
            let count = piece.packets.len();
            let handed = self.hand_over(route(), count, batch.segment, |memory| {
                let place = &mut memory[..count * batch.segment];
                let used = lay_out_piece(piece, source, place);
                memory[..used].chunks(batch.segment).for_each(trace_out);
                used
            });
            self.ring.leaves += if handed { piece.leaf_count() } else { 0 };
        }
    }

    /// Hands a part over that `fill` fills, and says whether it could.
    fn hand_over(
        &mut self,
        Route { lanes, count, to }: Route,
        datagrams: usize,
        segment: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> bool {
        #[cfg(test)]
        let segment = if injected::take() { 0 } else { segment };
        let mut used = 0;
        let handed = self.handover.hand_over(lanes, |part| {
            used = fill(&mut part.memory);
            (part.used, part.segment, part.to) = (used, segment, to);
        });
        if handed.is_err() {
            self.dropped += (datagrams * count) as u64;
            return false;
        }
        self.ring.datagrams += datagrams as u64;
        self.ring.bytes += used as u64;
        self.ring.laps += u64::from(self.handover.is_at_start());
        true
    }

    fn note_shared(&mut self) {
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
    while taker.take(|part| part.send(lane, &mut socket)) == Taken::One {
        // The loop looks at it once a second, and does not wait for it.
        *totals.lock().unwrap_or_else(PoisonError::into_inner) = socket.counters();
    }
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
    use std::time::Duration;
    use std::time::Instant;

    use super::*;
    use crate::net::RecvBatch;
    use crate::net::SocketOptions;
    use crate::runtime::control::Control;
    use crate::runtime::order::current;

    const WATCHDOG: Duration = Duration::from_secs(60);

    fn socket() -> UdpSocket {
        let options = SocketOptions { receive_buffer: 1 << 20, ..SocketOptions::default() };
        UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap()
    }

    fn start(count: usize) -> (Senders, Control, UdpSocket) {
        let (control, socket) = (Control::new().unwrap(), socket());
        let senders = Senders::start(&socket, count, 0, &control.stop_handle()).unwrap();
        (senders, control, socket)
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
        let (mut senders, _control, own) = start(3);
        let mut receivers: Vec<_> = (0..16).map(|_| socket()).collect();
        let to: Vec<_> = receivers.iter().map(|one| one.local_addr().unwrap()).collect();
        for number in 0..200_u32 {
            // No faster than they are sent: otherwise it would be dropped.
            wait_until("the threads send", || senders.handover.backlog() < 8);
            senders.send_shared(5, &to, &number.to_le_bytes());
        }
        let mut batch = RecvBatch::default();
        for receiver in &mut receivers {
            let mut found = Vec::new();
            wait_until("the datagrams come", || {
                receiver.receive(&mut batch).unwrap();
                found.extend(batch.iter().map(|(from, datagram)| (from, datagram.to_vec())));
                found.len() >= 200
            });
            let from = own.local_addr().unwrap();
            let expected = (0..200_u32).map(|number| (from, number.to_le_bytes().to_vec()));
            assert!(found.into_iter().eq(expected));
        }
        wait_until("it is counted", || {
            let mut sent = net::Counters::default();
            senders.add_sent(&mut sent);
            sent.datagrams_sent == 16 * 200
        });
        assert_eq!((senders.dropped, senders.ring.datagrams), (0, 200));
    }

    #[test]
    fn what_finds_no_part_is_dropped_and_counted_and_nobody_waits() {
        let socket = socket();
        // Lanes that nobody takes from: threads that get no time.
        let parts = (0..4).map(|_| Part::new().unwrap()).collect();
        let (mut handover, _takers) = Handover::new(parts, 1);
        handover.attach(0, current());
        let (mut senders, _control, _own) = start(1);
        senders.handover.end();
        senders.handover = handover;
        let to = [socket.local_addr().unwrap(); 3];
        for count in 1..=2 {
            senders.send_shared(5, &to, b"datagram");
            assert!(!senders.puts_off(), "{count} of 4");
        }
        senders.send_shared(5, &to, b"datagram");
        assert!(senders.puts_off() && !senders.is_idle_for(to[0]));
        (4..=6).for_each(|_| senders.send_shared(5, &to, b"datagram"));
        assert_eq!((senders.dropped, senders.late, senders.ring.datagrams), (2 * 3, 1, 4));
    }

    #[test]
    fn a_panic_in_a_thread_is_told_to_the_loop() {
        let (mut senders, control, own) = start(2);
        let to = [own.local_addr().unwrap()];
        assert!(!senders.has_panicked());
        injected::break_next();
        senders.send_shared(5, &to, b"datagram");
        wait_until("the loop is told", || senders.has_panicked());
        let woken = || matches!(control.pipe().read(&mut [0]), Ok(1));
        wait_until("the loop is woken", woken);
        // And the others end all the same.
        drop(senders);
    }
}
