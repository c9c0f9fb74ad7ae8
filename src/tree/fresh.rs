//! A file that is being filled and has no final name yet.
//!
//! A crash while a tree is created must not leave half a tree where somebody
//! looks for one. So the file has no name at all until it is whole (O_TMPFILE), or
//! a temporary one where the file system knows no such files.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process;

use crate::tree::map::link_unnamed;
use crate::tree::map::memory_file;
use crate::tree::mishap::Call;
use crate::tree::mishap::perform;

/// Owner only: a tree may hold what others must not see.
const MODE: u32 = 0o600;

/// Where a fresh file is until it is published.
#[derive(Debug)]
enum Name {
    /// Nowhere, and it will stay there: it lives in memory.
    Memory,
    /// Nowhere yet.
    None,
    /// Under a temporary name, removed unless the file is published.
    Temporary(PathBuf),
}

/// A file to be filled and then published whole, or dropped without a trace.
#[derive(Debug)]
pub(crate) struct Fresh {
    file: File,
    name: Name,
}

impl Fresh {
    /// In memory, for trees without a name.
    pub(crate) fn memory() -> io::Result<Fresh> {
        Ok(Fresh { file: memory_file()?, name: Name::Memory })
    }

    /// To become `path`, which must not exist when it is published.
    pub(crate) fn for_new(path: &Path) -> io::Result<Fresh> {
        let unnamed = options().custom_flags(libc::O_TMPFILE).open(folder_of(path));
        match unnamed {
            Ok(file) => Ok(Fresh { file, name: Name::None }),
            Err(error) if no_unnamed_files(&error) => {
                Fresh::temporary(beside(path, &format!("{}.new", process::id()))?)
            }
            Err(error) => Err(error),
        }
    }

    /// To take the place of `path`, which the caller holds the lock of: a file
    /// left by a crash in the same act is removed.
    pub(crate) fn to_replace(path: &Path) -> io::Result<Fresh> {
        let name = beside(path, "next")?;
        match fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Fresh::temporary(name),
        }
    }

    fn temporary(name: PathBuf) -> io::Result<Fresh> {
        let file = options().create_new(true).open(&name)?;
        Ok(Fresh { file, name: Name::Temporary(name) })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file the name `path`, and refuses if that exists. The name is on
    /// the medium when this returns; after an error it is nowhere.
    pub(crate) fn publish(self, path: &Path) -> io::Result<()> {
        match &self.name {
            Name::Memory => return Ok(()),
            Name::None => link_unnamed(&self.file, path)?,
            // A link, as a rename would overwrite. Dropping removes the other name.
            Name::Temporary(name) => fs::hard_link(name, path)?,
        }
        sync_folder_of(path).inspect_err(|_| {
            // The name is ours: a link never replaces another. What a failure to
            // remove it leaves is a whole tree.
            let _ = fs::remove_file(path);
        })
    }

    /// Puts the file in the place of `path`. The inner result says whether the new
    /// name is on the medium: it is in effect in any case.
    pub(crate) fn replace(mut self, path: &Path) -> io::Result<io::Result<()>> {
        if let Name::Temporary(name) = &self.name {
            fs::rename(name, path)?;
            self.name = Name::None;
        }
        Ok(sync_folder_of(path))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Name::Temporary(name) = &self.name {
            // Nothing can be done about a failure, and the next act removes it.
            let _ = fs::remove_file(name);
        }
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(MODE);
    options
}

/// The file system, or a kernel that takes the flag for O_DIRECTORY, has no
/// unnamed files.
fn no_unnamed_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR))
}

/// The folder that a name is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    perform(Call::Folder, || File::open(folder_of(path))?.sync_all())
}

/// `.<name>.<ending>` in the same folder.
fn beside(path: &Path, ending: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(ending);
    Ok(folder_of(path).join(hidden))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_no_name_until_it_is_published_and_overwrites_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let fresh = Fresh::for_new(&path).unwrap();
        let late = Fresh::for_new(&path).unwrap();
        assert!(names(folder.path()).is_empty());
        fresh.publish(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(late.publish(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(names(folder.path()), ["tree"]);
    }

    #[test]
    fn a_temporary_name_does_the_same_where_unnamed_files_are_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let fresh = |ending| Fresh::temporary(beside(&path, ending).unwrap()).unwrap();
        drop(fresh("dropped"));
        let (first, late) = (fresh("first"), fresh("late"));
        first.publish(&path).unwrap();
        assert_eq!(late.publish(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(names(folder.path()), ["tree"]);
    }

    #[test]
    fn a_replacement_removes_what_a_crash_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        fs::write(&path, "old").unwrap();
        fs::write(folder.path().join(".tree.next"), "left").unwrap();
        let fresh = Fresh::to_replace(&path).unwrap();
        fs::write(folder.path().join(".tree.next"), "new").unwrap();
        fresh.replace(&path).unwrap().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["tree"]);
    }
}
