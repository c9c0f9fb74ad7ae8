//! What is derived from the records and kept in memory: columns, the set of
//! changed leaves, digests. docs/FORMAT.md, section 8.
//!
//! Per leaf: checksum 4 B, revision 8 B, DataSize 2 B, one bit, and the shares of
//! block maxima and summaries: less than 15 B.

use crate::kernel;
use crate::kernel::ChangedSet;
use crate::kernel::RevisionColumn;
use crate::layout::CHANGES_ROOM;
use crate::layout::DataLocId;
use crate::layout::Digest;
use crate::layout::LeafHead;
use crate::layout::Revision;
use crate::layout::limits::CAPACITY_MAX;
use crate::tree::extent::Record;

const _: () = assert!(CAPACITY_MAX <= u16::MAX as usize, "a DataSize fits the column");

/// The derived columns of one tree. One thread owns them.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    checksums: Vec<u32>,
    revisions: RevisionColumn,
    data_sizes: Vec<u16>,
    changed: ChangedSet,
    of_parents: Vec<Digest>,
    digest: Digest,
    /// Kept, so that the owner's write reuses it.
    taken: Vec<u32>,
}

impl Index {
    /// Columns over leaves that nothing is known of: they count for no digest
    /// until [`Index::insert`] names them.
    pub(crate) fn new(leaf_count: u32, parent_count: u32) -> Index {
        Index {
            checksums: vec![0; leaf_count as usize],
            revisions: RevisionColumn::new(leaf_count),
            data_sizes: vec![0; leaf_count as usize],
            changed: ChangedSet::new(leaf_count),
            of_parents: vec![Digest(0); parent_count as usize],
            digest: Digest(0),
            taken: Vec::with_capacity(leaf_count.min(CHANGES_ROOM) as usize),
        }
    }

    /// Columns over leaves of which all is known; the digests are sums over these.
    pub(crate) fn of(columns: Columns, of_parents: Vec<Digest>) -> Index {
        let leaf_count = columns.leaf_count();
        Index {
            checksums: columns.checksums,
            revisions: RevisionColumn::from_revisions(columns.revisions),
            data_sizes: columns.data_sizes,
            changed: ChangedSet::new(leaf_count),
            digest: of_parents.iter().copied().fold(Digest(0), Digest::plus),
            of_parents,
            taken: Vec::with_capacity(leaf_count.min(CHANGES_ROOM) as usize),
        }
    }

    /// Enters a leaf for the first time.
    pub(crate) fn insert(&mut self, record: &Record, head: &LeafHead) {
        self.put(record, head, Digest(0));
    }

    /// Replaces what is known of a leaf.
    #[inline]
    pub(crate) fn replace(&mut self, record: &Record, head: &LeafHead) {
        let old = self.digest_of_leaf(record.leaf);
        self.put(record, head, old);
    }

    /// What a leaf adds to the digests.
    #[inline]
    pub(crate) fn digest_of_leaf(&self, leaf: DataLocId) -> Digest {
        Digest::of_leaf(leaf, self.revision(leaf), self.checksums[leaf.index()])
    }

    /// Enters a leaf whose part of the digests is `old` so far.
    #[inline(always)]
    pub(crate) fn put(&mut self, record: &Record, head: &LeafHead, old: Digest) {
        let (leaf, revision) = (record.leaf, Revision(head.revision.get()));
        let new = Digest::of_leaf(leaf, revision, head.checksum.get());
        self.digest = self.digest.replace(old, new);
        let of_parent = &mut self.of_parents[record.parent.index()];
        *of_parent = of_parent.replace(old, new);
        self.checksums[leaf.index()] = head.checksum.get();
        self.revisions.set(leaf.0, revision.0);
        // At most the capacity, which fits by the assertion above.
        self.data_sizes[leaf.index()] = head.data_size.get() as u16;
    }

    /// Asks for what is known of a leaf, which is replaced soon.
    #[inline]
    pub(crate) fn prefetch(&self, leaf: DataLocId) {
        kernel::prefetch(self.checksums.as_ptr().wrapping_add(leaf.index()));
        kernel::prefetch(self.revisions.as_slice().as_ptr().wrapping_add(leaf.index()));
        kernel::prefetch(self.data_sizes.as_ptr().wrapping_add(leaf.index()));
    }

    #[inline]
    pub(crate) fn mark(&mut self, leaf: DataLocId) {
        self.changed.mark(leaf.0);
    }

    /// Empties the set of changed leaves and gives its members, ascending. The
    /// buffer comes back by [`Index::give_back`].
    pub(crate) fn take_changed(&mut self) -> Vec<u32> {
        let mut taken = core::mem::take(&mut self.taken);
        self.changed.take(&mut taken);
        taken
    }

    pub(crate) fn give_back(&mut self, mut taken: Vec<u32>) {
        taken.clear();
        self.taken = taken;
    }

    pub(crate) fn changed(&self) -> &ChangedSet {
        &self.changed
    }

    pub(crate) fn checksums(&self) -> &[u32] {
        &self.checksums
    }

