//! Everything of a demo that runs: a server, replicas, devices, and the paths between.

use core::fmt;
use core::time::Duration;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::Context;

use mapleaf::layout::Life;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeRole;
use mapleaf::runtime::Stop;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Layout;
use mapleaf::tree::Tree;

use crate::cli::create::new_tree_id;
use crate::cli::create::unix_s;
use crate::cli::demo_compare::first_difference;
use crate::cli::demo_compare::newest_revision;
use crate::cli::demo_devices::Devices;
use crate::cli::demo_devices::schema;
use crate::cli::demo_outcome::DeviceTotals;
use crate::cli::demo_outcome::Outcome;
use crate::cli::demo_outcome::ReplicaTotals;
use crate::cli::demo_outcome::ServerTotals;
use crate::cli::demo_parts::RelayOf;
use crate::cli::demo_parts::Replica;
use crate::cli::demo_parts::ServerPart;
use crate::cli::output::word;
use crate::cli::proxy::Passed;
use crate::cli::proxy::Weather;

/// How long the replicas may take to be in sync once the devices are silent.
const SYNC_WATCHDOG: Duration = Duration::from_secs(60);

/// How often the main thread looks at the others.
const LOOK: Duration = Duration::from_millis(50);

/// Time between two status lines.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Shares of the datagrams that are doubled and reordered: a little.
const DUPLICATE: f64 = 0.01;
const REORDER: f64 = 0.01;

/// A relay needs a replica behind it, and a replica beside it to compare with.
const REPLICAS_WITH_RELAY: usize = 3;

/// What runs in a demo.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Devices, one leaf each.
    pub(crate) devices: u32,
    /// Replicas.
    pub(crate) replicas: usize,
    /// Share of the datagrams that are lost on each way.
    pub(crate) loss: f64,
    /// Where everything random comes from.
    pub(crate) seed: u64,
}

impl Plan {
    /// The weather on one path. Parts are far from each other: each client of a
    /// proxy takes two streams.
    fn weather(&self, part: usize) -> Weather {
        let seed = self.seed.wrapping_add((part as u64) << 32);
        Weather { loss: self.loss, duplicate: DUPLICATE, reorder: REORDER, seed }
    }

    /// The last replica but one is the relay.
    fn relay(&self, index: usize) -> RelayOf {
        match self.replicas >= REPLICAS_WITH_RELAY && index + 2 == self.replicas {
            true => RelayOf::Next,
            false => RelayOf::Nobody,
        }
    }
}

/// A signal asked for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a signal asked for the end")
    }
}

impl std::error::Error for Interrupted {}

/// Everything that runs. Dropping it ends it.
pub(crate) struct World {
    // In this order: the devices end first, and a relay after the one behind it.
    devices: Devices,
    replicas: Vec<Replica>,
    server: ServerPart,
    stop: Stop,
    began: Instant,
    told: Instant,
}

impl World {
    /// Starts everything.
    ///
    /// # Errors
    ///
    /// A part that does not start, or [`Interrupted`].
    pub(crate) fn start(plan: &Plan, folder: &Path, stop: Stop) -> anyhow::Result<World> {
        let file = folder.join("server.mapleaf");
        let layout = create(&file, plan.devices)?;
        let server = ServerPart::start(&file)?;
        let mut replicas = Vec::new();
        let mut upstream = server.address();
        for index in 0..plan.replicas {
            let file = folder.join(format!("replica{index}.mapleaf"));
            let relay = plan.relay(index);
            let replica = Replica::start(&file, upstream, plan.weather(1 + index), relay)
                .with_context(|| format!("replica {index}"))?;
            if relay == RelayOf::Next {
                upstream = replica.relay_address(&stop).context("relay")?;
            }
            replicas.insert(0, replica);
        }
        let devices = Devices::start(layout, server.address(), plan.weather(0), plan.seed)?;
        let now = Instant::now();
        Ok(World { devices, replicas, server, stop, began: now, told: now })
    }

