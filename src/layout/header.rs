//! The header page, the state slots and the undo slot of a tree file.
//!
//! What is fixed at creation (the header) lies apart from what a crash can tear
//! (state and undo), each with a checksum or an order of writing of its own.

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

/// First bytes of a tree file: written at creation, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`Header::MAGIC`].
    pub magic: [u8; 8],
    /// A reader refuses a major version that it does not know.
    pub format_major: U16,
    /// A reader accepts any minor version of a major one.
    pub format_minor: U16,
    /// CRC32C over the whole header page with this field zero.
    pub header_checksum: U32,
    /// See [`crate::layout::TreeId`].
    pub tree_id: U64,
    /// Unix time of creation, in seconds.
    pub created_unix_s: U64,
    /// Length of the whole file in bytes.
    pub file_len: U64,
    /// Offset of the page that holds the two state slots.
    pub state_offset: U64,
    /// Offset of the undo slot.
    pub undo_offset: U64,
    /// Length of the undo slot in bytes: undo header and the largest stride.
    pub undo_len: U64,
    /// Offset of the schema text.
    pub schema_offset: U64,
    /// Length of the schema text in bytes.
    pub schema_len: U64,
    /// Offset of the parents table.
    pub parents_offset: U64,
    /// Offset of the first leaf record.
    pub records_offset: U64,
    /// Length of all extents of records in bytes.
    pub records_len: U64,
    /// Number of parents.
    pub parent_count: U32,
    /// Number of leaves.
    pub leaf_count: U32,
    /// See [`crate::layout::LayoutHash`].
    pub layout_hash: U32,
    /// Largest leaf capacity of any parent, in bytes of Data.
    pub capacity_max: U32,
}

impl Header {
    /// Identifies a tree file.
    pub const MAGIC: [u8; 8] = *b"mapleaf\0";
    /// Major version that this crate writes and reads.
    pub const FORMAT_MAJOR: u16 = 1;
    /// Minor version that this crate writes.
    pub const FORMAT_MINOR: u16 = 0;
}

/// Whose tree a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeRole {
    /// The origin: revisions are made here.
    Server,
    /// A copy: revisions come from a server.
    Replica,
}

impl TreeRole {
    /// The number in the file.
    pub const fn code(self) -> u32 {
        match self {
            TreeRole::Server => 1,
            TreeRole::Replica => 2,
        }
    }

    /// The role with this number in the file.
    pub const fn from_code(code: u32) -> Option<TreeRole> {
        match code {
            1 => Some(TreeRole::Server),
            2 => Some(TreeRole::Replica),
            _ => None,
        }
    }
}

/// Where the two state slots lie in their page: a sector apart and more, so that
/// one torn write harms one of them.
pub const STATE_SLOT_OFFSETS: [usize; 2] = [0, 2048];

/// What changes from run to run. The slot with the higher `sequence` and a right
/// checksum counts; the other one is written next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StateSlot {
    /// Number of this write of the state. A u64 cannot wrap.
    pub sequence: U64,
    /// CRC32C over the slot with this field zero.
    pub state_checksum: U32,
    /// [`TreeRole`] by its code.
    pub role: U32,
    /// Life of the server (its own, or the one that a replica follows).
    pub life: U32,
    /// 1 if the last owner closed the tree in good order, otherwise 0.
    pub clean: U32,
    /// Boot id of the machine on which the tree was last opened for writing: the
    /// same one means that a crash was a process's, another one a power loss.
    pub boot_id: [u8; 16],
    /// Replica: every change up to this revision is held. Server: the highest
    /// revision given when the state was written.
    pub watermark: U64,
    /// Zero.
    pub reserved: U64,
}

/// Head of the undo slot. The record about to be overwritten is copied behind
/// it, then `armed` is set, the record written, and `armed` cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UndoHeader {
    /// DataLocID + 1 of the record being overwritten, 0 if none is.
    pub armed: U32,
    /// Bytes of the record that were saved, from its first byte on.
    pub saved_len: U32,
    /// Zero.
    pub reserved: [u8; 56],
}
