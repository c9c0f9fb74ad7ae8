//! Trees with a redo log: what is durable is taken over, and nothing else is.

use std::fs;
use std::path::Path;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::CreateError;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Damaged;
use mapleaf::tree::Ending;
use mapleaf::tree::GrowError;
use mapleaf::tree::Layout;
use mapleaf::tree::OpenError;
use mapleaf::tree::OpenOptions;
use mapleaf::tree::RedoBatch;
use mapleaf::tree::RedoError;
use mapleaf::tree::RedoFault;
use mapleaf::tree::RedoLog;
use mapleaf::tree::RedoSummary;
use mapleaf::tree::Replay;
use mapleaf::tree::StageError;
use mapleaf::tree::Tree;
use mapleaf::tree::WriteError;
use mapleaf::tree::redo_path;

use super::NOW;
use super::check_columns;
use super::leaf;
use super::open;
use super::options;

const HALF: u64 = 3 * 4096;
const A: DataLocId = DataLocId(3);
const B: DataLocId = DataLocId(7);

fn layout(leaves: u32) -> Layout {
    Layout::plain(2, leaves, 1000).unwrap()
}

fn create(path: &Path) -> Tree {
    Tree::create(path, layout(10), options(TreeRole::Server)).unwrap()
}

/// A server's tree in its life, with a log.
fn power(path: &Path) -> (Tree, RedoLog) {
    let mut tree = create(path);
    tree.begin_life(NOW).unwrap();
    let log = RedoLog::create(&mut tree, HALF).unwrap();
    (tree, log)
}

fn batch(tree: &mut Tree, leaves: &[(DataLocId, &[u8])]) -> RedoBatch {
    let mut batch = RedoBatch::with_capacity(2000);
    for (leaf, data) in leaves {
        tree.stage(*leaf, data, &mut batch).unwrap();
    }
    batch
}

/// Stages, commits and stores.
fn change(tree: &mut Tree, log: &mut RedoLog, leaves: &[(DataLocId, &[u8])]) {
    let mut batch = batch(tree, leaves);
    let appended = log.append(&mut batch).unwrap();
    tree.store_batch(&batch).unwrap();
    if let Some(left) = appended.left {
        assert!(log.mark_free(tree.checkpoint(left).unwrap().run().unwrap()));
    }
}

fn data(tree: &Tree, id: DataLocId) -> Vec<u8> {
    leaf(tree, id.0).1
}

#[test]
fn a_staged_leaf_does_not_show_until_its_batch_is_durable_and_stored() {
    let folder = tempfile::tempdir().unwrap();
    let (mut tree, mut log) = power(&folder.path().join("tree"));
    let newest = tree.newest_revision();
    let mut batch = batch(&mut tree, &[(A, b"one"), (B, b"two"), (A, b"three")]);
    assert_eq!((batch.leaves(), batch.bytes(), tree.change_count()), (3, 4096, 0));
    assert_eq!((tree.newest_revision(), tree.has_staged()), (newest, true));
    let early = WriteError::Batch { what: "it is not in a redo log yet" };
    assert_eq!(tree.store_batch(&batch), Err(early));
    assert_eq!(tree.write(A, b"past it"), Err(WriteError::Staged));
    assert_eq!(data(&tree, A), b"");
    assert_eq!(log.append(&mut batch).unwrap().sequence, 1);
    tree.store_batch(&batch).unwrap();
    assert_eq!((data(&tree, A), data(&tree, B)), (b"three".to_vec(), b"two".to_vec()));
    assert_eq!((tree.change_count(), tree.newest_revision()), (2, Revision(newest.0 + 3)));
    assert_eq!(batch.newest(), tree.newest_revision());
    let again = WriteError::Batch { what: "it is stored already, or a later one is" };
    assert_eq!(tree.store_batch(&batch), Err(again));
    assert!(matches!(log.append(&mut batch), Err(RedoError::Batch { .. })));
    check_columns(&tree);
    // What is written after it is newer.
    assert_eq!(tree.write(A, b"four").unwrap(), Revision(newest.0 + 4));
}

