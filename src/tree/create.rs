//! Creating a tree: reserved, filled, locked, and only then named.

use core::fmt;
use std::fs::File;
use std::io;
use std::path;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use zerocopy::IntoBytes;

use crate::layout::LeafHead;
use crate::layout::Life;
use crate::layout::RecordHead;
use crate::layout::TreeId;
use crate::layout::TreeRole;
use crate::tree::extent::Extents;
use crate::tree::extent::Record;
use crate::tree::fresh::Fresh;
use crate::tree::index::Index;
use crate::tree::lock::LockedFile;
use crate::tree::map::Owner;
use crate::tree::map::Prefault;
use crate::tree::map::reserve;
use crate::tree::mapped::Parts;
use crate::tree::mapped::Tree;
use crate::tree::mapped::map_len;
use crate::tree::mishap::Call;
use crate::tree::mishap::perform;
use crate::tree::plan::Layout;
use crate::tree::record::CHANGE_FLAG_AT;
use crate::tree::record::empty_head;
use crate::tree::redo_log::redo_path;
use crate::tree::state::State;
use crate::tree::write::saved_range;

/// What a new tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Origin or copy.
    pub role: TreeRole,
    /// Random number of a new tree; the server's for a copy.
    pub tree_id: TreeId,
    /// Life of the server that a copy follows; `Life(0)` for an origin, whose
    /// first life begins by [`Tree::begin_life`].
    pub life: Life,
    /// Unix time of creation, in seconds.
    pub unix_s: u64,
}

/// Why a tree was not created. Nothing is left behind.
#[derive(Debug)]
#[non_exhaustive]
pub enum CreateError {
    /// There is something of that name already.
    Exists {
        /// The name.
        path: PathBuf,
    },
    /// There is no space for the file.
    Space {
        /// The name; empty for a tree in memory.
        path: PathBuf,
        /// Bytes that the file takes.
        needed: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A call failed.
    Io {
        /// The name; empty for a tree in memory.
        path: PathBuf,
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CreateError::Exists { path } => {
                write!(f, "{}: exists already, and is not overwritten", shown(path))
            }
            CreateError::Space { path, needed, source } => {
                write!(f, "{}: cannot reserve {needed} bytes: {source}", shown(path))
            }
            CreateError::Io { path, what, source } => {
                write!(f, "{}: cannot {what}: {source}", shown(path))
            }
        }
    }
}

/// A tree in memory has no name.
fn shown(path: &Path) -> path::Display<'_> {
    let shown = if path.as_os_str().is_empty() { Path::new("in memory") } else { path };
    shown.display()
}

impl std::error::Error for CreateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CreateError::Exists { .. } => None,
            CreateError::Space { source, .. } | CreateError::Io { source, .. } => Some(source),
        }
    }
}

/// A step of creation that failed, before it is known which file it was.
#[derive(Debug)]
pub(crate) enum FillError {
    Space { needed: u64, source: io::Error },
    Io { what: &'static str, source: io::Error },
}

impl FillError {
    pub(crate) fn io(what: &'static str) -> impl Fn(io::Error) -> FillError {
        move |source| FillError::Io { what, source }
    }

    /// The error about this file, or about one in memory.
    fn at(self, path: &Path) -> CreateError {
        let path = path.to_owned();
        match self {
            FillError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                CreateError::Exists { path }
            }
            FillError::Io { what, source } => CreateError::Io { path, what, source },
            FillError::Space { needed, source } => CreateError::Space { path, needed, source },
        }
    }
}

impl Tree {
    /// Creates a tree file, every leaf empty, and opens it. Its space is reserved,
    /// only its owner may read it, and it appears under its name when it is whole.
    ///
    /// # Errors
    ///
    /// There is a file of that name, or a redo log of such a file, or no space, or a call failed.
    pub fn create(
        path: &Path,
        layout: Layout,
        options: CreateOptions,
    ) -> Result<Tree, CreateError> {
        // A redo log that lies there would be taken for this tree's.
        for taken in [Some(path.to_owned()), redo_path(path)].into_iter().flatten() {
            if taken.symlink_metadata().is_ok() {
                return Err(CreateError::Exists { path: taken });
            }
        }
        create_at(path, layout, options).map_err(|error| error.at(path))
    }

    /// Creates a tree that lives in memory and has no name: for watchers and tests.
    ///
    /// # Errors
    ///
    /// There is no memory, or a call failed.
    pub fn create_unnamed(layout: Layout, options: CreateOptions) -> Result<Tree, CreateError> {
        create_in_memory(layout, options).map_err(|error| error.at(Path::new("")))
    }
}

fn create_at(path: &Path, layout: Layout, options: CreateOptions) -> Result<Tree, FillError> {
    let fresh = Fresh::for_new(path).map_err(FillError::io("create the file"))?;
    create_in(fresh, Some(path), layout, options)
}

