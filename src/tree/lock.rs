//! The lock that makes one process the owner of a tree file.

use std::fs;
use std::fs::File;
use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::tree::open::OpenError;

/// Times that a name is opened anew because the tree grew meanwhile.
const ATTEMPTS: u32 = 16;

/// A file that is locked as long as this lives, or the process does.
///
/// The lock belongs to the open file, not to the process as POSIX locks do: it
/// neither vanishes when another descriptor of the file closes, nor lets the same
/// process open the tree twice.
#[derive(Debug)]
pub(crate) struct LockedFile(Arc<File>);

impl LockedFile {
    /// Locks `file`, or tells at once that it is locked already.
    pub(crate) fn new(file: File) -> Result<LockedFile, TryLockError> {
        file.try_lock().map(|()| LockedFile(Arc::new(file)))
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// The file, to be held by others too. The lock ends without them.
    pub(crate) fn shared(&self) -> &Arc<File> {
        &self.0
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Closing would not do: a process that was forked a moment ago may hold
        // the descriptor until it executes its program. A failure leaves it to that.
        let _ = self.0.unlock();
    }
}

/// Opens and locks the file that has this name when it is locked.
pub(crate) fn lock_named(path: &Path) -> Result<LockedFile, OpenError> {
    for _ in 0..ATTEMPTS {
        let file = fs::OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(OpenError::io("open the file"))?;
        if !file.metadata().map_err(OpenError::io("examine the file"))?.is_file() {
            return Err(OpenError::NotAFile);
        }
        let locked = LockedFile::new(file).map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Locked,
            TryLockError::Error(source) => OpenError::io("lock the file")(source),
        })?;
        // The owner may have grown the tree between the opening and the lock: then
        // this is the old file, which has no name any more.
        if is_named(locked.file(), path).map_err(OpenError::io("examine the file"))? {
            return Ok(locked);
        }
    }
    Err(OpenError::Restless)
}

fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let (held, named) = (file.metadata()?, fs::metadata(path)?);
    Ok((held.dev(), held.ino()) == (named.dev(), named.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_free_at_once_though_a_copy_of_the_descriptor_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let first = lock_named(&path).unwrap();
        let copy = first.file().try_clone().unwrap();
        assert!(matches!(lock_named(&path), Err(OpenError::Locked)));
        drop(first);
        lock_named(&path).unwrap();
        drop(copy);
    }

    #[test]
    fn a_file_that_was_replaced_is_known_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let old = File::open(&path).unwrap();
        assert!(is_named(&old, &path).unwrap());
        fs::write(folder.path().join("new"), "new").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(!is_named(&old, &path).unwrap());
    }
}
