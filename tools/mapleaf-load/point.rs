//! One point of `growth`: a process that says its figures as one line of JSON.

use std::time::Duration;
use std::time::Instant;

use clap::Args;
use serde_json::Value;

use crate::clients::LEASE;
use crate::clients::open_sessions;
use crate::feed::Mode;
use crate::figures::Figures;
use crate::machine::private_memory;
use crate::machine::rest;
use crate::machine::thread_seconds;
use crate::options::Common;
use crate::subscriber::say;
use crate::world::SERVER_THREAD;
use crate::world::Serving;
use crate::world::Subscriber;
use crate::world::World;

#[derive(Clone, Debug, Args)]
pub(crate) struct PointArgs {
    /// Leaves that change in each period
    #[arg(long)]
    changed: u32,
    /// Sessions that read nothing
    #[arg(long)]
    sessions: u32,
    /// Time a late joiner
    #[arg(long)]
    join: bool,
    /// Measure periods without changes
    #[arg(long)]
    idle: bool,
    #[command(flatten)]
    common: Common,
}

/// Time that is measured, each time: some 50 periods of 10 ms.
const WINDOW: Duration = Duration::from_millis(500);

/// After this a server does what it goes on doing.
const SETTLED: Duration = Duration::from_millis(200);

/// Larger trees are joined and opened once.
const LARGE: u32 = 1_000_000;

pub(crate) fn run(args: &PointArgs) -> anyhow::Result<()> {
    let PointArgs { common, sessions, .. } = args;
    let mut figures = Figures::default();
    let before = private_memory()?;
    let serving =
        Serving { sessions_max: *sessions as usize + 1, lease: LEASE, ..Serving::default() };
    let mut world = World::start(common, serving)?;
    rest(SETTLED)?;
    let alone = private_memory()?;
    figures.add("server memory beside its file", "B", risen(before, alone));
    let (mut clients, _) = open_sessions(&world, *sessions)?;
    rest(SETTLED)?;
    let joined = private_memory()?;
    figures.add("server memory a session", "B", risen(alone, joined) / f64::from(*sessions));
    if args.idle {
        for _ in 0..common.repetitions {
            figures.add("processor, a period without changes", "us", idle_period(args)?);
        }
    }
    let outcome = changed_periods(args, &world, &mut figures);
    world.order(Mode::Paused);
    outcome?;
    clients.check()?;
    clients.end()?;
    let replica = if args.join { join(args, &world, &mut figures)? } else { None };
    world.end()?;
    open(args, &world, replica, &mut figures)?;
    say(&Value::Object(figures.json()));
    Ok(())
}

fn risen(before: u64, after: u64) -> f64 {
    after.saturating_sub(before) as f64
}

/// What a period costs in which nothing changes, in microseconds.
fn idle_period(args: &PointArgs) -> anyhow::Result<f64> {
    let (begun, before) = (Instant::now(), thread_seconds(SERVER_THREAD)?);
    rest(WINDOW)?;
    let used = thread_seconds(SERVER_THREAD)? - before;
    let periods = begun.elapsed().as_secs_f64() / args.common.period.as_secs_f64();
    Ok(used * 1e6 / periods)
}

/// What a period costs in which leaves change, their writes included, in microseconds.
fn changed_periods(args: &PointArgs, world: &World, figures: &mut Figures) -> anyhow::Result<()> {
    world.order(Mode::Bursts { changes: args.changed, every: args.common.period });
    rest(SETTLED)?;
    let memory = private_memory()?;
    for _ in 0..args.common.repetitions {
        let look = || anyhow::Ok((world.orders().updates(), thread_seconds(SERVER_THREAD)?));
        let (updates_before, before) = look()?;
        rest(WINDOW)?;
        let (updates, used) = look()?;
        let bursts = (updates - updates_before) as f64 / f64::from(args.changed);
        figures.add("processor, a period with changes", "us", {
            (used - before) * 1e6 / bursts.max(1.0)
        });
        figures.add("changes made", "changes/s", {
            (updates - updates_before) as f64 / WINDOW.as_secs_f64()
        });
    }
    figures.add("memory added while they stalled", "B", risen(memory, private_memory()?));
    Ok(())
}

impl PointArgs {
    fn repetitions(&self) -> u32 {
        if self.common.leaves >= LARGE { 1 } else { self.common.repetitions }
    }
}

/// Times subscribers that begin with nothing, and gives the last.
fn join(
    args: &PointArgs,
    world: &World,
    figures: &mut Figures,
) -> anyhow::Result<Option<Subscriber>> {
    let mut last = None;
    for number in 0..args.repetitions() {
        // The file of the one before is gone when the next begins: memory for two.
        drop(last.take());
        let name = format!("replica-{number}");
        let mut one = world.subscribe(&name, world.address, &["--until-synced"])?;
        let said = one.wait()?;
        figures.add("late join", "ms", said.until_equal_ms()?);
        let received = said.counter("socket.bytes_received") as f64;
        figures.add("late join, received", "B", received);
        last = Some(one);
    }
    Ok(last)
}

/// Opens the server's file, which verifies every checksum, and compares it.
fn open(
    args: &PointArgs,
    world: &World,
    replica: Option<Subscriber>,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    if let Some(replica) = replica {
        world.verify([replica.file()])?;
    }
    for _ in 0..args.repetitions() {
        let begun = Instant::now();
        let tree = world.open_server()?;
        figures.add("opening and verifying", "ms", begun.elapsed().as_secs_f64() * 1e3);
        tree.close()?;
    }
    Ok(())
}
