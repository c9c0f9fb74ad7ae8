//! Golden vectors: the bytes of each datagram type, held still in tests/golden.
//!
//! A change of any byte fails here, so that a second implementation, and the
//! next release of this one, speak the same protocol. `MAPLEAF_BLESS=1` rewrites
//! the files; whoever does that raises the protocol version or explains why not.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;

use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use mapleaf::layout::DataLocId;
use mapleaf::layout::LeafHead;
use mapleaf::layout::leaf_wire_len;
use mapleaf::wire::AckRefusal;
use mapleaf::wire::ByeReason;
use mapleaf::wire::DOOR_DATAGRAM_LEN;
use mapleaf::wire::Datagram;
use mapleaf::wire::DatagramType;
use mapleaf::wire::Flags;
use mapleaf::wire::GroupBody;
use mapleaf::wire::Header;
use mapleaf::wire::Hole;
use mapleaf::wire::INIT_FILTER_LEN_MAX;
use mapleaf::wire::InitBody;
use mapleaf::wire::LayoutBody;
use mapleaf::wire::LayoutRequestBody;
use mapleaf::wire::LeafIter;
use mapleaf::wire::LeafSource;
use mapleaf::wire::PROTOCOL_VERSION;
use mapleaf::wire::Packet;
use mapleaf::wire::Pretty;
use mapleaf::wire::Question;
use mapleaf::wire::RefusalReason;
use mapleaf::wire::RequestBody;
use mapleaf::wire::ResponseBody;
use mapleaf::wire::TickBody;
use mapleaf::wire::WelcomeBody;
use mapleaf::wire::decode;
use mapleaf::wire::encode;
use mapleaf::wire::lay_out;
use mapleaf::wire::leaf_checksum;
use mapleaf::wire::push_leaf;

// The world that all vectors speak of.
const TREE_ID: u64 = 0x5eed_0000_0000_0001;
const LIFE: u32 = 217_000_000;
const LAYOUT_HASH: u32 = 0x1a70_c7a5;
const NONCE: u64 = 0x0c11_e470_0000_0002;
const SESSION_ID: u64 = 0x5e55_1070_0000_0003;
const VIEW_ID: u64 = 0x0001_ee70_0000_0004;
const DIGEST: u64 = 0xd16e_5700_0000_0005;
/// The tenth change of this life.
const WATERMARK: u64 = ((LIFE as u64) << 32) | 10;
const EVENT_NUM: u64 = 41;
const COOKIE_TIME_MS: u64 = 123_456;
const COOKIE_MAC: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

const GROUP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3)), 4_720);
const FILTER: &str = "plant/hall-2";

/// DataLocID, count of the revision, Data.
const LEAVES: [(u32, u64, &[u8]); 2] = [(7, 9, b"on"), (9, 10, b"21.5 C at hall 2")];

struct World;

impl LeafSource for World {
    fn copy_wire(&self, leaf: DataLocId, to: &mut [u8]) -> Option<usize> {
        let (id, change, data) = LEAVES.into_iter().find(|(id, ..)| *id == leaf.0)?;
        let mut head = LeafHead {
            checksum: U32::ZERO,
            data_size: U32::new(data.len() as u32),
            data_loc_id: U32::new(id),
            reserved: U32::ZERO,
            revision: U64::new((u64::from(LIFE) << 32) | change),
        };
        head.checksum = U32::new(leaf_checksum(&head, data));
        let len = leaf_wire_len(data.len());
        let mut bytes = [head.as_bytes(), data].concat();
        bytes.resize(len, 0);
        to.get_mut(..len)?.copy_from_slice(&bytes);
        Some(len)
    }
}

/// Names and widths of fields, in their order.
type Fields = &'static [(&'static str, usize)];