    /// Lets the devices report for so long, or until a signal comes, waits until the
    /// replicas are in sync, and compares. A second signal kills.
    ///
    /// # Errors
    ///
    /// A part that ended early.
    pub(crate) fn run(mut self, time: Duration) -> anyhow::Result<Outcome> {
        while self.began.elapsed() < time && !self.stop.is_stopped() {
            self.devices.check()?;
            self.look()?;
        }
        word("the devices report no more: waiting for their acknowledgements");
        self.devices.end();
        while !self.devices.are_done() {
            self.look()?;
        }
        let devices = DeviceTotals::of(&self.devices.join()?);
        word("the last reports are acknowledged: waiting for the replicas");
        self.wait_for_sync()?;
        self.finish(devices)
    }

    fn wait_for_sync(&mut self) -> anyhow::Result<()> {
        let newest = newest_revision(self.server.file())?;
        let silent = Instant::now();
        while !self.replicas.iter().all(|replica| replica.is_in_sync(newest)) {
            if silent.elapsed() > SYNC_WATCHDOG {
                word(format_args!("not in sync {} s later", SYNC_WATCHDOG.as_secs()));
                return Ok(());
            }
            self.look()?;
        }
        Ok(())
    }

    /// Waits a little, and says how it goes.
    fn look(&mut self) -> anyhow::Result<()> {
        thread::sleep(LOOK);
        if self.told.elapsed() >= STATUS_INTERVAL {
            self.told = Instant::now();
            word(self.status());
        }
        self.server.check()?;
        self.replicas.iter_mut().try_for_each(Replica::check)
    }

    fn status(&self) -> String {
        let mut totals = ReplicaTotals::default();
        self.replicas.iter().for_each(|replica| totals.add(&replica.counters()));
        let in_sync = self.replicas.iter().filter(|one| one.is_in_sync(Revision::ZERO)).count();
        format!(
            "{:4.0} s  reported {}  lost {}  gaps {}  repaired {}  applied {}  in sync {} of {}",
            self.began.elapsed().as_secs_f64(),
            self.devices.reported(),
            self.passed().dropped,
            totals.gaps,
            totals.repaired,
            totals.applied,
            in_sync,
            self.replicas.len(),
        )
    }

    fn passed(&self) -> Passed {
        let all = self.replicas.iter().map(Replica::passed);
        all.fold(self.devices.passed(), Passed::plus)
    }

    /// Ends everything, and compares the files.
    fn finish(self, devices: DeviceTotals) -> anyhow::Result<Outcome> {
        let passed = self.passed();
        let server_file = self.server.file().to_owned();
        let mut replicas = ReplicaTotals::default();
        let mut files = Vec::new();
        for replica in self.replicas {
            let (file, report) = replica.end()?;
            replicas.add(&report.counters);
            files.push(file);
        }
        let server = ServerTotals::of(&self.server.end()?.counters);
        let seconds = self.began.elapsed().as_secs_f64();
        let mut different = Vec::new();
        for file in files {
            let difference = first_difference(&server_file, &file)?;
            let name = file.file_stem().unwrap_or_default().display();
            different.extend(difference.map(|difference| format!("{name}: {difference}")));
        }
        Ok(Outcome { seconds, different, server, devices, replicas, passed })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_three_replicas_and_more_the_last_but_one_is_a_relay() {
        let relays = |replicas: usize| {
            let plan = Plan { devices: 1, replicas, loss: 0.0, seed: 0 };
            let is_relay = |index: &usize| plan.relay(*index) == RelayOf::Next;
            (0..replicas).find(is_relay)
        };
        assert_eq!([1, 2, 3, 5].map(relays), [None, None, Some(1), Some(3)]);
    }

    #[test]
    fn paths_have_weather_of_their_own() {
        let plan = Plan { devices: 1, replicas: 3, loss: 0.1, seed: u64::MAX };
        assert_ne!(plan.weather(0), plan.weather(1));
        assert_eq!(plan.weather(2), plan.weather(2));
    }
}
