//! Stories of a tree file: what it keeps, what it refuses, what survives.
#![cfg(feature = "tree")]

mod death;
mod full;
mod hostile;
mod model;
mod power;
mod power_threads;
mod reads;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Digest;
use mapleaf::layout::LeafHead;
use mapleaf::layout::Life;
use mapleaf::layout::ParentId;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::CreateError;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Damaged;
use mapleaf::tree::Ending;
use mapleaf::tree::Layout;
use mapleaf::tree::Mark;
use mapleaf::tree::OpenError;
use mapleaf::tree::OpenOptions;
use mapleaf::tree::Recovery;
use mapleaf::tree::Tree;
use mapleaf::tree::leaf_checksum;

const NOW: u64 = Life::EPOCH_UNIX_S + 200_000_000;

fn options(role: TreeRole) -> CreateOptions {
    CreateOptions { role, tree_id: TreeId(0x1122_3344), life: Life(0), unix_s: NOW }
}

fn open_as(path: &Path, role: TreeRole, damaged: Damaged) -> Result<(Tree, Recovery), OpenError> {
    Tree::open(path, OpenOptions { role, damaged, unix_s: NOW })
}

fn open(path: &Path) -> Result<(Tree, Recovery), OpenError> {
    open_as(path, TreeRole::Server, Damaged::Refuse)
}

fn server(path: &Path, layout: Layout) -> Tree {
    let mut tree = Tree::create(path, layout, options(TreeRole::Server)).unwrap();
    tree.begin_life(NOW).unwrap();
    tree
}

fn leaf(tree: &Tree, id: u32) -> (LeafHead, Vec<u8>) {
    let mut data = vec![9; 3];
    let head = tree.read(DataLocId(id), &mut data).unwrap();
    assert_eq!(leaf_checksum(&head, &data), head.checksum.get());
    (head, data)
}

/// Everything that a tree keeps in memory, computed anew from its leaves.
fn check_columns(tree: &Tree) {
    let mut digest = Digest(0);
    let mut parts = vec![Digest(0); tree.layout().parent_count() as usize];
    for id in 0..tree.leaf_count() {
        let place = DataLocId(id);
        let (head, data) = leaf(tree, id);
        let revision = Revision(head.revision.get());
        assert_eq!(tree.checksums()[place.index()], head.checksum.get());
        assert_eq!(tree.revision(place), revision);
        assert_eq!(tree.data_size(place), data.len());
        let of_leaf = Digest::of_leaf(place, revision, head.checksum.get());
        digest = digest.plus(of_leaf);
        let parent = tree.layout().parent_of(place).unwrap().parent_id.get() as usize;
        parts[parent] = parts[parent].plus(of_leaf);
        let mut wire = vec![0xee; tree.wire_len(place)];
        assert_eq!(tree.copy_wire(place, &mut wire), Some(wire.len()));
        let (head_bytes, rest) = wire.split_at(24);
        assert_eq!(head_bytes, zerocopy::IntoBytes::as_bytes(&head));
        assert_eq!(&rest[..data.len()], data);
        assert!(rest[data.len()..].iter().all(|byte| *byte == 0));
        wire.pop();
        assert_eq!(tree.copy_wire(place, &mut wire), None, "too short a place");
    }
    assert_eq!(tree.digest(), digest);
    for (parent, part) in parts.iter().enumerate() {
        assert_eq!(tree.digest_of_parent(ParentId(parent as u32)), Some(*part));
    }
}

#[test]
fn a_replica_that_applies_what_a_server_holds_has_its_digest() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::plain(3, 50, 100).unwrap();
    let mut server = server(&folder.path().join("server"), layout.clone());
    let path = folder.path().join("replica");
    let mut replica = Tree::create(&path, layout, options(TreeRole::Replica)).unwrap();
    assert_eq!(replica.digest(), server.digest(), "both are empty");
    for id in 0..50 {
        server.write(DataLocId(id * 7 % 50), &vec![id as u8; id as usize]).unwrap();
    }
    assert_ne!(replica.digest(), server.digest());
    let mut changed = Vec::new();
    server.take_changes(&mut changed);
    for id in &changed {
        let (head, data) = leaf(&server, id.0);
        replica.apply(&head, &data, Mark::Quiet).unwrap();
    }
    assert_eq!((replica.digest(), replica.change_count()), (server.digest(), 0));
    assert_eq!(replica.checksums(), server.checksums());
    let (life, watermark) = (server.life(), server.newest_revision());
    replica.save_progress(life, watermark);
    check_columns(&replica);
    drop(replica);
    let (replica, recovery) = open_as(&path, TreeRole::Replica, Damaged::Refuse).unwrap();
    assert_eq!(recovery.ending, Ending::ProcessDeath);
    assert_eq!(replica.saved_progress(), (life, watermark));
    assert_eq!(replica.digest(), server.digest());
}

