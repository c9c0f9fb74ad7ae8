//! What the protocol sees of a tree.

use crate::layout::DataLocId;
use crate::layout::Digest;
use crate::layout::LayoutHash;
use crate::layout::Life;
use crate::layout::Parent;
use crate::layout::ParentId;
use crate::layout::Revision;
use crate::layout::TreeId;
use crate::wire::Leaf;

/// What both ends ask of their tree.
pub trait Leaves {
    /// The tree's id.
    fn tree_id(&self) -> TreeId;
    /// The life of its server.
    fn life(&self) -> Life;
    /// Hash of the layout.
    fn layout_hash(&self) -> LayoutHash;
    /// Number of leaves.
    fn leaf_count(&self) -> u32;
    /// The parents table.
    fn parents(&self) -> &[Parent];
    /// The parent with this path, `/` between names.
    fn parent_at(&self, path: &str) -> Option<ParentId>;
    /// Checksum of every leaf, by DataLocID.
    fn checksums(&self) -> &[u32];
    /// Revision of a leaf, `Revision::ZERO` if there is no such leaf.
    fn revision(&self, leaf: DataLocId) -> Revision;
    /// First leaf in `from..end` whose revision is above `since`.
    fn next_changed_since(&self, from: u32, end: u32, since: Revision) -> Option<DataLocId>;
    /// Highest revision of any leaf.
    fn newest_revision(&self) -> Revision;
    /// Digest of all leaves.
    fn digest(&self) -> Digest;
    /// Digest of the leaves that a parent owns itself.
    fn digest_of_parent(&self, parent: ParentId) -> Digest;
    /// Hears that a leaf with so many bytes of Data is likely to be stored soon. It is
    /// a guess: the leaf may be none of the tree's, and the number any.
    fn expect(&self, leaf: DataLocId, data_size: usize) {
        let _ = (leaf, data_size);
    }
}

/// A commit of a tree: what was written before it is durable when it is done. They are
/// numbered in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommitId(pub u64);

/// What a server asks of the tree that it serves.
pub trait ServedLeaves: Leaves {
    /// Highest revision held when the life began.
    fn life_start(&self) -> Revision;
    /// Bytes that a leaf takes in a datagram.
    fn wire_len(&self, leaf: DataLocId) -> usize;
    /// Whether a leaf's ChangeFlag is set: it is due in the next EVENT.
    fn is_changed(&self, leaf: DataLocId) -> bool;
    /// Whether the ChangeFlag of any leaf is set.
    fn has_changes(&self) -> bool;
    /// Appends the leaves whose ChangeFlag is set, ascending, and clears the flags.
    fn take_changes(&mut self, into: &mut Vec<DataLocId>);
    /// Writes a leaf and sets its ChangeFlag (claim 3).
    ///
    /// # Errors
    /// The leaf keeps what it held.
    fn write(&mut self, leaf: DataLocId, data: &[u8]) -> Result<Revision, WriteRefusal>;
    /// The commit that makes durable what was written last, if a write is not as
    /// durable as was promised when it returns. The leaf may keep its former value
    /// until that commit is done; its driver then tells
    /// [`Server::handle_committed`](crate::sync::Server::handle_committed).
    fn commit(&self) -> Option<CommitId> {
        None
    }
    /// Says whether a write would be taken, without making it.
    ///
    /// # Errors
    /// As [`ServedLeaves::write`].
    fn check_write(&self, leaf: DataLocId, data_size: usize) -> Result<(), WriteRefusal>;
    /// What LAYOUT datagrams bring.
    fn layout_blob(&self) -> &[u8];
}

/// What a client asks of its replica.
pub trait ReplicaLeaves: Leaves {
    /// Stores a leaf as it came, revision and checksum included. Says whether
    /// the replica has room for it.
    fn apply(&mut self, leaf: &Leaf<'_>) -> bool;
    /// Notes in one step which life of the server it follows, and up to which
    /// revision every change is held (zero: not known). What a restart finds.
    fn follow(&mut self, life: Life, watermark: Revision);
}

/// Why a leaf was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteRefusal {
    /// No such leaf.
    UnknownLeaf {
        /// Number of leaves.
        leaf_count: u32,
    },
    /// Data does not fit the leaf.
    TooLarge {
        /// Most bytes that it holds.
        capacity: u32,
    },
    /// The disk or the file failed.
    Trouble,
    /// This tree takes no writes but its server's.
    ReadOnly,
}
