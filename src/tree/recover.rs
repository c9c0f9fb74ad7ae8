//! What a crash left, and its repair: docs/FORMAT.md, section 9.

use std::sync::atomic::Ordering;

use crate::layout::DataLocId;
use crate::layout::Revision;
use crate::layout::TreeRole;
use crate::tree::extent::Extents;
use crate::tree::extent::Record;
use crate::tree::index::Index;
use crate::tree::map::Owner;
use crate::tree::mapped::Tree;
use crate::tree::open::OpenError;
use crate::tree::plan::Layout;
use crate::tree::record::RecordFault;
use crate::tree::record::empty_head;
use crate::tree::record::verify_record;
use crate::tree::state::Closed;
use crate::tree::state::State;
use crate::tree::state::SyncError;
use crate::tree::state::boot_id;
use crate::tree::write::Undo;
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
}

/// What one pass over all records found. Nothing has been stored yet.
pub(crate) struct Scan {
    ending: Ending,
    undo: Option<Undo>,
    /// Whole records whose seq is odd.
    odd: Vec<DataLocId>,
    damaged: Vec<DataLocId>,
    first_fault: Option<RecordFault>,
}

impl Scan {
    /// Verifies every record and builds the index in the same pass. Damaged leaves
    /// are entered as what they will be: empty.
    pub(crate) fn new(
        owner: &Owner,
        extents: &Extents,
        layout: &Layout,
        state: &State,
    ) -> (Scan, Index) {
        let mut index = Index::new(layout.leaf_count(), layout.parent_count());
        let mut scan = Scan {
            ending: ending_of(state),
            undo: Undo::find(owner, extents),
            odd: Vec::new(),
            damaged: Vec::new(),
            first_fault: None,
        };
        let mut buffer = vec![0; layout.stride_max() as usize];
        for record in extents.all() {
            scan.examine(owner, &record, &mut buffer, &mut index);
        }
        (scan, index)
    }

    fn examine(&mut self, owner: &Owner, record: &Record, buffer: &mut [u8], index: &mut Index) {
        let undo = self.undo.as_ref().filter(|undo| undo.record.leaf == record.leaf);
        let bytes: &[u8] = match undo {
            Some(undo) => &undo.saved,
            None => {
                let bytes = &mut buffer[..record.stride];
                owner.copy_out(record.offset, bytes);
                bytes
            }
        };
        match verify_record(bytes, record.leaf, record.capacity as u32) {
            Ok(head) => {
                index.insert(record, &head.leaf);
                if head.change_flag.get() == 1 {
                    index.mark(record.leaf);
                }
                if undo.is_none() && !head.seq.get().is_multiple_of(2) {
                    self.odd.push(record.leaf);
                }
            }
            Err(fault) => {
                index.insert(record, &empty_head(record.leaf));
                self.first_fault.get_or_insert(fault);
                self.damaged.push(record.leaf);
            }
        }
    }

    /// Stops here if there is damage that is not to be emptied.
    pub(crate) fn refuse(&self, damaged: Damaged, leaf_count: u32) -> Result<(), OpenError> {
        match (damaged, self.damaged.first(), self.first_fault) {
            (Damaged::Refuse, Some(first), Some(fault)) => Err(OpenError::Damaged {
                first: *first,
                fault,
                // No more than there are leaves.
                count: self.damaged.len() as u32,
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
        self.empty_damaged(&mut tree, unix_s)?;
        self.note_opening(&mut tree)?;
        let recovery = Recovery {
            ending: self.ending,
            undone: self.undo.map(|undo| undo.record.leaf),
            damaged: self.damaged.iter().copied().take(NAMED_MAX).collect(),
            damaged_count: self.damaged.len() as u32,
        };
        Ok((tree, recovery))
    }

    fn make_even(&self, tree: &mut Tree) {
        for leaf in &self.odd {
            if let Some(record) = tree.record(*leaf) {
                let seq = tree.owner.load_u32(record.offset);
                tree.owner.store_u32(record.offset, seq.wrapping_add(1), Ordering::Release);
            }
        }
    }

    fn empty_damaged(&self, tree: &mut Tree, unix_s: u64) -> Result<(), SyncError> {
        if !self.damaged.is_empty() && tree.role() == TreeRole::Server {
            // A revision that was given and lost must not be given again.
            tree.begin_life(unix_s)?;
            tree.run.life_start = None;
        }
        for leaf in &self.damaged {
            tree.empty_damaged(*leaf);
        }
        Ok(())
    }

    fn note_opening(&self, tree: &mut Tree) -> Result<(), SyncError> {
        let lost = self.ending == Ending::PowerLoss || !self.damaged.is_empty();
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
