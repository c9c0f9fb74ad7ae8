//! What a crash left, and its repair: docs/FORMAT.md, section 9.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use zerocopy::FromZeros;
use zerocopy::IntoBytes;

use crate::layout::DataLocId;
use crate::layout::Revision;
use crate::layout::TreeRole;
use crate::layout::UndoHeader;
use crate::tree::extent::Extents;
use crate::tree::extent::Record;
use crate::tree::index::Index;
use crate::tree::mapped::Tree;
use crate::tree::open::OpenError;
use crate::tree::plan::Layout;
use crate::tree::plan::UNDO_OFFSET;
use crate::tree::record::verify_record;
use crate::tree::redo_read::Redo;
use crate::tree::state::Closed;
use crate::tree::state::State;
use crate::tree::state::SyncError;
use crate::tree::state::boot_id;
use crate::tree::survey::Findings;
use crate::tree::survey::Survey;
use crate::tree::write::SAVED_AT;
use crate::tree::write::disarm;
use crate::tree::write::put_back;

/// Damaged leaves that [`Recovery`] names; it counts all.
const NAMED_MAX: usize = 64;

/// What is done about damaged leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damaged {
    /// The tree is not opened.
    Refuse,
    /// They are emptied: in a replica they count as never written and are fetched
    /// again; at a server that is a change in a life of its own, so that replicas
    /// follow.
    Reset,
}

/// How the last owner of a tree ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It closed the tree.
    Clean,
    /// It died, and the machine ran on: nothing acknowledged is lost.
    ProcessDeath,
    /// The machine went down with it, or the file came from another one: leaves
    /// written since the last sync may be older.
    PowerLoss,
}

/// What became of the redo log beside a tree when that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// There is none.
    NoLog,
    /// All that it ever held was in the tree before.
    Stale,
    /// It was damaged, and that was accepted: what it held is lost.
    Damaged,
    /// It was looked through, and all that it holds is in the tree.
    Done {
        /// Whole batches that it holds.
        batches: u64,
        /// Leaves that it held a newer version of, or the only whole one.
        leaves: u32,
    },
}

/// What opening found and repaired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// How the last owner ended.
    pub ending: Ending,
    /// The leaf that was torn in mid-write and has its former Data again.
    pub undone: Option<DataLocId>,
    /// Leaves that were damaged and are empty now: the first 64.
    pub damaged: Vec<DataLocId>,
    /// How many were.
    pub damaged_count: u32,
    /// What became of the redo log beside the tree.
    pub redo: Replay,
}

/// What one pass over all records found. Nothing has been stored yet.
pub(crate) struct Scan {
    ending: Ending,
    undo: Option<Undo>,
    redo: Redo,
    found: Findings,
}

impl Scan {
    /// Verifies every record and builds the index in the same pass. Damaged leaves
    /// are entered as what they will be: empty.
    pub(crate) fn new(
        file: &File,
        extents: &Extents,
        layout: &Layout,
        state: &State,
        redo: Redo,
    ) -> io::Result<(Scan, Index)> {
        let undo = Undo::find(file, extents)?;
        let survey = Survey { file, extents, undo: undo.as_ref(), redo: &redo };
        let (found, index) = survey.run(layout)?;
        Ok((Scan { ending: ending_of(state), undo, redo, found }, index))
    }

    /// Stops here if there is damage that is not to be emptied.
    pub(crate) fn refuse(&self, damaged: Damaged, leaf_count: u32) -> Result<(), OpenError> {
        match (damaged, self.found.damaged.first(), self.found.first_fault) {
            (Damaged::Refuse, Some(first), Some(fault)) => Err(OpenError::Damaged {
                first: *first,
                fault,
                // No more than there are leaves.
                count: self.found.damaged.len() as u32,
                leaf_count,
            }),
            _ => Ok(()),
        }
    }

    /// Repairs the tree. A crash in here is repaired by the next opening.
    pub(crate) fn repair(self, mut tree: Tree, unix_s: u64) -> Result<(Tree, Recovery), SyncError> {
        // Whatever slot was durable: now the newest one is.
        tree.state.sync_page(&tree.owner)?;
        if let Some(undo) = &self.undo {
            put_back(&mut tree.owner, &undo.record, &undo.saved);
        }
        disarm(&mut tree.owner);
        self.make_even(&mut tree);
        self.redo(&mut tree)?;
        self.mark_loss(&mut tree, unix_s)?;
        self.note_opening(&mut tree)?;
        let recovery = Recovery {
            ending: self.ending,
            undone: self.undo.map(|undo| undo.record.leaf),
            damaged: self.found.damaged.iter().copied().take(NAMED_MAX).collect(),
            damaged_count: self.found.damaged.len() as u32,
            redo: self.redo.replay(self.found.redone.len() as u32),
        };
        Ok((tree, recovery))
    }

