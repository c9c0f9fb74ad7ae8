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
    /// Leaves at the front of `rest` that were found right already.
    right: u16,
}

/// Most leaves that are verified together. A datagram of 1,200 bytes holds 18 of 40 bytes
/// and 5 of 200; the gain is there from two on.
const TOGETHER_MAX: usize = 16;

impl<'a> LeafIter<'a> {
    /// Reads `count` leaves from `bytes`.
    pub const fn new(bytes: &'a [u8], count: u16) -> LeafIter<'a> {
        LeafIter { rest: bytes, left: count, right: 0 }
    }

    /// Heads of the leaves that are left, as far as the bytes go and unverified: they
    /// are good for guesses alone, such as what to have at hand when the leaves come.
    pub fn guesses(&self) -> impl Iterator<Item = &'a LeafHead> + use<'a> {
        let mut rest = self.rest;
        (0..self.left).map_while(move |_| {
            let (head, _) = LeafHead::ref_from_prefix(rest).ok()?;
            let data_size = (head.data_size.get() as usize).min(CAPACITY_MAX);
            rest = rest.get(leaf_wire_len(data_size)..).unwrap_or(&[]);
            Some(head)
        })
    }

    #[inline(always)]
    fn read(&mut self) -> Result<Leaf<'a>, LeafError> {
        let cut = |expected| LeafError::Cut { expected, found: self.rest.len() };
        let (head, tail) =
            LeafHead::ref_from_prefix(self.rest).map_err(|_| cut(size_of::<LeafHead>()))?;
        let data_size = head.data_size.get() as usize;
        if data_size > CAPACITY_MAX {
            return Err(LeafError::TooLarge { found: data_size });
        }
        let data = tail.get(..data_size).ok_or_else(|| cut(size_of::<LeafHead>() + data_size))?;
        if self.right == 0 {
            self.right = self.right_in_front();
        }
        match self.right.checked_sub(1) {
            Some(right) => self.right = right,
            None => verify(head, data)?,
        }
        // The filling of the last leaf may be cut off by the datagram's end.
        self.rest = self.rest.get(leaf_wire_len(data_size)..).unwrap_or(&[]);
        Ok(Leaf { head, data })
    }

    /// Verifies the leaf in front and those behind it, and says how many from the front are
    /// right. Several checksums are computed in the time of one.
    #[inline(never)]
    fn right_in_front(&self) -> u16 {
        // The one in front was counted off `left` already.
        let most = TOGETHER_MAX.min(usize::from(self.left) + 1);
        let (mut checked, mut expected) = ([&[][..]; TOGETHER_MAX], [0; TOGETHER_MAX]);
        let (mut rest, mut count) = (self.rest, 0);
        while count < most
            && let Ok((head, tail)) = LeafHead::ref_from_prefix(rest)
            && let data_size = head.data_size.get() as usize
            && data_size <= CAPACITY_MAX.min(tail.len())
            && let Some(bytes) = rest.get(CHECKED_OFFSET..size_of::<LeafHead>() + data_size)
        {
            (checked[count], expected[count]) = (bytes, head.checksum.get());
            rest = rest.get(leaf_wire_len(data_size)..).unwrap_or(&[]);
            count += 1;
        }
        let mut found = [0; TOGETHER_MAX];
        kernel::crc32c_each(&checked[..count], &mut found[..count]);
        let right = expected.iter().zip(&found).take(count).take_while(|(a, b)| a == b);
        right.count() as u16
    }
}

/// Checks one leaf.
#[cold]
fn verify(head: &LeafHead, data: &[u8]) -> Result<(), LeafError> {
    let (expected, found) = (head.checksum.get(), leaf_checksum(head, data));
    if found == expected { Ok(()) } else { Err(LeafError::Checksum { expected, found }) }
}

impl<'a> Iterator for LeafIter<'a> {
    type Item = Result<Leaf<'a>, LeafError>;

    #[inline]
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
    /// Hears that a leaf is to be copied soon, and may ask for its memory.
    fn expect_copy(&self, leaf: DataLocId) {
        let _ = leaf;
    }
}

