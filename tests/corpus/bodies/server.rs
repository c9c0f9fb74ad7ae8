//! A server, with a multicast group or without, and eight addresses that send it whatever
//! they like.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Life;
use mapleaf::layout::Revision;
use mapleaf::sync::Leaves;
use mapleaf::sync::PeriodEnd;
use mapleaf::sync::Reports;
use mapleaf::sync::Role;
use mapleaf::sync::ServedLeaves;
use mapleaf::sync::Server;
use mapleaf::sync::ServerConfig;
use mapleaf::sync::ServerEvent;
use mapleaf::sync::SourceState;
use mapleaf::sync::Time;
use mapleaf::sync::Transmit;
use mapleaf::wire;
use mapleaf::wire::Datagram;
use mapleaf::wire::DatagramType;
use mapleaf::wire::Flags;
use mapleaf::wire::GroupBody;
use mapleaf::wire::INIT_FILTER_LEN_MAX;
use mapleaf::wire::InitBody;

use super::datagram::bare;
use super::input::Input;
use super::mem_tree::Counting;
use super::mem_tree::LEAVES;
use super::mem_tree::MemTree;
use super::mem_tree::mac;
use super::peer;
use super::peer::Right;

/// Addresses; the last one is not allowed in.
const PEERS: usize = 8;

/// The group, where there is one.
const GROUP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3)), 7);

/// How a replica asked to get the EVENTs of its view.
#[derive(Clone, Copy, Debug)]
struct Asked {
    session_id: u64,
    view: u64,
    flags: Flags,
}

/// An unproven address gets a fifth of what it sent at most.
const AMPLIFICATION_INVERSE: u64 = 5;

/// What an address has learned, and what passed between it and the server.
#[derive(Clone, Debug)]
struct Peer {
    address: SocketAddr,
    nonce: u64,
    cookie: Option<(u64, [u64; 2])>,
    session_id: u64,
    /// Next sequence of its REPORTs.
    sequence: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// Whether it has sent a cookie back that it was given.
    is_proven: bool,
}

impl Peer {
    fn new(index: usize) -> Peer {
        let ip = if index + 1 == PEERS { [192, 0, 2, 1] } else { [127, 0, 0, 1] };
        Peer {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), 100 + index as u16),
            nonce: 1 + index as u64,
            cookie: None,
            session_id: 0,
            sequence: 1,
            bytes_in: 0,
            bytes_out: 0,
            is_proven: false,
        }
    }
}

struct World {
    now: Time,
    config: ServerConfig,
    server: Server,
    tree: MemTree,
    peers: Vec<Peer>,
    /// Last EventNum of each view.
    views: BTreeMap<u64, u64>,
    /// The view of each session that a WELCOME told of, and whether views have the group.
    view_of: BTreeMap<u64, u64>,
    has_group: BTreeMap<u64, bool>,
    /// Replicas that have a session.
    asked: BTreeMap<SocketAddr, Asked>,
    /// Channel of the datagram that came last.
    channel: u64,
    /// Datagrams that the server sent since the last mutation.
    sent: usize,
}

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut world = World::new(&mut input);
    while !input.is_empty() {
        world.step(&mut input);
    }
    let sessions_before = world.server.session_count();
    assert!(sessions_before <= world.sessions_most());
    // Everybody is forgotten in the end.
    world.now = world.now.after(world.config.lease + Duration::from_secs(6));
    world.server.handle_timeout(world.now);
    world.drain();
    assert_eq!(world.server.session_count(), 0);
}

fn config(input: &mut Input<'_>) -> ServerConfig {
    let sizes = input.u8();
    let how = input.u8();
    ServerConfig {
        datagram_size: if sizes & 1 == 0 { 1_200 } else { 1_400 },
        sessions_max: 1 + usize::from(sizes >> 1 & 3),
        half_open_max: 1 + usize::from(sizes >> 3 & 3),
        views_max: 1 + usize::from(sizes >> 5 & 1),
        credit_max: 1 + u16::from(sizes >> 6 & 3),
        request_burst: 16,
        request_rate: 100,
        door_rate: 50,
        reports: if how & 1 == 1 { Reports::Refuse } else { Reports::Accept },
        group: (how & 2 != 0).then_some(GROUP),
        ..ServerConfig::new(mac)
    }
}

