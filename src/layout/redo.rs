//! The redo log beside a tree file: its header page, and the head of a batch.

use core::mem::size_of;

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::limits::PAGE_SIZE;

/// First bytes of a redo log: written when it is made, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RedoHeader {
    /// [`RedoHeader::MAGIC`].
    pub magic: [u8; 8],
    /// A reader refuses a major version that it does not know.
    pub format_major: U16,
    /// A reader accepts any minor version of a major one.
    pub format_minor: U16,
    /// CRC32C over the whole header page with this field zero.
    pub header_checksum: U32,
    /// The tree that it belongs to.
    pub tree_id: U64,
    /// Layout of that tree.
    pub layout_hash: U32,
    /// Life of the server that wrote it. Every life has a log of its own.
    pub life: U32,
    /// Length of each half in bytes, a multiple of a page.
    pub half_len: U64,
    /// Zero.
    pub reserved: U64,
}

impl RedoHeader {
    /// Identifies a redo log.
    pub const MAGIC: [u8; 8] = *b"mapredo\0";
    /// Major version that this crate writes and reads.
    pub const FORMAT_MAJOR: u16 = 1;
    /// Minor version that this crate writes.
    pub const FORMAT_MINOR: u16 = 0;

    /// Longest half: lengths in one fit a u32, and recovery reads all of it.
    pub const HALF_LEN_MAX: u64 = 1 << 30;

    /// Length of a log whose halves have this length.
    pub const fn file_len(half_len: u64) -> u64 {
        PAGE_SIZE as u64 + 2 * half_len
    }
}

/// Head of a batch of leaves that became durable together. The leaves follow it as
/// they travel, then zeros up to a page boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RedoBatchHead {
    /// [`RedoBatchHead::MAGIC`].
    pub magic: [u8; 8],
    /// CRC32C over the whole batch, filling included, with this field zero.
    pub batch_checksum: U32,
    /// Number of leaves.
    pub leaf_count: U32,
    /// Number of times that a half was begun, from 1. A u64 cannot wrap.
    pub epoch: U64,
    /// Number of the batch in its log, from 1. A u64 cannot wrap.
    pub sequence: U64,
    /// That of the log's header.
    pub tree_id: U64,
    /// That of the log's header.
    pub layout_hash: U32,
    /// That of the log's header.
    pub life: U32,
    /// Bytes of the leaves, without filling behind the last one.
    pub leaves_len: U32,
    /// Zero.
    pub reserved: [u8; 12],
}

impl RedoBatchHead {
    /// Identifies a batch.
    pub const MAGIC: [u8; 8] = *b"mapbatch";

    /// Bytes that a batch takes in the log: whole pages, so that no later append
    /// touches a page that holds a durable batch.
    pub const fn batch_len(leaves_len: usize) -> usize {
        (size_of::<RedoBatchHead>() + leaves_len).next_multiple_of(PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_whole_pages() {
        assert_eq!(RedoBatchHead::batch_len(1), PAGE_SIZE);
        assert_eq!(RedoBatchHead::batch_len(PAGE_SIZE - 64), PAGE_SIZE);
        assert_eq!(RedoBatchHead::batch_len(PAGE_SIZE - 63), 2 * PAGE_SIZE);
        assert_eq!(RedoHeader::file_len(8192), 5 * PAGE_SIZE as u64);
    }
}