    fn make_even(&self, tree: &mut Tree) {
        for leaf in &self.found.odd {
            if let Some(record) = tree.record(*leaf) {
                let seq = tree.owner.load_u32(record.offset);
                tree.owner.store_u32(record.offset, seq.wrapping_add(1), Ordering::Release);
            }
        }
    }

    /// Stores what the redo log holds, and brings all of the tree to the medium before
    /// anything may say that the log is not needed.
    fn redo(&self, tree: &mut Tree) -> Result<(), SyncError> {
        for leaf in &self.found.redone {
            let record = tree.record(*leaf).expect("a scan names leaves of its tree");
            let (head, data) = self.redo.leaf(*leaf).expect("the log holds what it redoes");
            tree.redo_leaf(&record, head, data);
        }
        if self.redo.is_live() { tree.sync() } else { Ok(()) }
    }

    /// Empties damaged leaves. A server that lost changes marks that, by a change of a life
    /// that no client has seen: a copy of an earlier life may hold what is lost, and its
    /// watermark must not count any more. Without a mark it would, if the server's newest
    /// change were one that was not lost.
    fn mark_loss(&self, tree: &mut Tree, unix_s: u64) -> Result<(), SyncError> {
        let is_lost = !self.found.damaged.is_empty()
            || (self.ending == Ending::PowerLoss && !self.redo.is_live());
        let marks = is_lost && tree.role() == TreeRole::Server;
        if marks {
            // A revision that was given and lost must not be given again.
            tree.begin_life(unix_s)?;
        }
        for leaf in &self.found.damaged {
            tree.empty_damaged(*leaf);
        }
        if marks && self.found.damaged.is_empty() {
            // What fails here (a forged revision, a file that is being cut) fails later too.
            let _ = tree.write_again(DataLocId(0));
        }
        if marks {
            tree.run.life_start = None;
        }
        Ok(())
    }

    fn note_opening(&self, tree: &mut Tree) -> Result<(), SyncError> {
        let lost = self.ending == Ending::PowerLoss || !self.found.damaged.is_empty();
        if lost && tree.role() == TreeRole::Replica {
            // "Every change up to the watermark is held" is true no more.
            tree.state.watermark = Revision::ZERO;
        }
        tree.state.boot_id = boot_id();
        tree.state.closed = Closed::No;
        tree.state.store_and_sync(&mut tree.owner)
    }
}

fn ending_of(state: &State) -> Ending {
    let same_boot = state.boot_id == boot_id() && state.boot_id != [0; 16];
    match state.closed {
        Closed::Yes => Ending::Clean,
        Closed::No if same_boot => Ending::ProcessDeath,
        Closed::No => Ending::PowerLoss,
    }
}

/// A record in the undo slot that has to be put back.
#[derive(Clone, Debug)]
pub(crate) struct Undo {
    pub(crate) record: Record,
    pub(crate) saved: Vec<u8>,
}

impl Undo {
    /// Looks whether a write was interrupted: the slot is armed, the record torn,
    /// and what was saved of it whole. Any bits may be in the slot.
    pub(crate) fn find(file: &File, extents: &Extents) -> io::Result<Option<Undo>> {
        let mut head = UndoHeader::new_zeroed();
        file.read_exact_at(head.as_mut_bytes(), UNDO_OFFSET)?;
        let leaf = head.armed.get().checked_sub(1).map(DataLocId);
        let Some(record) = leaf.and_then(|leaf| extents.record(leaf)) else { return Ok(None) };
        let saved_len = head.saved_len.get() as usize;
        if saved_len > record.stride || is_whole(file, &record)? {
            return Ok(None);
        }
        // The slot has room for the largest stride.
        let mut saved = vec![0; saved_len];
        file.read_exact_at(&mut saved, SAVED_AT as u64)?;
        let verified = verify_record(&saved, record.leaf, record.capacity as u32);
        Ok(verified.is_ok().then_some(Undo { record, saved }))
    }
}

fn is_whole(file: &File, record: &Record) -> io::Result<bool> {
    let mut bytes = vec![0; record.stride];
    file.read_exact_at(&mut bytes, record.offset as u64)?;
    let head = verify_record(&bytes, record.leaf, record.capacity as u32);
    Ok(head.is_ok_and(|head| head.seq.get().is_multiple_of(2)))
}
