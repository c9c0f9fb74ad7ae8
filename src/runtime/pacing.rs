//! Pacing: a period that is larger than a burst leaves in slices.
//!
//! A receiver takes a burst as fast as it can, and what its buffer cannot hold meanwhile is
//! lost. So a period of more bytes than a burst is laid out at once, as every period is,
//! and sent piece by piece in the time that it was given; the loop goes on between. The
//! first piece leaves at once.
//!
//! Order is kept for each client. An answer to one speaks of the whole period, and waits
//! behind its slices ([`Pacing::send_behind`]): were it to leave with them at once, whoever
//! lost something would be overrun again. What waits for all leaves before the next period
//! and before what is told to all ([`Pacing::send_rest`]). A place of the ring that is
//! needed is sent from first.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use crate::layout::limits::DATAGRAM_SIZE_MAX;
use crate::net::Destinations;
use crate::net::UdpSocket;
use crate::runtime::outlet::ToAll;
use crate::runtime::ring::Batch;
use crate::runtime::ring::EventRing;
use crate::runtime::ring::PIECE_LEN_MAX;
use crate::runtime::senders::OwnWay;
use crate::runtime::senders::PART_LEN;
use crate::runtime::senders::Route;
use crate::runtime::senders::Senders;
use crate::sync::Time;
use crate::wire::LeafSource;

/// The smallest burst: one message of segments, which nothing is gained by cutting.
pub(super) const BURST_MIN: usize = DATAGRAM_SIZE_MAX.next_power_of_two();

/// Most slices and answers that wait: eight times the slices of the default ring. With
/// more, all of them leave.
const ROOM: usize = 1_024;

/// Who gets a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// All of a list, by its number.
    List(usize),
    /// One, who is answered.
    One(SocketAddr),
}

/// A piece that waits for its time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slice {
    /// Where it lies: bytes of the ring, or the number of a part of the senders.
    place: Range<usize>,
    segment: usize,
    to: To,
    due: Time,
}

/// What sends and what it is sent from.
pub(super) enum Way<'a> {
    /// The loop sends, from the ring.
    Ring {
        /// What it sends from.
        ring: &'a mut EventRing,
        /// What it sends with.
        socket: &'a mut UdpSocket,
    },
    /// Threads send what the loop hands over.
    Senders {
        /// Them.
        senders: &'a mut Senders,
        /// What the loop itself sends with.
        own: OwnWay<'a>,
    },
}

impl Way<'_> {
    fn piece_len_max(&self) -> usize {
        match self {
            Way::Ring { .. } => PIECE_LEN_MAX,
            Way::Senders { .. } => PART_LEN,
        }
    }

    /// Where [`Way::hold`] lays this piece out.
    fn next_place(&mut self, piece: Batch<'_>) -> Range<usize> {
        match self {
            Way::Ring { ring, .. } => ring.next_place(piece),
            Way::Senders { senders, .. } => one(senders.next_part()),
        }
    }

    /// Lays a piece out at its place, to be sent from there. Nothing if something else is
    /// still sent from there.
    fn hold(
        &mut self,
        piece: Batch<'_>,
        source: &impl LeafSource,
        place: Range<usize>,
        to: Addresses<'_>,
    ) -> Option<Range<usize>> {
        match self {
            Way::Ring { ring, socket } => {
                ring.hold(piece, source, place, &mut to.lender(socket, piece.segment))
            }
            Way::Senders { senders, .. } => {
                let route = to.route(senders, piece);
                senders.keep_piece(route, piece, source).map(one)
            }
        }
    }

    /// Sends what lies there.
    fn send_held(&mut self, place: Range<usize>, to: Addresses<'_>, segment: usize) {
        match self {
            Way::Ring { ring, socket } => ring.send_held(place, &mut to.lender(socket, segment)),
            Way::Senders { senders, own } => {
                senders.send_kept(place.start, own.socket);
                if matches!(to, Addresses::All(_)) {
                    senders.note_shared();
                }
            }
        }
    }

    /// Sends a piece whose place is not free.
    fn send_beside(&mut self, piece: Batch<'_>, source: &impl LeafSource, to: Addresses<'_>) {
        match self {
            Way::Ring { ring, socket } => {
                ring.copy_out(piece, source, &mut to.lender(socket, piece.segment));
            }
            Way::Senders { senders, own } => {
                let route = to.route(senders, piece);
                senders.send_piece(route, piece, source, own);
            }
        }
    }

    fn note_slice(&mut self) {
        match self {
            Way::Ring { ring, .. } => ring.note_slice(),
            Way::Senders { senders, .. } => senders.note_slice(),
        }
    }
}

