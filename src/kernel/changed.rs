//! Which leaves changed: one bit a leaf, under two levels of summary.

/// Leaves, or words of the level below, that one word stands for.
const WORD_BITS: u32 = u64::BITS;

/// A set of leaves, made for few members among many: marking costs some
/// nanoseconds, and taking the members costs little where there are none.
///
/// A bit of a summary word is set exactly when its word below is not zero. Two
/// summaries over 1 M leaves are 256 words and 4 words, so that what a scan
/// reads depends on what changed and not on the size of the tree. One thread
/// owns the set; it is no means to tell another thread of a change.
#[derive(Clone, Debug)]
pub struct ChangedSet {
    leaves: Vec<u64>,
    summary: Vec<u64>,
    top: Vec<u64>,
    leaf_count: u32,
    /// Members. Kept, so that "nothing changed" is one load.
    count: u32,
}

impl ChangedSet {
    /// An empty set over leaves `0..leaf_count`.
    pub fn new(leaf_count: u32) -> ChangedSet {
        let (leaves, summary, top) = (Vec::new(), Vec::new(), Vec::new());
        let mut set = ChangedSet { leaves, summary, top, leaf_count: 0, count: 0 };
        set.grow(leaf_count);
        set
    }

    /// Makes room for leaves `0..leaf_count`; the new ones are not members.
    /// Does nothing if there is room already.
    pub fn grow(&mut self, leaf_count: u32) {
        if leaf_count <= self.leaf_count {
            return;
        }
        self.leaf_count = leaf_count;
        let words = leaf_count.div_ceil(WORD_BITS);
        let summaries = words.div_ceil(WORD_BITS);
        self.leaves.resize(words as usize, 0);
        self.summary.resize(summaries as usize, 0);
        self.top.resize(summaries.div_ceil(WORD_BITS) as usize, 0);
    }

    /// Adds `leaf`. The summaries are touched only when its word was zero.
    ///
    /// # Panics
    /// If there is no such leaf.
    #[inline]
    pub fn mark(&mut self, leaf: u32) {
        self.assert_leaf(leaf);
        let (word, bit) = place(leaf);
        let old = self.leaves[word];
        self.leaves[word] = old | bit;
        self.count += u32::from(old & bit == 0);
        if old == 0 {
            self.mark_summary(leaf / WORD_BITS);
        }
    }

    /// Removes `leaf`.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn clear(&mut self, leaf: u32) {
        self.assert_leaf(leaf);
        let (word, bit) = place(leaf);
        let old = self.leaves[word];
        if old & bit == 0 {
            return;
        }
        self.leaves[word] = old & !bit;
        self.count -= 1;
        if old == bit {
            self.clear_summary(leaf / WORD_BITS);
        }
    }

    /// Appends the members to `out`, ascending, and empties the set.
    pub fn take(&mut self, out: &mut Vec<u32>) {
        if self.count == 0 {
            return;
        }
        out.reserve(self.count as usize);
        for (t, top) in self.top.iter_mut().enumerate() {
            for s in bits(t as u32, core::mem::take(top)) {
                for w in bits(s, core::mem::take(&mut self.summary[s as usize])) {
                    out.extend(bits(w, core::mem::take(&mut self.leaves[w as usize])));
                }
            }
        }
        self.count = 0;
    }

    /// Whether `leaf` is a member. No leaf of another tree is.
    #[inline]
    pub fn contains(&self, leaf: u32) -> bool {
        let (word, bit) = place(leaf);
        self.leaves.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Number of members.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether there are no members.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of leaves that the set has room for.
    pub const fn leaf_count(&self) -> u32 {
        self.leaf_count
    }

    /// Rare, and kept out of the way of the common case.
    #[cold]
    fn mark_summary(&mut self, word: u32) {
        let (summary, bit) = place(word);
        let (top, top_bit) = place(word / WORD_BITS);
        self.summary[summary] |= bit;
        self.top[top] |= top_bit;
    }

    fn clear_summary(&mut self, word: u32) {
        let (summary, bit) = place(word);
        let (top, top_bit) = place(word / WORD_BITS);
        self.summary[summary] &= !bit;
        if self.summary[summary] == 0 {
            self.top[top] &= !top_bit;
        }
    }

    /// The last word has bits behind the last leaf: they must never be set.
    #[inline]
    fn assert_leaf(&self, leaf: u32) {
        assert!(leaf < self.leaf_count, "leaf {leaf} of a set over {} leaves", self.leaf_count);
    }
}

