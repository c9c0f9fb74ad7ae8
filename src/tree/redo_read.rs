//! Reading a redo log: what the next owner of its tree takes over.
//!
//! The log is foreign, as the tree is. Nothing of it is used before it was checked, and
//! memory follows what is there, not what it claims. Nothing is changed here.

use core::fmt;
use std::collections::BTreeMap;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use crate::kernel::crc32c;
use crate::kernel::crc32c_append;
use crate::layout::DataLocId;
use crate::layout::LayoutHash;
use crate::layout::LeafHead;
use crate::layout::Life;
use crate::layout::RedoBatchHead;
use crate::layout::RedoHeader;
use crate::layout::Revision;
use crate::layout::TreeId;
use crate::layout::limits::PAGE_SIZE;
use crate::tree::extent::Extents;
use crate::tree::record::leaf_checksum;
use crate::tree::recover::Replay;
use crate::tree::redo_batch::Stamp;
use crate::tree::redo_batch::WireLeaves;
use crate::tree::redo_log::redo_path;

/// Why the log beside a tree keeps it from being opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum RedoFault {
    /// A call failed.
    Io {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It is no file, or does not begin as a log does.
    NotALog,
    /// A format that this version does not know.
    Version {
        /// Major version of the log.
        found: u16,
        /// Major version that is known.
        known: u16,
    },
    /// Its header page is damaged.
    Header {
        /// Computed from the page.
        expected: u32,
        /// In the page.
        found: u32,
    },
    /// It is longer or shorter than its header says.
    Length {
        /// What the header says.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// A batch is whole, and holds something that is no leaf of this tree.
    Leaf {
        /// Number of the batch.
        sequence: u64,
    },
    /// It lies beside a replica's tree, which has none.
    Replica,
    /// It belongs to another tree.
    Tree {
        /// Id of the tree.
        expected: TreeId,
        /// Id in the log.
        found: TreeId,
    },
    /// It was written in a later life than the tree was used in last.
    Newer {
        /// Life of the tree.
        tree: Life,
        /// Life of the log.
        log: Life,
    },
    /// It was written for another layout, and holds changes that the tree lacks.
    Layout {
        /// Layout of the tree.
        expected: LayoutHash,
        /// Layout of the log.
        found: LayoutHash,
    },
}

impl fmt::Display for RedoFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RedoFault::Io { what, source } => write!(f, "cannot {what}: {source}"),
            RedoFault::NotALog => {
                write!(f, "not a redo log, but in the place of one: move it away")
            }
            RedoFault::Version { found, known } => {
                write!(f, "redo log of format version {found}, expected {known}")
            }
            RedoFault::Header { expected, found } => {
                write!(f, "redo log: header checksum {found:#010x}, expected {expected:#010x}")
            }
            RedoFault::Length { expected, found } => {
                write!(f, "the redo log has {found} bytes, its header says {expected}")
            }
            RedoFault::Leaf { sequence } => {
                write!(f, "redo log: batch {sequence} holds what is no leaf of this tree")
            }
            RedoFault::Replica => {
                write!(f, "a redo log lies beside a replica's tree, which has none: move it away")
            }
            RedoFault::Tree { expected, found } => write!(
                f,
                "the redo log is of tree {:016x}, expected {:016x}: move it away, or put its \
                 tree here",
                found.0, expected.0
            ),
            RedoFault::Newer { tree, log } => write!(
                f,
                "the tree (life {tree}) is older than its redo log (life {log}): put the newer \
                 tree here, or move the log away and go on without what it holds"
            ),
            RedoFault::Layout { expected, found } => write!(
                f,
                "the redo log (layout {:08x}) holds changes that the tree (layout {:08x}) lacks: \
                 put the tree of that layout here, or move the log away and go on without them",
                found.0, expected.0
            ),
        }
    }
}

impl std::error::Error for RedoFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RedoFault::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl RedoFault {
    fn io(what: &'static str) -> impl Fn(io::Error) -> RedoFault {
        move |source| RedoFault::Io { what, source }
    }

