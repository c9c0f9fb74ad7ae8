//! A tree file of this format, held still in tests/golden: it opens, verifies and
//! means what it meant when it was made.
//!
//! A file of every format that was released stays here. `MAPLEAF_BLESS=1` makes the
//! one of the present format anew.

use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Life;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Damaged;
use mapleaf::tree::Layout;
use mapleaf::tree::OpenOptions;
use mapleaf::tree::Tree;
use mapleaf::tree::TreeFile;

const SCHEMA: &str = "[[parent]]\nname = \"site\"\n\n\
                      [[parent]]\nname = \"rack\"\nin = \"/site\"\nleaves = 3\n\
                      leaf_name = \"port{n}\"\n\
                      [[parent.field]]\nname = \"temp\"\ntype = \"f32\"\nunit = \"C\"\n";

/// The clock of the day on which the file was made.
const UNIX_S: u64 = 1_795_000_000;
const LIFE: Life = Life((UNIX_S - Life::EPOCH_UNIX_S) as u32);
const TREE_ID: TreeId = TreeId(0x6d61_706c_6561_6601);

/// Written in this order: leaf 2 is left as it was created.
const WRITES: [(u32, f32); 3] = [(0, 21.5), (1, -4.0), (0, 22.25)];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1.tree")
}

fn bless(path: &Path) {
    let role = TreeRole::Server;
    let options = CreateOptions { role, tree_id: TREE_ID, life: Life(0), unix_s: UNIX_S };
    let layout = Layout::from_toml(SCHEMA).expect("a good schema");
    let _ = fs::remove_file(path);
    let mut tree = Tree::create(path, layout, options).expect("a free path");
    tree.begin_life(UNIX_S).expect("a disk that works");
    for (leaf, value) in WRITES {
        tree.write(DataLocId(leaf), &value.to_le_bytes()).expect("a leaf of the tree");
    }
    tree.close().expect("a disk that works");
}

/// Revision and Data of each leaf.
fn expected() -> [(Revision, Vec<u8>); 3] {
    let written =
        |count: u64, value: f32| (Revision(LIFE.base().0 + count), value.to_le_bytes().to_vec());
    [written(3, 22.25), written(2, -4.0), (Revision::ZERO, Vec::new())]
}

#[test]
fn the_file_of_format_1_means_what_it_meant() {
    if env::var_os("MAPLEAF_BLESS").is_some() {
        bless(&golden());
    }
    let file = TreeFile::open(&golden()).expect("a file of a format that we read");
    assert_eq!(file.faults().expect("it reads"), []);
    assert_eq!(file.header().tree_id.get(), TREE_ID.0);
    assert_eq!(file.layout().schema_text(), SCHEMA);
    for (leaf, (revision, data)) in (0..).zip(expected()) {
        let held = file.read_leaf(DataLocId(leaf)).expect("it reads").expect("a leaf");
        let held = held.expect("undamaged");
        assert_eq!((held.revision, held.data), (revision, data), "leaf {leaf}");
    }
}

#[test]
fn a_copy_of_it_is_served_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("tree");
    fs::copy(golden(), &path).expect("a copy");
    let how = OpenOptions { role: TreeRole::Server, damaged: Damaged::Refuse, unix_s: UNIX_S + 60 };
    let (mut tree, recovery) = Tree::open(&path, how).expect("it opens");
    assert_eq!((recovery.damaged_count, recovery.undone), (0, None));
    assert_eq!(tree.begin_life(UNIX_S + 60).expect("a disk that works"), Life(LIFE.0 + 60));
    assert_eq!(tree.change_count(), 2, "flags that were never sent are still set");
    for (leaf, (revision, data)) in (0..).zip(expected()) {
        let mut held = Vec::new();
        let head = tree.read(DataLocId(leaf), &mut held).expect("a leaf");
        assert_eq!((Revision(head.revision.get()), held), (revision, data), "leaf {leaf}");
    }
    assert_eq!(tree.layout().leaf_at("/site/rack/port1"), Some(DataLocId(1)));
}
