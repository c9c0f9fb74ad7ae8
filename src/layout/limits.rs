//! Every limit of the file and of the datagrams, each with its reason.

use core::mem::size_of;

use crate::layout::header::Header;
use crate::layout::header::StateSlot;
use crate::layout::header::UndoHeader;
use crate::layout::parent::Parent;
use crate::layout::record::LeafHead;
use crate::layout::record::RecordHead;
use crate::layout::redo::RedoBatchHead;
use crate::layout::redo::RedoHeader;

/// Granularity of the sections of the file: the page of every supported machine
/// divides it or equals it.
pub const PAGE_SIZE: usize = 4096;

/// Strides are multiples of a cache line, so that no two records share one.
pub const STRIDE_ALIGN: usize = 64;

/// Leaves on the wire start at multiples of this, so that they are read in place.
pub const LEAF_ALIGN: usize = 8;

/// Most leaves of a tree. 2^27 leaves of the smallest stride fill 8 GiB.
pub const LEAVES_MAX: u32 = 1 << 27;

/// Most parents of a tree. Their table is 8 MiB then, and what is known of them some
/// 55 MiB: a parent takes 440 bytes of memory and, with one leaf, 170 of the file. More
/// of them and a file could take more than twice its length and 16 MiB.
pub const PARENTS_MAX: u32 = 1 << 17;

/// Deepest nesting of parents. Paths stay readable, and walks are bounded.
pub const DEPTH_MAX: usize = 16;

/// Longest schema text. It travels in LAYOUT datagrams and is held in memory.
pub const SCHEMA_LEN_MAX: usize = 16 << 20;

/// Most fields of a parent. With 16 bytes each they fill the largest Data. What is
/// known of a field takes three times the bytes of its text.
pub const FIELDS_MAX: usize = 4_096;

/// Most fields of all parents of a tree: some 9 MiB of memory, so that a schema of any
/// length takes no more than its file, as long again, and a little.
pub const TREE_FIELDS_MAX: usize = 1 << 17;

/// Longest name of a parent, in bytes of UTF-8.
pub const PARENT_NAME_LEN_MAX: usize = 32;

/// Longest name of a leaf, in bytes of UTF-8.
pub const LEAF_NAME_LEN_MAX: usize = 64;

/// Largest payload of a UDP datagram over IPv4: 65,535 - 20 (IP) - 8 (UDP).
pub const DATAGRAM_SIZE_MAX: usize = 65_507;

/// Default payload: no IP fragments on any path (IPv6 promises 1,280 bytes), and
/// the same bytes fit a WebTransport datagram.
pub const DATAGRAM_SIZE_DEFAULT: usize = 1_200;

/// Smallest payload that a server may be set to: the door's messages are padded
/// to 1,200 bytes and have to pass.
pub const DATAGRAM_SIZE_MIN: usize = 1_200;

/// Size of the header that every datagram begins with.
pub const DATAGRAM_HEADER_LEN: usize = 64;

/// Size of the fields of a RESPONSE between header and leaves.
pub const RESPONSE_BODY_LEN: usize = 16;

/// Largest Data of a leaf: it must fit into one RESPONSE of the largest
/// datagram, its length rounded up to `LEAF_ALIGN`.
pub const CAPACITY_MAX: usize =
    (DATAGRAM_SIZE_MAX - DATAGRAM_HEADER_LEN - RESPONSE_BODY_LEN - size_of::<LeafHead>())
        / LEAF_ALIGN
        * LEAF_ALIGN;

const _: () = {
    assert!(size_of::<Header>() <= PAGE_SIZE);
    assert!(size_of::<StateSlot>() <= PAGE_SIZE / 2);
    assert!(size_of::<UndoHeader>() == STRIDE_ALIGN);
    assert!(size_of::<Parent>() == 64);
    assert!(size_of::<RecordHead>() == 32);
    assert!(size_of::<LeafHead>() == 24);
    assert!(size_of::<RedoHeader>() <= PAGE_SIZE);
    assert!(size_of::<RedoBatchHead>() == 64);
    // Leaves in a batch are read in place.
    assert!(size_of::<RedoBatchHead>().is_multiple_of(LEAF_ALIGN));
    assert!(RedoHeader::HALF_LEN_MAX <= u32::MAX as u64);
    assert!(PAGE_SIZE.is_multiple_of(STRIDE_ALIGN));
    assert!(STRIDE_ALIGN.is_multiple_of(LEAF_ALIGN));
    assert!(DATAGRAM_SIZE_DEFAULT >= DATAGRAM_SIZE_MIN);
    assert!(CAPACITY_MAX.is_multiple_of(LEAF_ALIGN));
    // The largest file, every leaf at the largest stride, still fits a u64 and
    // an isize: offsets never overflow.
    assert!((LEAVES_MAX as u64) < (i64::MAX as u64) / (CAPACITY_MAX as u64 + 4096));
};
