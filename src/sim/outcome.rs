//! One run from its first moment to its last, and what it found.

use core::time::Duration;
use std::io;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use crate::sim::checks::Broken;
use crate::sim::checks::Counted;
use crate::sim::network::HEARING;
use crate::sim::network::SERVING;
use crate::sim::node::Kind;
use crate::sim::options::NODES_MAX;
use crate::sim::options::Options;
use crate::sim::planted::Planted;
use crate::sim::trace::node_of;
use crate::sim::trace::stamp;
use crate::sim::world::World;
use crate::sync::Time;

/// How often it is looked whether all are equal in a quiet time.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Equal copies stay so for this long before they are compared byte by byte.
const STAY: Duration = Duration::from_secs(1);

const HOUR: Duration = Duration::from_secs(3_600);

/// What a run has done by the end of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hour {
    /// Simulated time.
    pub time: Duration,
    /// Datagrams that came.
    pub datagrams: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// What the checkers looked at.
    pub counted: Counted,
    /// The longest that any quiet time took until all were equal.
    pub slowest_quiet: Duration,
}

/// A promise that was broken, and what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which and how.
    pub broken: Broken,
    /// When.
    pub time: Duration,
    /// The last datagrams and faults, oldest first.
    pub trace: Vec<String>,
}

/// What a run found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was done; `time` is that of the whole run.
    pub done: Hour,
    /// A hash of everything that was sent, lost, stopped and started.
    pub trace_hash: u64,
    /// Digest of the origin's tree at the end.
    pub digest: u64,
    /// The promise that was broken, if one was.
    pub failure: Option<Failure>,
}

/// Runs the world of these options. `each_hour` is told of every simulated hour.
///
/// # Errors
/// No folder could be made for the trees.
pub fn run(options: &Options, each_hour: &mut dyn FnMut(&Hour)) -> io::Result<Outcome> {
    run_with(options, Planted::Nothing, each_hour)
}

pub(super) fn run_with(
    options: &Options,
    planted: Planted,
    each_hour: &mut dyn FnMut(&Hour),
) -> io::Result<Outcome> {
    let mut world = World::new(options.clone(), planted)?;
    let mut slowest_quiet = Duration::ZERO;
    // The world is looked at after a panic, never run again.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        world.run(&mut slowest_quiet, each_hour);
    }));
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
        world.checks.fail("nothing panics", || text.to_owned());
    }
    Ok(Outcome {
        done: world.hour(slowest_quiet),
        trace_hash: world.trace.hash(),
        digest: world.digest(),
        failure: world.failure(),
    })
}

impl World {
    fn run(&mut self, slowest_quiet: &mut Duration, each_hour: &mut dyn FnMut(&Hour)) {
        let end = Time::START.after(self.options.time);
        let mut hour = Time::START.after(HOUR);
        while self.now < end && !self.is_broken() {
            self.stir();
            let pause = self.now.after(Duration::from_secs(self.options.trouble_s));
            self.run_until(pause.min(end), Duration::from_secs(1), |_| false);
            if self.is_broken() {
                return;
            }
            let took = self.settle();
            *slowest_quiet = took.max(*slowest_quiet);
            while self.now >= hour {
                each_hour(&self.hour(*slowest_quiet));
                hour = hour.after(HOUR);
            }
        }
    }

    /// Lets the world be quiet: within two request periods all are equal and say so.
    fn settle(&mut self) -> Duration {
        self.calm();
        let start = self.now;
        let period = Duration::from_millis(self.options.request_period_ms);
        let is_even = |world: &World| (0..world.nodes.len()).all(|index| world.is_even(index));
        let done = self.run_until(start.after(2 * period), LOOK_EVERY, is_even);
        let took = self.now.since(start);
        if self.is_broken() {
            return took;
        }
        if !done {
            self.tell_uneven(took);
            return took;
        }
        self.run_until(self.now.after(STAY), STAY, |_| false);
        if !self.is_broken() && !is_even(self) {
            self.tell_uneven(took);
        }
        self.compare();
        took
    }

    fn tell_uneven(&mut self, after: Duration) {
        let uneven = (0..self.nodes.len()).find(|index| !self.is_even(*index));
        let Some(index) = uneven else { return };
        let name = self.names[index].clone();
        let says = self.says_in_sync(index);
        let rule = match self.nodes[index].kind {
            Kind::Device => "liveness",
            _ => "equal at quiet",
        };
        self.checks.fail(rule, || match rule {
            "liveness" => format!("{name} has reports that nobody acknowledged after {after:?}"),
            _ => format!("{name} is not equal and in sync after {after:?} (it says {says})"),
        });
    }

    fn hour(&self, slowest_quiet: Duration) -> Hour {
        let (datagrams, bytes) = self.trace.traffic();
        let time = self.now.since(Time::START);
        Hour { time, datagrams, bytes, counted: self.checks.counted, slowest_quiet }
    }

    fn failure(&self) -> Option<Failure> {
        let broken = self.checks.broken.clone()?;
        let name = |port: u16| match self.names.get(node_of(port)) {
            Some(name) if port / NODES_MAX == SERVING => format!("{name}:serving"),
            Some(name) if port / NODES_MAX == HEARING => format!("{name}:group"),
            Some(name) => name.clone(),
            None => format!("stranger:{port}"),
        };
        let mut trace = self.trace.lines(name);
        trace.push(format!("{} !! {}: {}", stamp(self.now), broken.rule, broken.what));
        Some(Failure { broken, time: self.now.since(Time::START), trace })
    }
}