struct Vector {
    file: &'static str,
    about: &'static str,
    /// The fields behind the header, part by part.
    fields: &'static [Fields],
    bytes: Vec<u8>,
    /// Whether the decoded datagram says what was encoded.
    holds: fn(&Header, Datagram<'_>) -> bool,
}

const HEADER: Fields = &[
    ("datagram_size", 2),
    ("datagram_type", 1),
    ("version", 1),
    ("header_checksum", 4),
    ("tree_id", 8),
    ("life", 4),
    ("layout_hash", 4),
    ("channel", 8),
    ("event_num", 8),
    ("watermark", 8),
    ("digest", 8),
    ("count", 2),
    ("flags", 2),
    ("detail", 4),
];

const INIT: Fields = &[
    ("cookie_time", 8),
    ("cookie_mac, low", 8),
    ("cookie_mac, high", 8),
    ("held_life", 4),
    ("held_layout_hash", 4),
    ("held_watermark", 8),
    ("role: replica", 1),
    ("level: trusted", 1),
    ("filter_len", 2),
    ("reserved", 4),
    ("filter", FILTER.len()),
    ("filter, unused", INIT_FILTER_LEN_MAX - FILTER.len()),
];

const WELCOME: Fields = &[
    ("nonce", 8),
    ("view_id", 8),
    ("life_start", 8),
    ("period_us", 4),
    ("heartbeat_ms", 4),
    ("lease_ms", 4),
    ("datagram_size", 4),
    ("leaf_count", 4),
    ("layout_len", 4),
    ("credit_max", 4),
    ("level", 1),
    ("reserved", 3),
];

/// What follows the fields of a WELCOME whose view has a group.
const GROUP_OF_VIEW: Fields = &[("address: 239.1.2.3", 16), ("port", 2), ("reserved", 6)];

const FIRST_LEAF: Fields = &[
    ("leaf checksum", 4),
    ("data_size", 4),
    ("data_loc_id", 4),
    ("reserved", 4),
    ("revision", 8),
    ("Data", 2),
    ("filling to a multiple of 8", 6),
];

const SECOND_LEAF: Fields = &[
    ("leaf checksum", 4),
    ("data_size", 4),
    ("data_loc_id", 4),
    ("reserved", 4),
    ("revision", 8),
    ("Data, no filling needed", 16),
];

const REQUEST: Fields =
    &[("first_leaf", 4), ("leaf_count", 4), ("request_id", 4), ("credit", 2), ("reserved", 2)];

const CHECKSUMS: Fields =
    &[("checksum of leaf 7", 4), ("checksum of leaf 8", 4), ("checksum of leaf 9", 4)];

const HOLE: Fields = &[("first_leaf", 4), ("leaf_count", 4), ("since", 8), ("up_to", 8)];

const RESPONSE: Fields =
    &[("request_id", 4), ("first_leaf", 4), ("next_leaf", 4), ("index", 2), ("reserved", 2)];

const ACK: Fields = &[
    ("sequence", 8),
    ("data_loc_id", 4),
    ("reason: TooLarge", 2),
    ("reserved", 2),
    ("detail: capacity", 4),
    ("reserved_too", 4),
];

fn header(datagram_type: DatagramType, channel: u64) -> Header {
    Header {
        datagram_type: datagram_type.code(),
        version: PROTOCOL_VERSION,
        tree_id: U64::new(TREE_ID),
        life: U32::new(LIFE),
        layout_hash: U32::new(LAYOUT_HASH),
        channel: U64::new(channel),
        ..Header::default()
    }
}

/// A header of the server that says where the view stands.
fn standing(datagram_type: DatagramType, channel: u64, flags: u16) -> Header {
    Header {
        event_num: U64::new(EVENT_NUM),
        watermark: U64::new(WATERMARK),
        flags: U16::new(flags),
        ..header(datagram_type, channel)
    }
}

fn encoded<B: IntoBytes + Immutable>(
    header: Header,
    body: &B,
    tail: &[u8],
    padded: usize,
) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, &header, body, tail, padded);
    out
}

fn laid_out(header: Header, response: Option<ResponseBody>, ids: &[u32]) -> Vec<u8> {
    let ids: Vec<DataLocId> = ids.iter().map(|id| DataLocId(*id)).collect();
    let mut out = vec![0; 1_200];
    let packet = Packet { header, response, leaves: 0..ids.len() };
    let size = lay_out(&packet, &ids, &World, &mut out);
    out.truncate(size);
    out
}

