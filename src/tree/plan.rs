//! Where everything of a tree lies, derived from its schema text alone.
//!
//! The same text gives the same [`Layout`] on every machine: a server and its
//! replicas place every leaf alike, and the layout hash says so. Nothing here is
//! kept per leaf: a tree of millions of numbered leaves costs what its parents do.
//!
//! ```text
//! | header | state | undo slot      | schema    | parents    | records      |
//! | page 0 | page 1| 64 + stride    | text      | 64 B each  | by parent    |
//! ```
//!
//! Every section begins at a page boundary.

use core::fmt::Write as _;
use core::mem::offset_of;
use core::mem::size_of;
use std::collections::BTreeMap;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::kernel::crc32c;
use crate::kernel::crc32c_append;
use crate::layout::DataLocId;
use crate::layout::Header;
use crate::layout::LayoutHash;
use crate::layout::Parent;
use crate::layout::ParentId;
use crate::layout::ParentName;
use crate::layout::StateSlot;
use crate::layout::TreeId;
use crate::layout::UndoHeader;
use crate::layout::limits::PAGE_SIZE;
use crate::layout::limits::PARENT_NAME_LEN_MAX;
use crate::layout::limits::PARENTS_MAX;
use crate::layout::limits::SCHEMA_LEN_MAX;
use crate::layout::limits::STRIDE_ALIGN;
use crate::layout::stride_for;
use crate::tree::field::Field;
use crate::tree::names::LeafNames;
use crate::tree::schema;
use crate::tree::schema::ParentSchema;
use crate::tree::schema_error::SchemaError;

/// Offset of the page that holds the two state slots: behind the header page.
pub const STATE_OFFSET: u64 = PAGE_SIZE as u64;

/// Offset of the undo slot: behind the state page.
pub const UNDO_OFFSET: u64 = 2 * PAGE_SIZE as u64;

/// Where the parents, leaves and sections of a tree lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(super) name: Option<String>,
    pub(super) schema_text: String,
    pub(super) parents: Vec<Parent>,
    pub(super) contents: Vec<Option<Box<Contents>>>,
    /// ParentIDs of those that own leaves, in the order of their DataLocIDs.
    pub(super) owners: Vec<ParentId>,
    /// Every parent by what encloses it and by its name.
    pub(super) children: BTreeMap<(ParentId, [u8; PARENT_NAME_LEN_MAX]), ParentId>,
    pub(super) leaf_count: u32,
    pub(super) capacity_max: u32,
    pub(super) stride_max: u32,
    pub(super) records_offset: u64,
    pub(super) records_len: u64,
    pub(super) layout_hash: LayoutHash,
}

/// What the table has no room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) names: LeafNames,
    pub(super) fields: Vec<Field>,
}

impl Layout {
    /// The layout of a schema text.
    ///
    /// # Errors
    ///
    /// The first rule of the schema that the text breaks.
    pub fn from_toml(text: &str) -> Result<Layout, SchemaError> {
        Layout::from_text(text.to_owned())
    }

    /// The same without a second copy of the text.
    pub(super) fn from_text(text: String) -> Result<Layout, SchemaError> {
        Layout::from_text_in(text, u64::MAX)
    }

    /// The same for a file that has `room` bytes beside its text. A parent takes more
    /// memory than its text: one for which the file has no row and no records is refused
    /// before it takes any, so that memory follows the length of the file.
    pub(super) fn from_text_in(text: String, room: u64) -> Result<Layout, SchemaError> {
        const ROW_LEN: u64 = size_of::<Parent>() as u64;
        // A guess that saves growing the tables: they are the memory of a schema.
        let heads = text.matches("[[parent]]").count();
        let rows = usize::try_from(room / ROW_LEN).unwrap_or(usize::MAX);
        let mut layout = Layout::empty(heads.min(rows));
        let mut found = 0_u64;
        layout.name = schema::read(&text, |parent| {
            // No record is shorter than this.
            found += ROW_LEN + u64::from(parent.leaves) * STRIDE_ALIGN as u64;
            if found > room {
                return Err(SchemaError::Room { found, room });
            }
            layout.add_parent(parent)
        })?;
        layout.schema_text = text;
        layout.place();
        Ok(layout)
    }

