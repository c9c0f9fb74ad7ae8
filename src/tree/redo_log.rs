//! The redo log: batches of leaves, made durable one after the other by one sequential
//! write and one write-back each. docs/FORMAT.md, section 11.
//!
//! It has two halves. While batches go to one, the other holds those before them, until
//! a [`Checkpoint`](crate::tree::Checkpoint) has brought the tree to the medium: only
//! [`Freed`] proves that, and only then is the half used again.

use core::fmt;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::kernel::crc32c;
use crate::layout::RedoBatchHead;
use crate::layout::RedoHeader;
use crate::layout::TreeRole;
use crate::layout::leaf_wire_len;
use crate::layout::limits::PAGE_SIZE;
use crate::tree::fresh::Fresh;
use crate::tree::fresh::sync_folder_of;
use crate::tree::map::reserve;
use crate::tree::mapped::Tree;
use crate::tree::mishap::Call;
use crate::tree::mishap::perform;
use crate::tree::redo_batch::Committed;
use crate::tree::redo_batch::RedoBatch;
use crate::tree::redo_batch::Stamp;
use crate::tree::redo_read::is_replaceable;
use crate::tree::state::Failure;
use crate::tree::state::SyncError;

/// Bytes of zeros that are written at once.
const ZEROS_LEN: usize = 1 << 20;

/// Tells logs of one process apart.
static LOGS: AtomicU64 = AtomicU64::new(1);

/// Why a log was not made, or a batch not appended.
#[derive(Debug)]
#[non_exhaustive]
pub enum RedoError {
    /// A tree in memory has no file beside which a log could lie.
    NoName,
    /// A replica makes no revisions; a server does in its life.
    NoLife,
    /// Something that is no log lies where it should.
    Taken {
        /// Its name.
        path: PathBuf,
    },
    /// Leaves are staged, and not stored yet.
    Staged,
    /// A half of this length cannot be.
    HalfLen {
        /// Bytes that were asked for.
        found: u64,
        /// Fewest bytes for the largest leaf.
        min: u64,
        /// Most bytes.
        max: u64,
    },
    /// There is no space for the log.
    Space {
        /// Bytes that it takes.
        needed: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A call failed while the log was made. There is none then, or a new one that
    /// holds nothing.
    Io {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The tree could not be written back before its log was made.
    Sync(SyncError),
    /// The batch is not one to append: empty, appended already, or of another tree,
    /// layout or life.
    Batch {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The batch does not fit into half a log.
    TooLarge {
        /// Bytes that it takes.
        needed: u64,
        /// Length of a half.
        half_len: u64,
    },
    /// Both halves hold what the tree on the medium may lack. Nothing is lost: the
    /// batch can be appended when a checkpoint has freed one.
    Busy,
    /// Writing a batch, or writing it back, failed. The log takes none any more, and
    /// the process should stop: the next one recovers what is durable.
    Failed {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// That failed earlier, here or in the tree.
    FailedBefore,
    /// Somebody cut the log, made it longer, or removed it.
    Lost {
        /// Bytes that it had.
        expected: u64,
        /// Bytes that it has; none if it has no name any more.
        found: u64,
    },
}

impl fmt::Display for RedoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RedoError::NoName => write!(f, "redo log: a tree in memory has none"),
            RedoError::NoLife => write!(f, "redo log: only a server in its life has one"),
            RedoError::Taken { path } => {
                write!(f, "redo log: {} is none, and is not overwritten", path.display())
            }
            RedoError::Staged => write!(f, "redo log: leaves are staged and not stored yet"),
            RedoError::HalfLen { found, min, max } => write!(
                f,
                "redo log: a half of {found} bytes, expected {min} to {max} in pages of {PAGE_SIZE}"
            ),
            RedoError::Space { needed, source } => {
                write!(f, "redo log: cannot reserve {needed} bytes: {source}")
            }
            RedoError::Io { what, source } | RedoError::Failed { what, source } => {
                write!(f, "redo log: cannot {what}: {source}")
            }
            RedoError::Sync(error) => write!(f, "redo log: {error}"),
            RedoError::Batch { what } => write!(f, "redo log: a batch was refused: {what}"),
            RedoError::TooLarge { needed, half_len } => {
                write!(f, "redo log: a batch of {needed} bytes, half a log has {half_len}")
            }
            RedoError::Busy => write!(f, "redo log: both halves wait for a checkpoint"),
            RedoError::FailedBefore => {
                write!(f, "redo log: a write-back failed earlier; restart and recover")
            }
            RedoError::Lost { expected, found } => {
                write!(f, "redo log: it has {found} bytes while in use, expected {expected}")
            }
        }
    }
}

impl std::error::Error for RedoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RedoError::Space { source, .. }
            | RedoError::Io { source, .. }
            | RedoError::Failed { source, .. } => Some(source),
            RedoError::Sync(error) => Some(error),
            _ => None,
        }
    }
}