impl World {
    fn new(input: &mut Input<'_>) -> World {
        let config = config(input);
        let mut tree = MemTree::new();
        tree.begin_life(Life(10));
        let now = Time(1_000_000);
        let end = PeriodEnd { watermark: tree.newest_revision(), source: SourceState::InSync };
        let random = Box::new(Counting(7));
        let server = Server::new(config.clone(), random, now, end, &mut tree);
        let peers = (0..PEERS).map(Peer::new).collect();
        World {
            now,
            config,
            server,
            tree,
            peers,
            views: BTreeMap::new(),
            view_of: BTreeMap::new(),
            has_group: BTreeMap::new(),
            asked: BTreeMap::new(),
            channel: 0,
            sent: 0,
        }
    }

    /// Open sessions, and half-open ones beside them.
    fn sessions_most(&self) -> usize {
        self.config.sessions_max + self.config.half_open_max
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let index = usize::from(what >> 4) % PEERS;
        match what & 15 {
            0 => self.wait(Duration::from_millis(u64::from(input.u8()) * 20)),
            1 => self.end_period(input),
            2 => self.write(input),
            3 => {
                let len = usize::from(input.u16());
                let bytes = input.take(len);
                self.receive(index, bytes);
            }
            4 => self.hello(index),
            5 => self.init(index, input),
            6 => {
                let ready = peer::finished(&bare(DatagramType::Ready), &[]);
                self.session_datagram(index, ready);
            }
            7 => {
                (0..3).for_each(|step| match step {
                    0 => self.hello(index),
                    1 => self.init(index, input),
                    _ => self
                        .session_datagram(index, peer::finished(&bare(DatagramType::Ready), &[])),
                });
            }
            8 => self.leave_or_begin_life(input),
            _ => {
                let right = self.right(index);
                let bytes = peer::datagram(right, &[], input);
                self.receive(index, &bytes);
            }
        }
    }

    fn right(&self, index: usize) -> Right {
        let peer = &self.peers[index];
        Right {
            tree_id: self.tree.tree_id().0,
            life: self.tree.life().0,
            layout_hash: self.tree.layout_hash().0,
            channel: peer.session_id,
            event_num: peer.sequence,
            watermark: self.tree.newest_revision().0,
            digest: self.tree.digest().0,
        }
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
        self.server.handle_timeout(self.now);
        self.drain();
        if let Some(due) = self.server.poll_timeout() {
            assert!(due > self.now, "what is due was done");
        }
    }

    fn end_period(&mut self, input: &mut Input<'_>) {
        let source = if input.flag() { SourceState::Behind } else { SourceState::InSync };
        let end = PeriodEnd { watermark: self.tree.newest_revision(), source };
        self.server.handle_changes(self.now, end, &mut self.tree);
        assert!(!self.tree.has_changes(), "every flag is taken");
        self.drain();
    }

    fn write(&mut self, input: &mut Input<'_>) {
        let leaf = DataLocId(u32::from(input.u8()) % LEAVES);
        // The tree has room for all that a byte can count.
        self.tree.write(leaf, input.bytes()).expect("room");
    }

    fn hello(&mut self, index: usize) {
        self.peers[index].nonce += 1 << 8;
        let nonce = self.peers[index].nonce;
        let header = wire::Header { channel: U64::new(nonce), ..bare(DatagramType::Hello) };
        self.receive(index, &peer::finished(&header, &[]));
    }

    /// An INIT with the cookie that the address was given, if it has one.
    fn init(&mut self, index: usize, input: &mut Input<'_>) {
        let peer = &mut self.peers[index];
        let Some((time_ms, cookie)) = peer.cookie else { return };
        let wish = input.u8();
        let filters = ["", "/", "/a", "/b", "/nowhere", "a", "/a/b", "//"];
        let path = filters[usize::from(wish & 7)];
        let mut filter = [0; INIT_FILTER_LEN_MAX];
        filter[..path.len()].copy_from_slice(path.as_bytes());
        let body = InitBody {
            cookie_time: U64::new(time_ms),
            cookie_mac: cookie.map(U64::new),
            held_life: U32::new(10),
            held_layout_hash: U32::ZERO,
            held_watermark: U64::ZERO,
            role: wish >> 3 & 3,
            level: u8::from(wish >> 5 == 7),
            filter_len: U16::new(if wish >> 5 == 6 { 0xffff } else { path.len() as u16 }),
            reserved: U32::ZERO,
            filter,
        };
        peer.is_proven = true;
        let header = wire::Header { channel: U64::new(peer.nonce), ..bare(DatagramType::Init) };
        self.receive(index, &peer::finished(&header, body.as_bytes()));
    }

