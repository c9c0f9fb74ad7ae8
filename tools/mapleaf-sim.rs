//! `mapleaf-sim`: runs simulated worlds from seeds, and shows what broke a promise.
//!
//! It prints what the seed drew before anything happens, a line each simulated hour,
//! and, when a checker fails, the last datagrams and the command that runs the same
//! world again. It opens no socket; its trees lie in a folder of their own that is
//! removed at the end.

use std::io;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use serde_json::Value;
use serde_json::json;

use mapleaf::sim::Counted;
use mapleaf::sim::Fixed;
use mapleaf::sim::Hour;
use mapleaf::sim::IMAGES_OF_HISTORY;
use mapleaf::sim::ImageBug;
use mapleaf::sim::ImageOptions;
use mapleaf::sim::ImageReport;
use mapleaf::sim::Options;
use mapleaf::sim::Outcome;

/// Runs the protocol and its trees in a simulated world, from a seed
///
/// The same seed and options give the same run, byte for byte. What is not given is
/// drawn from the seed. Exit code: 0 when every promise held, 1 when one did not.
#[derive(Clone, Debug, Parser)]
#[command(name = "mapleaf-sim", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Task>,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs, with consecutive seeds
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Simulated hours of each run
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// Share of datagrams lost, 0 to 1
    #[arg(long)]
    loss: Option<f64>,
    /// Replicas
    #[arg(long)]
    clients: Option<u32>,
    /// Leaves of the tree
    #[arg(long)]
    leaves: Option<u32>,
    /// Relays
    #[arg(long)]
    relays: Option<u32>,
    /// Devices
    #[arg(long)]
    devices: Option<u32>,
    /// Share of replicas and relays that join a multicast group, 0 to 1; 0: there is none
    #[arg(long)]
    members: Option<f64>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// What else there is to simulate.
#[derive(Clone, Debug, Subcommand)]
enum Task {
    /// Draw what power loss leaves of a server in power mode, and recover from it
    Images(Images),
}

