//! Opening a tree file: locked, verified section by section, and only then mapped.
//!
//! Nothing that the file says is believed before it was compared with what
//! follows from the schema text; nothing is stored before all was verified.

use core::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use zerocopy::FromBytes;

use crate::layout::DataLocId;
use crate::layout::Header;
use crate::layout::Parent;
use crate::layout::TreeId;
use crate::layout::TreeRole;
use crate::layout::limits::PAGE_SIZE;
use crate::layout::limits::SCHEMA_LEN_MAX;
use crate::tree::dump::role_name;
use crate::tree::extent::Extents;
use crate::tree::lock::LockedFile;
use crate::tree::lock::lock_named;
use crate::tree::map::Owner;
use crate::tree::map::Prefault;
use crate::tree::map::bring_in;
use crate::tree::map::fill_holes;
use crate::tree::mapped::Parts;
use crate::tree::mapped::Tree;
use crate::tree::mapped::map_len;
use crate::tree::plan::Layout;
use crate::tree::plan::STATE_OFFSET;
use crate::tree::plan::header_checksum;
use crate::tree::record::RecordFault;
use crate::tree::recover::Damaged;
use crate::tree::recover::Recovery;
use crate::tree::recover::Scan;
use crate::tree::redo_batch::Stamp;
use crate::tree::redo_log;
use crate::tree::redo_log::redo_path;
use crate::tree::redo_read::Beside;
use crate::tree::redo_read::Redo;
use crate::tree::redo_read::RedoFault;
use crate::tree::redo_read::open_beside;
use crate::tree::schema_error::SchemaError;
use crate::tree::state::State;
use crate::tree::state::SyncError;
use crate::tree::write::saved_range;

/// How a tree is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Whose tree it has to be.
    pub role: TreeRole,
    /// What is done about damaged leaves.
    pub damaged: Damaged,
    /// Unix time in seconds: a server that empties damaged leaves begins a life.
    pub unix_s: u64,
}

