//! Growth: where the leaves of a tree lie in a larger layout of the same tree.

use core::fmt;
use core::ops::Range;

use crate::layout::DataLocId;
use crate::layout::Parent;
use crate::layout::ParentId;
use crate::tree::field::printable;
use crate::tree::plan::Layout;

/// Why a layout is not an old one that grew.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrowthError {
    /// A parent is gone.
    Gone {
        /// Its path in the old layout.
        parent: String,
    },
    /// A parent has fewer leaves.
    Leaves {
        /// Its path.
        parent: String,
        /// How many it had.
        wanted: usize,
        /// How many it has.
        found: usize,
    },
    /// The leaves of a parent hold less.
    Capacity {
        /// Its path.
        parent: String,
        /// Bytes of Data that a leaf held.
        wanted: u32,
        /// Bytes of Data that a leaf holds.
        found: u32,
    },
}

impl fmt::Display for GrowthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &String| printable(path.as_bytes());
        match self {
            GrowthError::Gone { parent } => {
                write!(f, "growth: wanted parent {} as before, found none", shown(parent))
            }
            GrowthError::Leaves { parent, wanted, found } => {
                let parent = shown(parent);
                write!(f, "growth: parent {parent}: wanted {wanted} leaves or more, found {found}")
            }
            GrowthError::Capacity { parent, wanted, found } => {
                let parent = shown(parent);
                write!(
                    f,
                    "growth: parent {parent}: wanted capacity {wanted} or more, found {found}"
                )
            }
        }
    }
}

impl std::error::Error for GrowthError {}

/// Where the leaves of a layout lie in one that it grew into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    moves: Vec<Move>,
}

/// Leaves of one parent before and after growth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// DataLocIDs in the old layout.
    pub old: Range<u32>,
    /// DataLocID in the new layout of the first of them; the others follow.
    pub new_first: DataLocId,
}

impl Growth {
    /// One entry a parent that owned leaves, in the order of the old DataLocIDs.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// Where a leaf of the old layout lies in the new one.
    pub fn new_leaf(&self, old: DataLocId) -> Option<DataLocId> {
        let behind = self.moves.partition_point(|one| one.old.start <= old.0);
        let one = self.moves.get(behind.checked_sub(1)?)?;
        one.old.contains(&old.0).then(|| DataLocId(one.new_first.0 + (old.0 - one.old.start)))
    }
}

impl Layout {
    /// Compares with an older layout of the same tree: every parent must be there
    /// still, by its path, with as many leaves and as much capacity or more.
    /// Leaves are matched by their place in their parent.
    ///
    /// # Errors
    ///
    /// The first parent that is gone or became smaller.
    pub fn extends(&self, old: &Layout) -> Result<Growth, GrowthError> {
        let mut growth = Growth::default();
        for before in old.parents() {
            growth.moves.extend(self.moved(old, before)?);
        }
        Ok(growth)
    }

    fn moved(&self, old: &Layout, before: &Parent) -> Result<Option<Move>, GrowthError> {
        let parent = old.parent_path(ParentId(before.parent_id.get())).unwrap_or_default();
        let Some(after) = self.parent_at(&parent).and_then(|id| self.parent(id)) else {
            return Err(GrowthError::Gone { parent });
        };
        let (wanted, found) = (before.leaves().len(), after.leaves().len());
        if found < wanted {
            return Err(GrowthError::Leaves { parent, wanted, found });
        }
        let (wanted, found) = (before.capacity.get(), after.capacity.get());
        if found < wanted {
            return Err(GrowthError::Capacity { parent, wanted, found });
        }
        let old = before.leaves();
        let new_first = DataLocId(after.first_leaf_loc_id.get());
        Ok((!old.is_empty()).then_some(Move { old, new_first }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::plan::tests::SITE;
    use crate::tree::plan::tests::site;

    #[test]
    fn growth_keeps_every_leaf_by_its_place_in_its_parent() {
        let old = site();
        let text = SITE.replace("leaves = 48", "leaves = 50").replace("= 200", "= 300");
        let new = Layout::from_toml(&(text + "[[parent]]\nname = \"late\"\n")).unwrap();
        let growth = new.extends(&old).unwrap();
        for id in (0..old.leaf_count()).map(DataLocId) {
            let moved = growth.new_leaf(id).unwrap();
            assert_eq!(new.path_of(moved), old.path_of(id));
        }
        assert_eq!(growth.new_leaf(DataLocId(54)), None);
        assert!(matches!(
            old.extends(&new),
            Err(GrowthError::Leaves { wanted: 50, found: 48, .. })
        ));
        let smaller = Layout::from_toml(&SITE.replace("= 200", "= 100")).unwrap();
        assert!(matches!(smaller.extends(&old), Err(GrowthError::Capacity { .. })));
        let other = Layout::from_toml(&SITE.replace("lone", "alone")).unwrap();
        assert!(matches!(other.extends(&old), Err(GrowthError::Gone { .. })));
    }
}
