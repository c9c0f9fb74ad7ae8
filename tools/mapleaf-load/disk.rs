//! What the medium under a tree costs: random updates of a mapped file, and the loop of
//! a server beside its write-back.
//!
//! Each folder is measured in turn, so that a disk stands beside memory in one run. What
//! reaches a medium is what its device counted, everything else that writes to it
//! included; pages that were still to be written back are waited for and belong to it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;

use mapleaf::layout::DataLocId;
use mapleaf::layout::stride_for;
use mapleaf::runtime::Transport;
use mapleaf::tree::Tree;

use crate::clients::LEASE;
use crate::clients::open_sessions;
use crate::ending::word;
use crate::feed::Mode;
use crate::feed::Random;
use crate::feed::mark;
use crate::figures::Report;
use crate::machine::go_on;
use crate::machine::rest;
use crate::machine::written_by_this_process;
use crate::options::Common;
use crate::options::data_size;
use crate::options::in_memory;
use crate::parse;
use crate::turns::Turns;
use crate::world::Serving;
use crate::world::World;
use crate::world::create;

#[derive(Clone, Debug, Args)]
pub(crate) struct DiskArgs {
    /// Folder to measure; several stand side by side. A folder in each is made and
    /// removed [default: the one for temporary files, and /dev/shm if there is one]
    #[arg(long, value_name = "FOLDER")]
    dir: Vec<PathBuf>,
    /// Pages of 4 KiB that the leaves of a tree fill
    #[arg(long, default_value_t = 65_536, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pages: u32,
    /// Bytes of Data of each leaf
    #[arg(long, default_value = "200", value_name = "SIZE", value_parser = data_size)]
    size: u32,
    /// Time that is measured, for each of two parts
    #[arg(long, default_value = "1m", value_name = "DURATION",
        value_parser = parse::positive_duration)]
    seconds: Duration,
    /// Changes a second of the server
    #[arg(long, default_value_t = 500_000, value_name = "COUNT",
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: u64,
    /// The server's tick
    #[arg(long, default_value = "1ms", value_name = "DURATION",
        value_parser = parse::positive_duration)]
    period: Duration,
    /// How often all is measured
    #[arg(long, default_value_t = 1, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    repetitions: u32,
    /// Print JSON, a line for each figure, instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// What Linux writes back and maps at a time, on the machines that this is for.
const PAGE: usize = 4_096;

/// Updates between two looks at whether somebody wants this to end: a millisecond.
const LOOKED_AFTER: u64 = 4_096;

/// After this a server does what it goes on doing.
const SETTLED: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &DiskArgs) -> anyhow::Result<Report> {
    let folders = args.folders();
    let options = json!({
        "folders": folders,
        "media": folders.iter().map(|folder| medium(folder)).collect::<Vec<_>>(),
        "pages": args.pages,
        "leaves": args.leaves(),
        "size": args.size,
        "seconds": args.seconds.as_secs_f64(),
        "rate": args.rate,
        "period_s": args.period.as_secs_f64(),
        "repetitions": args.repetitions,
    });
    let mut report = Report::new("disk", options);
    for _ in 0..args.repetitions {
        for folder in &folders {
            word(&format!("mapleaf-load disk: {}", folder.display()));
            let mut told = Told { report: &mut report, folder };
            updates(args, &mut told)?;
            serving(args, &mut told)?;
        }
    }
    report.note("updates: random leaves of a mapped tree, as fast as it goes; pages are clean at first, as the server's are");
    report.note("what a device wrote is counted until all is on it, others' writes included; a byte changed is one of Data");
    report.note("a turn: from one call of the feed to the next, so that no period was later than the longest; what one waited for a processor is left out of the figures of one that has it");
    Ok(report)
}

impl DiskArgs {
    fn folders(&self) -> Vec<PathBuf> {
        if !self.dir.is_empty() {
            return self.dir.clone();
        }
        let mut folders = vec![std::env::temp_dir(), in_memory()];
        folders.dedup();
        folders
    }

    fn leaves(&self) -> u32 {
        let of_a_page = (PAGE / stride_for(self.size as usize)).max(1) as u32;
        self.pages.saturating_mul(of_a_page)
    }

    fn common(&self, folder: &Path) -> Common {
        Common {
            leaves: self.leaves(),
            size: self.size,
            period: self.period,
            datagram_size: 1_200,
            senders: 0,
            burst: 0,
            transport: Transport::Udp,
            busy_poll: false,
            receive_buffer: 4 << 20,
            dir: Some(folder.to_owned()),
            repetitions: self.repetitions,
            warm_up: SETTLED,
            json: self.json,
        }
    }
}

/// The report of one folder: figures bear its name.
struct Told<'a> {
    report: &'a mut Report,
    folder: &'a Path,
}

impl Told<'_> {
    fn add(&mut self, name: &str, unit: &'static str, value: f64) {
        self.report.add(&format!("{}: {name}", self.folder.display()), unit, value);
    }

    fn add_times(&mut self, what: &str, unit: &'static str, scale: f64, times: &Histogram<u64>) {
        let quantiles = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
        for (name, quantile) in quantiles {
            self.add(&format!("{what}, {name}"), unit, {
                times.value_at_quantile(quantile) as f64 / scale
            });
        }
        self.add(&format!("{what}, longest"), unit, times.max() as f64 / scale);
    }

    fn add_written(&mut self, what: &str, before: Written, changed: f64) {
        let after = Written::by_now(self.folder);
        if let (Some(before), Some(after)) = (before.device, after.device) {
            let written = after.saturating_sub(before) as f64;
            self.add(&format!("{what}, written to the device a byte changed"), "B", {
                written / changed.max(1.0)
            });
        }
        if let (Some(before), Some(after)) = (before.process, after.process) {
            let written = after.saturating_sub(before) as f64;
            self.add(&format!("{what}, made dirty a byte changed"), "B", {
                written / changed.max(1.0)
            });
        }
    }
}