fn same_leaves(leaves: LeafIter<'_>, ids: &[u32], revisions: bool) -> bool {
    let found: Vec<_> = leaves
        .map(|leaf| leaf.expect("a golden leaf is undamaged"))
        .map(|leaf| (leaf.data_loc_id().0, leaf.revision().0, leaf.data))
        .collect();
    let expected: Vec<_> = LEAVES
        .into_iter()
        .filter(|(id, ..)| ids.contains(id))
        .map(|(id, change, data)| {
            (id, if revisions { (u64::from(LIFE) << 32) | change } else { 0 }, data)
        })
        .collect();
    found == expected
}

fn hello() -> Vector {
    let header = Header {
        tree_id: U64::ZERO,
        life: U32::ZERO,
        layout_hash: U32::ZERO,
        ..header(DatagramType::Hello, NONCE)
    };
    Vector {
        file: "01-hello.hex",
        about: "A client asks for the door; it knows nothing but its nonce.",
        fields: &[],
        bytes: encoded(header, &(), &[], DOOR_DATAGRAM_LEN),
        holds: |header, datagram| {
            matches!(datagram, Datagram::Hello) && header.channel.get() == NONCE
        },
    }
}

fn cookie() -> Vector {
    let header = Header {
        event_num: U64::new(COOKIE_TIME_MS),
        watermark: U64::new(COOKIE_MAC[0]),
        digest: U64::new(COOKIE_MAC[1]),
        ..header(DatagramType::Cookie, NONCE)
    };
    Vector {
        file: "02-cookie.hex",
        about: "The server answers and keeps nothing: event_num is its time in milliseconds,\n# watermark and digest are the MAC.",
        fields: &[],
        bytes: encoded(header, &(), &[], 0),
        holds: |header, datagram| {
            matches!(datagram, Datagram::Cookie)
                && header.event_num.get() == COOKIE_TIME_MS
                && [header.watermark.get(), header.digest.get()] == COOKIE_MAC
        },
    }
}

fn init() -> Vector {
    let path = FILTER.as_bytes();
    let mut body = InitBody {
        cookie_time: U64::new(COOKIE_TIME_MS),
        cookie_mac: COOKIE_MAC.map(U64::new),
        held_life: U32::new(LIFE - 1),
        held_layout_hash: U32::new(LAYOUT_HASH),
        held_watermark: U64::new((u64::from(LIFE - 1) << 32) | 77),
        role: 1,
        level: 0,
        filter_len: U16::new(path.len() as u16),
        reserved: U32::ZERO,
        filter: [0; INIT_FILTER_LEN_MAX],
    };
    body.filter[..path.len()].copy_from_slice(path);
    Vector {
        file: "03-init.hex",
        about: "The client returns the cookie, says what it holds, and wants one parent.",
        fields: &[INIT],
        bytes: encoded(header(DatagramType::Init, NONCE), &body, &[], DOOR_DATAGRAM_LEN),
        holds: |_, datagram| {
            let Datagram::Init(init) = datagram else { return false };
            init.cookie_time.get() == COOKIE_TIME_MS
                && init.cookie_mac.map(U64::get) == COOKIE_MAC
                && init.held_life.get() == LIFE - 1
                && init.held_layout_hash.get() == LAYOUT_HASH
                && (init.role, init.level) == (1, 0)
                && init.filter_path() == Some(FILTER)
        },
    }
}

fn welcome_body() -> WelcomeBody {
    WelcomeBody {
        nonce: U64::new(NONCE),
        view_id: U64::new(VIEW_ID),
        life_start: U64::new((u64::from(LIFE - 1) << 32) | 80),
        period_us: U32::new(100_000),
        heartbeat_ms: U32::new(250),
        lease_ms: U32::new(10_000),
        datagram_size: U32::new(1_200),
        leaf_count: U32::new(12),
        layout_len: U32::new(4_000),
        credit_max: U32::new(256),
        level: 0,
        reserved: [0; 3],
    }
}