fn create_in_memory(layout: Layout, options: CreateOptions) -> Result<Tree, FillError> {
    let fresh = Fresh::memory().map_err(FillError::io("create a file in memory"))?;
    create_in(fresh, None, layout, options)
}

fn create_in(
    fresh: Fresh,
    path: Option<&Path>,
    layout: Layout,
    options: CreateOptions,
) -> Result<Tree, FillError> {
    let CreateOptions { role, tree_id, life, unix_s } = options;
    let state = State::new(role, life);
    let mut filled = Filled::new(fresh.file(), Arc::new(layout), state, tree_id, unix_s)?;
    let file = filled.secure(fresh.file())?;
    fresh.publish(path.unwrap_or(Path::new(""))).map_err(FillError::io("name it"))?;
    Ok(filled.into_parts(file, path.map(Path::to_owned)).into_tree())
}

/// A file with every section in its place and every leaf empty.
pub(crate) struct Filled {
    pub(crate) owner: Owner,
    pub(crate) layout: Arc<Layout>,
    pub(crate) extents: Extents,
    pub(crate) index: Index,
    state: State,
    tree_id: TreeId,
    created_unix_s: u64,
}

impl Filled {
    /// Reserves the space of a file and fills it.
    pub(crate) fn new(
        file: &File,
        layout: Arc<Layout>,
        state: State,
        tree_id: TreeId,
        created_unix_s: u64,
    ) -> Result<Filled, FillError> {
        let needed = layout.file_len();
        let len = map_len(&layout).map_err(FillError::io("map the file"))?;
        reserve(file, needed).map_err(|source| FillError::Space { needed, source })?;
        let owner = Owner::map_file(file, len, saved_range(&layout), Prefault::Write)
            .map_err(FillError::io("map the file"))?;
        let extents = Extents::new(&layout);
        let index = Index::new(layout.leaf_count(), layout.parent_count());
        let mut filled = Filled { owner, layout, extents, index, state, tree_id, created_unix_s };
        filled.store_sections();
        filled.store_empty_records();
        filled.state.store(&mut filled.owner);
        Ok(filled)
    }

    /// What a model grows into: a file of which it made the parts that it touches.
    #[cfg(all(loom, test))]
    pub(crate) fn of_model(owner: Owner, layout: Arc<Layout>) -> Filled {
        let extents = Extents::new(&layout);
        let index = Index::new(layout.leaf_count(), layout.parent_count());
        let state = State::new(crate::layout::TreeRole::Server, crate::layout::Life(0));
        let (tree_id, created_unix_s) = (TreeId(0), 0);
        let mut filled = Filled { owner, layout, extents, index, state, tree_id, created_unix_s };
        filled.store_empty_records();
        filled
    }

    fn store_sections(&mut self) {
        let (owner, layout) = (&mut self.owner, &self.layout);
        // Offsets fit, as the whole file was mapped.
        owner.store_bytes(0, layout.header(self.tree_id, self.created_unix_s).as_bytes());
        owner.store_bytes(layout.schema_offset() as usize, layout.schema_text().as_bytes());
        owner.store_bytes(layout.parents_offset() as usize, layout.parents().as_bytes());
    }

    fn store_empty_records(&mut self) {
        for record in self.extents.all() {
            let head = empty_head(record.leaf);
            self.owner.store_bytes(record.offset + RecordHead::WIRE_OFFSET, head.as_bytes());
            self.index.insert(&record, &head);
        }
    }

    /// Puts a leaf in the place of an empty one.
    pub(crate) fn put(&mut self, record: &Record, head: &LeafHead, data: &[u8]) {
        self.owner.store_bytes(record.offset + RecordHead::WIRE_OFFSET, head.as_bytes());
        self.owner.store_bytes(record.offset + RecordHead::DATA_OFFSET, data);
        self.index.replace(record, head);
    }

    /// Sets the ChangeFlag of a leaf, in the record and in the set.
    pub(crate) fn flag(&mut self, record: &Record) {
        self.owner.store_u32(record.offset + CHANGE_FLAG_AT, 1, Ordering::Relaxed);
        self.index.mark(record.leaf);
    }

    /// Locks the file, before anybody can know its name, and brings it to the
    /// medium.
    pub(crate) fn secure(&mut self, file: &File) -> Result<LockedFile, FillError> {
        let file = file.try_clone().map_err(FillError::io("lock the file"))?;
        let locked = LockedFile::new(file).map_err(io::Error::from);
        let locked = locked.map_err(FillError::io("lock the file"))?;
        let synced = self.state.sync(|| perform(Call::WriteBack, || locked.file().sync_all()));
        synced.map_err(io::Error::other).map_err(FillError::io("write the file back"))?;
        Ok(locked)
    }

    pub(crate) fn into_parts(self, file: LockedFile, path: Option<PathBuf>) -> Parts {
        Parts {
            file,
            path,
            owner: self.owner,
            layout: self.layout,
            extents: self.extents,
            index: self.index,
            state: self.state,
            tree_id: self.tree_id,
            created_unix_s: self.created_unix_s,
        }
    }
}