    /// A datagram with the header that the server expects in the session.
    fn session_datagram(&mut self, index: usize, bytes: Vec<u8>) {
        let right = self.right(index);
        let datagram_type = DatagramType::from_code(bytes[2]).expect("one of ours");
        let header = wire::Header {
            tree_id: U64::new(right.tree_id),
            life: U32::new(right.life),
            layout_hash: U32::new(right.layout_hash),
            channel: U64::new(right.channel),
            ..bare(datagram_type)
        };
        self.receive(index, &peer::finished(&header, &bytes[64..]));
    }

    fn leave_or_begin_life(&mut self, input: &mut Input<'_>) {
        if input.flag() {
            self.server.leave();
        } else {
            let life = self.tree.life().next(self.tree.newest_revision(), 0);
            self.tree.begin_life(life);
            let end =
                PeriodEnd { watermark: self.tree.newest_revision(), source: SourceState::InSync };
            self.server.rejoin_all(end, &mut self.tree);
        }
        self.asked.clear();
        self.drain();
        assert_eq!(self.server.session_count(), 0);
    }

    fn receive(&mut self, index: usize, bytes: &[u8]) {
        let before = self.tree.revisions();
        let peer = &mut self.peers[index];
        peer.bytes_in += bytes.len() as u64;
        let from = peer.address;
        let request = request_of(bytes, self.right(index));
        self.channel = wire::decode(bytes).map_or(0, |(header, _)| header.channel.get());
        self.server.handle_datagram(self.now, from, bytes, &mut self.tree);
        let after = self.tree.revisions();
        assert!(before.iter().zip(&after).all(|(old, new)| old <= new), "a leaf went back");
        let out_before: Vec<u64> = self.peers.iter().map(|peer| peer.bytes_out).collect();
        self.drain();
        if let Some((asked, flags)) = self.asked.get_mut(&from).zip(request)
            && asked.session_id == self.channel
        {
            asked.flags = flags;
        }
        for (other, peer) in self.peers.iter().enumerate() {
            assert!(other == index || peer.bytes_out == out_before[other], "a stranger's answer");
        }
        assert!(self.sent <= usize::from(self.config.credit_max), "{} answers", self.sent);
        assert!(self.server.session_count() <= self.sessions_most());
    }

    /// Takes what the server sends, as its driver does.
    fn drain(&mut self) {
        let mut sends: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
        let mut shared: Vec<(u64, Vec<SocketAddr>)> = Vec::new();
        while let Some(transmit) = self.server.poll_transmit() {
            match transmit {
                Transmit::Datagram { to, bytes } => {
                    let to = to.addresses().expect("a server's peers have addresses");
                    shared.extend(view_of(bytes).map(|view| (view, to.to_vec())));
                    sends.extend(to.iter().map(|to| (*to, bytes.to_vec())));
                }
                Transmit::Leaves { to, packets, leaves, segment } => {
                    for packet in packets {
                        let mut out = vec![0xaa; segment];
                        let len = wire::lay_out(packet, leaves, &self.tree, &mut out);
                        out.truncate(len);
                        let to = to.addresses().expect("a server's peers have addresses");
                        shared.extend(view_of(&out).map(|view| (view, to.to_vec())));
                        sends.extend(to.iter().map(|to| (*to, out.clone())));
                    }
                }
            }
        }
        while let Some(event) = self.server.poll_event() {
            self.note(event);
        }
        for (view, to) in shared {
            self.check_recipients(view, &to);
        }
        self.sent = sends.len();
        for (to, bytes) in sends {
            self.take(to, &bytes);
        }
    }

    /// A session begins without the group.
    fn note(&mut self, event: ServerEvent) {
        match event {
            ServerEvent::Joined { address, role: Role::Replica } => {
                let session_id = self.channel;
                let view = self.view_of[&session_id];
                self.asked.insert(address, Asked { session_id, view, flags: Flags(0) });
            }
            ServerEvent::Joined { address, .. }
            | ServerEvent::Left { address }
            | ServerEvent::Expired { address } => {
                self.asked.remove(&address);
            }
            _ => {}
        }
    }

