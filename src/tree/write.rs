//! Storing leaves: the server's writes, the replica's, and taking what changed.
//!
//! The order of stores is that of docs/FORMAT.md, section 7; a process may die
//! between any two of them.

use core::fmt;
use core::mem::offset_of;
use core::ops::Range;

use zerocopy::IntoBytes;

use crate::layout::DataLocId;
use crate::layout::Digest;
use crate::layout::LeafHead;
use crate::layout::Life;
use crate::layout::RecordHead;
use crate::layout::Revision;
use crate::layout::TreeRole;
use crate::layout::UndoHeader;
use crate::tree::extent::Record;
use crate::tree::map::Owner;
use crate::tree::map::WORD;
use crate::tree::mapped::Tree;
use crate::tree::order::Ordering;
use crate::tree::order::fence_behind_odd;
use crate::tree::plan::Layout;
use crate::tree::plan::UNDO_OFFSET;
use crate::tree::record::CHANGE_FLAG_AT;
use crate::tree::record::empty_head;
use crate::tree::record::leaf_head;
use crate::tree::state::SyncError;

/// Where the undo slot lies, and what its header says: which record is saved, and how long
/// it is. The header's fields count from its begin.
pub(crate) const UNDO_AT: usize = UNDO_OFFSET as usize;
pub(crate) const ARMED_AT: usize = offset_of!(UndoHeader, armed);
pub(crate) const SAVED_LEN_AT: usize = offset_of!(UndoHeader, saved_len);
/// Where a record's seq lies in it.
const SEQ_AT: usize = offset_of!(RecordHead, seq);
/// Where the record that is being overwritten is saved.
pub(crate) const SAVED_AT: usize = UNDO_AT + size_of::<UndoHeader>();

/// Where records are saved: nobody but the owner looks there while the tree is open, as
/// readers of other processes go by the file.
pub(crate) fn saved_range(layout: &Layout) -> Range<usize> {
    // No record is longer than the largest stride.
    SAVED_AT..SAVED_AT + layout.stride_max() as usize
}

/// Whether a replica's leaf counts as changed when it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// ChangeFlag is set: the leaf goes on to whoever watches this tree.
    Changed,
    /// ChangeFlag stays as it is.
    Quiet,
}

/// Why a leaf was not stored. But for [`WriteError::Lost`] the tree is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// There is no such leaf.
    UnknownLeaf {
        /// The leaf that was named.
        leaf: DataLocId,
        /// Leaves are 0 up to this, exclusive.
        leaf_count: u32,
    },
    /// Data exceeds the capacity.
    TooLarge {
        /// The leaf.
        leaf: DataLocId,
        /// Most bytes of Data that it holds.
        capacity: usize,
        /// Bytes of Data that came.
        found: usize,
    },
    /// Data is not as long as its head says.
    DataSize {
        /// The leaf.
        leaf: DataLocId,
        /// DataSize of the head.
        expected: u32,
        /// Bytes of Data that came.
        found: usize,
    },
    /// Reserved bytes of the head are not zero: the record would be damaged by the
    /// rules of the file.
    Reserved {
        /// The leaf.
        leaf: DataLocId,
        /// What they hold.
        found: u32,
    },
    /// A server's leaf is stored by `write`, a replica's by `apply`.
    Role {
        /// The role of this tree.
        found: TreeRole,
    },
    /// A server makes revisions in a life: [`Tree::begin_life`] comes first.
    NoLife,
    /// Leaves are put back before a server's life begins, not in it.
    LifeBegun,
    /// Pages of the file are gone: what is stored may be in no file.
    Lost,
    /// Leaves are staged: a change by another way would overtake them.
    Staged,
    /// A batch of staged leaves is not one to use now.
    Batch {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The highest revision there can be is held already. It takes a forged file.
    RevisionsExhausted,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::UnknownLeaf { leaf, leaf_count } => {
                write!(f, "there is no leaf {leaf}: expected less than {leaf_count}")
            }
            WriteError::TooLarge { leaf, capacity, found } => {
                write!(f, "leaf {leaf} holds {capacity} bytes of data, found {found}")
            }
            WriteError::DataSize { leaf, expected, found } => {
                write!(f, "leaf {leaf} came with data_size {expected} and {found} bytes of data")
            }
            WriteError::Role { found: TreeRole::Server } => {
                write!(f, "a server's tree takes no leaves of another server")
            }
            WriteError::Role { found: TreeRole::Replica } => {
                write!(f, "a replica's tree makes no revisions of its own")
            }
            WriteError::NoLife => write!(f, "a server writes no leaf before its life has begun"),
            WriteError::LifeBegun => write!(f, "a server in its life puts no leaves back"),
            WriteError::Lost => write!(f, "pages of the tree file are gone"),
            WriteError::Reserved { leaf, found } => {
                write!(f, "reserved of leaf {leaf} is {found}, expected 0")
            }
            WriteError::Staged => write!(f, "leaves are staged and not stored yet"),
            WriteError::Batch { what } => write!(f, "a batch of staged leaves: {what}"),
            WriteError::RevisionsExhausted => write!(f, "no higher revision is left"),
        }
    }
}