impl RedoError {
    fn io(what: &'static str) -> impl Fn(io::Error) -> RedoError {
        move |source| RedoError::Io { what, source }
    }
}

/// A half of a log that was left: its batches wait for a checkpoint of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub(crate) log: u64,
    /// Number of its last batch.
    pub(crate) last: u64,
}

impl Left {
    /// Number of the last batch in it: the checkpoint is due when that is stored.
    pub fn last(&self) -> u64 {
        self.last
    }
}

/// Proof that everything in a half that was left is in the tree on the medium.
#[derive(Debug, PartialEq, Eq)]
pub struct Freed(pub(crate) Left);

/// What became of a batch that was appended. It is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a half that was left waits for its checkpoint"]
pub struct Appended {
    /// Number of the batch in its log, from 1.
    pub sequence: u64,
    /// The half that was left for it: a checkpoint is due once the batches before
    /// this one are stored.
    pub left: Option<Left>,
}

/// What a tree knows of its log.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) path: PathBuf,
    pub(crate) log: u64,
    /// Number of the batch of that log that was stored last.
    pub(crate) stored: u64,
}

/// The log of one life of one tree, open for appending. It is used by one thread, which
/// need not be the tree's.
#[derive(Debug)]
pub struct RedoLog {
    file: File,
    /// Names that it had at first: none in memory.
    links: u64,
    /// Which log of this process it is.
    log: u64,
    stamp: Stamp,
    half_len: u64,
    half: u64,
    /// Where the next batch goes in the half.
    offset: u64,
    epoch: u64,
    /// Number of the last batch.
    sequence: u64,
    /// The other half, while it is not free.
    left: Option<Left>,
    failed: Failure,
}

impl RedoLog {
    /// Makes the log of a server's life, beside the tree's file, and puts it in the
    /// place of an older one. The tree is written back first, so that an older log
    /// holds nothing that is not in it.
    ///
    /// The log takes a page and two halves of `half_len` bytes, all reserved and
    /// written here: appending to it changes nothing but its contents.
    ///
    /// # Errors
    ///
    /// The tree has no name, no life or staged leaves, its log's name is taken, the length
    /// cannot be, there is
    /// no space, or a call failed.
    pub fn create(tree: &mut Tree, half_len: u64) -> Result<RedoLog, RedoError> {
        let beside = tree.path().ok_or(RedoError::NoName)?;
        let path = redo_path(beside).ok_or(RedoError::NoName)?;
        let replaceable = is_replaceable(beside).map_err(io::Error::other);
        if !replaceable.map_err(RedoError::io("look at what is in its place"))? {
            return Err(RedoError::Taken { path });
        }
        prepare(tree, half_len)?;
        let fresh = Fresh::to_replace(&path).map_err(RedoError::io("create it"))?;
        let file = fresh.file().try_clone().map_err(RedoError::io("create it"))?;
        let log = RedoLog::fill(file, tree, half_len)?;
        let named = fresh.replace(&path).map_err(RedoError::io("name it"))?;
        named.map_err(RedoError::io("write its folder back"))?;
        log.attach(tree, path);
        Ok(log)
    }

    /// From now on the tree knows its log.
    pub(crate) fn attach(&self, tree: &mut Tree, path: PathBuf) {
        tree.redo = Some(Attached { path, log: self.log, stored: 0 });
    }

