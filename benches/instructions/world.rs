//! A server and one client with their trees, without a network between them.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Digest;
use mapleaf::layout::LayoutHash;
use mapleaf::layout::Life;
use mapleaf::layout::Parent;
use mapleaf::layout::ParentId;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::sync::Client;
use mapleaf::sync::ClientConfig;
use mapleaf::sync::ClientEvent;
use mapleaf::sync::Held;
use mapleaf::sync::Leaves;
use mapleaf::sync::PeriodEnd;
use mapleaf::sync::RandomSource;
use mapleaf::sync::ReplicaLeaves;
use mapleaf::sync::ServedLeaves;
use mapleaf::sync::Server;
use mapleaf::sync::ServerConfig;
use mapleaf::sync::SourceState;
use mapleaf::sync::Time;
use mapleaf::sync::Transmit;
use mapleaf::sync::WriteRefusal;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Layout;
use mapleaf::tree::Mark;
use mapleaf::tree::Tree;
use mapleaf::wire;
use mapleaf::wire::Leaf;
use mapleaf::wire::LeafSource;

/// Where the client is.
const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// Turns that a join is done in, by far.
const TURNS_MAX: u32 = 10_000;

/// A tree of its own, empty; a file if it is to have a name.
pub(crate) fn create(path: Option<&Path>, role: TreeRole, leaves: u32, data_size: usize) -> Tree {
    let layout = Layout::plain(16, leaves, data_size as u32).expect("a small layout");
    let options = CreateOptions { role, tree_id: TreeId(1), life: Life(0), unix_s: 1 };
    let mut tree = match path {
        Some(path) => Tree::create(path, layout, options).expect("a folder of our own"),
        None => Tree::create_unnamed(layout, options).expect("a folder for a while"),
    };
    if role == TreeRole::Server {
        tree.begin_life(1).expect("a new tree");
    }
    tree
}

/// A counter in the place of chance.
struct Counting(u64);

impl RandomSource for Counting {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0
    }
}

/// Tells messages apart, which is all that is needed here.
fn mac(key: [u64; 2], message: &[u8]) -> [u64; 2] {
    let sum = u64::from(mapleaf::kernel::crc32c(message));
    key.map(|key| key ^ sum)
}

/// Datagrams, one behind the other.
#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Wire {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn push(&mut self, transmit: Transmit<'_>, source: &Replicated) {
        match transmit {
            Transmit::Datagram { bytes, .. } => {
                self.bytes.extend_from_slice(bytes);
                self.ends.push(self.bytes.len());
            }
            Transmit::Leaves { packets, leaves, segment, .. } => {
                for packet in packets {
                    let start = self.bytes.len();
                    self.bytes.resize(start + segment, 0);
                    let size = wire::lay_out(packet, leaves, source, &mut self.bytes[start..]);
                    self.bytes.truncate(start + size);
                    self.ends.push(start + size);
                }
            }
        }
    }

    fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }
}

/// Server, client, and what is between them.
pub(crate) struct World {
    now: Time,
    server: Server,
    origin: Replicated,
    client: Client,
    replica: Replicated,
    down: Wire,
    up: Wire,
}

impl World {
    /// A server of a tree without content, and a client that has not knocked yet.
    pub(crate) fn new(leaves: u32, data_size: usize) -> World {
        let now = Time::START;
        let mut origin = Replicated::new(create(None, TreeRole::Server, leaves, data_size));
        let replica = Replicated::new(create(None, TreeRole::Replica, leaves, data_size));
        let end = origin.end();
        let config = ServerConfig::new(mac);
        let server = Server::new(config, Box::new(Counting(1)), now, end, &mut origin);
        let client = Client::new(ClientConfig::new(8 << 20), Box::new(Counting(2)), now);
        let (down, up) = (Wire::default(), Wire::default());
        World { now, server, origin, client, replica, down, up }
    }

    /// Writes leaves; what they hold is another thing in each round.
    pub(crate) fn write(&mut self, leaves: impl Iterator<Item = DataLocId>, round: u8) {
        let data = vec![round; self.origin.tree.layout().capacity_max() as usize];
        leaves.for_each(|leaf| {
            self.origin.tree.write(leaf, &data).expect("a leaf of the tree");
        });
    }

    /// Plans what the period brings.
    pub(crate) fn end_period(&mut self) {
        let end = self.origin.end();
        self.server.handle_changes(self.now, end, &mut self.origin);
    }

    /// Lays out what is planned.
    pub(crate) fn lay_out(&mut self) {
        self.down.clear();
        while let Some(transmit) = self.server.poll_transmit() {
            self.down.push(transmit, &self.origin);
        }
    }

    /// Number of datagrams that are laid out.
    pub(crate) fn datagrams(&self) -> usize {
        self.down.ends.len()
    }

    /// Gives the client what was laid out.
    pub(crate) fn apply(&mut self) {
        for datagram in self.down.datagrams() {
            self.client.handle_datagram(self.now, datagram, Some(&mut self.replica));
        }
    }