    /// A layout without names and fields: `leaves` spread as evenly as possible
    /// over `parents` parents p0, p1, ..., `capacity` bytes of Data each.
    ///
    /// # Errors
    ///
    /// A count that a schema does not allow, or a text of parents longer than a
    /// schema may be.
    pub fn plain(parents: u32, leaves: u32, capacity: u32) -> Result<Layout, SchemaError> {
        if parents == 0 {
            return Err(SchemaError::Parents { found: 0 });
        }
        let mut text = String::new();
        for index in 0..parents {
            let count = leaves / parents + u32::from(index < leaves % parents);
            // Writing to a String cannot fail.
            let _ = write!(text, "[[parent]]\nname = \"p{index}\"\n");
            if count > 0 {
                let _ = write!(text, "leaves = {count}\ncapacity = {capacity}\n");
            }
            if text.len() > SCHEMA_LEN_MAX {
                return Err(SchemaError::TooLong { found: text.len() });
            }
        }
        Layout::from_toml(&text)
    }

    fn empty(parents: usize) -> Layout {
        let parents = parents.min(PARENTS_MAX as usize);
        Layout {
            name: None,
            schema_text: String::new(),
            parents: Vec::with_capacity(parents),
            contents: Vec::with_capacity(parents),
            owners: Vec::new(),
            children: BTreeMap::new(),
            leaf_count: 0,
            capacity_max: 0,
            stride_max: 0,
            records_offset: 0,
            records_len: 0,
            layout_hash: LayoutHash(0),
        }
    }

    fn add_parent(&mut self, schema: ParentSchema) -> Result<(), SchemaError> {
        // PARENTS_MAX was checked, so the length is a u32.
        let id = ParentId(self.parents.len() as u32);
        let enclosing = self.enclosing_of(&schema)?;
        if self.children.insert((enclosing, schema.name.bytes()), id).is_some() {
            return Err(SchemaError::Duplicate {
                name: self.name_of(&schema.name),
                parent: schema.path,
                what: "parent",
            });
        }
        let row = self.row(id, enclosing, &schema);
        self.leaf_count += schema.leaves;
        self.capacity_max = self.capacity_max.max(row.capacity.get());
        self.stride_max = self.stride_max.max(row.stride.get());
        if schema.leaves > 0 {
            self.owners.push(id);
        }
        self.parents.push(row);
        let contents = || Box::new(Contents { names: schema.names, fields: schema.fields });
        self.contents.push((schema.leaves > 0).then(contents));
        Ok(())
    }

    fn name_of(&self, name: &ParentName) -> String {
        let bytes = name.bytes();
        let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(bytes.get(..len).unwrap_or_default()).into_owned()
    }

    fn enclosing_of(&self, schema: &ParentSchema) -> Result<ParentId, SchemaError> {
        if schema.enclosing.is_empty() {
            return Ok(ParentId::NONE);
        }
        let id = self.parent_at(&schema.enclosing).ok_or_else(|| SchemaError::Value {
            parent: schema.path.clone(),
            key: "in".to_owned(),
            wanted: "the path of a parent that comes earlier".to_owned(),
            found: format!("{:?}", schema.enclosing),
        })?;
        let name = self.name_of(&schema.name);
        match self.contents(id).and_then(|contents| contents.names.index(&name)) {
            // One path, one meaning.
            Some(_) => {
                Err(SchemaError::Duplicate { parent: schema.path.clone(), what: "leaf", name })
            }
            None => Ok(id),
        }
    }

    /// What the table has no room for; nothing if the parent owns no leaves.
    pub(super) fn contents(&self, parent: ParentId) -> Option<&Contents> {
        self.contents.get(parent.index())?.as_deref()
    }

