//! The `mapleaf-load` command: measures mapleaf on this machine, over loopback.
//!
//! The server runs in this process and is fed by it; every subscriber is a process of
//! its own with a replica in a temporary folder. What is started is ended, and what is
//! made is removed. Beside throughput, latency, a late join and a repair stands the limit: bare
//! datagrams of the same size, measured in the same run. docs/BENCHMARKING.md says what each
//! figure means.

mod clients;
mod disk;
#[path = "../ending.rs"]
mod ending;
mod feed;
mod figures;
mod growth;
mod join;
mod latency;
mod limit;
mod machine;
mod options;
#[path = "../../src/cli/parse.rs"]
#[allow(dead_code)]
mod parse;
mod point;
mod repair;
mod series;
mod sessions;
mod subscriber;
mod throughput;
mod turns;
#[path = "../../src/cli/words.rs"]
#[allow(dead_code)]
mod words;
mod world;

use std::io;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

use crate::ending::explain;
use crate::figures::Report;

/// Measure mapleaf on this machine, over loopback
#[derive(Debug, Parser)]
#[command(name = "mapleaf-load", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Only a release build says something about speed.\n\
    Durations: 100ms, 5s, 2m. Sizes: 1200, 64KiB.\n\
    Exit status: 0 done, 2 usage or trouble.\n\nExample:\n  mapleaf-load throughput --batch 64")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Update random leaves as fast as it goes, and count what subscribers apply
    #[command(after_help = "Examples:\n  mapleaf-load throughput --batch 64 --no-conflation\n  \
        mapleaf-load throughput --loss 0.01")]
    Throughput(throughput::ThroughputArgs),
    /// The same with many subscribers
    #[command(after_help = "Example:\n  mapleaf-load fan-out --subscribers 64")]
    FanOut(throughput::FanOutArgs),
    /// Time each change, from the write at the server to its application at a subscriber
    #[command(after_help = "Example:\n  mapleaf-load latency --period 0 --busy-poll --loss 0.01")]
    Latency(latency::LatencyArgs),
    /// Time a subscriber that begins with nothing, and check every leaf that it got
    #[command(after_help = "Example:\n  mapleaf-load late-join --leaves 1000000")]
    LateJoin(join::JoinArgs),
    /// Stop a subscriber for a while, and time how long it takes to be equal again
    #[command(after_help = "Example:\n  mapleaf-load repair --rate 100000 --pause 2s")]
    Repair(repair::RepairArgs),
    /// Open bare sessions, and see what each costs the server
    #[command(after_help = "Example:\n  mapleaf-load clients --sessions 10000")]
    Clients(clients::ClientsArgs),
    /// See what leaves, changes, sessions and sizes cost as they grow
    #[command(after_help = "Example:\n  mapleaf-load growth --quick")]
    Growth(growth::GrowthArgs),
    /// Update a tree on a disk and one in memory, and see how long what takes
    #[command(after_help = "Example:\n  mapleaf-load disk --dir /var/tmp --dir /dev/shm")]
    Disk(disk::DiskArgs),
    /// A point of growth: one process of a measurement
    #[command(hide = true)]
    Point(point::PointArgs),
    /// A subscriber: one process of a measurement
    #[command(hide = true)]
    Subscriber(subscriber::SubscriberArgs),
    /// Bare sessions: one process of a measurement
    #[command(hide = true)]
    Sessions(sessions::SessionsArgs),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => explain("mapleaf-load", &error),
    }
}

fn run() -> anyhow::Result<()> {
    let (report, json) = match Cli::try_parse()?.command {
        Command::Subscriber(args) => return subscriber::run(args),
        Command::Sessions(args) => return sessions::run(&args),
        Command::Point(args) => return point::run(&args),
        Command::Throughput(throughput::ThroughputArgs { subscribers, load }) => {
            (throughput::run("throughput", &load, subscribers)?, load.common.json)
        }
        Command::FanOut(throughput::FanOutArgs { subscribers, load }) => {
            (throughput::run("fan-out", &load, subscribers)?, load.common.json)
        }
        Command::Latency(args) => (latency::run(&args)?, args.common.json),
        Command::LateJoin(args) => (join::run(&args)?, args.common.json),
        Command::Repair(args) => (repair::run(&args)?, args.common.json),
        Command::Clients(args) => (clients::run(&args)?, args.common.json),
        Command::Disk(args) => (disk::run(&args)?, args.json),
        Command::Growth(args) => (growth::run(&args)?, args.json),
    };
    print(&report, json)
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let text = if json {
        report.notes().iter().for_each(|note| ending::word(&format!("mapleaf-load: {note}")));
        report.json().iter().map(|line| format!("{line}\n")).collect()
    } else {
        report.table()
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Who closed the pipe has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_table_of_flags_is_sound_and_explained() {
        ending::assert_explained(Cli::command());
    }
}
