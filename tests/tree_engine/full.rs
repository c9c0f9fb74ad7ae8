//! No space for a file.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use mapleaf::layout::DataLocId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::Ending;
use mapleaf::tree::GrowError;
use mapleaf::tree::Layout;
use mapleaf::tree::Tree;

use super::check_columns;
use super::leaf;
use super::open;
use super::options;
use super::server;

const CHILD: &str = "MAPLEAF_TEST_FULL";

/// Run by the test below under a limit on the length of files.
#[test]
fn under_a_limit() {
    let Some(folder) = env::var_os(CHILD).map(PathBuf::from) else { return };
    let big = Layout::plain(1, 100_000, 64).unwrap();
    let error = Tree::create(&folder.join("big"), big.clone(), options(TreeRole::Server));
    let message = error.expect_err("no space").to_string();
    assert!(message.contains("cannot reserve"), "{message}");
    assert!(fs::read_dir(&folder).unwrap().next().is_none(), "nothing is left behind");
    let path = folder.join("tree");
    let mut tree = server(&path, Layout::plain(1, 100, 64).unwrap());
    tree.write(DataLocId(3), b"before").unwrap();
    assert!(matches!(tree.grow(big), Err(GrowError::Space { .. })));
    tree.write(DataLocId(4), b"after").unwrap();
    assert_eq!(tree.leaf_count(), 100);
    check_columns(&tree);
    tree.close().unwrap();
    let (tree, recovery) = open(&path).unwrap();
    assert_eq!(recovery.ending, Ending::Clean);
    assert_eq!((leaf(&tree, 3).1, leaf(&tree, 4).1), (b"before".to_vec(), b"after".to_vec()));
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["tree"]);
}

#[test]
fn no_space_is_an_error_and_the_old_tree_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    // 512-byte blocks; the signal of the limit is ignored, so that the call fails.
    let script = "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\"";
    let output = Command::new("/bin/sh")
        .args(["-c", script])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "full::under_a_limit", "--test-threads=1"])
        .env(CHILD, folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    assert!(folder.path().join("tree").exists());
}
