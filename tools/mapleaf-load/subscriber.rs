//! A subscriber: a process with a replica, which says as JSON lines how far it is.
//!
//! The same program, started by itself. It ends when its stdin does: a measurement that
//! is killed leaves none behind. A line of stdin is the share of datagrams that it loses
//! from then on. Lines that it says are `start`, `at` (as soon as it is, or is not any
//! more, equal to the server, and with `applied` some ten times a second) and `end`.

use std::collections::BTreeMap;
use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::thread;

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::Value;
use serde_json::json;

use mapleaf::layout::DataLocId;
use mapleaf::runtime::Changes;
use mapleaf::runtime::Control;
use mapleaf::runtime::Loss;
use mapleaf::runtime::MirrorObserver;
use mapleaf::runtime::MirrorOptions;
use mapleaf::runtime::MirrorStatus;
use mapleaf::runtime::MirrorUntil;
use mapleaf::runtime::RECEIVE_BUFFER_DEFAULT;
use mapleaf::runtime::Waiting;
use mapleaf::runtime::mirror;
use mapleaf::tree::Tree;

use crate::feed::marked;
use crate::machine::now_ns;
use crate::turns::time_histogram;

/// What a subscriber is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct SubscriberArgs {
    /// Address of the server
    #[arg(long)]
    pub(crate) server: SocketAddr,
    /// File of the replica
    #[arg(long)]
    pub(crate) file: PathBuf,
    /// Look at each change that is applied
    #[arg(long)]
    pub(crate) watch: bool,
    /// Say how new the newest of them is
    #[arg(long)]
    pub(crate) tell: bool,
    /// End as soon as the replica is equal
    #[arg(long)]
    pub(crate) until_synced: bool,
    /// Spin instead of sleeping
    #[arg(long)]
    pub(crate) busy_poll: bool,
    /// Bytes that the socket asks for to receive into
    #[arg(long, default_value_t = RECEIVE_BUFFER_DEFAULT)]
    pub(crate) receive_buffer: usize,
    /// Which datagrams are lost when some are
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Keeps the replica until stdin ends.
pub(crate) fn run(args: SubscriberArgs) -> anyhow::Result<()> {
    let control = Control::new()?;
    let stop = control.stop_handle();
    let loss = Loss::new(0.0, args.seed);
    let told = loss.clone();
    thread::spawn(move || {
        let lines = io::stdin().lines().map_while(Result::ok);
        lines.filter_map(|line| line.parse().ok()).for_each(|share| told.set(share));
        stop.stop();
    });
    let mut options = MirrorOptions::new(args.server);
    options.file = Some(args.file);
    options.loss = Some(loss.clone());
    options.receive_buffer = args.receive_buffer;
    options.waiting = if args.busy_poll { Waiting::Spin } else { Waiting::Sleep };
    options.until = match args.until_synced {
        true => MirrorUntil::InSync,
        false => MirrorUntil::Stopped,
    };
    let changes = if args.watch { Changes::Wanted } else { Changes::Unwanted };
    let line_interval = if args.tell { LINE_INTERVAL } else { u64::MAX };
    let mut watcher = Watcher::new(changes, line_interval);
    say(&json!({"line": "start", "t": now_ns()}));
    let report = mirror(options, control, &mut watcher)?;
    let counters = report.counters.iter();
    let counters: serde_json::Map<String, Value> = counters
        .map(|counter| (format!("{}.{}", counter.part, counter.name), counter.value.into()))
        .collect();
    let (dropped, rounds) = (loss.dropped(), watcher.rounds());
    say(&json!({"line": "end", "counters": counters, "dropped": dropped, "rounds": rounds}));
    Ok(())
}

pub(crate) fn say(line: &Value) {
    // A measurement that has gone wants no lines any more: stdin ends, too.
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Sees what happens to the replica.
struct Watcher {
    changes: Changes,
    line_interval: u64,
    in_sync: bool,
    /// When the newest change that was applied was made.
    newest: u64,
    data: Vec<u8>,
    latencies: BTreeMap<u32, Histogram<u64>>,
    /// When a line was said last.
    said: u64,
}

/// A line for a change is said once in this time, in nanoseconds.
const LINE_INTERVAL: u64 = 1_000_000;

impl Watcher {
    fn new(changes: Changes, line_interval: u64) -> Watcher {
        Watcher {
            changes,
            line_interval,
            in_sync: false,
            newest: 0,
            data: Vec::new(),
            latencies: BTreeMap::new(),
            said: 0,
        }
    }

    fn say(&mut self, applied: Option<u64>) {
        self.said = now_ns();
        say(&json!({
            "line": "at",
            "t": self.said,
            "applied": applied,
            "in_sync": self.in_sync,
            "newest": self.newest,
        }));
    }

    /// The latencies of each round, in microseconds.
    fn rounds(&self) -> Value {
        let told = self.latencies.iter().map(|(round, latencies)| {
            let us = |share: f64| latencies.value_at_quantile(share) as f64 / 1e3;
            json!({
                "round": round,
                "count": latencies.len(),
                "p50": us(0.5),
                "p90": us(0.9),
                "p99": us(0.99),
                "p99.9": us(0.999),
                "max": latencies.max() as f64 / 1e3,
            })
        });
        told.collect()
    }

    fn time(&mut self, (moment, round): (u64, u32)) {
        let now = now_ns();
        let latencies = self.latencies.entry(round).or_insert_with(time_histogram);
        latencies.saturating_record(now.saturating_sub(moment).max(1));
        self.newest = self.newest.max(moment);
        if now - self.said > self.line_interval {
            self.say(None);
        }
    }
}

impl MirrorObserver for Watcher {
    fn changes(&self) -> Changes {
        self.changes
    }

    fn progress(&mut self, status: &MirrorStatus, _: Option<&Tree>) {
        self.in_sync = status.in_sync;
        self.say(Some(status.applied));
    }

    fn in_sync(&mut self, _: &Tree) {
        self.in_sync = true;
        self.say(None);
    }

    fn out_of_sync(&mut self) {
        self.in_sync = false;
        self.say(None);
    }

    fn changed(&mut self, tree: &Tree, leaf: DataLocId) -> ControlFlow<()> {
        let mut data = std::mem::take(&mut self.data);
        if tree.read(leaf, &mut data).is_some()
            && let Some(mark) = marked(&data)
        {
            self.time(mark);
        }
        self.data = data;
        ControlFlow::Continue(())
    }
}
