//! The row of repair: two copies of a table differ in some leaves, and become equal.
//!
//! Each way begins with a server's copy and a replica's, gives the server new values of
//! some leaves, and is timed until the replica holds them. Bytes are payloads, of both
//! directions. The ways take turns.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::book::Book;
use crate::book::locked;
use crate::iblt::Iblt;
use crate::linked::Linked;
use crate::options::Options;
use crate::rsync;
use crate::rsync::Rsync;
use crate::store::Random;
use crate::store::VALUE;

/// How copies become equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Ours, where the replica knows up to which revision it holds everything.
    Revision,
    /// Ours, where it knows nothing: checksums tell.
    Checksums,
    /// rsync with blocks as it chooses them.
    Rsync,
    /// rsync with blocks of a leaf.
    RsyncLeaf,
    /// A rateless IBLT of items of 8 bytes.
    Iblt8,
    /// The same of 16 bytes.
    Iblt16,
}

impl Way {
    pub const ALL: [Way; 6] =
        [Way::Revision, Way::Checksums, Way::Rsync, Way::RsyncLeaf, Way::Iblt8, Way::Iblt16];

    /// Its column.
    pub fn name(self) -> &'static str {
        match self {
            Way::Revision => "mapleaf",
            Way::Checksums => "mapleaf-sums",
            Way::Rsync => "rsync",
            Way::RsyncLeaf => "rsync-200",
            Way::Iblt8 => "riblt-8",
            Way::Iblt16 => "riblt-16",
        }
    }

    /// What it is asked for by.
    pub fn family(self) -> &'static str {
        match self {
            Way::Revision | Way::Checksums => "mapleaf",
            Way::Rsync | Way::RsyncLeaf => "rsync",
            Way::Iblt8 | Way::Iblt16 => "riblt",
        }
    }

    fn settings(self) -> &'static str {
        match self {
            Way::Revision => "a server and a mirror over UDP; the mirror names its revision",
            Way::Checksums => {
                "the same, where the mirror missed a whole life of the server and knows nothing: \
                 it sends all checksums"
            }
            Way::Rsync => "--inplace --no-whole-file --ignore-times, over a pipe to rsync --server",
            Way::RsyncLeaf => "the same with --block-size=200",
            Way::Iblt8 => {
                "items of 8 B (leaf, CRC32C), streamed to the server over TCP until it can tell \
                 the difference, then leaves back; peeled with a queue; in batches of an eighth \
                 of what was sent"
            }
            Way::Iblt16 => "the same with items of 16 B (leaf, checksum of 64 bits)",
        }
    }

    fn version(self) -> anyhow::Result<String> {
        Ok(match self {
            Way::Revision | Way::Checksums => locked("mapleaf"),
            Way::Rsync | Way::RsyncLeaf => rsync::version()?,
            Way::Iblt8 | Way::Iblt16 => locked("riblt"),
        })
    }

    /// Whether it is measured with so many leaves: the crate goes through all items for
    /// every 1,024 symbols, and allocates for each.
    fn takes(self, leaves: u32) -> bool {
        !matches!(self, Way::Iblt8 | Way::Iblt16) || leaves <= 100_000
    }

    fn start(self, folder: &Path, leaves: u32) -> anyhow::Result<Box<dyn Copies>> {
        let table = Table::new(leaves);
        Ok(match self {
            Way::Revision | Way::Checksums => {
                Box::new(Linked::start(folder, table, self == Way::Checksums)?)
            }
            Way::Rsync => Box::new(Rsync::start(folder, table, None)?),
            Way::RsyncLeaf => Box::new(Rsync::start(folder, table, Some(VALUE))?),
            Way::Iblt8 => Box::new(Iblt::<8>::start(table)),
            Way::Iblt16 => Box::new(Iblt::<16>::start(table)),
        })
    }
}

/// What a repair took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// From nothing, files opened and processes started, until all is equal.
    pub whole: Duration,
    /// The part behind the opening of files and the making of the connection.
    pub linked: Option<Duration>,
    /// Payload bytes from the replica to the server.
    pub up: u64,
    /// Payload bytes from the server to the replica.
    pub down: u64,
}

/// A server's copy of a table, and a replica's.
pub trait Copies {
    /// Gives the server new values of these leaves.
    fn change(&mut self, leaves: &[u32]) -> anyhow::Result<()>;

    /// Makes the replica equal.
    fn repair(&mut self) -> anyhow::Result<Took>;

    /// Fails if the copies differ, or are not what was written.
    fn verify(&mut self) -> anyhow::Result<()>;
}

/// What the server's copy holds: values of random bytes.
pub struct Table {
    values: Vec<u8>,
    random: u64,
}

impl Table {
    pub fn new(leaves: u32) -> Table {
        let mut table = Table { values: vec![0; leaves as usize * VALUE], random: 1 };
        (0..leaves).for_each(|leaf| table.change(leaf));
        table
    }

    /// Gives a leaf a new value.
    pub fn change(&mut self, leaf: u32) {
        let value = &mut self.values[leaf as usize * VALUE..][..VALUE];
        for word in value.chunks_exact_mut(8) {
            // splitmix64: no two words are alike.
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            word.copy_from_slice(&mix(self.random).to_le_bytes());
        }
    }

