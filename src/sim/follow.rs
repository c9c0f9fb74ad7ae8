//! Replicas and relays in the world: the client driven as the product's mirror
//! drives it, and its verdicts judged.

use core::time::Duration;
use std::rc::Rc;

use crate::bridge;
use crate::bridge::Coverage;
use crate::layout::Life;
use crate::layout::TreeRole;
use crate::sim::checks::Found;
use crate::sim::hearing::Hearing;
use crate::sim::leaves::SimLeaves;
use crate::sim::network::Cargo;
use crate::sim::network::client_port;
use crate::sim::network::serving_port;
#[cfg(test)]
use crate::sim::node::Following;
use crate::sim::node::Kind;
use crate::sim::node::Node;
#[cfg(test)]
use crate::sim::planted::Planted;
use crate::sim::storage::Injected;
use crate::sim::storage::has_another_file;
use crate::sim::witness::Witness;
use crate::sim::witness::is_for;
use crate::sim::world::World;
use crate::sync::Client;
use crate::sync::ClientConfig;
use crate::sync::ClientEvent;
use crate::sync::Held;
use crate::sync::Joined;
use crate::sync::Leaves;
use crate::sync::ReplicaLeaves;
use crate::sync::Transmit;
use crate::tree::CreateOptions;
use crate::tree::Damaged;
use crate::tree::Ending;
use crate::tree::Layout;
use crate::tree::Mark;
use crate::tree::OpenOptions;
use crate::tree::Tree;

/// A replica's progress is written down this often, as the product does.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

fn mark_of(kind: Kind) -> Mark {
    if kind == Kind::Relay { Mark::Changed } else { Mark::Quiet }
}

fn coverage_of(node: &Node) -> Coverage {
    if node.filter.is_some() { Coverage::Part } else { Coverage::Whole }
}

impl World {
    /// A process of a replica or relay begins, with the file that is there.
    pub(super) fn start_client(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.following.held = Held::Nothing;
        node.following.attached = None;
        node.following.told = 0;
        node.following.judged = (0, 0, 0);
        node.following.witness = Witness::default();
        node.following.kept = None;
        node.following.hearing = Hearing::default();
        node.leaves = None;
        if node.path.exists()
            && let Err((error, injected)) = self.open_copy(index)
        {
            return self.end_with_error(index, &error, injected);
        }
        let node = &mut self.nodes[index];
        let config = ClientConfig {
            filter: node.filter.map_or(String::new(), |parent| format!("/p{parent}")),
            held: node.leaves.as_ref().map(|leaves| bridge::held_tree(leaves.tree())),
            receive_buffer: self.options.receive_buffer,
            audit_interval: Duration::from_millis(self.options.request_period_ms),
        };
        let random = Box::new(node.random.fork());
        node.following.client = Some(Client::new(config, random, self.now));
        node.following.next_save = self.now.after(SAVE_INTERVAL);
    }

    /// Opens the file of an earlier run, as the mirror does.
    fn open_copy(&mut self, index: usize) -> Result<(), (String, Injected)> {
        let (unix_s, path) = (self.unix_s(), self.nodes[index].path.clone());
        let options = OpenOptions { role: TreeRole::Replica, damaged: Damaged::Reset, unix_s };
        let (opened, injected) = self.suffer(index, |_| Tree::open(&path, options));
        let (tree, recovery) = opened.map_err(|error| (error.to_string(), injected))?;
        self.note_durable_state(index);
        let node = &mut self.nodes[index];
        // An older copy of a file may be one of a power loss, too.
        if recovery.damaged_count > 0 && recovery.ending != Ending::PowerLoss {
            let name = &self.names[index];
            self.checks.fail("no leaf is torn", || format!("{name}: {recovery:?}"));
        }
        node.following.held = bridge::held(&tree, &recovery);
        let coverage = coverage_of(node);
        node.leaves = Some(SimLeaves::new(tree, mark_of(node.kind), coverage, self.planted));
        Ok(())
    }

    /// Something for a client's socket.
    pub(super) fn client_hears(&mut self, index: usize, cargo: &Cargo) {
        let node = &mut self.nodes[index];
        let Some(client) = &mut node.following.client else { return };
        match cargo {
            Cargo::Unreachable => client.handle_unreachable(self.now),
            Cargo::Datagram { bytes, told } => {
                let was_told = told.filter(|_| is_for(client, bytes));
                #[cfg(test)]
                let bytes = &node.following.bend(self.planted, node.leaves.as_mut(), bytes);
                let Some(client) = &mut node.following.client else { return };
                client.handle_datagram(self.now, bytes, node.leaves.as_mut());
                node.following.told = node.following.told.max(was_told.unwrap_or(0));
                self.look_at_answer(index, bytes);
            }
        }
        if self.bury(index) {
            return;
        }
        self.look_at_steps(index);
        self.witness(index, cargo.bytes());
        self.drain_client(index);
    }