    /// Whether the log is damaged: an operator may let it go, as damaged leaves. What
    /// does not begin as a log may be anything, and is never removed.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, RedoFault::Header { .. } | RedoFault::Length { .. } | RedoFault::Leaf { .. })
    }
}

/// What is known of the tree that a log lies beside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside<'a> {
    pub(crate) stamp: Stamp,
    /// Highest revision that was in the tree when its state was written.
    pub(crate) watermark: Revision,
    pub(crate) extents: &'a Extents,
}

/// What a log is to the tree that it lies beside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    None,
    Stale,
    Damaged,
    Live,
}

/// What a log holds for its tree.
#[derive(Debug, Default)]
pub(crate) struct Redo {
    /// The newest version of each leaf.
    leaves: BTreeMap<u32, (LeafHead, Box<[u8]>)>,
    batches: u64,
    kind: Kind,
}

impl Redo {
    /// Reads a log, and verifies all that is to be used of it.
    ///
    /// # Errors
    ///
    /// Another tree's log, a newer one than the tree, or a damaged one.
    pub(crate) fn read(file: &File, tree: &Beside<'_>) -> Result<Redo, RedoFault> {
        let log = Log::open(file)?;
        let (found, own) = (log.stamp, tree.stamp);
        if found.tree_id != own.tree_id {
            return Err(RedoFault::Tree { expected: own.tree_id, found: found.tree_id });
        }
        if found.life > own.life {
            return Err(RedoFault::Newer { tree: own.life, log: found.life });
        }
        // What it held was in the tree on the medium before a later life began.
        if found.life < own.life {
            return Ok(Redo::of(Kind::Stale));
        }
        if found.layout_hash != own.layout_hash {
            return log.before_growth(tree);
        }
        let mut redo = Redo::of(Kind::Live);
        log.batches(|sequence, leaves| {
            redo.batches += 1;
            redo.take(leaves, tree.extents).ok_or(RedoFault::Leaf { sequence })
        })?;
        Ok(redo)
    }

    /// A log that is damaged, and is let go.
    pub(crate) fn damaged() -> Redo {
        Redo::of(Kind::Damaged)
    }

    fn of(kind: Kind) -> Redo {
        Redo { kind, ..Redo::default() }
    }

    /// Whether it is of the tree's life and layout: it may hold what the tree lacks.
    pub(crate) fn is_live(&self) -> bool {
        self.kind == Kind::Live
    }

    /// What is told of it when `leaves` of it were stored.
    pub(crate) fn replay(&self, leaves: u32) -> Replay {
        match self.kind {
            Kind::None => Replay::NoLog,
            Kind::Stale => Replay::Stale,
            Kind::Damaged => Replay::Damaged,
            Kind::Live => Replay::Done { batches: self.batches, leaves },
        }
    }

    /// Takes the leaves of one batch, or nothing if one is no leaf of the tree.
    fn take(&mut self, leaves: WireLeaves<'_>, extents: &Extents) -> Option<()> {
        for (head, data) in leaves {
            let record = extents.record(DataLocId(head.data_loc_id.get()))?;
            let is_right = data.len() <= record.capacity
                && head.reserved.get() == 0
                && leaf_checksum(&head, data) == head.checksum.get();
            if !is_right {
                return None;
            }
            let newest = self.leaves.entry(record.leaf.0);
            let known = newest.or_insert_with(|| (head, data.into()));
            if known.0.revision.get() < head.revision.get() {
                *known = (head, data.into());
            }
        }
        Some(())
    }

    /// The newest version of a leaf, if it is newer than `held`; any, if the record
    /// holds none.
    pub(crate) fn newer(&self, leaf: DataLocId, held: Option<Revision>) -> bool {
        match (self.leaves.get(&leaf.0), held) {
            (Some((head, _)), Some(held)) => head.revision.get() > held.0,
            (newest, _) => newest.is_some(),
        }
    }

