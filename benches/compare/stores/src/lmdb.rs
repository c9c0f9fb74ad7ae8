//! LMDB, by heed.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use heed::CommitOrAbort;
use heed::Database;
use heed::Env;
use heed::EnvFlags;
use heed::EnvOpenOptions;
use heed::IntegerComparator;
use heed::PutFlags;
use heed::RoTxn;
use heed::WithTls;
use heed::byteorder::NativeEndian;
use heed::types::Bytes;
use heed::types::U32;

use crate::reader::Fresh;
use crate::reader::rate;
use crate::store::Mode;
use crate::store::Random;
use crate::store::Store;
use crate::store::VALUE;
use crate::store::Values;
use crate::store::number;
use crate::store::sum;

type Table<'e> = Database<'e, U32<NativeEndian>, Bytes, IntegerComparator>;

/// Room for each leaf with its page's share, several times over: pages are copied before they
/// are changed.
const ROOM_A_LEAF: usize = 4 * 256;

/// Room for what is copied of a small table.
const ROOM: usize = 64 << 20;

/// The folder is there.
pub fn open(folder: &Path, leaves: u32, mode: Mode) -> anyhow::Result<Env> {
    let flags = match mode {
        Mode::Durable => EnvFlags::empty(),
        Mode::Fast | Mode::Shared => {
            EnvFlags::NO_SYNC | EnvFlags::NO_META_SYNC | EnvFlags::WRITE_MAP
        }
    };
    open_with(folder, leaves, flags)
}

fn open_with(folder: &Path, leaves: u32, flags: EnvFlags) -> anyhow::Result<Env> {
    let mut options = EnvOpenOptions::new();
    options.map_size(ROOM + leaves as usize * ROOM_A_LEAF);
    // SAFETY: flags that leave out syncs lose transactions with the power alone, and nobody
    // changes the file but LMDB.
    unsafe { options.flags(flags) };
    // SAFETY: the folder is this program's own, and its file is changed by LMDB alone.
    unsafe { options.open(folder) }.context("cannot open LMDB")
}

pub struct Lmdb<'e> {
    env: &'e Env,
    table: Table<'e>,
}

impl<'e> Lmdb<'e> {
    pub fn fill(env: &'e Env, leaves: u32, values: &mut Values) -> anyhow::Result<Lmdb<'e>> {
        let created =
            env.create_databases_and_commit(env.write_txn()?, |opener, transaction| {
                let options = opener.database_options().types::<U32<NativeEndian>, Bytes>();
                let table = options.key_comparator::<IntegerComparator>().create(transaction)?;
                heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(table))
            })?;
        let table = created.commit().context("the table was not created")?;
        let mut transaction = env.write_txn()?;
        for leaf in 0..leaves {
            let value = values.next(leaf);
            table.put_with_flags(&mut transaction, PutFlags::APPEND, &leaf, value)?;
        }
        transaction.commit()?;
        Ok(Lmdb { env, table })
    }
}

impl Store for Lmdb<'_> {
    fn update(&mut self, leaves: &[u32], values: &mut Values) -> anyhow::Result<()> {
        let mut transaction = self.env.write_txn()?;
        for leaf in leaves {
            self.table.put(&mut transaction, leaf, values.next(*leaf))?;
        }
        Ok(transaction.commit()?)
    }

    fn sync(&mut self) -> anyhow::Result<()> {
        Ok(self.env.force_sync()?)
    }

    fn scan(&mut self) -> anyhow::Result<u64> {
        let transaction = self.env.read_txn()?;
        let mut all = 0_u64;
        for pair in self.table.iter(&transaction)? {
            all = all.wrapping_add(sum(pair?.1));
        }
        Ok(all)
    }

    /// It keeps no list of changes: all values are looked at.
    fn changed(&mut self, since: u64) -> anyhow::Result<usize> {
        let transaction = self.env.read_txn()?;
        let mut changed = 0;
        for pair in self.table.iter(&transaction)? {
            changed += usize::from(number(pair?.1) > since);
        }
        Ok(changed)
    }
}

/// A table that another process has open.
pub struct Reader<'e> {
    env: &'e Env,
    table: Table<'e>,
}

/// The environment of a [`Reader`].
pub fn open_to_read(folder: &Path, leaves: u32) -> anyhow::Result<Env> {
    open_with(folder, leaves, EnvFlags::READ_ONLY)
}

impl<'e> Reader<'e> {
    pub fn new(env: &'e Env) -> anyhow::Result<Reader<'e>> {
        let opened = env.open_databases_and_commit(env.read_txn()?, |opener, transaction| {
            let options = opener.database_options().types::<U32<NativeEndian>, Bytes>();
            let table = options.key_comparator::<IntegerComparator>().open(transaction)?;
            heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(table))
        })?;
        let table = opened.commit().flatten().context("there is no table")?;
        Ok(Reader { env, table })
    }

    /// Reads random leaves, in a transaction for each or in one for all.
    pub fn read(&self, leaves: u32, time: Duration, fresh: Fresh) -> anyhow::Result<f64> {
        let mut random = Random(11);
        match fresh {
            Fresh::Each => rate(time, || self.sum_of(&self.env.read_txn()?, random.below(leaves))),
            Fresh::First => {
                let transaction = self.env.read_txn()?;
                rate(time, || self.sum_of(&transaction, random.below(leaves)))
            }
        }
    }

    fn sum_of(&self, transaction: &RoTxn<'_, WithTls>, leaf: u32) -> anyhow::Result<u64> {
        let value = self.table.get(transaction, &leaf)?.context("there is no such leaf")?;
        anyhow::ensure!(value.len() == VALUE, "a value of {} bytes", value.len());
        Ok(sum(value))
    }

    pub fn scan(&self) -> anyhow::Result<u64> {
        Lmdb { env: self.env, table: self.table }.scan()
    }
}