    /// What is due at a client by now.
    pub(super) fn client_timers(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let following = &mut node.following;
        let Some(client) = &mut following.client else { return };
        if client.poll_timeout().is_some_and(|due| due <= self.now) {
            client.handle_timeout(self.now, node.leaves.as_mut());
            if self.bury(index) {
                return;
            }
            self.drain_client(index);
            self.witness(index, None);
        }
        self.look_at_silence(index);
        let node = &mut self.nodes[index];
        if node.following.next_save <= self.now {
            node.following.next_save = self.now.after(SAVE_INTERVAL);
            node.save();
            self.bury(index);
        }
    }

    pub(super) fn drain_client(&mut self, index: usize) {
        self.judge(index);
        loop {
            self.send_from_client(index);
            let node = &mut self.nodes[index];
            let Some(client) = &mut node.following.client else { return };
            let Some(event) = client.poll_event() else { break };
            match event {
                ClientEvent::Joined(joined) => self.joined(index, joined),
                ClientEvent::Layout => self.layout_came(index),
                ClientEvent::Refused(error) => {
                    let name = &self.names[index];
                    self.checks.fail("liveness", || format!("{name}: {error}"));
                }
                ClientEvent::GroupSilent => self.checks.counted.group_silent += 1,
                ClientEvent::Rejoining
                | ClientEvent::InSync
                | ClientEvent::OutOfSync
                | ClientEvent::GroupHeard => {}
            }
        }
        self.look_at_silence(index);
        self.follow_group(index);
        self.relay(index);
    }

    pub(super) fn send_from_client(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let path = (client_port(index, node.run), serving_port(node.upstream));
        loop {
            let client = self.nodes[index].following.client.as_mut();
            let Some(transmit) = client.and_then(Client::poll_transmit) else { return };
            let Transmit::Datagram { bytes, .. } = transmit else {
                panic!("a client sends finished datagrams")
            };
            let bytes: Rc<[u8]> = bytes.into();
            #[cfg(test)]
            let Some(bytes) = self.bent(index, &bytes) else { continue };
            self.look_at_request(index, &bytes);
            self.net.send(self.now, path, bytes, None, &mut self.trace);
        }
    }

    fn joined(&mut self, index: usize, joined: Joined) {
        let node = &mut self.nodes[index];
        let has_layout =
            node.leaves.as_ref().is_some_and(|leaves| leaves.layout_hash() == joined.layout_hash);
        if !has_layout {
            // It is on its way.
            return;
        }
        match node.following.attached {
            Some(before) if before.layout_hash == joined.layout_hash => {
                node.follows(joined);
            }
            _ => self.attach(index, joined),
        }
    }

    fn layout_came(&mut self, index: usize) {
        let node = &self.nodes[index];
        let Some(client) = &node.following.client else { return };
        let Some(joined) = client.joined().copied() else { return };
        let layout = Layout::from_blob(client.layout_blob()).expect("the origin's layout");
        let made = match self.nodes[index].leaves.take() {
            Some(leaves) => self.grow_copy(index, leaves, layout),
            None => self.create_copy(index, &joined, layout),
        };
        match made {
            Ok(leaves) => {
                self.nodes[index].leaves = Some(leaves);
                self.note_durable(index);
                self.attach(index, joined);
            }
            Err((error, injected)) => self.end_with_error(index, &error, injected),
        }
    }

    fn grow_copy(
        &mut self,
        index: usize,
        mut leaves: SimLeaves,
        layout: Layout,
    ) -> Result<SimLeaves, (String, Injected)> {
        // Twin leaves may lie elsewhere then.
        self.nodes[index].following.kept = None;
        let (grown, injected) = self.suffer(index, |_| leaves.grow(layout));
        if has_another_file(&grown) {
            self.note_durable(index);
        }
        grown.map(|()| leaves).map_err(|error| (error.to_string(), injected))
    }

    fn create_copy(
        &mut self,
        index: usize,
        joined: &Joined,
        layout: Layout,
    ) -> Result<SimLeaves, (String, Injected)> {
        let options = CreateOptions {
            role: TreeRole::Replica,
            tree_id: joined.tree_id,
            life: joined.life,
            unix_s: 0,
        };
        let path = self.nodes[index].path.clone();
        let (tree, injected) = self.suffer(index, |_| Tree::create(&path, layout, options));
        if tree.is_err() && path.exists() {
            let what = || format!("{}: {tree:?}", path.display());
            self.checks.fail("what could not be made leaves nothing", what);
        }
        let tree = tree.map_err(|error| (error.to_string(), injected))?;
        let node = &mut self.nodes[index];
        node.following.held = Held::Nothing;
        Ok(SimLeaves::new(tree, mark_of(node.kind), coverage_of(node), self.planted))
    }

