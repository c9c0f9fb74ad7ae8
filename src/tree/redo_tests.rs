//! Redo logs under calls that fail, deaths in mid-recovery, and bytes of strangers.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use zerocopy::IntoBytes;

use crate::layout::DataLocId;
use crate::layout::LeafHead;
use crate::layout::Life;
use crate::layout::RedoBatchHead;
use crate::layout::TreeId;
use crate::layout::TreeRole;
use crate::layout::limits::PAGE_SIZE;
use crate::tree::create::CreateOptions;
use crate::tree::map::BORN_WITH;
use crate::tree::mapped::Tree;
use crate::tree::mishap::Call;
use crate::tree::mishap::injected;
use crate::tree::open::OpenError;
use crate::tree::open::OpenOptions;
use crate::tree::plan::Layout;
use crate::tree::record::leaf_checksum;
use crate::tree::recover::Damaged;
use crate::tree::recover::Ending;
use crate::tree::recover::Recovery;
use crate::tree::recover::Replay;
use crate::tree::redo_batch::RedoBatch;
use crate::tree::redo_log::Left;
use crate::tree::redo_log::RedoLog;
use crate::tree::redo_log::redo_path;

const NOW: u64 = Life::EPOCH_UNIX_S + 200_000_000;
const LEAVES: u32 = 6;
const HALF: u64 = 2 * PAGE_SIZE as u64;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn create(path: &Path) -> Tree {
    let (role, tree_id) = (TreeRole::Server, TreeId(3));
    let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
    Tree::create(path, Layout::plain(1, LEAVES, 100).unwrap(), options).unwrap()
}

fn open(path: &Path, damaged: Damaged) -> Result<(Tree, Recovery), OpenError> {
    Tree::open(path, OpenOptions { role: TreeRole::Server, damaged, unix_s: NOW })
}

fn data(tree: &Tree, leaf: u32) -> Vec<u8> {
    let mut data = Vec::new();
    tree.read(DataLocId(leaf), &mut data).unwrap();
    data
}

/// A server with a log that counts what it acknowledged.
struct Server {
    tree: Tree,
    log: RedoLog,
    batch: RedoBatch,
    left: Option<Left>,
    staged: u32,
    acknowledged: u32,
}

impl Server {
    fn start(mut tree: Tree) -> Option<Server> {
        tree.begin_life(NOW).ok()?;
        let log = RedoLog::create(&mut tree, HALF).ok()?;
        let batch = RedoBatch::with_capacity(500);
        Some(Server { tree, log, batch, left: None, staged: 0, acknowledged: 0 })
    }

    /// Change number `n` goes to leaf `n % LEAVES`.
    fn change(&mut self) -> Option<()> {
        self.batch.clear();
        self.staged += 1;
        let n = self.staged;
        let text = vec![n as u8; 20 + n as usize % 70];
        self.tree.stage(DataLocId(n % LEAVES), &text, &mut self.batch).unwrap();
        let appended = self.log.append(&mut self.batch).ok()?;
        self.left = self.left.or(appended.left);
        self.tree.store_batch(&self.batch).unwrap();
        self.acknowledged = n;
        Some(())
    }

    fn checkpoint(&mut self) -> Option<()> {
        let Some(left) = self.left.take() else { return Some(()) };
        let proof = self.tree.checkpoint(left).unwrap().run().ok()?;
        assert!(self.log.mark_free(proof));
        Some(())
    }

    fn run(&mut self, changes: u32) -> Option<()> {
        for _ in 0..changes {
            self.change()?;
            self.checkpoint()?;
        }
        Some(())
    }

    /// After a failure nothing goes on, and no call is made again.
    fn expect_end(mut self) {
        let made = injected::made();
        let acknowledged = self.acknowledged;
        self.batch.clear();
        self.tree.stage(DataLocId(0), b"more", &mut self.batch).unwrap();
        assert!(self.log.append(&mut self.batch).is_err());
        assert!(self.tree.store_batch(&self.batch).is_err());
        assert!(self.tree.sync().is_err());
        assert!(self.tree.close().is_err());
        assert_eq!(injected::made(), made, "tried again");
        assert_eq!(self.acknowledged, acknowledged);
    }
}

fn value_of(n: u32) -> Vec<u8> {
    vec![n as u8; 20 + n as usize % 70]
}