    fn row(&self, id: ParentId, enclosing: ParentId, schema: &ParentSchema) -> Parent {
        let leaves = schema.leaves;
        let (first, last, stride) = match leaves {
            0 => (DataLocId::NONE.0, DataLocId::NONE.0, 0),
            // The sum of all leaves is at most LEAVES_MAX; CAPACITY_MAX is far
            // below a u32.
            _ => (
                self.leaf_count,
                self.leaf_count + leaves - 1,
                stride_for(schema.capacity as usize) as u32,
            ),
        };
        Parent {
            parent_id: U32::new(id.0),
            enclosing_parent_id: U32::new(enclosing.0),
            first_leaf_loc_id: U32::new(first),
            last_leaf_loc_id: U32::new(last),
            capacity: U32::new(schema.capacity),
            stride: U32::new(stride),
            first_record_offset: U64::new(0),
            name: schema.name.bytes(),
        }
    }

    /// Gives every extent its offset, once all lengths are known.
    fn place(&mut self) {
        self.records_offset =
            (self.parents_offset() + self.parents_len()).next_multiple_of(PAGE_SIZE as u64);
        let mut offset = self.records_offset;
        for parent in &mut self.parents {
            let leaves = parent.leaves();
            if !leaves.is_empty() {
                parent.first_record_offset = U64::new(offset);
                offset += leaves.len() as u64 * u64::from(parent.stride.get());
            }
        }
        self.records_len = offset - self.records_offset;
        let table = crc32c(self.parents.as_bytes());
        self.layout_hash = LayoutHash(crc32c_append(table, self.schema_text.as_bytes()));
    }
}

/// Sections of the file.
impl Layout {
    /// Length of the undo slot: its head and the largest stride.
    pub fn undo_len(&self) -> u64 {
        size_of::<UndoHeader>() as u64 + u64::from(self.stride_max)
    }

    /// Offset of the schema text.
    pub fn schema_offset(&self) -> u64 {
        UNDO_OFFSET + self.undo_len().next_multiple_of(PAGE_SIZE as u64)
    }

    /// Offset of the parents table.
    pub fn parents_offset(&self) -> u64 {
        (self.schema_offset() + self.schema_text.len() as u64).next_multiple_of(PAGE_SIZE as u64)
    }

    /// Length of the parents table in bytes.
    pub fn parents_len(&self) -> u64 {
        size_of::<Parent>() as u64 * self.parents.len() as u64
    }

    /// Offset of the first record.
    pub fn records_offset(&self) -> u64 {
        self.records_offset
    }

    /// Length of all records in bytes.
    pub fn records_len(&self) -> u64 {
        self.records_len
    }

    /// Length of the file: whole pages.
    pub fn file_len(&self) -> u64 {
        (self.records_offset + self.records_len).next_multiple_of(PAGE_SIZE as u64)
    }

    /// The header of a file with this layout, its checksum computed.
    pub fn header(&self, tree_id: TreeId, created_unix_s: u64) -> Header {
        let mut header = Header {
            magic: Header::MAGIC,
            format_major: U16::new(Header::FORMAT_MAJOR),
            format_minor: U16::new(Header::FORMAT_MINOR),
            header_checksum: U32::new(0),
            tree_id: U64::new(tree_id.0),
            created_unix_s: U64::new(created_unix_s),
            file_len: U64::new(self.file_len()),
            state_offset: U64::new(STATE_OFFSET),
            undo_offset: U64::new(UNDO_OFFSET),
            undo_len: U64::new(self.undo_len()),
            schema_offset: U64::new(self.schema_offset()),
            schema_len: U64::new(self.schema_text.len() as u64),
            parents_offset: U64::new(self.parents_offset()),
            records_offset: U64::new(self.records_offset),
            records_len: U64::new(self.records_len),
            parent_count: U32::new(self.parent_count()),
            leaf_count: U32::new(self.leaf_count),
            layout_hash: U32::new(self.layout_hash.0),
            capacity_max: U32::new(self.capacity_max),
        };
        let mut page = [0; PAGE_SIZE];
        page.iter_mut().zip(header.as_bytes()).for_each(|(to, from)| *to = *from);
        header.header_checksum = U32::new(header_checksum(&page));
        header
    }
}

/// CRC32C of a header page as it is computed: with its own field zero. Bytes
/// behind the struct count, so that none of the page can change unseen.
pub fn header_checksum(page: &[u8; PAGE_SIZE]) -> u32 {
    checksum_without(page, offset_of!(Header, header_checksum))
}

