//! A real tree as the protocol sees it, with what the checkers want to know.
//!
//! The tree is a file, as in the product; restarts open it again, and older copies
//! are copies of it. Beside it lies a second account of every leaf, which the
//! checkers trust instead of the tree's own columns and digest.

#[cfg(test)]
use std::collections::BTreeSet;

use zerocopy::FromBytes;

use crate::bridge;
use crate::bridge::Coverage;
use crate::layout::DataLocId;
use crate::layout::Digest;
use crate::layout::LayoutHash;
use crate::layout::LeafHead;
use crate::layout::Life;
use crate::layout::Parent;
use crate::layout::ParentId;
use crate::layout::Revision;
use crate::layout::TreeId;
#[cfg(test)]
use crate::layout::TreeRole;
use crate::sim::planted::Planted;
use crate::sim::random::mix;
use crate::sync::Leaves;
use crate::sync::ReplicaLeaves;
use crate::sync::ServedLeaves;
use crate::sync::WriteRefusal;
use crate::tree::GrowError;
use crate::tree::Layout;
use crate::tree::Mark;
use crate::tree::Tree;
use crate::wire::Leaf;
use crate::wire::LeafSource;

/// Most parents of a simulated tree.
pub(super) const PARENTS_MAX: usize = 4;

/// A leaf as the checkers know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) revision: u64,
    pub(super) checksum: u32,
    /// The number that whoever wrote it put into its Data: it rises with each write
    /// of a leaf.
    pub(super) version: u64,
}

/// One leaf stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) leaf: u32,
    pub(super) from: Cell,
    pub(super) to: Cell,
}

/// What all leaves of each parent are, in 128 bits: two trees with the same one
/// are equal. It shares nothing with the digest of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StateId(pub(super) [u128; PARENTS_MAX]);

impl StateId {
    /// The part that a path selects: `/p1`, or all.
    pub(super) fn under(&self, filter: Option<usize>) -> u128 {
        match filter {
            Some(parent) => self.0[parent],
            None => self.0.iter().fold(0, |sum, part| sum.wrapping_add(*part)),
        }
    }
}

/// A set of leaves that is cheap to add to.
#[derive(Debug, Default)]
pub(super) struct Touched {
    leaves: Vec<u32>,
    is_in: Vec<bool>,
}

impl Touched {
    fn insert(&mut self, leaf: u32) {
        let place = leaf as usize;
        if place >= self.is_in.len() {
            self.is_in.resize(place + 1, false);
        }
        if !core::mem::replace(&mut self.is_in[place], true) {
            self.leaves.push(leaf);
        }
    }

    /// All of them, ascending. None are left.
    pub(super) fn take(&mut self) -> Vec<u32> {
        let mut leaves = core::mem::take(&mut self.leaves);
        leaves.sort_unstable();
        leaves.iter().for_each(|leaf| self.is_in[*leaf as usize] = false);
        leaves
    }

    pub(super) fn clear(&mut self) {
        self.take();
    }
}

fn id_of(leaf: u32, cell: &Cell) -> u128 {
    let place = mix((u64::from(leaf) << 32 | u64::from(cell.checksum)) ^ 0x5851_f42d_4c95_7f2d);
    let low = mix(place.wrapping_add(cell.revision.rotate_left(17)));
    let high = mix(place.rotate_left(29) ^ mix(cell.revision));
    u128::from(high) << 64 | u128::from(low)
}

