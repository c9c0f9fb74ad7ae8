//! What somebody sends who is none of the processes.

use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::DataLocId;
use crate::layout::LeafHead;
use crate::layout::Revision;
use crate::sim::network::client_port;
use crate::sim::network::hearing_port;
use crate::sim::network::serving_port;
use crate::sim::node::Kind;
use crate::sim::options::NODES_MAX;
use crate::sim::world::World;
use crate::sync::Joined;
use crate::sync::Leaves;
use crate::sync::RandomSource;
use crate::wire;
use crate::wire::DatagramType;
use crate::wire::Flags;
use crate::wire::Header;
use crate::wire::PROTOCOL_VERSION;
use crate::wire::leaf_checksum;

/// A socket of nobody who takes part.
const STRANGER: u16 = 300 * NODES_MAX + NODES_MAX - 1;

impl World {
    /// Sends a client an EVENT or TICK whose number its server never gave.
    pub(super) fn forge_jump(&mut self) {
        let Some(index) = self.one_of(|kind| matches!(kind, Kind::Relay | Kind::Replica)) else {
            return;
        };
        let node = &self.nodes[index];
        let joined = node.following.client.as_ref().and_then(|client| client.joined().copied());
        let Some(joined) = joined else { return };
        let far = self.random.pick(&[1, 2, 1_000, 1 << 32, 1 << 62]);
        let is_tick = self.random.chance(0.3);
        let closes = if self.random.chance(0.5) { Flags::CLOSES_PERIOD } else { 0 };
        let kind = if is_tick { DatagramType::Tick } else { DatagramType::Event };
        let header = Header {
            event_num: U64::new(joined.event_num.saturating_add(far)),
            digest: U64::new(self.random.next_u64()),
            watermark: U64::new(joined.watermark.0),
            flags: U16::new(closes | Flags::SOURCE_IN_SYNC),
            ..header_for(&joined, kind)
        };
        let mut bytes = Vec::new();
        // A TICK has a body of 32 bytes.
        let body: &[u8] = if is_tick { &[0; 32] } else { &[] };
        wire::encode(&mut bytes, &header, &(), body, 0);
        let (from, to) = (serving_port(node.upstream), client_port(index, node.run));
        self.trace.note(self.now, format!("forge {kind:?} for {}", self.names[index]));
        self.excuse(index);
        self.net.forge(self.now, from, to, bytes);
    }

    /// Sends a copy an EVENT with a leaf that nobody wrote, as new as can be.
    pub(super) fn forge_leaf(&mut self) {
        let Some(index) = self.one_of(|kind| matches!(kind, Kind::Relay | Kind::Replica)) else {
            return;
        };
        let node = &self.nodes[index];
        let joined = node.following.client.as_ref().and_then(|client| client.joined().copied());
        let (Some(joined), Some(leaves)) = (joined, &node.leaves) else { return };
        let range = leaves.range_of(node.filter);
        if range.is_empty() || leaves.layout_hash() != joined.layout_hash {
            return;
        }
        let leaf = range.start + self.random.index(range.len()) as u32;
        let far = self.random.pick(&[1_u64 << 20, 1 << 31]);
        let revision = Revision(joined.life.base().0 + far + self.random.between(0, 1 << 19));
        let header = Header {
            // Late, whatever came before: the leaf is taken all the same.
            event_num: U64::new(0),
            count: U16::new(1),
            flags: U16::new(Flags::SOURCE_IN_SYNC),
            ..header_for(&joined, DatagramType::Event)
        };
        let body = leaf_bytes(leaf, revision, self.random.next_u64().to_le_bytes());
        let mut bytes = Vec::new();
        wire::encode(&mut bytes, &header, &(), &body, 0);
        let (from, to) = (serving_port(node.upstream), client_port(index, node.run));
        self.trace.note(self.now, format!("forge leaf {leaf} for {}", self.names[index]));
        self.checks.forged(revision);
        self.excuse(index);
        self.net.forge(self.now, from, to, bytes);
    }