/// Why a tree was not opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// A call failed.
    Io {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is no space for the holes of the file.
    Space {
        /// Bytes that the file takes without holes.
        expected: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The name is a folder, a device or the like.
    NotAFile,
    /// Another process, or this one, has the tree open.
    Locked,
    /// The name went from file to file while it was opened.
    Restless,
    /// The file does not begin as a tree does.
    NotATree,
    /// A format that this version does not know.
    Version {
        /// Major version of the file.
        found: u16,
        /// Major version that is known.
        known: u16,
    },
    /// The header page is damaged.
    HeaderChecksum {
        /// Computed from the page.
        expected: u32,
        /// In the page.
        found: u32,
    },
    /// The file is longer or shorter than its header says.
    Length {
        /// What the header says.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// The schema text lies outside of the file or is too long.
    SchemaPlace {
        /// Its offset.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// The schema text is not UTF-8.
    SchemaText {
        /// Offset in the text of the first wrong byte.
        offset: usize,
    },
    /// The schema is no schema.
    Schema(SchemaError),
    /// A field of the header is not what follows from the schema.
    Header {
        /// Name of the field.
        field: &'static str,
        /// What follows from the schema.
        expected: u64,
        /// What the file says.
        found: u64,
    },
    /// The parents table is not the one that follows from the schema.
    Parents {
        /// First ParentID whose row differs.
        parent: u32,
    },
    /// Neither state slot is right.
    State,
    /// A server's tree in a replica's place, or the other way round.
    Role {
        /// What was asked for.
        expected: TreeRole,
        /// What it is.
        found: TreeRole,
    },
    /// Leaves are damaged, and were not to be emptied.
    Damaged {
        /// The first of them.
        first: DataLocId,
        /// What is wrong with it.
        fault: RecordFault,
        /// How many there are.
        count: u32,
        /// Of how many.
        leaf_count: u32,
    },
    /// The redo log beside the tree does not let it be opened.
    Redo {
        /// The log.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        fault: RedoFault,
    },
    /// The state could not be written back.
    Sync(SyncError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io { what, source } => write!(f, "cannot {what}: {source}"),
            OpenError::Space { expected, source } => {
                write!(f, "cannot reserve {expected} bytes without holes: {source}")
            }
            OpenError::NotAFile => write!(f, "not a file"),
            OpenError::Locked => write!(f, "the tree is open already: it has one owner"),
            OpenError::Restless => write!(f, "the name belonged to another file at each attempt"),
            OpenError::NotATree => write!(f, "not a tree file: it does not begin with mapleaf"),
            OpenError::Version { found, known } => {
                write!(f, "format version {found}, expected {known}")
            }
            OpenError::HeaderChecksum { expected, found } => {
                write!(f, "header: checksum {found:#010x}, expected {expected:#010x}")
            }
            OpenError::Length { expected, found } => {
                write!(f, "the file has {found} bytes, its header says {expected}")
            }
            OpenError::SchemaPlace { offset, len } => {
                write!(f, "header: a schema of {len} bytes at {offset} cannot be")
            }
            OpenError::SchemaText { offset } => {
                write!(f, "schema: the byte at {offset} is not UTF-8")
            }
            OpenError::Schema(error) => write!(f, "{error}"),
            OpenError::Header { field, expected, found } => {
                write!(f, "header: {field} is {found}, by the schema it is {expected}")
            }
            OpenError::Parents { parent } => {
                write!(f, "parents: row {parent} does not follow from the schema")
            }
            OpenError::State => write!(f, "state: neither slot has a right checksum and role"),
            OpenError::Role { expected, found } => {
                let (found, expected) = (role_name(*found), role_name(*expected));
                write!(f, "the tree of a {found}, expected that of a {expected}")
            }
            OpenError::Damaged { first, fault, count, leaf_count } => {
                write!(f, "{count} of {leaf_count} leaves are damaged, first leaf {first}: {fault}")
            }
            OpenError::Redo { path, fault } => write!(f, "{}: {fault}", path.display()),
            OpenError::Sync(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Io { source, .. } | OpenError::Space { source, .. } => Some(source),
            OpenError::Schema(error) => Some(error),
            OpenError::Damaged { fault, .. } => Some(fault),
            OpenError::Redo { fault, .. } => Some(fault),
            OpenError::Sync(error) => Some(error),
            _ => None,
        }
    }
}

impl OpenError {
    pub(crate) fn io(what: &'static str) -> impl Fn(io::Error) -> OpenError {
        move |source| OpenError::Io { what, source }
    }
}

impl Tree {
    /// Opens a tree file for writing, verifies all of it, and repairs what a crash
    /// left: docs/FORMAT.md, section 9.
    ///
    /// # Errors
    ///
    /// The file is in use, or is no whole tree of the wanted kind. It is as it was
    /// then, but for [`OpenError::Sync`].
    pub fn open(path: &Path, options: OpenOptions) -> Result<(Tree, Recovery), OpenError> {
        let file = lock_named(path)?;
        let log_path = redo_path(path).unwrap_or_default();
        let log =
            open_beside(path).map_err(|fault| OpenError::Redo { path: log_path.clone(), fault })?;
        let was_there = log.is_some();
        let opened = Tree::recover(file, path, log, options)?;
        if was_there {
            // All that it held is in the tree on the medium.
            redo_log::remove(&log_path).map_err(OpenError::io("remove the redo log"))?;
        }
        Ok(opened)
    }

    /// Recovers from a file and the log beside it. The log may be removed then.
    pub(crate) fn recover(
        file: LockedFile,
        path: &Path,
        log: Option<File>,
        options: OpenOptions,
    ) -> Result<(Tree, Recovery), OpenError> {
        let verified = Verified::read(file.file())?;
        if verified.state.role != options.role {
            return Err(OpenError::Role { expected: options.role, found: verified.state.role });
        }
        let redo = verified.read_log(log.as_ref(), options.damaged).map_err(|fault| {
            OpenError::Redo { path: redo_path(path).unwrap_or_default(), fault }
        })?;
        let (parts, scan) = verified.map(file, path.to_owned(), redo)?;
        scan.refuse(options.damaged, parts.extents.leaf_count())?;
        scan.repair(parts.into_tree(), options.unix_s).map_err(OpenError::Sync)
    }
}

/// What was read of a file and follows from its schema.
struct Verified {
    layout: Layout,
    extents: Extents,
    state: State,
    tree_id: TreeId,
    created_unix_s: u64,
}

impl Verified {
    fn read(file: &File) -> Result<Verified, OpenError> {
        let found = file.metadata().map_err(OpenError::io("examine the file"))?.len();
        let header = read_header(file, found)?;
        if header.file_len.get() != found {
            return Err(OpenError::Length { expected: header.file_len.get(), found });
        }
        let layout = read_layout(file, &header)?;
        compare(&header, &layout)?;
        read_parents(file, &layout)?;
        Ok(Verified {
            extents: Extents::new(&layout),
            state: read_state(file)?,
            tree_id: TreeId(header.tree_id.get()),
            created_unix_s: header.created_unix_s.get(),
            layout,
        })
    }

    /// Reads the log beside the tree. One that is damaged counts as none where damage
    /// is accepted.
    fn read_log(&self, log: Option<&File>, damaged: Damaged) -> Result<Redo, RedoFault> {
        let Some(log) = log else { return Ok(Redo::default()) };
        if self.state.role == TreeRole::Replica {
            return Err(RedoFault::Replica);
        }
        let stamp = Stamp {
            tree_id: self.tree_id,
            layout_hash: self.layout.layout_hash(),
            life: self.state.life,
        };
        let (watermark, extents) = (self.state.watermark, &self.extents);
        match Redo::read(log, &Beside { stamp, watermark, extents }) {
            Err(fault) if fault.is_damage() && damaged == Damaged::Reset => Ok(Redo::damaged()),
            other => other,
        }
    }

    /// Reads every record, and maps the file.
    fn map(self, file: LockedFile, path: PathBuf, redo: Redo) -> Result<(Parts, Scan), OpenError> {
        let len = map_len(&self.layout).map_err(OpenError::io("map the file"))?;
        bring_in(file.file(), len);
        let extents = self.extents;
        let scanned = Scan::new(file.file(), &extents, &self.layout, &self.state, redo);
        let (scan, index) = scanned.map_err(OpenError::io("read the leaves"))?;
        // A copy of a file may have holes, which a full disk could not fill.
        let expected = self.layout.file_len();
        fill_holes(file.file(), expected)
            .map_err(|source| OpenError::Space { expected, source })?;
        let owner = Owner::map_file(file.file(), len, saved_range(&self.layout), Prefault::Read);
        // It may have been cut since it was read, and cannot be mapped then.
        let found = file.file().metadata().map_err(OpenError::io("examine the file"))?.len();
        if found != expected {
            return Err(OpenError::Length { expected, found });
        }
        let owner = owner.map_err(OpenError::io("map the file"))?;
        let parts = Parts {
            file,
            path: Some(path),
            owner,
            layout: Arc::new(self.layout),
            extents,
            index,
            state: self.state,
            tree_id: self.tree_id,
            created_unix_s: self.created_unix_s,
        };
        Ok((parts, scan))
    }
}

fn read_at(file: &File, offset: u64, len: usize) -> Result<Vec<u8>, OpenError> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).map_err(OpenError::io("read the file"))?;
    Ok(bytes)
}

fn read_header(file: &File, file_len: u64) -> Result<Header, OpenError> {
    let mut page = [0; PAGE_SIZE];
    let wanted = page.len().min(usize::try_from(file_len).unwrap_or(usize::MAX));
    let begin = page.get_mut(..wanted).unwrap_or_default();
    file.read_exact_at(begin, 0).map_err(OpenError::io("read the file"))?;
    let (header, _) = Header::read_from_prefix(&page).map_err(|_| OpenError::NotATree)?;
    if header.magic != Header::MAGIC {
        return Err(OpenError::NotATree);
    }
    if header.format_major.get() != Header::FORMAT_MAJOR {
        let found = header.format_major.get();
        return Err(OpenError::Version { found, known: Header::FORMAT_MAJOR });
    }
    let (expected, found) = (header_checksum(&page), header.header_checksum.get());
    if expected != found {
        return Err(OpenError::HeaderChecksum { expected, found });
    }
    Ok(header)
}

fn read_layout(file: &File, header: &Header) -> Result<Layout, OpenError> {
    let (offset, len) = (header.schema_offset.get(), header.schema_len.get());
    let end = offset.checked_add(len).filter(|end| *end <= header.file_len.get());
    let text_len = usize::try_from(len).ok().filter(|len| *len <= SCHEMA_LEN_MAX);
    let (Some(_), Some(text_len)) = (end, text_len) else {
        return Err(OpenError::SchemaPlace { offset, len });
    };
    let text = String::from_utf8(read_at(file, offset, text_len)?)
        .map_err(|error| OpenError::SchemaText { offset: error.utf8_error().valid_up_to() })?;
    let room = header.file_len.get().saturating_sub(len);
    Layout::from_text_in(text, room).map_err(OpenError::Schema)
}

/// Every field that follows from the schema.
fn compare(header: &Header, layout: &Layout) -> Result<(), OpenError> {
    let own = layout.header(TreeId(header.tree_id.get()), header.created_unix_s.get());
    let fields = [
        ("state_offset", own.state_offset, header.state_offset),
        ("undo_offset", own.undo_offset, header.undo_offset),
        ("undo_len", own.undo_len, header.undo_len),
        ("schema_offset", own.schema_offset, header.schema_offset),
        ("parents_offset", own.parents_offset, header.parents_offset),
        ("records_offset", own.records_offset, header.records_offset),
        ("records_len", own.records_len, header.records_len),
        ("file_len", own.file_len, header.file_len),
        ("parent_count", own.parent_count.into(), header.parent_count.into()),
        ("leaf_count", own.leaf_count.into(), header.leaf_count.into()),
        ("layout_hash", own.layout_hash.into(), header.layout_hash.into()),
        ("capacity_max", own.capacity_max.into(), header.capacity_max.into()),
    ];
    match fields.into_iter().find(|(_, expected, found)| expected != found) {
        None => Ok(()),
        Some((field, expected, found)) => {
            Err(OpenError::Header { field, expected: expected.get(), found: found.get() })
        }
    }
}

/// Length of a row of the parents table.
const ROW_LEN: usize = size_of::<Parent>();

/// Bytes of the parents table that are read at a time.
const TABLE_PIECE_LEN: usize = 1_024 * ROW_LEN;

fn read_parents(file: &File, layout: &Layout) -> Result<(), OpenError> {
    // In pieces: a table of a million rows is 64 MiB.
    let len = layout.parents_len() as usize;
    for start in (0..len).step_by(TABLE_PIECE_LEN) {
        let piece_len = TABLE_PIECE_LEN.min(len - start);
        let piece = read_at(file, layout.parents_offset() + start as u64, piece_len)?;
        let rows = layout.check_rows(start / ROW_LEN, &piece);
        rows.map_err(|parent| OpenError::Parents { parent })?;
    }
    Ok(())
}

fn read_state(file: &File) -> Result<State, OpenError> {
    State::from_page(&read_at(file, STATE_OFFSET, PAGE_SIZE)?).ok_or(OpenError::State)
}