    /// Reserves and fills a log, and writes it back.
    pub(crate) fn fill(file: File, tree: &Tree, half_len: u64) -> Result<RedoLog, RedoError> {
        let (stamp, failed) = (tree.stamp(), tree.state.failure());
        let needed = RedoHeader::file_len(half_len);
        reserve(&file, needed).map_err(|source| RedoError::Space { needed, source })?;
        let written = perform(Call::LogWrite, || {
            file.write_all_at(&header_page(&stamp, half_len), 0)?;
            write_zeros(&file, PAGE_SIZE as u64, needed)
        });
        written.map_err(RedoError::io("fill it"))?;
        perform(Call::LogBack, || file.sync_all()).map_err(RedoError::io("write it back"))?;
        let links = file.metadata().map_err(RedoError::io("examine it"))?.nlink();
        Ok(RedoLog {
            file,
            links,
            log: LOGS.fetch_add(1, Ordering::Relaxed),
            stamp,
            half_len,
            half: 0,
            offset: 0,
            epoch: 1,
            sequence: 0,
            left: None,
            failed,
        })
    }

    /// Makes a batch durable: one sequential write and one write-back.
    ///
    /// # Errors
    ///
    /// [`RedoError::Busy`]: later. [`RedoError::Batch`], [`RedoError::TooLarge`]: never.
    /// Anything else: the process should stop, and acknowledge nothing of this batch.
    pub fn append(&mut self, batch: &mut RedoBatch) -> Result<Appended, RedoError> {
        self.check(batch)?;
        let needed = batch.bytes() as u64;
        let mut left = None;
        if !self.fits_here(needed) {
            if self.left.is_some() {
                return Err(RedoError::Busy);
            }
            left = Some(self.turn());
        }
        let sequence = self.sequence + 1;
        let at = PAGE_SIZE as u64 + self.half * self.half_len + self.offset;
        let bytes = batch.seal(&self.stamp, self.epoch, sequence);
        let written = perform(Call::LogWrite, || self.file.write_all_at(bytes, at));
        self.latch("write a batch", written)?;
        let back = perform(Call::LogBack, || self.file.sync_data());
        self.latch("write a batch back", back)?;
        self.check_file()?;
        self.offset += needed;
        self.sequence = sequence;
        batch.committed = Some(Committed { log: self.log, sequence });
        Ok(Appended { sequence, left })
    }

    /// Whether a batch could be appended now: if not, a checkpoint is under way or due.
    pub fn room(&self, batch: &RedoBatch) -> bool {
        self.fits_here(batch.bytes() as u64) || self.left.is_none()
    }

    /// Makes a half usable again whose contents are in the tree on the medium. Says
    /// whether it was the one that waited: proof about another log frees nothing.
    pub fn mark_free(&mut self, freed: Freed) -> bool {
        let waited = self.left == Some(freed.0);
        if waited {
            self.left = None;
        }
        waited
    }

    /// The half that waits for its checkpoint, if one does.
    pub fn left(&self) -> Option<Left> {
        self.left
    }

    /// Length of a half in bytes: no batch is longer.
    pub fn half_len(&self) -> u64 {
        self.half_len
    }

