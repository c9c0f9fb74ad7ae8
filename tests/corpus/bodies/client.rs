//! A client and a server that lies, to it alone and to a multicast group.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U64;

use mapleaf::layout::Life;
use mapleaf::layout::Revision;
use mapleaf::sync::Client;
use mapleaf::sync::ClientConfig;
use mapleaf::sync::ClientEvent;
use mapleaf::sync::Held;
use mapleaf::sync::HeldTree;
use mapleaf::sync::Joined;
use mapleaf::sync::Leaves;
use mapleaf::sync::Recipients;
use mapleaf::sync::ServedLeaves;
use mapleaf::sync::Time;
use mapleaf::sync::Transmit;
use mapleaf::wire;
use mapleaf::wire::Datagram;
use mapleaf::wire::DatagramType;
use mapleaf::wire::Flags;
use mapleaf::wire::GroupBody;
use mapleaf::wire::Header;
use mapleaf::wire::Question;
use mapleaf::wire::TickBody;

use super::input::Input;
use super::mem_tree::Counting;
use super::mem_tree::LEAVES;
use super::mem_tree::MemTree;
use super::mem_tree::TREE_ID;
use super::mem_tree::layout_hash;
use super::peer;
use super::peer::Door;
use super::peer::Driven;
use super::peer::Right;

/// Life of the server that the input plays.
const LIFE: Life = Life(10);

const SESSION_ID: u64 = 0x5e55;
const VIEW_ID: u64 = 0x71e7;

/// More datagrams than this are never due at once: REQUESTs that may be under
/// way, one for the lease, one of the door.
const SENT_MAX: usize = 8;

/// Heartbeats for which a group is taken to be heard: R48.
const SILENCE_HEARTBEATS: u32 = 4;

/// By which of its sockets a client hears something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Own,
    Group,
}

struct World {
    now: Time,
    client: Client,
    /// The copy that is attached, if one is.
    tree: Option<MemTree>,
    door: Door,
    /// Ids of the last REQUESTs.
    request_ids: Vec<u32>,
    event_num: u64,
    /// Whether the server has a group and the client joins it.
    has_group: bool,
    /// The session in which it listens, and when it heard something of the view.
    listens: Option<u64>,
    heard: Option<Time>,
}

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut world = World::new(&mut input);
    world.drain();
    while !input.is_empty() {
        world.step(&mut input);
    }
    world.client.leave();
    world.drain();
    assert!(!world.client.is_in_sync() && world.client.joined().is_none());
}

impl Driven for World {
    fn clock(&mut self) -> &mut Time {
        &mut self.now
    }

    fn due(&self) -> Option<Time> {
        self.client.poll_timeout()
    }

    fn wake(&mut self) {
        self.client.handle_timeout(self.now, self.tree.as_mut());
        self.drain();
    }
}

