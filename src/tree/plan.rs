//! Where everything of a tree lies, derived from its schema text alone.
//!
//! The same text gives the same [`Layout`] on every machine: a server and its
//! replicas place every leaf alike, and the layout hash says so. Nothing here is
//! kept per leaf: a tree of millions of numbered leaves costs what its parents do.
//!
//! ```text
//! | header | state | undo slot      | schema    | parents    | records      |
//! | page 0 | page 1| 64 + stride,   | text      | 64 B each, | from a page  |
//! |        |       | whole pages    |           | aligned 64 | boundary on  |
//! ```

use core::fmt;
use core::mem::offset_of;
use core::mem::size_of;
use core::ops::Range;
use std::collections::BTreeMap;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

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
use crate::layout::limits::SCHEMA_LEN_MAX;
use crate::layout::limits::STRIDE_ALIGN;
use crate::layout::stride_for;
use crate::tree::field::Field;
use crate::tree::field::printable;
use crate::tree::schema::LeafNames;
use crate::tree::schema::ParentSchema;
use crate::tree::schema::Schema;
use crate::tree::schema::SchemaError;

/// Offset of the page that holds the two state slots: behind the header page.
pub const STATE_OFFSET: u64 = PAGE_SIZE as u64;

/// Offset of the undo slot: behind the state page.
pub const UNDO_OFFSET: u64 = 2 * PAGE_SIZE as u64;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The whole tree: the path is empty or `/`.
    Tree,
    /// A parent, with all that it encloses.
    Parent(ParentId),
    /// One leaf.
    Leaf(DataLocId),
}

/// Where the parents, leaves and sections of a tree lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    name: Option<String>,
    schema_text: String,
    parents: Vec<Parent>,
    contents: Vec<Contents>,
    /// ParentIDs of those that own leaves, in the order of their DataLocIDs.
    owners: Vec<ParentId>,
    /// Every parent by what encloses it and by its name.
    children: BTreeMap<(ParentId, [u8; PARENT_NAME_LEN_MAX]), ParentId>,
    leaf_count: u32,
    capacity_max: u32,
    stride_max: u32,
    records_offset: u64,
    records_len: u64,
    layout_hash: LayoutHash,
}

/// What the table has no room for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contents {
    names: LeafNames,
    fields: Vec<Field>,
}

impl Layout {
    /// The layout of a schema text.
    ///
    /// # Errors
    ///
    /// The first rule of the schema that the text breaks.
    pub fn from_toml(text: &str) -> Result<Layout, SchemaError> {
        let schema = Schema::from_toml(text)?;
        let mut layout = Layout::empty(schema.name, text);
        for parent in schema.parents {
            layout.add_parent(parent)?;
        }
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
        use fmt::Write as _;
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
        if own == table {
            return Ok(());
        }
        let same = own.iter().zip(table).take_while(|(own, found)| own == found).count();
        Err((same / size_of::<Parent>()) as u32)
    }

