//! Targets that need tree files.

pub(super) mod dump;
pub(crate) mod file;
pub(super) mod operations;
pub(super) mod schema;

use std::path::Path;
use std::path::PathBuf;

use tempfile::TempDir;

use mapleaf::layout::Life;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::CreateOptions;

/// Seconds since 1970, for lives.
pub(super) const NOW: u64 = Life::EPOCH_UNIX_S + 200_000_000;

pub(super) fn options(role: TreeRole) -> CreateOptions {
    CreateOptions { role, tree_id: TreeId(0x1122_3344), life: Life(0), unix_s: NOW }
}

/// A folder of its own, in memory where the system has such a place: an input
/// must not wait for a disk.
pub(super) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir());
    made.expect("a folder for tree files")
}

thread_local! {
    static FOLDER: TempDir = folder();
}

/// The name of this thread's file.
pub(super) fn scratch() -> PathBuf {
    FOLDER.with(|folder| folder.path().join("tree"))
}

/// The same name, with nothing there: an earlier input may have left its file.
pub(super) fn fresh() -> PathBuf {
    let path = scratch();
    let _ = std::fs::remove_file(&path);
    path
}
