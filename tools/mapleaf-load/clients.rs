//! What a session costs the server: memory, and time in a period.
//!
//! The sessions are `sessions`': bare ones, in a process of their own. Their lease is an
//! hour, so that nothing but EVENTs and heartbeats is sent.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::feed::Mode;
use crate::figures::Report;
use crate::machine::cpu_seconds;
use crate::machine::resident;
use crate::machine::rest;
use crate::machine::wait_for;
use crate::options::Common;
use crate::parse;
use crate::world::PUBLISHED;
use crate::world::Serving;
use crate::world::Subscriber;
use crate::world::World;

#[derive(Clone, Debug, Args)]
pub(crate) struct ClientsArgs {
    /// Sessions, each with a socket of its own
    #[arg(long, default_value_t = 1_000, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=20_000))]
    sessions: u32,
    /// Changes a second
    #[arg(long, default_value_t = 1_000, value_name = "COUNT",
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: u64,
    /// Time that is measured, each time
    #[arg(long, default_value = "3s", value_name = "DURATION",
        value_parser = parse::positive_duration)]
    seconds: Duration,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Some sessions a second are opened at least.
const PATIENCE: Duration = Duration::from_secs(300);

/// Longer than any measurement.
pub(crate) const LEASE: Duration = Duration::from_secs(3_600);

pub(crate) fn run(args: &ClientsArgs) -> anyhow::Result<Report> {
    let ClientsArgs { sessions, rate, seconds, common } = args;
    let options = common.told(json!({
        "sessions": sessions,
        "rate": rate,
        "seconds": seconds.as_secs_f64(),
    }));
    let mut report = Report::new("clients", options);
    let sessions_max = *sessions as usize;
    let serving = Serving { sessions_max, lease: LEASE, ..Serving::default() };
    let mut world = World::start(common, serving)?;
    rest(common.warm_up)?;
    let before = resident()?;
    let (mut clients, took) = open_sessions(&world, *sessions)?;
    report.add("opening all sessions", "ms", took.as_secs_f64() * 1e3);
    rest(PUBLISHED)?;
    let open = world.counters().value("server", "sessions").unwrap_or(0);
    report.add("sessions open", "sessions", open as f64);
    let risen = resident()?.saturating_sub(before);
    report.add("server memory a session", "B", risen as f64 / f64::from(*sessions));
    for _ in 0..common.repetitions {
        measure(args, &world, &mut clients, &mut report)?;
    }
    clients.end()?;
    world.end()?;
    report.note("bare sessions read nothing: the kernel drops what their buffers cannot hold, which is cheaper than to queue it");
    report.note("memory is that of the server's process, sockets of the kernel not counted");
    Ok(report)
}

/// A process with so many sessions, all open, and how long they took.
pub(crate) fn open_sessions(world: &World, count: u32) -> anyhow::Result<(Subscriber, Duration)> {
    let mut clients = world.spawn("sessions", &["--count", &count.to_string()])?;
    wait_for("every session is open", PATIENCE, || {
        clients.check()?;
        Ok(clients.with_said(|said| said.opened.is_some()))
    })?;
    let (begun, opened) = clients.with_said(|said| (said.started, said.opened));
    let took = opened.zip(begun).map_or(0, |(opened, begun)| opened.saturating_sub(begun));
    Ok((clients, Duration::from_nanos(took)))
}

/// From one quiet moment to the next, so that counters and time are of the same work.
fn measure(
    args: &ClientsArgs,
    world: &World,
    clients: &mut Subscriber,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (before, cpu_before) = (world.counters(), cpu_seconds([]));
    world.order(Mode::Paced { rate: args.rate });
    let waited = rest(args.seconds);
    world.order(Mode::Paused);
    waited?;
    rest(PUBLISHED)?;
    clients.check()?;
    let cpu = cpu_seconds([]) - cpu_before;
    let risen = world.counters().risen_since(&before);
    let value = |part, name| risen.value(part, name).unwrap_or(0) as f64;
    let (sent, periods) = (value("socket", "datagrams_sent"), value("server", "periods"));
    report.add("periods", "periods/s", periods / args.seconds.as_secs_f64());
    report.add("datagrams sent", "datagrams", sent);
    report.add("processor a period", "ms", cpu * 1e3 / periods.max(1.0));
    report.add("processor a datagram", "us", cpu * 1e6 / sent.max(1.0));
    report.add("datagrams that found no room", "datagrams", value("socket", "would_block"));
    Ok(())
}