    fn empty(name: Option<String>, text: &str) -> Layout {
        Layout {
            name,
            schema_text: text.to_owned(),
            parents: Vec::new(),
            contents: Vec::new(),
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
        self.contents.push(Contents { names: schema.names, fields: schema.fields });
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
        match self.contents.get(id.index()).and_then(|contents| contents.names.index(&name)) {
            // One path, one meaning.
            Some(_) => {
                Err(SchemaError::Duplicate { parent: schema.path.clone(), what: "leaf", name })
            }
            None => Ok(id),
        }
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
        let table = crc32c::crc32c(self.parents.as_bytes());
        self.layout_hash = LayoutHash(crc32c::crc32c_append(table, self.schema_text.as_bytes()));
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
        (self.schema_offset() + self.schema_text.len() as u64).next_multiple_of(STRIDE_ALIGN as u64)
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

/// Parents and leaves.
impl Layout {
    /// Name that the schema gives the tree.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The text that everything is derived from.
    pub fn schema_text(&self) -> &str {
        &self.schema_text
    }

    /// The parents table, record offsets included.
    pub fn parents(&self) -> &[Parent] {
        &self.parents
    }

    /// Number of parents.
    pub fn parent_count(&self) -> u32 {
        // PARENTS_MAX was checked.
        self.parents.len() as u32
    }

    /// Number of leaves.
    pub fn leaf_count(&self) -> u32 {
        self.leaf_count
    }

    /// Largest capacity of a leaf, in bytes of Data.
    pub fn capacity_max(&self) -> u32 {
        self.capacity_max
    }

    /// Largest stride of a record, in bytes.
    pub fn stride_max(&self) -> u32 {
        self.stride_max
    }

    /// CRC32C over the parents table and the schema text behind it.
    pub fn layout_hash(&self) -> LayoutHash {
        self.layout_hash
    }

    /// The row of a parent.
    pub fn parent(&self, parent: ParentId) -> Option<&Parent> {
        self.parents.get(parent.index())
    }

    /// The parents that own leaves, in the order of their DataLocIDs.
    pub fn owners(&self) -> impl Iterator<Item = &Parent> {
        self.owners.iter().filter_map(|id| self.parent(*id))
    }

    /// The parent that owns a leaf. Takes a binary search over the parents.
    pub fn parent_of(&self, leaf: DataLocId) -> Option<&Parent> {
        let begins = |id: &ParentId| {
            self.parent(*id).is_some_and(|row| row.first_leaf_loc_id.get() <= leaf.0)
        };
        let behind = self.owners.partition_point(begins);
        let owner = self.owners.get(behind.checked_sub(1)?)?;
        self.parent(*owner).filter(|row| row.leaves().contains(&leaf.0))
    }

    /// Offset in the file of a leaf's record.
    pub fn record_offset(&self, leaf: DataLocId) -> Option<u64> {
        let row = self.parent_of(leaf)?;
        let index = leaf.0 - row.first_leaf_loc_id.get();
        Some(row.first_record_offset.get() + u64::from(index) * u64::from(row.stride.get()))
    }

    /// Most bytes of Data that a leaf holds.
    pub fn capacity_of(&self, leaf: DataLocId) -> Option<u32> {
        self.parent_of(leaf).map(|row| row.capacity.get())
    }

    /// The typed fields in the Data of a parent's leaves; none if Data is opaque.
    pub fn fields(&self, parent: ParentId) -> &[Field] {
        self.contents.get(parent.index()).map_or(&[], |contents| &contents.fields)
    }

    /// The typed fields in the Data of a leaf.
    pub fn fields_of(&self, leaf: DataLocId) -> &[Field] {
        self.parent_of(leaf).map_or(&[], |row| self.fields(ParentId(row.parent_id.get())))
    }

    /// Path of a parent, as `/site/rack1`.
    pub fn parent_path(&self, parent: ParentId) -> Option<String> {
        let mut names = Vec::new();
        let mut next = Some(parent);
        while let Some(id) = next {
            let row = self.parent(id)?;
            names.push(row.name()?);
            next = row.enclosing();
        }
        Some(names.iter().rev().fold(String::new(), |path, name| path + "/" + name))
    }

    /// Name of a leaf within its parent.
    pub fn leaf_name(&self, leaf: DataLocId) -> Option<String> {
        let row = self.parent_of(leaf)?;
        let contents = self.contents.get(ParentId(row.parent_id.get()).index())?;
        contents.names.name(leaf.0 - row.first_leaf_loc_id.get())
    }

    /// Path of a leaf, as `/site/rack1/port7`.
    pub fn path_of(&self, leaf: DataLocId) -> Option<String> {
        let row = self.parent_of(leaf)?;
        let path = self.parent_path(ParentId(row.parent_id.get()))?;
        Some(path + "/" + &self.leaf_name(leaf)?)
    }

    /// The parent with this path. Takes one look-up a name of the path.
    pub fn parent_at(&self, path: &str) -> Option<ParentId> {
        let mut id = ParentId::NONE;
        for name in path.strip_prefix('/')?.split('/') {
            let name = ParentName::new(name)?;
            id = *self.children.get(&(id, name.bytes()))?;
        }
        Some(id)
    }

    /// The leaf with this path.
    pub fn leaf_at(&self, path: &str) -> Option<DataLocId> {
        let (parent, name) = path.rsplit_once('/')?;
        let id = self.parent_at(parent)?;
        let index = self.contents.get(id.index())?.names.index(name)?;
        Some(DataLocId(self.parent(id)?.first_leaf_loc_id.get() + index))
    }

    /// What a path names: all of the tree, a parent, or a leaf.
    pub fn place_at(&self, path: &str) -> Option<Place> {
        if path.is_empty() || path == "/" {
            return Some(Place::Tree);
        }
        let parent = self.parent_at(path).map(Place::Parent);
        parent.or_else(|| self.leaf_at(path).map(Place::Leaf))
    }

    /// DataLocIDs of a parent and of everything that it encloses: sorted ranges
    /// that do not touch. Takes one pass over the parents behind it.
    pub fn subtree(&self, parent: ParentId) -> Vec<Range<u32>> {
        let mut ranges: Vec<Range<u32>> = Vec::new();
        // A parent is enclosed by an earlier one only, so one pass finds all.
        let mut inside = vec![false; self.parents.len().saturating_sub(parent.index())];
        for (place, row) in self.parents.iter().skip(parent.index()).enumerate() {
            let enclosed = row
                .enclosing()
                .and_then(|id| id.index().checked_sub(parent.index()))
                .and_then(|above| inside.get(above).copied())
                .unwrap_or(false);
            if let Some(mark) = inside.get_mut(place)
                && (place == 0 || enclosed)
            {
                *mark = true;
                push_range(&mut ranges, row.leaves());
            }
        }
        ranges
    }

    /// DataLocIDs of what a path names, as [`Layout::subtree`] gives them.
    pub fn leaves_in(&self, place: Place) -> Vec<Range<u32>> {
        match place {
            Place::Tree => core::iter::once(0..self.leaf_count).collect(),
            Place::Parent(parent) => self.subtree(parent),
            Place::Leaf(leaf) => core::iter::once(leaf.0..leaf.0.saturating_add(1)).collect(),
        }
    }
}

/// Adds a range that lies behind all others, merged with one that it touches.
fn push_range(ranges: &mut Vec<Range<u32>>, range: Range<u32>) {
    match ranges.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
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
    let crc = crc32c::crc32c(before);
    crc32c::crc32c_append(crc32c::crc32c_append(crc, &[0; size_of::<U32>()]), behind)
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

/// Why a layout is not an old one that grew.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrowthError {
    /// A parent is gone.
    Gone {
        /// Its path in the old layout.
        parent: String,
    },
    /// A parent has fewer leaves.
    Leaves {
        /// Its path.
        parent: String,
        /// How many it had.
        wanted: usize,
        /// How many it has.
        found: usize,
    },
    /// The leaves of a parent hold less.
    Capacity {
        /// Its path.
        parent: String,
        /// Bytes of Data that a leaf held.
        wanted: u32,
        /// Bytes of Data that a leaf holds.
        found: u32,
    },
}

impl fmt::Display for GrowthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &String| printable(path.as_bytes());
        match self {
            GrowthError::Gone { parent } => {
                write!(f, "growth: wanted parent {} as before, found none", shown(parent))
            }
            GrowthError::Leaves { parent, wanted, found } => {
                let parent = shown(parent);
                write!(f, "growth: parent {parent}: wanted {wanted} leaves or more, found {found}")
            }
            GrowthError::Capacity { parent, wanted, found } => {
                let parent = shown(parent);
                write!(
                    f,
                    "growth: parent {parent}: wanted capacity {wanted} or more, found {found}"
                )
            }
        }
    }
}

impl std::error::Error for GrowthError {}

/// Where the leaves of a layout lie in one that it grew into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    moves: Vec<Move>,
}