    fn attach(&mut self, index: usize, joined: Joined) {
        let node = &mut self.nodes[index];
        let before = node.following.attached;
        node.follows(joined);
        // What this run has brought, or an earlier one.
        let held = match before {
            None => node.following.held,
            Some(before) => {
                let client = node.following.client.as_ref();
                bridge::held_up_to(before.life, client.and_then(Client::lasting_watermark))
            }
        };
        let (Some(client), Some(leaves)) = (&mut node.following.client, &mut node.leaves) else {
            return;
        };
        client.attach(self.now, held, leaves);
    }

    /// Whether a process says that it is in sync.
    pub(super) fn says_in_sync(&self, index: usize) -> bool {
        let Some(client) = &self.nodes[index].following.client else { return false };
        #[cfg(test)]
        if self.planted == Planted::InSyncUnproven {
            let progress = client.progress();
            return client.is_attached() && progress.held_leaves == progress.wanted_leaves;
        }
        client.is_in_sync()
    }

    /// A verdict is right when the copy equals the end of a period of its server
    /// that is not before the last one that it was told of.
    fn judge(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(client) = &node.following.client else { return };
        let counters = client.counters();
        let judged = (counters.periods, counters.digest_matches, node.following.told);
        let before = core::mem::replace(&mut node.following.judged, judged);
        if before == judged || !self.says_in_sync(index) {
            return;
        }
        // Told of a period, but no verdict yet: some of its leaves may be there.
        let is_verdict = (before.0, before.1) != (judged.0, judged.1);
        let node = &self.nodes[index];
        let Some(leaves) = &node.leaves else { return };
        self.checks.counted.verdicts += 1;
        let state = leaves.state().under(node.filter);
        let told = node.following.told;
        let found = self.nodes[node.upstream].serving.ends.find(state, node.filter, told);
        let name = &self.names[index];
        match found {
            Found::Current => self.absolve(index),
            // It cannot know yet what was done to its copy.
            Found::Stale(_) if !is_verdict && node.following.excused.is_some() => {}
            Found::Stale(end) => self.checks.fail("in sync means equal", || {
                format!("{name} says that it is in sync, told of period {told}, equal to {end}")
            }),
            Found::Never if !is_verdict => {}
            Found::Never => self.checks.fail("in sync means equal", || {
                format!("{name} says that it is in sync, and equals no period's end")
            }),
        }
    }
}

#[cfg(test)]
impl World {
    /// What a client with the planted bug sends instead.
    fn bent(&self, index: usize, bytes: &[u8]) -> Option<Rc<[u8]>> {
        let client = self.nodes[index].following.client.as_ref()?;
        crate::sim::bent::said(self.planted, client, bytes).map(Rc::from)
    }
}

#[cfg(test)]
impl Following {
    /// What a client with the planted bug hears of a datagram.
    fn bend(&mut self, planted: Planted, leaves: Option<&mut SimLeaves>, bytes: &[u8]) -> Vec<u8> {
        let Some(client) = &self.client else { return bytes.to_vec() };
        let life = leaves.as_ref().map_or(Life(0), |leaves| leaves.life());
        if let Some(leaves) = leaves {
            let is_answer = is_for(client, bytes) && is_answer_in_sync(bytes);
            leaves.set_careless(is_answer && self.witness.differs());
        }
        self.bent.heard(planted, client, life, bytes)
    }
}

#[cfg(test)]
fn is_answer_in_sync(bytes: &[u8]) -> bool {
    use crate::wire::Datagram;
    use crate::wire::Flags;
    matches!(crate::wire::decode(bytes), Ok((header, Datagram::Response(..)))
        if Flags(header.flags.get()).has(Flags::SOURCE_IN_SYNC))
}

impl Node {
    fn follows(&mut self, joined: Joined) {
        if let Some(leaves) = &mut self.leaves {
            leaves.set_upstream_life_start(joined.life_start);
        }
        self.following.attached = Some(joined);
    }

    /// Writes down how far the copy has got.
    pub(super) fn save(&mut self) {
        let (Some(client), Some(leaves)) = (&self.following.client, &mut self.leaves) else {
            return;
        };
        if let (Some(_), Some(watermark)) = (self.following.attached, client.lasting_watermark()) {
            let life: Life = leaves.life();
            leaves.follow(life, watermark);
        }
    }
}
