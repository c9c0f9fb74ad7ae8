//! A store: a table of N leaves of 200 bytes in files of one folder, by number.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::lmdb;
use crate::lmdb::Lmdb;
use crate::ours::Ours;
use crate::redb::Redb;

/// Bytes of a value: the number of its change, the leaf, and filling.
pub const VALUE: usize = 200;

/// Who keeps the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Mapleaf,
    Lmdb,
    Redb,
    /// redb that commits to the file, with nothing written back to the medium.
    RedbUnsynced,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Mapleaf, Kind::Lmdb, Kind::Redb, Kind::RedbUnsynced];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Mapleaf => "mapleaf",
            Kind::Lmdb => "lmdb",
            Kind::Redb => "redb",
            Kind::RedbUnsynced => "redb-unsynced",
        }
    }

    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub fn settings(self) -> &'static str {
        match self {
            Kind::Mapleaf => {
                "written in place in the mapped file, a checksum each; survives the process. \
                 Durable: a redo log, one write and one fdatasync a commit, checkpoints by a \
                 thread. A scan copies each leaf out; other processes read by pread and verify"
            }
            Kind::Lmdb => {
                "heed, MDB_INTEGERKEY, filled with MDB_APPEND; MDB_NOSYNC, MDB_NOMETASYNC, \
                 MDB_WRITEMAP: survives the process. Durable: no flags (pwrite and fdatasync)"
            }
            Kind::Redb => {
                "Durability::None: kept in the process until a durable commit, so it does not \
                 survive it. Durable: Immediate, one phase. Cache of 1 GiB. Read by another \
                 process in ConcurrencyMode::SingleWriter"
            }
            Kind::RedbUnsynced => {
                "Durability::Immediate on a file whose sync does nothing: survives the process"
            }
        }
    }

    /// Whether it has such a mode.
    pub fn has(self, mode: Mode) -> bool {
        self != Kind::RedbUnsynced || mode == Mode::Fast
    }
}

/// How a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing waits for the medium.
    Fast,
    /// A commit is on the medium when it returns.
    Durable,
    /// As [`Mode::Fast`] where that allows readers in other processes.
    Shared,
}

/// What every store does.
pub trait Store {
    /// Changes these leaves, as one transaction where the store has them.
    fn update(&mut self, leaves: &[u32], values: &mut Values) -> anyhow::Result<()>;

    /// Writes all of it back to the medium.
    fn sync(&mut self) -> anyhow::Result<()>;

    /// Reads all values: the sum of their words.
    fn scan(&mut self) -> anyhow::Result<u64>;

    /// How many leaves have changed after the change `since`, and since it was last asked.
    fn changed(&mut self, since: u64) -> anyhow::Result<usize>;
}

/// What has to live as long as its store: LMDB's environment.
pub struct Home<'a> {
    kind: Kind,
    folder: &'a Path,
    mode: Mode,
    lmdb: Option<heed::Env>,
}

impl<'a> Home<'a> {
    /// The folder is there, and empty.
    pub fn new(kind: Kind, folder: &'a Path, leaves: u32, mode: Mode) -> anyhow::Result<Home<'a>> {
        let lmdb = match kind {
            Kind::Lmdb => Some(lmdb::open(folder, leaves, mode)?),
            _ => None,
        };
        Ok(Home { kind, folder, mode, lmdb })
    }

    /// A store in which each leaf has been written once.
    pub fn fill(&self, leaves: u32) -> anyhow::Result<Box<dyn Store + '_>> {
        let mut values = Values::new();
        Ok(match (&self.lmdb, self.kind) {
            (Some(env), _) => Box::new(Lmdb::fill(env, leaves, &mut values)?),
            (None, Kind::Redb | Kind::RedbUnsynced) => {
                let unsynced = self.kind == Kind::RedbUnsynced;
                Box::new(Redb::fill(self.folder, leaves, self.mode, unsynced, &mut values)?)
            }
            _ => Box::new(Ours::fill(self.folder, leaves, self.mode, &mut values)?),
        })
    }
}

/// Makes values, each with the number of its change.
pub struct Values {
    value: [u8; VALUE],
    made: u64,
}

impl Values {
    pub fn new() -> Values {
        Values { value: std::array::from_fn(|at| at as u8), made: 0 }
    }

    /// As many have been made as leaves were filled.
    pub fn after(leaves: u32) -> Values {
        Values { made: u64::from(leaves), ..Values::new() }
    }

    /// The next change, of this leaf.
    pub fn next(&mut self, leaf: u32) -> &[u8; VALUE] {
        self.made += 1;
        self.value[..8].copy_from_slice(&self.made.to_le_bytes());
        self.value[8..12].copy_from_slice(&leaf.to_le_bytes());
        &self.value
    }

    /// Changes made so far.
    pub fn made(&self) -> u64 {
        self.made
    }
}

/// The number of the change that a value is of.
pub fn number(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |number| u64::from_le_bytes(*number))
}

/// The sum of a value's words: all of it has to be read for that.
pub fn sum(value: &[u8]) -> u64 {
    value
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .fold(0, u64::wrapping_add)
}

/// Random numbers that are good enough to choose leaves (xorshift64*).
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((high * u64::from(limit)) >> 32) as u32
    }
}

/// Bytes that the files of a folder take on the medium.
pub fn allocated(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        bytes += entry?.metadata()?.blocks() * 512;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LEAVES: u32 = 500;

    /// The sum of all values after the same changes, and what has changed since.
    fn after_changes(kind: Kind, mode: Mode) -> (u64, usize) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(kind, folder.path(), LEAVES, mode).unwrap();
        let mut store = home.fill(LEAVES).unwrap();
        let (mut values, mut random) = (Values::after(LEAVES), Random(7));
        store.changed(values.made()).unwrap();
        for batch in [1, 64, 5] {
            let leaves: Vec<u32> = (0..batch).map(|_| random.below(LEAVES)).collect();
            store.update(&leaves, &mut values).unwrap();
        }
        store.sync().unwrap();
        let changed = store.changed(u64::from(LEAVES)).unwrap();
        assert!(allocated(folder.path()).unwrap() > u64::from(LEAVES) * VALUE as u64);
        (store.scan().unwrap(), changed)
    }

    /// What they should hold.
    fn model() -> (u64, usize) {
        let (mut values, mut random) = (Values::new(), Random(7));
        let mut all: Vec<_> = (0..LEAVES).map(|leaf| *values.next(leaf)).collect();
        let mut changed = BTreeSet::new();
        for _ in 0..70 {
            let leaf = random.below(LEAVES);
            all[leaf as usize] = *values.next(leaf);
            changed.insert(leaf);
        }
        (all.iter().map(|value| sum(value)).fold(0, u64::wrapping_add), changed.len())
    }

    #[test]
    fn every_store_holds_what_was_written() {
        let expected = model();
        for kind in Kind::ALL {
            for mode in [Mode::Fast, Mode::Durable, Mode::Shared] {
                if kind.has(mode) {
                    assert_eq!(after_changes(kind, mode), expected, "{kind:?} {mode:?}");
                }
            }
        }
    }

    #[test]
    fn names_are_those_of_their_kinds() {
        assert!(Kind::ALL.into_iter().all(|kind| Kind::named(kind.name()) == Some(kind)));
        assert_eq!(Kind::named("sqlite"), None);
    }
}
