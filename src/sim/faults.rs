//! What goes wrong, and what is written meanwhile.

use core::time::Duration;
use std::fs;
use std::path::Path;

use crate::bridge::Coverage;
use crate::layout::DataLocId;
use crate::layout::Life;
use crate::layout::Revision;
use crate::layout::TreeRole;
use crate::sim::leaves::SimLeaves;
use crate::sim::network::client_port;
use crate::sim::node::Doing;
use crate::sim::node::FileFate;
use crate::sim::node::Kind;
use crate::sim::places::leaf_at;
use crate::sim::places::place_in;
use crate::sim::storage::Injected;
use crate::sim::storage::has_another_file;
use crate::sim::trace::node_of;
use crate::sim::world::FAULT_TICK;
use crate::sim::world::World;
use crate::sync::RandomSource;
use crate::sync::ServedLeaves;
use crate::tree::Damaged;
use crate::tree::GrowError;
use crate::tree::Mark;
use crate::tree::OpenOptions;
use crate::tree::Tree;

/// Copies of the origin's file that are kept.
const SNAPSHOTS_MAX: usize = 4;

/// A server is down for more than a second: lives follow a clock of seconds, and a
/// tree that is put back begins a life that nobody has seen only if no more lives
/// than seconds have passed.
const ORIGIN_DOWN_MS: (u64, u64) = (1_100, 6_000);

/// A device comes back when nothing of its last run is on its way any more.
const DEVICE_DOWN_MS: (u64, u64) = (2_000, 8_000);

/// Twin leaves are written together, with the same Data.
const TWINS: [u32; 2] = [0, 1];

impl World {
    /// Whether a fault of this kind, with this mean of seconds between two, is due.
    pub(super) fn falls(&mut self, mean_s: u64) -> bool {
        mean_s > 0 && self.random.chance(FAULT_TICK.as_secs_f64() / mean_s as f64)
    }

    /// Draws what goes wrong now.
    pub(super) fn trouble(&mut self) {
        let faults = self.options.faults.clone();
        if self.falls(faults.partitions) {
            self.cut_link(true);
        }
        if self.falls(faults.one_way) {
            self.cut_link(false);
        }
        if self.falls(faults.stalls) {
            self.stop_one();
        }
        if self.falls(faults.jumps) {
            self.forge_jump();
        }
        if self.falls(faults.deaf) {
            self.deafen_one();
        }
        if self.falls(faults.group_strangers) {
            self.forge_for_group();
        }
        if self.falls(faults.forged_leaves) {
            self.forge_leaf();
        }
        if self.falls(faults.strangers) {
            self.let_a_stranger_knock();
        }
        if self.falls(faults.replays) {
            let nodes = &self.nodes;
            let is_of_now = |from| {
                let node = node_of(from);
                nodes.get(node).is_some_and(|one| from == client_port(node, one.run))
            };
            self.net.replay(self.now, is_of_now);
        }
        if self.falls(faults.rot) {
            self.let_one_rot();
        }
        if self.falls(faults.growths) {
            self.extend_schema();
        }
        self.storage_trouble();
        self.restarts();
    }

    fn restarts(&mut self) {
        let faults = self.options.faults.clone();
        if faults.older_files > 0 && self.falls(20) {
            self.take_snapshot();
        }
        if self.falls(faults.server_restarts) {
            self.stop_for_good(0, FileFate::Same);
        }
        if self.falls(faults.older_files) && !self.snapshots.is_empty() {
            self.stop_for_good(0, FileFate::Older);
        }
        let kinds = [
            (Kind::Relay, faults.relay_restarts),
            (Kind::Replica, faults.client_restarts),
            (Kind::Device, faults.device_restarts),
        ];
        for (kind, mean_s) in kinds {
            if self.falls(mean_s)
                && let Some(index) = self.one_of(|found| found == kind)
            {
                self.copy_file(index);
                let file = self.random.pick(&[
                    FileFate::Same,
                    FileFate::Same,
                    FileFate::Older,
                    FileFate::Gone,
                ]);
                self.stop_for_good(index, file);
            }
        }
    }

    pub(super) fn one_of(&mut self, wanted: impl Fn(Kind) -> bool) -> Option<usize> {
        let found: Vec<usize> =
            (0..self.nodes.len()).filter(|index| wanted(self.nodes[*index].kind)).collect();
        (!found.is_empty()).then(|| self.random.pick(&found))
    }