/// The number in a leaf's Data.
pub(super) fn version_in(data: &[u8]) -> u64 {
    data.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A leaf as it travels.
pub(super) fn cell_of(leaf: &Leaf<'_>) -> Cell {
    Cell {
        revision: leaf.head.revision.get(),
        checksum: leaf.head.checksum.get(),
        version: version_in(leaf.data),
    }
}

/// A tree with what the protocol asks of it beyond.
#[derive(Debug)]
pub(super) struct SimLeaves {
    tree: Tree,
    blob: Vec<u8>,
    mark: Mark,
    upstream_life_start: Revision,
    coverage: Coverage,
    cells: Vec<Cell>,
    /// What each cell adds to the state.
    ids: Vec<u128>,
    state: StateId,
    /// Leaves stored since the checkers looked last.
    pub(super) steps: Vec<Step>,
    /// Leaves stored since the last period ended: each has to be in its EVENTs.
    pub(super) touched: Touched,
    #[cfg(test)]
    planted: Planted,
    #[cfg(test)]
    is_careless: bool,
    #[cfg(test)]
    hidden: BTreeSet<u32>,
    #[cfg(test)]
    taken: BTreeSet<u32>,
    #[cfg(test)]
    deferred: Vec<(DataLocId, Vec<u8>)>,
}

impl SimLeaves {
    pub(super) fn new(
        tree: Tree,
        mark: Mark,
        coverage: Coverage,
        #[cfg_attr(not(test), expect(unused_variables))] planted: Planted,
    ) -> SimLeaves {
        let mut leaves = SimLeaves {
            blob: tree.layout().to_blob(),
            cells: Vec::new(),
            ids: Vec::new(),
            tree,
            mark,
            upstream_life_start: Revision::ZERO,
            coverage,
            state: StateId::default(),
            steps: Vec::new(),
            touched: Touched::default(),
            #[cfg(test)]
            planted,
            #[cfg(test)]
            is_careless: false,
            #[cfg(test)]
            hidden: BTreeSet::new(),
            #[cfg(test)]
            taken: BTreeSet::new(),
            #[cfg(test)]
            deferred: Vec::new(),
        };
        leaves.take_stock();
        leaves
    }

    /// Reads every leaf.
    fn take_stock(&mut self) {
        self.state = StateId::default();
        self.cells = vec![Cell::default(); self.tree.leaf_count() as usize];
        self.ids = vec![0; self.cells.len()];
        for leaf in 0..self.tree.leaf_count() {
            let (head, data) = self.read(DataLocId(leaf));
            let cell = Cell {
                revision: head.revision.get(),
                checksum: head.checksum.get(),
                version: version_in(&data),
            };
            self.account(leaf, cell);
        }
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Lets the tree grow. What is known of its leaves is read anew: they may lie
    /// elsewhere.
    ///
    /// # Errors
    /// As [`Tree::grow`].
    pub(super) fn grow(&mut self, layout: Layout) -> Result<(), GrowError> {
        let before = self.tree.layout_hash();
        let grown = self.tree.grow(layout);
        if self.tree.layout_hash() == before {
            // It found no room, and is as it was.
            return grown.map(|_| ());
        }
        self.blob = self.tree.layout().to_blob();
        self.steps.clear();
        self.touched.clear();
        self.take_stock();
        grown.map(|_| ())
    }

    pub(super) fn into_tree(self) -> Tree {
        self.tree
    }

    pub(super) fn set_upstream_life_start(&mut self, life_start: Revision) {
        self.upstream_life_start = life_start;
    }

    /// The leaves that a filter selects.
    pub(super) fn range_of(&self, filter: Option<usize>) -> core::ops::Range<u32> {
        let layout = self.tree.layout();
        filter.map_or(0..layout.leaf_count(), |parent| layout.parents()[parent].leaves())
    }

    pub(super) fn state(&self) -> &StateId {
        &self.state
    }

    pub(super) fn cell(&self, leaf: u32) -> Cell {
        self.cells.get(leaf as usize).copied().unwrap_or_default()
    }

    pub(super) fn cells(&self, range: &core::ops::Range<u32>) -> &[Cell] {
        &self.cells[range.start as usize..range.end as usize]
    }

    /// A leaf's head and Data, read from the record itself.
    pub(super) fn read(&self, leaf: DataLocId) -> (LeafHead, Vec<u8>) {
        let mut bytes = vec![0; self.tree.wire_len(leaf)];
        let copied = self.tree.copy_wire(leaf, &mut bytes);
        assert_eq!(copied, Some(bytes.len()), "leaf {leaf} takes the bytes that it says");
        let (head, data) = LeafHead::read_from_prefix(&bytes).expect("a leaf holds its head");
        (head, data[..head.data_size.get() as usize].to_vec())
    }

    /// Stores a leaf behind the protocol's back: a disk that forgot.
    pub(super) fn rot(&mut self, head: &LeafHead, data: &[u8]) {
        let cell = Cell {
            revision: head.revision.get(),
            checksum: head.checksum.get(),
            version: version_in(data),
        };
        if self.tree.apply(head, data, Mark::Quiet).is_ok() {
            self.account(head.data_loc_id.get(), cell);
        }
    }

    fn account(&mut self, leaf: u32, to: Cell) {
        let parent = self.parent_of(leaf);
        self.cells[leaf as usize] = to;
        let id = id_of(leaf, &to);
        let before = core::mem::replace(&mut self.ids[leaf as usize], id);
        let sum = &mut self.state.0[parent];
        *sum = sum.wrapping_sub(before).wrapping_add(id);
    }

    fn parent_of(&self, leaf: u32) -> usize {
        let parents = self.tree.layout().parents();
        let found = parents.iter().position(|parent| parent.leaves().contains(&leaf));
        found.expect("every leaf has a parent")
    }

    fn stored(&mut self, leaf: u32, to: Cell) {
        let from = self.cells[leaf as usize];
        self.account(leaf, to);
        self.steps.push(Step { leaf, from, to });
        if self.mark == Mark::Changed {
            self.touched.insert(leaf);
        }
    }

    fn write_now(&mut self, leaf: DataLocId, data: &[u8]) -> Result<Revision, WriteRefusal> {
        let revision = self.tree.write(leaf, data).map_err(bridge::refusal)?;
        let checksum = self.tree.checksums()[leaf.index()];
        let cell = Cell { revision: revision.0, checksum, version: version_in(data) };
        self.stored(leaf.0, cell);
        Ok(revision)
    }

    #[cfg(test)]
    fn linear_digest(&self, leaves: core::ops::Range<u32>) -> Digest {
        let crc = |leaf| u64::from(crate::kernel::crc32c(&self.read(DataLocId(leaf)).1));
        Digest(leaves.fold(0, |sum, leaf| sum ^ crc(leaf)))
    }
}

impl LeafSource for SimLeaves {
    fn copy_wire(&self, leaf: DataLocId, to: &mut [u8]) -> Option<usize> {
        self.tree.copy_wire(leaf, to)
    }
}

impl Leaves for SimLeaves {
    fn tree_id(&self) -> TreeId {
        self.tree.tree_id()
    }

    fn life(&self) -> Life {
        self.tree.life()
    }

    fn layout_hash(&self) -> LayoutHash {
        self.tree.layout_hash()
    }

    fn leaf_count(&self) -> u32 {
        self.tree.leaf_count()
    }

    fn parents(&self) -> &[Parent] {
        self.tree.layout().parents()
    }

    fn parent_at(&self, path: &str) -> Option<ParentId> {
        self.tree.layout().parent_at(path)
    }

    fn checksums(&self) -> &[u32] {
        self.tree.checksums()
    }

    fn revision(&self, leaf: DataLocId) -> Revision {
        #[cfg(test)]
        if self.planted == Planted::RevisionsIgnored && self.tree.role() == TreeRole::Replica {
            return Revision::ZERO;
        }
        #[cfg(test)]
        if self.planted == Planted::OlderTakenAtOnce && self.is_careless {
            return Revision::ZERO;
        }
        bridge::revision(&self.tree, leaf)
    }

    fn next_changed_since(&self, from: u32, end: u32, since: Revision) -> Option<DataLocId> {
        bridge::next_changed_since(&self.tree, from, end, since)
    }

    fn newest_revision(&self) -> Revision {
        self.tree.newest_revision()
    }

    fn digest(&self) -> Digest {
        #[cfg(test)]
        if self.planted == Planted::LinearDigest {
            return self.linear_digest(0..self.tree.leaf_count());
        }
        self.tree.digest()
    }

    fn digest_of_parent(&self, parent: ParentId) -> Digest {
        #[cfg(test)]
        if self.planted == Planted::LinearDigest {
            return self.linear_digest(self.parents()[parent.index()].leaves());
        }
        self.tree.digest_of_parent(parent).unwrap_or_default()
    }
}

impl ServedLeaves for SimLeaves {
    fn life_start(&self) -> Revision {
        bridge::life_start(&self.tree, self.upstream_life_start)
    }

    fn wire_len(&self, leaf: DataLocId) -> usize {
        self.tree.wire_len(leaf)
    }

    fn is_changed(&self, leaf: DataLocId) -> bool {
        #[cfg(test)]
        if self.hidden.contains(&leaf.0) {
            return false;
        }
        self.tree.is_changed(leaf)
    }

    fn has_changes(&self) -> bool {
        self.tree.change_count() > 0
    }

    fn take_changes(&mut self, into: &mut Vec<DataLocId>) {
        let start = into.len();
        self.tree.take_changes(into);
        debug_assert!(into[start..].is_sorted());
        #[cfg(test)]
        self.misbehave_after_taking(into, start);
    }

    fn write(&mut self, leaf: DataLocId, data: &[u8]) -> Result<Revision, WriteRefusal> {
        #[cfg(test)]
        if self.planted == Planted::AcknowledgedFirst {
            self.check_write(leaf, data.len())?;
            self.deferred.push((leaf, data.to_vec()));
            return Ok(self.tree.newest_revision());
        }
        #[cfg(test)]
        if self.taken.remove(&leaf.0) {
            self.hidden.insert(leaf.0);
        }
        self.write_now(leaf, data)
    }

    fn check_write(&self, leaf: DataLocId, data_size: usize) -> Result<(), WriteRefusal> {
        bridge::check_write(&self.tree, leaf, data_size)
    }

    fn layout_blob(&self) -> &[u8] {
        &self.blob
    }
}

#[cfg(test)]
impl SimLeaves {
    /// Whether what comes next answers a question that a difference led to.
    pub(super) fn set_careless(&mut self, is_careless: bool) {
        self.is_careless = is_careless;
    }

    fn is_older_in_this_life(&self, leaf: &Leaf<'_>) -> bool {
        let held = self.cell(leaf.data_loc_id().0).revision;
        leaf.head.revision.get() < held && held > self.life().base().0
    }

    /// Writes what was acknowledged already.
    pub(super) fn write_deferred(&mut self) {
        for (leaf, data) in core::mem::take(&mut self.deferred) {
            self.write_now(leaf, &data).expect("it was checked");
        }
    }

    /// As if the flag were cleared when the record has been read: a write that came
    /// in between loses its flag. Here the first write after the period's end is
    /// that one.
    fn misbehave_after_taking(&mut self, into: &mut Vec<DataLocId>, start: usize) {
        if self.planted == Planted::FlagClearedLate {
            let hidden = core::mem::take(&mut self.hidden);
            let mut taken = into.split_off(start);
            taken.retain(|leaf| !hidden.contains(&leaf.0));
            self.taken = taken.iter().map(|leaf| leaf.0).collect();
            into.append(&mut taken);
        }
    }
}

impl ReplicaLeaves for SimLeaves {
    fn apply(&mut self, leaf: &Leaf<'_>) -> bool {
        #[cfg(test)]
        if self.planted == Planted::OlderNeverTaken && self.is_older_in_this_life(leaf) {
            return false;
        }
        let is_stored = self.tree.apply(leaf.head, leaf.data, self.mark).is_ok();
        if is_stored {
            self.stored(leaf.head.data_loc_id.get(), cell_of(leaf));
        }
        is_stored
    }

    fn follow(&mut self, life: Life, watermark: Revision) {
        bridge::follow(&mut self.tree, self.coverage, life, watermark);
    }
}
