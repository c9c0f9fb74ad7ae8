//! Read-only inspection of a tree file, live ones included.
//!
//! Everything is read by pread into memory of the reader's own, never mapped: a
//! file that is cut while it is read is an error and not a signal, and what was
//! checked is what is used. The file is foreign. Nothing in it is an offset, a
//! length or a count before it is checked; and what follows from the schema is
//! derived from it and compared. The memory taken follows the schema, not what the
//! file claims. Nothing is locked: an owner that starts meanwhile is not hindered.

use core::fmt;
use core::mem::size_of;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zerocopy::FromBytes;

use crate::layout::Header;
use crate::layout::Parent;
use crate::layout::STATE_SLOT_OFFSETS;
use crate::layout::StateSlot;
use crate::layout::TreeId;
use crate::layout::TreeRole;
use crate::layout::UndoHeader;
use crate::layout::limits::PAGE_SIZE;
use crate::layout::limits::SCHEMA_LEN_MAX;
use crate::tree::field::printable;
use crate::tree::plan::Layout;
use crate::tree::plan::STATE_OFFSET;
use crate::tree::plan::UNDO_OFFSET;
use crate::tree::plan::header_checksum;
use crate::tree::plan::state_checksum;
use crate::tree::schema;
use crate::tree::schema_error::SchemaError;

/// Why a file is not inspected.
#[derive(Debug)]
#[non_exhaustive]
pub enum InspectError {
    /// The system refused.
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// Not a regular file.
    Kind,
    /// Shorter than a header page.
    Short {
        /// Bytes that it has.
        found: u64,
    },
    /// The first bytes are not those of a tree file.
    Magic {
        /// The first bytes.
        found: [u8; 8],
    },
    /// Of a format that this program does not know.
    Version {
        /// Its major version.
        found: u16,
    },
    /// The header page is damaged.
    HeaderChecksum {
        /// CRC32C of what is there.
        wanted: u32,
        /// The checksum field.
        found: u32,
    },
    /// A number of the header does not agree with the file or with the schema.
    Header {
        /// Name of the field.
        field: &'static str,
        /// What it should be, or the most that it may be.
        wanted: u64,
        /// What it is.
        found: u64,
    },
    /// The schema text is not UTF-8.
    SchemaText {
        /// Offset in the text of the first byte that is not.
        offset: usize,
    },
    /// The schema breaks a rule.
    Schema(SchemaError),
}

