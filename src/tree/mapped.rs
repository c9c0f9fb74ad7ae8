//! The tree in use: one owner, its columns, and what it answers.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::layout::DataLocId;
use crate::layout::Digest;
use crate::layout::LayoutHash;
use crate::layout::Life;
use crate::layout::ParentId;
use crate::layout::Revision;
use crate::layout::TreeId;
use crate::layout::TreeRole;
use crate::layout::leaf_wire_len;
use crate::tree::extent::Extents;
use crate::tree::extent::Record;
use crate::tree::index::Index;
use crate::tree::lock::LockedFile;
use crate::tree::map::Map;
use crate::tree::map::Owner;
use crate::tree::mishap::Call;
use crate::tree::mishap::perform;
use crate::tree::order::Swap;
use crate::tree::plan::Layout;
use crate::tree::read::TreeReader;
use crate::tree::redo_log;
use crate::tree::redo_log::Attached;
use crate::tree::state::Closed;
use crate::tree::state::State;
use crate::tree::state::SyncError;

/// One file of a tree and what lies where in it. A tree that grows gets a new one.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) map: Arc<Map>,
    pub(crate) extents: Extents,
    pub(crate) layout: Arc<Layout>,
}

/// A mapped tree file, open for writing: the one owner of its file.
///
/// It can move to another thread, but one thread at a time uses it; others read
/// through [`Tree::reader`]. The file is locked as long as this lives. Dropping it
/// is like a crash, which the file survives; [`Tree::close`] ends in good order.
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<mapleaf::tree::Tree>();
/// ```
#[derive(Debug)]
pub struct Tree {
    pub(crate) file: LockedFile,
    pub(crate) path: Option<PathBuf>,
    pub(crate) owner: Owner,
    pub(crate) generation: Arc<Generation>,
    pub(crate) shared: Arc<Swap<Generation>>,
    pub(crate) index: Index,
    pub(crate) state: State,
    pub(crate) tree_id: TreeId,
    pub(crate) created_unix_s: u64,
    pub(crate) run: Run,
    /// The redo log of this life, if there is one.
    pub(crate) redo: Option<Attached>,
}

/// What a server makes revisions from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Highest revision given or held, of leaves that are stored.
    pub(crate) newest: Revision,
    /// Highest revision given, also to leaves that wait for a redo log.
    pub(crate) staged: Revision,
    /// Highest revision held when the life began; nothing before that.
    pub(crate) life_start: Option<Revision>,
}

/// What a file and its verified contents make a tree of.
pub(crate) struct Parts {
    pub(crate) file: LockedFile,
    pub(crate) path: Option<PathBuf>,
    pub(crate) owner: Owner,
    pub(crate) layout: Arc<Layout>,
    pub(crate) extents: Extents,
    pub(crate) index: Index,
    pub(crate) state: State,
    pub(crate) tree_id: TreeId,
    pub(crate) created_unix_s: u64,
}

impl Parts {
    pub(crate) fn into_tree(self) -> Tree {
        let map = Arc::clone(self.owner.map());
        let generation = Arc::new(Generation { map, extents: self.extents, layout: self.layout });
        // A server whose records were restored from an older copy still knows
        // which revisions it gave.
        let newest = match self.state.role {
            TreeRole::Server => self.state.watermark.0.max(self.index.revisions().max()),
            TreeRole::Replica => self.index.revisions().max(),
        };
        Tree {
            file: self.file,
            path: self.path,
            owner: self.owner,
            shared: Arc::new(Swap::new(Arc::clone(&generation))),
            generation,
            index: self.index,
            state: self.state,
            tree_id: self.tree_id,
            created_unix_s: self.created_unix_s,
            run: Run { newest: Revision(newest), staged: Revision(newest), life_start: None },
            redo: None,
        }
    }
}

/// What the tree is.
impl Tree {
    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.generation.layout
    }

    /// The layout, shared.
    pub fn shared_layout(&self) -> Arc<Layout> {
        Arc::clone(&self.generation.layout)
    }

    /// Hash of the layout.
    pub fn layout_hash(&self) -> LayoutHash {
        self.generation.layout.layout_hash()
    }

    /// Number of leaves.
    pub fn leaf_count(&self) -> u32 {
        self.generation.extents.leaf_count()
    }

    /// Random number of the tree.
    pub fn tree_id(&self) -> TreeId {
        self.tree_id
    }

    /// Whether revisions are made here or come from a server.
    pub fn role(&self) -> TreeRole {
        self.state.role
    }

    /// Life of the server: the tree's own, or the one that a replica follows.
    pub fn life(&self) -> Life {
        self.state.life
    }

    /// Name of the file, none for a tree without one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// A reader for other threads.
    pub fn reader(&self) -> TreeReader {
        TreeReader::new(Arc::clone(&self.shared))
    }
}