/// Each leaf holds a change that was staged, none older than what was acknowledged.
fn check(path: &Path, acknowledged: u32, staged: u32, what: &str) -> Recovery {
    let (tree, recovery) = open(path, Damaged::Refuse).unwrap();
    for leaf in 0..LEAVES {
        let found = data(&tree, leaf);
        let of_leaf = |n: &u32| n % LEAVES == leaf && *n > 0;
        let least = (0..=acknowledged).rev().find(of_leaf);
        let allowed = (least.unwrap_or(1)..=staged).filter(of_leaf).any(|n| value_of(n) == found);
        assert!(allowed || least.is_none() && found.is_empty(), "{what}: leaf {leaf} {found:?}");
    }
    assert!(!redo_path(path).unwrap().exists());
    recovery
}

const KINDS: [Call; 5] =
    [Call::Reserve, Call::WriteBack, Call::Folder, Call::LogWrite, Call::LogBack];

#[test]
fn no_call_fails_unheard_and_nothing_acknowledged_is_lost() {
    let folder = folder();
    let mut runs = 0;
    for kind in KINDS {
        for behind in 0.. {
            let path = folder.path().join(format!("{kind:?}{behind}"));
            let tree = create(&path);
            injected::fail(kind, behind, libc::EIO);
            let server = Server::start(tree);
            let mut counts = (0, 0);
            if let Some(mut server) = server {
                let ended = server.run(20);
                counts = (server.acknowledged, server.staged);
                if ended.is_none() {
                    server.expect_end();
                }
            }
            let all_made = injected::clear();
            let what = format!("{kind:?} {behind}");
            let recovery = check(&path, counts.0, counts.1, &what);
            assert_eq!(recovery.ending, Ending::ProcessDeath, "{what}");
            if all_made {
                assert_eq!(counts, (20, 20), "{what}");
                break;
            }
            assert!(counts.0 < 20, "{what}: went on");
            runs += 1;
        }
    }
    // Making a log: a reservation, its bytes, their write-back, its folder, the tree's
    // write-back and the life's; then 20 batches, and a checkpoint every other one.
    assert!(runs > 50, "{runs}");
}

#[test]
fn a_log_that_cannot_be_removed_is_told_and_harms_nothing() {
    let folder = folder();
    for kind in [Call::LogRemove, Call::Folder] {
        let path = folder.path().join(format!("{kind:?}"));
        let mut server = Server::start(create(&path)).unwrap();
        server.run(7).unwrap();
        injected::fail(kind, 0, libc::EIO);
        let told = server.tree.close().unwrap_err();
        assert!(told.to_string().contains("cannot remove the redo log"), "{told}");
        assert_eq!(check(&path, 7, 7, "closed").ending, Ending::Clean);
        // The same when it is opened.
        let mut server = Server::start(open(&path, Damaged::Refuse).unwrap().0).unwrap();
        server.run(7).unwrap();
        drop(server);
        injected::fail(kind, 0, libc::EIO);
        let told = open(&path, Damaged::Refuse).map(|_| ()).unwrap_err();
        assert!(told.to_string().contains("cannot remove the redo log"), "{told}");
        check(&path, 7, 7, "opened again");
    }
}

/// A later life makes the log stale: what it holds must be on the medium before.
#[test]
fn a_life_begins_when_what_its_log_holds_is_written_back() {
    let folder = folder();
    let mut server = Server::start(create(&folder.path().join("tree"))).unwrap();
    server.run(2).unwrap();
    let life = server.tree.life();
    injected::fail(Call::WriteBack, 0, libc::EIO);
    assert!(server.tree.begin_life(NOW).is_err());
    assert_eq!(server.tree.life(), life, "no life is noted when that fails");
}

/// A file whose log holds two batches that its records lack.
fn behind_its_log(path: &Path) {
    let mut server = Server::start(create(path)).unwrap();
    server.run(4).unwrap();
    for n in 5..7u32 {
        server.batch.clear();
        let leaf = DataLocId(n % LEAVES);
        server.tree.stage(leaf, &value_of(n), &mut server.batch).unwrap();
        let _ = server.log.append(&mut server.batch).unwrap();
    }
}

