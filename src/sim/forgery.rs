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