    fn cut_link(&mut self, is_both_ways: bool) {
        let Some(index) = self.one_of(|kind| kind != Kind::Origin) else { return };
        let upstream = self.nodes[index].upstream;
        let until = self.now.after(self.random.millis(100, 15_000));
        let down = self.random.chance(0.5);
        if is_both_ways || down {
            self.net.cut(upstream, index, until);
        }
        if is_both_ways || !down {
            self.net.cut(index, upstream, until);
        }
        let name = &self.names[index];
        self.trace.note(self.now, format!("cut {name} until {}", until.0));
    }

    fn stop_one(&mut self) {
        let index = self.random.index(self.nodes.len());
        if self.nodes[index].runs() {
            let until = self.now.after(self.random.millis(20, 20_000));
            self.nodes[index].doing = Doing::Stopped { until };
            self.nodes[index].plan();
            self.trace.note(self.now, format!("stop {} until {}", self.names[index], until.0));
        }
    }

    /// Twin leaves of a replica fall back to what they were, as on a disk that
    /// forgets what it was given last.
    fn let_one_rot(&mut self) {
        let Some(index) = self.one_of(|kind| kind == Kind::Replica) else { return };
        let node = &mut self.nodes[index];
        let is_whole = node.filter.is_none() && node.runs();
        let Some(leaves) = node.leaves.as_mut().filter(|_| is_whole) else { return };
        let versions = TWINS.map(|leaf| leaves.cell(leaf).version);
        match node.following.kept.take() {
            None if versions[0] == versions[1] => {
                node.following.kept = Some(TWINS.map(|leaf| leaves.read(DataLocId(leaf))));
            }
            None => {}
            Some(kept) => {
                kept.iter().for_each(|(head, data)| leaves.rot(head, data));
                self.excuse(index);
                self.trace.note(self.now, format!("rot {}", self.names[index]));
            }
        }
    }

    // Restarts.

    fn take_snapshot(&mut self) {
        let Some(leaves) = &self.nodes[0].leaves else { return };
        debug_assert!(leaves.tree().path().is_some());
        self.snapshot_count += 1;
        let to = self.folder.path().join(format!("snapshot{}.mapleaf", self.snapshot_count));
        fs::copy(&self.nodes[0].path, &to).expect("a copy of a file");
        self.snapshots.push(to);
        if self.snapshots.len() > SNAPSHOTS_MAX {
            let gone = self.snapshots.remove(0);
            fs::remove_file(gone).expect("a copy that is there");
        }
    }

    /// Copies a replica's file now and then, for a later restart.
    fn copy_file(&mut self, index: usize) {
        let node = &self.nodes[index];
        let older = node.path.with_extension("older");
        if node.path.exists() && (!older.exists() || self.random.chance(0.3)) {
            fs::copy(&node.path, older).expect("a copy of a file");
        }
    }

    /// Ends a process, in good order or by a kill.
    pub(super) fn stop_for_good(&mut self, index: usize, file: FileFate) {
        if !self.nodes[index].runs() {
            return;
        }
        let is_orderly = self.random.chance(0.3);
        let how = if is_orderly { "end" } else { "kill" };
        self.trace.note(self.now, format!("{how} {}, then {file:?}", self.names[index]));
        if is_orderly {
            self.say_goodbye(index);
        }
        if let Some(leaves) = self.nodes[index].leaves.take().filter(|_| is_orderly) {
            let (closed, injected) = self.suffer(index, |_| leaves.into_tree().close());
            match closed {
                Ok(()) => self.note_durable(index),
                Err(error) => self.end_with_error(index, &error.to_string(), injected),
            }
        }
        self.take_down(index, file);
    }

    /// A process is gone, and comes back some time.
    pub(super) fn take_down(&mut self, index: usize, file: FileFate) {
        let (low, high) = match self.nodes[index].kind {
            Kind::Origin => ORIGIN_DOWN_MS,
            Kind::Device => DEVICE_DOWN_MS,
            Kind::Relay | Kind::Replica => (0, 3_000),
        };
        let until = self.now.after(self.random.millis(low, high));
        let node = &mut self.nodes[index];
        node.serving.server = None;
        node.following.client = None;
        node.following.attached = None;
        node.following.hearing.is_member = false;
        node.device = None;
        node.leaves = None;
        node.doing = Doing::Down { until, file };
        node.plan();
    }