/// Word and bit of an item.
#[inline]
const fn place(item: u32) -> (usize, u64) {
    ((item / WORD_BITS) as usize, 1 << (item % WORD_BITS))
}

/// The items whose bits are set in word `index` of their level, ascending.
#[inline]
fn bits(index: u32, mut word: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < WORD_BITS).then_some(index * WORD_BITS + bit)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Mark(u32),
        Clear(u32),
        Take,
        Grow(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Near leaves share a word, far ones a summary word or nothing.
        let leaf = prop_oneof![0u32..200, 4000u32..4200, 0u32..600_000];
        let step = prop_oneof![
            8 => leaf.clone().prop_map(Step::Mark),
            4 => leaf.prop_map(Step::Clear),
            1 => Just(Step::Take),
            1 => (0u32..700_000).prop_map(Step::Grow),
        ];
        prop::collection::vec(step, 0..200)
    }

    fn check(set: &ChangedSet, model: &BTreeSet<u32>) {
        assert_eq!(set.count() as usize, model.len());
        assert_eq!(set.is_empty(), model.is_empty());
        let mut seen = Vec::new();
        set.clone().take(&mut seen);
        assert!(seen.iter().eq(model.iter()), "{seen:?} for {model:?}");
        for (below, above) in [(&set.leaves, &set.summary), (&set.summary, &set.top)] {
            for (i, word) in below.iter().enumerate() {
                let (at, bit) = place(i as u32);
                assert_eq!(above[at] & bit != 0, *word != 0, "summary of word {i}");
            }
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(leaf_count in 1u32..600_000, steps in steps()) {
            let mut set = ChangedSet::new(leaf_count);
            let mut model = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Mark(leaf) if leaf < set.leaf_count() => {
                        set.mark(leaf);
                        model.insert(leaf);
                        prop_assert!(set.contains(leaf));
                    }
                    Step::Clear(leaf) if leaf < set.leaf_count() => {
                        set.clear(leaf);
                        model.remove(&leaf);
                        prop_assert!(!set.contains(leaf));
                    }
                    Step::Mark(leaf) | Step::Clear(leaf) => prop_assert!(!set.contains(leaf)),
                    Step::Take => {
                        let mut out = vec![7];
                        set.take(&mut out);
                        prop_assert_eq!(out[0], 7, "appends");
                        prop_assert!(out[1..].iter().eq(model.iter()));
                        model.clear();
                    }
                    Step::Grow(leaf_count) => {
                        let before = set.leaf_count();
                        set.grow(leaf_count);
                        prop_assert_eq!(set.leaf_count(), before.max(leaf_count));
                    }
                }
                prop_assert_eq!(set.count() as usize, model.len());
            }
            check(&set, &model);
        }
    }

    #[test]
    fn every_leaf_of_a_full_set_is_taken_in_order() {
        for leaf_count in [0, 1, 63, 64, 65, 4095, 4096, 4097, 262_145] {
            let mut set = ChangedSet::new(leaf_count);
            (0..leaf_count).rev().for_each(|leaf| set.mark(leaf));
            let mut out = Vec::new();
            set.take(&mut out);
            assert!(out.iter().copied().eq(0..leaf_count), "{leaf_count} leaves");
            assert!(set.is_empty());
            check(&set, &BTreeSet::new());
        }
    }

    #[test]
    #[should_panic(expected = "leaf 70 of a set over 70 leaves")]
    fn a_leaf_behind_the_last_is_refused_though_its_word_exists() {
        ChangedSet::new(70).mark(70);
    }
}