/// What the tree holds.
impl Tree {
    /// Checksum of every leaf, in the order of DataLocID.
    pub fn checksums(&self) -> &[u32] {
        self.index.checksums()
    }

    /// Revision of a leaf.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn revision(&self, leaf: DataLocId) -> Revision {
        self.index.revision(leaf)
    }

    /// First leaf of `from..end` whose revision is higher than `since`.
    pub fn next_changed_since(&self, from: u32, end: u32, since: Revision) -> Option<DataLocId> {
        self.index.revisions().next_since(from, end, since.0).map(DataLocId)
    }

    /// Highest revision that a leaf holds; at a server the highest one ever given.
    pub fn newest_revision(&self) -> Revision {
        match self.state.role {
            TreeRole::Server => self.run.newest,
            TreeRole::Replica => Revision(self.index.revisions().max()),
        }
    }

    /// Digest of all leaves.
    pub fn digest(&self) -> Digest {
        self.index.digest()
    }

    /// Digest of the leaves that a parent owns itself, not of those of parents that
    /// it encloses. Sums of them are digests of any set of parents.
    pub fn digest_of_parent(&self, parent: ParentId) -> Option<Digest> {
        self.index.digests_of_parents().get(parent.index()).copied()
    }

    /// Bytes of Data that a leaf holds, from memory of the process.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn data_size(&self, leaf: DataLocId) -> usize {
        self.index.data_size(leaf)
    }

    /// Bytes that a leaf takes in a datagram, filling to a multiple of 8 included.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn wire_len(&self, leaf: DataLocId) -> usize {
        leaf_wire_len(self.index.data_size(leaf))
    }

    /// Whether a leaf changed since it was last taken. No leaf of another tree did.
    pub fn is_changed(&self, leaf: DataLocId) -> bool {
        self.index.changed().contains(leaf.0)
    }

    /// Number of leaves that changed since they were last taken.
    pub fn change_count(&self) -> u32 {
        self.index.changed().count()
    }

    #[inline(always)]
    pub(crate) fn record(&self, leaf: DataLocId) -> Option<Record> {
        self.generation.extents.record(leaf)
    }
}

/// What is kept from run to run.
impl Tree {
    /// Follows another life of the server.
    pub fn set_life(&mut self, life: Life) {
        self.state.life = life;
        self.state.store(&mut self.owner);
    }

    /// Notes that every change up to `watermark` is held. It survives the death of
    /// the process; after power loss [`Tree::saved_progress`] starts anew.
    pub fn save_progress(&mut self, life: Life, watermark: Revision) {
        self.state.watermark = watermark;
        self.set_life(life);
    }

    /// Life and watermark as they were noted last.
    pub fn saved_progress(&self) -> (Life, Revision) {
        (self.state.life, self.state.watermark)
    }

    /// Writes everything back to the medium, and waits for that.
    ///
    /// # Errors
    ///
    /// A failed write-back, now or earlier, or a file that was cut meanwhile: the
    /// process should stop and reopen the file, which verifies it.
    pub fn sync(&mut self) -> Result<(), SyncError> {
        // What is stored through the mapping is written back by this as well.
        self.state.sync(|| perform(Call::WriteBack, || self.file.file().sync_data()))?;
        self.check_file().map_err(SyncError::Lost)
    }

    /// Ends in good order: everything is written back and the state says so. Only then
    /// is a redo log removed; what was staged and not stored was not acknowledged.
    ///
    /// # Errors
    ///
    /// As [`Tree::sync`]. The next opening finds what a crash would have left.
    pub fn close(mut self) -> Result<(), SyncError> {
        self.sync()?;
        if self.state.role == TreeRole::Server {
            self.state.watermark = self.run.newest;
        }
        self.state.closed = Closed::Yes;
        let closed = self.state.store_and_sync(&mut self.owner);
        if closed.is_err() {
            // The next owner would see the slot that did not reach the medium.
            self.state.closed = Closed::No;
            self.state.store(&mut self.owner);
        }
        closed?;
        self.check_file().map_err(SyncError::Lost)?;
        match &self.redo {
            None => Ok(()),
            Some(redo) => redo_log::remove(&redo.path).map_err(SyncError::Log),
        }
    }
}

/// Length of a file as a length in memory.
pub(crate) fn map_len(layout: &Layout) -> io::Result<usize> {
    usize::try_from(layout.file_len()).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

const fn is_send<T: Send>() {}
const fn is_shared<T: Send + Sync + Clone>() {}
const _: () = {
    is_send::<Tree>();
    is_shared::<TreeReader>();
};