/// The place that a part is.
fn one(part: usize) -> Range<usize> {
    part..part + 1
}

/// Those who get a piece.
#[derive(Clone, Copy)]
enum Addresses<'a> {
    /// All clients of its view.
    All(&'a [SocketAddr]),
    /// One of them.
    One(&'a SocketAddr),
}

impl<'a> Addresses<'a> {
    fn lender<'b>(self, socket: &'b mut UdpSocket, segment: usize) -> ToAll<'b>
    where
        'a: 'b,
    {
        let to = match self {
            Addresses::All(all) => all,
            Addresses::One(address) => std::slice::from_ref(address),
        };
        ToAll { socket, to: Destinations::Each(to), segment }
    }

    fn route(self, senders: &mut Senders, piece: Batch<'_>) -> Route {
        match self {
            Addresses::All(all) => senders.route_of(piece.view().unwrap_or_default(), all),
            Addresses::One(address) => senders.route_to(*address),
        }
    }
}

/// What waits of the period that ended last.
#[derive(Debug)]
pub(super) struct Pacing {
    /// Most bytes that leave at once to one client; 0 for all that there is.
    burst: usize,
    /// When the period ended, and how long it may take.
    began: Time,
    time: Duration,
    /// As they were laid out: oldest first, and in its order for each list.
    waiting: VecDeque<Slice>,
    /// Those who get what waits, one list for each view. Kept, so that none is allocated.
    lists: Vec<Vec<SocketAddr>>,
    lists_used: usize,
}

impl Pacing {
    /// Bursts of at most so many bytes, [`BURST_MIN`] at least; 0 sends everything at once.
    pub(super) fn new(burst: usize) -> Pacing {
        let burst = if burst == 0 { 0 } else { burst.max(BURST_MIN) };
        let waiting = VecDeque::with_capacity(if burst == 0 { 0 } else { ROOM });
        let (began, time) = (Time::START, Duration::ZERO);
        Pacing { burst, began, time, waiting, lists: Vec::new(), lists_used: 0 }
    }

    /// What is sent from now on belongs to a period that ended at `now`, and may take this
    /// long. Nothing waits of the one before.
    pub(super) fn begin(&mut self, now: Time, time: Duration) {
        debug_assert!(self.waiting.is_empty(), "a period begins when the last one has left");
        (self.began, self.time, self.lists_used) = (now, time, 0);
    }