impl World {
    fn new(input: &mut Input<'_>) -> World {
        let how = input.u8();
        let mut config = ClientConfig::new(64 << 10);
        config.filter = ["", "/a", "/nowhere"][usize::from(how & 3).min(2)].to_owned();
        let tree = (how & 4 != 0).then(|| copy_from_before(input));
        config.held = tree.as_ref().map(|tree| HeldTree {
            tree_id: TREE_ID,
            layout_hash: tree.layout_hash(),
            life: tree.noted.0,
            watermark: tree.noted.1,
        });
        let now = Time(1_000_000);
        World {
            now,
            client: Client::new(config, Box::new(Counting(3)), now),
            tree,
            door: Door::default(),
            request_ids: Vec::new(),
            event_num: 0,
            has_group: how & 8 != 0,
            listens: None,
            heard: None,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() & 15 {
            step @ 11..=15 if self.has_group => self.step_of_group(step, input),
            0 => self.wait(Duration::from_millis(u64::from(input.u8()))),
            1 => self.wait(Duration::from_secs(u64::from(input.u8()) / 8)),
            2 => {
                let len = usize::from(input.u16());
                let bytes = input.take(len);
                self.receive(bytes);
            }
            3 => self.cookie(input),
            4 => self.welcome(input),
            5 => self.layout(input),
            6 => self.unreachable(),
            7 => self.welcomed(),
            8 => self.true_tick(input),
            9 => {
                let mut right = self.right();
                right.channel = VIEW_ID;
                self.lie(right, input);
            }
            _ => self.lie(self.right(), input),
        }
    }

    fn step_of_group(&mut self, step: u8, input: &mut Input<'_>) {
        match step {
            11 => {
                let right = Right { channel: VIEW_ID, ..self.right() };
                self.lie_by(Way::Group, right, input);
            }
            12 => {
                let tick = self.tick(input);
                self.receive_by(Way::Group, &tick);
            }
            13 => {
                let len = usize::from(input.u16());
                self.receive_by(Way::Group, input.take(len));
            }
            14 => self.lie_by(Way::Group, self.right(), input),
            _ => self.client.note_group_stranger(),
        }
    }

    fn right(&self) -> Right {
        let tree = self.tree.as_ref();
        Right {
            tree_id: TREE_ID.0,
            life: LIFE.0,
            layout_hash: layout_hash().0,
            channel: SESSION_ID,
            event_num: self.event_num + 1,
            watermark: LIFE.base().0 + 8,
            digest: tree.map_or(0, |tree| tree.digest().0),
        }
    }

    fn lie(&mut self, right: Right, input: &mut Input<'_>) {
        self.lie_by(Way::Own, right, input);
    }

    fn lie_by(&mut self, way: Way, right: Right, input: &mut Input<'_>) {
        let bytes = peer::datagram(right, &self.request_ids, input);
        self.receive_by(way, &bytes);
    }

    fn unreachable(&mut self) {
        self.client.handle_unreachable(self.now);
        self.drain();
        assert!(self.client.joined().is_none());
    }

    fn cookie(&mut self, input: &mut Input<'_>) {
        let cookie = self.door.cookie(self.right(), input);
        self.receive(&cookie);
    }

    /// A WELCOME in which one byte of the input says what is not as it should be.
    fn welcome(&mut self, input: &mut Input<'_>) {
        let wrong = input.u8();
        let life_start = u64::from(peer::or(wrong, 0, 0, input)) << 16;
        let body = self.door.welcome(VIEW_ID, life_start, wrong, input);
        let told = input.near(0);
        self.event_num = told.min(u64::MAX - 2);
        let header = self.right().head(DatagramType::Welcome, SESSION_ID);
        let header = Header { event_num: U64::new(told), ..header };
        let group = if self.has_group { group(input) } else { Vec::new() };
        self.receive(&peer::finished(&header, &[body.as_bytes(), &group].concat()));
    }

    /// The handshake as it should be, with the layout if that is asked for.
    fn welcomed(&mut self) {
        let mut nothing = Input(&[0; 64]);
        self.cookie(&mut nothing);
        self.welcome(&mut nothing);
        for _ in 0..4 {
            self.layout(&mut nothing);
        }
    }

    fn layout(&mut self, input: &mut Input<'_>) {
        let piece = self.door.layout(self.right(), SESSION_ID, input);
        self.receive(&piece);
    }

    /// A TICK that is right about the copy.
    fn true_tick(&mut self, input: &mut Input<'_>) {
        let tick = self.tick(input);
        self.receive(&tick);
    }

    fn tick(&self, input: &mut Input<'_>) -> Vec<u8> {
        let header = self.right().head(DatagramType::Tick, VIEW_ID);
        let header = Header {
            event_num: U64::new(self.event_num),
            watermark: U64::new(input.near(LIFE.base().0 + 8)),
            digest: U64::new(self.right().digest),
            flags: U16::new(Flags::CLOSES_PERIOD | Flags::SOURCE_IN_SYNC),
            ..header
        };
        let body = TickBody { session_id: U64::ZERO, tag: [0; 16], reserved: U64::ZERO };
        peer::finished(&header, body.as_bytes())
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.receive_by(Way::Own, bytes);
    }

    fn receive_by(&mut self, way: Way, bytes: &[u8]) {
        let before = self.tree.as_ref().map(MemTree::revisions);
        let joined = self.client.joined().copied();
        let mismatches = self.client.counters().digest_mismatches;
        let joins = self.client.counters().joins;
        match way {
            Way::Own => self.client.handle_datagram(self.now, bytes, self.tree.as_mut()),
            Way::Group => self.hear_by_group(bytes),
        }
        if self.client.counters().joins > joins {
            // All sessions have one id here, and each begins without the group.
            self.listens = None;
        }
        if let Some((before, tree)) = before.zip(self.tree.as_ref()) {
            let life = joined.map_or(Life(0), |joined| joined.life);
            check_revisions(&before, &tree.revisions(), life, mismatches, bytes);
        }
        if let Ok((header, Datagram::Event(_) | Datagram::Tick(_))) = wire::decode(bytes)
            && header.channel.get() == VIEW_ID
        {
            // The next lie is near to the last one.
            self.event_num = header.event_num.get().min(u64::MAX - 2);
        }
        let digest = wire::decode(bytes).ok().map(|(header, _)| *header);
        self.drain_after(digest.as_ref());
        self.settle();
    }

    /// What is not of the view changes nothing; what is, is heard.
    fn hear_by_group(&mut self, bytes: &[u8]) {
        let state = |world: &World| {
            let (client, tree) = (&world.client, &world.tree);
            let leaves = tree.as_ref().map(|tree| (tree.revisions(), tree.digest()));
            (client.joined().copied(), client.is_in_sync(), client.poll_timeout(), leaves)
        };
        let (before, counted) = (state(self), *self.client.counters());
        let joined = before.0.filter(|joined| self.listens == Some(joined.session_id));
        let is_ours = joined.is_some_and(|joined| is_of_view(&joined, bytes));
        self.client.handle_group_datagram(self.now, bytes, self.tree.as_mut());
        let counters = self.client.counters();
        let taken = counters.group_datagrams - counted.group_datagrams;
        let foreign = counters.group_foreign - counted.group_foreign;
        assert_eq!((taken, foreign), (u64::from(is_ours), u64::from(!is_ours)));
        if is_ours {
            self.heard = Some(self.now);
        } else {
            assert!(state(self) == before, "what is not of the view changes nothing");
        }
    }

    /// The flags of a REQUEST say what came by the group.
    fn check_flags(&self, flags: Flags) {
        let (wanted, heard) = (flags.has(Flags::GROUP_WANTED), flags.has(Flags::GROUP_HEARD));
        let joined = self.client.joined();
        let listens = joined.is_some_and(|joined| self.listens == Some(joined.session_id));
        assert!(listens || !(wanted || heard), "flags of one that listens to no group");
        let Some(joined) = joined.filter(|_| listens) else { return };
        let until = self.heard.map(|heard| heard.after(joined.heartbeat * SILENCE_HEARTBEATS));
        assert!(!heard || (wanted && until.is_some_and(|until| self.now <= until)), "not heard");
        assert!(heard || until.is_none_or(|until| self.now >= until), "heard");
    }

    /// Joins the group of a session that is new, as a mirror does between two turns.
    fn follow_group(&mut self) {
        let Some(joined) = self.client.joined() else { return };
        if self.has_group && self.listens != Some(joined.session_id) {
            let Some(group) = joined.group else { return };
            assert!(group.ip().is_multicast(), "a group has a multicast address");
            (self.listens, self.heard) = (Some(joined.session_id), None);
            self.client.listen(self.now);
        }
    }

    fn drain(&mut self) {
        self.drain_after(None);
    }

    /// Takes what the client sends and says. What it was sent last, if anything.
    fn drain_after(&mut self, last: Option<&Header>) {
        let mut sends = Vec::new();
        while let Some(transmit) = self.client.poll_transmit() {
            let Transmit::Datagram { to: Recipients::Peer, bytes } = transmit else {
                panic!("a client sends finished datagrams to its peer");
            };
            sends.push(bytes.to_vec());
        }
        assert!(sends.len() <= SENT_MAX, "{} datagrams at once", sends.len());
        sends.iter().for_each(|bytes| self.take(bytes));
        while let Some(event) = self.client.poll_event() {
            self.hear(event, last);
        }
        self.follow_group();
    }

    fn take(&mut self, bytes: &[u8]) {
        let (header, datagram) = wire::decode(bytes).expect("what a client sends can be read");
        match datagram {
            Datagram::Hello | Datagram::Init(_) => self.door.nonce = header.channel.get(),
            Datagram::Request(body, question) => {
                let range = u64::from(body.first_leaf.get()) + u64::from(body.leaf_count.get());
                assert!(range <= u64::from(LEAVES), "leaves that there are");
                assert!(question == Question::Since || body.leaf_count.get() > 0);
                assert!(question != Question::Holes(&[]), "it asks for something");
                self.check_flags(Flags(header.flags.get()));
                self.request_ids.push(body.request_id.get());
                if self.request_ids.len() > 4 {
                    self.request_ids.remove(0);
                }
            }
            Datagram::Ready | Datagram::LayoutRequest(_) | Datagram::Bye(_) => {}
            other => panic!("a client does not send this: {other:?}"),
        }
    }

    fn hear(&mut self, event: ClientEvent, last: Option<&Header>) {
        match event {
            ClientEvent::Layout => {
                let mut tree = MemTree::new();
                self.client.attach(self.now, Held::Nothing, &mut tree);
                self.tree = Some(tree);
                self.drain();
            }
            ClientEvent::Joined(_) => {
                let Some(tree) = self.tree.as_mut().filter(|_| !self.client.is_attached()) else {
                    return;
                };
                let held = match tree.noted {
                    (_, Revision::ZERO) => Held::Partial,
                    (life, watermark) => Held::UpTo { life, watermark },
                };
                self.client.attach(self.now, held, tree);
                self.drain();
            }
            ClientEvent::InSync if self.client.is_in_sync() => {
                let header = last.expect("only a datagram brings in sync");
                let whole = self.client.progress().wanted_leaves == LEAVES;
                let tree = self.tree.as_ref().expect("a copy");
                assert!(!whole || tree.digest().0 == header.digest.get(), "not equal");
                assert!(Flags(header.flags.get()).has(Flags::SOURCE_IN_SYNC));
            }
            _ => {}
        }
    }
}

/// What follows the body of a WELCOME whose view has a group, or something near to it.
fn group(input: &mut Input<'_>) -> Vec<u8> {
    let ip = match input.u8() {
        0xff => return input.take(size_of::<GroupBody>()).to_vec(),
        0xfe => return Vec::new(),
        0xfd => [127, 0, 0, 1],
        _ => [239, 1, 2, 3],
    };
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), 7);
    GroupBody::new(address).as_bytes().to_vec()
}

