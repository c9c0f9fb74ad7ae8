//! A tree, the thread that commits, and the thread that makes checkpoints: as a server
//! runs them.

use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::thread;

use mapleaf::layout::DataLocId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::Appended;
use mapleaf::tree::Checkpoint;
use mapleaf::tree::Freed;
use mapleaf::tree::Layout;
use mapleaf::tree::Left;
use mapleaf::tree::RedoBatch;
use mapleaf::tree::RedoLog;
use mapleaf::tree::Replay;
use mapleaf::tree::Tree;

use super::NOW;
use super::check_columns;
use super::leaf;
use super::open;
use super::options;

const LEAVES: u32 = 20;
const BATCHES: u32 = 400;
/// Leaves of a batch.
const EACH: u32 = 3;
/// Batches on their way at a time.
const BATCHES_MAX: usize = 4;

/// Appends what comes, and waits for a free half when there is none.
fn commit(
    mut log: RedoLog,
    batches: &Receiver<RedoBatch>,
    freed: &Receiver<Freed>,
    done: &Sender<(RedoBatch, Appended)>,
) -> u32 {
    let mut waits = 0;
    for mut batch in batches {
        while !log.room(&batch) {
            let Ok(freed) = freed.recv() else { return waits };
            assert!(log.mark_free(freed));
            waits += 1;
        }
        let appended = log.append(&mut batch).unwrap();
        if done.send((batch, appended)).is_err() {
            break;
        }
    }
    waits
}

/// Change number `n` of all: which leaf, and what.
fn nth(n: u32) -> (DataLocId, Vec<u8>) {
    (DataLocId(n * 7 % LEAVES), vec![n as u8; (n * 31 % 700) as usize])
}

fn store(
    tree: &mut Tree,
    (batch, appended): (RedoBatch, Appended),
    left: &mut Option<Left>,
    checkpoints: &Sender<Checkpoint>,
) -> RedoBatch {
    *left = left.or(appended.left);
    tree.store_batch(&batch).unwrap();
    if let Some(checkpoint) = left.and_then(|left| tree.checkpoint(left)) {
        checkpoints.send(checkpoint).unwrap();
        *left = None;
    }
    batch
}

#[test]
fn commits_and_checkpoints_run_in_threads_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let layout = Layout::plain(2, LEAVES, 700).unwrap();
    let mut tree = Tree::create(&path, layout, options(TreeRole::Server)).unwrap();
    tree.begin_life(NOW).unwrap();
    let log = RedoLog::create(&mut tree, 4 * 4096).unwrap();
    let (to_commit, batches) = mpsc::channel();
    let (done, committed) = mpsc::channel();
    let (to_check, checkpoints) = mpsc::channel::<Checkpoint>();
    let (to_free, freed) = mpsc::channel();
    let waits = thread::scope(|scope| {
        let committer = scope.spawn(move || commit(log, &batches, &freed, &done));
        scope.spawn(move || {
            for checkpoint in checkpoints {
                if to_free.send(checkpoint.run().unwrap()).is_err() {
                    break;
                }
            }
        });
        let mut spare: Vec<_> =
            (0..BATCHES_MAX).map(|_| RedoBatch::with_capacity(3 * 1024)).collect();
        let (mut left, mut stored) = (None, 0);
        for n in 0..BATCHES {
            let mut batch = spare.pop().unwrap_or_else(|| {
                stored += 1;
                store(&mut tree, committed.recv().unwrap(), &mut left, &to_check)
            });
            batch.clear();
            for change in n * EACH..(n + 1) * EACH {
                let (leaf, data) = nth(change);
                tree.stage(leaf, &data, &mut batch).unwrap();
            }
            to_commit.send(batch).unwrap();
        }
        while stored < BATCHES {
            store(&mut tree, committed.recv().unwrap(), &mut left, &to_check);
            stored += 1;
        }
        drop((to_commit, to_check));
        committer.join().unwrap()
    });
    assert!(waits > BATCHES / 20, "the halves went round {waits} times");
    drop(tree);
    let (tree, recovery) = open(&path).unwrap();
    assert!(matches!(recovery.redo, Replay::Done { leaves: 0, .. }), "{recovery:?}");
    check_columns(&tree);
    for id in 0..LEAVES {
        let last = (0..BATCHES * EACH).rev().find(|n| nth(*n).0 == DataLocId(id)).unwrap();
        assert_eq!(leaf(&tree, id).1, nth(last).1);
    }
}
