//! What the tests of this layer share: seeded randomness, a keyed hash, a tree in
//! plain memory, and a world of one server and its clients over virtual time.

use core::net::Ipv4Addr;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;

use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::DataLocId;
use crate::layout::Digest;
use crate::layout::LayoutHash;
use crate::layout::LeafHead;
use crate::layout::Life;
use crate::layout::Parent;
use crate::layout::ParentId;
use crate::layout::ParentName;
use crate::layout::Revision;
use crate::layout::TreeId;
use crate::layout::leaf_wire_len;
use crate::sync::Client;
use crate::sync::ClientConfig;
use crate::sync::ClientEvent;
use crate::sync::CommitId;
use crate::sync::Device;
use crate::sync::DeviceConfig;
use crate::sync::DeviceEvent;
use crate::sync::Held;
use crate::sync::HeldTree;
use crate::sync::LayoutWish;
use crate::sync::Leaves;
use crate::sync::PeriodEnd;
use crate::sync::Recipients;
use crate::sync::ReplicaLeaves;
use crate::sync::ServedLeaves;
use crate::sync::Server;
use crate::sync::ServerConfig;
use crate::sync::SourceState;
use crate::sync::Transmit;
use crate::sync::WriteRefusal;
use crate::sync::time::RandomSource;
use crate::sync::time::Time;
use crate::wire;
use crate::wire::Leaf;
use crate::wire::LeafSource;

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Seeded {
        Seeded(seed)
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        (self.next_u64() >> 11) as f64 / ((1_u64 << 53) as f64) < probability
    }
}