    /// Whether so much is more than a burst.
    pub(super) fn slices(&self, batch: &Batch<'_>) -> bool {
        let bytes = batch.packets.len() * batch.segment;
        self.burst > 0 && bytes > self.burst && !self.time.is_zero()
    }

    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the next slice is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.waiting.iter().map(|slice| slice.due).min()
    }

    /// Lays a batch out, sends the first slice of it, and keeps the others.
    pub(super) fn send(
        &mut self,
        to: &[SocketAddr],
        batch: Batch<'_>,
        source: &impl LeafSource,
        mut way: Way<'_>,
    ) {
        let (list, addresses) = (To::List(self.keep_list(to)), Addresses::All(to));
        let len = self.burst.min(way.piece_len_max());
        let count = batch.pieces(len).count() as u32;
        for (piece, number) in batch.pieces(len).zip(0..) {
            let due = (number > 0).then(|| self.began.after(self.time * number / count));
            self.lay_out(piece, source, (list, addresses), due, &mut way);
        }
    }

    /// When an answer to this client may leave, if something waits for it; for those who
    /// hear a group, which is in a list in their place, if anything does.
    pub(super) fn due_for(&self, address: SocketAddr, hears_group: bool) -> Option<Time> {
        let waits = |list| self.waiting.iter().any(|slice| slice.to == To::List(list));
        let lists = self.lists[..self.lists_used].iter().enumerate();
        let of = lists.filter(|(list, to)| waits(*list) && to.contains(&address));
        let own = of.map(|(list, _)| list).next();
        let meant = |slice: &&Slice| match slice.to {
            To::List(list) => hears_group || own == Some(list),
            To::One(one) => hears_group || one == address,
        };
        self.waiting.iter().filter(meant).map(|slice| slice.due).max()
    }

    /// Keeps an answer to one client until what waits for it has left.
    pub(super) fn send_behind(
        &mut self,
        (address, due): (SocketAddr, Time),
        batch: Batch<'_>,
        source: &impl LeafSource,
        mut way: Way<'_>,
    ) {
        let to = (To::One(address), Addresses::One(&address));
        for piece in batch.pieces(self.burst.min(way.piece_len_max())) {
            self.lay_out(piece, source, to, Some(due), &mut way);
        }
    }

    /// Lays a piece out and sends it, or keeps it until it is due.
    fn lay_out(
        &mut self,
        piece: Batch<'_>,
        source: &impl LeafSource,
        (to, addresses): (To, Addresses<'_>),
        due: Option<Time>,
        way: &mut Way<'_>,
    ) {
        if self.waiting.len() >= ROOM {
            self.send_while(way, |_| true);
        }
        let (place, segment) = (way.next_place(piece), piece.segment);
        while self.waiting.iter().any(|slice| overlap(&slice.place, &place)) {
            self.send_at(0, way);
        }
        match (way.hold(piece, source, place, addresses), due) {
            (Some(place), None) => way.send_held(place, addresses, segment),
            (Some(place), Some(due)) => {
                way.note_slice();
                self.waiting.push_back(Slice { place, segment, to, due });
            }
            // It is sent from elsewhere, behind what waits.
            (None, _) => {
                self.send_while(way, |_| true);
                way.send_beside(piece, source, addresses);
            }
        }
    }

    /// Sends what is due.
    pub(super) fn send_due(&mut self, now: Time, mut way: Way<'_>) {
        self.send_while(&mut way, |slice| slice.due <= now);
    }

    /// Sends all that waits.
    pub(super) fn send_rest(&mut self, mut way: Way<'_>) {
        self.send_while(&mut way, |_| true);
    }

    fn send_while(&mut self, way: &mut Way<'_>, is_meant: impl Fn(&Slice) -> bool) {
        while let Some(index) = self.waiting.iter().position(&is_meant) {
            self.send_at(index, way);
        }
    }

    fn send_at(&mut self, index: usize, way: &mut Way<'_>) {
        let Some(slice) = self.waiting.remove(index) else { return };
        let to = match &slice.to {
            To::List(list) => Addresses::All(&self.lists[*list]),
            To::One(address) => Addresses::One(address),
        };
        way.send_held(slice.place, to, slice.segment);
    }

    fn keep_list(&mut self, to: &[SocketAddr]) -> usize {
        let number = self.lists_used;
        if number == self.lists.len() {
            self.lists.push(Vec::new());
        }
        self.lists[number].clear();
        self.lists[number].extend_from_slice(to);
        self.lists_used += 1;
        number
    }
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::layout::DataLocId;
    use crate::net::Offload;
    use crate::net::RecvBatch;
    use crate::net::SocketOptions;
    use crate::runtime::control::Control;
    use crate::runtime::ring::tests::Numbered;
    use crate::runtime::ring::tests::ids;
    use crate::runtime::ring::tests::plan;
    use crate::wire::Packet;

    const ENDED: Time = Time(1_000);
    const TIME: Duration = Duration::from_millis(50);

    /// Long enough for any machine; only a failing test waits for it.
    const WATCHDOG: Duration = Duration::from_secs(20);

    /// A period of datagrams with 30 leaves each.
    struct Period {
        packets: Vec<Packet>,
        leaves: Vec<DataLocId>,
        segment: usize,
    }

    impl Period {
        fn of(datagrams: usize) -> Period {
            let (packets, leaves, segment) = plan(&vec![30; datagrams]);
            Period { packets, leaves, segment }
        }

        fn batch(&self) -> Batch<'_> {
            Batch { packets: &self.packets, leaves: &self.leaves, segment: self.segment }
        }

        /// The leaves of each slice.
        fn slices(&self) -> Vec<Vec<u32>> {
            let ids: Vec<u32> = self.leaves.iter().map(|leaf| leaf.0).collect();
            ids.chunks(BURST_MIN / self.segment * 30).map(<[u32]>::to_vec).collect()
        }
    }

    fn socket() -> UdpSocket {
        let (receive_buffer, send_buffer) = (8 << 20, 8 << 20);
        let zerocopy = Offload::Detect;
        let options = SocketOptions { receive_buffer, send_buffer, zerocopy, ..Default::default() };
        UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap()
    }

    /// What sends.
    enum Sending {
        Ring(EventRing),
        Threads { senders: Box<Senders>, arena: EventRing, _control: Control },
    }

    impl Sending {
        fn way<'a>(&'a mut self, socket: &'a mut UdpSocket) -> Way<'a> {
            match self {
                Sending::Ring(ring) => Way::Ring { ring, socket },
                Sending::Threads { senders, arena, .. } => {
                    Way::Senders { senders, own: OwnWay { socket, arena } }
                }
            }
        }
    }

    /// Every way, with so much memory or as little as it takes.
    fn ways(len: usize) -> Vec<(UdpSocket, Sending)> {
        let (control, with_senders, arena) = (Control::new().unwrap(), socket(), EventRing::new(0));
        let stop = control.stop_handle();
        let senders = Box::new(Senders::start(&with_senders, 2, len, None, &stop).unwrap());
        let threads = Sending::Threads { senders, arena: arena.unwrap(), _control: control };
        vec![
            (socket(), Sending::Ring(EventRing::new(len).unwrap())),
            (socket(), Sending::Ring(EventRing::of_lender(len).unwrap())),
            (with_senders, threads),
        ]
    }

    /// Clients, and what sends to them.
    struct World {
        clients: Vec<UdpSocket>,
        to: Vec<SocketAddr>,
        socket: UdpSocket,
        sending: Sending,
        pacing: Pacing,
    }

    impl World {
        fn new(clients: usize, (socket_of_all, sending): (UdpSocket, Sending)) -> World {
            let clients: Vec<_> = (0..clients).map(|_| socket()).collect();
            let to = clients.iter().map(|client| client.local_addr().unwrap()).collect();
            World { clients, to, socket: socket_of_all, sending, pacing: Pacing::new(1) }
        }

        /// Sends a period to some of the clients.
        fn send(&mut self, period: &Period, to: Range<usize>) {
            // A part that a thread is about to give back would not be free.
            self.sent();
            let way = self.sending.way(&mut self.socket);
            self.pacing.send(&self.to[to], period.batch(), &Numbered, way);
        }

        fn due(&mut self, now: Time) {
            self.pacing.send_due(now, self.sending.way(&mut self.socket));
        }

        fn rest(&mut self) {
            self.pacing.send_rest(self.sending.way(&mut self.socket));
        }

        /// Answers a client for which something waits.
        fn answer(&mut self, client: usize, answer: &Period) {
            let due = self.pacing.due_for(self.to[client], false).expect("something waits for it");
            let (to, way) = ((self.to[client], due), self.sending.way(&mut self.socket));
            self.pacing.send_behind(to, answer.batch(), &Numbered, way);
        }

        /// Datagrams that were sent, or handed over to those who send: what they are to do
        /// and have not done is nothing that waits for its time.
        fn sent(&self) -> u64 {
            let mut counters = self.socket.counters();
            if let Sending::Threads { senders, .. } = &self.sending {
                let deadline = Instant::now() + WATCHDOG;
                while !senders.are_done() && Instant::now() < deadline {
                    thread::yield_now();
                }
                senders.add_sent(&mut counters);
            }
            counters.datagrams_sent
        }

        fn slices(&self) -> u64 {
            match &self.sending {
                Sending::Ring(ring) => ring.counters().slices,
                Sending::Threads { senders, .. } => senders.ring().slices,
            }
        }

        /// The next leaves that a client gets.
        fn expect(&mut self, client: usize, wanted: &[u32]) {
            let (mut batch, mut found) = (RecvBatch::new(1, 65_536), Vec::new());
            let deadline = Instant::now() + WATCHDOG;
            while found.len() < wanted.len() && Instant::now() < deadline {
                if self.clients[client].receive(&mut batch).unwrap() == 0 {
                    thread::yield_now();
                }
                found.extend(batch.iter().flat_map(|(_, datagram)| ids(datagram)));
            }
            assert!(found == wanted, "client {client}: {} of {}", found.len(), wanted.len());
        }
    }

    #[test]
    fn slices_leave_in_order_each_at_its_time() {
        for way in ways(1 << 20) {
            let (mut world, period) = (World::new(2, way), Period::of(200));
            let slices = period.slices();
            let count = slices.len() as u32;
            assert!(count >= 3);
            world.pacing.begin(ENDED, TIME);
            world.send(&period, 0..2);
            for (slice, number) in slices.iter().zip(0..) {
                if number > 0 {
                    let due = ENDED.after(TIME * number / count);
                    assert_eq!(world.pacing.next_due(), Some(due));
                    let before = world.sent();
                    world.due(Time(due.0 - 1));
                    assert_eq!(world.sent(), before, "before its time");
                    world.due(due);
                }
                assert!(world.sent() <= 2 * (slice[0] as u64 / 30 + slice.len() as u64 / 30));
                (0..2).for_each(|client| world.expect(client, slice));
            }
            assert!(world.pacing.is_idle() && world.pacing.next_due().is_none());
            assert_eq!(world.sent(), 2 * 200);
            assert_eq!(world.slices(), u64::from(count) - 1);
        }
    }

    #[test]
    fn a_burst_or_less_is_not_sliced_and_neither_is_a_period_without_time() {
        let large = Period::of(60);
        let most = BURST_MIN / large.segment;
        let small = Batch { packets: &large.packets[..most], ..large.batch() };
        let mut pacing = Pacing::new(1);
        pacing.begin(ENDED, TIME);
        assert!(!pacing.slices(&small));
        assert!(pacing.slices(&Batch { packets: &large.packets[..=most], ..small }));
        pacing.begin(ENDED, Duration::ZERO);
        assert!(!pacing.slices(&large.batch()));
        let mut off = Pacing::new(0);
        off.begin(ENDED, TIME);
        assert!(!off.slices(&large.batch()));
    }

    #[test]
    fn an_answer_waits_behind_the_slices_of_its_client() {
        for way in ways(1 << 20) {
            let (mut world, period) = (World::new(3, way), Period::of(200));
            let (slices, answer) = (period.slices(), Period::of(70));
            let last = ENDED.after(TIME * (slices.len() as u32 - 1) / slices.len() as u32);
            world.pacing.begin(ENDED, TIME);
            world.send(&period, 0..2);
            let due = |world: &World, client: usize, hears_group| {
                world.pacing.due_for(world.to[client], hears_group)
            };
            assert_eq!([due(&world, 0, false), due(&world, 2, true)], [Some(last); 2]);
            assert_eq!(due(&world, 2, false), None, "it is not of the view");
            world.answer(1, &answer);
            world.due(Time(last.0 - 1));
            let before = world.sent();
            world.answer(1, &answer);
            assert_eq!(world.sent(), before);
            world.due(last);
            let answers = [answer.slices().concat(), answer.slices().concat()].concat();
            world.expect(1, &[slices.concat(), answers].concat());
            world.expect(0, &slices.concat());
            assert_eq!(world.sent(), 2 * 200 + 2 * 70);
            assert_eq!([due(&world, 0, false), due(&world, 1, true)], [None; 2]);
        }
    }

    #[test]
    fn answers_without_end_do_not_wait_without_end() {
        // Large enough that no place is needed twice.
        let way = ways(4 << 20).remove(0);
        let (mut world, period) = (World::new(1, way), Period::of(200));
        let (slices, answer) = (period.slices().concat(), Period::of(1));
        world.pacing.begin(ENDED, TIME);
        world.send(&period, 0..1);
        let mut answers = 0;
        while world.pacing.waiting.len() < ROOM && answers < ROOM {
            world.answer(0, &answer);
            answers += 1;
        }
        world.answer(0, &answer);
        assert_eq!(world.pacing.waiting.len(), 1, "all that waited has left");
        world.rest();
        let all = [slices, answer.slices().concat().repeat(answers + 1)].concat();
        world.expect(0, &all);
    }

    #[test]
    fn views_do_not_wait_for_each_other() {
        for way in ways(1 << 20) {
            let (mut world, period) = (World::new(2, way), Period::of(200));
            let slices = period.slices();
            world.pacing.begin(ENDED, TIME);
            world.send(&period, 0..1);
            world.send(&period, 1..2);
            world.due(ENDED.after(TIME / slices.len() as u32));
            (0..2).for_each(|client| world.expect(client, &slices[..2].concat()));
            assert!(!world.pacing.is_idle());
            world.rest();
            (0..2).for_each(|client| world.expect(client, &slices[2..].concat()));
        }
    }

    #[test]
    fn what_waits_leaves_before_its_place_is_used_again() {
        // The smallest rings hold two slices. The fewest parts are more, as those that need
        // one do not wait for the threads: it comes round in the next period.
        for way in ways(0) {
            let count = if matches!(way.1, Sending::Ring(_)) { 400 } else { 200 };
            let (mut world, period) = (World::new(2, way), Period::of(count));
            let all = period.slices().concat();
            for round in 0..5 {
                world.pacing.begin(ENDED.after(TIME * round), TIME);
                world.send(&period, 0..1);
                world.send(&period, 1..2);
                world.rest();
                (0..2).for_each(|client| world.expect(client, &all));
            }
            assert_eq!(world.pacing.lists.len(), 2, "lists are used again");
        }
    }
}
