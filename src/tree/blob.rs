//! A layout as it travels: the content of LAYOUT datagrams.
//!
//! The schema text alone would do. The parents table travels with it so that a
//! client can see that both ends derive the same one.

use core::fmt;
use core::mem::size_of;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use crate::layout::Parent;
use crate::tree::plan::Layout;
use crate::tree::schema;
use crate::tree::schema_error::SchemaError;

impl Layout {
    /// The layout in the content of LAYOUT datagrams.
    ///
    /// # Errors
    ///
    /// Content of another length than it says, a schema that is refused, or a
    /// parents table that is not the one that follows from the schema.
    pub fn from_blob(blob: &[u8]) -> Result<Layout, BlobError> {
        let cut = |wanted| BlobError::Length { wanted, found: blob.len() as u64 };
        let (head, body) = blob.split_first_chunk::<8>().ok_or_else(|| cut(8))?;
        let [p0, p1, p2, p3, s0, s1, s2, s3] = *head;
        let parent_count = u32::from_le_bytes([p0, p1, p2, p3]);
        let schema_len = u32::from_le_bytes([s0, s1, s2, s3]);
        let table_len = u64::from(parent_count) * size_of::<Parent>() as u64;
        let wanted = table_len + u64::from(schema_len);
        if body.len() as u64 != wanted {
            return Err(cut(8 + wanted));
        }
        let (table, text) = usize::try_from(table_len)
            .ok()
            .and_then(|len| body.split_at_checked(len))
            .ok_or_else(|| cut(8 + wanted))?;
        let text = core::str::from_utf8(text)
            .map_err(|error| BlobError::Text { offset: error.valid_up_to() })?;
        // A parent takes more memory than its text: those without a row come to nothing.
        let parents = schema::count_parents(text).map_err(BlobError::Schema)?;
        if parents != u64::from(parent_count) {
            let parent = u32::try_from(parents).unwrap_or(u32::MAX).min(parent_count);
            return Err(BlobError::Table { parent });
        }
        let layout = Layout::from_toml(text).map_err(BlobError::Schema)?;
        layout.check_table(table).map_err(|parent| BlobError::Table { parent })?;
        Ok(layout)
    }

    /// The content of LAYOUT datagrams: `parent_count u32 | schema_len u32 |
    /// parents table | schema text`.
    pub fn to_blob(&self) -> Vec<u8> {
        let table = self.parents.as_bytes();
        let mut blob = Vec::with_capacity(8 + table.len() + self.schema_text.len());
        blob.extend_from_slice(U32::new(self.parent_count()).as_bytes());
        // SCHEMA_LEN_MAX fits a u32.
        blob.extend_from_slice(U32::new(self.schema_text.len() as u32).as_bytes());
        blob.extend_from_slice(table);
        blob.extend_from_slice(self.schema_text.as_bytes());
        blob
    }

    /// Compares a foreign parents table with this one.
    ///
    /// # Errors
    ///
    /// The first ParentID whose row differs or is missing.
    pub(super) fn check_table(&self, table: &[u8]) -> Result<(), u32> {
        let own = self.parents.as_bytes();
        if own.len() == table.len() { self.check_rows(0, table) } else { Err(same(own, table)) }
    }

    /// Compares foreign rows of the parents table, from the one at `first` on.
    ///
    /// # Errors
    ///
    /// The first ParentID whose row differs or is missing.
    pub(super) fn check_rows(&self, first: usize, rows: &[u8]) -> Result<(), u32> {
        let own = self.parents.as_bytes().get(first * size_of::<Parent>()..).unwrap_or_default();
        match own.get(..rows.len()) {
            Some(own) if own == rows => Ok(()),
            _ => Err(first as u32 + same(own, rows)),
        }
    }
}

/// Rows that are the same before the first that is not.
fn same(own: &[u8], found: &[u8]) -> u32 {
    let same = own.iter().zip(found).take_while(|(own, found)| own == found).count();
    (same / size_of::<Parent>()) as u32
}

/// Why the content of LAYOUT datagrams is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlobError {
    /// Longer or shorter than its counts say.
    Length {
        /// Bytes that it should have.
        wanted: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// The schema is not UTF-8.
    Text {
        /// Offset in the schema of the first byte that is not.
        offset: usize,
    },
    /// The schema breaks a rule.
    Schema(SchemaError),
    /// The parents table does not follow from the schema.
    Table {
        /// First ParentID whose row differs.
        parent: u32,
    },
}

impl fmt::Display for BlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlobError::Length { wanted, found } => {
                write!(f, "layout: wanted {wanted} bytes, found {found}")
            }
            BlobError::Text { offset } => {
                write!(f, "layout: schema text: wanted UTF-8, found another byte at {offset}")
            }
            BlobError::Schema(error) => write!(f, "layout: {error}"),
            BlobError::Table { parent } => {
                write!(
                    f,
                    "layout: row {parent} of the parents table does not follow from its schema"
                )
            }
        }
    }
}

impl std::error::Error for BlobError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::plan::tests::site;

    #[test]
    fn a_blob_comes_back_and_a_changed_one_is_refused() {
        let layout = site();
        let blob = layout.to_blob();
        assert_eq!(Layout::from_blob(&blob).unwrap(), layout);
        for len in 0..blob.len() {
            assert!(Layout::from_blob(&blob[..len]).is_err(), "cut to {len}");
        }
        for place in 0..8 + layout.parents_len() as usize {
            let mut changed = blob.clone();
            changed[place] ^= 1;
            assert!(Layout::from_blob(&changed).is_err(), "changed at {place}");
        }
    }

    proptest! {
        #[test]
        fn changed_blobs_are_an_error_or_a_layout(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut blob = site().to_blob();
            for (place, byte) in changes {
                let place = place.index(blob.len());
                blob[place] = byte;
            }
            if let Ok(layout) = Layout::from_blob(&blob) {
                prop_assert_eq!(layout.to_blob(), blob);
            }
        }
    }
}
