//! What is counted. Everything is made before; nothing is drawn by chance.

use std::fmt;
use std::hint::black_box;
use std::path::Path;

use anyhow::Context as _;

use mapleaf::kernel::ChangedSet;
use mapleaf::kernel::ChecksumKernel;
use mapleaf::kernel::DiffKernel;
use mapleaf::kernel::RevisionColumn;
use mapleaf::layout::DataLocId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::Damaged;
use mapleaf::tree::OpenOptions;
use mapleaf::tree::Tree;

use crate::world::World;
use crate::world::create;

/// The name of what is counted, and of the kernel if it is that of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    name: String,
    pub(crate) kernel: String,
}

/// The kernel of cases that have none of their own.
const NONE: &str = "-";

impl Case {
    fn new(name: impl Into<String>) -> Case {
        Case::of(NONE, name)
    }

    fn of(kernel: &str, name: impl Into<String>) -> Case {
        Case { name: name.into(), kernel: kernel.into() }
    }

    /// Reads what [`Case`] writes.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Case> {
        let (kernel, name) = text.split_once(' ').context("a kernel, then the name")?;
        Ok(Case::of(kernel, name.trim()))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9} {}", self.kernel, self.name)
    }
}

/// Whoever is given a case, and does it once.
type Count<'a> = &'a mut dyn FnMut(Case, &mut dyn FnMut());

/// Bytes whose checksums are computed.
const AREA: usize = 64 << 10;

/// Leaves of the sets and columns: as in the benches of time.
const MANY: u32 = 1_000_000;

/// Checksums that fit one datagram of 64 KiB.
const COLUMN: usize = 16 << 10;

/// Leaves of the trees: as many as stay on one thread when they are opened.
const LEAVES: u32 = 10_000;

/// Leaves of a period of 54 EVENTs, five in each.
const PERIOD: usize = 270;

/// Bytes of a leaf.
const DATA_SIZE: usize = 200;

/// Hands every case to `count`.
pub(crate) fn run(count: Count<'_>) {
    checksums(count);
    changed_set(count);
    differences(count);
    revisions(count);
    opening(count);
    periods(count);
}

fn checksums(count: Count<'_>) {
    let area: Vec<u8> = numbers(AREA / 4).iter().flat_map(|item| item.to_le_bytes()).collect();
    for kernel in ChecksumKernel::available() {
        for stride in [64, 256, 1024] {
            let lens = vec![stride as u32; AREA / stride];
            let mut out = vec![0; lens.len()];
            let case = Case::of(kernel.name(), format!("64 KiB of checksums, {stride} B each"));
            count(case, &mut || {
                kernel.batch(black_box(&area), stride, &lens, &mut out).expect("in the area");
            });
            assert_eq!(out[0], crc32c::crc32c(&area[..stride]));
        }
    }
    let records: Vec<&[u8]> = area.chunks(DATA_SIZE).take(5).collect();
    let mut out = vec![0; records.len()];
    for kernel in ChecksumKernel::available() {
        let case = Case::of(kernel.name(), "checksums of 5 leaves of 200 B, 100 times");
        count(case, &mut || (0..100).for_each(|_| kernel.each(black_box(&records), &mut out)));
    }
}

fn changed_set(count: Count<'_>) {
    let mut set = ChangedSet::new(MANY);
    let mut out = Vec::with_capacity(LEAVES as usize);
    for changed in [0, 10, LEAVES] {
        let leaves: Vec<u32> = (0..changed).map(|i| i * (MANY / changed.max(1))).collect();
        if changed == LEAVES {
            for time in ["first", "again"] {
                let case = Case::new(format!("10,000 of 1 M leaves marked, {time}"));
                count(case, &mut || black_box(&leaves).iter().for_each(|leaf| set.mark(*leaf)));
            }
        }
        leaves.iter().for_each(|leaf| set.mark(*leaf));
        out.clear();
        let case = Case::new(format!("scan of 1 M leaves, {changed} changed"));
        count(case, &mut || black_box(&mut set).take(&mut out));
        assert_eq!(out, leaves);
    }
}

fn differences(count: Count<'_>) {
    let ours = numbers(COLUMN);
    let mut out = Vec::with_capacity(COLUMN);
    for kernel in DiffKernel::available() {
        for per_mille in [0, 10, 100, 1_000] {
            let differs = |at: usize| at.wrapping_mul(7_919) % 1_000 < per_mille;
            let changed = ours.iter().enumerate().map(|(at, item)| item ^ u32::from(differs(at)));
            let theirs: Vec<u32> = changed.collect();
            out.clear();
            let name = format!("difference of 16 k checksums, {per_mille} of 1,000 differ");
            count(Case::of(kernel.name(), name), &mut || {
                kernel.differing(black_box(&ours), black_box(&theirs), 0, &mut out);
            });
            assert_eq!(out.len(), (0..COLUMN).filter(|at| differs(*at)).count());
        }
    }
}

fn revisions(count: Count<'_>) {
    let mut column = RevisionColumn::new(MANY);
    let all: Vec<u32> = (0..LEAVES).map(|i| i * 7_919 % MANY).collect();
    count(Case::new("10,000 revisions of 1 M set"), &mut || {
        let new = black_box(&all).iter().zip(1..);
        new.for_each(|(leaf, revision)| column.set(*leaf, revision));
    });
    let newest = u64::from(LEAVES);
    count(Case::new("1 M revisions, none newer"), &mut || {
        assert_eq!(black_box(&column).next_since(0, MANY, newest), None);
    });
}

fn opening(count: Count<'_>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("counted.tree");
    let mut tree = create(Some(&path), TreeRole::Server, LEAVES, DATA_SIZE);
    let leaves: Vec<DataLocId> = spread(LEAVES).collect();
    count(Case::new("10,000 leaves of 200 B written"), &mut || {
        let data = [7; DATA_SIZE];
        for leaf in &leaves {
            tree.write(*leaf, black_box(&data)).expect("a leaf of the tree");
        }
    });
    tree.close().expect("a medium that takes it");
    let mut opened = None;
    count(Case::new("a tree of 10,000 leaves of 200 B opened"), &mut || {
        opened = Some(open(&path));
    });
    assert_eq!(opened.map(|tree| tree.leaf_count()), Some(LEAVES));
}

fn open(path: &Path) -> Tree {
    let options = OpenOptions { role: TreeRole::Server, damaged: Damaged::Refuse, unix_s: 1 };
    let (tree, _) = Tree::open(path, options).expect("a whole tree");
    tree
}

/// A client that joins late, and a period from its writes to the replica, step by step.
fn periods(count: Count<'_>) {
    let mut world = World::new(LEAVES, DATA_SIZE);
    world.write(spread(LEAVES), 1);
    world.end_period();
    count(Case::new("late join: 10,000 leaves of 200 B"), &mut || world.join());
    assert!(world.is_equal());

    let leaves = || spread(LEAVES).take(PERIOD);
    count(Case::new("period: 270 leaves written"), &mut || world.write(leaves(), 2));
    count(Case::new("period: 54 EVENTs planned"), &mut || world.end_period());
    count(Case::new("period: 54 EVENTs laid out"), &mut || world.lay_out());
    assert_eq!(world.datagrams(), PERIOD.div_ceil(5));
    count(Case::new("period: 54 EVENTs applied"), &mut || world.apply());
    assert!(world.is_equal());
}

/// Leaves of the trees without a pattern that a step might follow; no two are equal.
fn spread(count: u32) -> impl Iterator<Item = DataLocId> {
    (0..count).map(|i| DataLocId(i * 7_919 % LEAVES))
}

fn numbers(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect()
}
