//! The event ring: memory of its own in which datagrams of leaves are laid out.
//!
//! Datagrams lie one behind the other as they leave, equal segments padded with
//! zeros. What is laid out is not written again until its turn comes round, and a
//! send is over when the call returns: nobody sees bytes that change. A batch that
//! is too long for the ring is laid out and sent piece by piece.
//!
//! A ring that lends is read by the kernel after the call, too. It remembers what it
//! lent, and writes no place again before the kernel has said that it is done there; a
//! piece that finds its place still lent is sent from memory of its own, by copying.

use std::collections::VecDeque;
use std::io;
use std::iter;
use std::ops::Range;

use memmap2::MmapMut;
use memmap2::MmapOptions;

use crate::layout::DataLocId;
use crate::layout::limits::DATAGRAM_SIZE_MAX;
use crate::net::Lent;
use crate::wire;
use crate::wire::LeafSource;
use crate::wire::Packet;

/// Each piece begins at a cache line of its own.
const ALIGN: usize = 64;

/// Most bytes laid out before they are sent: they are still in the cache of the
/// core then (1 MiB or more on every machine of the last ten years), and clients
/// of a long period get their datagrams in turns rather than one after the other.
pub(super) const PIECE_LEN_MAX: usize = 512 << 10;

/// Smallest ring: a datagram of any size fits, and the one before it stays whole.
const RING_LEN_MIN: usize = (2 * DATAGRAM_SIZE_MAX).next_power_of_two();

/// Datagrams of leaves that are to be laid out one behind the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a> {
    /// The datagrams.
    pub(super) packets: &'a [Packet],
    /// The leaves that they point into.
    pub(super) leaves: &'a [DataLocId],
    /// Size of the largest datagram.
    pub(super) segment: usize,
}

impl<'a> Batch<'a> {
    /// The parts that are laid out and sent one after the other.
    pub(super) fn pieces(self, len_max: usize) -> impl Iterator<Item = Batch<'a>> {
        let per_piece = (len_max / self.segment.max(1)).max(1);
        self.packets.chunks(per_piece).map(move |packets| Batch { packets, ..self })
    }

    /// The id of the view whose clients get it.
    pub(super) fn view(&self) -> Option<u64> {
        self.packets.first().map(|packet| packet.header.channel.get())
    }

    pub(super) fn leaf_count(&self) -> u64 {
        self.packets.iter().map(|packet| packet.leaves.len() as u64).sum()
    }
}

/// What a ring has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RingCounters {
    /// Datagrams laid out.
    pub(super) datagrams: u64,
    /// Bytes laid out, padding included.
    pub(super) bytes: u64,
    /// Leaves copied out of their records, one copy each.
    pub(super) leaves: u64,
    /// Times that the ring began again at its start.
    pub(super) laps: u64,
    /// Pieces whose place was still being read by the kernel.
    pub(super) crowded: u64,
    /// Pieces that waited for their time.
    pub(super) slices: u64,
}

impl RingCounters {
    fn add(&mut self, piece: Batch<'_>, used: usize) {
        self.datagrams += piece.packets.len() as u64;
        self.bytes += used as u64;
        self.leaves += piece.leaf_count();
    }

    /// Name, sentence and value of each counter.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        [
            ("datagrams", "Datagrams laid out, once for all who get them.", self.datagrams),
            ("bytes", "Bytes laid out, padding included.", self.bytes),
            (
                "leaves",
                "Leaves copied out of their records, once for all who get them.",
                self.leaves,
            ),
            ("laps", "Times that the memory began to be used again.", self.laps),
            (
                "crowded",
                "Pieces sent by copying because their place was still being sent from.",
                self.crowded,
            ),
            (
                "slices",
                "Pieces of periods larger than a burst that waited for their time.",
                self.slices,
            ),
        ]
        .into_iter()
    }
}

/// How pieces of a ring that lends leave.
pub(super) trait Lender {
    /// Sends bytes that stay as they are until the moment returned is over; nothing is
    /// returned if they need not stay.
    fn lend(&mut self, bytes: &[u8]) -> Option<Lent>;
    /// Sends bytes that are written again when this returns.
    fn copy(&mut self, bytes: &[u8]);
    /// Asks which moments are over.
    fn reclaim(&mut self);
    /// Whether a moment is over, as far as was asked.
    fn is_over(&self, lent: Lent) -> bool;
}