impl std::error::Error for WriteError {}

/// The server's side.
impl Tree {
    /// Begins a life of this server: newer than every one before, by the tree and
    /// by the clock. The state that says so is on the medium when this returns.
    ///
    /// # Errors
    ///
    /// The state could not be written back, or the file was cut.
    pub fn begin_life(&mut self, unix_s: u64) -> Result<Life, SyncError> {
        if self.redo.is_some() {
            // A later life says that all of an older log is in the tree.
            self.sync()?;
        }
        let newest = self.run.newest.max(self.run.staged);
        let life = self.state.life.next(newest, unix_s);
        self.state.life = life;
        self.state.watermark = newest;
        self.state.store_and_sync(&mut self.owner)?;
        self.check_file().map_err(SyncError::Lost)?;
        self.run.life_start = Some(newest);
        // Not below what is held, were lives ever used up.
        self.run.newest = newest.max(life.base());
        self.run.staged = self.run.newest;
        Ok(life)
    }

    /// Highest revision held when the life began; zero before that.
    pub fn life_start(&self) -> Revision {
        self.run.life_start.unwrap_or(Revision::ZERO)
    }

    /// Stores Data in a leaf as a new change, also when it is what the leaf
    /// holds. When this returns the change survives the death of the process.
    ///
    /// # Errors
    ///
    /// The leaf, its capacity or the state of the tree does not allow it.
    pub fn write(&mut self, leaf: DataLocId, data: &[u8]) -> Result<Revision, WriteError> {
        let record = self.may_write(leaf, data)?;
        if self.has_staged() {
            return Err(WriteError::Staged);
        }
        // The misses pass while the checksum is computed.
        self.index.prefetch(leaf);
        self.prefetch(&record, data.len());
        let revision = self.next_revision()?;
        self.run.newest = revision;
        let head = leaf_head(leaf, revision, data);
        self.store(&record, &head, data, Mark::Changed);
        // Looked at when all is stored, so that what was stored nowhere is not
        // acknowledged.
        if self.is_lost() { Err(WriteError::Lost) } else { Ok(revision) }
    }

    #[inline(always)]
    pub(crate) fn may_write(&self, leaf: DataLocId, data: &[u8]) -> Result<Record, WriteError> {
        self.expect_role(TreeRole::Server)?;
        let record = self.target(leaf, data)?;
        if self.run.life_start.is_none() { Err(WriteError::NoLife) } else { Ok(record) }
    }

    /// Draws a revision above all that were drawn before.
    #[inline]
    pub(crate) fn next_revision(&mut self) -> Result<Revision, WriteError> {
        let last = self.run.staged.max(self.run.newest);
        if last.0 == u64::MAX {
            return Err(WriteError::RevisionsExhausted);
        }
        self.run.staged = last.next();
        Ok(self.run.staged)
    }
}

