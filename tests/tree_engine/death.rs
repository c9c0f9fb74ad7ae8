//! kill -9 of a process that writes or grows a tree.

use std::env;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use mapleaf::layout::DataLocId;
use mapleaf::tree::Ending;
use mapleaf::tree::Layout;
use mapleaf::tree::Tree;

use super::NOW;
use super::check_columns;
use super::leaf;
use super::open;
use super::server;

const CHILD: &str = "MAPLEAF_TEST_WRITER";
const GROWING_CHILD: &str = "MAPLEAF_TEST_GROWER";
const LEAVES: u64 = 50;
const KILLS: u64 = 40;
/// Writes between two acknowledgements: few, so that most time is spent writing.
const BATCH: u64 = 16;

/// Write number `n` of a run: which leaf, and what.
fn nth(n: u64) -> (DataLocId, Vec<u8>) {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let len = 8 + (mixed / LEAVES) as usize % 4000;
    let mut data = vec![n as u8; len];
    data[..8].copy_from_slice(&n.to_le_bytes());
    (DataLocId((mixed % LEAVES) as u32), data)
}

/// Run by the test below in a process of its own; alone it does nothing.
#[test]
fn writer() {
    let Some(path) = env::var_os(CHILD) else { return };
    let (mut tree, _) = open(Path::new(&path)).unwrap();
    tree.begin_life(NOW).unwrap();
    let mut out = std::io::stderr();
    for n in 1.. {
        let (leaf, data) = nth(n);
        tree.write(leaf, &data).unwrap();
        if n % BATCH == 0 && out.write_all(&n.to_le_bytes()).is_err() {
            return;
        }
    }
}

/// As above; its tree grows by a leaf with every write to the last one.
#[test]
fn grower() {
    let Some(path) = env::var_os(GROWING_CHILD) else { return };
    let (mut tree, _) = open(Path::new(&path)).unwrap();
    tree.begin_life(NOW).unwrap();
    let mut out = std::io::stderr();
    for n in u64::from(tree.leaf_count()).. {
        tree.write(DataLocId(n as u32 - 1), &n.to_le_bytes()).unwrap();
        tree.grow(grown(n + 1)).unwrap();
        if out.write_all(&n.to_le_bytes()).is_err() {
            return;
        }
    }
}

fn grown(leaves: u64) -> Layout {
    Layout::plain(1, leaves as u32, 200).unwrap()
}

#[test]
fn kill_9_in_growth_leaves_the_old_tree_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    drop(server(&path, grown(1)));
    for kill in 0..KILLS / 2 {
        let pause = Duration::from_micros(kill * 997 % 20_000);
        let acknowledged = kill_after(start("death::grower", GROWING_CHILD, &path), pause);
        let (tree, recovery) = open(&path).unwrap();
        assert_eq!((recovery.ending, recovery.damaged_count), (Ending::ProcessDeath, 0));
        let leaves = u64::from(tree.leaf_count());
        assert!((acknowledged + 1..=acknowledged + 2).contains(&leaves), "{leaves} leaves");
        (1..leaves).for_each(|n| assert_eq!(leaf(&tree, n as u32 - 1).1, n.to_le_bytes()));
        check_columns(&tree);
    }
    let names = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name());
    for name in names {
        assert!(["tree", ".tree.next"].iter().any(|known| name == *known), "{name:?}");
    }
}

fn start(test: &str, variable: &str, path: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(variable, path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the child after some time, and gives the last acknowledged write.
fn kill_after(mut child: Child, pause: Duration) -> u64 {
    let mut stream = child.stderr.take().unwrap();
    let mut first = [0; 8];
    let begun = stream.read_exact(&mut first);
    let reader = thread::spawn(move || {
        let mut acknowledged = first.to_vec();
        stream.read_to_end(&mut acknowledged).unwrap();
        acknowledged
    });
    thread::sleep(pause);
    child.kill().unwrap();
    child.wait().unwrap();
    let acknowledged = reader.join().unwrap();
    begun.expect("the child writes");
    let (numbers, _) = acknowledged.as_chunks::<8>();
    u64::from_le_bytes(*numbers.last().unwrap())
}

#[test]
fn kill_9_tears_no_leaf_and_loses_no_acknowledged_write() {
    let folder = tempfile::tempdir().unwrap();
    let mut undone = 0;
    for kill in 0..KILLS {
        let path = folder.path().join(format!("tree{kill}"));
        drop(server(&path, Layout::plain(3, LEAVES as u32, 4096).unwrap()));
        let pause = Duration::from_micros(kill * 997 % 20_000);
        let acknowledged = kill_after(start("death::writer", CHILD, &path), pause);
        let (tree, recovery) = open(&path).unwrap();
        assert_eq!((recovery.ending, recovery.damaged_count), (Ending::ProcessDeath, 0));
        undone += u32::from(recovery.undone.is_some());
        let last = check_writes(&tree, acknowledged);
        assert!(last <= acknowledged + BATCH, "{last} was written, {acknowledged} acknowledged");
        fs::remove_file(&path).unwrap();
    }
    println!("{undone} of {KILLS} kills hit a write");
}

fn check_writes(tree: &Tree, acknowledged: u64) -> u64 {
    let mut least = vec![0; LEAVES as usize];
    (1..=acknowledged).for_each(|n| least[nth(n).0.index()] = n);
    let mut last = 0;
    for (id, least) in least.into_iter().enumerate() {
        let (_, data) = leaf(tree, id as u32);
        let n = data.first_chunk().map_or(0, |n| u64::from_le_bytes(*n));
        assert!(n >= least, "leaf {id} holds write {n}, write {least} was acknowledged");
        assert!(n == 0 || nth(n) == (DataLocId(id as u32), data), "leaf {id} is torn");
        last = last.max(n);
    }
    last
}
