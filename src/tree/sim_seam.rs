//! What the simulator does with trees and logs that lie in memory, by the code that the
//! product runs on files; and the rules that its planted bugs step over.

use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::layout::TreeRole;
use crate::tree::grow::GrowError;
use crate::tree::growth::Growth;
use crate::tree::lock::LockedFile;
pub(crate) use crate::tree::map::memory_file;
use crate::tree::mapped::Tree;
use crate::tree::open::OpenError;
use crate::tree::open::OpenOptions;
use crate::tree::plan::Layout;
use crate::tree::recover::Damaged;
use crate::tree::recover::Recovery;
use crate::tree::redo_batch::RedoBatch;
use crate::tree::redo_log;
use crate::tree::redo_log::Freed;
use crate::tree::redo_log::Left;
use crate::tree::redo_log::RedoError;
use crate::tree::redo_log::RedoLog;
use crate::tree::write::WriteError;

/// The file of a tree.
pub(crate) fn file_of(tree: &Tree) -> io::Result<File> {
    tree.file.file().try_clone()
}

/// Opens a server's tree with the log beside it. Whoever calls this removes the log.
pub(crate) fn recover(
    tree: &File,
    log: Option<&File>,
    unix_s: u64,
) -> Result<(Tree, Recovery), OpenError> {
    let file = tree.try_clone().map_err(OpenError::io("open the file"))?;
    let file = LockedFile::new(file).map_err(|_| OpenError::Locked)?;
    let log = log.map(File::try_clone).transpose().map_err(OpenError::io("open the log"))?;
    let options = OpenOptions { role: TreeRole::Server, damaged: Damaged::Refuse, unix_s };
    Tree::recover(file, Path::new("memory"), log, options)
}

/// Makes the log of a tree's life in memory.
pub(crate) fn create_log(tree: &mut Tree, half_len: u64) -> Result<(RedoLog, File), RedoError> {
    redo_log::prepare(tree, half_len)?;
    let file = |source| RedoError::Io { what: "create it", source };
    let memory = memory_file().map_err(file)?;
    let log = RedoLog::fill(memory.try_clone().map_err(file)?, tree, half_len)?;
    log.attach(tree, PathBuf::new());
    Ok((log, memory))
}

/// Lets a tree grow as one of this name does, wherever it lies itself.
pub(crate) fn grow(tree: &mut Tree, layout: Layout, name: &Path) -> Result<Growth, GrowError> {
    tree.path = Some(name.to_owned());
    tree.grow(layout)
}

/// A bug: proof of a checkpoint that was not made.
pub(crate) fn free_unproven(left: Left) -> Freed {
    Freed(left)
}

/// A bug: a batch is stored, durable or not.
pub(crate) fn store_early(tree: &mut Tree, batch: &RedoBatch) -> Result<(), WriteError> {
    tree.store_leaves(batch)
}