/// Leaves of one parent before and after growth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// DataLocIDs in the old layout.
    pub old: Range<u32>,
    /// DataLocID in the new layout of the first of them; the others follow.
    pub new_first: DataLocId,
}

impl Growth {
    /// One entry a parent that owned leaves, in the order of the old DataLocIDs.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// Where a leaf of the old layout lies in the new one.
    pub fn new_leaf(&self, old: DataLocId) -> Option<DataLocId> {
        let behind = self.moves.partition_point(|one| one.old.start <= old.0);
        let one = self.moves.get(behind.checked_sub(1)?)?;
        one.old.contains(&old.0).then(|| DataLocId(one.new_first.0 + (old.0 - one.old.start)))
    }
}

impl Layout {
    /// Compares with an older layout of the same tree: every parent must be there
    /// still, by its path, with as many leaves and as much capacity or more.
    /// Leaves are matched by their place in their parent.
    ///
    /// # Errors
    ///
    /// The first parent that is gone or became smaller.
    pub fn extends(&self, old: &Layout) -> Result<Growth, GrowthError> {
        let mut growth = Growth::default();
        for before in old.parents() {
            growth.moves.extend(self.moved(old, before)?);
        }
        Ok(growth)
    }

    fn moved(&self, old: &Layout, before: &Parent) -> Result<Option<Move>, GrowthError> {
        let parent = old.parent_path(ParentId(before.parent_id.get())).unwrap_or_default();
        let Some(after) = self.parent_at(&parent).and_then(|id| self.parent(id)) else {
            return Err(GrowthError::Gone { parent });
        };
        let (wanted, found) = (before.leaves().len(), after.leaves().len());
        if found < wanted {
            return Err(GrowthError::Leaves { parent, wanted, found });
        }
        let (wanted, found) = (before.capacity.get(), after.capacity.get());
        if found < wanted {
            return Err(GrowthError::Capacity { parent, wanted, found });
        }
        let old = before.leaves();
        let new_first = DataLocId(after.first_leaf_loc_id.get());
        Ok((!old.is_empty()).then_some(Move { old, new_first }))
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    const SITE: &str = r#"
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

    fn site() -> Layout {
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
        assert_eq!(header.parents_offset.get() % 64, 0);
        assert_eq!(header.records_offset.get() % 4096, 0);
        assert_eq!(header.file_len.get() % 4096, 0);
        let mut page = [0; PAGE_SIZE];
        page[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        assert_eq!(header_checksum(&page), header.header_checksum.get());
        page[4095] = 1;
        assert_ne!(header_checksum(&page), header.header_checksum.get());
    }

    #[test]
    fn every_path_leads_back_to_its_leaf() {
        let layout = site();
        for id in (0..layout.leaf_count()).map(DataLocId) {
            let path = layout.path_of(id).unwrap();
            assert_eq!(layout.leaf_at(&path), Some(id), "{path}");
            assert_eq!(layout.place_at(&path), Some(Place::Leaf(id)));
        }
        assert_eq!(layout.path_of(DataLocId(0)).as_deref(), Some("/site/rack1/port1"));
        assert_eq!(layout.path_of(DataLocId(50)).as_deref(), Some("/lone/2"));
        for wrong in ["/site/rack1/port01", "/site/rack1/port0", "/site/rack1/port49", "/lone/1"] {
            assert_eq!(layout.leaf_at(wrong), None, "{wrong}");
        }
        for wrong in ["lone/eth0", "/lone/eth0/", "//lone/eth0", "/eth0", "/site/port1"] {
            assert_eq!(layout.place_at(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_subtree_is_what_a_parent_encloses() {
        let layout = site();
        let site = layout.parent_at("/site").unwrap();
        assert_eq!(layout.subtree(site), [0..48, 52..54]);
        let rack = layout.parent_at("/site/rack2").unwrap();
        assert_eq!(layout.subtree(rack), vec![52..54]);
        assert_eq!(layout.leaves_in(Place::Tree), vec![0..54]);
        assert_eq!(layout.leaves_in(Place::Leaf(DataLocId(3))), vec![3..4]);
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

    #[test]
    fn growth_keeps_every_leaf_by_its_place_in_its_parent() {
        let old = site();
        let text = SITE.replace("leaves = 48", "leaves = 50").replace("= 200", "= 300");
        let new = Layout::from_toml(&(text + "[[parent]]\nname = \"late\"\n")).unwrap();
        let growth = new.extends(&old).unwrap();
        for id in (0..old.leaf_count()).map(DataLocId) {
            let moved = growth.new_leaf(id).unwrap();
            assert_eq!(new.path_of(moved), old.path_of(id));
        }
        assert_eq!(growth.new_leaf(DataLocId(54)), None);
        assert!(matches!(
            old.extends(&new),
            Err(GrowthError::Leaves { wanted: 50, found: 48, .. })
        ));
        let smaller = Layout::from_toml(&SITE.replace("= 200", "= 100")).unwrap();
        assert!(matches!(smaller.extends(&old), Err(GrowthError::Capacity { .. })));
        let other = Layout::from_toml(&SITE.replace("lone", "alone")).unwrap();
        assert!(matches!(other.extends(&old), Err(GrowthError::Gone { .. })));
    }
}
