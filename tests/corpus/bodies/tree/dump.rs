//! Dumps that somebody else wrote.

use mapleaf::layout::TreeRole;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::DumpReader;
use mapleaf::tree::LeafState;
use mapleaf::tree::Mark;
use mapleaf::tree::Tree;
use mapleaf::tree::TreeFile;
use mapleaf::tree::write_dump;

use super::NOW;
use super::fresh;

/// A layout whose file is longer is not made: an input of a few bytes may ask for
/// terabytes.
const FILE_LEN_MAX: u64 = 1 << 20;

/// The input is the text of a dump. What can be read can be put back, and is
/// dumped as the same leaves.
pub(in super::super) fn run(bytes: &[u8]) {
    let mut reader = match DumpReader::new(bytes) {
        Ok(reader) => reader,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let mut leaves = Vec::new();
    loop {
        match reader.next_leaf() {
            Ok(Some(leaf)) => leaves.push(leaf),
            Ok(None) => break,
            Err(error) => return assert!(!error.to_string().is_empty()),
        }
    }
    assert!(reader.next_leaf().expect("the end stays the end").is_none());
    let head = reader.head();
    if head.layout.file_len() > FILE_LEN_MAX {
        return;
    }
    let path = fresh();
    let options = CreateOptions {
        role: head.role,
        tree_id: head.tree_id,
        life: head.life,
        unix_s: head.created_unix_s,
    };
    let mut tree = Tree::create(&path, head.layout.clone(), options).expect("room");
    for leaf in &leaves {
        let mark = if leaf.change_flag == 1 { Mark::Changed } else { Mark::Quiet };
        tree.restore(leaf.data_loc_id, leaf.revision, &leaf.data, mark).expect("it has a place");
    }
    tree.restore_watermark(head.watermark);
    if head.role == TreeRole::Server && tree.begin_life(NOW).is_ok() {
        // Revisions go on above what was restored, or there are none left.
        let newest = tree.newest_revision();
        let written =
            tree.write(leaves.first().map_or_else(Default::default, |one| one.data_loc_id), &[]);
        assert!(written.is_ok_and(|revision| revision > newest) || newest.0 == u64::MAX);
    } else {
        tree.close().expect("in memory");
        let again = dumped_again(&path);
        let not_empty: Vec<_> = leaves.into_iter().filter(|leaf| !leaf.view().is_empty()).collect();
        assert_eq!(again, not_empty);
    }
}

fn dumped_again(path: &std::path::Path) -> Vec<LeafState> {
    let file = TreeFile::open(path).expect("a tree that was closed");
    assert!(file.faults().expect("it can be read").is_empty());
    let mut text = Vec::new();
    let summary = write_dump(&file, &mut text).expect("a vector takes all");
    assert_eq!(summary.damaged, 0);
    let mut reader = DumpReader::new(text.as_slice()).expect("our own dump");
    std::iter::from_fn(|| reader.next_leaf().expect("our own dump")).collect()
}
