//! The parents table: one 64-byte row a parent (claim 25).

use core::fmt;
use core::ops::Range;

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::id::DataLocId;
use crate::layout::id::ParentId;
use crate::layout::limits::PARENT_NAME_LEN_MAX;

/// A parent node: where its leaves lie and what encloses it.
///
/// The leaves of a parent are contiguous in DataLocID and lie in one extent of
/// the file, one behind the other at `stride` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Parent {
    /// Position in the table.
    pub parent_id: U32,
    /// ParentID of the enclosing parent, `u32::MAX` at the top. Always smaller
    /// than `parent_id`, so that a walk upwards ends.
    pub enclosing_parent_id: U32,
    /// DataLocID of the first leaf, `u32::MAX` if the parent owns none.
    pub first_leaf_loc_id: U32,
    /// DataLocID of the last leaf, `u32::MAX` if the parent owns none (claim 25:
    /// last leaf node location ID).
    pub last_leaf_loc_id: U32,
    /// Most bytes of Data that a leaf of this parent holds.
    pub capacity: U32,
    /// Bytes from one record to the next, a multiple of 64.
    pub stride: U32,
    /// Offset in the file of the first record, a multiple of 64.
    pub first_record_offset: U64,
    /// UTF-8, filled up with zeros.
    pub name: [u8; PARENT_NAME_LEN_MAX],
}

impl Parent {
    /// The DataLocIDs of this parent's leaves.
    pub fn leaves(&self) -> Range<u32> {
        if self.first_leaf_loc_id.get() == DataLocId::NONE.0 {
            return 0..0;
        }
        self.first_leaf_loc_id.get()..self.last_leaf_loc_id.get().saturating_add(1)
    }

    /// The enclosing parent, if there is one.
    pub fn enclosing(&self) -> Option<ParentId> {
        let id = ParentId(self.enclosing_parent_id.get());
        (id != ParentId::NONE).then_some(id)
    }

    /// The name without its filling, or nothing if it is not UTF-8.
    pub fn name(&self) -> Option<&str> {
        let len = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        core::str::from_utf8(self.name.get(..len)?).ok()
    }
}

/// A name that fits the table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ParentName([u8; PARENT_NAME_LEN_MAX]);

impl ParentName {
    /// Accepts 1 to 32 bytes of UTF-8 without `/` and control characters.
    pub fn new(name: &str) -> Option<ParentName> {
        let fits = (1..=PARENT_NAME_LEN_MAX).contains(&name.len());
        if !fits || name.chars().any(|c| c == '/' || c.is_control()) {
            return None;
        }
        let mut bytes = [0; PARENT_NAME_LEN_MAX];
        bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        Some(ParentName(bytes))
    }

    /// The bytes as they lie in the table.
    pub const fn bytes(self) -> [u8; PARENT_NAME_LEN_MAX] {
        self.0
    }
}

impl fmt::Debug for ParentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParentName({})", String::from_utf8_lossy(&self.0))
    }
}
