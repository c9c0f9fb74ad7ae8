//! A tree as the protocol sees it.
//!
//! `tree` and `sync` do not know each other. What a tree does not know (the life's
//! start at a relay, whether stored leaves go on to somebody, who else wants to know
//! of changes) is kept here, beside it.

use crate::bridge;
use crate::bridge::Coverage;
use crate::kernel::ChangedSet;
use crate::layout::CHANGES_ROOM;
use crate::layout::DataLocId;
use crate::layout::Digest;
use crate::layout::LayoutHash;
use crate::layout::Life;
use crate::layout::Parent;
use crate::layout::ParentId;
use crate::layout::Revision;
use crate::layout::TreeId;
use crate::sync::CommitId;
use crate::sync::Leaves;
use crate::sync::ReplicaLeaves;
use crate::sync::ServedLeaves;
use crate::sync::WriteRefusal;
use crate::tree::Mark;
use crate::tree::RedoBatch;
use crate::tree::StageError;
use crate::tree::Tree;
use crate::wire::Leaf;
use crate::wire::LeafSource;

/// Whether leaves that are taken for EVENTs are noted for an observer as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noting {
    On,
    Off,
}

/// How a replica stores what comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Following {
    /// Whether leaves that are stored go on to others.
    pub(super) mark: Mark,
    pub(super) noting: Noting,
    pub(super) coverage: Coverage,
}

/// A tree with what the protocol asks of it beyond.
#[derive(Debug)]
pub(super) struct TreeLeaves {
    tree: Tree,
    /// What LAYOUT datagrams bring; made when the tree is served or grows.
    blob: Vec<u8>,
    /// Whether leaves that a replica stores go on to others.
    mark: Mark,
    /// Start of the life of the server that a replica follows.
    upstream_life_start: Revision,
    noting: Noting,
    /// Leaves that were taken for EVENTs, for the observer: a set, as one that lags
    /// would make a list of them long.
    noted: ChangedSet,
    /// Kept, so that the next taking of `noted` uses it again.
    told: Vec<u32>,
    coverage: Coverage,
    /// Where writes wait for a commit, if they are to survive power loss.
    staging: Option<Staging>,
}

/// Leaves that wait to become durable together.
#[derive(Debug)]
struct Staging {
    batch: RedoBatch,
    /// What the protocol calls their commit.
    commit: CommitId,
}

impl TreeLeaves {
    /// A tree that is served.
    pub(super) fn served(tree: Tree) -> TreeLeaves {
        let (noting, coverage) = (Noting::Off, Coverage::Whole);
        TreeLeaves::replica(tree, Following { mark: Mark::Changed, noting, coverage })
    }

    /// A replica.
    pub(super) fn replica(tree: Tree, how: Following) -> TreeLeaves {
        let noted = noted_of(how.noting, tree.leaf_count());
        let told = noted.leaf_count().min(CHANGES_ROOM) as usize;
        TreeLeaves {
            blob: tree.layout().to_blob(),
            mark: how.mark,
            upstream_life_start: Revision::ZERO,
            noting: how.noting,
            noted,
            told: Vec::with_capacity(told),
            coverage: how.coverage,
            staging: None,
            tree,
        }
    }

    /// From now on writes are staged, and stored by whoever takes the batches. Names
    /// the commit before the first.
    pub(super) fn begin_staging(&mut self, batch: RedoBatch) -> CommitId {
        self.staging = Some(Staging { batch, commit: CommitId(1) });
        CommitId(0)
    }

    /// Writes are stored at once again.
    pub(super) fn end_staging(&mut self) {
        self.staging = None;
    }

    /// Whether nothing is staged.
    pub(super) fn is_staged_empty(&self) -> bool {
        self.staging.as_ref().is_none_or(|staging| staging.batch.is_empty())
    }

    /// Takes what is staged, to be committed, and goes on with an empty batch.
    pub(super) fn take_staged(&mut self, empty: RedoBatch) -> (RedoBatch, CommitId) {
        let staging = self.staging.as_mut().expect("there is something staged");
        let commit = staging.commit;
        staging.commit = CommitId(commit.0 + 1);
        (core::mem::replace(&mut staging.batch, empty), commit)
    }

