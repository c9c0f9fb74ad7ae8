//! `mapleaf demo`: a server, lossy paths, replicas and devices in one process.

use core::time::Duration;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use clap::Args;
use clap::builder::BoolishValueParser;
use serde_json::json;

use mapleaf::layout::Life;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeRole;
use mapleaf::runtime::Control;
use mapleaf::runtime::Counters;
use mapleaf::runtime::Stop;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Layout;
use mapleaf::tree::Tree;

use crate::cli::create::draw;
use crate::cli::create::new_tree_id;
use crate::cli::create::unix_s;
use crate::cli::demo_compare::first_difference;
use crate::cli::demo_compare::newest_revision;
use crate::cli::demo_devices::Devices;
use crate::cli::demo_devices::schema;
use crate::cli::demo_parts::RelayOf;
use crate::cli::demo_parts::Replica;
use crate::cli::demo_parts::ServerPart;
use crate::cli::exit::Exit;
use crate::cli::output::Output;
use crate::cli::output::Paint;
use crate::cli::output::colour;
use crate::cli::output::word;
use crate::cli::parse;
use crate::cli::proxy::Passed;
use crate::cli::proxy::Weather;

/// Options of `mapleaf demo`.
#[derive(Debug, Args)]
#[command(after_help = "A server, replicas and devices run in this process, each replica and the \
    devices behind a\nproxy of their own that loses, doubles and reorders datagrams both ways; of \
    three replicas\nand more, one is a relay and the last one is behind it. At the end every \
    replica's file is\ncompared with the server's, byte for byte: the exit status is 0 only if \
    all are equal.\n\n\
    Example:\n  mapleaf demo --devices 50000 --replicas 3 --loss 0.3 --for 20s")]
pub(crate) struct DemoArgs {
    /// Devices, each with a leaf of its own
    #[arg(long, env = "MAPLEAF_DEVICES", value_name = "N", default_value = "1000",
        value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    devices: u32,
    /// Replicas
    #[arg(long, env = "MAPLEAF_REPLICAS", value_name = "N", default_value = "3",
        value_parser = clap::value_parser!(u16).range(1..=64))]
    replicas: u16,
    /// Share of the datagrams that are lost on each way, 0 to 0.5
    #[arg(long, env = "MAPLEAF_LOSS", value_name = "SHARE", default_value = "0.05",
        value_parser = parse::loss)]
    loss: f64,
    /// Time that the devices report for
    #[arg(long = "for", env = "MAPLEAF_FOR", value_name = "TIME", default_value = "10s",
        value_parser = parse::positive_duration)]
    run_for: Duration,
    /// Seed of what is lost and of what devices report [default: drawn and printed]
    #[arg(long, env = "MAPLEAF_SEED", value_name = "N")]
    seed: Option<u64>,
    /// End with a JSON line: devices, replicas, events, lost, repaired, equal, seconds
    #[arg(long, env = "MAPLEAF_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

/// How long the replicas may take to be in sync once the devices are silent.
const SYNC_WATCHDOG: Duration = Duration::from_secs(60);

/// How often the main thread looks at the others.
const LOOK: Duration = Duration::from_millis(50);

/// Time between two status lines.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Shares of the datagrams that are doubled and reordered: a little.
const DUPLICATE: f64 = 0.01;
const REORDER: f64 = 0.01;

/// Everything that runs.
struct World {
    server: ServerPart,
    replicas: Vec<Replica>,
    devices: Devices,
    began: Instant,
}

/// What came of it.
struct Outcome {
    seconds: f64,
    different: Vec<String>,
    server: ServerTotals,
    devices: DeviceTotals,
    replicas: ReplicaTotals,
    passed: Passed,
}

/// What the server counted.
struct ServerTotals {
    events: u64,
    conflated: u64,
}

/// What the devices counted.
struct DeviceTotals {
    reported: u64,
    acknowledged: u64,
    repeated: u64,
}

/// What the replicas counted together.
#[derive(Default)]
struct ReplicaTotals {
    gaps: u64,
    missed: u64,
    requests: u64,
    repaired: u64,
    applied: u64,
}

/// Runs everything at once and says whether all copies are equal in the end.
pub(crate) fn demo(args: &DemoArgs) -> anyhow::Result<Exit> {
    let control =
        Control::new().and_then(Control::with_signals).context("cannot prepare for signals")?;
    let stop = control.stop_handle();
    let seed = match args.seed {
        Some(seed) => seed,
        None => draw()?,
    };
    word(format_args!(
        "demo: {} devices, {} replicas, loss {}, seed {seed}",
        args.devices, args.replicas, args.loss
    ));
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let Some(world) = World::start(args, seed, folder.path(), &stop)? else {
        return Ok(Exit::Done);
    };
    match world.run(args, &stop)? {
        Some(outcome) => outcome.tell(args),
        None => Ok(Exit::Done),
    }
}