#[test]
fn a_batch_takes_what_fits_and_never_grows() {
    let folder = tempfile::tempdir().unwrap();
    let (mut tree, mut log) = power(&folder.path().join("tree"));
    let mut batch = RedoBatch::with_capacity(1);
    assert!(batch.is_empty());
    let empty = batch.room();
    while tree.stage(A, &[7; 900], &mut batch).is_ok() {}
    let revision = tree.stage(A, &[7; 10], &mut batch).unwrap();
    let full = tree.stage(A, &[7; 900], &mut batch).unwrap_err();
    assert!(matches!(full, StageError::Full { needed: 928, .. }), "{full}");
    assert_eq!(batch.newest(), revision, "a leaf that did not fit has no revision");
    let unknown = tree.stage(DataLocId(10), b"", &mut batch).unwrap_err();
    assert_eq!(unknown.to_string(), "there is no leaf 10: expected less than 10");
    let _ = log.append(&mut batch).unwrap();
    let used = tree.stage(A, b"", &mut batch).unwrap_err();
    assert!(matches!(used, StageError::Write(WriteError::Batch { .. })));
    batch.clear();
    assert_eq!((batch.room(), batch.leaves(), batch.is_committed()), (empty, 0, false));
}

#[test]
fn what_is_in_the_log_is_taken_over_and_what_was_staged_only_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let (mut tree, mut log) = power(&path);
    change(&mut tree, &mut log, &[(A, b"stored")]);
    let mut durable = batch(&mut tree, &[(A, b"durable"), (B, b"too")]);
    let _ = log.append(&mut durable).unwrap();
    batch(&mut tree, &[(A, b"staged")]);
    drop(tree);
    let found = RedoSummary::beside(&path).unwrap().unwrap();
    assert_eq!((found.batches, found.leaves), (2, 3));
    let (mut tree, recovery) = open(&path).unwrap();
    assert_eq!(recovery.redo, Replay::Done { batches: 2, leaves: 2 });
    assert_eq!((data(&tree, A), data(&tree, B)), (b"durable".to_vec(), b"too".to_vec()));
    assert_eq!(tree.newest_revision(), durable.newest());
    assert!(tree.is_changed(B), "its clients have not seen it");
    assert!(!redo_path(&path).unwrap().exists());
    check_columns(&tree);
    tree.begin_life(NOW).unwrap();
    assert!(tree.write(A, b"later").unwrap().0 > durable.newest().0 + 1);
}

#[test]
fn a_tree_that_was_closed_has_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let (mut tree, mut log) = power(&path);
    change(&mut tree, &mut log, &[(A, b"kept")]);
    assert!(redo_path(&path).unwrap().exists());
    tree.close().unwrap();
    assert!(!redo_path(&path).unwrap().exists());
    let (tree, recovery) = open(&path).unwrap();
    assert_eq!((recovery.ending, recovery.redo), (Ending::Clean, Replay::NoLog));
    assert_eq!(data(&tree, A), b"kept");
}

