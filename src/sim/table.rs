//! How a burst of changes reaches all replicas on a lossy network: bytes, datagrams
//! and periods, from fixed seeds.

use core::time::Duration;
use std::io;

use crate::sim::options::Faults;
use crate::sim::options::Fixed;
use crate::sim::options::Options;
use crate::sim::planted::Planted;
use crate::sim::world::World;
use crate::sync::Time;

/// One row: a world, and what it cost until all were equal and said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Leaves of the tree; a tenth of them is written.
    pub leaves: u32,
    /// Share of datagrams lost, in percent.
    pub loss_percent: u32,
    /// Replicas.
    pub clients: u32,
    /// Bytes sent in both directions, the mean over the seeds.
    pub bytes: u64,
    /// Datagrams sent in both directions, the mean over the seeds.
    pub datagrams: u64,
    /// Periods until all were equal, in tenths: the mean over the seeds.
    pub periods_tenths: u64,
    /// The same of the slowest seed, in whole periods.
    pub periods_max: u64,
}

const SEEDS: core::ops::Range<u64> = 1..9;
const PERIOD_MS: u64 = 100;

/// Computes the table.
///
/// # Errors
/// No folder could be made for the trees.
pub fn loss_table() -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for leaves in [100, 1_000, 10_000] {
        for loss_percent in [0, 1, 10, 30] {
            for clients in [1, 10] {
                rows.push(row(leaves, loss_percent, clients)?);
            }
        }
    }
    Ok(rows)
}

fn row(leaves: u32, loss_percent: u32, clients: u32) -> io::Result<Row> {
    let mut sum = (0, 0, 0);
    let mut periods_max = 0;
    let count = SEEDS.end - SEEDS.start;
    for seed in SEEDS {
        let (bytes, datagrams, periods) = burst(seed, leaves, loss_percent, clients)?;
        sum = (sum.0 + bytes, sum.1 + datagrams, sum.2 + periods);
        periods_max = periods_max.max(periods);
    }
    Ok(Row {
        leaves,
        loss_percent,
        clients,
        bytes: sum.0 / count,
        datagrams: sum.1 / count,
        periods_tenths: sum.2 * 10 / count,
        periods_max,
    })
}

fn options(seed: u64, leaves: u32, clients: u32) -> Options {
    let fixed = Fixed::default();
    Options {
        leaves,
        clients,
        parents: 1,
        capacity: 64,
        filtered: 0,
        relays: 0,
        devices: 0,
        members: 0.0,
        period_ms: PERIOD_MS,
        heartbeat_ms: 250,
        lease_ms: 10_000,
        request_period_ms: 60_000,
        datagram_size: 1_200,
        credit_max: 256,
        request_rate: 1_000_000,
        receive_buffer: 425_984,
        faults: Faults::default(),
        ..Options::draw(seed, Duration::ZERO, &fixed)
    }
}

/// Bytes, datagrams and periods of one burst.
fn burst(seed: u64, leaves: u32, loss_percent: u32, clients: u32) -> io::Result<(u64, u64, u64)> {
    let mut world = World::new(options(seed, leaves, clients), Planted::Nothing)?;
    world.net.make_even();
    let is_even = |world: &World| (0..world.nodes.len()).all(|index| world.is_even(index));
    let joined = world.run_until(Time::START.after(MOST), LOOK_EVERY, is_even);
    assert!(joined, "replicas join within {MOST:?}");
    world.net.set_faults(Faults { loss: f64::from(loss_percent) / 100.0, ..Faults::default() });
    for leaf in (0..leaves).step_by(10) {
        let data = world.new_data();
        world.write_at_origin(leaf, &data);
    }
    let (start, before) = (world.now, world.net.sent);
    let even = world.run_until(start.after(MOST), LOOK_EVERY, is_even);
    assert!(even, "seed {seed}: {:?} after {MOST:?}", world.checks.broken);
    let sent = (world.net.sent.0 - before.0, world.net.sent.1 - before.1);
    let took = world.now.since(start).as_micros() as u64;
    Ok((sent.1, sent.0, took.div_ceil(PERIOD_MS * 1_000)))
}

/// Far more than any of them takes.
const MOST: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(5);
