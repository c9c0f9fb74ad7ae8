//! One valid datagram of each type, for the tests of this module.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::DataLocId;
use crate::layout::LeafHead;
use crate::layout::leaf_wire_len;
use crate::wire::AckRefusal;
use crate::wire::DOOR_DATAGRAM_LEN;
use crate::wire::DatagramType;
use crate::wire::Flags;
use crate::wire::GroupBody;
use crate::wire::Header;
use crate::wire::INIT_FILTER_LEN_MAX;
use crate::wire::InitBody;
use crate::wire::LayoutBody;
use crate::wire::LayoutRequestBody;
use crate::wire::LeafSource;
use crate::wire::PROTOCOL_VERSION;
use crate::wire::Packet;
use crate::wire::RequestBody;
use crate::wire::ResponseBody;
use crate::wire::TickBody;
use crate::wire::WelcomeBody;
use crate::wire::encode;
use crate::wire::lay_out;
use crate::wire::leaf_checksum;
use crate::wire::push_leaf;

/// Data of the sample leaves 7 and 9: the second fills its place to the last byte.
pub(crate) const DATA: [(u32, &[u8]); 2] = [(7, b"on"), (9, b"21.5 C, valve 0x")];

pub(crate) fn header(datagram_type: DatagramType) -> Header {
    Header {
        datagram_type: datagram_type.code(),
        version: PROTOCOL_VERSION,
        tree_id: U64::new(0x7472_6565),
        life: U32::new(5),
        layout_hash: U32::new(0x6c61_796f),
        channel: U64::new(0x6368_616e_6e65_6c21),
        event_num: U64::new(41),
        watermark: U64::new((5 << 32) | 9),
        digest: U64::new(0x6469_6765_7374),
        ..Header::default()
    }
}

/// The sample leaves, as a tree would give them.
pub(crate) struct Source;

impl LeafSource for Source {
    fn copy_wire(&self, leaf: DataLocId, to: &mut [u8]) -> Option<usize> {
        let (_, data) = DATA.into_iter().find(|(id, _)| *id == leaf.0)?;
        let mut head = LeafHead {
            checksum: U32::ZERO,
            data_size: U32::new(data.len() as u32),
            data_loc_id: U32::new(leaf.0),
            reserved: U32::ZERO,
            revision: U64::new((5 << 32) | u64::from(leaf.0 - 7)),
        };
        head.checksum = U32::new(leaf_checksum(&head, data));
        let mut bytes = zerocopy::IntoBytes::as_bytes(&head).to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(leaf_wire_len(data.len()), 0);
        to.get_mut(..bytes.len())?.copy_from_slice(&bytes);
        Some(bytes.len())
    }
}

pub(crate) fn init(filter: &str) -> Vec<u8> {
    let mut body = InitBody {
        cookie_time: U64::new(1),
        cookie_mac: [U64::new(2), U64::new(3)],
        held_life: U32::new(4),
        held_layout_hash: U32::new(5),
        held_watermark: U64::new(6),
        role: 1,
        level: 0,
        filter_len: U16::new(filter.len() as u16),
        reserved: U32::ZERO,
        filter: [0; INIT_FILTER_LEN_MAX],
    };
    body.filter[..filter.len()].copy_from_slice(filter.as_bytes());
    finished(header(DatagramType::Init), &body, &[], DOOR_DATAGRAM_LEN)
}

fn finished<B>(header: Header, body: &B, tail: &[u8], padded_len: usize) -> Vec<u8>
where
    B: zerocopy::IntoBytes + zerocopy::Immutable,
{
    let mut out = Vec::new();
    encode(&mut out, &header, body, tail, padded_len);
    out
}

fn welcome() -> Vec<u8> {
    let body = WelcomeBody {
        nonce: U64::new(1),
        view_id: U64::new(2),
        life_start: U64::new(3),
        period_us: U32::new(100_000),
        heartbeat_ms: U32::new(250),
        lease_ms: U32::new(10_000),
        datagram_size: U32::new(1_200),
        leaf_count: U32::new(10),
        layout_len: U32::new(100),
        credit_max: U32::new(256),
        level: 0,
        reserved: [0; 3],
    };
    let group = GroupBody::new(([239, 1, 2, 3], 4_720).into());
    finished(header(DatagramType::Welcome), &body, group.as_bytes(), 0)
}