    pub(crate) fn revisions(&self) -> &RevisionColumn {
        &self.revisions
    }

    #[inline]
    pub(crate) fn revision(&self, leaf: DataLocId) -> Revision {
        Revision(self.revisions.value(leaf.0))
    }

    #[inline]
    pub(crate) fn data_size(&self, leaf: DataLocId) -> usize {
        usize::from(self.data_sizes[leaf.index()])
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn digests_of_parents(&self) -> &[Digest] {
        &self.of_parents
    }
}

/// The columns before anything follows from them.
#[derive(Debug)]
pub(crate) struct Columns {
    checksums: Vec<u32>,
    revisions: Vec<u64>,
    data_sizes: Vec<u16>,
}

impl Columns {
    pub(crate) fn new(leaf_count: u32) -> Columns {
        let len = leaf_count as usize;
        Columns { checksums: vec![0; len], revisions: vec![0; len], data_sizes: vec![0; len] }
    }

    fn leaf_count(&self) -> u32 {
        // As many as `new` was given.
        self.checksums.len() as u32
    }

    /// All of them, to be filled.
    pub(crate) fn all(&mut self) -> ColumnsPart<'_> {
        ColumnsPart {
            checksums: &mut self.checksums,
            revisions: &mut self.revisions,
            data_sizes: &mut self.data_sizes,
        }
    }
}

/// The columns over neighbouring leaves: those of other parts can be filled meanwhile.
#[derive(Debug, Default)]
pub(crate) struct ColumnsPart<'a> {
    checksums: &'a mut [u32],
    revisions: &'a mut [u64],
    data_sizes: &'a mut [u16],
}

impl<'a> ColumnsPart<'a> {
    /// Takes the first `count` leaves off.
    ///
    /// # Panics
    /// If there are less.
    pub(crate) fn cut(&mut self, count: usize) -> ColumnsPart<'a> {
        let all = core::mem::take(self);
        let (checksums, checksums_rest) = all.checksums.split_at_mut(count);
        let (revisions, revisions_rest) = all.revisions.split_at_mut(count);
        let (data_sizes, data_sizes_rest) = all.data_sizes.split_at_mut(count);
        *self = ColumnsPart {
            checksums: checksums_rest,
            revisions: revisions_rest,
            data_sizes: data_sizes_rest,
        };
        ColumnsPart { checksums, revisions, data_sizes }
    }

    /// Enters the leaf that is `index` behind the first one of this part.
    #[inline]
    pub(crate) fn set(&mut self, index: usize, head: &LeafHead) {
        self.checksums[index] = head.checksum.get();
        self.revisions[index] = head.revision.get();
        // At most the capacity, which fits by the assertion above.
        self.data_sizes[index] = head.data_size.get() as u16;
    }
}

#[cfg(test)]
mod tests {
    use crate::tree::extent::Extents;
    use crate::tree::plan::Layout;
    use crate::tree::record::empty_head;
    use crate::tree::record::leaf_head;

    use super::*;

    /// docs: the file and 24 B a leaf are all that a server of many leaves takes.
    #[test]
    fn the_columns_take_less_than_15_bytes_a_leaf() {
        let leaves = 1 << 20;
        for parents in [1, 1000] {
            let extents = Extents::new(&Layout::plain(parents, leaves, 200).unwrap());
            let index = Index::new(leaves, parents);
            let columns = size_of_val(index.checksums())
                + size_of_val(index.revisions.as_slice())
                + size_of_val(&*index.data_sizes)
                + size_of_val(&*index.of_parents);
            // ChangedSet: a bit a leaf and a 64th of that per summary; maxima: 8 B
            // for 512 leaves.
            let bits = leaves as usize / 8 * 66 / 64;
            let maxima = leaves as usize / 512 * 8;
            let total = columns + bits + maxima + extents.memory();
            assert!(total < leaves as usize * 15, "{total} bytes for {leaves} leaves");
        }
    }

    #[test]
    fn digests_are_those_of_a_full_sum() {
        let extents = Extents::new(&Layout::plain(3, 20, 16).unwrap());
        let mut index = Index::new(20, 3);
        let mut heads: Vec<_> = extents.all().map(|record| empty_head(record.leaf)).collect();
        extents.all().zip(&heads).for_each(|(record, head)| index.insert(&record, head));
        for (i, place) in [3u32, 9, 3, 19, 0].into_iter().enumerate() {
            let leaf = DataLocId(place);
            heads[leaf.index()] = leaf_head(leaf, Revision(i as u64 + 1), &[i as u8]);
            index.replace(&extents.record(leaf).unwrap(), &heads[leaf.index()]);
            let of = |head: &LeafHead| {
                let leaf = DataLocId(head.data_loc_id.get());
                Digest::of_leaf(leaf, Revision(head.revision.get()), head.checksum.get())
            };
            let total = heads.iter().map(of).fold(Digest(0), Digest::plus);
            assert_eq!(index.digest(), total);
            let parts = index.digests_of_parents().iter().copied();
            assert_eq!(parts.fold(Digest(0), Digest::plus), total);
        }
    }
}