impl RandomSource for Seeded {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// FNV-1a with a key: tells messages apart, which is all that a test needs.
pub(crate) fn mac(key: [u64; 2], message: &[u8]) -> [u64; 2] {
    key.map(|start| {
        message.iter().fold(start ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemLeaf {
    pub(crate) head: LeafHead,
    pub(crate) data: Vec<u8>,
}

/// A tree in plain memory: what `sync` needs, without files.
#[derive(Clone, Debug)]
pub(crate) struct MemTree {
    tree_id: TreeId,
    pub(crate) life: Life,
    pub(crate) life_start: Revision,
    pub(crate) newest: Revision,
    parents: Vec<Parent>,
    capacity: usize,
    pub(crate) leaves: Vec<MemLeaf>,
    checksums: Vec<u32>,
    changed: std::collections::BTreeSet<u32>,
    blob: Vec<u8>,
    pub(crate) marks: bool,
    pub(crate) noted: (Life, Revision),
    /// Writes that wait for a commit, where a write is not durable at once.
    pub(crate) staged: Option<Vec<(u32, LeafHead, Vec<u8>)>>,
    /// The commit that they wait for.
    commit: u64,
}

fn head(leaf: u32, revision: Revision, data: &[u8]) -> LeafHead {
    let mut head = LeafHead {
        checksum: U32::ZERO,
        data_size: U32::new(data.len() as u32),
        data_loc_id: U32::new(leaf),
        reserved: U32::ZERO,
        revision: U64::new(revision.0),
    };
    head.checksum = U32::new(wire::leaf_checksum(&head, data));
    head
}

impl MemTree {
    /// Two parents, `a` and `b`, with half of the leaves each.
    pub(crate) fn new(leaf_count: u32, capacity: usize) -> MemTree {
        let half = leaf_count / 2;
        let parent = |id: u32, name: &str, first: u32, end: u32| Parent {
            parent_id: U32::new(id),
            enclosing_parent_id: U32::new(ParentId::NONE.0),
            first_leaf_loc_id: U32::new(first),
            last_leaf_loc_id: U32::new(end - 1),
            capacity: U32::new(capacity as u32),
            stride: U32::new(64),
            first_record_offset: U64::new(4096),
            name: ParentName::new(name).unwrap().bytes(),
        };
        let leaves: Vec<MemLeaf> = (0..leaf_count)
            .map(|leaf| MemLeaf { head: head(leaf, Revision::ZERO, &[]), data: Vec::new() })
            .collect();
        let blob = [&[0; 8][..], &leaf_count.to_le_bytes(), &vec![7; 5_000]].concat();
        MemTree {
            tree_id: TreeId(0x7ee),
            life: Life(1),
            life_start: Revision::ZERO,
            newest: Revision::ZERO,
            parents: vec![parent(0, "a", 0, half), parent(1, "b", half, leaf_count)],
            capacity,
            checksums: leaves.iter().map(|leaf| leaf.head.checksum.get()).collect(),
            leaves,
            changed: Default::default(),
            blob,
            marks: false,
            noted: (Life(0), Revision::ZERO),
            staged: None,
            commit: 0,
        }
    }

    /// Makes durable what waits, and names the commit that did.
    fn commit_staged(&mut self) -> CommitId {
        for (leaf, head, data) in self.staged.replace(Vec::new()).into_iter().flatten() {
            self.store(leaf, head, &data);
            self.changed.insert(leaf);
        }
        self.commit += 1;
        CommitId(self.commit - 1)
    }

    pub(crate) fn begin_life(&mut self, life: u32) {
        self.life_start = self.newest;
        self.life = Life(life);
        self.newest = self.newest.max(self.life.base());
    }

    /// Computes the checksum column again, as opening a file does.
    pub(crate) fn reindex(&mut self) {
        self.checksums = self.leaves.iter().map(|leaf| leaf.head.checksum.get()).collect();
    }

    fn store(&mut self, leaf: u32, head: LeafHead, data: &[u8]) {
        let revision = Revision(head.revision.get());
        self.newest = self.newest.max(revision);
        self.checksums[leaf as usize] = head.checksum.get();
        self.leaves[leaf as usize] = MemLeaf { head, data: data.to_vec() };
    }
}

impl Leaves for MemTree {
    fn tree_id(&self) -> TreeId {
        self.tree_id
    }
    fn life(&self) -> Life {
        self.life
    }
    fn layout_hash(&self) -> LayoutHash {
        LayoutHash(crate::kernel::crc32c(&self.blob[8..]))
    }
    fn leaf_count(&self) -> u32 {
        self.leaves.len() as u32
    }
    fn parents(&self) -> &[Parent] {
        &self.parents
    }
    fn parent_at(&self, path: &str) -> Option<ParentId> {
        let name = path.strip_prefix('/')?;
        let index = self.parents.iter().position(|parent| parent.name() == Some(name))?;
        Some(ParentId(index as u32))
    }
    fn checksums(&self) -> &[u32] {
        &self.checksums
    }
    fn revision(&self, leaf: DataLocId) -> Revision {
        self.leaves
            .get(leaf.index())
            .map_or(Revision::ZERO, |leaf| Revision(leaf.head.revision.get()))
    }
    fn next_changed_since(&self, from: u32, end: u32, since: Revision) -> Option<DataLocId> {
        (from..end).map(DataLocId).find(|leaf| self.revision(*leaf) > since)
    }
    fn newest_revision(&self) -> Revision {
        let revisions = self.leaves.iter().map(|leaf| leaf.head.revision.get());
        Revision(revisions.max().unwrap_or(0))
    }
    fn digest(&self) -> Digest {
        self.digest_of_parent(ParentId(0)).plus(self.digest_of_parent(ParentId(1)))
    }
    fn digest_of_parent(&self, parent: ParentId) -> Digest {
        self.parents[parent.index()].leaves().fold(Digest::default(), |sum, leaf| {
            let head = &self.leaves[leaf as usize].head;
            let revision = Revision(head.revision.get());
            sum.plus(Digest::of_leaf(DataLocId(leaf), revision, head.checksum.get()))
        })
    }
}

impl ServedLeaves for MemTree {
    fn life_start(&self) -> Revision {
        self.life_start
    }
    fn wire_len(&self, leaf: DataLocId) -> usize {
        leaf_wire_len(self.leaves[leaf.index()].data.len())
    }
    fn is_changed(&self, leaf: DataLocId) -> bool {
        self.changed.contains(&leaf.0)
    }
    fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }
    fn take_changes(&mut self, into: &mut Vec<DataLocId>) {
        into.extend(core::mem::take(&mut self.changed).into_iter().map(DataLocId));
    }
    fn write(&mut self, leaf: DataLocId, data: &[u8]) -> Result<Revision, WriteRefusal> {
        self.check_write(leaf, data.len())?;
        let revision = self.newest.max(self.life.base()).next();
        if let Some(staged) = &mut self.staged {
            self.newest = revision;
            staged.push((leaf.0, head(leaf.0, revision, data), data.to_vec()));
            return Ok(revision);
        }
        self.store(leaf.0, head(leaf.0, revision, data), data);
        self.changed.insert(leaf.0);
        Ok(revision)
    }
    fn commit(&self) -> Option<CommitId> {
        self.staged.as_ref().map(|_| CommitId(self.commit))
    }
    fn check_write(&self, leaf: DataLocId, data_size: usize) -> Result<(), WriteRefusal> {
        if leaf.0 >= self.leaf_count() {
            return Err(WriteRefusal::UnknownLeaf { leaf_count: self.leaf_count() });
        }
        if data_size > self.capacity {
            return Err(WriteRefusal::TooLarge { capacity: self.capacity as u32 });
        }
        Ok(())
    }
    fn layout_blob(&self) -> &[u8] {
        &self.blob
    }
}

impl ReplicaLeaves for MemTree {
    fn apply(&mut self, leaf: &Leaf<'_>) -> bool {
        let id = leaf.data_loc_id().0;
        self.store(id, *leaf.head, leaf.data);
        if self.marks {
            self.changed.insert(id);
        }
        true
    }
    fn follow(&mut self, life: Life, watermark: Revision) {
        self.life = life;
        self.noted = (life, watermark);
    }
}

impl LeafSource for MemTree {
    fn copy_wire(&self, leaf: DataLocId, to: &mut [u8]) -> Option<usize> {
        let leaf = self.leaves.get(leaf.index())?;
        let bytes = [zerocopy::IntoBytes::as_bytes(&leaf.head), &leaf.data].concat();
        let len = leaf_wire_len(leaf.data.len());
        to.get_mut(..bytes.len())?.copy_from_slice(&bytes);
        to.get_mut(bytes.len()..len)?.fill(0);
        Some(len)
    }
}

/// What the network does to a datagram.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) loss: f64,
    pub(crate) duplication: f64,
    /// Each datagram takes up to this many microseconds more than another.
    pub(crate) jitter_us: u64,
}

/// A client and its copy.
pub(crate) struct Copy {
    pub(crate) client: Client,
    pub(crate) tree: Option<MemTree>,
    pub(crate) verdicts: Vec<ClientEvent>,
    /// Whether datagrams to it wait (a stopped process), or are lost.
    pub(crate) is_stopped: bool,
    /// It wants some of the leaves only.
    is_partial: bool,
    /// It joins the multicast group that a server tells of.
    pub(crate) wants_group: bool,
    waiting: Vec<(Way, Vec<u8>)>,
}

/// By which of a client's sockets a datagram comes. Those of the group are read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Group,
    Own,
}

/// One server, its clients and devices, and the network between them.
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) random: Seeded,
    pub(crate) weather: Weather,
    /// That of the group, if it is another one.
    pub(crate) group_weather: Option<Weather>,
    /// EVENTs of these numbers are lost, once each.
    pub(crate) doomed: Vec<u64>,
    /// Datagrams that the server sent to the group.
    pub(crate) sent_to_group: u64,
    pub(crate) tree: MemTree,
    pub(crate) server: Server,
    pub(crate) config: ServerConfig,
    pub(crate) copies: Vec<Copy>,
    pub(crate) device: Device,
    pub(crate) device_events: Vec<DeviceEvent>,
    pub(crate) acknowledged: u64,
    next_period: Time,
    order: u64,
    in_flight: BTreeMap<(Time, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    /// What the server says of its source: a relay's may be behind.
    pub(crate) source: SourceState,
    /// The server's leaves at the end of each of the last periods.
    period_ends: std::collections::VecDeque<Vec<MemLeaf>>,
}

/// Ends of periods that are remembered: more than any datagram is late.
const PERIOD_ENDS: usize = 64;

const SERVER: SocketAddr = SocketAddr::new(core::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
const DEVICE_PORT: u16 = 2;
const FIRST_CLIENT_PORT: u16 = 100;
/// Where members of the group get what is sent to it.
const FIRST_MEMBER_PORT: u16 = 10_000;
/// The multicast group.
pub(crate) const GROUP: SocketAddr =
    SocketAddr::new(core::net::IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3)), 7);