    /// Number of the batch that was appended last, 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn fits_here(&self, needed: u64) -> bool {
        needed <= self.half_len - self.offset
    }

    fn check(&self, batch: &RedoBatch) -> Result<(), RedoError> {
        if self.failed.is_set() {
            return Err(RedoError::FailedBefore);
        }
        if batch.is_empty() {
            return Err(RedoError::Batch { what: "it is empty" });
        }
        if batch.is_committed() {
            return Err(RedoError::Batch { what: "it was appended already" });
        }
        if batch.stamp() != Some(self.stamp) {
            return Err(RedoError::Batch { what: "it is of another tree, layout or life" });
        }
        let (needed, half_len) = (batch.bytes() as u64, self.half_len);
        if needed > half_len { Err(RedoError::TooLarge { needed, half_len }) } else { Ok(()) }
    }

    /// Goes over to the other half, which is free.
    fn turn(&mut self) -> Left {
        let left = Left { log: self.log, last: self.sequence };
        self.left = Some(left);
        self.half = 1 - self.half;
        self.epoch += 1;
        self.offset = 0;
        left
    }

    fn latch(&self, what: &'static str, result: io::Result<()>) -> Result<(), RedoError> {
        result.map_err(|source| {
            self.failed.set();
            RedoError::Failed { what, source }
        })
    }

    /// What was written into a file that was cut or removed is not there any more.
    fn check_file(&self) -> Result<(), RedoError> {
        let expected = RedoHeader::file_len(self.half_len);
        let meta = self.file.metadata();
        let found = meta.map(|meta| if meta.nlink() < self.links { 0 } else { meta.len() });
        match found {
            Ok(found) if found == expected => Ok(()),
            Ok(found) => {
                self.failed.set();
                Err(RedoError::Lost { expected, found })
            }
            Err(source) => self.latch("examine its file", Err(source)),
        }
    }
}

const fn is_send<T: Send>() {}
const _: () = {
    is_send::<RedoLog>();
    is_send::<RedoBatch>();
};

/// Whether the tree is to have a log; and everything of it on the medium.
pub(crate) fn prepare(tree: &mut Tree, half_len: u64) -> Result<(), RedoError> {
    if tree.role() != TreeRole::Server || tree.run.life_start.is_none() {
        return Err(RedoError::NoLife);
    }
    if tree.has_staged() {
        return Err(RedoError::Staged);
    }
    check_half_len(tree, half_len)?;
    tree.sync().map_err(RedoError::Sync)
}

/// A page and two halves: which the largest leaf must fit into.
fn check_half_len(tree: &Tree, found: u64) -> Result<(), RedoError> {
    let largest = leaf_wire_len(tree.layout().capacity_max() as usize);
    let (min, max) = (RedoBatchHead::batch_len(largest) as u64, RedoHeader::HALF_LEN_MAX);
    if (min..=max).contains(&found) && found.is_multiple_of(PAGE_SIZE as u64) {
        Ok(())
    } else {
        Err(RedoError::HalfLen { found, min, max })
    }
}

/// The header page of a log.
pub(crate) fn header_page(stamp: &Stamp, half_len: u64) -> [u8; PAGE_SIZE] {
    let mut header = RedoHeader {
        magic: RedoHeader::MAGIC,
        format_major: U16::new(RedoHeader::FORMAT_MAJOR),
        format_minor: U16::new(RedoHeader::FORMAT_MINOR),
        header_checksum: U32::new(0),
        tree_id: U64::new(stamp.tree_id.0),
        layout_hash: U32::new(stamp.layout_hash.0),
        life: U32::new(stamp.life.0),
        half_len: U64::new(half_len),
        reserved: U64::new(0),
    };
    let mut page = [0; PAGE_SIZE];
    let (place, _) = page.split_at_mut(size_of::<RedoHeader>());
    place.copy_from_slice(header.as_bytes());
    header.header_checksum = U32::new(crc32c(&page));
    let (place, _) = page.split_at_mut(size_of::<RedoHeader>());
    place.copy_from_slice(header.as_bytes());
    page
}

fn write_zeros(file: &File, from: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_LEN.min((end - from) as usize)];
    let mut at = from;
    while at < end {
        let len = (end - at).min(ZEROS_LEN as u64);
        file.write_all_at(&zeros[..len as usize], at)?;
        at += len;
    }
    Ok(())
}

/// `<name>.redo` beside a tree file; none for a path that names no file.
pub fn redo_path(tree: &Path) -> Option<PathBuf> {
    let mut name = tree.file_name()?.to_owned();
    name.push(".redo");
    Some(tree.with_file_name(name))
}

/// Removes a log whose contents are in the tree on the medium.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let mut found = true;
    let removed = perform(Call::LogRemove, || match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            found = false;
            Ok(())
        }
        other => other,
    });
    removed?;
    if found { sync_folder_of(path) } else { Ok(()) }
}