fn welcome() -> Vector {
    let (body, flags) = (welcome_body(), Flags::SOURCE_IN_SYNC);
    Vector {
        file: "04-welcome.hex",
        about: "The server opens a session and says where the view stands.",
        fields: &[WELCOME],
        bytes: encoded(standing(DatagramType::Welcome, SESSION_ID, flags), &body, &[], 0),
        holds: |header, datagram| {
            let Datagram::Welcome(welcome, None) = datagram else { return false };
            header.channel.get() == SESSION_ID
                && header.event_num.get() == EVENT_NUM
                && (welcome.nonce.get(), welcome.view_id.get()) == (NONCE, VIEW_ID)
                && welcome.lease_ms.get() == 10_000
                && welcome.credit_max.get() == 256
        },
    }
}

fn welcome_group() -> Vector {
    let (body, flags) = (welcome_body(), Flags::SOURCE_IN_SYNC);
    let group = GroupBody::new(GROUP);
    let header = standing(DatagramType::Welcome, SESSION_ID, flags);
    Vector {
        file: "04-welcome-group.hex",
        about: "The same by a server whose view has a multicast group.",
        fields: &[WELCOME, GROUP_OF_VIEW],
        bytes: encoded(header, &body, group.as_bytes(), 0),
        holds: |_, datagram| {
            let Datagram::Welcome(welcome, Some(group)) = datagram else { return false };
            welcome.view_id.get() == VIEW_ID && group.group() == Some(GROUP)
        },
    }
}

fn ready() -> Vector {
    Vector {
        file: "05-ready.hex",
        about: "The client has the session id.",
        fields: &[],
        bytes: encoded(header(DatagramType::Ready, SESSION_ID), &(), &[], 0),
        holds: |header, datagram| {
            matches!(datagram, Datagram::Ready) && header.channel.get() == SESSION_ID
        },
    }
}

fn layout_request() -> Vector {
    let body = LayoutRequestBody { offset: U32::new(1_128), credit: U32::new(3) };
    Vector {
        file: "06-layout-request.hex",
        about: "The client lacks the layout from byte 1,128 on.",
        fields: &[&[("offset", 4), ("credit", 4)]],
        bytes: encoded(header(DatagramType::LayoutRequest, SESSION_ID), &body, &[], 0),
        holds: |_, datagram| {
            let Datagram::LayoutRequest(request) = datagram else { return false };
            (request.offset.get(), request.credit.get()) == (1_128, 3)
        },
    }
}

fn layout() -> Vector {
    let body = LayoutBody { offset: U32::new(3_984), layout_len: U32::new(4_000) };
    let flags = Flags::SOURCE_IN_SYNC;
    Vector {
        file: "07-layout.hex",
        about: "The last 16 bytes of a layout of 4,000.",
        fields: &[&[("offset", 4), ("layout_len", 4), ("piece", 16)]],
        bytes: encoded(
            standing(DatagramType::Layout, SESSION_ID, flags),
            &body,
            b"unit = \"Celsius\"",
            0,
        ),
        holds: |_, datagram| {
            let Datagram::Layout(layout, piece) = datagram else { return false };
            layout.offset.get() == 3_984 && piece == b"unit = \"Celsius\""
        },
    }
}

fn event() -> Vector {
    let flags = Flags::CLOSES_PERIOD | Flags::SOURCE_IN_SYNC;
    let header =
        Header { digest: U64::new(DIGEST), ..standing(DatagramType::Event, VIEW_ID, flags) };
    Vector {
        file: "08-event.hex",
        about: "Two leaves changed; this EVENT is the last of its period.",
        fields: &[FIRST_LEAF, SECOND_LEAF],
        bytes: laid_out(header, None, &[7, 9]),
        holds: |header, datagram| {
            let Datagram::Event(leaves) = datagram else { return false };
            Flags(header.flags.get()).has(Flags::CLOSES_PERIOD)
                && header.count.get() == 2
                && header.digest.get() == DIGEST
                && same_leaves(leaves, &[7, 9], true)
        },
    }
}