/// What a datagram takes at least.
pub(crate) const FLIGHT_US: u64 = 200;

fn at_port(port: u16) -> SocketAddr {
    SocketAddr::new(SERVER.ip(), port)
}

pub(crate) fn origin(tree: &impl Leaves) -> PeriodEnd {
    PeriodEnd { watermark: tree.newest_revision(), source: SourceState::InSync }
}

impl World {
    pub(crate) fn new(seed: u64, mut tree: MemTree, clients: usize) -> World {
        let mut random = Seeded::new(seed);
        let config = ServerConfig::new(mac);
        tree.begin_life(10);
        let server_random = Box::new(Seeded::new(random.next_u64()));
        let end = origin(&tree);
        let server = Server::new(config.clone(), server_random, Time(0), end, &mut tree);
        let device = Device::new(
            DeviceConfig { layout: LayoutWish::Skip, tree_id: None },
            Box::new(Seeded::new(random.next_u64())),
            Time(0),
        );
        let mut world = World {
            now: Time(0),
            random,
            weather: Weather::default(),
            group_weather: None,
            doomed: Vec::new(),
            sent_to_group: 0,
            tree,
            server,
            config,
            copies: Vec::new(),
            device,
            device_events: Vec::new(),
            acknowledged: 0,
            next_period: Time(0),
            order: 0,
            in_flight: BTreeMap::new(),
            source: SourceState::InSync,
            period_ends: Default::default(),
        };
        for _ in 0..clients {
            world.add_client("", None);
        }
        world
    }