/// Pieces that are lent before a ring asks which are over: each question is a system
/// call, and what waits to be asked for takes room in the kernel.
const LENT_MAX: usize = 16;

/// Pieces of the shortest length that is lent which a ring of the default size holds: no
/// period costs an allocation.
const LENT_ROOM: usize = 512;

/// What a ring has lent.
#[derive(Debug)]
struct Lending {
    /// Where pieces lie that may still be read, and until when, oldest first.
    pieces: VecDeque<(Range<usize>, Lent)>,
    /// Where a piece is laid out that finds its place lent.
    spare: MmapMut,
}

impl Lending {
    /// Forgets what is over, and asks for it if much is lent, or the place asked for.
    /// Says whether that place is free.
    fn frees(&mut self, place: &Range<usize>, lender: &mut impl Lender) -> bool {
        let overlaps =
            |(piece, _): &(Range<usize>, Lent)| piece.start < place.end && place.start < piece.end;
        if self.pieces.len() >= LENT_MAX || self.pieces.iter().any(overlaps) {
            lender.reclaim();
        }
        while self.pieces.front().is_some_and(|(_, lent)| lender.is_over(*lent)) {
            self.pieces.pop_front();
        }
        !self.pieces.iter().any(overlaps)
    }
}

/// A mapping in which datagrams are laid out.
#[derive(Debug)]
pub(super) struct EventRing {
    map: MmapMut,
    next: usize,
    lending: Option<Lending>,
    counters: RingCounters,
}

impl EventRing {
    /// A ring of at least `len` bytes. All of its pages are taken now: a period costs
    /// no faults, and the memory of a server does not grow while it runs.
    ///
    /// # Errors
    /// There is no address space or memory for it.
    pub(super) fn new(len: usize) -> io::Result<EventRing> {
        let map = MmapOptions::new().len(len.max(RING_LEN_MIN)).populate().map_anon()?;
        Ok(EventRing { map, next: 0, lending: None, counters: RingCounters::default() })
    }

    /// A ring that may lend. Its pages are large ones where the system has them: the
    /// kernel takes hold of each page that it is lent.
    ///
    /// # Errors
    /// There is no address space or memory for it.
    pub(super) fn of_lender(len: usize) -> io::Result<EventRing> {
        let mut map = MmapOptions::new().len(len.max(RING_LEN_MIN)).map_anon()?;
        large_pages(&map);
        map.fill(0);
        let spare = MmapOptions::new().len(map.len().min(PIECE_LEN_MAX)).populate().map_anon()?;
        let lending = Some(Lending { pieces: VecDeque::with_capacity(LENT_ROOM), spare });
        Ok(EventRing { map, next: 0, lending, counters: RingCounters::default() })
    }

    /// Lays a batch out and hands each piece of it to `send`: finished datagrams of
    /// `batch.segment` bytes, the very last of which may be shorter.
    pub(super) fn lay_out(
        &mut self,
        batch: Batch<'_>,
        source: &impl LeafSource,
        mut send: impl FnMut(&[u8]),
    ) {
        debug_assert!(self.lending.is_none(), "what is lent must not be written");
        for piece in batch.pieces(self.map.len().min(PIECE_LEN_MAX)) {
            let place = self.place(piece.packets.len() * piece.segment);
            let used = lay_out_piece(piece, source, &mut self.map[place.clone()]);
            self.next += used;
            self.counters.add(piece, used);
            send(&self.map[place.start..place.start + used]);
        }
    }

    /// The same, with sends that may go on when they return.
    pub(super) fn lay_out_to(
        &mut self,
        batch: Batch<'_>,
        source: &impl LeafSource,
        lender: &mut impl Lender,
    ) {
        assert!(self.lending.is_some(), "only a ring that lends sends so");
        for piece in batch.pieces(self.map.len().min(PIECE_LEN_MAX)) {
            let place = self.next_place(piece);
            match self.hold(piece, source, place, lender) {
                Some(held) => self.send_held(held, lender),
                None => self.copy_out(piece, source, lender),
            }
        }
    }