    /// Stores a value that came; none if there is no such leaf.
    pub fn take(&mut self, leaf: u32, value: &[u8]) -> Option<()> {
        let at = leaf as usize * VALUE;
        self.values.get_mut(at..at + VALUE)?.copy_from_slice(value);
        Some(())
    }

    pub fn value(&self, leaf: u32) -> &[u8] {
        &self.values[leaf as usize * VALUE..][..VALUE]
    }

    pub fn values(&self) -> &[u8] {
        &self.values
    }

    pub fn leaves(&self) -> u32 {
        (self.values.len() / VALUE) as u32
    }
}

/// Spreads the bits of a word.
pub fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Leaves that differ, as far as there are so many.
const COUNTS: [u32; 3] = [10, 1_000, 8_600];

/// Enters all ways that are wanted and are there.
pub fn enter(options: &Options, book: &mut Book) -> Vec<Way> {
    let wanted = Way::ALL.into_iter().filter(|way| options.wants(way.family()));
    wanted.filter(|way| enter_one(*way, book)).collect()
}

fn enter_one(way: Way, book: &mut Book) -> bool {
    let version = way.version();
    let missing = version.as_ref().err().map(|error| format!("{error:#}"));
    book.enter(way.name(), version.unwrap_or_default(), way.settings());
    let is_there = missing.is_none();
    if let Some(reason) = missing {
        book.miss(way.name(), reason);
    }
    is_there
}

/// Measures the ways with one table after the other.
pub fn measure(options: &Options, ways: &[Way], book: &mut Book) -> anyhow::Result<()> {
    for leaves in options.leaves.iter().copied() {
        let mut folder = tempfile::Builder::new();
        let folder = folder.prefix("compare-deltas-").tempdir_in(&options.memory);
        let folder = folder.context("no folder in memory")?;
        let ways = ways.iter().copied().filter(|way| way.takes(leaves));
        let mut all = Vec::new();
        for way in ways {
            let own = folder.path().join(way.name());
            std::fs::create_dir(&own)?;
            all.push((way, way.start(&own, leaves)?));
        }
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for count in COUNTS.into_iter().filter(|count| *count <= leaves) {
            for repetition in 0..=options.repetitions {
                let changed = some(count, leaves, &mut random);
                for (way, copies) in &mut all {
                    copies.change(&changed)?;
                    let took = copies.repair().with_context(|| way.name().to_owned())?;
                    copies.verify().with_context(|| way.name().to_owned())?;
                    // The first finds everything cold.
                    if repetition > 0 {
                        add(book, *way, &format!("delta/{leaves}/{count}"), took);
                    }
                }
            }
        }
    }
    Ok(())
}

/// So many leaves, each once, ascending.
fn some(count: u32, leaves: u32, random: &mut Random) -> Vec<u32> {
    let mut chosen = BTreeSet::new();
    while chosen.len() < count as usize {
        chosen.insert(random.below(leaves));
    }
    chosen.into_iter().collect()
}

fn add(book: &mut Book, way: Way, name: &str, took: Took) {
    let mut add = |figure: &str, value| book.add(way.name(), &format!("{name}/{figure}"), value);
    add("ms", took.whole.as_secs_f64() * 1e3);
    if let Some(linked) = took.linked {
        add("linked", linked.as_secs_f64() * 1e3);
    }
    add("bytes", (took.up + took.down) as f64);
    add("up", took.up as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAVES: u32 = 1_500;

    /// What it takes to repair so many leaves; the copies are verified.
    fn repaired(way: Way, count: u32) -> Took {
        let folder = tempfile::tempdir().unwrap();
        let mut copies = way.start(folder.path(), LEAVES).unwrap();
        let mut random = Random(5);
        copies.change(&some(count, LEAVES, &mut random)).unwrap();
        copies.repair().unwrap();
        copies.verify().unwrap();
        copies.change(&some(count, LEAVES, &mut random)).unwrap();
        let took = copies.repair().unwrap();
        copies.verify().unwrap();
        took
    }

    #[test]
    fn every_way_makes_copies_equal() {
        for way in Way::ALL.into_iter().filter(|way| way.version().is_ok()) {
            for count in [1, 100, LEAVES] {
                let took = repaired(way, count);
                let data = u64::from(count) * VALUE as u64;
                assert!(took.down >= data, "{way:?}: {took:?} for {data} B");
                assert!(took.up > 0 && took.whole >= took.linked.unwrap_or_default());
            }
        }
    }

    #[test]
    fn what_tells_the_difference_costs_what_it_should() {
        let of = |way| repaired(way, 100).up;
        // Four bytes a leaf, and what one revision takes.
        assert!(of(Way::Checksums) >= 4 * u64::from(LEAVES));
        assert!(of(Way::Revision) < of(Way::Checksums));
        // 200 items differ: some 1.5 symbols each, of 17 and of 25 bytes.
        assert!((200 * 17..500 * 17).contains(&of(Way::Iblt8)), "{}", of(Way::Iblt8));
        assert!((200 * 25..500 * 25).contains(&of(Way::Iblt16)), "{}", of(Way::Iblt16));
    }

    #[test]
    fn copies_that_differ_are_found() {
        for way in Way::ALL.into_iter().filter(|way| way.version().is_ok()) {
            let folder = tempfile::tempdir().unwrap();
            let mut copies = way.start(folder.path(), 100).unwrap();
            copies.change(&[7]).unwrap();
            assert!(copies.verify().is_err(), "{way:?}");
        }
    }
}