    /// Adds a client, with the copy that it has from an earlier run.
    pub(crate) fn add_client(&mut self, filter: &str, tree: Option<MemTree>) -> usize {
        let client = self.new_client(filter, tree.as_ref());
        self.copies.push(Copy {
            client,
            tree,
            verdicts: Vec::new(),
            is_stopped: false,
            is_partial: !filter.is_empty(),
            wants_group: false,
            waiting: Vec::new(),
        });
        self.copies.len() - 1
    }

    fn new_client(&mut self, filter: &str, tree: Option<&MemTree>) -> Client {
        let mut config = ClientConfig::new(425_984);
        config.filter = filter.to_owned();
        config.held = tree.map(|tree| HeldTree {
            tree_id: tree.tree_id(),
            layout_hash: tree.layout_hash(),
            life: tree.noted.0,
            watermark: tree.noted.1,
        });
        Client::new(config, Box::new(Seeded::new(self.random.next_u64())), self.now)
    }

    /// Replaces a client by a new one with the same copy: a process restarted.
    pub(crate) fn restart_client(&mut self, index: usize) {
        let tree = self.copies[index].tree.clone();
        let client = self.new_client("", tree.as_ref());
        self.copies[index].client = client;
    }

    /// A new run of the server, on the tree as it is now.
    pub(crate) fn restart_server(&mut self, life: u32) {
        self.tree.begin_life(life);
        let random = Box::new(Seeded::new(self.random.next_u64()));
        let end = PeriodEnd { source: self.source, ..origin(&self.tree) };
        self.server = Server::new(self.config.clone(), random, self.now, end, &mut self.tree);
    }

    /// Makes durable what was written, where that takes a commit, and says so.
    pub(crate) fn commit(&mut self) {
        let written = self.tree.staged.as_ref().map_or(0, |staged| staged.len() as u64);
        let commit = self.tree.commit_staged();
        self.server.note_writes(written);
        self.server.handle_committed(commit);
        self.drain_server();
    }

    /// The server loses what was not durable, and begins another life.
    pub(crate) fn lose_power(&mut self, life: u32) {
        self.tree.staged = Some(Vec::new());
        self.restart_server(life);
    }

    /// Hands a client bytes as if the server had sent them.
    pub(crate) fn forge(&mut self, index: usize, bytes: Vec<u8>) {
        self.copies[index].waiting.push((Way::Own, bytes));
        self.run_client(index);
    }

    /// The same as if it had come by the group.
    pub(crate) fn forge_by_group(&mut self, index: usize, bytes: Vec<u8>) {
        self.copies[index].waiting.push((Way::Group, bytes));
        self.run_client(index);
    }