#[test]
fn a_half_is_used_again_when_a_checkpoint_proves_it_free_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let (mut tree, mut log) = power(&path);
    // Three batches of a page fill a half.
    for n in 0..3u8 {
        change(&mut tree, &mut log, &[(A, &[n])]);
    }
    let mut first = batch(&mut tree, &[(A, b"first of the other half")]);
    let left = log.append(&mut first).unwrap().left.expect("the half is full");
    assert_eq!((left.last(), log.left()), (3, Some(left)));
    // Two more fill the other one.
    let mut more: Vec<_> = (0..2).map(|_| batch(&mut tree, &[(B, b"more")])).collect();
    more.iter_mut().for_each(|batch| assert_eq!(log.append(batch).unwrap().left, None));
    let mut late = batch(&mut tree, &[(B, b"late")]);
    assert!(!log.room(&late));
    assert!(matches!(log.append(&mut late), Err(RedoError::Busy)));
    assert!(log.mark_free(tree.checkpoint(left).unwrap().run().unwrap()));
    // The batch that was refused is appended as it is, and the half left now waits for
    // its batches to be stored.
    let left = log.append(&mut late).unwrap().left.unwrap();
    assert!(tree.checkpoint(left).is_none(), "three batches of it are not stored");
    tree.store_batch(&first).unwrap();
    tree.store_batch(&more[0]).unwrap();
    assert!(tree.checkpoint(left).is_none());
    tree.store_batch(&more[1]).unwrap();
    let proof = tree.checkpoint(left).unwrap().run().unwrap();
    assert!(log.mark_free(proof));
    assert!(!log.mark_free(tree.checkpoint(left).unwrap().run().unwrap()), "it is free already");
    drop(tree);
    let (tree, _) = open(&path).unwrap();
    assert_eq!(data(&tree, A), b"first of the other half");
    assert_eq!(data(&tree, B), b"late");
}

#[test]
fn every_change_survives_many_rounds_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let (mut tree, mut log) = power(&path);
    for n in 0..200u32 {
        let (leaf, len) = (DataLocId(n % 10), (n * 37 % 1000) as usize);
        change(&mut tree, &mut log, &[(leaf, &vec![n as u8; len])]);
    }
    drop(tree);
    let (tree, recovery) = open(&path).unwrap();
    let Replay::Done { batches, leaves: 0 } = recovery.redo else { panic!("{recovery:?}") };
    assert!((3..=6).contains(&batches), "{batches}");
    for n in 190..200u32 {
        let len = (n * 37 % 1000) as usize;
        assert_eq!(data(&tree, DataLocId(n % 10)), vec![n as u8; len]);
    }
}

#[test]
fn a_log_is_made_for_a_server_in_its_life_and_for_its_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let mut tree = create(&folder.path().join("tree"));
    assert!(matches!(RedoLog::create(&mut tree, HALF), Err(RedoError::NoLife)));
    tree.begin_life(NOW).unwrap();
    for wrong in [0, 4095, 4097, (1 << 30) + 4096] {
        let error = RedoLog::create(&mut tree, wrong).unwrap_err();
        assert!(matches!(error, RedoError::HalfLen { min: 4096, .. }), "{error}");
    }
    let mut log = RedoLog::create(&mut tree, 4096).unwrap();
    let mut large = RedoBatch::with_capacity(10_000);
    for _ in 0..8 {
        tree.stage(A, &[1; 1000], &mut large).unwrap();
    }
    let error = log.append(&mut large).unwrap_err();
    assert!(matches!(error, RedoError::TooLarge { needed: 12288, half_len: 4096 }), "{error}");
    assert!(matches!(RedoLog::create(&mut tree, HALF), Err(RedoError::Staged)));
    let mut unnamed = Tree::create_unnamed(layout(10), options(TreeRole::Server)).unwrap();
    assert!(matches!(RedoLog::create(&mut unnamed, HALF), Err(RedoError::NoName)));
}

#[test]
fn a_later_life_leaves_the_old_log_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let (mut tree, mut log) = power(&path);
    change(&mut tree, &mut log, &[(A, b"old life")]);
    let mut old = batch(&mut tree, &[(A, b"too late")]);
    tree.begin_life(NOW).unwrap();
    let _ = log.append(&mut old).unwrap();
    assert!(matches!(tree.store_batch(&old), Err(WriteError::Batch { .. })));
    let mut new = batch(&mut tree, &[(A, b"new")]);
    assert!(matches!(log.append(&mut new), Err(RedoError::Batch { .. })));
    drop(tree);
    let (tree, recovery) = open(&path).unwrap();
    assert_eq!(recovery.redo, Replay::Stale);
    assert_eq!(data(&tree, A), b"old life");
    assert!(!redo_path(&path).unwrap().exists());
}

