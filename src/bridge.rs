//! Where `tree` and `sync` meet: how a tree answers what the protocol asks.
//!
//! The two layers do not know each other. Whoever puts a tree behind the traits of
//! `sync` answers by these rules: the loops of `runtime`, and the worlds of `sim`,
//! which so prove them too. Storing, planted bugs and what is noted beside a tree are
//! left to them.

use crate::layout::DataLocId;
use crate::layout::Life;
use crate::layout::Revision;
use crate::layout::TreeRole;
use crate::sync::Held;
use crate::sync::HeldTree;
use crate::sync::WriteRefusal;
use crate::tree::Ending;
use crate::tree::Recovery;
use crate::tree::Tree;
use crate::tree::WriteError;

/// Whether a replica follows all of its server's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coverage {
    Whole,
    Part,
}

/// Highest revision held when the life that is served began: at a relay that of its
/// server, `upstream`.
pub(crate) fn life_start(tree: &Tree, upstream: Revision) -> Revision {
    match tree.role() {
        TreeRole::Server => tree.life_start(),
        TreeRole::Replica => upstream,
    }
}

/// Revision of a leaf, zero if there is none.
#[inline]
pub(crate) fn revision(tree: &Tree, leaf: DataLocId) -> Revision {
    let exists = leaf.0 < tree.leaf_count();
    if exists { tree.revision(leaf) } else { Revision::ZERO }
}

/// The first leaf in `from..end` changed since; `end` may be any number.
pub(crate) fn next_changed_since(
    tree: &Tree,
    from: u32,
    end: u32,
    since: Revision,
) -> Option<DataLocId> {
    tree.next_changed_since(from, end.min(tree.leaf_count()), since)
}

/// Whether a tree would take a write.
///
/// # Errors
/// What the write itself would be refused with.
pub(crate) fn check_write(
    tree: &Tree,
    leaf: DataLocId,
    data_size: usize,
) -> Result<(), WriteRefusal> {
    if tree.role() == TreeRole::Replica {
        return Err(WriteRefusal::ReadOnly);
    }
    let layout = tree.layout();
    match layout.capacity_of(leaf) {
        None => Err(WriteRefusal::UnknownLeaf { leaf_count: layout.leaf_count() }),
        Some(capacity) if data_size > capacity as usize => Err(WriteRefusal::TooLarge { capacity }),
        Some(_) => Ok(()),
    }
}

/// What a device is told of a write that failed.
pub(crate) fn refusal(error: WriteError) -> WriteRefusal {
    match error {
        WriteError::UnknownLeaf { leaf_count, .. } => WriteRefusal::UnknownLeaf { leaf_count },
        WriteError::TooLarge { capacity, .. } => {
            WriteRefusal::TooLarge { capacity: u32::try_from(capacity).unwrap_or(u32::MAX) }
        }
        WriteError::Role { .. } => WriteRefusal::ReadOnly,
        _ => WriteRefusal::Trouble,
    }
}

/// Writes down how far a replica has got, if that is news.
pub(crate) fn follow(tree: &mut Tree, coverage: Coverage, life: Life, watermark: Revision) {
    let covered = match coverage {
        Coverage::Whole => watermark,
        // Leaves outside of the filter are older than it says.
        Coverage::Part => Revision::ZERO,
    };
    if tree.saved_progress() != (life, covered) {
        tree.save_progress(life, covered);
    }
}

/// What a file holds. Saved progress counts if the machine ran on since, and no leaf
/// was emptied; otherwise each leaf may be of another time.
pub(crate) fn held(tree: &Tree, recovery: &Recovery) -> Held {
    let (life, watermark) = tree.saved_progress();
    let whole = recovery.ending != Ending::PowerLoss && recovery.damaged_count == 0;
    if tree.newest_revision() == Revision::ZERO {
        Held::Nothing
    } else if whole {
        held_up_to(life, Some(watermark))
    } else {
        Held::Partial
    }
}

/// What is held of a tree in which there are leaves, by a watermark that was reached.
pub(crate) fn held_up_to(life: Life, watermark: Option<Revision>) -> Held {
    match watermark {
        Some(watermark) if watermark > Revision::ZERO => Held::UpTo { life, watermark },
        _ => Held::Partial,
    }
}

/// What a server is told of the replica.
pub(crate) fn held_tree(tree: &Tree) -> HeldTree {
    let (life, watermark) = tree.saved_progress();
    HeldTree { tree_id: tree.tree_id(), layout_hash: tree.layout_hash(), life, watermark }
}

#[cfg(test)]
mod tests {
    use zerocopy::little_endian::U32;
    use zerocopy::little_endian::U64;

    use super::*;
    use crate::layout::LeafHead;
    use crate::layout::TreeId;
    use crate::tree::CreateOptions;
    use crate::tree::Damaged;
    use crate::tree::Layout;
    use crate::tree::Mark;
    use crate::tree::OpenOptions;
    use crate::wire::leaf_checksum;

    fn replica() -> Tree {
        let (role, tree_id) = (TreeRole::Replica, TreeId(7));
        let options = CreateOptions { role, tree_id, life: Life(3), unix_s: 0 };
        Tree::create_unnamed(Layout::plain(2, 10, 40).unwrap(), options).unwrap()
    }

    #[test]
    fn progress_of_a_part_is_not_saved_as_that_of_the_whole() {
        let mut tree = replica();
        follow(&mut tree, Coverage::Whole, Life(5), Revision(900));
        assert_eq!(tree.saved_progress(), (Life(5), Revision(900)));
        follow(&mut tree, Coverage::Part, Life(6), Revision(950));
        assert_eq!(tree.saved_progress(), (Life(6), Revision::ZERO));
        assert_eq!(held_tree(&tree).life, Life(6));
    }

    #[test]
    fn a_file_holds_up_to_its_progress_unless_leaves_of_it_may_be_of_another_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree.mapleaf");
        let (role, tree_id) = (TreeRole::Replica, TreeId(7));
        let options = CreateOptions { role, tree_id, life: Life(3), unix_s: 0 };
        Tree::create(&path, Layout::plain(1, 4, 16).unwrap(), options).unwrap().close().unwrap();
        let open = OpenOptions { role, damaged: Damaged::Refuse, unix_s: 0 };
        let (mut tree, mut recovery) = Tree::open(&path, open).unwrap();
        assert!(matches!(held(&tree, &recovery), Held::Nothing));
        let mut head = LeafHead {
            checksum: U32::ZERO,
            data_size: U32::new(3),
            data_loc_id: U32::ZERO,
            reserved: U32::ZERO,
            revision: U64::new(7),
        };
        head.checksum = U32::new(leaf_checksum(&head, b"one"));
        tree.apply(&head, b"one", Mark::Quiet).unwrap();
        assert!(matches!(held(&tree, &recovery), Held::Partial));
        let (life, watermark) = (Life(5), Revision(900));
        tree.save_progress(life, watermark);
        let up_to = |held| matches!(held, Held::UpTo { life: Life(5), watermark: Revision(900) });
        assert!(up_to(held(&tree, &recovery)) && up_to(held_up_to(life, Some(watermark))));
        recovery.damaged_count = 1;
        assert!(matches!(held(&tree, &recovery), Held::Partial));
        recovery.damaged_count = 0;
        recovery.ending = Ending::PowerLoss;
        assert!(matches!(held(&tree, &recovery), Held::Partial));
    }
}