    /// Hands the server bytes from a port, and gives what it answers.
    pub(crate) fn knock(&mut self, port: u16, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.server.handle_datagram(self.now, at_port(port), bytes, &mut self.tree);
        let mut answers = Vec::new();
        while let Some(transmit) = self.server.poll_transmit() {
            let Transmit::Datagram { bytes, .. } = transmit else { continue };
            answers.push(bytes.to_vec());
        }
        answers
    }

    pub(crate) fn write(&mut self, leaf: u32, data: &[u8]) {
        self.tree.write(DataLocId(leaf), data).unwrap();
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        self.run_until(duration, |_| false);
    }

    /// Runs until `done`, or for `at_most`; says whether it was done.
    pub(crate) fn run_until(&mut self, at_most: Duration, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now.after(at_most);
        while self.now < end && !done(self) {
            self.step(end);
        }
        done(self)
    }

    /// Moves to the next moment at which something is due, `end` at the latest,
    /// and does it.
    fn step(&mut self, end: Time) {
        let arrival = self.in_flight.keys().next().map(|(time, _)| *time);
        let clients = self.copies.iter().filter(|copy| !copy.is_stopped);
        let timers = clients.filter_map(|copy| copy.client.poll_timeout());
        let due = timers
            .chain(self.server.poll_timeout())
            .chain(self.device.poll_timeout())
            .chain(arrival)
            .chain([self.next_period])
            .fold(end, Time::min);
        self.now = self.now.max(due);
        self.deliver();
        if self.now >= self.next_period {
            self.end_period();
        }
        self.server.handle_timeout(self.now);
        self.drain_server();
        for index in 0..self.copies.len() {
            self.run_client(index);
        }
        self.device.handle_timeout(self.now);
        self.device.flush(self.now);
        self.drain_device();
    }

    /// Ends the period now.
    pub(crate) fn end_period(&mut self) {
        self.next_period = self.now.after(self.config.period);
        let end = PeriodEnd { source: self.source, ..origin(&self.tree) };
        self.period_ends.push_back(self.tree.leaves.clone());
        if self.period_ends.len() > PERIOD_ENDS {
            self.period_ends.pop_front();
        }
        self.server.handle_changes(self.now, end, &mut self.tree);
        self.drain_server();
    }

    fn run_client(&mut self, index: usize) {
        let copy = &mut self.copies[index];
        if copy.is_stopped {
            return;
        }
        copy.waiting.sort_by_key(|(way, _)| *way);
        for (way, bytes) in core::mem::take(&mut copy.waiting) {
            let Copy { client, tree, .. } = &mut self.copies[index];
            match way {
                Way::Group => client.handle_group_datagram(self.now, &bytes, tree.as_mut()),
                Way::Own => client.handle_datagram(self.now, &bytes, tree.as_mut()),
            }
            self.drain_client(index);
        }
        let copy = &mut self.copies[index];
        copy.client.handle_timeout(self.now, copy.tree.as_mut());
        self.drain_client(index);
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.in_flight.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let (from, to, bytes) = entry.remove();
            if to == SERVER {
                self.server.handle_datagram(self.now, from, &bytes, &mut self.tree);
                self.drain_server();
            } else if to.port() == DEVICE_PORT {
                self.device.handle_datagram(self.now, &bytes);
                self.drain_device();
            } else {
                let (first, way) = match to.port() >= FIRST_MEMBER_PORT {
                    true => (FIRST_MEMBER_PORT, Way::Group),
                    false => (FIRST_CLIENT_PORT, Way::Own),
                };
                let index = usize::from(to.port() - first);
                self.copies[index].waiting.push((way, bytes));
                self.run_client(index);
            }
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.sent_to_group += u64::from(to == GROUP);
        if to != GROUP {
            return self.carry(self.weather, from, to, bytes);
        }
        let weather = self.group_weather.unwrap_or(self.weather);
        for index in 0..self.copies.len() {
            if self.copies[index].wants_group {
                let to = at_port(FIRST_MEMBER_PORT + index as u16);
                self.carry(weather, from, to, bytes);
            }
        }
    }

    fn is_doomed(&mut self, bytes: &[u8]) -> bool {
        if self.doomed.is_empty() {
            return false;
        }
        let Ok((header, wire::Datagram::Event(_))) = wire::decode(bytes) else { return false };
        let index = self.doomed.iter().position(|number| *number == header.event_num.get());
        index.map(|index| self.doomed.swap_remove(index)).is_some()
    }

