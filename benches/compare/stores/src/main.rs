//! mapleaf's file beside stores of the same table.

mod book;
mod lmdb;
mod options;
mod ours;
mod reader;
mod redb;
mod rows;
mod store;
mod table;

use anyhow::Context as _;
use anyhow::bail;

use crate::book::Book;
use crate::book::locked;
use crate::options::Options;
use crate::store::Kind;

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
        let kind = Kind::named(name).with_context(|| format!("there is no store {name}"))?;
        book.enter(name, version(kind), kind.settings());
    }
    for row in &options.rows {
        eprintln!("measuring {row}");
        if let Err(error) = rows::measure(row, options, &mut book) {
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