    /// Where [`EventRing::hold`] lays this piece out.
    pub(super) fn next_place(&mut self, piece: Batch<'_>) -> Range<usize> {
        self.place(piece.packets.len() * piece.segment)
    }

    /// Lays a piece out at its place, and says where its datagrams lie: to be sent before
    /// the place comes round again. Nothing if the kernel still reads there.
    pub(super) fn hold(
        &mut self,
        piece: Batch<'_>,
        source: &impl LeafSource,
        place: Range<usize>,
        lender: &mut impl Lender,
    ) -> Option<Range<usize>> {
        if let Some(lending) = &mut self.lending
            && !lending.frees(&place, lender)
        {
            return None;
        }
        let used = lay_out_piece(piece, source, &mut self.map[place.clone()]);
        self.next += used;
        self.counters.add(piece, used);
        Some(place.start..place.start + used)
    }

    /// Sends what lies there, and remembers what is lent by that.
    pub(super) fn send_held(&mut self, held: Range<usize>, lender: &mut impl Lender) {
        let lent = lender.lend(&self.map[held.clone()]);
        if let (Some(lending), Some(lent)) = (&mut self.lending, lent) {
            lending.pieces.push_back((held, lent));
        }
    }

    /// Counts a piece that waits for its time.
    pub(super) fn note_slice(&mut self) {
        self.counters.slices += 1;
    }

    /// Sends a piece from the memory beside the ring, by copying.
    pub(super) fn copy_out(
        &mut self,
        piece: Batch<'_>,
        source: &impl LeafSource,
        lender: &mut impl Lender,
    ) {
        let lending = self.lending.as_mut().expect("only what is lent is not free");
        let room = piece.packets.len() * piece.segment;
        let used = lay_out_piece(piece, source, &mut lending.spare[..room]);
        self.counters.add(piece, used);
        self.counters.crowded += 1;
        lender.copy(&lending.spare[..used]);
    }

    /// What the ring has taken.
    pub(super) fn counters(&self) -> &RingCounters {
        &self.counters
    }

    /// The next `len` bytes in one piece.
    fn place(&mut self, len: usize) -> Range<usize> {
        self.next = self.next.next_multiple_of(ALIGN);
        if self.next + len > self.map.len() {
            self.next = 0;
            self.counters.laps += 1;
        }
        self.next..self.next + len
    }
}

/// Asks for large pages. A system that has none serves with small ones.
fn large_pages(map: &MmapMut) {
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    #[cfg(not(target_os = "linux"))]
    let _ = map;
}