#[test]
fn a_tree_that_grew_needs_a_new_log_and_the_old_one_is_stale() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let (mut tree, mut log) = power(&path);
    change(&mut tree, &mut log, &[(A, b"before"), (B, b"before too")]);
    let mut pending = batch(&mut tree, &[(A, b"pending")]);
    assert!(matches!(tree.grow(layout(14)), Err(GrowError::Staged)));
    let _ = log.append(&mut pending).unwrap();
    tree.store_batch(&pending).unwrap();
    let moved = tree.grow(layout(14)).unwrap().new_leaf(B).unwrap();
    let mut new = batch(&mut tree, &[(moved, b"after")]);
    assert!(matches!(log.append(&mut new), Err(RedoError::Batch { .. })));
    // Power fails before a new log is made.
    let copies = folder.path().join("copy");
    copy(&path, &copies);
    let (copied, recovery) = open(&copies).unwrap();
    assert_eq!(recovery.redo, Replay::Stale);
    assert_eq!(
        (data(&copied, A), data(&copied, moved)),
        (b"pending".to_vec(), b"before too".to_vec())
    );
    drop((tree, log));
    let (mut tree, _) = open(&path).unwrap();
    tree.begin_life(NOW).unwrap();
    let mut log = RedoLog::create(&mut tree, HALF).unwrap();
    change(&mut tree, &mut log, &[(moved, b"after")]);
    drop(tree);
    assert_eq!(data(&open(&path).unwrap().0, moved), b"after");
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    fs::copy(redo_path(from).unwrap(), redo_path(to).unwrap()).unwrap();
}

fn fault(path: &Path) -> RedoFault {
    let before = (fs::read(path).unwrap(), fs::read(redo_path(path).unwrap()).unwrap());
    let error = open(path).map(|(_, recovery)| recovery).unwrap_err();
    let after = (fs::read(path).unwrap(), fs::read(redo_path(path).unwrap()).unwrap());
    assert!(before == after, "a refusal changes nothing");
    let text = error.to_string();
    let OpenError::Redo { path: named, fault } = error else { panic!("{text}") };
    assert_eq!(named, redo_path(path).unwrap());
    assert!(text.starts_with(&named.display().to_string()) && !text.contains('\n'), "{text}");
    fault
}

#[test]
fn a_log_that_its_tree_does_not_know_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let mut tree = create(&path);
    let old = folder.path().join("old");
    tree.begin_life(NOW).unwrap();
    fs::copy(&path, &old).unwrap();
    tree.begin_life(NOW + 1).unwrap();
    let mut log = RedoLog::create(&mut tree, HALF).unwrap();
    change(&mut tree, &mut log, &[(A, b"new")]);
    drop(tree);
    let beside = |tree: &Path| fs::copy(redo_path(&path).unwrap(), redo_path(tree).unwrap());
    // A backup of the tree that is older than its log.
    beside(&old).unwrap();
    let newer = fault(&old);
    assert!(matches!(newer, RedoFault::Newer { tree, log } if tree < log), "{newer}");
    // Another tree; and one of another layout that lacks what is in the log.
    let other = folder.path().join("other");
    let id = CreateOptions { tree_id: TreeId(1234), ..options(TreeRole::Server) };
    drop(Tree::create(&other, layout(10), id).unwrap());
    beside(&other).unwrap();
    assert!(matches!(fault(&other), RedoFault::Tree { .. }));
    let shape = folder.path().join("shape");
    let mut tree = Tree::create(&shape, layout(11), options(TreeRole::Server)).unwrap();
    while tree.life() < RedoSummary::beside(&path).unwrap().unwrap().life {
        tree.begin_life(NOW + 1).unwrap();
    }
    drop(tree);
    beside(&shape).unwrap();
    assert!(matches!(fault(&shape), RedoFault::Layout { .. }));
    // Nothing is created beside a log that is there.
    fs::remove_file(&shape).unwrap();
    let again = Tree::create(&shape, layout(11), options(TreeRole::Server));
    let taken = redo_path(&shape).unwrap();
    assert!(matches!(again, Err(CreateError::Exists { path }) if path == taken));
}

