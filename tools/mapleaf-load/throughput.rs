//! How many values are applied a second at each subscriber.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use clap::Args;
use clap::ValueEnum;
use serde_json::json;

use mapleaf::layout::DataLocId;
use mapleaf::runtime::Reporter;
use mapleaf::runtime::ReporterOptions;

use crate::feed::Mode;
use crate::feed::Random;
use crate::feed::mark;
use crate::figures::Report;
use crate::figures::bounds;
use crate::figures::median;
use crate::limit;
use crate::machine::cpu_seconds;
use crate::machine::now_ns;
use crate::machine::rest;
use crate::options::Common;
use crate::parse;
use crate::world::Said;
use crate::world::Serving;
use crate::world::Subscriber;
use crate::world::World;
use crate::world::lose;
use crate::world::settle;

/// Where changes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Source {
    /// The server's process writes them itself.
    Feed,
    /// A device reports them in datagrams.
    Device,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    /// Changes between two looks at the socket, or in a flush of a device
    #[arg(long, default_value_t = 1, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) batch: u32,
    /// Time that is measured, each time
    #[arg(long, default_value = "5s", value_name = "DURATION",
        value_parser = parse::positive_duration)]
    pub(crate) seconds: Duration,
    /// Where changes come from
    #[arg(long, value_enum, default_value_t = Source::Feed)]
    pub(crate) source: Source,
    /// Changes a second, each of a leaf that comes back after all others; as many as can be
    /// made without
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["source", "no_conflation"],
        value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: Option<u64>,
    /// Share of datagrams that each subscriber loses, both ways, in every other time
    /// that is measured
    #[arg(long, default_value = "0", value_name = "SHARE", value_parser = parse::loss)]
    pub(crate) loss: f64,
    /// Search the highest rate at which every change is applied everywhere, too
    #[arg(long)]
    pub(crate) no_conflation: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ThroughputArgs {
    /// Subscribers, each a process
    #[arg(long, visible_alias = "replicas", default_value_t = 1, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) subscribers: u32,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FanOutArgs {
    /// Subscribers, each a process
    #[arg(long, visible_alias = "replicas", default_value_t = 8, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) subscribers: u32,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// A rate is doubled or halved so often, then narrowed so often.
const SEARCH_STEPS: u32 = 5;

pub(crate) fn run(
    command: &'static str,
    load: &LoadArgs,
    subscribers: u32,
) -> anyhow::Result<Report> {
    let source = load.source.to_possible_value().map(|value| value.get_name().to_owned());
    let options = load.common.told(json!({
        "subscribers": subscribers,
        "batch": load.batch,
        "loss": load.loss,
        "seconds": load.seconds.as_secs_f64(),
        "source": source,
        "rate": load.rate,
    }));
    let mut report = Report::new(command, options);
    let serving = Serving { batch: load.batch, ..Serving::default() };
    let mut world = World::start(&load.common, serving)?;
    let mut all = world.subscribe_all(subscribers, &[])?;
    let before = world.orders().updates();
    measure(load, &world, &mut all, &mut report)?;
    let updates = world.orders().updates() - before;
    if load.no_conflation {
        search(load, &world, &all, &mut report)?;
    }
    let said = all.iter_mut().map(Subscriber::end).collect::<anyhow::Result<Vec<_>>>()?;
    add_lost(load, &said, &mut report);
    let counters = world.end()?;
    world.verify(all.iter().map(Subscriber::file))?;
    if !load.no_conflation {
        let conflated = counters.value("server", "conflated").unwrap_or(0);
        report.add("conflated", "changes of all", conflated as f64);
        report.add("conflated share", "%", 100.0 * conflated as f64 / updates.max(1) as f64);
    }
    drop((all, world));
    if load.rate.is_none() {
        add_limit(load, subscribers, &mut report)?;
    }
    report.note("changes of one leaf within one period are conflated: only the last is sent");
    Ok(report)
}

/// Lets the changes flow, and looks at the clock and at what was applied.
fn measure(
    load: &LoadArgs,
    world: &World,
    all: &mut [Subscriber],
    report: &mut Report,
) -> anyhow::Result<()> {
    let over = AtomicBool::new(false);
    let windows = thread::scope(|scope| {
        let device = match load.source {
            Source::Feed => {
                world.order(load.rate.map_or(Mode::Fast, |rate| Mode::InTurn { rate }));
                None
            }
            Source::Device => Some(scope.spawn(|| report_changes(load, world, &over))),
        };
        let windows = windows(load, world, all, device.as_ref());
        world.order(Mode::Paused);
        over.store(true, Ordering::Relaxed);
        match device.map(ScopedJoinHandle::join) {
            Some(Err(_)) => anyhow::bail!("the device panicked"),
            Some(Ok(Err(error))) => Err(error),
            None | Some(Ok(Ok(()))) => windows,
        }
    })?;
    settle(all)?;
    let mut last = [None; 2];
    for window in windows {
        let applied = window.add(all, report);
        last[usize::from(window.lossy)] = Some(applied);
        if let [Some(calm), Some(lossy)] = last {
            report.add("share kept with loss", "%", 100.0 * lossy / calm.max(1.0));
            last = [None; 2];
        }
    }
    Ok(())
}

/// Long enough that what was under way when the loss changed is over: some repairs.
const CHANGED: Duration = Duration::from_millis(300);

/// What was true when a time that is measured began and ended.
struct Window {
    lossy: bool,
    t: [u64; 2],
    updates: u64,
    cpu: f64,
}

fn windows(
    load: &LoadArgs,
    world: &World,
    all: &mut [Subscriber],
    device: Option<&ScopedJoinHandle<'_, anyhow::Result<()>>>,
) -> anyhow::Result<Vec<Window>> {
    rest(load.common.warm_up)?;
    let ids: Vec<u32> = all.iter().map(Subscriber::id).collect();
    let look = || (now_ns(), world.orders().updates(), cpu_seconds(ids.iter().copied()));
    let mut windows = Vec::new();
    for lossy in order(load) {
        if load.loss > 0.0 {
            lose(all, if lossy { load.loss } else { 0.0 })?;
            rest(CHANGED)?;
        }
        let (begin, updates_before, cpu_before) = look();
        rest(load.seconds)?;
        let (end, updates, cpu) = look();
        let (updates, cpu) = (updates - updates_before, cpu - cpu_before);
        windows.push(Window { lossy, t: [begin, end], updates, cpu });
        all.iter_mut().try_for_each(Subscriber::check)?;
        if device.is_some_and(ScopedJoinHandle::is_finished) {
            break;
        }
    }
    lose(all, 0.0)?;
    Ok(windows)
}

/// The times that are measured, without loss (false) and with: in pairs, each pair the
/// other way round than the one before, so that what drifts harms both alike.
fn order(load: &LoadArgs) -> Vec<bool> {
    let pairs = 0..load.common.repetitions;
    match load.loss > 0.0 {
        true => pairs.flat_map(|pair| [pair % 2 > 0, pair % 2 == 0]).collect(),
        false => pairs.map(|_| false).collect(),
    }
}

impl Window {
    /// Adds its figures, and gives how many values a second were applied.
    fn add(&self, all: &[Subscriber], report: &mut Report) -> f64 {
        let [begin, end] = self.t;
        let seconds = (end - begin) as f64 / 1e9;
        let applied: Vec<f64> = all
            .iter()
            .map(|one| one.with_said(|said| said.applied_at(end) - said.applied_at(begin)))
            .collect();
        let (least, most) = bounds(&applied);
        let mut add = |name: &str, unit, value| match self.lossy {
            true => report.add(&format!("{name}, with loss"), unit, value),
            false => report.add(name, unit, value),
        };
        add("applied at each", "values/s", median(&applied) / seconds);
        if all.len() > 1 {
            add("applied, slowest subscriber", "values/s", least / seconds);
            add("applied, fastest subscriber", "values/s", most / seconds);
        }
        add("changes made", "changes/s", self.updates as f64 / seconds);
        let total: f64 = applied.iter().sum();
        add("processor per million applied", "s", self.cpu / (total / 1e6).max(1e-6));
        median(&applied) / seconds
    }
}

/// Adds what was lost, and how it was repaired.
fn add_lost(load: &LoadArgs, said: &[Said], report: &mut Report) {
    let sum = |name| said.iter().map(|said| said.counter(name)).sum::<u64>() as f64;
    report.add("EVENTs received", "datagrams", sum("client.events"));
    report.add("EVENTs lost", "datagrams", sum("client.events_lost"));
    report.add("REQUESTs", "datagrams", sum("client.requests"));
    report.add("leaves repaired", "leaves", sum("client.leaves_repaired"));
    let twice = sum("client.leaves_repeated") + sum("client.leaves_older");
    report.add("leaves that came for nothing", "leaves", twice);
    report.add("messages that found a full queue", "messages", sum("socket.queue_drops"));
    if load.loss > 0.0 {
        let dropped: u64 = said.iter().map(Said::dropped).sum();
        report.add("datagrams dropped on purpose", "datagrams", dropped as f64);
        report.note(
            "times with and without loss alternate in one run; each share is of two neighbours",
        );
    }
}

/// A device that reports random leaves until it is over.
fn report_changes(load: &LoadArgs, world: &World, over: &AtomicBool) -> anyhow::Result<()> {
    let mut options = ReporterOptions::new(world.address);
    options.waiting = load.common.waiting();
    let mut reporter = Reporter::connect(options)?;
    let mut data = vec![0; load.common.size as usize];
    let (mut random, mut number) = (Random(0x1234_5678_9abc_def1), 0);
    while !over.load(Ordering::Relaxed) {
        for _ in 0..load.batch {
            number += 1;
            mark(&mut data, (0, 0), number);
            reporter.report(DataLocId(random.below(load.common.leaves)), &data)?;
        }
        reporter.poll(Duration::ZERO)?;
        world.orders().note(load.batch.into());
    }
    reporter.flush(Duration::from_secs(30))?;
    reporter.close();
    Ok(())
}

/// Searches the highest rate at which each change is applied at each subscriber.
fn search(
    load: &LoadArgs,
    world: &World,
    all: &[Subscriber],
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut rate = report.median("applied at each").unwrap_or(0.0).max(1_000.0);
    let (mut good, mut bad) = (None::<f64>, None::<f64>);
    for _ in 0..2 * SEARCH_STEPS {
        match is_whole(load, world, all, rate)? {
            true => good = Some(rate),
            false => bad = Some(rate),
        }
        rate = match (good, bad) {
            (Some(good), Some(bad)) if bad / good < 1.05 => break,
            (Some(good), Some(bad)) => f64::midpoint(good, bad),
            (Some(good), None) => good * 1.5,
            (None, Some(bad)) => bad / 2.0,
            (None, None) => break,
        };
    }
    report.add("rate without conflation", "changes/s", good.unwrap_or(0.0));
    Ok(())
}

/// Whether all changes of a while at this rate are applied at every subscriber.
fn is_whole(load: &LoadArgs, world: &World, all: &[Subscriber], rate: f64) -> anyhow::Result<bool> {
    let applied = || -> Vec<f64> {
        all.iter().map(|one| one.with_said(|said| said.applied_at(u64::MAX))).collect()
    };
    let (before, updates) = (applied(), world.orders().updates());
    let begun = now_ns();
    world.order(Mode::InTurn { rate: rate as u64 });
    let waited = rest(load.seconds.min(Duration::from_secs(2)));
    world.order(Mode::Paused);
    let seconds = (now_ns() - begun) as f64 / 1e9;
    waited?;
    // The last of its calls may be under way.
    rest(Duration::from_millis(50))?;
    settle(all)?;
    let made = (world.orders().updates() - updates) as f64;
    let whole = applied().iter().zip(&before).all(|(after, before)| after - before >= made);
    // A feed that did not keep up made fewer changes than the rate says.
    Ok(whole && made / seconds >= 0.8 * rate)
}

fn add_limit(load: &LoadArgs, subscribers: u32, report: &mut Report) -> anyhow::Result<()> {
    let per_datagram = limit::leaves_per_datagram(&load.common) as f64;
    for _ in 0..load.common.repetitions {
        let time = load.seconds.min(Duration::from_secs(2));
        let rates = limit::datagrams_per_second(&load.common, subscribers, time)?;
        report.add("limit: bare datagrams at each", "datagrams/s", median(&rates));
        report.add("limit: values in them at each", "values/s", median(&rates) * per_datagram);
    }
    let limit = report.median("limit: values in them at each").unwrap_or(0.0);
    let applied = report.median("applied at each").unwrap_or(0.0);
    report.add("share of the limit", "%", 100.0 * applied / limit.max(1.0));
    report.limit("applied at each", limit.max(1.0));
    report
        .note(format!("a datagram of the limit counts as {per_datagram} values; nobody reads it"));
    Ok(())
}