/// The replica's side.
impl Tree {
    /// Stores a leaf as a server made it, revision and checksum included.
    ///
    /// The caller has verified the checksum, and decided that this revision is to
    /// replace the one held: this compares neither.
    ///
    /// # Errors
    ///
    /// There is no such leaf, Data exceeds its capacity or has another length than
    /// the head says, or the tree is a server's.
    pub fn apply(&mut self, head: &LeafHead, data: &[u8], mark: Mark) -> Result<(), WriteError> {
        self.expect_role(TreeRole::Replica)?;
        let leaf = DataLocId(head.data_loc_id.get());
        let record = self.target(leaf, data)?;
        let expected = head.data_size.get();
        if expected as usize != data.len() {
            return Err(WriteError::DataSize { leaf, expected, found: data.len() });
        }
        if head.reserved.get() != 0 {
            return Err(WriteError::Reserved { leaf, found: head.reserved.get() });
        }
        self.store(&record, head, data, mark);
        if self.is_lost() { Err(WriteError::Lost) } else { Ok(()) }
    }
}

/// Both sides.
impl Tree {
    /// Asks for the memory that a write of this leaf touches, ahead of the write: in a
    /// tree larger than the processor's caches the misses of several leaves are waited
    /// for together then. Any leaf may be named.
    #[inline]
    pub fn expect_write(&self, leaf: DataLocId, data_size: usize) {
        if let Some(record) = self.record(leaf) {
            self.index.prefetch(leaf);
            self.prefetch(&record, data_size);
        }
    }

    /// Asks for the memory that a copy of this leaf reads, ahead of the copy.
    #[inline]
    pub fn expect_read(&self, leaf: DataLocId) {
        if let Some(record) = self.record(leaf) {
            self.prefetch(&record, self.data_size(leaf));
        }
    }

    #[inline]
    fn prefetch(&self, record: &Record, data_size: usize) {
        // What is longer the processor fetches by itself, as it is taken in order.
        let len =
            RecordHead::DATA_OFFSET.saturating_add(data_size).min(record.stride).min(EXPECTED_MAX);
        self.owner.map().prefetch(record.offset, len);
    }

    /// Appends the leaves that changed, ascending, and clears their ChangeFlags.
    /// A write that comes later sets its flag again, so read the records after
    /// this and none is missed.
    pub fn take_changes(&mut self, out: &mut Vec<DataLocId>) {
        let taken = self.index.take_changed();
        out.reserve(taken.len());
        for leaf in taken.iter().copied().map(DataLocId) {
            if let Some(record) = self.record(leaf) {
                self.owner.store_u32(record.offset + CHANGE_FLAG_AT, 0, Ordering::Relaxed);
            }
            out.push(leaf);
        }
        self.index.give_back(taken);
    }

    /// Empties a damaged leaf, whatever its bytes are. A server makes that a
    /// change; a replica goes back to "never written", so that it is fetched.
    pub(crate) fn empty_damaged(&mut self, leaf: DataLocId) {
        let record = self.record(leaf).expect("a scan names leaves of its tree");
        let (head, mark) = self.emptied(leaf);
        // The flag may hold any bits.
        self.owner.store_u32(record.offset + CHANGE_FLAG_AT, 0, Ordering::Relaxed);
        store_record(&mut self.owner, &record, record.stride, &head, &[], mark);
        let old = self.index.digest_of_leaf(leaf);
        self.note(&record, &head, old, mark);
    }

    /// Writes what a leaf holds as a new change.
    pub(crate) fn write_again(&mut self, leaf: DataLocId) -> Result<Revision, WriteError> {
        let mut data = Vec::new();
        self.read(leaf, &mut data);
        self.write(leaf, &data)
    }

    /// Stores a leaf of the redo log, whatever the bytes of its record are.
    pub(crate) fn redo_leaf(&mut self, record: &Record, head: &LeafHead, data: &[u8]) {
        let old = self.index.digest_of_leaf(record.leaf);
        store_record(&mut self.owner, record, record.stride, head, data, Mark::Changed);
        self.note(record, head, old, Mark::Changed);
        self.run.newest = self.run.newest.max(Revision(head.revision.get()));
        self.run.staged = self.run.newest;
    }

    fn emptied(&mut self, leaf: DataLocId) -> (LeafHead, Mark) {
        if self.state.role == TreeRole::Server
            && let Ok(revision) = self.next_revision()
        {
            self.run.newest = revision;
            return (leaf_head(leaf, revision, &[]), Mark::Changed);
        }
        // A server without revisions left cannot tell its replicas of anything.
        (empty_head(leaf), Mark::Quiet)
    }