fn of_leaves(datagram_type: DatagramType, response: Option<ResponseBody>, flags: u16) -> Vec<u8> {
    let header = Header { flags: U16::new(flags), ..header(datagram_type) };
    let ids = DATA.map(|(id, _)| DataLocId(id));
    let mut out = vec![0; 1_200];
    let size = lay_out(&Packet { header, response, leaves: 0..2 }, &ids, &Source, &mut out);
    out.truncate(size);
    out
}

fn request() -> Vec<u8> {
    let header = Header {
        count: U16::new(2),
        flags: U16::new(Flags::CHECKSUMS),
        ..header(DatagramType::Request)
    };
    let body = RequestBody {
        first_leaf: U32::new(7),
        leaf_count: U32::new(2),
        request_id: U32::new(8),
        credit: U16::new(16),
        reserved: U16::ZERO,
    };
    finished(header, &body, &[1, 0, 0, 0, 2, 0, 0, 0], 0)
}

fn response() -> Vec<u8> {
    let body = ResponseBody {
        request_id: U32::new(8),
        first_leaf: U32::new(7),
        next_leaf: U32::new(10),
        index: U16::ZERO,
        reserved: U16::ZERO,
    };
    of_leaves(DatagramType::Response, Some(body), Flags::LAST | Flags::SOURCE_IN_SYNC)
}

fn report() -> Vec<u8> {
    let mut leaves = Vec::new();
    DATA.iter().for_each(|(id, data)| push_leaf(&mut leaves, DataLocId(*id), data));
    let header = Header { count: U16::new(2), ..header(DatagramType::Report) };
    finished(header, &(), &leaves, 0)
}

fn ack() -> Vec<u8> {
    let refusal = AckRefusal {
        sequence: U64::new(41),
        data_loc_id: U32::new(7),
        reason: U16::new(2),
        reserved: U16::ZERO,
        detail: U32::new(1),
        reserved_too: U32::ZERO,
    };
    let header = Header { count: U16::new(1), ..header(DatagramType::Ack) };
    finished(header, &refusal, &[], 0)
}

fn layout_request() -> Vec<u8> {
    let body = LayoutRequestBody { offset: U32::new(8), credit: U32::new(4) };
    finished(header(DatagramType::LayoutRequest), &body, &[], 0)
}

fn layout() -> Vec<u8> {
    let body = LayoutBody { offset: U32::new(8), layout_len: U32::new(14) };
    finished(header(DatagramType::Layout), &body, b"schema", 0)
}

fn tick() -> Vec<u8> {
    let body = TickBody { session_id: U64::ZERO, tag: [0; 16], reserved: U64::ZERO };
    let header = Header { flags: U16::new(Flags::CLOSES_PERIOD), ..header(DatagramType::Tick) };
    finished(header, &body, &[], 0)
}

fn bye() -> Vec<u8> {
    let header = Header { flags: U16::new(3), detail: U32::new(2), ..header(DatagramType::Bye) };
    finished(header, &(), &[], 0)
}

pub(crate) fn of(datagram_type: DatagramType) -> Vec<u8> {
    match datagram_type {
        DatagramType::Hello => finished(header(datagram_type), &(), &[], DOOR_DATAGRAM_LEN),
        DatagramType::Cookie | DatagramType::Ready => finished(header(datagram_type), &(), &[], 0),
        DatagramType::Init => init("plant/hall-2"),
        DatagramType::Welcome => welcome(),
        DatagramType::LayoutRequest => layout_request(),
        DatagramType::Layout => layout(),
        DatagramType::Event => of_leaves(datagram_type, None, Flags::CLOSES_PERIOD),
        DatagramType::Tick => tick(),
        DatagramType::Request => request(),
        DatagramType::Response => response(),
        DatagramType::Report => report(),
        DatagramType::Ack => ack(),
        DatagramType::Bye => bye(),
    }
}

pub(crate) fn all() -> impl Iterator<Item = Vec<u8>> {
    DatagramType::ALL.iter().map(|datagram_type| of(*datagram_type))
}

pub(crate) fn type_of(bytes: &[u8]) -> DatagramType {
    DatagramType::from_code(bytes[2]).expect("a sample has a type")
}