#[test]
fn a_damaged_log_is_refused_unless_that_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let (mut tree, mut log) = power(&path);
    change(&mut tree, &mut log, &[(A, b"in both")]);
    drop(tree);
    let log = redo_path(&path).unwrap();
    let good = fs::read(&log).unwrap();
    let damages: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes[20] ^= 1,
        |bytes| bytes[0] ^= 1,
        |bytes| bytes.truncate(4095),
        |bytes| bytes.truncate(8192),
        |bytes| bytes.push(0),
    ];
    for damage in damages {
        let mut bad = good.clone();
        damage(&mut bad);
        fs::write(&log, bad).unwrap();
        fault(&path);
    }
    let accepting = OpenOptions { role: TreeRole::Server, damaged: Damaged::Reset, unix_s: NOW };
    let (tree, recovery) = Tree::open(&path, accepting).unwrap();
    assert_eq!((recovery.redo, log.exists()), (Replay::Damaged, false));
    assert_eq!(data(&tree, A), b"in both");
}

#[test]
fn a_log_that_others_cut_or_remove_takes_nothing_any_more() {
    for removed in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let (mut tree, mut log) = power(&path);
        change(&mut tree, &mut log, &[(A, b"before")]);
        let name = redo_path(&path).unwrap();
        if removed {
            fs::remove_file(&name).unwrap();
        } else {
            fs::OpenOptions::new().write(true).open(&name).unwrap().set_len(4096).unwrap();
        }
        let mut lost = batch(&mut tree, &[(A, b"lost")]);
        assert!(matches!(log.append(&mut lost), Err(RedoError::Lost { .. })));
        assert!(tree.store_batch(&lost).is_err());
        assert!(matches!(log.append(&mut lost), Err(RedoError::FailedBefore)));
        assert!(tree.close().is_err(), "it is not marked as closed in good order");
    }
}

/// A tree may be named like another one's log: neither harms the other.
#[test]
fn what_is_no_log_is_neither_removed_nor_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let mut tree = create(&path);
    tree.begin_life(NOW).unwrap();
    let other = redo_path(&path).unwrap();
    drop(create(&other));
    let bytes = fs::read(&other).unwrap();
    assert!(matches!(RedoLog::create(&mut tree, HALF), Err(RedoError::Taken { .. })));
    drop(tree);
    for damaged in [Damaged::Refuse, Damaged::Reset] {
        let options = OpenOptions { role: TreeRole::Server, damaged, unix_s: NOW };
        let error = Tree::open(&path, options).map(|_| ()).unwrap_err();
        assert!(error.to_string().ends_with("move it away"), "{error}");
    }
    assert!(fs::read(&other).unwrap() == bytes);
}

/// A half that was freed and is torn by its next use may hold older versions alone.
#[test]
fn what_the_tree_holds_newer_than_the_log_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let (mut tree, mut log) = power(&path);
    change(&mut tree, &mut log, &[(A, b"older"), (B, b"newest")]);
    let older = fs::read(redo_path(&path).unwrap()).unwrap();
    change(&mut tree, &mut log, &[(A, b"newer")]);
    drop(tree);
    fs::write(redo_path(&path).unwrap(), older).unwrap();
    let (tree, recovery) = open(&path).unwrap();
    assert_eq!(recovery.redo, Replay::Done { batches: 1, leaves: 0 });
    assert_eq!((data(&tree, A), data(&tree, B)), (b"newer".to_vec(), b"newest".to_vec()));
}