fn tick() -> Vector {
    let flags = Flags::CLOSES_PERIOD | Flags::SOURCE_IN_SYNC;
    let header =
        Header { digest: U64::new(DIGEST), ..standing(DatagramType::Tick, VIEW_ID, flags) };
    let body = TickBody { session_id: U64::ZERO, tag: [0; 16], reserved: U64::ZERO };
    Vector {
        file: "09-tick.hex",
        about: "Nothing changed since EVENT 41.",
        fields: &[&[("session_id", 8), ("tag", 16), ("reserved", 8)]],
        bytes: encoded(header, &body, &[], 0),
        holds: |header, datagram| {
            let Datagram::Tick(tick) = datagram else { return false };
            tick.tag == [0; 16] && header.watermark.get() == WATERMARK
        },
    }
}

fn request_body(credit: u16) -> RequestBody {
    RequestBody {
        first_leaf: U32::new(7),
        leaf_count: U32::new(3),
        request_id: U32::new(501),
        credit: U16::new(credit),
        reserved: U16::ZERO,
    }
}

fn request_since() -> Vector {
    let header =
        Header { watermark: U64::new(WATERMARK), ..header(DatagramType::Request, SESSION_ID) };
    Vector {
        file: "10-request-since.hex",
        about: "What changed in leaves 7 to 9 since the revision in `watermark`?",
        fields: &[REQUEST],
        bytes: encoded(header, &request_body(64), &[], 0),
        holds: |header, datagram| {
            let Datagram::Request(request, Question::Since) = datagram else { return false };
            header.watermark.get() == WATERMARK
                && (request.first_leaf.get(), request.leaf_count.get()) == (7, 3)
                && (request.request_id.get(), request.credit.get()) == (501, 64)
        },
    }
}

fn request_checksums() -> Vector {
    let header = Header {
        count: U16::new(3),
        flags: U16::new(Flags::CHECKSUMS),
        ..header(DatagramType::Request, SESSION_ID)
    };
    let checksums = [0x1111_1111_u32, 0x2222_2222, 0x3333_3333].map(U32::new);
    Vector {
        file: "10-request-checksums.hex",
        about: "Which of leaves 7 to 9 differ from these checksums (claims 8 and 12)?",
        fields: &[REQUEST, CHECKSUMS],
        bytes: encoded(header, &request_body(64), checksums.as_bytes(), 0),
        holds: |_, datagram| {
            let Datagram::Request(_, Question::Checksums(checksums)) = datagram else {
                return false;
            };
            checksums.0 == [0x1111_1111_u32, 0x2222_2222, 0x3333_3333].map(U32::new)
        },
    }
}

fn request_holes() -> Vector {
    let hole = |first, count, up_to| Hole {
        first_leaf: U32::new(first),
        leaf_count: U32::new(count),
        since: U64::new(WATERMARK - 5),
        up_to: U64::new(up_to),
    };
    let holes = [hole(7, 1, WATERMARK - 2), hole(9, 1, WATERMARK)];
    let header = Header {
        event_num: U64::new(EVENT_NUM),
        watermark: U64::new(WATERMARK - 5),
        count: U16::new(2),
        flags: U16::new(Flags::HOLES),
        ..header(DatagramType::Request, SESSION_ID)
    };
    Vector {
        file: "10-request-holes.hex",
        about: "EVENTs were lost: what did they carry of leaves 7 and 9? Leaf 8 is held.",
        fields: &[REQUEST, HOLE, HOLE],
        bytes: encoded(header, &request_body(64), holes.as_bytes(), 0),
        holds: |_, datagram| {
            let Datagram::Request(_, Question::Holes([one, other])) = datagram else {
                return false;
            };
            (one.first_leaf.get(), one.up_to.get()) == (7, WATERMARK - 2)
                && (other.first_leaf.get(), other.leaf_count.get()) == (9, 1)
                && other.since.get() == WATERMARK - 5
        },
    }
}