    #[inline(always)]
    fn expect_role(&self, expected: TreeRole) -> Result<(), WriteError> {
        let found = self.state.role;
        if found == expected { Ok(()) } else { Err(WriteError::Role { found }) }
    }

    #[inline(always)]
    pub(crate) fn target(&self, leaf: DataLocId, data: &[u8]) -> Result<Record, WriteError> {
        match self.record(leaf) {
            Some(record) if data.len() <= record.capacity => Ok(record),
            record => Err(self.no_target(leaf, record, data.len())),
        }
    }

    #[cold]
    fn no_target(&self, leaf: DataLocId, record: Option<Record>, found: usize) -> WriteError {
        match record {
            Some(Record { capacity, .. }) => WriteError::TooLarge { leaf, capacity, found },
            None => WriteError::UnknownLeaf { leaf, leaf_count: self.leaf_count() },
        }
    }

    #[inline(always)]
    pub(crate) fn store(&mut self, record: &Record, head: &LeafHead, data: &[u8], mark: Mark) {
        // Loaded first, so that in a large tree the misses of the columns and of
        // the record are waited for together.
        let old = self.index.digest_of_leaf(record.leaf);
        let used = used_len(self.index.data_size(record.leaf));
        store_record(&mut self.owner, record, used, head, data, mark);
        self.note(record, head, old, mark);
    }

    #[inline(always)]
    pub(crate) fn note(&mut self, record: &Record, head: &LeafHead, old: Digest, mark: Mark) {
        self.index.put(record, head, old);
        if mark == Mark::Changed {
            self.index.mark(record.leaf);
        }
    }
}

/// Bytes of a record that are asked for ahead of a write, at most.
const EXPECTED_MAX: usize = 256;

/// Bytes of a record that are not filling.
pub(crate) const fn used_len(data_size: usize) -> usize {
    (RecordHead::DATA_OFFSET + data_size).next_multiple_of(WORD)
}

/// Overwrites a record of which the first `used` bytes may differ from zero.
#[inline(always)]
pub(crate) fn store_record(
    owner: &mut Owner,
    record: &Record,
    used: usize,
    head: &LeafHead,
    data: &[u8],
    mark: Mark,
) {
    let len = used_len(data.len());
    owner.save(record.offset, used);
    let [undo, leaf] =
        owner.parts([(UNDO_AT, SAVED_LEN_AT + size_of::<u32>()), (record.offset, used.max(len))]);
    // A record is no longer than a stride, which is a u32.
    undo.store_u32(SAVED_LEN_AT, used as u32, Ordering::Relaxed);
    undo.store_u32(ARMED_AT, record.leaf.0 + 1, Ordering::Release);
    // Anything that a crash left odd becomes even by the same two steps.
    let odd = leaf.load_u32(SEQ_AT) | 1;
    // Release: the undo slot is armed before the record is touched.
    leaf.store_u32(SEQ_AT, odd, Ordering::Release);
    // No word below is seen by a reader that does not see `odd` then.
    fence_behind_odd();
    leaf.store_bytes(RecordHead::WIRE_OFFSET, head.as_bytes());
    leaf.store_bytes(RecordHead::DATA_OFFSET, data);
    leaf.zero(len, used);
    if mark == Mark::Changed {
        leaf.store_u32(CHANGE_FLAG_AT, 1, Ordering::Relaxed);
    }
    leaf.store_u32(SEQ_AT, odd.wrapping_add(1), Ordering::Release);
    // Release: the record is whole before it is given up.
    undo.store_u32(ARMED_AT, 0, Ordering::Release);
}

/// Release: the record is whole before it is given up.
pub(crate) fn disarm(owner: &mut Owner) {
    owner.store_u32(UNDO_AT + ARMED_AT, 0, Ordering::Release);
}