/// Images of power loss.
#[derive(Clone, Debug, Args)]
struct Images {
    /// Seed of the first history; each gives 200 images
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Images, rounded up to whole histories
    #[arg(long, default_value_t = 1_000_000)]
    images: u64,
    /// Threads
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// A bug to plant, which must be seen
    #[arg(long, value_name = "NAME", value_parser = bug_of)]
    canary: Option<ImageBug>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

fn bug_of(name: &str) -> Result<ImageBug, String> {
    ImageBug::from_name(name).ok_or_else(|| {
        let names: Vec<_> = ImageBug::ALL.iter().map(|bug| bug.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

impl Images {
    /// Draws all of them and says whether every promise held.
    fn run(&self) -> io::Result<bool> {
        let Images { seed, images, jobs, canary: bug, .. } = *self;
        let canary = bug.map_or("none", ImageBug::name);
        let told = format!("seed={seed} images={images} jobs={jobs} canary={canary}");
        self.tell(
            &told,
            || json!({"options": {"seed": seed, "images": images, "jobs": jobs, "canary": canary}}),
        )?;
        let started = Instant::now();
        let report = mapleaf::sim::draw_images(&ImageOptions { seed, images, jobs, bug });
        for bad in &report.told {
            let replay = self.replay(bad.seed);
            self.tell(&format!("BROKEN: {bad}\nreplay: {replay}"), || {
                json!({"failure": bad.what, "seed": bad.seed, "image": bad.image, "replay": replay})
            })?;
        }
        let took = started.elapsed();
        self.tell(&self.line(&report, took), || self.value(&report, took))?;
        Ok(report.bad == 0)
    }

    fn tell(&self, text: &str, value: impl FnOnce() -> Value) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json { writeln!(out, "{}", value()) } else { writeln!(out, "{text}") }
    }

    fn replay(&self, seed: u64) -> String {
        let canary = self.canary.map(|bug| format!(" --canary {}", bug.name()));
        let canary = canary.unwrap_or_default();
        format!("mapleaf-sim images --seed {seed} --images {IMAGES_OF_HISTORY}{canary}")
    }

    fn line(&self, report: &ImageReport, took: Duration) -> String {
        let ImageReport { histories, images, again, replayed, growing, bad, .. } = report;
        let rate = *images as f64 / took.as_secs_f64().max(1e-9);
        format!(
            "{bad} bad of {images} images of {histories} histories; {again} crashes of recoveries, \
             {replayed} images with something to replay, {growing} of a tree that was growing; \
             {rate:.0} images a second"
        )
    }

    fn value(&self, report: &ImageReport, took: Duration) -> Value {
        let ImageReport { histories, images, again, replayed, growing, bad, .. } = report;
        json!({"bad": bad, "images": images, "histories": histories, "again": again,
            "replayed": replayed, "growing": growing, "took_s": took.as_secs_f64()})
    }
}

impl Cli {
    fn fixed(&self) -> Fixed {
        let Cli { loss, clients, leaves, relays, devices, members, .. } = *self;
        Fixed { loss, clients, leaves, relays, devices, members }
    }

    fn time(&self) -> Duration {
        // A year at the most: seeds bring more than length.
        Duration::from_secs_f64(self.hours.clamp(0.0, 8_766.0) * 3_600.0)
    }

    /// The command that runs one seed again.
    fn replay(&self, seed: u64) -> String {
        let mut command = format!("mapleaf-sim --seed {seed} --hours {}", self.hours);
        let counts = [
            ("clients", self.clients),
            ("leaves", self.leaves),
            ("relays", self.relays),
            ("devices", self.devices),
        ];
        for (name, share) in [("loss", self.loss), ("members", self.members)] {
            if let Some(share) = share {
                command += &format!(" --{name} {share}");
            }
        }
        for (name, count) in counts {
            if let Some(count) = count {
                command += &format!(" --{name} {count}");
            }
        }
        command
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    for (name, share) in [("loss", cli.loss), ("members", cli.members)] {
        if share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            eprintln!("mapleaf-sim: --{name}: expected 0 to 1");
            return ExitCode::from(2);
        }
    }
    let held = match &cli.command {
        Some(Task::Images(images)) => images.run(),
        None => runs(&cli),
    };
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mapleaf-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all seeds and says whether every promise held.
fn runs(cli: &Cli) -> io::Result<bool> {
    let mut sum = Sum::default();
    let started = Instant::now();
    for seed in (0..cli.runs).map(|run| cli.seed.wrapping_add(run)) {
        let options = Options::draw(seed, cli.time(), &cli.fixed());
        tell(cli, &options.to_string(), || drawn(&options))?;
        let mut told = Ok(());
        let outcome = mapleaf::sim::run(&options, &mut |hour| {
            if told.is_ok() {
                told = tell(cli, &hour_line(hour), || hour_json("hour", hour));
            }
        })?;
        told?;
        sum.add(&outcome);
        tell(cli, &end_line(&outcome), || end_json(&outcome))?;
        if let Some(failure) = &outcome.failure {
            let text = format!("{}\nreplay: {}", failure.trace.join("\n"), cli.replay(seed));
            tell(cli, &text, || {
                json!({"failure": failure.broken.rule, "what": failure.broken.what,
                    "trace": failure.trace, "replay": cli.replay(seed)})
            })?;
            sum.failed.push(seed);
        }
    }
    tell(cli, &sum.line(started.elapsed()), || sum.json(started.elapsed()))?;
    Ok(sum.failed.is_empty())
}

fn tell(cli: &Cli, text: &str, value: impl FnOnce() -> Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if cli.json { writeln!(out, "{}", value()) } else { writeln!(out, "{text}") }
}

fn drawn(options: &Options) -> Value {
    let entries = options.entries().into_iter();
    let all = entries.map(|(name, value)| {
        let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
        (name.to_owned(), value)
    });
    json!({ "options": Value::Object(all.collect()) })
}

fn hour_line(hour: &Hour) -> String {
    let counted = &hour.counted;
    format!(
        "hour {:>5.1}: {} datagrams, {} applied, {} verdicts, {} acknowledged, {} quiet times, \
         the slowest {:.2} s",
        hour.time.as_secs_f64() / 3_600.0,
        hour.datagrams,
        counted.leaves_applied,
        counted.verdicts,
        counted.acknowledged,
        counted.quiet,
        hour.slowest_quiet.as_secs_f64(),
    )
}

fn hour_json(kind: &str, hour: &Hour) -> Value {
    let Counted {
        leaves_applied,
        verdicts,
        events,
        writes,
        acknowledged,
        requests,
        unproven,
        quiet,
        restarts,
        restores,
        losses,
        claims,
        repaired,
        growths,
        io_errors,
        power_losses,
        group_sent,
        group_heard,
        group_silent,
        ..
    } = hour.counted;
    json!({ kind: {
        "time_s": hour.time.as_secs_f64(), "datagrams": hour.datagrams, "bytes": hour.bytes,
        "slowest_quiet_s": hour.slowest_quiet.as_secs_f64(), "leaves_applied": leaves_applied,
        "verdicts": verdicts, "events": events, "writes": writes, "acknowledged": acknowledged,
        "requests": requests, "unproven": unproven, "quiet": quiet, "restarts": restarts,
        "restores": restores, "losses": losses, "claims": claims, "repaired": repaired,
        "growths": growths, "io_errors": io_errors, "power_losses": power_losses,
        "group_sent": group_sent, "group_heard": group_heard, "group_silent": group_silent,
    }})
}

fn end_line(outcome: &Outcome) -> String {
    let verdict = if outcome.failure.is_some() { "BROKEN" } else { "held" };
    let (hash, digest) = (outcome.trace_hash, outcome.digest);
    format!("{verdict}: {} trace={hash:016x} digest={digest:016x}", hour_line(&outcome.done))
}

fn end_json(outcome: &Outcome) -> Value {
    let mut value = hour_json("end", &outcome.done);
    value["held"] = json!(outcome.failure.is_none());
    value["trace_hash"] = json!(format!("{:016x}", outcome.trace_hash));
    value["digest"] = json!(format!("{:016x}", outcome.digest));
    value
}

/// All runs together.
#[derive(Default)]
struct Sum {
    runs: u64,
    time: Duration,
    datagrams: u64,
    slowest_quiet: Duration,
    failed: Vec<u64>,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.time += outcome.done.time;
        self.datagrams += outcome.done.datagrams;
        self.slowest_quiet = self.slowest_quiet.max(outcome.done.slowest_quiet);
    }

    fn line(&self, took: Duration) -> String {
        format!(
            "{} runs, {} failed {:?}: {:.1} simulated hours, {} datagrams, the slowest quiet time \
             {:.2} s; {:.0} times as fast as real time",
            self.runs,
            self.failed.len(),
            self.failed,
            self.time.as_secs_f64() / 3_600.0,
            self.datagrams,
            self.slowest_quiet.as_secs_f64(),
            self.time.as_secs_f64() / took.as_secs_f64().max(1e-9),
        )
    }

    fn json(&self, took: Duration) -> Value {
        json!({ "runs": self.runs, "failed": self.failed, "hours":
            self.time.as_secs_f64() / 3_600.0, "datagrams": self.datagrams,
            "slowest_quiet_s": self.slowest_quiet.as_secs_f64(), "took_s": took.as_secs_f64() })
    }
}
