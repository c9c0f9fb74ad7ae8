//! Growth: a new file beside the old one, filled, and put in its place.
//! docs/FORMAT.md, section 10.

use core::fmt;
use std::io;
use std::sync::Arc;

use crate::layout::DataLocId;
use crate::layout::Revision;
use crate::layout::TreeRole;
use crate::tree::create::FillError;
use crate::tree::create::Filled;
use crate::tree::fresh::Fresh;
use crate::tree::growth::Growth;
use crate::tree::growth::GrowthError;
use crate::tree::lock::LockedFile;
use crate::tree::mapped::Parts;
use crate::tree::mapped::Tree;
use crate::tree::plan::Layout;
use crate::tree::record::leaf_head;

/// Why a tree did not grow. But for [`GrowError::Name`] it is as it was, and goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum GrowError {
    /// The new layout does not keep what the old one has.
    Layout(GrowthError),
    /// There is no space for the new file beside the old one.
    Space {
        /// Bytes that the new file takes.
        needed: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Leaves are staged, and not stored yet.
    Staged,
    /// A call failed.
    Io {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The tree has grown, but the folder could not be written back: after power
    /// loss the old file may be there. The process should stop.
    Name(io::Error),
}

impl fmt::Display for GrowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GrowError::Layout(error) => write!(f, "{error}"),
            GrowError::Staged => write!(f, "growth: leaves are staged and not stored yet"),
            GrowError::Space { needed, source } => {
                write!(f, "growth: cannot reserve {needed} bytes: {source}")
            }
            GrowError::Io { what, source } => write!(f, "growth: cannot {what}: {source}"),
            GrowError::Name(source) => {
                write!(f, "growth: the folder could not be written back: {source}")
            }
        }
    }
}

impl std::error::Error for GrowError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            GrowError::Layout(error) => Some(error),
            GrowError::Space { source, .. } | GrowError::Io { source, .. } => Some(source),
            GrowError::Name(source) => Some(source),
            GrowError::Staged => None,
        }
    }
}

impl From<FillError> for GrowError {
    fn from(error: FillError) -> GrowError {
        match error {
            FillError::Space { needed, source } => GrowError::Space { needed, source },
            FillError::Io { what, source } => GrowError::Io { what, source },
        }
    }
}

impl Tree {
    /// Gives the tree another layout that keeps every leaf it has. Data, revisions
    /// and ChangeFlags stay; DataLocIDs may change, and with them checksums. Readers
    /// go over to the new file; one in mid-read finishes in the old one. A redo log
    /// belongs to the old layout and takes no leaves of the new one: a new one is made.
    ///
    /// # Errors
    ///
    /// The layout drops something, leaves are staged, there is no space, or a call failed.
    pub fn grow(&mut self, new: Layout) -> Result<Growth, GrowError> {
        if self.has_staged() {
            return Err(GrowError::Staged);
        }
        let growth = new.extends(self.layout()).map_err(GrowError::Layout)?;
        let fresh = match &self.path {
            Some(path) => Fresh::to_replace(path),
            None => Fresh::memory(),
        };
        let fresh = fresh.map_err(FillError::io("create the new file"))?;
        let (filled, file) = self.filled(&fresh, new, &growth)?;
        let named = match &self.path {
            Some(path) => fresh.replace(path).map_err(FillError::io("name the new file"))?,
            None => Ok(()),
        };
        self.adopt(filled.into_parts(file, self.path.clone()));
        named.map_err(|source| {
            self.state.fail();
            GrowError::Name(source)
        })?;
        Ok(growth)
    }

    fn filled(
        &self,
        fresh: &Fresh,
        new: Layout,
        growth: &Growth,
    ) -> Result<(Filled, LockedFile), FillError> {
        let mut state = self.state.for_new_file();
        if self.role() == TreeRole::Server {
            state.watermark = self.run.newest;
        }
        let (layout, id) = (Arc::new(new), self.tree_id);
        let mut filled = Filled::new(fresh.file(), layout, state, id, self.created_unix_s)?;
        let mut data = Vec::new();
        for (from, to) in pairs(growth) {
            self.copy_leaf(from, to, &mut filled, &mut data);
        }
        // Zeros in the place of what was cut would be whole leaves in the new file.
        let lost =
            |loss| FillError::Io { what: "read the old file", source: io::Error::other(loss) };
        self.check_file().map_err(lost)?;
        let file = filled.secure(fresh.file())?;
        Ok((filled, file))
    }

    fn copy_leaf(&self, from: DataLocId, to: DataLocId, filled: &mut Filled, data: &mut Vec<u8>) {
        let head = self.read(from, data).expect("growth names leaves of the old layout");
        let record = filled.extents.record(to).expect("growth names leaves of the new layout");
        let head = leaf_head(to, Revision(head.revision.get()), data);
        filled.put(&record, &head, data);
        if self.is_changed(from) {
            filled.flag(&record);
        }
    }

    /// Goes over to a new file. Readers are told by the swap; the old file is
    /// unlocked when its last descriptor closes, here.
    fn adopt(&mut self, parts: Parts) {
        let (shared, run, redo) = (Arc::clone(&self.shared), self.run, self.redo.take());
        let tree = parts.into_tree();
        shared.store(Arc::clone(&tree.generation));
        *self = Tree { shared, run, redo, ..tree };
    }
}

/// Old and new place of every leaf.
fn pairs(growth: &Growth) -> impl Iterator<Item = (DataLocId, DataLocId)> + '_ {
    growth.moves().iter().flat_map(|one| {
        let new = one.new_first.0..;
        one.old.clone().zip(new).map(|(old, new)| (DataLocId(old), DataLocId(new)))
    })
}