    /// Lets the client come in, and get all there is.
    pub(crate) fn join(&mut self) {
        for _ in 0..TURNS_MAX {
            self.lay_out();
            self.apply();
            self.take_events();
            if self.client.is_in_sync() {
                return;
            }
            self.ask();
        }
        panic!("the client is not in sync after {TURNS_MAX} turns");
    }

    /// Gives the server what the client sends, if it has to wait for that.
    fn ask(&mut self) {
        self.up.clear();
        while let Some(transmit) = self.client.poll_transmit() {
            self.up.push(transmit, &self.replica);
        }
        if self.up.ends.is_empty() {
            let due = self.client.poll_timeout().expect("it waits for something");
            self.now = self.now.max(due);
            self.client.handle_timeout(self.now, Some(&mut self.replica));
        }
        for datagram in self.up.datagrams() {
            self.server.handle_datagram(self.now, CLIENT, datagram, &mut self.origin);
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.client.poll_event() {
            if let ClientEvent::Joined(_) = event {
                self.client.attach(self.now, Held::Nothing, &mut self.replica);
            }
        }
    }

    /// Whether both trees hold the same.
    pub(crate) fn is_equal(&self) -> bool {
        self.origin.tree.checksums() == self.replica.tree.checksums()
            && self.origin.tree.digest() == self.replica.tree.digest()
    }
}

/// A tree as the protocol sees it.
struct Replicated {
    tree: Tree,
    blob: Vec<u8>,
}

impl Replicated {
    fn new(tree: Tree) -> Replicated {
        Replicated { blob: tree.layout().to_blob(), tree }
    }

    fn end(&self) -> PeriodEnd {
        PeriodEnd { watermark: self.tree.newest_revision(), source: SourceState::InSync }
    }
}

impl LeafSource for Replicated {
    fn copy_wire(&self, leaf: DataLocId, to: &mut [u8]) -> Option<usize> {
        self.tree.copy_wire(leaf, to)
    }

    fn expect_copy(&self, leaf: DataLocId) {
        self.tree.expect_read(leaf);
    }
}

impl Leaves for Replicated {
    fn expect(&self, leaf: DataLocId, data_size: usize) {
        self.tree.expect_write(leaf, data_size);
    }

    fn tree_id(&self) -> TreeId {
        self.tree.tree_id()
    }

    fn life(&self) -> Life {
        self.tree.life()
    }

    fn layout_hash(&self) -> LayoutHash {
        self.tree.layout_hash()
    }

    fn leaf_count(&self) -> u32 {
        self.tree.leaf_count()
    }

    fn parents(&self) -> &[Parent] {
        self.tree.layout().parents()
    }

    fn parent_at(&self, path: &str) -> Option<ParentId> {
        self.tree.layout().parent_at(path)
    }

    fn checksums(&self) -> &[u32] {
        self.tree.checksums()
    }

    fn revision(&self, leaf: DataLocId) -> Revision {
        self.tree.revision(leaf)
    }

    fn next_changed_since(&self, from: u32, end: u32, since: Revision) -> Option<DataLocId> {
        self.tree.next_changed_since(from, end, since)
    }

    fn newest_revision(&self) -> Revision {
        self.tree.newest_revision()
    }

    fn digest(&self) -> Digest {
        self.tree.digest()
    }

    fn digest_of_parent(&self, parent: ParentId) -> Digest {
        self.tree.digest_of_parent(parent).unwrap_or_default()
    }
}

impl ServedLeaves for Replicated {
    fn life_start(&self) -> Revision {
        self.tree.life_start()
    }

    fn wire_len(&self, leaf: DataLocId) -> usize {
        self.tree.wire_len(leaf)
    }

    fn is_changed(&self, leaf: DataLocId) -> bool {
        self.tree.is_changed(leaf)
    }

    fn has_changes(&self) -> bool {
        self.tree.change_count() > 0
    }

    fn take_changes(&mut self, into: &mut Vec<DataLocId>) {
        self.tree.take_changes(into);
    }

    fn write(&mut self, leaf: DataLocId, data: &[u8]) -> Result<Revision, WriteRefusal> {
        self.tree.write(leaf, data).map_err(|_| WriteRefusal::Trouble)
    }

    fn check_write(&self, _: DataLocId, _: usize) -> Result<(), WriteRefusal> {
        // No device is here that would ask.
        Err(WriteRefusal::ReadOnly)
    }

    fn layout_blob(&self) -> &[u8] {
        &self.blob
    }
}

impl ReplicaLeaves for Replicated {
    fn apply(&mut self, leaf: &Leaf<'_>) -> bool {
        self.tree.apply(leaf.head, leaf.data, Mark::Quiet).is_ok()
    }

    fn follow(&mut self, life: Life, watermark: Revision) {
        if self.tree.saved_progress() != (life, watermark) {
            self.tree.save_progress(life, watermark);
        }
    }
}