/// Lays the datagrams out, pads all but the last, and says how many bytes they take.
pub(super) fn lay_out_piece(piece: Batch<'_>, source: &impl LeafSource, place: &mut [u8]) -> usize {
    let mut used = 0;
    let segments = place.chunks_exact_mut(piece.segment);
    for (left, (packet, segment)) in
        iter::zip((0..piece.packets.len()).rev(), iter::zip(piece.packets, segments))
    {
        let size = wire::lay_out(packet, piece.leaves, source, segment);
        segment[size..].fill(0);
        used += if left == 0 { size } else { segment.len() };
    }
    used
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;
    use zerocopy::little_endian::U32;
    use zerocopy::little_endian::U64;

    use super::*;
    use crate::layout::LeafHead;
    use crate::layout::leaf_wire_len;
    use crate::layout::limits::DATAGRAM_HEADER_LEN;
    use crate::wire::Datagram;
    use crate::wire::DatagramType;
    use crate::wire::Header;
    use crate::wire::PROTOCOL_VERSION;

    /// Leaves whose Data is their own number, `id % 40` bytes of it.
    pub(in crate::runtime) struct Numbered;

    impl LeafSource for Numbered {
        fn copy_wire(&self, leaf: DataLocId, to: &mut [u8]) -> Option<usize> {
            let data = vec![leaf.0 as u8; leaf.0 as usize % 40];
            let mut head = LeafHead {
                checksum: U32::ZERO,
                data_size: U32::new(data.len() as u32),
                data_loc_id: U32::new(leaf.0),
                reserved: U32::ZERO,
                revision: U64::new(9),
            };
            head.checksum = U32::new(wire::leaf_checksum(&head, &data));
            let mut bytes = [head.as_bytes(), &data].concat();
            bytes.resize(leaf_wire_len(data.len()), 0);
            to.get_mut(..bytes.len())?.copy_from_slice(&bytes);
            Some(bytes.len())
        }
    }

    /// One EVENT for each run of leaves, and the size of the largest.
    pub(in crate::runtime) fn plan(runs: &[usize]) -> (Vec<Packet>, Vec<DataLocId>, usize) {
        let leaves: Vec<_> = (0..runs.iter().sum::<usize>() as u32).map(DataLocId).collect();
        let header = Header {
            datagram_type: DatagramType::Event.code(),
            version: PROTOCOL_VERSION,
            ..Header::default()
        };
        let (mut packets, mut start, mut segment) = (Vec::new(), 0, 0);
        for run in runs {
            let range = start..start + run;
            let of = |leaf: &DataLocId| leaf_wire_len(leaf.0 as usize % 40);
            let size = leaves[range.clone()].iter().map(of).sum::<usize>() + DATAGRAM_HEADER_LEN;
            packets.push(Packet { header, response: None, leaves: range });
            segment = segment.max(size);
            start += run;
        }
        (packets, leaves, segment)
    }

    pub(in crate::runtime) fn ids(datagram: &[u8]) -> Vec<u32> {
        match wire::decode(datagram).unwrap().1 {
            Datagram::Event(leaves) => leaves.map(|leaf| leaf.unwrap().data_loc_id().0).collect(),
            other => panic!("expected an EVENT, found {other:?}"),
        }
    }

    #[test]
    fn segments_are_padded_with_zeros_and_the_last_is_cut() {
        let (packets, leaves, segment) = plan(&[3, 9, 1]);
        let batch = Batch { packets: &packets, leaves: &leaves, segment };
        let mut ring = EventRing::new(0).unwrap();
        ring.map.fill(0xff);
        let mut out = Vec::new();
        ring.lay_out(batch, &Numbered, |bytes| out.extend_from_slice(bytes));
        assert_eq!(out.len(), 2 * segment + DATAGRAM_HEADER_LEN + leaf_wire_len(12));
        let first_end =
            DATAGRAM_HEADER_LEN + leaf_wire_len(0) + leaf_wire_len(1) + leaf_wire_len(2);
        assert!(out[first_end..segment].iter().all(|byte| *byte == 0));
        let found: Vec<_> = out.chunks(segment).flat_map(ids).collect();
        assert_eq!(found, (0..13).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_longer_than_the_ring_goes_in_pieces() {
        let (packets, leaves, segment) = plan(&[40; 300]);
        assert!(packets.len() * segment > RING_LEN_MIN);
        let batch = Batch { packets: &packets, leaves: &leaves, segment };
        let mut ring = EventRing::new(1).unwrap();
        let (mut pieces, mut found) = (0, Vec::new());
        ring.lay_out(batch, &Numbered, |bytes| {
            pieces += 1;
            found.extend(bytes.chunks(segment).flat_map(ids));
        });
        assert!(pieces > 1 && ring.counters().laps > 0);
        assert_eq!(ring.counters().datagrams, 300);
        assert_eq!(found, (0..12_000).collect::<Vec<_>>());
    }

    /// Counts how often leaves are copied out.
    struct Counted(std::cell::Cell<u64>);

    impl LeafSource for Counted {
        fn copy_wire(&self, leaf: DataLocId, to: &mut [u8]) -> Option<usize> {
            self.0.set(self.0.get() + 1);
            Numbered.copy_wire(leaf, to)
        }
    }

    #[test]
    fn every_copy_of_a_leaf_is_counted() {
        let (source, mut ring) = (Counted(Default::default()), EventRing::new(0).unwrap());
        for runs in [&[3, 9, 1][..], &[], &[40; 300]] {
            let (packets, leaves, segment) = plan(runs);
            ring.lay_out(Batch { packets: &packets, leaves: &leaves, segment }, &source, |_| {});
        }
        assert_eq!((ring.counters().leaves, source.0.get()), (12_013, 12_013));
    }

    /// A kernel that holds what it was lent until it is told to let go. It sees the bytes
    /// when they are lent, and looks again when they are over.
    #[derive(Default)]
    struct Kernel {
        lent: VecDeque<(u64, *const u8, Vec<u8>)>,
        number: u64,
        over: u64,
        /// What it lets go when it is asked.
        let_go: u64,
        out: Vec<u8>,
        copied: usize,
        asked: usize,
    }

    impl Lender for Kernel {
        fn lend(&mut self, bytes: &[u8]) -> Option<Lent> {
            self.number += 1;
            self.out.extend_from_slice(bytes);
            self.lent.push_back((self.number, bytes.as_ptr(), bytes.to_vec()));
            Some(Lent::at(self.number))
        }

        fn copy(&mut self, bytes: &[u8]) {
            self.out.extend_from_slice(bytes);
            self.copied += 1;
        }

        fn reclaim(&mut self) {
            self.asked += 1;
            self.over = self.let_go;
        }

        fn is_over(&self, lent: Lent) -> bool {
            lent <= Lent::at(self.over)
        }
    }

    impl Kernel {
        /// Looks at all that is still lent: it lies in `ring` as it did.
        fn check(&self, ring: &EventRing) {
            for (_, at, bytes) in self.lent.iter().filter(|(number, ..)| *number > self.let_go) {
                let start = *at as usize - ring.map.as_ptr() as usize;
                assert_eq!(&ring.map[start..start + bytes.len()], bytes);
            }
        }
    }

    #[test]
    fn a_piece_that_finds_its_place_lent_is_copied_and_what_is_lent_stays() {
        let (packets, leaves, segment) = plan(&[40; 40]);
        let batch = Batch { packets: &packets, leaves: &leaves, segment };
        let mut ring = EventRing::of_lender(0).unwrap();
        let mut kernel = Kernel::default();
        let per_lap = ring.map.len() / (segment * 40);
        for _ in 0..per_lap + 3 {
            ring.lay_out_to(batch, &Numbered, &mut kernel);
            kernel.check(&ring);
        }
        assert_eq!((kernel.lent.len(), kernel.copied), (per_lap, 3));
        assert_eq!(ring.counters().crowded, 3);
        // The oldest is over: its place, and no other, is free again.
        kernel.let_go = 1;
        (0..2).for_each(|_| ring.lay_out_to(batch, &Numbered, &mut kernel));
        kernel.check(&ring);
        assert_eq!((kernel.lent.len(), kernel.copied), (per_lap + 1, 4));
        let datagrams = (per_lap as u64 + 5) * 40;
        assert_eq!(ring.counters().datagrams, datagrams);
        let found = kernel.out.chunks(kernel.out.len() / (per_lap + 5));
        assert!(found.into_iter().all(|one| one == &kernel.out[..one.len()]));
    }

    proptest! {
        #[test]
        fn what_was_laid_out_stays_until_its_turn(
            batches in prop::collection::vec(prop::collection::vec(1usize..40, 1..20), 1..40),
        ) {
            let mut ring = EventRing::new(0).unwrap();
            let mut before: Option<(usize, Vec<u8>)> = None;
            for runs in &batches {
                let (packets, leaves, segment) = plan(runs);
                let batch = Batch { packets: &packets, leaves: &leaves, segment };
                let mut out = Vec::new();
                ring.lay_out(batch, &Numbered, |bytes| out.extend_from_slice(bytes));
                let start = ring.next - out.len();
                prop_assert!(start.is_multiple_of(ALIGN));
                if let Some((at, bytes)) = before {
                    prop_assert_eq!(&ring.map[at..at + bytes.len()], &bytes[..]);
                }
                before = Some((start, out));
            }
        }

        #[test]
        fn what_is_lent_is_not_written_before_it_is_over(
            batches in prop::collection::vec(
                (prop::collection::vec(1usize..40, 1..60), 0u64..4), 1..80),
        ) {
            let mut ring = EventRing::of_lender(0).unwrap();
            let mut kernel = Kernel::default();
            for (runs, let_go) in &batches {
                let (packets, leaves, segment) = plan(runs);
                let batch = Batch { packets: &packets, leaves: &leaves, segment };
                ring.lay_out_to(batch, &Numbered, &mut kernel);
                kernel.check(&ring);
                kernel.let_go = kernel.number.min(kernel.let_go + let_go);
            }
            let found = kernel.lent.len() + kernel.copied;
            prop_assert_eq!(found, batches.len());
            prop_assert!(kernel.asked <= batches.len());
        }
    }
}