impl World {
    /// Starts everything; nothing if a signal came meanwhile.
    fn start(
        args: &DemoArgs,
        seed: u64,
        folder: &Path,
        stop: &Stop,
    ) -> anyhow::Result<Option<World>> {
        let weather = |part: u64| Weather {
            loss: args.loss,
            duplicate: DUPLICATE,
            reorder: REORDER,
            // Parts are far from each other: each client of a proxy takes two.
            seed: seed.wrapping_add(part << 32),
        };
        let file = folder.join("server.mapleaf");
        let layout = create(&file, args.devices)?;
        let server = ServerPart::start(&file).context("server")?;
        let mut replicas: Vec<Replica> = Vec::new();
        let mut upstream = server.address();
        for index in 0..usize::from(args.replicas) {
            let relay = match usize::from(args.replicas) {
                count if count >= 3 && index == count - 2 => RelayOf::Next,
                _ => RelayOf::Nobody,
            };
            let file = folder.join(format!("replica{index}.mapleaf"));
            let weather = weather(1 + index as u64);
            let replica = Replica::start(&file, upstream, weather, relay)
                .with_context(|| format!("replica {index}"))?;
            if relay == RelayOf::Next {
                match replica.relay_address(stop).with_context(|| format!("relay {index}"))? {
                    Some(address) => upstream = address,
                    None => return Ok(None),
                }
            }
            replicas.push(replica);
        }
        let devices = Devices::start(layout, server.address(), weather(0), seed)?;
        Ok(Some(World { server, replicas, devices, began: Instant::now() }))
    }

    /// Lets the devices report, waits until the replicas are in sync, and compares.
    /// Nothing if a signal came meanwhile.
    fn run(mut self, args: &DemoArgs, stop: &Stop) -> anyhow::Result<Option<Outcome>> {
        let mut status = Instant::now();
        while self.began.elapsed() < args.run_for {
            if stop.is_stopped() {
                return Ok(None);
            }
            self.look(&mut status)?;
        }
        word("the devices are silent: their last reports are acknowledged");
        self.devices.end();
        while !self.devices.are_done() {
            if stop.is_stopped() {
                return Ok(None);
            }
            self.look(&mut status)?;
        }
        let devices = self.devices.join()?;
        let newest = newest_revision(self.server.file())?;
        let silent = Instant::now();
        while !self.replicas.iter().all(|replica| replica.is_in_sync(newest)) {
            if stop.is_stopped() {
                return Ok(None);
            }
            if silent.elapsed() > SYNC_WATCHDOG {
                word(format_args!("not in sync {} s later", SYNC_WATCHDOG.as_secs()));
                break;
            }
            self.look(&mut status)?;
        }
        self.finish(devices).map(Some)
    }

    fn look(&self, status: &mut Instant) -> anyhow::Result<()> {
        thread::sleep(LOOK);
        if status.elapsed() >= STATUS_INTERVAL {
            *status = Instant::now();
            word(self.status());
        }
        let ended = self.replicas.iter().any(Replica::has_ended) || self.server.has_ended();
        if ended {
            bail!("a server or replica ended early");
        }
        Ok(())
    }

    fn status(&self) -> String {
        let mut totals = ReplicaTotals::default();
        self.replicas.iter().for_each(|replica| totals.add(&replica.counters()));
        let in_sync = self.replicas.iter().filter(|one| one.is_in_sync(Revision::ZERO)).count();
        format!(
            "{:4.0} s  reported {}  lost {}  gaps {}  repaired {}  applied {}  in sync {in_sync} of {}",
            self.began.elapsed().as_secs_f64(),
            self.devices.reported(),
            self.passed().dropped,
            totals.gaps,
            totals.repaired,
            totals.applied,
            self.replicas.len(),
        )
    }

    fn passed(&self) -> Passed {
        let all = self.replicas.iter().map(Replica::passed);
        all.fold(self.devices.passed(), Passed::plus)
    }
}