/// CRC32C of a leaf: over its head behind `checksum`, and its Data.
pub fn leaf_checksum(head: &LeafHead, data: &[u8]) -> u32 {
    let checked = head.as_bytes().get(CHECKED_OFFSET..).unwrap_or_default();
    kernel::crc32c_append(kernel::crc32c(checked), data)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::push_leaf;

    fn leaves_of(all: &[(u32, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        all.iter().for_each(|(id, data)| push_leaf(&mut bytes, DataLocId(*id), data));
        bytes
    }

    fn two() -> Vec<u8> {
        leaves_of(&[(3, b"first".to_vec()), (4, b"second leaf".to_vec())])
    }

    fn read(bytes: &[u8], count: u16) -> Vec<Result<u32, LeafError>> {
        LeafIter::new(bytes, count).map(|leaf| Ok(leaf?.data_loc_id().0)).collect()
    }

    #[test]
    fn leaves_come_in_order_and_as_many_as_counted() {
        let bytes = two();
        assert_eq!(read(&bytes, 2), [Ok(3), Ok(4)]);
        assert_eq!(read(&bytes, 1), [Ok(3)]);
        assert_eq!(read(&bytes, 0), []);
    }

    #[test]
    fn the_filling_of_the_last_leaf_may_be_missing() {
        let bytes = two();
        // The second leaf: 24 bytes of head, 11 of Data, 5 of filling.
        assert_eq!(bytes.len(), 32 + 40);
        assert_eq!(read(&bytes[..bytes.len() - 5], 2), [Ok(3), Ok(4)]);
        assert_eq!(
            read(&bytes[..bytes.len() - 6], 2),
            [Ok(3), Err(LeafError::Cut { expected: 35, found: 34 })]
        );
    }

    #[test]
    fn a_cut_gives_the_leaves_before_it_and_one_error() {
        let bytes = two();
        for len in 0..bytes.len() - 5 {
            let found = read(&bytes[..len], 2);
            let whole = usize::from(len >= 24 + 5);
            assert_eq!(found.len(), whole + 1, "{len}");
            assert!(matches!(found[whole], Err(LeafError::Cut { .. })), "{len}: {found:?}");
        }
    }

    #[test]
    fn leaves_of_one_length_are_verified_one_by_one_all_the_same() {
        for len in [0, 1, 8, 40, 200] {
            let all: Vec<_> = (0..40).map(|id| (id, vec![id as u8; len])).collect();
            let bytes = leaves_of(&all);
            let whole: Vec<_> = (0..40).map(Ok).collect();
            assert_eq!(read(&bytes, 40), whole, "{len}");
            let wire_len = leaf_wire_len(len);
            for damaged in [0, 1, 14, 15, 16, 17, 39] {
                let mut bytes = bytes.clone();
                // Its revision, which lies in every leaf.
                bytes[damaged * wire_len + 16] ^= 1;
                let found = read(&bytes, 40);
                assert_eq!(found[..damaged], whole[..damaged], "{len}, {damaged}");
                assert!(matches!(found[damaged], Err(LeafError::Checksum { .. })), "{len}");
                assert_eq!(found.len(), damaged + 1, "{len}, {damaged}");
            }
        }
    }

    #[test]
    fn lengths_may_change_anywhere() {
        let all: Vec<_> = (0..60_u32).map(|id| (id, vec![7; (id / 3 * id % 5) as usize])).collect();
        assert_eq!(read(&leaves_of(&all), 60), (0..60).map(Ok).collect::<Vec<_>>());
        let ends: Vec<_> = all
            .iter()
            .scan(0, |end, (_, data)| {
                *end += leaf_wire_len(data.len());
                Some(*end)
            })
            .collect();
        for damaged in 0..60 {
            let mut bytes = leaves_of(&all);
            // In its revision.
            bytes[ends[damaged] - leaf_wire_len(all[damaged].1.len()) + 17] ^= 0x10;
            let found = read(&bytes, 60);
            assert!(found[..damaged].iter().cloned().eq((0..damaged as u32).map(Ok)), "{damaged}");
            assert!(matches!(found[damaged..], [Err(LeafError::Checksum { .. })]), "{damaged}");
        }
        let guessed = leaves_of(&all);
        let guesses = LeafIter::new(&guessed, 60).guesses().map(|head| head.data_loc_id.get());
        assert!(guesses.eq(0..60));
        assert_eq!(LeafIter::new(&guessed[..30], 60).guesses().count(), 1);
    }

    #[test]
    fn a_damaged_leaf_ends_the_reading() {
        let mut bytes = two();
        bytes[24] ^= 1;
        let found = read(&bytes, 2);
        assert!(matches!(found[..], [Err(LeafError::Checksum { .. })]), "{found:?}");
    }

    #[test]
    fn a_data_size_beyond_any_leaf_is_refused_before_it_is_used() {
        for size in [CAPACITY_MAX as u32 + 1, u32::MAX] {
            let mut bytes = two();
            bytes[4..8].copy_from_slice(&size.to_le_bytes());
            assert_eq!(read(&bytes, 2), [Err(LeafError::TooLarge { found: size as usize })]);
        }
    }

    #[test]
    fn the_checksum_is_the_crc32c_of_what_lies_behind_it() {
        let bytes = two();
        let found = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
        assert_eq!(found, kernel::crc32c(&bytes[4..24 + 5]));
    }

    proptest! {
        #[test]
        fn any_leaves_come_back(
            all in prop::collection::vec(
                (any::<u32>(), prop::collection::vec(any::<u8>(), 0..100)),
                0..20,
            ),
        ) {
            let bytes = leaves_of(&all);
            prop_assert_eq!(bytes.len() % 8, 0);
            let found: Vec<(u32, Vec<u8>)> = LeafIter::new(&bytes, all.len() as u16)
                .map(|leaf| leaf.expect("just laid out"))
                .map(|leaf| (leaf.data_loc_id().0, leaf.data.to_vec()))
                .collect();
            prop_assert_eq!(found, all);
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..300), count: u16) {
            let found = read(&bytes, count);
            prop_assert!(found.len() <= usize::from(count));
            prop_assert!(found.len() <= bytes.len() / 24 + 1);
        }
    }
}