#[test]
fn a_tree_without_a_name_does_the_same() {
    let layout = Layout::plain(1, 10, 64).unwrap();
    let mut tree = Tree::create_unnamed(layout, options(TreeRole::Server)).unwrap();
    tree.begin_life(NOW).unwrap();
    tree.write(DataLocId(9), b"nine").unwrap();
    tree.grow(Layout::plain(1, 12, 80).unwrap()).unwrap();
    assert_eq!(leaf(&tree, 9).1, b"nine");
    assert_eq!((tree.path(), tree.leaf_count()), (None, 12));
    check_columns(&tree);
    tree.close().unwrap();
}

#[test]
fn there_is_one_owner_and_creating_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let layout = Layout::plain(1, 4, 64).unwrap();
    let mut tree = server(&path, layout.clone());
    tree.write(DataLocId(1), b"kept").unwrap();
    assert!(matches!(open(&path), Err(OpenError::Locked)));
    let again = Tree::create(&path, layout.clone(), options(TreeRole::Server));
    assert!(matches!(again, Err(CreateError::Exists { .. })), "{again:?}");
    tree.grow(Layout::plain(1, 5, 64).unwrap()).unwrap();
    assert!(matches!(open(&path), Err(OpenError::Locked)), "the lock is on the grown file");
    let mode = fs::metadata(&path).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(tree);
    assert!(matches!(
        open_as(&path, TreeRole::Replica, Damaged::Refuse),
        Err(OpenError::Role { found: TreeRole::Server, .. })
    ));
    assert_eq!(leaf(&open(&path).unwrap().0, 1).1, b"kept");
    let nowhere = Tree::create(&folder.path().join("no/tree"), layout, options(TreeRole::Server));
    assert!(matches!(nowhere, Err(CreateError::Io { .. })));
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["tree"], "nothing is left behind");
}

#[test]
fn other_threads_see_whole_leaves_while_the_owner_writes_and_grows() {
    let layout = |leaves| Layout::plain(1, leaves, 900).unwrap();
    let mut tree = Tree::create_unnamed(layout(4), options(TreeRole::Server)).unwrap();
    tree.begin_life(NOW).unwrap();
    let reader = tree.reader();
    let stop = AtomicBool::new(false);
    let reads = thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (reader, stop) = (reader.clone(), &stop);
                scope.spawn(move || read_until(&reader, stop))
            })
            .collect();
        let end = Instant::now() + Duration::from_millis(700);
        let mut count = 0u32;
        while Instant::now() < end {
            let len = (count * 37 % 900) as usize;
            tree.write(DataLocId(count % 4), &vec![count as u8; len]).unwrap();
            count += 1;
            if count.is_multiple_of(5000) && count < 50_000 {
                tree.grow(layout(4 + count / 5000)).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u64>()
    });
    assert!(reads > 1000, "{reads} reads");
    assert_eq!(reader.layout().leaf_count(), tree.leaf_count());
    assert_eq!(reader.read(DataLocId(tree.leaf_count()), &mut Vec::new()), None);
}

fn read_until(reader: &mapleaf::tree::TreeReader, stop: &AtomicBool) -> u64 {
    let (mut reads, mut data) = (0, Vec::new());
    let mut newest = [0; 4];
    while !stop.load(Ordering::Relaxed) {
        let id = (reads % 4) as u32;
        let head = reader.read(DataLocId(id), &mut data).expect("the writer never rests that long");
        assert_eq!(leaf_checksum(&head, &data), head.checksum.get(), "torn");
        assert!(data.windows(2).all(|pair| pair[0] == pair[1]), "torn");
        let seen = &mut newest[id as usize];
        assert!(head.revision.get() >= *seen, "went backwards");
        *seen = head.revision.get();
        reads += 1;
    }
    reads
}

#[test]
fn a_reader_outlives_its_tree() {
    let layout = Layout::plain(1, 4, 64).unwrap();
    let mut tree = Tree::create_unnamed(layout, options(TreeRole::Server)).unwrap();
    tree.begin_life(NOW).unwrap();
    tree.write(DataLocId(2), b"last words").unwrap();
    let reader = tree.reader();
    drop(tree);
    let mut data = Vec::new();
    reader.read(DataLocId(2), &mut data).unwrap();
    assert_eq!(data, b"last words");
}