    /// The commit that is being gathered, if writes wait for one.
    pub(super) fn staged_commit(&self) -> Option<CommitId> {
        self.staging.as_ref().map(|staging| staging.commit)
    }

    /// Writes a leaf, or stages it where writes wait for a commit.
    #[inline]
    pub(super) fn write_local(
        &mut self,
        leaf: DataLocId,
        data: &[u8],
    ) -> Result<Revision, StageError> {
        match &mut self.staging {
            None => self.tree.write(leaf, data).map_err(StageError::Write),
            Some(staging) => self.tree.stage(leaf, data, &mut staging.batch),
        }
    }

    /// The tree.
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The tree, for what the protocol does not do. Its layout stays.
    pub(super) fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// The tree itself.
    pub(super) fn into_tree(self) -> Tree {
        self.tree
    }

    /// Changes the layout of the tree by `grow`.
    pub(super) fn grow<T>(&mut self, grow: impl FnOnce(&mut Tree) -> T) -> T {
        let outcome = grow(&mut self.tree);
        self.blob = self.tree.layout().to_blob();
        // Leaves may have moved; an observer looks at all of them after this.
        self.noted = noted_of(self.noting, self.tree.leaf_count());
        outcome
    }

    /// Notes the highest revision that upstream held when its life began.
    pub(super) fn set_upstream_life_start(&mut self, life_start: Revision) {
        self.upstream_life_start = life_start;
    }

    /// Gives the leaves that were taken since the last call, ascending.
    pub(super) fn take_noted(&mut self, into: &mut Vec<DataLocId>) {
        self.told.clear();
        self.noted.take(&mut self.told);
        into.extend(self.told.iter().copied().map(DataLocId));
    }
}

impl LeafSource for TreeLeaves {
    #[inline]
    fn copy_wire(&self, leaf: DataLocId, to: &mut [u8]) -> Option<usize> {
        self.tree.copy_wire(leaf, to)
    }

    #[inline]
    fn expect_copy(&self, leaf: DataLocId) {
        self.tree.expect_read(leaf);
    }
}

impl Leaves for TreeLeaves {
    #[inline]
    fn expect(&self, leaf: DataLocId, data_size: usize) {
        self.tree.expect_write(leaf, data_size);
    }

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

    #[inline]
    fn revision(&self, leaf: DataLocId) -> Revision {
        bridge::revision(&self.tree, leaf)
    }

    fn next_changed_since(&self, from: u32, end: u32, since: Revision) -> Option<DataLocId> {
        bridge::next_changed_since(&self.tree, from, end, since)
    }

    fn newest_revision(&self) -> Revision {
        self.tree.newest_revision()
    }

    fn digest(&self) -> Digest {
        self.tree.digest()
    }

    fn digest_of_parent(&self, parent: ParentId) -> Digest {
        self.tree.digest_of_parent(parent).unwrap_or_default()
    }
}

impl ServedLeaves for TreeLeaves {
    fn life_start(&self) -> Revision {
        bridge::life_start(&self.tree, self.upstream_life_start)
    }

    #[inline]
    fn wire_len(&self, leaf: DataLocId) -> usize {
        self.tree.wire_len(leaf)
    }

    #[inline]
    fn is_changed(&self, leaf: DataLocId) -> bool {
        self.tree.is_changed(leaf)
    }

    #[inline]
    fn has_changes(&self) -> bool {
        self.tree.change_count() > 0
    }

    fn take_changes(&mut self, into: &mut Vec<DataLocId>) {
        let start = into.len();
        self.tree.take_changes(into);
        if self.noting == Noting::On {
            into[start..].iter().for_each(|leaf| self.noted.mark(leaf.0));
        }
    }

    #[inline]
    fn write(&mut self, leaf: DataLocId, data: &[u8]) -> Result<Revision, WriteRefusal> {
        self.write_local(leaf, data).map_err(|error| match error {
            StageError::Write(error) => bridge::refusal(error),
            // Not now: there is room when the commit under way is done.
            StageError::Full { .. } => WriteRefusal::Trouble,
        })
    }

    fn commit(&self) -> Option<CommitId> {
        self.staged_commit()
    }

    fn check_write(&self, leaf: DataLocId, data_size: usize) -> Result<(), WriteRefusal> {
        bridge::check_write(&self.tree, leaf, data_size)
    }