    /// The newest version of a leaf.
    pub(crate) fn leaf(&self, leaf: DataLocId) -> Option<(&LeafHead, &[u8])> {
        self.leaves.get(&leaf.0).map(|(head, data)| (head, &**data))
    }
}

/// A log whose header page is right.
struct Log<'a> {
    file: &'a File,
    stamp: Stamp,
    half_len: u64,
}

impl Log<'_> {
    fn open(file: &File) -> Result<Log<'_>, RedoFault> {
        let meta = file.metadata().map_err(RedoFault::io("examine the redo log"))?;
        if !meta.is_file() || meta.len() < PAGE_SIZE as u64 {
            return Err(RedoFault::NotALog);
        }
        let mut page = [0; PAGE_SIZE];
        file.read_exact_at(&mut page, 0).map_err(RedoFault::io("read the redo log"))?;
        let header = verify_header(&page)?;
        let (half_len, found) = (header.half_len.get(), meta.len());
        let fits =
            half_len <= RedoHeader::HALF_LEN_MAX && half_len.is_multiple_of(PAGE_SIZE as u64);
        let expected = RedoHeader::file_len(half_len.min(RedoHeader::HALF_LEN_MAX));
        if !fits || expected != found {
            return Err(RedoFault::Length { expected, found });
        }
        let stamp = Stamp {
            tree_id: TreeId(header.tree_id.get()),
            layout_hash: LayoutHash(header.layout_hash.get()),
            life: Life(header.life.get()),
        };
        Ok(Log { file, stamp, half_len })
    }

    /// A log of the tree's life for another layout. The tree grew after it, and then
    /// everything in it is in the tree; or it is one of before, and lacks something.
    fn before_growth(&self, tree: &Beside<'_>) -> Result<Redo, RedoFault> {
        let mut highest = Revision::ZERO;
        self.batches(|_, leaves| {
            let newest = leaves.map(|(head, _)| Revision(head.revision.get())).max();
            highest = highest.max(newest.unwrap_or_default());
            Ok(())
        })?;
        if highest > tree.watermark {
            let (expected, found) = (tree.stamp.layout_hash, self.stamp.layout_hash);
            return Err(RedoFault::Layout { expected, found });
        }
        Ok(Redo::of(Kind::Stale))
    }

    /// Visits the whole batches of both halves with their numbers. A torn one ends its
    /// half: it was never acknowledged.
    fn batches(
        &self,
        mut visit: impl FnMut(u64, WireLeaves<'_>) -> Result<(), RedoFault>,
    ) -> Result<(), RedoFault> {
        let mut buffer = Vec::new();
        for half in 0..2 {
            let begin = PAGE_SIZE as u64 + half * self.half_len;
            let (mut offset, mut expected) = (0, None);
            while offset < self.half_len {
                let (at, room) = (begin + offset, self.half_len - offset);
                let Some(head) = self.batch(at, room, &mut buffer)? else { break };
                let (epoch, sequence) = (head.epoch.get(), head.sequence.get());
                if expected.is_some_and(|expected| expected != (epoch, sequence)) {
                    break;
                }
                let bytes = buffer.get(size_of::<RedoBatchHead>()..).unwrap_or_default();
                let leaves = bytes.get(..head.leaves_len.get() as usize).unwrap_or_default();
                check_count(leaves, &head)?;
                visit(sequence, WireLeaves::new(leaves))?;
                offset += buffer.len() as u64;
                expected = Some((epoch, sequence.saturating_add(1)));
            }
        }
        Ok(())
    }

    /// Reads the batch at an offset, if a whole one of this log is there.
    fn batch(
        &self,
        at: u64,
        room: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<RedoBatchHead>, RedoFault> {
        let read = RedoFault::io("read the redo log");
        let mut head = [0; size_of::<RedoBatchHead>()];
        self.file.read_exact_at(&mut head, at).map_err(&read)?;
        let Ok(head) = RedoBatchHead::read_from_bytes(&head) else { return Ok(None) };
        let len = RedoBatchHead::batch_len(head.leaves_len.get() as usize);
        let own = head.magic == RedoBatchHead::MAGIC && self.is_own(&head);
        if !own || len as u64 > room {
            return Ok(None);
        }
        buffer.clear();
        buffer.resize(len, 0);
        self.file.read_exact_at(buffer, at).map_err(&read)?;
        Ok((batch_checksum(&head, buffer) == head.batch_checksum.get()).then_some(head))
    }

    fn is_own(&self, head: &RedoBatchHead) -> bool {
        let found = Stamp {
            tree_id: TreeId(head.tree_id.get()),
            layout_hash: LayoutHash(head.layout_hash.get()),
            life: Life(head.life.get()),
        };
        found == self.stamp
    }
}

/// What is right as a whole must be right in itself.
fn check_count(leaves: &[u8], head: &RedoBatchHead) -> Result<(), RedoFault> {
    let mut all = WireLeaves::new(leaves);
    let count = all.by_ref().count() as u64;
    if all.rest() == 0 && count == u64::from(head.leaf_count.get()) {
        Ok(())
    } else {
        Err(RedoFault::Leaf { sequence: head.sequence.get() })
    }
}

fn verify_header(page: &[u8; PAGE_SIZE]) -> Result<RedoHeader, RedoFault> {
    let (header, behind) = RedoHeader::read_from_prefix(page).map_err(|_| RedoFault::NotALog)?;
    if header.magic != RedoHeader::MAGIC {
        return Err(RedoFault::NotALog);
    }
    if header.format_major.get() != RedoHeader::FORMAT_MAJOR {
        let found = header.format_major.get();
        return Err(RedoFault::Version { found, known: RedoHeader::FORMAT_MAJOR });
    }
    let blank = RedoHeader { header_checksum: U32::new(0), ..header };
    let expected = crc32c_append(crc32c(blank.as_bytes()), behind);
    let found = header.header_checksum.get();
    if expected == found { Ok(header) } else { Err(RedoFault::Header { expected, found }) }
}

fn batch_checksum(head: &RedoBatchHead, batch: &[u8]) -> u32 {
    let blank = RedoBatchHead { batch_checksum: U32::new(0), ..*head };
    let behind = batch.get(size_of::<RedoBatchHead>()..).unwrap_or_default();
    crc32c_append(crc32c(blank.as_bytes()), behind)
}

/// Opens the log beside a tree, if there is one.
pub(crate) fn open_beside(tree: &Path) -> Result<Option<File>, RedoFault> {
    let Some(path) = redo_path(tree) else { return Ok(None) };
    // Without waiting: somebody may have put a pipe there.
    let opened =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RedoFault::io("open the redo log")(error)),
    }
}

