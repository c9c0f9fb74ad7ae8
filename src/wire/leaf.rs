//! Leaves inside a datagram, read in place.

use core::fmt;
use core::mem::offset_of;
use core::mem::size_of;

use zerocopy::FromBytes;
use zerocopy::IntoBytes;

use crate::kernel;
use crate::layout::DataLocId;
use crate::layout::LeafHead;
use crate::layout::Revision;
use crate::layout::leaf_wire_len;
use crate::layout::limits::CAPACITY_MAX;

/// Where the checksum of a leaf begins to cover it: behind itself.
const CHECKED_OFFSET: usize = offset_of!(LeafHead, data_size);

/// A leaf as it lies in a datagram, its checksum verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// Head, byte for byte as in the sender's record.
    pub head: &'a LeafHead,
    /// Data, `head.data_size` bytes.
    pub data: &'a [u8],
}

impl Leaf<'_> {
    /// Location of the leaf.
    pub fn data_loc_id(&self) -> DataLocId {
        DataLocId(self.head.data_loc_id.get())
    }

    /// Number of the change that brought this Data.
    pub fn revision(&self) -> Revision {
        Revision(self.head.revision.get())
    }
}

/// Why the leaves of a datagram could not be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeafError {
    /// The datagram ends inside a leaf.
    Cut {
        /// Bytes that the leaf needs.
        expected: usize,
        /// Bytes that are left.
        found: usize,
    },
    /// The leaf's checksum does not match its bytes.
    Checksum {
        /// Checksum in the datagram.
        expected: u32,
        /// Checksum of the bytes.
        found: u32,
    },
    /// DataSize is beyond what any leaf may hold.
    TooLarge {
        /// DataSize in the datagram.
        found: usize,
    },
}

impl fmt::Display for LeafError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeafError::Cut { expected, found } => {
                write!(f, "leaf is cut: expected {expected} bytes, found {found}")
            }
            LeafError::Checksum { expected, found } => {
                write!(f, "leaf checksum differs: expected {expected:08x}, found {found:08x}")
            }
            LeafError::TooLarge { found } => {
                write!(f, "leaf is too large: at most {CAPACITY_MAX} bytes, found {found}")
            }
        }
    }
}

impl core::error::Error for LeafError {}

/// The leaves of an EVENT, RESPONSE or REPORT, one after the other.
///
/// Ends at the first leaf that is cut or damaged: what follows it cannot be
/// found any more.
#[derive(Clone, Debug)]
pub struct LeafIter<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> LeafIter<'a> {
    /// Reads `count` leaves from `bytes`.
    pub const fn new(bytes: &'a [u8], count: u16) -> LeafIter<'a> {
        LeafIter { rest: bytes, left: count }
    }

    fn read(&mut self) -> Result<Leaf<'a>, LeafError> {
        let cut = |expected| LeafError::Cut { expected, found: self.rest.len() };
        let (head, tail) =
            LeafHead::ref_from_prefix(self.rest).map_err(|_| cut(size_of::<LeafHead>()))?;
        let data_size = head.data_size.get() as usize;
        if data_size > CAPACITY_MAX {
            return Err(LeafError::TooLarge { found: data_size });
        }
        let data = tail.get(..data_size).ok_or_else(|| cut(size_of::<LeafHead>() + data_size))?;
        let found = leaf_checksum(head, data);
        let expected = head.checksum.get();
        if found != expected {
            return Err(LeafError::Checksum { expected, found });
        }
        // The filling of the last leaf may be cut off by the datagram's end.
        self.rest = self.rest.get(leaf_wire_len(data_size)..).unwrap_or(&[]);
        Ok(Leaf { head, data })
    }
}

impl<'a> Iterator for LeafIter<'a> {
    type Item = Result<Leaf<'a>, LeafError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let leaf = self.read();
        if leaf.is_err() {
            self.left = 0;
        }
        Some(leaf)
    }
}

/// Where leaves are copied from when a datagram is laid out.
pub trait LeafSource {
    /// Copies the part of the leaf that travels to the front of `to`, filled up
    /// with zeros to a multiple of 8, and says how many bytes that were. Nothing
    /// if there is no such leaf or no room.
    fn copy_wire(&self, leaf: DataLocId, to: &mut [u8]) -> Option<usize>;
}

/// CRC32C of a leaf: over its head behind `checksum`, and its Data.
pub fn leaf_checksum(head: &LeafHead, data: &[u8]) -> u32 {
    let checked = head.as_bytes().get(CHECKED_OFFSET..).unwrap_or_default();
    kernel::crc32c_append(kernel::crc32c(checked), data)
}
