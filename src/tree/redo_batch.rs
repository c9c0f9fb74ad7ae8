//! Staging: leaves that wait for a redo log to make them durable.
//!
//! A staged leaf has its revision and its checksum, and lies in a [`RedoBatch`] as it
//! travels. The tree does not show it yet: neither its Data nor its revision. It is
//! stored when the batch is durable, and not before: docs/FORMAT.md, section 11.

use core::fmt;

use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::kernel::crc32c;
use crate::layout::DataLocId;
use crate::layout::LayoutHash;
use crate::layout::LeafHead;
use crate::layout::Life;
use crate::layout::RedoBatchHead;
use crate::layout::Revision;
use crate::layout::TreeId;
use crate::layout::leaf_wire_len;
use crate::tree::mapped::Tree;
use crate::tree::record::leaf_head;
use crate::tree::write::Mark;
use crate::tree::write::WriteError;

/// Where the leaves of a batch begin.
const LEAVES_AT: usize = size_of::<RedoBatchHead>();

/// Why a leaf was not staged. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StageError {
    /// The tree does not take it.
    Write(WriteError),
    /// The batch has no room for it; an empty one of the same capacity may.
    Full {
        /// Bytes that the leaf takes.
        needed: usize,
        /// Bytes that are left.
        room: usize,
    },
}

impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StageError::Write(error) => write!(f, "{error}"),
            StageError::Full { needed, room } => {
                write!(f, "the batch has room for {room} bytes, the leaf takes {needed}")
            }
        }
    }
}

impl std::error::Error for StageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StageError::Write(error) => Some(error),
            StageError::Full { .. } => None,
        }
    }
}

/// Whose leaves a batch or a log holds: a log takes no other ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) tree_id: TreeId,
    pub(crate) layout_hash: LayoutHash,
    pub(crate) life: Life,
}

/// A batch that is on the medium: which log, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) log: u64,
    pub(crate) sequence: u64,
}

/// Leaves that become durable together, in memory that never grows.
///
/// It goes round: staged into, appended to the log, stored in the tree, cleared.
#[derive(Debug)]
pub struct RedoBatch {
    /// Head, leaves, and what lies behind them up to the capacity.
    bytes: Box<[u8]>,
    /// Bytes of head and leaves.
    len: usize,
    leaves: u32,
    stamp: Option<Stamp>,
    first: Revision,
    newest: Revision,
    pub(crate) committed: Option<Committed>,
}

impl RedoBatch {
    /// An empty batch for `bytes` of leaves as they travel, or a little more: whole
    /// pages with its head. All its memory is taken here.
    pub fn with_capacity(bytes: usize) -> RedoBatch {
        RedoBatch {
            bytes: vec![0; RedoBatchHead::batch_len(bytes)].into_boxed_slice(),
            len: LEAVES_AT,
            leaves: 0,
            stamp: None,
            first: Revision::ZERO,
            newest: Revision::ZERO,
            committed: None,
        }
    }

    /// Whether no leaf is in it.
    pub fn is_empty(&self) -> bool {
        self.leaves == 0
    }

    /// Number of leaves. One that was staged twice counts twice.
    pub fn leaves(&self) -> u32 {
        self.leaves
    }

    /// Bytes that it takes in a log: whole pages.
    pub fn bytes(&self) -> usize {
        RedoBatchHead::batch_len(self.len - LEAVES_AT)
    }

    /// Bytes of leaves for which there is room.
    pub fn room(&self) -> usize {
        self.bytes.len() - self.len
    }

    /// Whether it is in a log, and on the medium: its leaves may be stored.
    pub fn is_committed(&self) -> bool {
        self.committed.is_some()
    }

    /// Highest revision of its leaves, zero if there is none.
    pub fn newest(&self) -> Revision {
        self.newest
    }

    /// Empties it for the next leaves.
    pub fn clear(&mut self) {
        self.len = LEAVES_AT;
        self.leaves = 0;
        self.stamp = None;
        self.first = Revision::ZERO;
        self.newest = Revision::ZERO;
        self.committed = None;
    }

    pub(crate) fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// Whether a leaf of so much Data fits.
    fn fits(&self, data_size: usize) -> Result<(), StageError> {
        let (needed, room) = (leaf_wire_len(data_size), self.room());
        if needed > room { Err(StageError::Full { needed, room }) } else { Ok(()) }
    }

    /// Appends a leaf that fits.
    fn push(&mut self, head: &LeafHead, data: &[u8]) {
        let end = self.len + leaf_wire_len(data.len());
        let place = &mut self.bytes[self.len..end];
        let (of_head, behind) = place.split_at_mut(size_of::<LeafHead>());
        let (of_data, filling) = behind.split_at_mut(data.len());
        of_head.copy_from_slice(head.as_bytes());
        of_data.copy_from_slice(data);
        filling.fill(0);
        let revision = Revision(head.revision.get());
        if self.leaves == 0 {
            self.first = revision;
        }
        self.newest = revision;
        self.len = end;
        self.leaves += 1;
    }

