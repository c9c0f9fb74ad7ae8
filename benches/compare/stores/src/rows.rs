//! The rows of stores: what is done in each, and what comes out.
//!
//! All who are compared are open at the same time and take turns, so that what else the
//! machine does meets each of them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::bail;
use tempfile::TempDir;

use crate::book::Book;
use crate::options::Options;
use crate::store::Home;
use crate::store::Kind;
use crate::store::Mode;
use crate::store::Random;
use crate::store::Store;
use crate::store::VALUE;
use crate::store::Values;
use crate::store::allocated;

/// Leaves of a transaction.
const BATCHES: [usize; 2] = [1, 64];

/// Leaves that changed, of those that are looked for.
const CHANGED: [u32; 2] = [10, 1_000];

/// Changes are looked for so often a repetition.
const LOOKS: u32 = 5;

/// Measures one row of the stores that are wanted.
pub fn measure(row: &str, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    for leaves in options.leaves.iter().copied() {
        let mut of_mode = |folder: &Path, medium: &str, mode: Mode| {
            with_stores(options, folder, leaves, mode, |all| match row {
                "scan" => scan(options, all, leaves, book),
                "changed" => changed(options, all, leaves, book),
                "read" => read(options, all, leaves, book),
                "size" => size(options, all, leaves, book),
                _ => update(options, all, &format!("{row}/{medium}/{leaves}"), book),
            })
        };
        match row {
            "update" => {
                of_mode(&options.memory, "memory", Mode::Fast)?;
                of_mode(&options.disk, "disk", Mode::Fast)?;
            }
            "durable" => of_mode(&options.disk, "disk", Mode::Durable)?,
            "read" => of_mode(&options.memory, "memory", Mode::Shared)?,
            "size" => of_mode(&options.disk, "disk", Mode::Fast)?,
            "scan" | "changed" => of_mode(&options.memory, "memory", Mode::Fast)?,
            _ => bail!("there is no row {row}"),
        }
    }
    Ok(())
}

/// An open store that is measured.
struct Open<'a> {
    kind: Kind,
    folder: &'a Path,
    leaves: u32,
    store: Box<dyn Store + 'a>,
    values: Values,
    random: Random,
}