impl InspectError {
    pub(super) fn io(doing: &'static str) -> impl Fn(io::Error) -> InspectError {
        move |error| InspectError::Io { doing, error }
    }
}

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InspectError::Io { doing, error } if error.kind() == io::ErrorKind::UnexpectedEof => {
                write!(f, "{doing}: the file was cut while it was read")
            }
            InspectError::Io { doing, error } => write!(f, "{doing}: {error}"),
            InspectError::Kind => write!(f, "wanted a regular file, found another kind"),
            InspectError::Short { found } => {
                write!(f, "wanted a tree file of {PAGE_SIZE} bytes or more, found file_len {found}")
            }
            InspectError::Magic { found } => {
                let (wanted, found) = (printable(&Header::MAGIC), printable(found));
                write!(f, "not a tree file: wanted magic \"{wanted}\", found \"{found}\"")
            }
            InspectError::Version { found } => {
                write!(f, "format: wanted major version {}, found {found}", Header::FORMAT_MAJOR)
            }
            InspectError::HeaderChecksum { wanted, found } => {
                write!(f, "header is damaged: wanted checksum {wanted:08x}, found {found:08x}")
            }
            InspectError::Header { field, wanted, found } => {
                write!(f, "header: {field}: wanted {wanted}, found {found}")
            }
            InspectError::SchemaText { offset } => {
                write!(f, "schema text: wanted UTF-8, found another byte at {offset}")
            }
            InspectError::Schema(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for InspectError {}

/// A header page as it was read: nothing of it may be used but by verifying it.
#[derive(Clone, Debug)]
pub struct UnverifiedHeader(Box<[u8; PAGE_SIZE]>);

/// A header whose page is whole, of a known format, and that fits its file.
#[derive(Clone, Copy, Debug)]
pub struct VerifiedHeader(Header);

impl UnverifiedHeader {
    /// Takes a header page.
    pub fn new(page: [u8; PAGE_SIZE]) -> UnverifiedHeader {
        UnverifiedHeader(Box::new(page))
    }

    /// Checks everything that can be checked without the schema.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong: another file, another format, damage, or
    /// numbers that do not agree with the length of the file.
    pub fn verify(self, file_len: u64) -> Result<VerifiedHeader, InspectError> {
        // A page is longer than the struct.
        let (header, _) = Header::read_from_prefix(&self.0[..])
            .map_err(|_| InspectError::Short { found: file_len })?;
        if header.magic != Header::MAGIC {
            return Err(InspectError::Magic { found: header.magic });
        }
        if header.format_major.get() != Header::FORMAT_MAJOR {
            return Err(InspectError::Version { found: header.format_major.get() });
        }
        let (wanted, found) = (header_checksum(&self.0), header.header_checksum.get());
        if wanted != found {
            return Err(InspectError::HeaderChecksum { wanted, found });
        }
        agree("file_len", file_len, header.file_len.get())?;
        let schema_len_max =
            (SCHEMA_LEN_MAX as u64).min(file_len.saturating_sub(header.schema_offset.get()));
        if header.schema_len.get() > schema_len_max {
            let (wanted, found) = (schema_len_max, header.schema_len.get());
            return Err(InspectError::Header { field: "schema_len", wanted, found });
        }
        Ok(VerifiedHeader(header))
    }
}

impl VerifiedHeader {
    /// The numbers of the header.
    pub fn header(&self) -> &Header {
        &self.0
    }

    /// Compares with what follows from the schema: every number must be the same.
    ///
    /// # Errors
    ///
    /// The first number that differs.
    pub fn agrees_with(&self, layout: &Layout) -> Result<(), InspectError> {
        let found = &self.0;
        let wanted = layout.header(TreeId(found.tree_id.get()), found.created_unix_s.get());
        agree("state_offset", wanted.state_offset.get(), found.state_offset.get())?;
        agree("undo_offset", wanted.undo_offset.get(), found.undo_offset.get())?;
        agree("undo_len", wanted.undo_len.get(), found.undo_len.get())?;
        agree("schema_offset", wanted.schema_offset.get(), found.schema_offset.get())?;
        agree("parents_offset", wanted.parents_offset.get(), found.parents_offset.get())?;
        agree("records_offset", wanted.records_offset.get(), found.records_offset.get())?;
        agree("records_len", wanted.records_len.get(), found.records_len.get())?;
        agree("file_len", wanted.file_len.get(), found.file_len.get())?;
        agree("parent_count", wanted.parent_count, found.parent_count)?;
        agree("leaf_count", wanted.leaf_count, found.leaf_count)?;
        agree("capacity_max", wanted.capacity_max, found.capacity_max)?;
        agree("layout_hash", wanted.layout_hash, found.layout_hash)
    }
}

fn agree(
    field: &'static str,
    wanted: impl Into<u64>,
    found: impl Into<u64>,
) -> Result<(), InspectError> {
    let (wanted, found) = (wanted.into(), found.into());
    if wanted == found { Ok(()) } else { Err(InspectError::Header { field, wanted, found }) }
}

/// What is wrong with a file apart from its leaves. Leaves are read all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// No state slot has a right checksum.
    State,
    /// The state slot that counts holds a number that none may have.
    StateField {
        /// Name of the field.
        field: &'static str,
        /// What it holds.
        found: u64,
    },
    /// A row of the parents table does not follow from the schema.
    Parents {
        /// Its ParentID.
        row: u32,
    },
    /// The undo slot holds a number that it may not have.
    Undo {
        /// Name of the field.
        field: &'static str,
        /// The most that it may be.
        max: u64,
        /// What it is.
        found: u64,
    },
    /// A byte that belongs to no section is not zero.
    Gap {
        /// The section before it.
        behind: &'static str,
        /// Its offset in the file.
        offset: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::State => write!(f, "state: wanted a slot with a right checksum, found none"),
            Fault::StateField { field, found } => {
                write!(f, "state: {field}: wanted a number of the format, found {found}")
            }
            Fault::Parents { row } => {
                write!(f, "parents table: row {row} does not follow from the schema")
            }
            Fault::Undo { field, max, found } => {
                write!(f, "undo slot: {field}: wanted at most {max}, found {found}")
            }
            Fault::Gap { behind, offset } => {
                write!(f, "behind {behind}: wanted zeros, found another byte at offset {offset}")
            }
        }
    }
}

