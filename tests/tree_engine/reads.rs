//! Reads of a tree whose owner writes all the time: by threads of its process, and by
//! another process from the file. No leaf is torn, and none goes back.
//!
//! `MAPLEAF_READS` says how many leaves each of the two reads, `MAPLEAF_SEED` draws what
//! is read and written. A figure for docs/RELIABILITY.md is printed by both.

use std::env;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;

use mapleaf::layout::DataLocId;
use mapleaf::layout::LeafHead;
use mapleaf::tree::Layout;
use mapleaf::tree::Scanned;
use mapleaf::tree::Tree;
use mapleaf::tree::TreeFile;
use mapleaf::tree::TreeReader;
use mapleaf::tree::leaf_checksum;
use mapleaf::tree::leaf_head;

use super::server;

const CAPACITY: usize = 200;

/// Readers in the process of the owner.
const THREADS: u64 = 2;

/// Leaves that threads read: so few that most reads meet a write.
const HOT_LEAVES: u32 = 8;

/// Leaves that a process reads. It rests for a millisecond when it meets a write, so
/// they are as many as make that one read in some thousands.
const LEAVES: u32 = 32_768;

/// Reads of one open file, which has patience for 1,000 rests.
const READS_A_FILE: u64 = 200_000;

fn number(variable: &str, usual: u64) -> u64 {
    env::var(variable).map_or(usual, |text| text.parse().expect(variable))
}

fn seed() -> u64 {
    number("MAPLEAF_SEED", 1)
}

/// Draw number `n` of a seed: the output of SplitMix64.
fn draw(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Data of write number `n`: as many bytes as it says, each its last one.
fn data_of(n: u64, data: &mut Vec<u8>) {
    data.clear();
    data.resize((n * 37 % (CAPACITY as u64 + 1)) as usize, n as u8);
}

/// Writes drawn leaves until `done`, and says how many.
fn write_until(tree: &mut Tree, mut done: impl FnMut() -> bool) -> u64 {
    let (mut n, mut data, leaves) = (0, Vec::new(), u64::from(tree.leaf_count()));
    while !done() {
        for _ in 0..64 {
            n += 1;
            data_of(n, &mut data);
            tree.write(DataLocId((draw(seed(), n) % leaves) as u32), &data).unwrap();
        }
    }
    n
}

/// What one reader saw of each leaf last.
struct Witness {
    newest: Vec<u64>,
    good: u64,
}

impl Witness {
    fn new(leaves: u32) -> Witness {
        Witness { newest: vec![0; leaves as usize], good: 0 }
    }

    /// Sees that a leaf is one write's, and no older than it was.
    fn see(&mut self, leaf: DataLocId, head: &LeafHead, data: &[u8]) {
        assert_eq!(head.data_loc_id.get(), leaf.0);
        assert_eq!(leaf_checksum(head, data), head.checksum.get(), "{leaf} is torn");
        assert!(data.windows(2).all(|pair| pair[0] == pair[1]), "{leaf} is torn");
        let (newest, found) = (&mut self.newest[leaf.index()], head.revision.get());
        assert!(found >= *newest, "{leaf} went back from {newest} to {found}");
        *newest = found;
        self.good += 1;
    }
}

fn figure(readers: &str, good: u64, writes: u64, rest: impl fmt::Display) {
    println!(
        "figure: reads by {readers}, seed {}: {good} good, 0 torn, 0 went back, {writes} writes{rest}",
        seed()
    );
}

fn read(reader: &TreeReader, thread: u64, reads: &AtomicU64, wanted: u64) -> u64 {
    let (mut witness, mut data) = (Witness::new(HOT_LEAVES), Vec::new());
    while witness.good < wanted {
        let n = witness.good;
        let leaf = DataLocId((draw(seed() ^ thread << 32, n) % u64::from(HOT_LEAVES)) as u32);
        let head = reader.read(leaf, &mut data).expect("the writer never rests that long");
        witness.see(leaf, &head, &data);
        if n.is_multiple_of(1024) {
            reads.fetch_add(1024, Ordering::Relaxed);
        }
    }
    witness.good
}

#[test]
fn threads_find_no_torn_leaf() {
    let wanted = number("MAPLEAF_READS", 50_000) / THREADS;
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::plain(1, HOT_LEAVES, CAPACITY as u32).unwrap();
    let mut tree = server(&folder.path().join("tree"), layout);
    let (reader, reads) = (tree.reader(), AtomicU64::new(0));
    thread::scope(|scope| {
        let readers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (reader, reads) = (&reader, &reads);
                scope.spawn(move || read(reader, thread, reads, wanted))
            })
            .collect();
        let writes = write_until(&mut tree, || readers.iter().all(|one| one.is_finished()));
        let good = readers.into_iter().map(|one| one.join().unwrap()).sum::<u64>();
        assert_eq!(good, wanted * THREADS);
        assert!(writes > 0 && reads.load(Ordering::Relaxed) >= good);
        figure("threads", good, writes, "");
    });
}

const CHILD: &str = "MAPLEAF_TEST_LOOKER";

/// Run by the test below in a process of its own; alone it does nothing.
#[test]
fn looker() {
    let Some(path) = env::var_os(CHILD).map(PathBuf::from) else { return };
    let (wanted, mut witness) = (number("MAPLEAF_READS", 0), Witness::new(LEAVES));
    let mut refused = 0;
    while witness.good < wanted {
        let file = TreeFile::open(&path).unwrap();
        let until = wanted.min(witness.good + READS_A_FILE);
        refused += look(&file, &mut witness, until);
    }
    eprintln!("{} {refused}", witness.good);
}

/// A tenth of the reads are of single leaves, the others of all leaves in blocks. Gives
/// those that found no whole leaf, and said so.
fn look(file: &TreeFile, witness: &mut Witness, until: u64) -> u64 {
    let (mut refused, singles) = (0, witness.good + (until - witness.good) / 10);
    while witness.good < singles {
        let leaf = DataLocId((draw(!seed(), witness.good + refused) % u64::from(LEAVES)) as u32);
        match file.read_leaf(leaf).unwrap().expect("a leaf of the tree") {
            Ok(state) => witness.see(leaf, &state.head(), &state.data),
            Err(_) => refused += 1,
        }
    }
    while witness.good < until {
        let mut leaves = file.leaves();
        while let Some(scanned) = leaves.next_leaf().unwrap() {
            match scanned {
                Scanned::Leaf(view) => {
                    let head = leaf_head(view.data_loc_id, view.revision, view.data);
                    assert_eq!(head.checksum.get(), view.checksum);
                    witness.see(view.data_loc_id, &head, view.data);
                }
                Scanned::Damaged { .. } => refused += 1,
            }
        }
    }
    refused
}

fn start(path: &Path, reads: u64) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "reads::looker", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .env("MAPLEAF_READS", reads.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn another_process_finds_no_torn_leaf() {
    let wanted = number("MAPLEAF_READS", 50_000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let mut tree = server(&path, Layout::plain(1, LEAVES, CAPACITY as u32).unwrap());
    let mut child = start(&path, wanted);
    let writes = write_until(&mut tree, || child.try_wait().unwrap().is_some());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    let (good, refused) = said.trim().split_once(' ').expect("two numbers");
    let good = good.parse::<u64>().unwrap();
    assert!(good >= wanted && writes > 0);
    figure("another process", good, writes, format_args!(", {refused} refused"));
}
