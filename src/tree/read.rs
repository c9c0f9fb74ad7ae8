//! Reading leaves: the owner's straight copies, and seqlock reads of others.

use std::sync::Arc;

use zerocopy::FromBytes;

use crate::layout::DataLocId;
use crate::layout::LeafHead;
use crate::layout::RecordHead;
use crate::tree::extent::Record;
use crate::tree::map::Map;
use crate::tree::mapped::Generation;
use crate::tree::mapped::Tree;
use crate::tree::order::Ordering;
use crate::tree::order::SPINS;
use crate::tree::order::Swap;
use crate::tree::order::YIELDS;
use crate::tree::order::fence_before_second_look;
use crate::tree::order::fence_behind_first_look;
use crate::tree::order::spin_loop;
use crate::tree::order::yield_now;
use crate::tree::plan::Layout;

impl Tree {
    /// Copies a leaf as it travels (head and Data) to the front of `to`, fills it
    /// with zeros to a multiple of 8, and gives the length: [`Tree::wire_len`].
    /// Nothing, and `to` is as it was, if there is no such leaf or `to` is shorter.
    #[inline]
    pub fn copy_wire(&self, leaf: DataLocId, to: &mut [u8]) -> Option<usize> {
        let record = self.record(leaf)?;
        let to = to.get_mut(..self.wire_len(leaf))?;
        // The filling is in the record too: bytes behind DataSize are zero, and
        // the stride reaches as far as a multiple of 8 does.
        self.owner.copy_out(record.offset + RecordHead::WIRE_OFFSET, to);
        Some(to.len())
    }

    /// Replaces `data` by the Data of a leaf and gives its head; nothing if there
    /// is no such leaf.
    pub fn read(&self, leaf: DataLocId, data: &mut Vec<u8>) -> Option<LeafHead> {
        let record = self.record(leaf)?;
        let mut head = [0; size_of::<LeafHead>()];
        self.owner.copy_out(record.offset + RecordHead::WIRE_OFFSET, &mut head);
        data.clear();
        data.resize(self.data_size(leaf), 0);
        self.owner.copy_out(record.offset + RecordHead::DATA_OFFSET, data);
        LeafHead::read_from_bytes(&head).ok()
    }
}

/// Reads a tree while its owner writes it: from any thread, without a lock, never
/// a torn leaf. It follows the tree when that grows, and outlives it.
#[derive(Clone, Debug)]
pub struct TreeReader {
    shared: Arc<Swap<Generation>>,
}

impl TreeReader {
    pub(crate) fn new(shared: Arc<Swap<Generation>>) -> TreeReader {
        TreeReader { shared }
    }

    /// Where everything lies at this moment.
    pub fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.shared.load().layout)
    }

    /// Replaces `data` by the Data of a leaf and gives its head.
    ///
    /// A leaf that is being written is tried again, 64 times at once and then
    /// 100,000 times with the processor given away between: longer than any
    /// writer is kept from running. Nothing if there is no such leaf, if it was
    /// never at rest, or if pages of the file are gone.
    pub fn read(&self, leaf: DataLocId, data: &mut Vec<u8>) -> Option<LeafHead> {
        let generation = self.shared.load();
        let record = generation.extents.record(leaf)?;
        for attempt in 0..SPINS + YIELDS {
            if generation.map.lost().is_some() {
                return None;
            }
            if let Some(head) = attempt_read(&generation.map, &record, data) {
                return Some(head);
            }
            if attempt < SPINS { spin_loop() } else { yield_now() }
        }
        None
    }
}

/// One attempt. docs/FORMAT.md, section 7, has the proof that what it gives is
/// the leaf of one write.
pub(crate) fn attempt_read(map: &Map, record: &Record, data: &mut Vec<u8>) -> Option<LeafHead> {
    let seq = map.load_u32(record.offset, Ordering::Relaxed);
    if !seq.is_multiple_of(2) {
        return None;
    }
    fence_behind_first_look();
    let mut head = [0; size_of::<LeafHead>()];
    map.load_bytes(record.offset + RecordHead::WIRE_OFFSET, &mut head);
    let head = LeafHead::read_from_bytes(&head).ok()?;
    // A torn head may say anything; memory follows the capacity alone.
    let len = (head.data_size.get() as usize).min(record.capacity);
    data.clear();
    data.resize(len, 0);
    map.load_bytes(record.offset + RecordHead::DATA_OFFSET, data);
    fence_before_second_look();
    let same = map.load_u32(record.offset, Ordering::Relaxed) == seq && map.lost().is_none();
    (same && head.data_size.get() as usize == len).then_some(head)
}