    fn carry(&mut self, weather: Weather, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if self.random.chance(weather.loss) || self.is_doomed(bytes) {
            return;
        }
        let copies = 1 + u64::from(self.random.chance(weather.duplication));
        for _ in 0..copies {
            let jitter = self.random.next_u64() % (weather.jitter_us + 1);
            self.order += 1;
            let time = Time(self.now.0 + FLIGHT_US + jitter);
            self.in_flight.insert((time, self.order), (from, to, bytes.to_vec()));
        }
    }

    fn drain_server(&mut self) {
        let mut sends = Vec::new();
        while let Some(transmit) = self.server.poll_transmit() {
            match transmit {
                Transmit::Datagram { to, bytes } => {
                    let all = to.addresses().unwrap_or(&[]);
                    sends.extend(all.iter().map(|to| (*to, bytes.to_vec())));
                }
                Transmit::Leaves { to, packets, leaves, segment } => {
                    for packet in packets {
                        let mut out = vec![0; segment];
                        let len = wire::lay_out(packet, leaves, &self.tree, &mut out);
                        assert!(len <= segment, "the segment is that of the largest");
                        let all = to.addresses().unwrap_or(&[]);
                        sends.extend(all.iter().map(|to| (*to, out.clone())));
                    }
                }
            }
        }
        while self.server.poll_event().is_some() {}
        for (to, bytes) in sends {
            self.send(SERVER, to, &bytes);
        }
    }

    fn drain_client(&mut self, index: usize) {
        let from = at_port(FIRST_CLIENT_PORT + index as u16);
        loop {
            self.drain_client_transmits(index, from);
            let copy = &mut self.copies[index];
            let Some(event) = copy.client.poll_event() else { return };
            copy.verdicts.push(event);
            match event {
                ClientEvent::Layout => {
                    // A copy of the right shape, empty.
                    let mut tree = MemTree::new(self.tree.leaf_count(), self.tree.capacity);
                    copy.client.attach(self.now, Held::Nothing, &mut tree);
                    copy.tree = Some(tree);
                }
                ClientEvent::InSync => {
                    let leaves = &copy.tree.as_ref().unwrap().leaves;
                    let is_true = self.period_ends.iter().any(|end| end == leaves);
                    assert!(is_true || copy.is_partial, "in sync, but equal to no period's end");
                }
                ClientEvent::Joined(joined) => {
                    if copy.wants_group && joined.group == Some(GROUP) {
                        copy.client.listen(self.now);
                    }
                    let Some(tree) = copy.tree.as_mut() else { continue };
                    if tree.layout_hash() != joined.layout_hash || copy.client.is_attached() {
                        continue;
                    }
                    let held = match tree.noted {
                        (_, Revision::ZERO) => Held::Partial,
                        (life, watermark) => Held::UpTo { life, watermark },
                    };
                    copy.client.attach(self.now, held, tree);
                }
                _ => {}
            }
        }
    }

    fn drain_client_transmits(&mut self, index: usize, from: SocketAddr) {
        let mut sends = Vec::new();
        while let Some(transmit) = self.copies[index].client.poll_transmit() {
            let Transmit::Datagram { to: Recipients::Peer, bytes } = transmit else {
                panic!("a client sends finished datagrams to its peer");
            };
            sends.push(bytes.to_vec());
        }
        for bytes in sends {
            self.send(from, SERVER, &bytes);
        }
    }

    fn drain_device(&mut self) {
        let mut sends = Vec::new();
        while let Some(Transmit::Datagram { bytes, .. }) = self.device.poll_transmit() {
            sends.push(bytes.to_vec());
        }
        for bytes in sends {
            self.send(at_port(DEVICE_PORT), SERVER, &bytes);
        }
        while let Some(event) = self.device.poll_event() {
            if let DeviceEvent::Acknowledged { leaves } = event {
                self.acknowledged += leaves;
            }
            self.device_events.push(event);
        }
    }

    pub(crate) fn is_equal(&self, index: usize) -> bool {
        let tree = self.copies[index].tree.as_ref();
        tree.is_some_and(|tree| tree.leaves == self.tree.leaves)
    }

    pub(crate) fn all_in_sync(&self) -> bool {
        self.copies.iter().all(|copy| copy.client.is_in_sync())
    }
}
