//! Reading leaves of an inspected file, one or all, while its owner may write.
//!
//! A record is taken only if its seqlock was the same even number before and after
//! its bytes were read, each by a pread of its own: two system calls are in order,
//! the bytes of one are not. All leaves are read in blocks by the same rule, three
//! preads a block while an owner may live, one where the state says that it closed
//! the file; what is not whole in a block is read again alone. An odd seqlock is
//! waited for a little; if it stays, a crash left it, and the undo slot may hold the
//! leaf as it was.

use core::ops::Range;
use core::sync::atomic::Ordering;
use core::time::Duration;

use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::DataLocId;
use crate::layout::LeafHead;
use crate::layout::Parent;
use crate::layout::RecordHead;
use crate::layout::Revision;
use crate::layout::UndoHeader;
use crate::tree::inspect::InspectError;
use crate::tree::inspect::TreeFile;
use crate::tree::plan::UNDO_OFFSET;
use crate::tree::record::sum_records;
use crate::tree::record_check::LeafDamage;
use crate::tree::record_check::LeafView;
use crate::tree::record_check::Origin;
use crate::tree::record_check::check_record;
use crate::tree::record_check::check_summed;

/// Bytes of records read at once: three reads of a block find it in the cache.
const BLOCK_LEN: usize = 256 << 10;

/// Readings of one record before it counts as damaged.
const ATTEMPTS: u32 = 20;

/// A leaf that was read, or what is wrong with its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned<'a> {
    /// A whole leaf.
    Leaf(LeafView<'a>),
    /// The record is damaged, and the undo slot does not hold the leaf.
    Damaged {
        /// Its DataLocID.
        leaf: DataLocId,
        /// What is wrong.
        damage: LeafDamage,
    },
}

/// A leaf that was read, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafState {
    /// Location of the leaf.
    pub data_loc_id: DataLocId,
    /// 1 if the leaf changed since it was last sent, otherwise 0.
    pub change_flag: u32,
    /// Number of the change that brought this Data, 0 if there was none.
    pub revision: Revision,
    /// CRC32C over the part of the leaf that travels, behind this field.
    pub checksum: u32,
    /// DataSize bytes.
    pub data: Vec<u8>,
    /// Where it was found.
    pub origin: Origin,
}

impl LeafState {
    /// Borrows it as a scan gives it.
    pub fn view(&self) -> LeafView<'_> {
        LeafView {
            data_loc_id: self.data_loc_id,
            change_flag: self.change_flag,
            revision: self.revision,
            checksum: self.checksum,
            data: &self.data,
            origin: self.origin,
        }
    }

    /// Its head as it travels and as it lies in a record.
    pub fn head(&self) -> LeafHead {
        LeafHead {
            checksum: U32::new(self.checksum),
            // Data is no longer than a capacity, which is far below a u32.
            data_size: U32::new(self.data.len() as u32),
            data_loc_id: U32::new(self.data_loc_id.0),
            reserved: U32::new(0),
            revision: U64::new(self.revision.0),
        }
    }
}

impl From<LeafView<'_>> for LeafState {
    fn from(view: LeafView<'_>) -> LeafState {
        LeafState {
            data_loc_id: view.data_loc_id,
            change_flag: view.change_flag,
            revision: view.revision,
            checksum: view.checksum,
            data: view.data.to_vec(),
            origin: view.origin,
        }
    }
}

/// Where a record lies and how much it holds.
#[derive(Clone, Copy)]
struct Spot {
    leaf: DataLocId,
    offset: u64,
    stride: usize,
    capacity: u32,
}

impl Spot {
    fn of(row: &Parent, leaf: DataLocId) -> Spot {
        let stride = row.stride.get();
        let index = u64::from(leaf.0.saturating_sub(row.first_leaf_loc_id.get()));
        Spot {
            leaf,
            offset: row.first_record_offset.get() + index * u64::from(stride),
            stride: stride as usize,
            capacity: row.capacity.get(),
        }
    }
}

impl TreeFile {
    /// Reads one leaf; `Ok(None)` if the tree has no such leaf.
    ///
    /// # Errors
    ///
    /// What the system refuses. Damage of the record is within the answer.
    pub fn read_leaf(
        &self,
        leaf: DataLocId,
    ) -> Result<Option<Result<LeafState, LeafDamage>>, InspectError> {
        let Some(row) = self.layout().parent_of(leaf) else {
            return Ok(None);
        };
        let mut buffer = Vec::new();
        let read = self.read_spot(Spot::of(row, leaf), &mut buffer)?;
        Ok(Some(read.map(LeafState::from)))
    }