/// A tree file that is open for reading.
#[derive(Debug)]
pub struct TreeFile {
    pub(super) file: File,
    header: VerifiedHeader,
    layout: Layout,
    pub(super) patience: core::sync::atomic::AtomicU32,
}

/// Pauses for writers that one open file has patience for: of a millisecond each.
/// A file full of half-written records must not take hours.
const PATIENCE: u32 = 1_000;

/// Bytes read at once where a section is compared rather than kept.
const PIECE_LEN: usize = 64 << 10;

impl TreeFile {
    /// Opens a file, live or not, and verifies header and schema.
    ///
    /// # Errors
    ///
    /// What the system refuses, or the first thing that makes the places of the
    /// leaves uncertain. Damage elsewhere is for [`TreeFile::faults`].
    pub fn open(path: &Path) -> Result<TreeFile, InspectError> {
        // O_NONBLOCK: opening a pipe that nobody writes would wait for ever.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(InspectError::io("open"))?;
        let metadata = file.metadata().map_err(InspectError::io("look at the file"))?;
        if !metadata.is_file() {
            return Err(InspectError::Kind);
        }
        if metadata.len() < PAGE_SIZE as u64 {
            return Err(InspectError::Short { found: metadata.len() });
        }
        let mut page = [0; PAGE_SIZE];
        file.read_exact_at(&mut page, 0).map_err(InspectError::io("read the header"))?;
        let header = UnverifiedHeader::new(page).verify(metadata.len())?;
        let layout = read_layout(&file, &header)?;
        header.agrees_with(&layout)?;
        Ok(TreeFile { file, header, layout, patience: PATIENCE.into() })
    }

    /// Asks for the length of the file again: what was read is that of a whole file
    /// only if nobody cut it meanwhile.
    ///
    /// # Errors
    ///
    /// What the system refuses, or another length than the header's.
    pub fn check_length(&self) -> Result<(), InspectError> {
        let metadata = self.file.metadata().map_err(InspectError::io("look at the file"))?;
        agree("file_len", metadata.len(), self.header().file_len.get())
    }