    /// Completes the head and the filling, and gives the bytes of the log.
    pub(crate) fn seal(&mut self, stamp: &Stamp, epoch: u64, sequence: u64) -> &[u8] {
        let end = self.bytes();
        self.bytes[self.len..end].fill(0);
        let mut head = RedoBatchHead {
            magic: RedoBatchHead::MAGIC,
            batch_checksum: U32::new(0),
            leaf_count: U32::new(self.leaves),
            epoch: U64::new(epoch),
            sequence: U64::new(sequence),
            tree_id: U64::new(stamp.tree_id.0),
            layout_hash: U32::new(stamp.layout_hash.0),
            life: U32::new(stamp.life.0),
            // No longer than half a log, which fits.
            leaves_len: U32::new((self.len - LEAVES_AT) as u32),
            reserved: [0; 12],
        };
        self.bytes[..LEAVES_AT].copy_from_slice(head.as_bytes());
        head.batch_checksum = U32::new(crc32c(&self.bytes[..end]));
        self.bytes[..LEAVES_AT].copy_from_slice(head.as_bytes());
        &self.bytes[..end]
    }

    /// Its leaves, in the order in which they were staged.
    pub(crate) fn iter(&self) -> WireLeaves<'_> {
        WireLeaves::new(&self.bytes[LEAVES_AT..self.len])
    }
}

/// Leaves one behind the other as they travel. It ends at the first bytes that are no
/// leaf, and says by [`WireLeaves::rest`] how many are left.
#[derive(Debug)]
pub(crate) struct WireLeaves<'a>(&'a [u8]);

impl<'a> WireLeaves<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> WireLeaves<'a> {
        WireLeaves(bytes)
    }

    /// Bytes that were not read.
    pub(crate) fn rest(&self) -> usize {
        self.0.len()
    }
}

impl<'a> Iterator for WireLeaves<'a> {
    type Item = (LeafHead, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, behind) = LeafHead::read_from_prefix(self.0).ok()?;
        let data = behind.get(..head.data_size.get() as usize)?;
        self.0 = self.0.get(leaf_wire_len(data.len())..)?;
        Some((head, data))
    }
}

/// The server's side with a redo log.
impl Tree {
    /// Gives Data for a leaf its revision and checksum, and puts it into a batch. The
    /// tree holds what it held until [`Tree::store_batch`]; nothing is acknowledged
    /// before.
    ///
    /// # Errors
    ///
    /// The leaf, its capacity or the state of the tree does not allow it, or the batch
    /// is full. Nothing has changed then.
    pub fn stage(
        &mut self,
        leaf: DataLocId,
        data: &[u8],
        batch: &mut RedoBatch,
    ) -> Result<Revision, StageError> {
        self.may_write(leaf, data).map_err(StageError::Write)?;
        let stamp = self.stamp();
        if batch.is_committed() || batch.stamp.is_some_and(|found| found != stamp) {
            let what = "it holds other leaves: it was not cleared";
            return Err(StageError::Write(WriteError::Batch { what }));
        }
        batch.fits(data.len())?;
        let revision = self.next_revision().map_err(StageError::Write)?;
        batch.stamp = Some(stamp);
        batch.push(&leaf_head(leaf, revision, data), data);
        Ok(revision)
    }

    /// Stores the leaves of a batch that a redo log has made durable, each as a
    /// change with the revision that it was staged with. Batches are stored in the
    /// order in which they were staged. They may be acknowledged when this returns.
    ///
    /// # Errors
    ///
    /// The batch is not durable yet, or not the next one, or of another tree, layout
    /// or life: nothing is stored. Or pages of the file are gone.
    pub fn store_batch(&mut self, batch: &RedoBatch) -> Result<(), WriteError> {
        let refused = |what| Err(WriteError::Batch { what });
        let Some(committed) = batch.committed else {
            return refused("it is not in a redo log yet");
        };
        if batch.stamp != Some(self.stamp()) {
            return refused("it is of another tree, layout or life");
        }
        if batch.first <= self.run.newest {
            return refused("it is stored already, or a later one is");
        }
        self.store_leaves(batch)?;
        if let Some(redo) = &mut self.redo
            && redo.log == committed.log
        {
            redo.stored = committed.sequence;
        }
        Ok(())
    }

    /// The stores alone: the caller has checked the batch.
    pub(crate) fn store_leaves(&mut self, batch: &RedoBatch) -> Result<(), WriteError> {
        for (head, data) in batch.iter() {
            let record = self.target(DataLocId(head.data_loc_id.get()), data)?;
            self.store(&record, &head, data, Mark::Changed);
        }
        self.run.newest = self.run.newest.max(batch.newest);
        if self.is_lost() { Err(WriteError::Lost) } else { Ok(()) }
    }

    /// Whether leaves were staged and are not stored.
    pub fn has_staged(&self) -> bool {
        self.run.staged > self.run.newest
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { tree_id: self.tree_id, layout_hash: self.layout_hash(), life: self.life() }
    }
}
