//! How long a subscriber that was stopped takes until it is equal again.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use rustix::process::Signal;
use serde_json::json;

use crate::feed::Mode;
use crate::figures::Report;
use crate::latency::add_round;
use crate::limit;
use crate::machine::now_ns;
use crate::machine::rest;
use crate::machine::wait_for;
use crate::options::Common;
use crate::parse;
use crate::world::PUBLISHED;
use crate::world::Serving;
use crate::world::Subscriber;
use crate::world::World;
use crate::world::settle;

#[derive(Clone, Debug, Args)]
pub(crate) struct RepairArgs {
    /// Changes a second
    #[arg(long, default_value_t = 10_000, value_name = "COUNT",
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: u64,
    /// How long one of two subscribers is stopped
    #[arg(long, default_value = "2s", value_name = "DURATION",
        value_parser = parse::positive_duration)]
    pause: Duration,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &RepairArgs) -> anyhow::Result<Report> {
    let RepairArgs { rate, pause, common } = args;
    let pause_s = pause.as_secs_f64();
    let options = common.told(json!({"rate": rate, "pause_s": pause_s}));
    let mut report = Report::new("repair", options);
    let mut world = World::start(common, Serving::default())?;
    let mut all = world.subscribe_all(2, &["--watch", "--tell"])?;
    let [stopped, other] = all.as_mut_slice() else { unreachable!("there are two") };
    world.order(Mode::Paced { rate: *rate });
    let outcome = rest(common.warm_up).and_then(|()| {
        (1..=common.repetitions).try_for_each(|round| {
            repair_once(args, &world, stopped, round, &mut report)?;
            other.check()
        })
    });
    world.order(Mode::Paused);
    outcome?;
    settle(&all)?;
    let said = all.iter_mut().map(Subscriber::end).collect::<anyhow::Result<Vec<_>>>()?;
    let other = said.get(1).context("there are two")?;
    for round in 1..=common.repetitions {
        if let Some(told) = other.round(round) {
            add_round(told, &mut report);
        }
    }
    report.add("EVENTs lost by the other", "datagrams", {
        other.counter("client.events_lost") as f64
    });
    world.end()?;
    world.verify(all.iter().map(Subscriber::file))?;
    let bytes = report.median("RESPONSE bytes").unwrap_or(0.0);
    limit::add_way(common, "until equal again", bytes, &mut report)?;
    report.note("latencies and losses are those of the subscriber that was not stopped, during the pause and the repair");
    report.note("repaired: equal by the digest of a period, with a change applied that was made after the process went on");
    Ok(report)
}

/// Stops one subscriber, lets it go on, and waits until it is equal again.
fn repair_once(
    args: &RepairArgs,
    world: &World,
    stopped: &mut Subscriber,
    round: u32,
    report: &mut Report,
) -> anyhow::Result<()> {
    rest(PUBLISHED)?;
    let before = world.counters();
    world.orders().set_round(round);
    stopped.signal(Signal::STOP)?;
    let waited = rest(args.pause);
    let resumed = now_ns();
    stopped.signal(Signal::CONT)?;
    waited?;
    let equal = || {
        stopped.with_said(|said| {
            let is_equal = |t: u64, newest: u64| t >= resumed && newest >= resumed;
            said.at.iter().find(|at| at.in_sync && is_equal(at.t, at.newest)).map(|at| at.t)
        })
    };
    wait_for("the repair", PATIENCE, || Ok(equal().is_some()))?;
    let equal = equal().context("it is equal")?;
    report.add("until equal again", "ms", (equal - resumed) as f64 / 1e6);
    world.orders().set_round(u32::MAX);
    rest(PUBLISHED)?;
    stopped.check()?;
    let risen = world.counters().risen_since(&before);
    let value = |part, name| risen.value(part, name).unwrap_or(0) as f64;
    report.add("RESPONSE bytes", "B", value("arena", "bytes"));
    report.add("RESPONSE leaves", "leaves", value("arena", "leaves"));
    Ok(())
}