/// Bytes that went to the medium of a folder.
#[derive(Clone, Copy, Debug)]
struct Written {
    /// By the count of its block device; nothing where there is none.
    device: Option<u64>,
    /// By the kernel's count of pages that this process made dirty, on any medium.
    process: Option<u64>,
}

impl Written {
    fn by_now(folder: &Path) -> Written {
        Written { device: written_to_device(folder), process: written_by_this_process() }
    }
}

/// Random updates of a mapped tree by one thread, each timed.
fn updates(args: &DiskArgs, told: &mut Told<'_>) -> anyhow::Result<()> {
    let folder = told.folder;
    let inner = tempfile::Builder::new().prefix("mapleaf-load-").tempdir_in(folder);
    let inner = inner.with_context(|| format!("no folder in {}", folder.display()))?;
    let mut tree = create(&args.common(folder), &inner.path().join("tree"))?;
    tree.begin_life(0)?;
    let mut data = vec![0x5a; args.size as usize];
    for leaf in 0..args.leaves() {
        tree.write(DataLocId(leaf), &data)?;
    }
    // Clean pages, as after an hour without changes.
    tree.sync()?;
    go_on()?;
    let before = Written::by_now(folder);
    let (begun, mut turns) = (Instant::now(), Turns::default());
    let count = update(args, &mut tree, &mut data, &mut turns)?;
    let seconds = begun.elapsed().as_secs_f64();
    told.add("updates, made", "updates/s", count as f64 / seconds);
    told.add_times("updates, one", "us", 1e3, &turns.whole);
    told.add_times("updates, one that has a processor", "us", 1e3, &turns.own);
    let synced = Instant::now();
    tree.sync()?;
    told.add("updates, writing back at the end", "ms", synced.elapsed().as_secs_f64() * 1e3);
    told.add_written("updates", before, count as f64 * f64::from(args.size));
    tree.close()?;
    Ok(())
}

fn update(
    args: &DiskArgs,
    tree: &mut Tree,
    data: &mut [u8],
    turns: &mut Turns,
) -> anyhow::Result<u64> {
    let (mut random, mut count) = (Random(0x9e37_79b9_7f4a_7c15), 0);
    let end = Instant::now() + args.seconds;
    // One look at the clock an update: what lies between two belongs to the update.
    while turns.note() < end {
        if count % LOOKED_AFTER == 0 {
            go_on()?;
        }
        let leaf = random.below(args.leaves());
        mark(data, (0, 0), count);
        tree.write(DataLocId(leaf), data)?;
        count += 1;
    }
    Ok(count)
}

/// A server with one session, whose feed changes random leaves at the rate.
fn serving(args: &DiskArgs, told: &mut Told<'_>) -> anyhow::Result<()> {
    let common = args.common(told.folder);
    let mut world = World::start(&common, Serving { lease: LEASE, ..Serving::default() })?;
    let (mut clients, _) = open_sessions(&world, 1)?;
    // What filled the tree is not to be written back in the time that is measured.
    world.write_back()?;
    world.order(Mode::Paced { rate: args.rate });
    rest(common.warm_up)?;
    let before = Written::by_now(told.folder);
    let (begun, updates) = (Instant::now(), world.orders().updates());
    world.orders().time_turns();
    let waited = rest(args.seconds);
    let turns = world.orders().turns();
    let changed = (world.orders().updates() - updates) as f64;
    let seconds = begun.elapsed().as_secs_f64();
    world.order(Mode::Paused);
    waited?;
    clients.end()?;
    world.end()?;
    told.add("server, changes made", "changes/s", changed / seconds);
    told.add_times("server, a turn", "ms", 1e6, &turns.whole);
    told.add_times("server, a turn that has a processor", "ms", 1e6, &turns.own);
    // Its tree was closed, which waits for the medium.
    told.add_written("server", before, changed * f64::from(args.size));
    world.verify([])?;
    Ok(())
}

/// Bytes that the block device of a folder has written since the system began: the
/// seventh number of its `stat`, in sectors of 512 bytes.
fn written_to_device(folder: &Path) -> Option<u64> {
    let stat = fs::read_to_string(device(folder)?.join("stat")).ok()?;
    Some(stat.split_whitespace().nth(6)?.parse::<u64>().ok()? * 512)
}

/// Where the system tells of the block device of a folder, if it has one. The number of
/// a device is put together as Linux does it (`makedev`).
fn device(folder: &Path) -> Option<PathBuf> {
    let number = fs::metadata(folder).ok()?.dev();
    let major = (number >> 8) & 0xfff | (number >> 32) & !0xfff;
    let minor = number & 0xff | (number >> 12) & !0xff;
    let path = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    path.exists().then_some(path)
}

/// The file system of a folder: of the mounts that it lies under, the innermost.
fn medium(folder: &Path) -> Option<String> {
    let folder = fs::canonicalize(folder).ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let lines = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let around = lines.filter(|(place, _)| folder.starts_with(place));
    around.max_by_key(|(place, _)| place.len()).map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_a_medium() {
        assert!(medium(Path::new("/")).is_some_and(|kind| !kind.is_empty()));
        assert_eq!(medium(Path::new("/proc/self")).as_deref(), Some("proc"));
        assert_eq!(device(Path::new("/proc")), None);
    }
}
