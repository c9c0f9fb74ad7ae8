//! Ids and counters as types of their own, each with its width and lifetime.

use core::fmt;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

newtype! {
    /// Location of a leaf in its tree, counted from 0 (claim 2: DataLocID).
    /// A u32 allows 4 billion leaves; `limits::LEAVES_MAX` is far below.
    DataLocId(u32)
}
newtype! {
    /// Number of a parent node, counted from 0 (claim 25: parent ID).
    ParentId(u32)
}
newtype! {
    /// Random number drawn when a tree is created. Replicas keep the server's.
    /// Two trees share one by chance once in 2^64 creations.
    TreeId(u64)
}
newtype! {
    /// One run of a server on a tree. Rises with every run, and follows the
    /// clock (seconds since 2020) so that a tree restored from a backup never
    /// draws a life that a client has already seen. A u32 of seconds lasts
    /// until 2156.
    Life(u32)
}
newtype! {
    /// Number of one change of one leaf, rising over the whole tree. The high
    /// 32 bits are the life in which the change was made, the low 32 count. A
    /// count that overflows carries into the life: at 10 M changes/s once in
    /// 429 s, slower than the clock that feeds [`Life`].
    Revision(u64)
}
newtype! {
    /// Sum over leaves, modulo 2^64, of a mix of DataLocID, revision and
    /// checksum. A sum can be kept up in constant time and split by parents.
    Digest(u64)
}
newtype! {
    /// CRC32C over the parents table and the schema text: two trees with the
    /// same one place every leaf alike. It guards against mistakes, not people.
    LayoutHash(u32)
}

impl DataLocId {
    /// "No leaf": first and last leaf of a parent that owns none.
    pub const NONE: DataLocId = DataLocId(u32::MAX);

    /// Position in a column that holds one item a leaf.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl ParentId {
    /// "No parent": the enclosing parent of a top-level one.
    pub const NONE: ParentId = ParentId(u32::MAX);

    /// Position in the parents table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Life {
    /// Unix time at which lives begin to count: 2020-01-01T00:00:00Z.
    pub const EPOCH_UNIX_S: u64 = 1_577_836_800;

    /// The life that follows `self` and `newest`, at the given Unix time.
    ///
    /// `newest` is the highest revision that the tree holds: a count that
    /// carried may have used up lives.
    pub fn next(self, newest: Revision, unix_s: u64) -> Life {
        let clock = unix_s.saturating_sub(Self::EPOCH_UNIX_S).min(u64::from(u32::MAX)) as u32;
        let used = self.0.max(newest.life().0);
        Life(used.saturating_add(1).max(clock))
    }

    /// Revision before the first one of this life.
    pub const fn base(self) -> Revision {
        Revision((self.0 as u64) << 32)
    }
}

impl Revision {
    /// Revision of a leaf that was never written.
    pub const ZERO: Revision = Revision(0);

    /// The life whose number the high bits hold.
    pub const fn life(self) -> Life {
        Life((self.0 >> 32) as u32)
    }

    /// The revision that follows.
    pub const fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl Digest {
    /// What one leaf adds to the digest of its tree.
    ///
    /// Two rounds of the SplitMix64 finaliser, an invertible mix without linear
    /// structure: a difference of leaves does not cancel as it does in a CRC.
    pub const fn of_leaf(leaf: DataLocId, revision: Revision, checksum: u32) -> Digest {
        let place = mix(((leaf.0 as u64) << 32) | checksum as u64);
        Digest(mix(place ^ revision.0))
    }

    /// The digest with `old` taken out and `new` put in.
    #[must_use]
    pub const fn replace(self, old: Digest, new: Digest) -> Digest {
        Digest(self.0.wrapping_sub(old.0).wrapping_add(new.0))
    }

    /// The digest of both sets of leaves together.
    #[must_use]
    pub const fn plus(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_add(other.0))
    }
}

const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_newer_than_stored_lives_revisions_and_the_clock() {
        let now = Life::EPOCH_UNIX_S + 500;
        assert_eq!(Life(10).next(Revision::ZERO, now), Life(500));
        assert_eq!(Life(700).next(Revision::ZERO, now), Life(701));
        assert_eq!(Life(700).next(Life(800).base(), now), Life(801));
        assert_eq!(Life(3).next(Revision::ZERO, 0), Life(4), "a clock before 2020 does not matter");
    }

    #[test]
    fn a_revision_count_that_overflows_carries_into_the_life() {
        let last = Revision(Life(7).base().0 | u64::from(u32::MAX));
        assert_eq!(last.next(), Life(8).base());
        assert_eq!(last.next().life(), Life(8));
    }

    #[test]
    fn the_digest_forgets_what_is_replaced() {
        let a = Digest::of_leaf(DataLocId(1), Revision(5), 0xdead_beef);
        let b = Digest::of_leaf(DataLocId(1), Revision(6), 0xdead_beef);
        let c = Digest::of_leaf(DataLocId(2), Revision(5), 0xdead_beef);
        assert_ne!(a, b);
        assert_ne!(a, c);
        assert_eq!(a.plus(c).replace(a, b), b.plus(c));
    }

    #[test]
    fn swapped_values_of_two_leaves_change_the_digest() {
        let of = |l, r, k| Digest::of_leaf(DataLocId(l), Revision(r), k);
        assert_ne!(of(1, 5, 7).plus(of(2, 6, 9)), of(1, 6, 9).plus(of(2, 5, 7)));
        assert_ne!(of(1, 5, 7).plus(of(2, 5, 9)), of(1, 5, 9).plus(of(2, 5, 7)));
    }
}