fn response() -> Vector {
    let body = ResponseBody {
        request_id: U32::new(501),
        first_leaf: U32::new(7),
        next_leaf: U32::new(10),
        index: U16::ZERO,
        reserved: U16::ZERO,
    };
    let flags = Flags::LAST | Flags::SOURCE_IN_SYNC;
    let header =
        Header { digest: U64::new(DIGEST), ..standing(DatagramType::Response, SESSION_ID, flags) };
    Vector {
        file: "11-response.hex",
        about: "Of leaves 7 to 9 only 7 differs; there are no more RESPONSEs.",
        fields: &[RESPONSE, FIRST_LEAF],
        bytes: laid_out(header, Some(body), &[7]),
        holds: |header, datagram| {
            let Datagram::Response(response, leaves) = datagram else { return false };
            Flags(header.flags.get()).has(Flags::LAST)
                && response.request_id.get() == 501
                && (response.first_leaf.get(), response.next_leaf.get()) == (7, 10)
                && same_leaves(leaves, &[7], true)
        },
    }
}

fn report() -> Vector {
    let mut leaves = Vec::new();
    LEAVES.into_iter().for_each(|(id, _, data)| push_leaf(&mut leaves, DataLocId(id), data));
    let header = Header {
        event_num: U64::new(6),
        count: U16::new(2),
        ..header(DatagramType::Report, SESSION_ID)
    };
    Vector {
        file: "12-report.hex",
        about: "A device's sixth REPORT of its session; its leaves carry no revision.",
        fields: &[FIRST_LEAF, SECOND_LEAF],
        bytes: encoded(header, &(), &leaves, 0),
        holds: |header, datagram| {
            let Datagram::Report(leaves) = datagram else { return false };
            header.event_num.get() == 6 && same_leaves(leaves, &[7, 9], false)
        },
    }
}

fn ack() -> Vector {
    let refusal = AckRefusal {
        sequence: U64::new(6),
        data_loc_id: U32::new(9),
        reason: U16::new(RefusalReason::TooLarge.code()),
        reserved: U16::ZERO,
        detail: U32::new(8),
        reserved_too: U32::ZERO,
    };
    let header = Header {
        event_num: U64::new(6),
        watermark: U64::new(4),
        count: U16::new(1),
        ..header(DatagramType::Ack, SESSION_ID)
    };
    Vector {
        file: "13-ack.hex",
        about: "REPORTs 4 to 6 were handled; leaf 9 holds at most 8 bytes and was refused.",
        fields: &[ACK],
        bytes: encoded(header, &refusal, &[], 0),
        holds: |header, datagram| {
            let Datagram::Ack([refusal]) = datagram else { return false };
            (header.watermark.get(), header.event_num.get()) == (4, 6)
                && refusal.sequence.get() == 6
                && RefusalReason::from_code(refusal.reason.get()) == Some(RefusalReason::TooLarge)
                && (refusal.data_loc_id.get(), refusal.detail.get()) == (9, 8)
        },
    }
}

fn bye() -> Vector {
    let header = Header {
        flags: U16::new(ByeReason::SessionsFull.code()),
        detail: U32::new(4_096),
        ..header(DatagramType::Bye, NONCE)
    };
    Vector {
        file: "14-bye.hex",
        about: "The server has its 4,096 sessions and refuses an INIT.",
        fields: &[],
        bytes: encoded(header, &(), &[], 0),
        holds: |header, datagram| {
            matches!(datagram, Datagram::Bye(Some(ByeReason::SessionsFull)))
                && header.detail.get() == 4_096
        },
    }
}

fn vectors() -> Vec<Vector> {
    vec![
        hello(),
        cookie(),
        init(),
        welcome(),
        welcome_group(),
        ready(),
        layout_request(),
        layout(),
        event(),
        tick(),
        request_since(),
        request_checksums(),
        request_holes(),
        response(),
        report(),
        ack(),
        bye(),
    ]
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A field's bytes as text: short ones in full, zeros and long ones in rows.
fn rows(text: &mut String, offset: usize, bytes: &[u8], name: &str) {
    if bytes.len() > 16 && bytes.iter().all(|byte| *byte == 0) {
        writeln!(text, "{offset:04x}  00 * {:<42} | {name}", bytes.len()).expect("a string");
        return;
    }
    for (row, part) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = part.iter().map(|byte| format!("{byte:02x}")).collect();
        let at = offset + row * 16;
        writeln!(text, "{at:04x}  {:<47} | {name}{}", hex.join(" "), value(name, part))
            .expect("a string");
    }
}

