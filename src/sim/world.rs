//! The world: processes, network and clock in one thread, from one seed.

use core::time::Duration;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use tempfile::TempDir;

use crate::layout::DataLocId;
use crate::layout::Life;
use crate::layout::TreeId;
use crate::layout::TreeRole;
use crate::sim::checks::Checks;
use crate::sim::leaves::SimLeaves;
use crate::sim::network::Cargo;
use crate::sim::network::Flight;
use crate::sim::network::HEARING;
use crate::sim::network::Network;
use crate::sim::network::SERVING;
use crate::sim::network::client_port;
use crate::sim::network::hearing_port;
use crate::sim::network::serving_port;
use crate::sim::node::Doing;
use crate::sim::node::FileFate;
use crate::sim::node::Kind;
use crate::sim::node::Node;
use crate::sim::options::Faults;
use crate::sim::options::NODES_MAX;
use crate::sim::options::Options;
use crate::sim::places::Layouts;
use crate::sim::planted::Planted;
use crate::sim::random::Seeded;
use crate::sim::random::mix;
use crate::sim::trace::Fate;
use crate::sim::trace::Trace;
use crate::sim::trace::node_of;
use crate::sync::Leaves;
use crate::sync::RandomSource;
use crate::sync::Time;
use crate::tree::CreateOptions;
use crate::tree::Tree;

/// Turns at one moment: more than all processes and datagrams of a burst need, so
/// a timer that does not move is what it is.
const TURNS_MAX: u32 = 100_000;

/// Faults are drawn this often.
pub(super) const FAULT_TICK: Duration = Duration::from_millis(250);

/// Who joins the group is drawn from a source of its own.
const MEMBERS: u64 = 0x67_726f_7570;

/// What the kernel charges for a datagram in a socket beyond its bytes.
const DATAGRAM_OVERHEAD: usize = 1_200;

/// Everything of a run.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) planted: Planted,
    pub(super) now: Time,
    pub(super) random: Seeded,
    pub(super) net: Network,
    pub(super) nodes: Vec<Node>,
    pub(super) names: Rc<[String]>,
    pub(super) filters: Rc<[Option<usize>]>,
    pub(super) layouts: Layouts,
    pub(super) checks: Checks,
    pub(super) trace: Trace,
    pub(super) folder: TempDir,
    /// Copies of the origin's file, oldest first.
    pub(super) snapshots: Vec<PathBuf>,
    pub(super) snapshot_count: u64,
    /// An older file took the place of the origin's, and was not served yet.
    pub(super) has_older_file: bool,
    /// The second, in Unix time, after which the origin's latest life is called.
    pub(super) last_life_s: u64,
    /// The origin's file is an image of a power loss, and was not served yet. A copy's
    /// tells by itself how it ended.
    pub(super) has_lost_power: bool,
    pub(super) is_troubled: bool,
    pub(super) next_fault: Time,
    pub(super) next_write: Time,
    /// Rises with each write.
    pub(super) version: u64,
    turns: u32,
    /// Where datagrams are laid out.
    pub(super) segment: Vec<u8>,
}

/// Where the trees of a run lie: in memory where the system has such a place.
fn folder() -> io::Result<TempDir> {
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("mapleaf-sim-");
        builder
    };
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir())
}

impl World {
    /// The world of these options at its first moment.
    ///
    /// # Errors
    /// No folder could be made for its trees.
    pub(super) fn new(options: Options, planted: Planted) -> io::Result<World> {
        let mut random = Seeded::new(options.seed).fork();
        let folder = folder()?;
        let nodes = nodes(&options, &folder, &mut random);
        let net = Network::new(Faults::default(), random.fork(), nodes.len());
        let mut world = World {
            names: nodes.iter().map(|node| node.name.clone()).collect(),
            filters: nodes.iter().map(|node| node.filter).collect(),
            layouts: Layouts::new(&options),
            options,
            planted,
            now: Time::START,
            random,
            net,
            nodes,
            checks: Checks::default(),
            trace: Trace::new(),
            folder,
            snapshots: Vec::new(),
            snapshot_count: 0,
            has_older_file: false,
            last_life_s: 0,
            has_lost_power: false,
            is_troubled: false,
            next_fault: Time::START,
            next_write: Time::START,
            version: 0,
            turns: 0,
            segment: Vec::new(),
        };
        world.create();
        let mut members = Seeded::new(mix(world.options.seed ^ MEMBERS));
        world.draw_members(&mut members);
        Ok(world)
    }

    /// Makes the origin's tree.
    fn create(&mut self) {
        let layout = self.layouts.newest().clone();
        let create = CreateOptions {
            role: TreeRole::Server,
            tree_id: TreeId(self.random.id()),
            life: Life(0),
            unix_s: self.unix_s(),
        };
        let tree = Tree::create(&self.nodes[0].path, layout, create).expect("room for a tree");
        tree.close().expect("a tree closes");
        self.note_durable(0);
    }

