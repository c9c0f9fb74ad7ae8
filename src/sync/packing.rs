//! Which leaves go into which datagram: in order, each datagram as full as it gets.

use core::ops::Range;

use crate::layout::DataLocId;

/// Groups leaves, taken in order, into datagrams with the same room.
#[derive(Debug)]
pub(crate) struct Packer {
    room: usize,
    used: usize,
    start: usize,
    largest: usize,
}

impl Packer {
    /// `room` bytes for leaves in each datagram; `start` is where the first leaf
    /// will lie in its list.
    pub(crate) fn new(room: usize, start: usize) -> Packer {
        Packer { room, used: 0, start, largest: 0 }
    }

    /// Whether a leaf of `wire_len` bytes needs a datagram after this one.
    pub(crate) fn is_full_for(&self, wire_len: usize) -> bool {
        self.used + wire_len > self.room
    }

    /// Takes the leaf into the datagram that is being filled.
    pub(crate) fn add(&mut self, leaf: DataLocId, wire_len: usize, leaves: &mut Vec<DataLocId>) {
        debug_assert!(!self.is_full_for(wire_len), "asked before adding");
        leaves.push(leaf);
        self.used += wire_len;
    }

    /// Ends the datagram and gives the leaves that it carries.
    pub(crate) fn close(&mut self, leaves: &[DataLocId]) -> Range<usize> {
        let range = self.start..leaves.len();
        self.largest = self.largest.max(self.used);
        self.start = leaves.len();
        self.used = 0;
        range
    }

    /// Whether the datagram that is being filled carries nothing yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes of leaves in the largest datagram closed.
    pub(crate) fn largest(&self) -> usize {
        self.largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_filled_in_order() {
        let mut leaves = vec![DataLocId(99)];
        let mut packer = Packer::new(100, 1);
        let mut packets = Vec::new();
        for (leaf, len) in [(0, 40), (1, 60), (2, 100), (3, 8)] {
            if packer.is_full_for(len) {
                packets.push(packer.close(&leaves));
            }
            packer.add(DataLocId(leaf), len, &mut leaves);
        }
        packets.push(packer.close(&leaves));
        assert_eq!(packets, [1..3, 3..4, 4..5]);
        assert_eq!(packer.largest(), 100);
        assert!(packer.is_empty());
    }
}
