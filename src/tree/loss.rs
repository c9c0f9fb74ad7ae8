//! A tree file that is not what it was when it was opened.
//!
//! Nobody but the owner of a tree may change its file; others can all the same. What
//! they did is found out in two ways: a page that is gone is noted by `sigbus` when
//! it is touched, and a length that is another one is seen by asking for it. Neither
//! can be repaired by a process that runs: it stops, and the file stays as it was
//! found, never marked as closed in good order, so that the next opening verifies it.

use core::fmt;
use std::fs::File;
use std::io;

use crate::tree::map::Map;
use crate::tree::mapped::Tree;

/// Why a file that is in use cannot be relied on any more.
#[derive(Debug)]
#[non_exhaustive]
pub enum FileLoss {
    /// Somebody cut it, or made it longer.
    Length {
        /// Bytes that it had when it was opened.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// A page was gone: the file was cut for a while, or its medium failed.
    Page {
        /// Where it begins in the file.
        offset: u64,
    },
    /// The length cannot be had.
    Unknown(io::Error),
}

impl fmt::Display for FileLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileLoss::Length { expected, found } if found < expected => {
                write!(f, "the file was cut to {found} bytes while in use, expected {expected}")
            }
            FileLoss::Length { expected, found } => {
                write!(f, "the file has {found} bytes while in use, expected {expected}")
            }
            FileLoss::Page { offset } => {
                write!(f, "the page at {offset} was lost while in use: cut, or not readable")
            }
            FileLoss::Unknown(source) => {
                write!(f, "the length of the file in use cannot be had: {source}")
            }
        }
    }
}

impl std::error::Error for FileLoss {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FileLoss::Unknown(source) => Some(source),
            _ => None,
        }
    }
}

impl Tree {
    /// Whether a page of the file was found lost. It costs a load, and is for each
    /// turn of a loop.
    #[inline]
    pub fn is_lost(&self) -> bool {
        self.owner.map().lost().is_some()
    }

    /// Asks the system whether the file is as long as it was. It costs a call, and is
    /// for now and then: whoever cuts a file in the middle of a page, or where nobody
    /// looks, makes no noise.
    ///
    /// # Errors
    ///
    /// What happened to the file. The tree is not to be used any more then.
    pub fn check_file(&self) -> Result<(), FileLoss> {
        check_loss(self.file.file(), self.owner.map())
    }
}

/// The same for whoever holds the file and its mapping, which are equally long.
pub(crate) fn check_loss(file: &File, map: &Map) -> Result<(), FileLoss> {
    let expected = map.len() as u64;
    let found = file.metadata().map_err(FileLoss::Unknown)?.len();
    if found != expected {
        return Err(FileLoss::Length { expected, found });
    }
    match map.lost() {
        None => Ok(()),
        Some(offset) => Err(FileLoss::Page { offset: offset as u64 }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions as FileOptions;
    use std::path::Path;

    use super::*;
    use crate::layout::DataLocId;
    use crate::layout::Life;
    use crate::layout::RecordHead;
    use crate::layout::TreeId;
    use crate::layout::TreeRole;
    use crate::tree::create::CreateOptions;
    use crate::tree::grow::GrowError;
    use crate::tree::open::OpenError;
    use crate::tree::open::OpenOptions;
    use crate::tree::plan::Layout;
    use crate::tree::record::verify_record;
    use crate::tree::recover::Damaged;
    use crate::tree::state::SyncError;
    use crate::tree::write::WriteError;

    fn tree(path: &Path) -> Tree {
        let options =
            CreateOptions { role: TreeRole::Server, tree_id: TreeId(5), life: Life(0), unix_s: 0 };
        let mut tree = Tree::create(path, Layout::plain(1, 500, 200).unwrap(), options).unwrap();
        tree.begin_life(1).unwrap();
        for leaf in 0..500 {
            tree.write(DataLocId(leaf), &[3; 150]).unwrap();
        }
        tree
    }

    fn set_len(path: &Path, len: u64) {
        FileOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
    }

    fn opened(path: &Path) -> Result<(), OpenError> {
        let (role, damaged) = (TreeRole::Server, Damaged::Refuse);
        Tree::open(path, OpenOptions { role, damaged, unix_s: 2 }).map(drop)
    }

    #[test]
    fn a_write_to_a_lost_page_is_refused_and_nothing_is_closed_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let mut tree = tree(&path);
        tree.check_file().unwrap();
        set_len(&path, 20_000);
        assert!(!tree.is_lost());
        assert!(matches!(tree.check_file(), Err(FileLoss::Length { found: 20_000, .. })));
        let refused = tree.write(DataLocId(400), b"not in the file");
        assert_eq!(refused, Err(WriteError::Lost));
        assert!(tree.is_lost());
        assert_eq!(tree.write(DataLocId(0), b"in a page that is there"), Err(WriteError::Lost));
        let text = tree.check_file().unwrap_err().to_string();
        assert!(text.starts_with("the file was cut to 20000 bytes"), "{text}");
        assert!(matches!(tree.sync(), Err(SyncError::Lost(_))));
        assert!(matches!(tree.close(), Err(SyncError::Lost(_))));
        assert!(matches!(opened(&path), Err(OpenError::Length { found: 20_000, .. })));
    }

    #[test]
    fn a_file_that_was_cut_and_made_longer_again_is_known_by_its_pages() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let mut tree = tree(&path);
        set_len(&path, 20_000);
        assert_eq!(tree.write(DataLocId(499), b"lost"), Err(WriteError::Lost));
        set_len(&path, tree.layout().file_len());
        assert!(matches!(tree.check_file(), Err(FileLoss::Page { .. })));
        drop(tree);
        assert!(matches!(opened(&path), Err(OpenError::Damaged { .. })));
    }

    #[test]
    fn a_tree_that_was_cut_does_not_grow_into_a_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let mut tree = tree(&path);
        set_len(&path, 20_000);
        let grown = tree.grow(Layout::plain(1, 600, 200).unwrap());
        assert!(matches!(grown, Err(GrowError::Io { .. })), "{grown:?}");
        assert_eq!(path.metadata().unwrap().len(), 20_000, "the old file is what it was");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_reader_gets_nothing_from_a_tree_that_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let tree = tree(&path);
        let reader = tree.reader();
        let mut data = Vec::new();
        assert!(reader.read(DataLocId(499), &mut data).is_some());
        set_len(&path, 20_000);
        assert!(reader.read(DataLocId(499), &mut data).is_none());
    }

    #[test]
    fn zeros_are_no_leaf() {
        for capacity in (0..2_000).step_by(8) {
            let record = vec![0; RecordHead::DATA_OFFSET + capacity as usize];
            assert!(verify_record(&record, DataLocId(0), capacity).is_err(), "{capacity}");
        }
    }
}