/// Whether what is in the place of a tree's log may be replaced by one: nothing, or a
/// log.
pub(crate) fn is_replaceable(tree: &Path) -> Result<bool, RedoFault> {
    match open_beside(tree)? {
        None => Ok(true),
        Some(file) => Ok(!matches!(Log::open(&file), Err(RedoFault::NotALog))),
    }
}

/// What lies in a log, for those who look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedoSummary {
    /// Tree that it belongs to.
    pub tree_id: TreeId,
    /// Layout of that tree.
    pub layout_hash: LayoutHash,
    /// Life in which it was written.
    pub life: Life,
    /// Whole batches.
    pub batches: u64,
    /// Leaves in them: one that is in two of them counts twice.
    pub leaves: u64,
}

impl RedoSummary {
    /// Looks at the log beside a tree file, if there is one. It may be in use.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is no whole log.
    pub fn beside(tree: &Path) -> Result<Option<RedoSummary>, RedoFault> {
        let Some(file) = open_beside(tree)? else { return Ok(None) };
        let log = Log::open(&file)?;
        let Stamp { tree_id, layout_hash, life } = log.stamp;
        let mut found = RedoSummary { tree_id, layout_hash, life, batches: 0, leaves: 0 };
        log.batches(|_, leaves| {
            found.batches += 1;
            found.leaves += leaves.count() as u64;
            Ok(())
        })?;
        Ok(Some(found))
    }
}