    /// Reads all leaves, in the order of their DataLocIDs.
    pub fn leaves(&self) -> Leaves<'_> {
        self.leaves_in(0..self.layout().leaf_count())
    }

    /// Reads the leaves of a range, as far as the tree has them.
    pub fn leaves_in(&self, range: Range<u32>) -> Leaves<'_> {
        let end = range.end.min(self.layout().leaf_count());
        Leaves { file: self, next: range.start, end, block: Block::default(), alone: Vec::new() }
    }

    /// Waits a moment for a writer, unless patience has run out.
    pub(super) fn pause(&self) -> bool {
        let left = |left: u32| left.checked_sub(1);
        let patient =
            self.patience.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok();
        if patient {
            std::thread::sleep(Duration::from_millis(1));
        }
        patient
    }

    /// Number of the state, if it says that no owner has the file open.
    fn closed_state(&self) -> Result<Option<u64>, InspectError> {
        let newest = self.state_slots()?.into_iter().flatten().max_by_key(|s| s.sequence.get());
        Ok(newest.filter(|state| state.clean.get() == 1).map(|state| state.sequence.get()))
    }

    fn seq(&self, spot: Spot) -> Result<u32, InspectError> {
        let mut bytes = [0; 4];
        self.read(&mut bytes, spot.offset, "read a record")?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn read_spot<'b>(
        &self,
        spot: Spot,
        buffer: &'b mut Vec<u8>,
    ) -> Result<Result<LeafView<'b>, LeafDamage>, InspectError> {
        buffer.resize(spot.stride, 0);
        for attempt in 1..=ATTEMPTS {
            let before = self.seq(spot)?;
            self.read(buffer, spot.offset, "read a record")?;
            let after = self.seq(spot)?;
            let steady = before == after && seq_of(buffer) == before;
            let damage = match check_record(buffer, spot.leaf, spot.capacity) {
                Ok(_) if steady => break,
                Err(damage) if steady => damage,
                _ => LeafDamage::Torn { seq: after },
            };
            // What is damaged though nobody writes it will be so next time.
            let settled = steady && after % 2 == 0 && attempt > 1;
            if settled || attempt == ATTEMPTS || !self.pause() {
                return self.read_undo(spot, buffer, damage);
            }
        }
        Ok(check_record(buffer, spot.leaf, spot.capacity))
    }

    /// The leaf as the undo slot holds it, or else the damage of its record.
    fn read_undo<'b>(
        &self,
        spot: Spot,
        buffer: &'b mut Vec<u8>,
        damage: LeafDamage,
    ) -> Result<Result<LeafView<'b>, LeafDamage>, InspectError> {
        let undo = self.undo()?;
        let saved_len = undo.saved_len.get() as usize;
        let armed = u64::from(undo.armed.get()) == u64::from(spot.leaf.0) + 1;
        if !armed || saved_len > spot.stride {
            return Ok(Err(damage));
        }
        buffer.resize(saved_len, 0);
        let offset = UNDO_OFFSET + size_of::<UndoHeader>() as u64;
        self.read(buffer, offset, "read the undo slot")?;
        Ok(match check_record(buffer, spot.leaf, spot.capacity) {
            Ok(view) => Ok(LeafView { origin: Origin::Undo, ..view }),
            Err(_) => Err(damage),
        })
    }
}

fn seq_of(record: &[u8]) -> u32 {
    record.first_chunk::<4>().map_or(1, |bytes| u32::from_le_bytes(*bytes))
}

/// Leaves of a file in the order of their DataLocIDs, read in blocks.
#[derive(Debug)]
pub struct Leaves<'f> {
    file: &'f TreeFile,
    next: u32,
    end: u32,
    block: Block,
    alone: Vec<u8>,
}

/// Records of one parent, one behind the other.
#[derive(Debug, Default)]
struct Block {
    leaves: Range<u32>,
    stride: usize,
    capacity: u32,
    offset: u64,
    records: Vec<u8>,
    /// Each record's seqlock before the records were read.
    before: Vec<u32>,
    /// And after.
    after: Vec<u32>,
    /// Each record's checksum.
    sums: Vec<u32>,
    scratch: Vec<u8>,
}

