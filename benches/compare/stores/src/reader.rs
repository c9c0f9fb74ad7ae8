//! A process that reads a store which another one has open.

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::bail;

use crate::lmdb;
use crate::ours;
use crate::redb;
use crate::store::Kind;

/// Which state a leaf is read of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// Each leaf of the newest.
    Each,
    /// All leaves of the same.
    First,
}

/// Does what the arguments say, and prints how many leaves it read a second.
pub fn run(args: &[String]) -> anyhow::Result<()> {
    let [kind, folder, leaves, seconds, what] = args else {
        bail!("a reader has five arguments, found {}", args.len());
    };
    let kind = Kind::named(kind).context("there is no such store")?;
    let time = Duration::from_secs_f64(seconds.parse()?);
    println!("{}", read(kind, folder.as_ref(), leaves.parse()?, time, what)?);
    Ok(())
}

fn read(kind: Kind, folder: &Path, leaves: u32, time: Duration, what: &str) -> anyhow::Result<f64> {
    let fresh = match what {
        "fresh" => Some(Fresh::Each),
        "snapshot" => Some(Fresh::First),
        "scan" => None,
        _ => bail!("nothing is read like {what}"),
    };
    match (kind, fresh) {
        // A read is of the newest state, always.
        (Kind::Mapleaf, Some(_)) => ours::read(folder, leaves, time),
        (Kind::Mapleaf, None) => rate_of_scans(leaves, time, || ours::scan(folder)),
        (Kind::Lmdb, _) => {
            let env = lmdb::open_to_read(folder, leaves)?;
            let reader = lmdb::Reader::new(&env)?;
            match fresh {
                Some(fresh) => reader.read(leaves, time, fresh),
                None => rate_of_scans(leaves, time, || reader.scan()),
            }
        }
        (Kind::Redb | Kind::RedbUnsynced, _) => {
            let database = redb::open_to_read(folder)?;
            match fresh {
                Some(fresh) => redb::read(&database, leaves, time, fresh),
                None => rate_of_scans(leaves, time, || redb::scan(&database)),
            }
        }
    }
}

/// The clock is looked at once in so many reads.
const READS_A_LOOK: u32 = 64;

/// How many reads a second, each of which gives the sum of a value.
pub fn rate(time: Duration, mut read: impl FnMut() -> anyhow::Result<u64>) -> anyhow::Result<f64> {
    let (mut reads, mut all) = (0_u64, 0_u64);
    let begun = Instant::now();
    while begun.elapsed() < time {
        for _ in 0..READS_A_LOOK {
            all = all.wrapping_add(read()?);
        }
        reads += u64::from(READS_A_LOOK);
    }
    let rate = reads as f64 / begun.elapsed().as_secs_f64();
    anyhow::ensure!(all != 0, "nothing was read");
    Ok(rate)
}

/// The first scan, which finds the pages unmapped, is not counted.
fn rate_of_scans(
    leaves: u32,
    time: Duration,
    mut scan: impl FnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<f64> {
    anyhow::ensure!(scan()? != 0, "nothing was read");
    let (mut scans, begun) = (0_u64, Instant::now());
    while scans == 0 || begun.elapsed() < time {
        scan()?;
        scans += 1;
    }
    Ok((scans * u64::from(leaves)) as f64 / begun.elapsed().as_secs_f64())
}