    /// The clock on the wall, for the life of a server.
    pub(super) fn unix_s(&self) -> u64 {
        // A year after lives begin to count.
        Life::EPOCH_UNIX_S + 31_536_000 + self.now.0 / 1_000_000
    }

    pub(super) fn is_broken(&self) -> bool {
        self.checks.broken.is_some()
    }

    /// Runs until `end`, `done`, or something is broken. `done` is asked every so
    /// often.
    pub(super) fn run_until(
        &mut self,
        end: Time,
        every: Duration,
        done: impl Fn(&World) -> bool,
    ) -> bool {
        while !self.is_broken() && self.now < end {
            let pause = self.now.after(every).min(end);
            while !self.is_broken() && self.now < pause {
                self.step(pause);
            }
            if done(self) {
                return true;
            }
        }
        false
    }

    /// Goes to the next moment at which something is due, and does it.
    fn step(&mut self, pause: Time) {
        let mut due = pause;
        for node in &mut self.nodes {
            due = due.min(node.due());
        }
        due = due.min(self.net.next_arrival().unwrap_or(pause));
        if self.is_troubled {
            due = due.min(self.next_fault).min(self.next_write);
        }
        self.advance(due);
        while let Some(flight) = self.net.arrive(self.now) {
            self.arrive(flight);
            if self.is_broken() {
                return;
            }
        }
        if self.is_troubled && self.next_fault <= self.now {
            self.next_fault = self.now.after(FAULT_TICK);
            self.trouble();
        }
        if self.is_troubled && self.next_write <= self.now {
            self.write();
        }
        self.end_periods_of_no_length();
        for index in 0..self.nodes.len() {
            if self.nodes[index].due() <= self.now && !self.is_broken() {
                self.turn(index);
            }
        }
        self.end_periods_of_no_length();
    }

