//! mapleaf's file beside stores of the same table, and its repair beside other ways to make
//! two copies of it equal.

mod book;
mod deltas;
mod iblt;
mod linked;
mod lmdb;
mod options;
mod ours;
mod reader;
mod redb;
mod rows;
mod rsync;
mod store;
mod table;

use anyhow::Context as _;
use anyhow::bail;

use crate::book::Book;
use crate::book::locked;
use crate::deltas::Way;
use crate::options::Options;
use crate::store::Kind;

/// The row of repair; all others are of stores.
const DELTA: &str = "delta";

const USAGE: &str = "usage: mapleaf-compare-stores measure [--only LIST] [--rows LIST] \
    [--leaves LIST]\n           [--seconds N] [--repetitions N] [--disk FOLDER] \
    [--memory FOLDER] [--out FOLDER]\n       mapleaf-compare-stores table FOLDER";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((task, rest)) = args.split_first() else { bail!(USAGE) };
    match task.as_str() {
        "measure" => measure(&Options::parse(rest)?),
        "table" => table::print(rest.first().context(USAGE)?.as_ref()),
        "reader" => reader::run(rest),
        _ => bail!(USAGE),
    }
}

/// A row that fails says so, and the others are measured all the same.
fn measure(options: &Options) -> anyhow::Result<()> {
    let mut book = Book::default();
    for name in &options.only {
        let of_way = |way: Way| way.family() == name;
        match Kind::named(name) {
            Some(kind) => book.enter(name, version(kind), kind.settings()),
            None if Way::ALL.into_iter().any(of_way) => {}
            None => bail!("there is no store {name}"),
        }
    }
    let is_repaired = options.rows.iter().any(|row| row == DELTA);
    let ways = if is_repaired { deltas::enter(options, &mut book) } else { Vec::new() };
    for row in &options.rows {
        eprintln!("measuring {row}");
        let done = match row == DELTA {
            true => deltas::measure(options, &ways, &mut book),
            false => rows::measure(row, options, &mut book),
        };
        if let Err(error) = done {
            for name in &options.only {
                book.note(name, format!("{row}: {error:#}"));
            }
        }
    }
    book.save(&options.out, &options.told())
}

fn version(kind: Kind) -> String {
    match kind {
        Kind::Mapleaf => locked("mapleaf"),
        Kind::Lmdb => format!("{} (heed {})", heed::lmdb_version().string, locked("heed")),
        Kind::Redb | Kind::RedbUnsynced => locked("redb"),
    }
}
