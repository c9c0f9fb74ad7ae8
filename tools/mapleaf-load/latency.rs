//! How long a change takes, from its write at the server to its application.
//!
//! The moment of the write travels in Data, by the monotonic clock that all processes
//! of a machine share. A subscriber looks at the clock when it has applied all that had
//! come with the change.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use serde_json::json;

use crate::feed::Mode;
use crate::figures::Report;
use crate::limit;
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

#[derive(Clone, Debug, Args)]
pub(crate) struct LatencyArgs {
    /// Changes a second
    #[arg(long, default_value_t = 10_000, value_name = "COUNT",
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: u64,
    /// Subscribers, each a process
    #[arg(long, visible_alias = "replicas", default_value_t = 1, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=64))]
    subscribers: u32,
    /// Share of datagrams that is lost, both ways
    #[arg(long, default_value = "0", value_name = "SHARE", value_parser = parse::loss)]
    loss: f64,
    /// Time that is measured, each time
    #[arg(long, default_value = "5s", value_name = "DURATION",
        value_parser = parse::positive_duration)]
    seconds: Duration,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What is told of each round, beside the count.
const SHARES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];

pub(crate) fn run(args: &LatencyArgs) -> anyhow::Result<Report> {
    let LatencyArgs { rate, subscribers, loss, seconds, common } = args;
    let options = common.told(json!({
        "rate": rate,
        "subscribers": subscribers,
        "loss": loss,
        "seconds": seconds.as_secs_f64(),
    }));
    let mut report = Report::new("latency", options);
    let mut world = World::start(common, Serving::default())?;
    let mut all = world.subscribe_all(*subscribers, &["--watch"])?;
    lose(&mut all, *loss)?;
    let outcome = rounds(args, &world, &mut report);
    world.order(Mode::Paused);
    lose(&mut all, 0.0)?;
    outcome?;
    settle(&all)?;
    let said = all.iter_mut().map(Subscriber::end).collect::<anyhow::Result<Vec<_>>>()?;
    for round in 1..=common.repetitions {
        for told in said.iter().filter_map(|said| said.round(round)) {
            add_round(told, &mut report);
        }
    }
    let lost: u64 = said.iter().map(|said| said.counter("client.events_lost")).sum();
    report.add("EVENTs lost", "datagrams", lost as f64);
    if *loss > 0.0 {
        let dropped: u64 = said.iter().map(Said::dropped).sum();
        report.add("datagrams dropped on purpose", "datagrams", dropped as f64);
    }
    world.end()?;
    world.verify(all.iter().map(Subscriber::file))?;
    limit::add_latencies(common, *rate, *seconds, &mut report)?;
    if !common.busy_poll {
        report.note("the server sleeps between changes, and makes those that became due meanwhile");
    }
    Ok(report)
}

fn rounds(args: &LatencyArgs, world: &World, report: &mut Report) -> anyhow::Result<()> {
    world.order(Mode::Paced { rate: args.rate });
    rest(args.common.warm_up)?;
    for round in 1..=args.common.repetitions {
        let (begun, updates) = (now_ns(), world.orders().updates());
        world.orders().set_round(round);
        rest(args.seconds)?;
        let seconds = (now_ns() - begun) as f64 / 1e9;
        let made = (world.orders().updates() - updates) as f64;
        report.add("changes made", "changes/s", made / seconds);
    }
    world.orders().set_round(0);
    Ok(())
}

/// Adds what a subscriber timed in one round.
pub(crate) fn add_round(told: &Value, report: &mut Report) {
    report.add("changes timed", "changes", told["count"].as_f64().unwrap_or(0.0));
    for share in SHARES {
        report.add(&format!("latency {share}"), "us", told[share].as_f64().unwrap_or(0.0));
    }
}