/// What the bytes say: a number, in hex where it is an id or a sum, or text.
fn value(name: &str, bytes: &[u8]) -> String {
    let printable = |byte: &u8| (b' '..=b'~').contains(byte);
    let is_text = ["Data", "filter", "piece"].contains(&name.split(',').next().unwrap_or(""));
    if is_text && bytes.iter().all(printable) {
        return format!(" {:?}", String::from_utf8_lossy(bytes));
    }
    if !matches!(bytes.len(), 1 | 2 | 4 | 8) {
        return String::new();
    }
    let number = bytes.iter().rev().fold(0_u64, |all, byte| (all << 8) | u64::from(*byte));
    let hex = ["tree_id", "channel", "view_id", "nonce", "checksum", "hash", "digest", "mac"];
    if hex.iter().any(|part| name.contains(part)) {
        return format!(" = 0x{number:x}");
    }
    format!(" = {number}")
}

fn render(vector: &Vector) -> String {
    let mut text = format!("# {}\n# {}\n", vector.about, Pretty(&vector.bytes));
    let mut offset = 0;
    for (name, len) in HEADER.iter().chain(vector.fields.iter().copied().flatten()) {
        rows(&mut text, offset, &vector.bytes[offset..offset + len], name);
        offset += len;
    }
    let padding = &vector.bytes[offset..];
    if !padding.is_empty() {
        rows(&mut text, offset, padding, "padding");
    }
    text
}

/// Reads the bytes back from the text, by its format alone.
fn parse(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (left, _) = line.split_once('|').expect("a row has a comment behind `|`");
        let mut words = left.split_whitespace();
        let offset = words.next().expect("a row begins with its offset");
        assert_eq!(usize::from_str_radix(offset, 16), Ok(bytes.len()), "{line}");
        let words: Vec<&str> = words.collect();
        if let [byte, "*", times] = words[..] {
            let byte = u8::from_str_radix(byte, 16).expect("hex");
            bytes.extend(vec![byte; times.parse().expect("a number of times")]);
        } else {
            bytes.extend(words.iter().map(|word| u8::from_str_radix(word, 16).expect("hex")));
        }
    }
    bytes
}

fn text_of(vector: &Vector) -> String {
    let path = folder().join(vector.file);
    if std::env::var_os("MAPLEAF_BLESS").is_some() {
        fs::write(&path, render(vector)).expect("the golden folder is writable");
    }
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn what_is_encoded_is_what_the_vectors_hold() {
    for vector in vectors() {
        let text = text_of(&vector);
        assert_eq!(parse(&text), vector.bytes, "{}", vector.file);
        assert_eq!(text, render(&vector), "{}: the comments", vector.file);
    }
}

#[test]
fn the_vectors_decode_to_their_fields() {
    for vector in vectors() {
        let bytes = parse(&text_of(&vector));
        let (header, datagram) =
            decode(&bytes).unwrap_or_else(|error| panic!("{}: {error}", vector.file));
        assert_eq!(usize::from(header.datagram_size.get()), bytes.len(), "{}", vector.file);
        assert!((vector.holds)(header, datagram), "{}", vector.file);
    }
}

#[test]
fn the_vectors_print_as_their_second_line_says() {
    for vector in vectors() {
        let text = text_of(&vector);
        let line = text.lines().filter_map(|line| line.strip_prefix("# ")).next_back();
        assert_eq!(line, Some(&*Pretty(&parse(&text)).to_string()), "{}", vector.file);
    }
}

#[test]
fn every_type_has_a_vector_and_every_vector_a_test() {
    let types: BTreeSet<u8> = vectors().iter().map(|vector| vector.bytes[2]).collect();
    let all: BTreeSet<u8> = DatagramType::ALL.iter().map(|found| found.code()).collect();
    assert_eq!(types, all);
    vectors().iter().for_each(|vector| drop(text_of(vector)));
    let tested: BTreeSet<String> = vectors().iter().map(|v| v.file.to_string()).collect();
    let there: BTreeSet<String> = fs::read_dir(folder())
        .expect("the golden folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".hex"))
        .collect();
    assert_eq!(there, tested);
}