#[test]
fn death_after_any_store_of_a_replay_is_recovered_from() {
    let folder = folder();
    let mut ends = 0;
    for stores in 0.. {
        let path = folder.path().join(stores.to_string());
        let copy = folder.path().join("log");
        behind_its_log(&path);
        fs::copy(redo_path(&path).unwrap(), &copy).unwrap();
        BORN_WITH.set(stores);
        let (tree, _) = open(&path, Damaged::Refuse).unwrap();
        BORN_WITH.set(u64::MAX);
        let left = tree.owner.stores_left.get();
        drop(tree);
        // Who is dead removes no log.
        fs::copy(&copy, redo_path(&path).unwrap()).unwrap();
        let what = format!("after {stores} stores");
        let Replay::Done { leaves, .. } = check(&path, 6, 6, &what).redo else { panic!("{what}") };
        ends |= 1 << leaves;
        if left > 0 {
            break;
        }
    }
    assert_eq!(ends, 0b111, "death came with none, one and both of two leaves replayed");
}

#[test]
fn a_replay_whose_write_back_fails_keeps_the_log() {
    let folder = folder();
    for behind in 0..3 {
        let path = folder.path().join(behind.to_string());
        behind_its_log(&path);
        injected::fail(Call::WriteBack, behind, libc::EIO);
        assert!(matches!(open(&path, Damaged::Refuse), Err(OpenError::Sync(_))), "{behind}");
        assert!(!injected::clear());
        check(&path, 6, 6, "the next opening");
    }
}

/// What may be in a log whose checksums were made right again.
fn mended(mut log: Vec<u8>) -> Vec<u8> {
    for at in (PAGE_SIZE..log.len()).step_by(PAGE_SIZE) {
        let Some(head) = log.get(at..at + 64) else { break };
        let Ok(mut head) = zerocopy::FromBytes::read_from_bytes(head) else { break };
        let RedoBatchHead { leaves_len, .. } = head;
        let end = at + RedoBatchHead::batch_len(leaves_len.get() as usize);
        head.batch_checksum = 0.into();
        log[at..at + 64].copy_from_slice(head.as_bytes());
        let Some(batch) = log.get(at..end) else { continue };
        head.batch_checksum = crate::kernel::crc32c(batch).into();
        log[at..at + 64].copy_from_slice(head.as_bytes());
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any bytes: an error that changes nothing, or a tree of whole leaves.
    #[test]
    fn a_strange_log_is_refused_or_gives_whole_leaves(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        in_heads: bool,
        mend: bool,
    ) {
        let folder = folder();
        let path = folder.path().join("tree");
        behind_its_log(&path);
        let name = redo_path(&path).unwrap();
        let mut log = fs::read(&name).unwrap();
        for (place, byte) in changes {
            let place = if in_heads {
                // Heads of batches and of their first leaves.
                place.index(log.len() / PAGE_SIZE) * PAGE_SIZE + place.index(64 + 40)
            } else {
                place.index(log.len())
            };
            log[place] = byte;
        }
        if let Some(cut) = cut {
            log.truncate(cut.index(log.len()));
        }
        fs::write(&name, if mend { mended(log) } else { log }).unwrap();
        let tree = fs::read(&path).unwrap();
        match open(&path, Damaged::Refuse) {
            Err(error) => {
                prop_assert!(matches!(error, OpenError::Redo { .. }), "{error}");
                prop_assert!(fs::read(&path).unwrap() == tree && name.exists());
                let (opened, recovery) = match open(&path, Damaged::Reset) {
                    Ok(opened) => opened,
                    // What a person has to decide stays refused.
                    Err(OpenError::Redo { fault, .. }) => return {
                        prop_assert!(!fault.is_damage(), "{fault}");
                        Ok(())
                    },
                    Err(error) => panic!("{error}"),
                };
                prop_assert_eq!((recovery.redo, recovery.damaged_count), (Replay::Damaged, 0));
                whole(&opened);
            }
            Ok((opened, _)) => whole(&opened),
        }
    }
}

fn whole(tree: &Tree) {
    for leaf in 0..LEAVES {
        let mut data = Vec::new();
        let head: LeafHead = tree.read(DataLocId(leaf), &mut data).unwrap();
        assert_eq!(leaf_checksum(&head, &data), head.checksum.get());
    }
}