    fn layout_blob(&self) -> &[u8] {
        &self.blob
    }
}

impl ReplicaLeaves for TreeLeaves {
    #[inline]
    fn apply(&mut self, leaf: &Leaf<'_>) -> bool {
        self.tree.apply(leaf.head, leaf.data, self.mark).is_ok()
    }

    fn follow(&mut self, life: Life, watermark: Revision) {
        bridge::follow(&mut self.tree, self.coverage, life, watermark);
    }
}

/// A set for what is noted; an empty one where nothing is.
fn noted_of(noting: Noting, leaf_count: u32) -> ChangedSet {
    ChangedSet::new(if noting == Noting::On { leaf_count } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::TreeRole;
    use crate::layout::limits::DATAGRAM_SIZE_DEFAULT;
    use crate::tree::CreateOptions;
    use crate::tree::Layout;
    use crate::wire::LeafIter;

    fn tree(role: TreeRole) -> Tree {
        let layout = Layout::plain(2, 10, 40).unwrap();
        let options = CreateOptions { role, tree_id: TreeId(7), life: Life(0), unix_s: 0 };
        Tree::create_unnamed(layout, options).unwrap()
    }

    fn replica(mark: Mark) -> TreeLeaves {
        let (noting, coverage) = (Noting::Off, Coverage::Whole);
        TreeLeaves::replica(tree(TreeRole::Replica), Following { mark, noting, coverage })
    }

    fn served() -> TreeLeaves {
        let mut tree = tree(TreeRole::Server);
        tree.begin_life(0).unwrap();
        TreeLeaves::served(tree)
    }

    #[test]
    fn a_leaf_goes_from_one_tree_to_another_by_its_wire_form() {
        let mut from = served();
        let mut to = replica(Mark::Quiet);
        from.write(DataLocId(3), b"three").unwrap();
        let mut bytes = [0; DATAGRAM_SIZE_DEFAULT];
        let len = from.copy_wire(DataLocId(3), &mut bytes).unwrap();
        assert_eq!(len, from.wire_len(DataLocId(3)));
        let leaf = LeafIter::new(&bytes[..len], 1).next().unwrap().unwrap();
        assert!(to.apply(&leaf));
        assert_eq!(to.digest(), from.digest());
        assert_eq!(to.revision(DataLocId(3)), from.newest_revision());
        assert!(from.is_changed(DataLocId(3)) && !to.is_changed(DataLocId(3)));
        assert_eq!(to.revision(DataLocId(99)), Revision::ZERO);
    }

    #[test]
    fn a_write_is_refused_as_it_was_said_to_be() {
        let mut leaves = served();
        for (leaf, size, expected) in [
            (DataLocId(0), 40, None),
            (DataLocId(0), 41, Some(WriteRefusal::TooLarge { capacity: 40 })),
            (DataLocId(10), 1, Some(WriteRefusal::UnknownLeaf { leaf_count: 10 })),
        ] {
            assert_eq!(leaves.check_write(leaf, size).err(), expected);
            assert_eq!(leaves.write(leaf, &vec![1; size]).err(), expected);
        }
        let mut replica = replica(Mark::Changed);
        assert_eq!(replica.check_write(DataLocId(0), 1), Err(WriteRefusal::ReadOnly));
        assert_eq!(replica.write(DataLocId(0), &[1]), Err(WriteRefusal::ReadOnly));
    }

    #[test]
    fn what_is_taken_is_noted_once_for_the_observer() {
        let mut tree = tree(TreeRole::Server);
        tree.begin_life(0).unwrap();
        let (noting, coverage) = (Noting::On, Coverage::Whole);
        let how = Following { mark: Mark::Changed, noting, coverage };
        let mut from = TreeLeaves::replica(tree, how);
        let mut taken = Vec::new();
        for leaf in [5, 2, 5] {
            from.write(DataLocId(leaf), b"x").unwrap();
            from.take_changes(&mut taken);
        }
        let mut noted = Vec::new();
        from.take_noted(&mut noted);
        assert_eq!(noted, [DataLocId(2), DataLocId(5)]);
        assert_eq!(taken.len(), 3);
        from.take_noted(&mut noted);
        assert_eq!(noted.len(), 2);
    }
}