/// Opens all that are wanted and have the mode, each in a folder of its own.
fn with_stores(
    options: &Options,
    within: &Path,
    leaves: u32,
    mode: Mode,
    run: impl FnOnce(&mut [Open<'_>]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let kinds = Kind::ALL.into_iter().filter(|kind| options.wants(kind.name()) && kind.has(mode));
    let folders: Vec<(Kind, TempDir)> = kinds
        .map(|kind| {
            let folder = tempfile::Builder::new().prefix("compare-stores-").tempdir_in(within);
            folder.map(|folder| (kind, folder))
        })
        .collect::<Result<_, _>>()
        .with_context(|| format!("no folder in {}", within.display()))?;
    let homes: Vec<(Home<'_>, &(Kind, TempDir))> = folders
        .iter()
        .map(|place| Home::new(place.0, place.1.path(), leaves, mode).map(|home| (home, place)))
        .collect::<Result<_, _>>()?;
    let mut all = Vec::new();
    for (home, (kind, folder)) in &homes {
        let mut store = home.fill(leaves)?;
        store.sync()?;
        let (values, random) = (Values::after(leaves), Random(0x9e37_79b9_7f4a_7c15));
        all.push(Open { kind: *kind, folder: folder.path(), leaves, store, values, random });
    }
    run(&mut all)
}

impl Open<'_> {
    /// Changes random leaves in transactions of so many, for this long: how many a second.
    fn change(&mut self, batch: usize, time: Duration) -> anyhow::Result<f64> {
        let mut leaves = vec![0; batch];
        let begin = self.values.made();
        let begun = Instant::now();
        while begun.elapsed() < time {
            for leaf in &mut leaves {
                *leaf = self.random.below(self.leaves);
            }
            self.store.update(&leaves, &mut self.values)?;
        }
        Ok((self.values.made() - begin) as f64 / begun.elapsed().as_secs_f64())
    }

    /// Changes so many random leaves, one a transaction.
    fn change_some(&mut self, count: u32) -> anyhow::Result<()> {
        for _ in 0..count {
            let leaf = self.random.below(self.leaves);
            self.store.update(&[leaf], &mut self.values)?;
        }
        Ok(())
    }
}

/// Values a second, and bytes written in all, the write-back at the end included, for each
/// byte that was changed: as the kernel books them for this process, which is by whole folios,
/// and as the device counts them, others' included.
fn update(
    options: &Options,
    all: &mut [Open<'_>],
    name: &str,
    book: &mut Book,
) -> anyhow::Result<()> {
    for batch in BATCHES {
        for open in all.iter_mut() {
            open.change(batch, options.seconds / 4)?;
            open.store.sync()?;
        }
        for _ in 0..options.repetitions {
            for open in all.iter_mut() {
                let (before, made) = (Written::by_now(open.folder)?, open.values.made());
                let rate = open.change(batch, options.seconds)?;
                open.store.sync()?;
                let changed = ((open.values.made() - made) * VALUE as u64) as f64;
                let after = Written::by_now(open.folder)?;
                let (kind, name) = (open.kind.name(), format!("{name}/{batch}"));
                book.add(kind, &name, rate);
                let booked = (after.booked - before.booked) as f64;
                book.add(kind, &format!("{name}/booked"), booked / changed);
                if let (Some(after), Some(before)) = (after.device, before.device) {
                    let written = (after - before) as f64;
                    book.add(kind, &format!("{name}/device"), written / changed);
                }
            }
        }
    }
    Ok(())
}

/// Bytes that have been written.
struct Written {
    /// By this process, pages of mappings included.
    booked: u64,
    /// To the device that a folder lies on, if it lies on one.
    device: Option<u64>,
}

impl Written {
    fn by_now(folder: &Path) -> anyhow::Result<Written> {
        let text = fs::read_to_string("/proc/self/io").context("the kernel does not count")?;
        let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        let booked = line.context("the kernel does not count")?.parse()?;
        let device = fs::metadata(folder)?.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"));
        // The seventh number is sectors written: Documentation/block/stat.rst.
        let sectors = |text: String| text.split_whitespace().nth(6)?.parse::<u64>().ok();
        Ok(Written { booked, device: text.ok().and_then(sectors).map(|sectors| sectors * 512) })
    }
}

/// Values a second, by the one who has the store open and by another process.
fn scan(
    options: &Options,
    all: &mut [Open<'_>],
    leaves: u32,
    book: &mut Book,
) -> anyhow::Result<()> {
    for repetition in 0..=options.repetitions {
        for open in all.iter_mut() {
            let begun = Instant::now();
            let (mut scans, mut sum) = (0_u64, 0);
            while scans == 0 || begun.elapsed() < options.seconds / 4 {
                sum = open.store.scan()?;
                scans += 1;
            }
            let rate = (scans * u64::from(leaves)) as f64 / begun.elapsed().as_secs_f64();
            anyhow::ensure!(sum != 0, "{} read nothing", open.kind.name());
            // The first finds everything cold.
            if repetition > 0 {
                book.add(open.kind.name(), &format!("scan/{leaves}"), rate);
            }
        }
    }
    Ok(())
}

/// Microseconds until it is known how many leaves changed.
fn changed(
    options: &Options,
    all: &mut [Open<'_>],
    leaves: u32,
    book: &mut Book,
) -> anyhow::Result<()> {
    for open in all.iter_mut() {
        open.store.changed(open.values.made())?;
    }
    for count in CHANGED {
        for _ in 0..options.repetitions * LOOKS {
            let mut found = None;
            for open in all.iter_mut() {
                let since = open.values.made();
                open.change_some(count)?;
                let begun = Instant::now();
                let changed = open.store.changed(since)?;
                let us = begun.elapsed().as_secs_f64() * 1e6;
                anyhow::ensure!(
                    *found.get_or_insert(changed) == changed,
                    "{} found {changed} changes",
                    open.kind.name()
                );
                book.add(open.kind.name(), &format!("changed/{leaves}/{count}"), us);
            }
        }
    }
    Ok(())
}

/// Random leaves a second, and all leaves, by another process while the store is open here.
fn read(
    options: &Options,
    all: &mut [Open<'_>],
    leaves: u32,
    book: &mut Book,
) -> anyhow::Result<()> {
    for _ in 0..options.repetitions {
        for open in all.iter_mut() {
            for what in ["fresh", "snapshot", "scan"] {
                let rate = read_beside(open, what, options.seconds)?;
                book.add(open.kind.name(), &format!("read/{leaves}/{what}"), rate);
            }
        }
    }
    Ok(())
}

/// Starts this program as the reader of a store; it ends by itself.
fn read_beside(open: &Open<'_>, what: &str, time: Duration) -> anyhow::Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["reader", open.kind.name()]).arg(open.folder);
    command.args([open.leaves.to_string(), time.as_secs_f64().to_string(), what.to_owned()]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    anyhow::ensure!(output.status.success(), "the reader of {} failed", open.kind.name());
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Bytes on the medium, when each leaf was written once and after many changes.
fn size(
    options: &Options,
    all: &mut [Open<'_>],
    leaves: u32,
    book: &mut Book,
) -> anyhow::Result<()> {
    for open in all.iter_mut() {
        let name = open.kind.name();
        book.add(name, &format!("size/{leaves}/filled"), allocated(open.folder)? as f64);
        open.change(64, options.seconds)?;
        open.store.sync()?;
        book.add(name, &format!("size/{leaves}/changed"), allocated(open.folder)? as f64);
    }
    Ok(())
}