/// The end.
impl World {
    /// Ends everything, and compares the files.
    fn finish(self, devices: Vec<Counters>) -> anyhow::Result<Outcome> {
        let passed = self.passed();
        let server_file = self.server.file().to_owned();
        let mut replicas = ReplicaTotals::default();
        let mut files = Vec::new();
        // The last one first: a relay that leaves before its client is an outage.
        for replica in self.replicas.into_iter().rev() {
            let (file, report) = replica.end().context("replica")?;
            replicas.add(&report.counters);
            files.insert(0, file);
        }
        let server = self.server.end().context("server")?;
        let seconds = self.began.elapsed().as_secs_f64();
        let mut different = Vec::new();
        for (index, file) in files.iter().enumerate() {
            if let Some(difference) = first_difference(&server_file, file)? {
                different.push(format!("replica {index}: {difference}"));
            }
        }
        let server = ServerTotals::of(&server.counters);
        let devices = DeviceTotals::of(&devices);
        Ok(Outcome { seconds, different, server, devices, replicas, passed })
    }
}

impl Outcome {
    fn tell(&self, args: &DemoArgs) -> anyhow::Result<Exit> {
        let mut output = Output::stdout();
        match args.json {
            true => output.line(self.json(args))?,
            false => self.text(args).iter().try_for_each(|line| output.line(line))?,
        }
        output.flush()?;
        for difference in &self.different {
            word(format_args!("mapleaf: {difference}"));
        }
        Ok(if self.different.is_empty() { Exit::Done } else { Exit::No })
    }

    fn json(&self, args: &DemoArgs) -> serde_json::Value {
        json!({
            "devices": args.devices,
            "replicas": args.replicas,
            "events": self.server.events,
            "lost": self.passed.dropped,
            "repaired": self.replicas.repaired,
            "equal": self.different.is_empty(),
            "seconds": (self.seconds * 1_000.0).round() / 1_000.0,
        })
    }

    fn text(&self, args: &DemoArgs) -> [String; 7] {
        let Outcome { server, devices, replicas, passed, .. } = self;
        let paint = Paint::of_stdout();
        let verdict = match self.different.len() {
            0 => paint.with(colour::GREEN, "equal byte for byte"),
            count => paint.with(colour::RED, &format!("NOT EQUAL: {count}")),
        };
        [
            format!(
                "reported   {} changes by {} devices, {} acknowledged, {} datagrams sent again",
                devices.reported, args.devices, devices.acknowledged, devices.repeated
            ),
            format!(
                "conflated  {} changes: a newer one of the same device came in their period",
                server.conflated
            ),
            format!(
                "lost       {} of {} datagrams; {} doubled, {} reordered",
                passed.dropped,
                passed.dropped + passed.forwarded,
                passed.doubled,
                passed.reordered
            ),
            format!(
                "found      {} gaps in the EventNums, {} of the EVENTs behind them missing",
                replicas.gaps, replicas.missed
            ),
            format!("repaired   {} leaves by {} REQUESTs", replicas.repaired, replicas.requests),
            format!("applied    {} leaves by EVENTs, {} sent", replicas.applied, server.events),
            format!(
                "replicas   {} of {}: {verdict}, {:.1} s",
                args.replicas.saturating_sub(self.different.len() as u16),
                args.replicas,
                self.seconds
            ),
        ]
    }
}

/// The tree of a demo.
fn create(file: &Path, devices: u32) -> anyhow::Result<Layout> {
    let layout = Layout::from_toml(&schema(devices))?;
    let options = CreateOptions {
        role: TreeRole::Server,
        tree_id: new_tree_id()?,
        life: Life(0),
        unix_s: unix_s(),
    };
    Tree::create(file, layout.clone(), options)?.close().context("cannot close the tree")?;
    Ok(layout)
}

impl ServerTotals {
    fn of(counters: &Counters) -> ServerTotals {
        let value = |name| counters.value("server", name).unwrap_or(0);
        ServerTotals { events: value("events"), conflated: value("conflated") }
    }
}

impl DeviceTotals {
    fn of(counters: &[Counters]) -> DeviceTotals {
        let sum = |name| counters.iter().filter_map(|one| one.value("device", name)).sum();
        DeviceTotals {
            reported: sum("leaves_reported"),
            acknowledged: sum("leaves_acknowledged"),
            repeated: sum("reports_repeated"),
        }
    }
}

impl ReplicaTotals {
    fn add(&mut self, counters: &Counters) {
        let value = |name| counters.value("client", name).unwrap_or(0);
        self.gaps += value("gaps");
        self.missed += value("events_lost");
        self.requests += value("requests");
        self.repaired += value("leaves_repaired");
        self.applied += value("leaves_changed");
    }
}