    fn say_goodbye(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if let Some(server) = &mut node.serving.server {
            server.leave();
            self.drain_server(index);
        }
        let node = &mut self.nodes[index];
        node.save();
        if let Some(client) = &mut node.following.client {
            client.leave();
            self.send_from_client(index);
        }
        if let Some(device) = &mut self.nodes[index].device {
            device.leave();
            self.drain_device(index);
        }
    }

    /// Begins a new run of a process.
    pub(super) fn start(&mut self, index: usize, file: FileFate) {
        let node = &mut self.nodes[index];
        node.doing = Doing::Runs;
        node.run += 1;
        let older = node.path.with_extension("older");
        match (node.kind, file) {
            (Kind::Origin | Kind::Device, _) | (_, FileFate::Same) => {}
            (_, FileFate::Older) if older.exists() => {
                fs::copy(older, &node.path).expect("a copy of a file");
                // What was rotten or forged then is so again.
                let faults = &self.options.faults;
                let may_rot = faults.rot > 0 || faults.forged_leaves > 0;
                node.following.excused = may_rot.then_some(self.now).or(node.following.excused);
            }
            (_, FileFate::Older | FileFate::Gone) => {
                // There may be none yet.
                let _ = fs::remove_file(&node.path);
            }
        }
        if file != FileFate::Same {
            self.note_durable(index);
        }
        self.trace.note(self.now, format!("start {}", self.names[index]));
        match self.nodes[index].kind {
            Kind::Origin => self.start_origin(file),
            Kind::Relay | Kind::Replica => self.start_client(index),
            Kind::Device => self.start_device(index),
        }
    }