/// Puts a record back. The caller disarms.
pub(crate) fn put_back(owner: &mut Owner, record: &Record, saved: &[u8]) {
    let at = record.offset;
    let odd = owner.load_u32(at) | 1;
    owner.store_u32(at, odd, Ordering::Relaxed);
    fence_behind_odd();
    // All but seq, and zeros up to the stride.
    let flag = saved.get(CHANGE_FLAG_AT).copied().unwrap_or(0);
    owner.store_u32(at + CHANGE_FLAG_AT, u32::from(flag), Ordering::Relaxed);
    let wire = saved.get(RecordHead::WIRE_OFFSET..).unwrap_or_default();
    owner.store_bytes(at + RecordHead::WIRE_OFFSET, wire);
    owner.zero(at + saved.len().next_multiple_of(WORD), at + record.stride);
    owner.store_u32(at, odd.wrapping_add(1), Ordering::Release);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::layout::TreeId;
    use crate::tree::create::CreateOptions;
    use crate::tree::open::OpenOptions;
    use crate::tree::recover::Damaged;
    use crate::tree::recover::Ending;
    use crate::tree::recover::Recovery;
    use crate::tree::recover::Undo;

    use super::*;

    const LEAF: DataLocId = DataLocId(3);
    const NOW: u64 = Life::EPOCH_UNIX_S + 1000;

    fn create(path: &Path, role: TreeRole) -> Tree {
        let options = CreateOptions { role, tree_id: TreeId(7), life: Life(0), unix_s: NOW };
        Tree::create(path, Layout::plain(2, 10, 40).unwrap(), options).unwrap()
    }

    fn open(path: &Path, role: TreeRole) -> (Tree, Recovery) {
        Tree::open(path, OpenOptions { role, damaged: Damaged::Refuse, unix_s: NOW }).unwrap()
    }

    #[test]
    fn a_write_that_is_expected_may_be_of_any_leaf_and_length() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = create(&folder.path().join("tree"), TreeRole::Server);
        tree.begin_life(NOW).unwrap();
        tree.write(LEAF, b"as it was").unwrap();
        let before = (value(&tree), tree.digest());
        for leaf in [0, 3, 9, 10, u32::MAX] {
            for data_size in [0, 1, 40, 10_000, usize::MAX] {
                tree.expect_write(DataLocId(leaf), data_size);
            }
        }
        assert_eq!((value(&tree), tree.digest()), before);
    }

    fn value(tree: &Tree) -> (Vec<u8>, Revision) {
        let mut data = Vec::new();
        let head = tree.read(LEAF, &mut data).unwrap();
        (data, Revision(head.revision.get()))
    }

    /// Lets the process die after every single store of a write of `new` over
    /// `old`, and opens what is left.
    fn die_everywhere(old: &[u8], new: &[u8]) {
        let folder = tempfile::tempdir().unwrap();
        let mut undone = 0;
        for stores in 0.. {
            let path = folder.path().join(stores.to_string());
            let mut tree = create(&path, TreeRole::Server);
            tree.begin_life(NOW).unwrap();
            tree.write(LEAF, old).unwrap();
            tree.take_changes(&mut Vec::new());
            let before = value(&tree);
            tree.owner.stores_left.set(stores);
            let revision = tree.write(LEAF, new).unwrap();
            let whole = tree.owner.stores_left.get() > 0;
            drop(tree);
            let (tree, recovery) = open(&path, TreeRole::Server);
            assert_eq!(recovery.ending, Ending::ProcessDeath);
            let after = value(&tree);
            let is_new = after == (new.to_vec(), revision);
            assert!(is_new || after == before, "{after:?} after {stores} stores");
            assert!(is_new || !whole, "lost after {stores} stores");
            assert_eq!(tree.is_changed(LEAF), is_new, "after {stores} stores");
            assert!(tree.owner.load_u32(tree.record(LEAF).unwrap().offset).is_multiple_of(2));
            assert_eq!(tree.owner.load_u32(UNDO_AT + ARMED_AT), 0);
            undone += u32::from(recovery.undone == Some(LEAF));
            if whole {
                break;
            }
        }
        assert!(undone as usize >= used_len(new.len()) / WORD, "undone {undone} times");
    }

    #[test]
    fn death_after_any_store_leaves_the_old_leaf_or_the_new_one() {
        die_everywhere(&[0xaa; 40], &[0x55; 40]);
        die_everywhere(&[0xaa; 33], &[0x55; 7]);
        die_everywhere(b"short", &[0x55; 40]);
        die_everywhere(&[], &[1]);
        die_everywhere(&[9; 9], &[]);
    }

    /// Lets the process die after every store of the recovery itself.
    #[test]
    fn death_in_the_recovery_is_recovered_from() {
        let folder = tempfile::tempdir().unwrap();
        for stores in 0..40 {
            let path = folder.path().join(stores.to_string());
            let mut tree = create(&path, TreeRole::Server);
            tree.begin_life(NOW).unwrap();
            tree.write(LEAF, &[0xaa; 40]).unwrap();
            let before = value(&tree);
            // Undo slot, seq and half of the leaf.
            tree.owner.stores_left.set(9 + 2 + 1 + 4);
            tree.write(LEAF, &[0x55; 40]).unwrap();
            tree.owner.stores_left.set(u64::MAX);
            let file = tree.file.file();
            let undo = Undo::find(file, &tree.generation.extents).unwrap().unwrap();
            tree.owner.stores_left.set(stores);
            put_back(&mut tree.owner, &undo.record, &undo.saved);
            disarm(&mut tree.owner);
            drop(tree);
            let (tree, _) = open(&path, TreeRole::Server);
            assert_eq!(value(&tree), before, "after {stores} stores");
        }
    }

    #[test]
    fn a_replica_stores_what_it_is_given_and_flags_it_if_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = create(&folder.path().join("tree"), TreeRole::Replica);
        let head = leaf_head(LEAF, Revision(77), b"data");
        tree.apply(&head, b"data", Mark::Quiet).unwrap();
        assert_eq!((value(&tree), tree.change_count()), ((b"data".to_vec(), Revision(77)), 0));
        let older = leaf_head(LEAF, Revision(5), b"older");
        tree.apply(&older, b"older", Mark::Changed).unwrap();
        assert!(tree.is_changed(LEAF));
        assert_eq!(tree.newest_revision(), Revision(5));
        assert_eq!(tree.checksums()[LEAF.index()], older.checksum.get());
        let wrong = tree.apply(&older, b"old", Mark::Quiet);
        assert_eq!(wrong, Err(WriteError::DataSize { leaf: LEAF, expected: 5, found: 3 }));
        let role = WriteError::Role { found: TreeRole::Replica };
        assert_eq!(tree.write(LEAF, b""), Err(role));
    }

    #[test]
    fn a_replica_stores_nothing_that_its_next_owner_would_call_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let mut tree = create(&path, TreeRole::Replica);
        let mut head = leaf_head(LEAF, Revision(77), b"data");
        head.reserved = 5.into();
        head.checksum = crate::tree::leaf_checksum(&head, b"data").into();
        let refused = tree.apply(&head, b"data", Mark::Quiet);
        assert_eq!(refused, Err(WriteError::Reserved { leaf: LEAF, found: 5 }));
        assert_eq!(tree.revision(LEAF), Revision::ZERO);
        tree.close().unwrap();
        assert_eq!(open(&path, TreeRole::Replica).1.damaged_count, 0);
    }

    #[test]
    fn refusals_name_what_was_expected() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = create(&folder.path().join("tree"), TreeRole::Server);
        assert_eq!(tree.write(LEAF, b""), Err(WriteError::NoLife));
        tree.begin_life(NOW).unwrap();
        let outside = DataLocId(10);
        assert_eq!(
            tree.write(outside, b"").unwrap_err().to_string(),
            "there is no leaf 10: expected less than 10"
        );
        assert_eq!(
            tree.write(LEAF, &[0; 41]).unwrap_err().to_string(),
            "leaf 3 holds 40 bytes of data, found 41"
        );
        assert_eq!(tree.change_count(), 0);
        let head = leaf_head(LEAF, Revision(1), b"");
        let role = WriteError::Role { found: TreeRole::Server };
        assert_eq!(tree.apply(&head, b"", Mark::Quiet), Err(role));
    }

    #[test]
    fn the_last_revision_is_not_passed() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = create(&folder.path().join("tree"), TreeRole::Server);
        tree.begin_life(NOW).unwrap();
        tree.run.newest = Revision(u64::MAX - 1);
        assert_eq!(tree.write(LEAF, b"last"), Ok(Revision(u64::MAX)));
        assert_eq!(tree.write(LEAF, b"more"), Err(WriteError::RevisionsExhausted));
        tree.begin_life(NOW).unwrap();
        assert_eq!(tree.write(LEAF, b"more"), Err(WriteError::RevisionsExhausted));
    }
}
