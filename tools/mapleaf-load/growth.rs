//! What things cost as the tree and its audience grow: leaves, changed leaves, sessions
//! and the size of a leaf, each alone, the others as they are.
//!
//! Each point is measured by a process of its own (`point`), so that no memory of the
//! one before is used again and counted as nothing.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use clap::Args;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use mapleaf::layout::stride_for;

use crate::ending::word;
use crate::figures::Report;
use crate::machine::go_on;
use crate::machine::wait_for;
use crate::options::in_memory;
use crate::parse;
use crate::series::Series;

#[derive(Clone, Debug, Args)]
pub(crate) struct GrowthArgs {
    /// Largest tree; what does not fit into half of the free memory is left out
    #[arg(long, default_value_t = 10_000_000, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(100..=16_000_000))]
    leaves_max: u32,
    /// Most sessions
    #[arg(long, default_value_t = 10_000, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=20_000))]
    sessions_max: u32,
    /// The server's tick, and the time between two bursts of changes
    #[arg(long, default_value = "10ms", value_name = "DURATION",
        value_parser = parse::positive_duration)]
    period: Duration,
    /// Fewer and smaller points, each measured once: to see that it works
    #[arg(long)]
    quick: bool,
    /// Folder for the trees; a folder in it is made and removed [default: /dev/shm if
    /// there is one]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// How often each point is measured
    #[arg(long, default_value_t = 3, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    repetitions: u32,
    /// Print JSON, a line for each figure, instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// What one point has of each quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    leaves: u32,
    /// Leaves that change in a period.
    changed: u32,
    sessions: u32,
    size: u32,
    join: Join,
    idle: Idle,
}

/// Whether a late joiner is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Join {
    Timed,
    LeftOut,
}

/// Whether periods without changes are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    Measured,
    LeftOut,
}

/// What the others are while one grows.
const BASE: Point = Point {
    leaves: 10_000,
    changed: 10,
    sessions: 1,
    size: 200,
    join: Join::LeftOut,
    idle: Idle::Measured,
};

/// Data of one leaf, up to what a datagram of 1,200 bytes carries.
const SIZES: [u32; 5] = [16, 64, 200, 500, 1_000];

/// Quick runs go so far.
const QUICK_LEAVES: u32 = 100_000;
const QUICK_CHANGED: u32 = 1_000;
const QUICK_SESSIONS: u32 = 100;

/// A point that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(600);

/// A process that was asked to end cleans up first.
const GOODBYE: Duration = Duration::from_secs(20);

pub(crate) fn run(args: &GrowthArgs) -> anyhow::Result<Report> {
    let options = json!({
        "quick": args.quick,
        "period_s": args.period.as_secs_f64(),
        "repetitions": args.repetitions(),
        "folder": args.dir.clone().unwrap_or_else(in_memory),
        // Each point says which of these grows, and how far.
        "leaves": BASE.leaves,
        "changed": BASE.changed,
        "sessions": BASE.sessions,
        "size": BASE.size,
    });
    let mut report = Report::new("growth", options);
    for (mut series, points) in plan(args) {
        for (at, point) in points {
            if let Some(lack) = lacks_memory(&point) {
                report.note(format!("{} {at} was left out: {lack}", series.name()));
                continue;
            }
            word(&format!("mapleaf-load growth: {} {at}", series.name()));
            series.add(at, measure(args, &point)?);
        }
        report.add_series(series);
    }
    report.note("the median of each figure is told here, its spread in --json");
    report.note("sessions read nothing: each is a client that has stalled");
    report.note("time of the processor is that of the server's thread, its system calls included");
    Ok(report)
}

type Plan = Vec<(Series, Vec<(u64, Point)>)>;

