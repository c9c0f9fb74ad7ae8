//! The revision of each leaf, and what is newer than a given one.

use core::cmp::Ordering;
use core::ops::Range;

/// Leaves under one maximum: 4 KiB of revisions, one page.
///
/// Passing over a block costs one comparison, looking into one costs 512. Over
/// 1 M leaves that is 2,048 maxima, 16 KiB, half of a small L1: smaller blocks
/// would push the maxima out of it, larger ones make a search that ends in
/// its block longer than the one that found the block.
const BLOCK: usize = 512;

/// Revisions that are looked at with one branch, so that the rest is vector code.
const STEP: usize = 8;

/// A revision for each leaf, with the maximum of every block of leaves.
///
/// Revisions rise: then [`set`](Self::set) is two stores. One may be lowered, as
/// when a replica follows a server that was restored from a backup; if that was
/// the maximum of its block, the block is read again. So maxima are exact, and
/// [`max`](Self::max) may be used as a watermark.
#[derive(Clone, Debug, Default)]
pub struct RevisionColumn {
    revisions: Vec<u64>,
    maxima: Vec<u64>,
}

impl RevisionColumn {
    /// A column over leaves `0..leaf_count`, every revision 0.
    pub fn new(leaf_count: u32) -> RevisionColumn {
        let mut column = RevisionColumn::default();
        column.grow(leaf_count);
        column
    }

    /// A column of these revisions, in the order of DataLocID.
    pub fn from_revisions(revisions: Vec<u64>) -> RevisionColumn {
        let maxima = revisions.chunks(BLOCK).map(maximum).collect();
        RevisionColumn { revisions, maxima }
    }

    /// Makes room for leaves `0..leaf_count`; the new ones have revision 0.
    /// Does nothing if there is room already.
    pub fn grow(&mut self, leaf_count: u32) {
        let len = (leaf_count as usize).max(self.revisions.len());
        self.revisions.resize(len, 0);
        self.maxima.resize(len.div_ceil(BLOCK), 0);
    }

    /// Gives `leaf` the revision `revision`.
    ///
    /// # Panics
    /// If there is no such leaf.
    #[inline]
    pub fn set(&mut self, leaf: u32, revision: u64) {
        let leaf = leaf as usize;
        let old = core::mem::replace(&mut self.revisions[leaf], revision);
        let max = &mut self.maxima[leaf / BLOCK];
        match revision.cmp(max) {
            Ordering::Greater => *max = revision,
            Ordering::Less if old == *max => self.find_maximum(leaf / BLOCK),
            _ => {}
        }
    }

    /// The revision of `leaf`.
    ///
    /// # Panics
    /// If there is no such leaf.
    #[inline]
    pub fn value(&self, leaf: u32) -> u64 {
        self.revisions[leaf as usize]
    }

    /// The first leaf of `from..end` whose revision is greater than `since`.
    ///
    /// An `end` behind the last leaf means the last leaf.
    pub fn next_since(&self, from: u32, end: u32, since: u64) -> Option<u32> {
        let end = (end as usize).min(self.revisions.len());
        let mut from = from as usize;
        while from < end {
            let block = from / BLOCK;
            let newer = self.maxima[block..].iter().position(|max| *max > since)?;
            let start = from.max((block + newer) * BLOCK);
            let stop = ((block + newer + 1) * BLOCK).min(end);
            if let Some(leaf) = self.first_newer(start..stop, since) {
                return Some(leaf as u32);
            }
            from = stop.max(start);
        }
        None
    }

    /// The highest revision of all leaves, 0 if there are none. Reads one
    /// number for every 512 leaves.
    pub fn max(&self) -> u64 {
        self.maxima.iter().copied().max().unwrap_or(0)
    }

    /// The revisions, in the order of DataLocID.
    pub fn as_slice(&self) -> &[u64] {
        &self.revisions
    }

    fn first_newer(&self, leaves: Range<usize>, since: u64) -> Option<usize> {
        let (start, revisions) = (leaves.start, self.revisions.get(leaves)?);
        let (steps, rest) = revisions.as_chunks::<STEP>();
        let newer = |revision: &u64| *revision > since;
        for (i, step) in steps.iter().enumerate() {
            if step.iter().fold(false, |any, revision| any | newer(revision)) {
                return step.iter().position(newer).map(|at| start + i * STEP + at);
            }
        }
        let at = rest.iter().position(newer)?;
        Some(start + steps.len() * STEP + at)
    }

    #[cold]
    fn find_maximum(&mut self, block: usize) {
        let leaves = self.revisions.chunks(BLOCK).nth(block);
        self.maxima[block] = leaves.map_or(0, maximum);
    }
}

fn maximum(revisions: &[u64]) -> u64 {
    revisions.iter().copied().fold(0, u64::max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn next_since(model: &[u64], from: u32, end: u32, since: u64) -> Option<u32> {
        let end = end.min(model.len() as u32);
        (from..end).find(|leaf| model[*leaf as usize] > since)
    }

    fn check_maxima(column: &RevisionColumn) {
        for (block, max) in column.revisions.chunks(BLOCK).zip(&column.maxima) {
            assert_eq!(block.iter().max(), Some(max));
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_vec(
            leaf_count in 1u32..3000,
            sets in prop::collection::vec((0u32..3000, 0u64..50), 0..200),
            queries in prop::collection::vec((0u32..3300, 0u32..3300, 0u64..50), 1..50),
            grown in 0u32..3300,
        ) {
            let mut column = RevisionColumn::new(leaf_count);
            let mut model = vec![0; leaf_count as usize];
            for (leaf, revision) in sets {
                let leaf = leaf % leaf_count;
                column.set(leaf, revision);
                model[leaf as usize] = revision;
                prop_assert_eq!(column.value(leaf), revision);
            }
            column.grow(grown);
            model.resize(model.len().max(grown as usize), 0);
            prop_assert_eq!(column.as_slice(), &model[..]);
            prop_assert_eq!(column.max(), model.iter().copied().max().unwrap_or(0));
            check_maxima(&column);
            let made = RevisionColumn::from_revisions(model.clone());
            prop_assert_eq!(&made.revisions, &column.revisions);
            prop_assert_eq!(&made.maxima, &column.maxima);
            for (from, end, since) in queries {
                let expected = next_since(&model, from, end, since);
                prop_assert_eq!(column.next_since(from, end, since), expected);
            }
        }
    }

    #[test]
    fn a_newer_leaf_is_found_at_every_place_and_from_every_start() {
        let leaf_count = 2 * BLOCK as u32 + 5;
        for at in 0..leaf_count {
            let mut column = RevisionColumn::new(leaf_count);
            column.set(at, 9);
            assert_eq!(column.next_since(0, leaf_count, 8), Some(at));
            assert_eq!(column.next_since(at, at + 1, 8), Some(at));
            assert_eq!(column.next_since(at + 1, u32::MAX, 8), None);
            assert_eq!(column.next_since(0, at, 8), None);
            assert_eq!(column.next_since(0, leaf_count, 9), None);
        }
    }

    #[test]
    fn a_lowered_maximum_is_forgotten() {
        let mut column = RevisionColumn::new(1000);
        column.set(600, 50);
        column.set(700, 40);
        column.set(600, 10);
        assert_eq!(column.max(), 40);
        assert_eq!(column.next_since(0, 1000, 20), Some(700));
    }

    #[test]
    fn a_column_without_leaves_has_no_newest() {
        let column = RevisionColumn::new(0);
        assert_eq!(column.max(), 0);
        assert_eq!(column.next_since(0, u32::MAX, 0), None);
        assert!(column.as_slice().is_empty());
    }
}