    /// Where a period has no length it ends when what came is read and there is news.
    fn end_periods_of_no_length(&mut self) {
        if self.options.period_ms > 0 {
            return;
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].has_news() && !self.is_broken() {
                self.end_period(index);
                self.nodes[index].plan();
            }
        }
    }

    fn advance(&mut self, due: Time) {
        self.turns = if due > self.now { 0 } else { self.turns + 1 };
        self.now = self.now.max(due);
        if self.turns > TURNS_MAX {
            let late = self.nodes.iter_mut().position(|node| node.due() <= self.now);
            let name = late.map_or("the network", |index| &self.names[index]).to_owned();
            self.checks.fail("liveness", || format!("{name} has a timer that does not move"));
        }
    }

    /// Lets a process do what is due.
    fn turn(&mut self, index: usize) {
        match self.nodes[index].doing {
            Doing::Down { until, file } if until <= self.now => self.start(index, file),
            Doing::Stopped { until } if until <= self.now => self.go_on(index),
            Doing::Runs => self.timers(index),
            Doing::Down { .. } | Doing::Stopped { .. } => {}
        }
        self.nodes[index].plan();
    }

    fn timers(&mut self, index: usize) {
        self.client_timers(index);
        self.device_timers(index);
        self.server_timers(index);
    }

    /// A stopped process goes on: it reads what lay in its socket first.
    fn go_on(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.doing = Doing::Runs;
        node.following.witness.wakes();
        node.following.wakes = true;
        // What came by the group is read first (R49).
        let by_group = core::mem::take(&mut node.group_socket);
        let by_others = core::mem::take(&mut node.socket);
        for flight in by_group.flights.into_iter().chain(by_others.flights) {
            self.hears(index, &flight);
        }
        self.timers(index);
        self.nodes[index].following.wakes = false;
    }

    fn arrive(&mut self, flight: Flight) {
        let index = node_of(flight.to);
        let Some(node) = self.nodes.get_mut(index) else { return };
        let path = (flight.from, flight.to);
        let is_there = match flight.to / NODES_MAX {
            SERVING => node.serving.server.is_some(),
            HEARING => node.following.hearing.is_member && node.has_client(),
            _ => flight.to == client_port(index, node.run) && node.has_client(),
        };
        let is_by_group = flight.to / NODES_MAX == HEARING;
        let socket = if is_by_group { &mut node.group_socket } else { &mut node.socket };
        let fate = if !is_there {
            Fate::Nobody
        } else if !matches!(node.doing, Doing::Stopped { .. }) {
            Fate::Came
        } else if socket.len < self.options.receive_buffer {
            Fate::Waits
        } else {
            Fate::Overflows
        };
        if let Cargo::Datagram { bytes, .. } = &flight.cargo {
            self.trace.datagram(self.now, path, fate, bytes);
            if fate == Fate::Waits {
                socket.len += bytes.len() + DATAGRAM_OVERHEAD;
            }
        }
        match fate {
            // Of a group nobody is told that nobody listens.
            Fate::Nobody if is_by_group => {}
            Fate::Nobody if matches!(flight.cargo, Cargo::Datagram { .. }) => {
                self.net.tell_unreachable(self.now, flight.from, flight.to);
            }
            Fate::Waits => socket.flights.push_back(flight),
            Fate::Came => {
                self.hears(index, &flight);
                self.nodes[index].plan();
            }
            _ => {}
        }
    }

    fn hears(&mut self, index: usize, flight: &Flight) {
        let is_for_server = flight.to == serving_port(index);
        if flight.to == hearing_port(index) {
            return self.member_hears(index, flight.from, &flight.cargo);
        }
        match (&flight.cargo, self.nodes[index].kind) {
            (Cargo::Datagram { bytes, .. }, _) if is_for_server => {
                self.server_hears(index, flight.from, bytes);
            }
            // A socket with many peers is told nothing of one.
            (Cargo::Unreachable, _) if is_for_server => {}
            (cargo, Kind::Device) => self.device_hears(index, cargo),
            (cargo, _) => self.client_hears(index, cargo),
        }
    }

    /// All faults are over: links are whole, and every process runs.
    pub(super) fn calm(&mut self) {
        self.trace.note(self.now, "quiet".to_owned());
        self.is_troubled = false;
        self.net.set_faults(Faults::default());
        self.net.mend();
        for index in 0..self.nodes.len() {
            self.nodes[index].failing = None;
            match self.nodes[index].doing {
                Doing::Down { file, .. } => self.start(index, file),
                Doing::Stopped { .. } => self.go_on(index),
                Doing::Runs => {}
            }
            self.drain_device(index);
            self.nodes[index].plan();
        }
    }

    /// Faults begin.
    pub(super) fn stir(&mut self) {
        self.trace.note(self.now, "trouble".to_owned());
        self.is_troubled = true;
        self.net.set_faults(self.options.faults.clone());
        self.next_fault = self.now.after(FAULT_TICK);
        self.next_write = self.now;
    }

    /// Whether a process has the origin's leaves and says so, or has reported all.
    pub(super) fn is_even(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        match (node.kind, &node.leaves, &self.nodes[0].leaves) {
            (Kind::Origin, ..) => node.runs(),
            (Kind::Device, ..) => node.device.as_ref().is_some_and(|device| device.is_idle()),
            (_, Some(leaves), Some(origin)) => {
                let filter = node.filter;
                let joined = node.following.client.as_ref().and_then(|client| client.joined());
                // A copy that has not heard of the origin's new life yet is to join again.
                joined.is_some_and(|joined| joined.life == origin.life())
                    && leaves.layout_hash() == origin.layout_hash()
                    && self.says_in_sync(index)
                    && leaves.state().under(filter) == origin.state().under(filter)
            }
            _ => false,
        }
    }

    /// Compares every byte of every copy with the origin's.
    pub(super) fn compare(&mut self) {
        self.checks.counted.quiet += 1;
        for index in 1..self.nodes.len() {
            if let Some(leaf) = self.first_difference(index) {
                let name = &self.names[index];
                self.checks.fail("equal at quiet", || format!("{name}: leaf {leaf} differs"));
            }
        }
        let (Some(origin), checks) = (&self.nodes[0].leaves, &mut self.checks) else { return };
        checks.reopened(origin, false);
    }

    fn first_difference(&self, index: usize) -> Option<u32> {
        let node = &self.nodes[index];
        let (leaves, origin) = (node.leaves.as_ref()?, self.nodes[0].leaves.as_ref()?);
        let read = |leaves: &SimLeaves, leaf| leaves.read(DataLocId(leaf));
        let mut range = origin.range_of(node.filter);
        range.find(|leaf| read(leaves, *leaf) != read(origin, *leaf))
    }

    /// The digest of the origin's tree.
    pub(super) fn digest(&self) -> u64 {
        self.nodes[0].leaves.as_ref().map_or(0, |leaves| leaves.digest().0)
    }
}

impl Node {
    fn has_client(&self) -> bool {
        self.following.client.is_some() || self.device.is_some()
    }
}

fn nodes(options: &Options, folder: &TempDir, random: &mut Seeded) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    let counts = [
        (Kind::Origin, "origin", 1),
        (Kind::Relay, "relay", options.relays),
        (Kind::Replica, "replica", options.clients),
        (Kind::Device, "device", options.devices),
    ];
    let servers = 1 + options.relays as usize;
    for (kind, name, count) in counts {
        for number in 0..count {
            let index = nodes.len();
            let upstream = match kind {
                Kind::Origin | Kind::Device => 0,
                // Relays may follow relays, but only those before them.
                Kind::Relay => random.index(index),
                Kind::Replica => random.index(servers),
            };
            let name = format!("{name}{number}");
            let path = folder.path().join(format!("{name}.mapleaf"));
            let mut node = Node::new(kind, name, upstream, path, random.fork());
            // The first replica has all.
            if kind == Kind::Replica && number > 0 && number <= options.filtered {
                node.filter = Some(random.index(options.parents as usize));
            }
            node.doing = Doing::Down { until: Time::START, file: FileFate::Same };
            nodes.push(node);
        }
    }
    nodes
}
