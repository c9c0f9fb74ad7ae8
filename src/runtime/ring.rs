//! The event ring: memory of its own in which datagrams of leaves are laid out.
//!
//! Datagrams lie one behind the other as they leave, equal segments padded with
//! zeros. What is laid out is not written again until its turn comes round, and a
//! send is over when the call returns: nobody sees bytes that change. A batch that
//! is too long for the ring is laid out and sent piece by piece.

use std::io;
use std::iter;

use memmap2::MmapMut;
use memmap2::MmapOptions;

use crate::layout::DataLocId;
use crate::layout::limits::DATAGRAM_SIZE_MAX;
use crate::wire;
use crate::wire::LeafSource;
use crate::wire::Packet;

/// Each piece begins at a cache line of its own.
const ALIGN: usize = 64;

/// Most bytes laid out before they are sent: they are still in the cache of the
/// core then (1 MiB or more on every machine of the last ten years), and clients
/// of a long period get their datagrams in turns rather than one after the other.
const PIECE_LEN_MAX: usize = 512 << 10;

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
}

impl RingCounters {
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
        ]
        .into_iter()
    }
}

/// A mapping in which datagrams are laid out.
#[derive(Debug)]
pub(super) struct EventRing {
    map: MmapMut,
    next: usize,
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
        Ok(EventRing { map, next: 0, counters: RingCounters::default() })
    }

    /// Lays a batch out and hands each piece of it to `send`: finished datagrams of
    /// `batch.segment` bytes, the very last of which may be shorter.
    pub(super) fn lay_out(
        &mut self,
        batch: Batch<'_>,
        source: &impl LeafSource,
        mut send: impl FnMut(&[u8]),
    ) {
        for piece in batch.pieces(self.map.len().min(PIECE_LEN_MAX)) {
            let place = self.place(piece.packets.len() * piece.segment);
            let used = lay_out_piece(piece, source, place);
            let start = self.next;
            self.next += used;
            self.counters.datagrams += piece.packets.len() as u64;
            self.counters.bytes += used as u64;
            self.counters.leaves += piece.leaf_count();
            send(&self.map[start..start + used]);
        }
    }

    /// What the ring has taken.
    pub(super) fn counters(&self) -> &RingCounters {
        &self.counters
    }

    /// The next `len` bytes in one piece.
    fn place(&mut self, len: usize) -> &mut [u8] {
        self.next = self.next.next_multiple_of(ALIGN);
        if self.next + len > self.map.len() {
            self.next = 0;
            self.counters.laps += 1;
        }
        &mut self.map[self.next..self.next + len]
    }
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
mod tests {
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
    struct Numbered;

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
    fn plan(runs: &[usize]) -> (Vec<Packet>, Vec<DataLocId>, usize) {
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

    fn ids(datagram: &[u8]) -> Vec<u32> {
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
    }
}
