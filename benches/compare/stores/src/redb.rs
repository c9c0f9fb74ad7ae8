//! redb.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use redb::Builder;
use redb::ConcurrencyMode;
use redb::Database;
use redb::Durability;
use redb::ReadOnlyDatabase;
use redb::ReadableDatabase;
use redb::ReadableTable as _;
use redb::StorageBackend;
use redb::TableDefinition;
use redb::WriteTransaction;

use crate::reader::Fresh;
use crate::reader::rate;
use crate::store::Mode;
use crate::store::Random;
use crate::store::Store;
use crate::store::VALUE;
use crate::store::Values;
use crate::store::number;
use crate::store::sum;

/// Values of a fixed length: the least that redb keeps beside them.
const TABLE: TableDefinition<'_, u32, &[u8; VALUE]> = TableDefinition::new("leaves");

pub struct Redb {
    database: Database,
    durability: Durability,
    /// A file that commits do not write back.
    unsynced: Option<File>,
}

impl Redb {
    pub fn fill(
        folder: &Path,
        leaves: u32,
        mode: Mode,
        unsynced: bool,
        values: &mut Values,
    ) -> anyhow::Result<Redb> {
        let unsynced = unsynced.then(|| Unsynced::create(&file(folder))).transpose()?;
        let (database, unsynced) = match unsynced {
            Some(unsynced) => {
                let beside = unsynced.0.try_clone()?;
                (Builder::new().create_with_backend(unsynced)?, Some(beside))
            }
            None => (builder(mode).create(file(folder))?, None),
        };
        let durability = match (mode, &unsynced) {
            (Mode::Fast, None) => Durability::None,
            _ => Durability::Immediate,
        };
        let transaction = database.begin_write()?;
        let mut table = transaction.open_table(TABLE)?;
        for leaf in 0..leaves {
            table.insert(leaf, values.next(leaf))?;
        }
        drop(table);
        transaction.commit()?;
        Ok(Redb { database, durability, unsynced })
    }

    fn begin(&self) -> anyhow::Result<WriteTransaction> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(self.durability)?;
        Ok(transaction)
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("redb")
}

fn builder(mode: Mode) -> Builder {
    let mut builder = Builder::new();
    if mode == Mode::Shared {
        builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
    }
    builder
}

impl Store for Redb {
    fn update(&mut self, leaves: &[u32], values: &mut Values) -> anyhow::Result<()> {
        let transaction = self.begin()?;
        let mut table = transaction.open_table(TABLE)?;
        for leaf in leaves {
            table.insert(*leaf, values.next(*leaf))?;
        }
        drop(table);
        Ok(transaction.commit()?)
    }

    /// A durable commit carries all that came before it.
    fn sync(&mut self) -> anyhow::Result<()> {
        self.database.begin_write()?.commit()?;
        if let Some(file) = &self.unsynced {
            file.sync_data()?;
        }
        Ok(())
    }

    fn scan(&mut self) -> anyhow::Result<u64> {
        scan(&self.database)
    }

    /// It keeps no list of changes: all values are looked at.
    fn changed(&mut self, since: u64) -> anyhow::Result<usize> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut changed = 0;
        for pair in table.iter()? {
            changed += usize::from(number(pair?.1.value()) > since);
        }
        Ok(changed)
    }
}

/// Reads all leaves.
pub fn scan(database: &impl ReadableDatabase) -> anyhow::Result<u64> {
    let table = database.begin_read()?.open_table(TABLE)?;
    let mut all = 0_u64;
    for pair in table.iter()? {
        all = all.wrapping_add(sum(pair?.1.value()));
    }
    Ok(all)
}

/// Opens a file that another process has open.
pub fn open_to_read(folder: &Path) -> anyhow::Result<ReadOnlyDatabase> {
    Ok(builder(Mode::Shared).open_read_only(file(folder))?)
}

/// Reads random leaves, in a transaction for each or in one for all.
pub fn read(
    database: &ReadOnlyDatabase,
    leaves: u32,
    time: Duration,
    fresh: Fresh,
) -> anyhow::Result<f64> {
    let mut table = database.begin_read()?.open_table(TABLE)?;
    let mut random = Random(11);
    rate(time, || {
        if fresh == Fresh::Each {
            table = database.begin_read()?.open_table(TABLE)?;
        }
        let value = table.get(random.below(leaves))?.context("there is no such leaf")?;
        Ok(sum(value.value()))
    })
}

/// A file that is never written back: a commit survives the process, not the power.
#[derive(Debug)]
struct Unsynced(File);

impl Unsynced {
    fn create(path: &Path) -> io::Result<Unsynced> {
        let options = File::options().read(true).write(true).create_new(true).open(path);
        options.map(Unsynced)
    }
}

impl StorageBackend for Unsynced {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}