    /// Sends a member by the group what is not of its view, or not from its server.
    pub(super) fn forge_for_group(&mut self) {
        let is_member = |index: &usize| self.nodes[*index].following.hearing.is_member;
        let members: Vec<usize> = (0..self.nodes.len()).filter(is_member).collect();
        if members.is_empty() {
            return;
        }
        let index = self.random.pick(&members);
        let node = &self.nodes[index];
        let joined = node.following.client.as_ref().and_then(|client| client.joined().copied());
        let Some(joined) = joined else { return };
        let mut from = serving_port(node.upstream);
        let mut header = Header {
            event_num: U64::new(joined.event_num.saturating_add(self.random.between(1, 1 << 40))),
            digest: U64::new(self.random.next_u64()),
            flags: U16::new(Flags::CLOSES_PERIOD | Flags::SOURCE_IN_SYNC),
            ..header_for(&joined, DatagramType::Tick)
        };
        match self.random.between(0, 6) {
            0 => from = STRANGER,
            1 => header.channel = U64::new(joined.view_id ^ 1),
            2 => header.channel = U64::new(joined.session_id),
            3 => header.life = U32::new(joined.life.0 ^ 1),
            4 => header.layout_hash = U32::new(joined.layout_hash.0 ^ 1),
            5 => header.tree_id = U64::new(joined.tree_id.0 ^ 1),
            _ => {
                let kinds = [DatagramType::Bye, DatagramType::Response, DatagramType::Welcome];
                header.datagram_type = self.random.pick(&kinds).code();
                header.channel = U64::new(joined.session_id);
            }
        }
        let mut bytes = Vec::new();
        // Enough for the body of each of them.
        wire::encode(&mut bytes, &header, &(), &[0; 96], 0);
        self.trace.note(self.now, format!("forge for {} by the group", self.names[index]));
        self.net.forge(self.now, from, hearing_port(index), bytes);
    }

    /// Sends a server something that no client of it would.
    pub(super) fn let_a_stranger_knock(&mut self) {
        let Some(index) = self.one_of(|kind| matches!(kind, Kind::Origin | Kind::Relay)) else {
            return;
        };
        let kinds = DatagramType::ALL;
        let kind = kinds[self.random.index(kinds.len())];
        let header = Header {
            datagram_type: kind.code(),
            version: if self.random.chance(0.8) { PROTOCOL_VERSION } else { 9 },
            channel: U64::new(self.random.next_u64()),
            tree_id: U64::new(self.random.next_u64()),
            event_num: U64::new(self.random.next_u64()),
            ..Header::default()
        };
        // A RESPONSE without its body cannot be sealed.
        let len = self.random.pick(&[16, 24, 600, 1_136]);
        let body: Vec<u8> = (0..len).map(|_| self.random.next_u64() as u8).collect();
        let mut bytes = Vec::new();
        let padded = self.random.pick(&[0, 64, 1_199, 1_200]);
        wire::encode(&mut bytes, &header, &(), &body, padded);
        // The last node number belongs to no process: what it is sent is lost.
        let from = self.random.between(200, 400) as u16 * NODES_MAX + NODES_MAX - 1;
        self.net.forge(self.now, from, serving_port(index), bytes);
    }
}

/// A header by which a client takes a datagram for its server's.
fn header_for(joined: &Joined, kind: DatagramType) -> Header {
    Header {
        datagram_type: kind.code(),
        version: PROTOCOL_VERSION,
        tree_id: U64::new(joined.tree_id.0),
        life: U32::new(joined.life.0),
        layout_hash: U32::new(joined.layout_hash.0),
        channel: U64::new(joined.view_id),
        ..Header::default()
    }
}

/// One leaf on the wire.
fn leaf_bytes(leaf: u32, revision: Revision, data: [u8; 8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::push_leaf(&mut bytes, DataLocId(leaf), &data);
    let (mut head, _) = LeafHead::read_from_prefix(&bytes).expect("a leaf holds its head");
    head.revision = U64::new(revision.0);
    head.checksum = U32::new(leaf_checksum(&head, &data));
    bytes[..size_of::<LeafHead>()].copy_from_slice(head.as_bytes());
    bytes
}