/// CRC32C of a state slot as it is computed: with its own field zero.
pub fn state_checksum(slot: &StateSlot) -> u32 {
    checksum_without(slot.as_bytes(), offset_of!(StateSlot, state_checksum))
}

fn checksum_without(bytes: &[u8], field: usize) -> u32 {
    let before = bytes.get(..field).unwrap_or_default();
    let behind = bytes.get(field + size_of::<U32>()..).unwrap_or_default();
    let crc = crc32c(before);
    crc32c_append(crc32c_append(crc, &[0; size_of::<U32>()]), behind)
}

#[cfg(test)]
pub(super) mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    pub(in crate::tree) const SITE: &str = r#"
name = "fleet"
[[parent]]
name = "site"
[[parent]]
name = "rack1"
in = "/site"
leaves = 48
leaf_name = "port{n}"
first = 1
capacity = 64
[[parent]]
name = "lone"
names = ["eth0", "eth1"]
leaves = 4
capacity = 200
[[parent]]
name = "rack2"
in = "/site"
leaves = 2
[[parent.field]]
name = "temp"
type = "f32"
[[parent.field]]
name = "label"
type = "text"
size = 16
unit = "C"
"#;

    pub(in crate::tree) fn site() -> Layout {
        Layout::from_toml(SITE).unwrap()
    }

    #[test]
    fn leaves_are_numbered_and_placed_in_the_order_of_the_schema() {
        let layout = site();
        assert_eq!((layout.parent_count(), layout.leaf_count()), (4, 54));
        let leaves: Vec<_> = layout.parents().iter().map(Parent::leaves).collect();
        assert_eq!(leaves, [0..0, 0..48, 48..52, 52..54]);
        let strides: Vec<_> = layout.parents().iter().map(|row| row.stride.get()).collect();
        assert_eq!(strides, [0, 128, 256, 64]);
        assert_eq!((layout.capacity_max(), layout.stride_max()), (200, 256));
        assert_eq!(layout.fields_of(DataLocId(53))[1].offset, 4);
        assert_eq!(layout.capacity_of(DataLocId(53)), Some(20), "the end of the last field");
        let first = layout.records_offset();
        assert_eq!(layout.record_offset(DataLocId(47)), Some(first + 47 * 128));
        assert_eq!(layout.record_offset(DataLocId(48)), Some(first + 48 * 128));
        assert_eq!(layout.record_offset(DataLocId(53)), Some(first + 48 * 128 + 4 * 256 + 64));
        assert_eq!(layout.record_offset(DataLocId(54)), None);
        assert_eq!(layout.records_len(), 48 * 128 + 4 * 256 + 2 * 64);
    }

    #[test]
    fn sections_follow_each_other_and_are_aligned() {
        let layout = site();
        let header = layout.header(TreeId(7), 9);
        assert_eq!(header.undo_len.get(), 64 + 256);
        assert_eq!(header.schema_offset.get(), 3 * 4096);
        assert!(header.parents_offset.get() >= 3 * 4096 + SITE.len() as u64);
        assert_eq!(header.parents_offset.get() % 4096, 0);
        assert_eq!(header.records_offset.get() % 4096, 0);
        assert_eq!(header.file_len.get() % 4096, 0);
        let mut page = [0; PAGE_SIZE];
        page[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        assert_eq!(header_checksum(&page), header.header_checksum.get());
        page[4095] = 1;
        assert_ne!(header_checksum(&page), header.header_checksum.get());
    }

    #[test]
    fn plain_spreads_leaves_evenly() {
        let layout = Layout::plain(3, 11, 16).unwrap();
        let leaves: Vec<_> = layout.parents().iter().map(|row| row.leaves().len()).collect();
        assert_eq!(leaves, [4, 4, 3]);
        assert_eq!(layout.path_of(DataLocId(4)).as_deref(), Some("/p1/0"));
        assert!(Layout::plain(3, 0, 16).is_err());
        assert!(Layout::plain(0, 3, 16).is_err());
        assert!(Layout::plain(1, 3, 0).is_err());
    }
}