impl Leaves<'_> {
    /// Reads the next leaf; nothing behind the last one.
    ///
    /// # Errors
    ///
    /// What the system refuses; there are no further leaves then.
    pub fn next_leaf(&mut self) -> Result<Option<Scanned<'_>>, InspectError> {
        if self.next >= self.end {
            return Ok(None);
        }
        let leaf = DataLocId(self.next);
        self.next += 1;
        if !self.block.leaves.contains(&leaf.0)
            && let Err(error) = self.fill(leaf)
        {
            self.next = self.end;
            return Err(error);
        }
        let spot = self.block.spot(leaf);
        if let Some((record, sum)) = self.block.steady(leaf)
            && let Ok(view) = check_summed(record, leaf, self.block.capacity, sum)
        {
            return Ok(Some(Scanned::Leaf(view)));
        }
        Ok(Some(match self.file.read_spot(spot, &mut self.alone)? {
            Ok(view) => Scanned::Leaf(view),
            Err(damage) => Scanned::Damaged { leaf, damage },
        }))
    }

    fn fill(&mut self, leaf: DataLocId) -> Result<(), InspectError> {
        let Some(row) = self.file.layout().parent_of(leaf) else {
            // Every leaf below leaf_count has a parent.
            return Ok(());
        };
        let spot = Spot::of(row, leaf);
        let most = (BLOCK_LEN / spot.stride.max(1)).max(1) as u32;
        let end = row.leaves().end.min(self.end).min(leaf.0.saturating_add(most));
        self.block.read(self.file, spot, leaf.0..end)
    }
}

impl Block {
    fn read(
        &mut self,
        file: &TreeFile,
        spot: Spot,
        leaves: Range<u32>,
    ) -> Result<(), InspectError> {
        self.read_records(file, spot, leaves)?;
        // All at once, which takes a fraction of the time.
        sum_records(&self.records, self.stride, self.capacity, &mut self.sums);
        Ok(())
    }

    fn read_records(
        &mut self,
        file: &TreeFile,
        spot: Spot,
        leaves: Range<u32>,
    ) -> Result<(), InspectError> {
        let len = leaves.len() * spot.stride;
        self.records.resize(len, 0);
        self.scratch.resize(len, 0);
        self.stride = spot.stride;
        self.capacity = spot.capacity;
        self.offset = spot.offset;
        let closed = file.closed_state()?;
        if closed.is_some() {
            file.read(&mut self.records, spot.offset, "read records")?;
            seqs(&mut self.before, &self.records, spot.stride);
            // An owner writes the state when it opens the file, before any record
            // that was whole, so nobody wrote records in between.
            if file.closed_state()? == closed {
                self.after.clone_from(&self.before);
                self.leaves = leaves;
                return Ok(());
            }
        }
        file.read(&mut self.scratch, spot.offset, "read records")?;
        seqs(&mut self.before, &self.scratch, spot.stride);
        file.read(&mut self.records, spot.offset, "read records")?;
        file.read(&mut self.scratch, spot.offset, "read records")?;
        seqs(&mut self.after, &self.scratch, spot.stride);
        self.leaves = leaves;
        Ok(())
    }

    fn spot(&self, leaf: DataLocId) -> Spot {
        let index = leaf.0.saturating_sub(self.leaves.start);
        Spot {
            leaf,
            offset: self.offset + u64::from(index) * self.stride as u64,
            stride: self.stride,
            capacity: self.capacity,
        }
    }

    /// The record and its checksum, if nobody wrote it while it was read.
    fn steady(&self, leaf: DataLocId) -> Option<(&[u8], u32)> {
        let index = leaf.0.checked_sub(self.leaves.start)? as usize;
        let start = index.checked_mul(self.stride)?;
        let record = self.records.get(start..start.checked_add(self.stride)?)?;
        let seq = *self.before.get(index)?;
        let same = self.after.get(index) == Some(&seq) && seq_of(record) == seq;
        if same { Some((record, *self.sums.get(index)?)) } else { None }
    }
}

fn seqs(column: &mut Vec<u32>, records: &[u8], stride: usize) {
    column.clear();
    column.extend(records.chunks_exact(stride.max(size_of::<RecordHead>())).map(seq_of));
}