/// Whether this is an EVENT or TICK of the session's view.
fn is_of_view(joined: &Joined, bytes: &[u8]) -> bool {
    let Ok((header, Datagram::Event(_) | Datagram::Tick(_))) = wire::decode(bytes) else {
        return false;
    };
    (header.tree_id.get(), header.channel.get()) == (joined.tree_id.0, joined.view_id)
        && (header.life.get(), header.layout_hash.get()) == (joined.life.0, joined.layout_hash.0)
}

/// A copy of an earlier run: some leaves of an older life, some of this one.
fn copy_from_before(input: &mut Input<'_>) -> MemTree {
    let mut tree = MemTree::new();
    tree.begin_life(Life(u32::from(input.u8() % 12)));
    for _ in 0..input.u8() % 8 {
        let leaf = u32::from(input.u8()) % LEAVES;
        tree.write(mapleaf::layout::DataLocId(leaf), input.bytes()).expect("room");
    }
    tree.take_changes(&mut Vec::new());
    tree.noted = (tree.life(), Revision(input.near(tree.newest_revision().0)));
    tree
}

/// A leaf goes back only where the rules let a server that lost history win.
fn check_revisions(
    before: &[Revision],
    after: &[Revision],
    life: Life,
    mismatches: u64,
    bytes: &[u8],
) {
    for (old, new) in before.iter().zip(after).filter(|(old, new)| new < old) {
        let (header, datagram) = wire::decode(bytes).expect("it was taken");
        assert!(Flags(header.flags.get()).has(Flags::SOURCE_IN_SYNC), "{old:?} to {new:?}");
        let of_other_life = *old <= life.base();
        let lost_history = matches!(datagram, Datagram::Response(..)) && mismatches > 1;
        assert!(of_other_life || lost_history, "{old:?} to {new:?}");
    }
}
