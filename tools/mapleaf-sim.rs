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

use clap::Parser;
use serde_json::Value;
use serde_json::json;

use mapleaf::sim::Counted;
use mapleaf::sim::Fixed;
use mapleaf::sim::Hour;
use mapleaf::sim::Options;
use mapleaf::sim::Outcome;

/// Runs the protocol and its trees in a simulated world, from a seed
///
/// The same seed and options give the same run, byte for byte. What is not given is
/// drawn from the seed. Exit code: 0 when every promise held, 1 when one did not.
#[derive(Clone, Debug, Parser)]
#[command(name = "mapleaf-sim", version)]
struct Cli {
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
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

impl Cli {
    fn fixed(&self) -> Fixed {
        let Cli { loss, clients, leaves, relays, devices, .. } = *self;
        Fixed { loss, clients, leaves, relays, devices }
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
        if let Some(loss) = self.loss {
            command += &format!(" --loss {loss}");
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
    if cli.loss.is_some_and(|loss| !(0.0..=1.0).contains(&loss)) {
        eprintln!("mapleaf-sim: --loss: expected 0 to 1");
        return ExitCode::from(2);
    }
    match runs(&cli) {
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
        ..
    } = hour.counted;
    json!({ kind: {
        "time_s": hour.time.as_secs_f64(), "datagrams": hour.datagrams, "bytes": hour.bytes,
        "slowest_quiet_s": hour.slowest_quiet.as_secs_f64(), "leaves_applied": leaves_applied,
        "verdicts": verdicts, "events": events, "writes": writes, "acknowledged": acknowledged,
        "requests": requests, "unproven": unproven, "quiet": quiet, "restarts": restarts,
        "restores": restores,
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