fn plan(args: &GrowthArgs) -> Plan {
    let to = |most: u32, quick: u32| if args.quick { most.min(quick) } else { most };
    let leaves = powers(1_000, to(args.leaves_max, QUICK_LEAVES)).map(|leaves| Point {
        leaves,
        join: Join::Timed,
        ..BASE
    });
    let changed = powers(1, to(BASE.leaves, QUICK_CHANGED)).map(|changed| Point {
        changed,
        idle: Idle::LeftOut,
        ..BASE
    });
    let sessions =
        powers(1, to(args.sessions_max, QUICK_SESSIONS)).map(|sessions| Point { sessions, ..BASE });
    let sizes = SIZES.into_iter().filter(|size| !args.quick || [16, 200].contains(size));
    let sizes = sizes.map(|size| Point {
        size,
        changed: 1_000,
        join: Join::Timed,
        idle: Idle::LeftOut,
        ..BASE
    });
    let at = |quantity: fn(&Point) -> u32| move |point: Point| (u64::from(quantity(&point)), point);
    vec![
        (Series::new("leaves", "leaves"), leaves.map(at(|point| point.leaves)).collect()),
        (
            Series::new("changed", "leaves a period"),
            changed.map(at(|point| point.changed)).collect(),
        ),
        (Series::new("sessions", "sessions"), sessions.map(at(|point| point.sessions)).collect()),
        (Series::new("size", "bytes of Data"), sizes.map(at(|point| point.size)).collect()),
    ]
}

/// Ten times as much each time, from the first; the last is what was asked for.
fn powers(first: u32, last: u32) -> impl Iterator<Item = u32> {
    let step = move |at: &u32| match at {
        at if *at >= last => None,
        at => Some(at.saturating_mul(10).min(last)),
    };
    std::iter::successors(Some(first.min(last)), step)
}

/// What is wanted and what there is, if the point needs more than half of it: files of
/// server and replica, which lie in memory.
fn lacks_memory(point: &Point) -> Option<String> {
    let files = if point.join == Join::Timed { 2 } else { 1 };
    let needed = files * u64::from(point.leaves) * stride_for(point.size as usize) as u64;
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.split_whitespace().next()?.parse::<u64>().ok()? * 1_024;
    (needed > free / 2).then(|| format!("{needed} bytes needed, {free} free"))
}

impl GrowthArgs {
    fn repetitions(&self) -> u32 {
        if self.quick { 1 } else { self.repetitions }
    }
}

/// Lets a process measure one point, and takes its figures.
fn measure(args: &GrowthArgs, point: &Point) -> anyhow::Result<Map<String, Value>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("point");
    let numbers = [
        ("--leaves", point.leaves),
        ("--size", point.size),
        ("--changed", point.changed),
        ("--sessions", point.sessions),
        ("--repetitions", args.repetitions()),
    ];
    for (flag, number) in numbers {
        command.arg(flag).arg(number.to_string());
    }
    command.arg("--period").arg(format!("{}us", args.period.as_micros()));
    command.args((point.join == Join::Timed).then_some("--join"));
    command.args((point.idle == Idle::Measured).then_some("--idle"));
    if let Some(dir) = &args.dir {
        command.arg("--dir").arg(dir);
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    Measuring(child.context("cannot start a process")?).figures()
}

/// A process that measures a point. It is asked to end when this is dropped.
struct Measuring(Child);

impl Measuring {
    fn figures(mut self) -> anyhow::Result<Map<String, Value>> {
        let mut ended = None;
        wait_for("the end of a point", PATIENCE, || {
            ended = self.0.try_wait()?;
            Ok(ended.is_some())
        })?;
        // One line, which a pipe holds: it was written though nobody read.
        let mut text = String::new();
        let mut out = self.0.stdout.take().context("a process without stdout")?;
        out.read_to_string(&mut text)?;
        match serde_json::from_str(&text) {
            Ok(Value::Object(figures)) if ended.is_some_and(|status| status.success()) => {
                Ok(figures)
            }
            _ => {
                go_on()?;
                bail!("a point was not measured")
            }
        }
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.0.try_wait() {
            return;
        }
        // It has processes and a folder to clean up.
        if let Some(id) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(id, Signal::TERM);
        }
        let begun = std::time::Instant::now();
        while begun.elapsed() < GOODBYE && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_by_tens_up_to_what_was_asked_for() {
        let of = |first, last| powers(first, last).collect::<Vec<_>>();
        assert_eq!(of(1_000, 1_000_000), [1_000, 10_000, 100_000, 1_000_000]);
        assert_eq!(of(1_000, 25_000), [1_000, 10_000, 25_000]);
        assert_eq!(of(1_000, 500), [500]);
        assert_eq!(of(1, 1), [1]);
    }

    #[test]
    fn what_needs_too_much_memory_is_told() {
        assert_eq!(lacks_memory(&BASE), None);
        let lack = lacks_memory(&Point { leaves: u32::MAX, size: 1 << 20, ..BASE });
        assert!(lack.is_some_and(|lack| lack.contains("bytes needed")));
    }
}