    fn start_origin(&mut self, file: FileFate) {
        let is_older = file == FileFate::Older && !self.snapshots.is_empty();
        let path = self.nodes[0].path.clone();
        if is_older {
            let chosen = self.random.index(self.snapshots.len());
            fs::copy(&self.snapshots[chosen], &path).expect("a copy of a file");
            for gone in self.snapshots.drain(chosen + 1..) {
                fs::remove_file(gone).expect("a copy that is there");
            }
        }
        // Where trouble ends all that is down begins at once, and to put a file back takes a
        // while: within the second of a life before it would begin the same again (R39).
        let put_back_s = if is_older { self.last_life_s + 1 } else { 0 };
        let unix_s = self.unix_s().max(put_back_s);
        if is_older {
            self.note_durable(0);
        }
        let has_lost = core::mem::take(&mut self.has_lost_power);
        let (opened, injected) = self.suffer(0, |world| world.open_origin(&path, unix_s, has_lost));
        let (tree, life) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.has_lost_power = has_lost;
                self.has_older_file |= is_older;
                return self.end_with_error(0, &error, injected);
            }
        };
        self.last_life_s = self.last_life_s.max(Life::EPOCH_UNIX_S + u64::from(life.0));
        self.note_durable_state(0);
        let is_older = is_older || core::mem::take(&mut self.has_older_file);
        let leaves = SimLeaves::new(tree, Mark::Changed, Coverage::Whole, self.planted);
        // After a power loss any leaf may be older, whatever the newest one is.
        let start = if has_lost { Revision::ZERO } else { leaves.life_start() };
        let is_older = is_older || has_lost;
        self.checks.life_began(life, start, is_older);
        if is_older {
            self.excuse_those_behind_relays();
        }
        self.checks.reopened(&leaves, is_older);
        self.nodes[0].leaves = Some(leaves);
        self.serve(0);
    }

    /// As the server's loop begins: open, follow the schema, begin a life.
    fn open_origin(
        &mut self,
        path: &Path,
        unix_s: u64,
        has_lost: bool,
    ) -> Result<(Tree, Life), String> {
        let damaged = if has_lost { Damaged::Reset } else { Damaged::Refuse };
        let options = OpenOptions { role: TreeRole::Server, damaged, unix_s };
        let (mut tree, _) = Tree::open(path, options).map_err(|error| error.to_string())?;
        if tree.layout_hash() != self.layouts.newest().layout_hash() {
            let grown = tree.grow(self.layouts.newest().clone());
            if has_another_file(&grown) {
                self.note_durable(0);
            }
            grown.map_err(|error| error.to_string())?;
        }
        let life = tree.begin_life(unix_s).map_err(|error| error.to_string())?;
        Ok((tree, life))
    }

    // Writes.

    /// Device that owns a leaf; others are written at the origin itself. It is the
    /// leaf's place that counts: that stays when the tree grows.
    fn owner_of(&self, leaf: u32) -> Option<usize> {
        let devices = self.options.devices;
        if devices == 0 || TWINS.contains(&leaf) {
            return None;
        }
        let place = place_in(self.layouts.newest(), leaf)?;
        let number = (place.parent + place.position) % (devices + 1);
        let first = self.nodes.len() - devices as usize;
        Some(first + number.checked_sub(1)? as usize)
    }

    /// The schema gets more leaves, and the origin follows it.
    pub(super) fn extend_schema(&mut self) {
        let more = self.random.between(1, u64::from(self.options.leaves)) as u32;
        if !self.nodes[0].runs() || !self.layouts.extend(&self.options, more) {
            return;
        }
        let layout = self.layouts.newest().clone();
        self.trace.note(self.now, format!("grow to {} leaves", layout.leaf_count()));
        let Some(mut leaves) = self.nodes[0].leaves.take() else { return };
        let (grown, injected) = self.suffer(0, |_| leaves.grow(layout));
        self.nodes[0].leaves = Some(leaves);
        if has_another_file(&grown) {
            self.note_durable(0);
        }
        match grown {
            Ok(()) => {
                self.checks.counted.growths += 1;
                self.send_to_the_door(0);
                self.nodes[0].plan();
            }
            Err(error @ GrowError::Name(_)) => {
                self.end_with_error(0, &error.to_string(), injected);
            }
            // It serves the old tree on, and whoever runs it takes the schema back.
            Err(error) => {
                if injected == Injected::No {
                    self.checks.fail("an error has a cause", || error.to_string());
                }
                self.layouts.take_back();
            }
        }
    }

    /// One round of writes.
    pub(super) fn write(&mut self) {
        let pause = self.random.millis(0, 2 * self.options.write_every_ms);
        self.next_write = self.now.after(pause + Duration::from_micros(1));
        if self.random.chance(0.2) {
            let data = self.new_data();
            TWINS.iter().for_each(|leaf| self.write_at_origin(*leaf, &data));
        }
        for _ in 0..self.random.between(1, u64::from(self.options.write_leaves)) {
            let leaf = self.random.index(self.layouts.newest().leaf_count() as usize) as u32;
            let data = self.new_data();
            match self.owner_of(leaf) {
                None if !TWINS.contains(&leaf) => self.write_at_origin(leaf, &data),
                None => {}
                Some(index) => self.report(index, leaf, &data),
            }
        }
    }

    pub(super) fn new_data(&mut self) -> Vec<u8> {
        self.version += 1;
        let len = self.random.between(8, u64::from(self.options.capacity)) as usize;
        let mut data = Vec::with_capacity(len);
        data.extend_from_slice(&self.version.to_le_bytes());
        data.resize(len, self.random.next_u64() as u8);
        data
    }

    pub(super) fn write_at_origin(&mut self, leaf: u32, data: &[u8]) {
        let node = &mut self.nodes[0];
        let Some(leaves) = node.leaves.as_mut().filter(|_| node.doing == Doing::Runs) else {
            return;
        };
        leaves.write(DataLocId(leaf), data).expect("a leaf with room");
        if !self.bury(0) {
            self.look_at_writes(0);
        }
    }

    fn report(&mut self, index: usize, leaf: u32, data: &[u8]) {
        let node = &mut self.nodes[index];
        let place = place_in(self.layouts.newest(), leaf);
        // It knows the leaf, if at all, by another number.
        let leaf = node.device_layout.as_ref().and_then(|layout| leaf_at(layout, place?));
        let Some(device) = node.device.as_mut().filter(|_| node.doing == Doing::Runs) else {
            return;
        };
        let Some(leaf) = leaf else { return };
        // A full window, or no session yet: this change is never reported.
        let _ = device.report(self.now, DataLocId(leaf), data);
        if self.random.chance(0.7) {
            self.drain_device(index);
            self.nodes[index].plan();
        }
    }
}