    /// The numbers of the header.
    pub fn header(&self) -> &Header {
        self.header.header()
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The state slot that counts, or nothing if none has a right checksum.
    ///
    /// # Errors
    ///
    /// What the system refuses.
    pub fn state(&self) -> Result<Option<StateSlot>, InspectError> {
        // A slot that is being written has a wrong checksum for a moment, and the
        // other one may be older than the life of the file.
        for _ in 0..3 {
            let slots = self.state_slots()?;
            let newest = slots.into_iter().flatten().max_by_key(|slot| slot.sequence.get());
            if newest.is_some() {
                return Ok(newest);
            }
            self.pause();
        }
        Ok(None)
    }

    /// Both state slots, each only if its checksum is right.
    ///
    /// # Errors
    ///
    /// What the system refuses.
    pub fn state_slots(&self) -> Result<[Option<StateSlot>; 2], InspectError> {
        let mut page = [0; PAGE_SIZE];
        self.read(&mut page, STATE_OFFSET, "read the state")?;
        Ok(STATE_SLOT_OFFSETS.map(|offset| {
            let (slot, _) = StateSlot::read_from_prefix(page.get(offset..)?).ok()?;
            (state_checksum(&slot) == slot.state_checksum.get()).then_some(slot)
        }))
    }

    /// What is wrong with the file apart from its leaves.
    ///
    /// # Errors
    ///
    /// What the system refuses.
    pub fn faults(&self) -> Result<Vec<Fault>, InspectError> {
        let mut faults = Vec::new();
        match self.state()? {
            None => faults.push(Fault::State),
            Some(state) => faults.extend(state_faults(&state)),
        }
        faults.extend(self.parents_fault()?);
        faults.extend(self.undo_faults()?);
        for (behind, start, end) in self.gaps() {
            faults.extend(self.gap_fault(behind, start, end)?);
        }
        Ok(faults)
    }

    fn parents_fault(&self) -> Result<Option<Fault>, InspectError> {
        let rows_each = PIECE_LEN / size_of::<Parent>();
        let mut buffer = vec![0; PIECE_LEN];
        let mut offset = self.layout.parents_offset();
        for (piece, rows) in self.layout.parents().chunks(rows_each).enumerate() {
            let table = buffer.get_mut(..size_of_val(rows)).unwrap_or_default();
            self.read(table, offset, "read the parents table")?;
            offset += size_of_val(rows) as u64;
            let found = <[Parent]>::ref_from_bytes(table).unwrap_or_default();
            if let Some(row) = rows.iter().zip(found).position(|(own, found)| own != found) {
                return Ok(Some(Fault::Parents { row: (piece * rows_each + row) as u32 }));
            }
        }
        Ok(None)
    }

    pub(super) fn undo(&self) -> Result<UndoHeader, InspectError> {
        let mut bytes = [0; size_of::<UndoHeader>()];
        self.read(&mut bytes, UNDO_OFFSET, "read the undo slot")?;
        Ok(zerocopy::transmute!(bytes))
    }

    fn undo_faults(&self) -> Result<Option<Fault>, InspectError> {
        let undo = self.undo()?;
        let armed = u64::from(undo.armed.get());
        let leaves = u64::from(self.layout.leaf_count());
        let saved = u64::from(undo.saved_len.get());
        let reserved = undo.reserved.iter().copied().max().unwrap_or(0).into();
        let rules = [
            ("armed", leaves, armed),
            ("saved_len", u64::from(self.layout.stride_max()), saved),
            ("reserved", 0, reserved),
        ];
        let broken = rules.into_iter().find(|(_, max, found)| found > max);
        Ok(broken.map(|(field, max, found)| Fault::Undo { field, max, found }))
    }

    /// Where the file must be zero, each with the section before it.
    fn gaps(&self) -> [(&'static str, u64, u64); 6] {
        let layout = &self.layout;
        let slot = size_of::<StateSlot>() as u64;
        let [first, second] = STATE_SLOT_OFFSETS.map(|offset| STATE_OFFSET + offset as u64);
        let schema_end = layout.schema_offset() + layout.schema_text().len() as u64;
        let parents_end = layout.parents_offset() + layout.parents_len();
        let records_end = layout.records_offset() + layout.records_len();
        [
            ("state slot 0", first + slot, second),
            ("state slot 1", second + slot, UNDO_OFFSET),
            ("the undo slot", UNDO_OFFSET + layout.undo_len(), layout.schema_offset()),
            ("the schema", schema_end, layout.parents_offset()),
            ("the parents table", parents_end, layout.records_offset()),
            ("the records", records_end, layout.file_len()),
        ]
    }

    fn gap_fault(
        &self,
        behind: &'static str,
        start: u64,
        end: u64,
    ) -> Result<Option<Fault>, InspectError> {
        // Every gap is shorter than a page.
        let mut page = [0; PAGE_SIZE];
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(PAGE_SIZE);
        let gap = page.get_mut(..len.min(PAGE_SIZE)).unwrap_or_default();
        self.read(gap, start, "read between the sections")?;
        let place = gap.iter().position(|byte| *byte != 0);
        Ok(place.map(|place| Fault::Gap { behind, offset: start + place as u64 }))
    }

    pub(super) fn read(
        &self,
        buffer: &mut [u8],
        offset: u64,
        doing: &'static str,
    ) -> Result<(), InspectError> {
        self.file.read_exact_at(buffer, offset).map_err(InspectError::io(doing))
    }
}

fn read_layout(file: &File, header: &VerifiedHeader) -> Result<Layout, InspectError> {
    let header = header.header();
    // At most SCHEMA_LEN_MAX and within the file: verified.
    let mut text = vec![0; header.schema_len.get() as usize];
    file.read_exact_at(&mut text, header.schema_offset.get())
        .map_err(InspectError::io("read the schema"))?;
    let text = String::from_utf8(text)
        .map_err(|error| InspectError::SchemaText { offset: error.utf8_error().valid_up_to() })?;
    let parents = schema::count_parents(&text).map_err(InspectError::Schema)?;
    agree("parent_count", parents, header.parent_count)?;
    let room = header.file_len.get().saturating_sub(header.schema_len.get());
    Layout::from_text_in(text, room).map_err(InspectError::Schema)
}

fn state_faults(state: &StateSlot) -> Option<Fault> {
    let wrong = |field, found| Some(Fault::StateField { field, found });
    if TreeRole::from_code(state.role.get()).is_none() {
        return wrong("role", state.role.get().into());
    }
    if state.clean.get() > 1 {
        return wrong("clean", state.clean.get().into());
    }
    if state.reserved.get() != 0 {
        return wrong("reserved", state.reserved.get());
    }
    None
}