    /// EVENTs and TICKs go to those who asked for them, and to the group while somebody
    /// listens.
    fn check_recipients(&self, view: u64, to: &[SocketAddr]) {
        let has_group = self.has_group.get(&view).copied().unwrap_or(false);
        let mut wanted = BTreeSet::new();
        for (address, asked) in self.asked.iter().filter(|(_, asked)| asked.view == view) {
            let listens = has_group && asked.flags.has(Flags::GROUP_WANTED);
            wanted.extend(listens.then_some(GROUP));
            let is_heard = listens && asked.flags.has(Flags::GROUP_HEARD);
            wanted.extend((!is_heard).then_some(*address));
        }
        let found: BTreeSet<SocketAddr> = to.iter().copied().collect();
        assert!(found == wanted && found.len() == to.len(), "{to:?}, wanted {wanted:?}");
    }

    fn welcomed(&mut self, header: &wire::Header, view: u64, group: Option<&GroupBody>) {
        self.view_of.insert(header.channel.get(), view);
        let group = group.and_then(GroupBody::group);
        assert!(group.is_none() || group == self.config.group, "a group that there is none of");
        let told = *self.has_group.entry(view).or_insert(group.is_some());
        assert_eq!(told, group.is_some(), "all of a view are told the same");
    }

    fn take(&mut self, to: SocketAddr, bytes: &[u8]) {
        assert!(bytes.len() <= self.config.datagram_size, "{} bytes", bytes.len());
        if let Ok((header, Datagram::Welcome(welcome, group))) = wire::decode(bytes) {
            self.welcomed(header, welcome.view_id.get(), group);
        }
        if to == GROUP {
            // Whom it goes to was looked at; nothing else goes there.
            assert!(view_of(bytes).is_some(), "an answer to the group");
            return;
        }
        let peer = self.peers.iter_mut().find(|peer| peer.address == to).expect("one that sent");
        peer.bytes_out += bytes.len() as u64;
        let bounded = peer.bytes_out * AMPLIFICATION_INVERSE <= peer.bytes_in;
        assert!(peer.is_proven || bounded, "{} B to a stranger", peer.bytes_out);
        let (header, datagram) = match wire::decode(bytes) {
            Ok(decoded) => decoded,
            // The answer to a HELLO of another version.
            Err(wire::DecodeError::Version { .. }) => return,
            Err(error) => panic!("a server sent what nobody can read: {error}"),
        };
        match datagram {
            Datagram::Cookie => {
                let mac = [header.watermark.get(), header.digest.get()];
                peer.cookie = Some((header.event_num.get(), mac));
            }
            Datagram::Welcome(..) => {
                peer.session_id = header.channel.get();
                peer.sequence = 1;
            }
            Datagram::Event(leaves) => {
                let last = self.views.entry(header.channel.get()).or_default();
                assert!(header.event_num.get() >= *last, "EventNum rises");
                *last = header.event_num.get();
                assert!(leaves.clone().count() > 0 && leaves.clone().all(|leaf| leaf.is_ok()));
            }
            Datagram::Response(_, leaves) => assert!(leaves.clone().all(|leaf| leaf.is_ok())),
            Datagram::Ack(_) => peer.sequence = header.event_num.get() + 1,
            Datagram::Layout(..) | Datagram::Tick(_) | Datagram::Bye(_) => {}
            other => panic!("a server does not send this: {other:?}"),
        }
        assert!(
            Revision(header.watermark.get()) <= self.tree.newest_revision()
                || !matches!(header.datagram_type, 8..=11)
        );
    }
}

/// The view of an EVENT or TICK.
fn view_of(bytes: &[u8]) -> Option<u64> {
    match wire::decode(bytes) {
        Ok((header, Datagram::Event(_) | Datagram::Tick(_))) => Some(header.channel.get()),
        _ => None,
    }
}

/// The flags of a REQUEST of the server's tree, life and layout.
fn request_of(bytes: &[u8], right: Right) -> Option<Flags> {
    let Ok((header, Datagram::Request(..))) = wire::decode(bytes) else { return None };
    let is_right = header.tree_id.get() == right.tree_id
        && (header.life.get(), header.layout_hash.get()) == (right.life, right.layout_hash);
    is_right.then_some(Flags(header.flags.get()))
}
