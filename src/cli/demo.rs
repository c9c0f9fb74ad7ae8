//! `mapleaf demo`: a server, lossy paths, replicas and devices in one process.

use core::time::Duration;

use anyhow::Context;
use clap::Args;
use clap::builder::BoolishValueParser;

use mapleaf::runtime::Control;

use crate::cli::create::draw;
use crate::cli::demo_outcome::Style;
use crate::cli::demo_world::Interrupted;
use crate::cli::demo_world::Plan;
use crate::cli::demo_world::World;
use crate::cli::exit::Exit;
use crate::cli::output::Paint;
use crate::cli::output::word;
use crate::cli::parse;

/// Options of `mapleaf demo`.
#[derive(Debug, Args)]
#[command(after_help = "A server, replicas and devices run in this process, each replica and the \
    devices behind a\nproxy of their own that loses, doubles and reorders datagrams both ways; of \
    three replicas\nand more, one is a relay and the last one is behind it. At the end, or at the \
    first SIGINT,\nevery replica's file is compared with the server's, byte for byte: the exit \
    status is 0\nonly if all are equal.\n\n\
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

/// Runs everything at once and says whether all copies are equal in the end.
pub(crate) fn demo(args: &DemoArgs) -> anyhow::Result<Exit> {
    let control =
        Control::new().and_then(Control::with_signals).context("cannot prepare for signals")?;
    let seed = args.seed.map_or_else(draw, Ok)?;
    let (devices, replicas, loss) = (args.devices, usize::from(args.replicas), args.loss);
    word(format_args!("demo: {devices} devices, {replicas} replicas, loss {loss}, seed {seed}"));
    let plan = Plan { devices, replicas, loss, seed };
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let outcome = World::start(&plan, folder.path(), control.stop_handle())
        .and_then(|world| world.run(args.run_for));
    let style = if args.json { Style::Json } else { Style::Text(Paint::of_stdout()) };
    match outcome {
        Ok(outcome) => outcome.tell(&plan, style),
        Err(error) if error.is::<Interrupted>() => Ok(Exit::Done),
        Err(error) => Err(error),
    }
}
