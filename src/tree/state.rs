//! The state slots: what changes from run to run. docs/FORMAT.md, section 4.

use core::fmt;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::Life;
use crate::layout::Revision;
use crate::layout::STATE_SLOT_OFFSETS;
use crate::layout::StateSlot;
use crate::layout::TreeRole;
use crate::layout::limits::PAGE_SIZE;
use crate::tree::loss::FileLoss;
use crate::tree::map::Owner;
use crate::tree::plan::STATE_OFFSET;
use crate::tree::plan::state_checksum;

const STATE_AT: usize = STATE_OFFSET as usize;

/// A write-back that failed, now or earlier.
///
/// It is never tried again: after a failed write-back the kernel may hold pages
/// for clean that never reached the medium, and a second attempt would succeed
/// without them.
#[derive(Debug)]
#[non_exhaustive]
pub enum SyncError {
    /// Writing back failed.
    Failed(io::Error),
    /// Writing back failed at an earlier time.
    FailedBefore,
    /// What would be written back is not all there any more.
    Lost(FileLoss),
    /// The tree was closed in good order, and its redo log could not be removed. The
    /// next opening does that: all that it holds is in the tree.
    Log(io::Error),
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncError::Failed(source) => write!(f, "cannot write the tree file back: {source}"),
            SyncError::FailedBefore => {
                write!(f, "the tree file could not be written back earlier; reopen and verify it")
            }
            SyncError::Lost(loss) => write!(f, "{loss}"),
            SyncError::Log(source) => write!(f, "cannot remove the redo log: {source}"),
        }
    }
}

impl std::error::Error for SyncError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SyncError::Failed(source) | SyncError::Log(source) => Some(source),
            SyncError::FailedBefore => None,
            SyncError::Lost(loss) => Some(loss),
        }
    }
}

/// That a write-back failed, known to all threads that write back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failure(Arc<AtomicBool>);

impl Failure {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Another one that says the same now.
    fn apart(&self) -> Failure {
        Failure(Arc::new(AtomicBool::new(self.is_set())))
    }
}

/// Whether the last owner ended in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    Yes,
    No,
}

/// Values of the state, and which slot is safe on the medium.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) role: TreeRole,
    pub(crate) life: Life,
    pub(crate) watermark: Revision,
    pub(crate) boot_id: [u8; 16],
    pub(crate) closed: Closed,
    sequence: u64,
    /// The slot that was durable at the last sync: never overwritten before the
    /// next one has returned.
    durable: usize,
    /// The slot that was stored last.
    newest: usize,
    failed: Failure,
}

impl State {
    /// The state of a new tree: nothing is durable, the first slot is written next.
    pub(crate) fn new(role: TreeRole, life: Life) -> State {
        State {
            role,
            life,
            watermark: Revision::ZERO,
            boot_id: boot_id(),
            closed: Closed::No,
            sequence: 0,
            durable: 1,
            newest: 0,
            failed: Failure::default(),
        }
    }

    /// The state that counts in a state page, if a slot is right.
    pub(crate) fn from_page(page: &[u8]) -> Option<State> {
        let slots = STATE_SLOT_OFFSETS.map(|offset| slot(page.get(offset..)?));
        let best = (0..slots.len()).filter(|i| slots[*i].is_some());
        let at = best.max_by_key(|i| slots[*i].map(|slot| slot.sequence.get()))?;
        let slot = slots[at]?;
        Some(State {
            role: TreeRole::from_code(slot.role.get())?,
            life: Life(slot.life.get()),
            watermark: Revision(slot.watermark.get()),
            boot_id: slot.boot_id,
            closed: if slot.clean.get() == 1 { Closed::Yes } else { Closed::No },
            sequence: slot.sequence.get(),
            durable: at,
            newest: at,
            failed: Failure::default(),
        })
    }

    /// The state of this tree for a new file, in which nothing is durable.
    pub(crate) fn for_new_file(&self) -> State {
        let failed = self.failed.apart();
        State { sequence: 0, durable: 1, newest: 0, failed, ..self.clone() }
    }

    /// Writes the values into the slot that may be overwritten.
    pub(crate) fn store(&mut self, owner: &mut Owner) {
        // A forged sequence at the end of its range must not stop the program.
        self.sequence = self.sequence.saturating_add(1);
        self.newest = 1 - self.durable;
        let slot = self.slot();
        owner.store_bytes(STATE_AT + STATE_SLOT_OFFSETS[self.newest], slot.as_bytes());
    }

    /// Writes the state page back. The slot stored last is durable then.
    pub(crate) fn sync_page(&mut self, owner: &Owner) -> Result<(), SyncError> {
        self.sync(|| owner.sync_range(STATE_AT, PAGE_SIZE))
    }

    /// Stores the state and writes the state page back.
    pub(crate) fn store_and_sync(&mut self, owner: &mut Owner) -> Result<(), SyncError> {
        self.store(owner);
        self.sync_page(owner)
    }

    /// Runs a write-back that includes the state page.
    pub(crate) fn sync(
        &mut self,
        write_back: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), SyncError> {
        if self.failed.is_set() {
            return Err(SyncError::FailedBefore);
        }
        let result = write_back();
        match result {
            Ok(()) => self.durable = self.newest,
            Err(_) => self.failed.set(),
        }
        result.map_err(SyncError::Failed)
    }

    /// No write-back is to succeed any more.
    pub(crate) fn fail(&mut self) {
        self.failed.set();
    }

    /// What tells others of a failure, and is told of theirs.
    pub(crate) fn failure(&self) -> Failure {
        self.failed.clone()
    }

    fn slot(&self) -> StateSlot {
        let mut slot = StateSlot {
            sequence: U64::new(self.sequence),
            state_checksum: U32::new(0),
            role: U32::new(self.role.code()),
            life: U32::new(self.life.0),
            clean: U32::new(u32::from(self.closed == Closed::Yes)),
            boot_id: self.boot_id,
            watermark: U64::new(self.watermark.0),
            reserved: U64::new(0),
        };
        slot.state_checksum = U32::new(state_checksum(&slot));
        slot
    }
}

fn slot(bytes: &[u8]) -> Option<StateSlot> {
    let (slot, _) = StateSlot::read_from_prefix(bytes).ok()?;
    (slot.state_checksum.get() == state_checksum(&slot)).then_some(slot)
}

/// Id of this boot of the machine, zero where the system does not tell.
/// It stays as it is while this process lives.
pub(crate) fn boot_id() -> [u8; 16] {
    static BOOT_ID: OnceLock<[u8; 16]> = OnceLock::new();
    *BOOT_ID.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        parse_boot_id(&text).unwrap_or_default()
    })
}

fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&hex, 16).ok()?;
    (hex.len() == 32).then_some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use crate::tree::map::Prefault;
    use crate::tree::map::memory_file;
    use crate::tree::map::reserve;

    use super::*;

    const LEN: usize = STATE_AT + PAGE_SIZE;

    fn owner() -> Owner {
        let file = memory_file().unwrap();
        reserve(&file, LEN as u64).unwrap();
        Owner::map_file(&file, LEN, 0..0, Prefault::Write).unwrap()
    }

    fn page(owner: &Owner) -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        owner.copy_out(STATE_AT, &mut page);
        page
    }

    #[test]
    fn the_slot_that_is_durable_is_never_overwritten() {
        let mut owner = owner();
        let mut state = State::new(TreeRole::Replica, Life(4));
        state.store_and_sync(&mut owner).unwrap();
        for watermark in 1..10 {
            state.watermark = Revision(watermark);
            let whole = State::from_page(&page(&owner)).unwrap();
            state.store(&mut owner);
            let durable = page(&owner);
            let durable = slot(&durable[STATE_SLOT_OFFSETS[0]..]).unwrap();
            assert_eq!(durable.watermark.get(), 0, "written again before the next sync");
            let now = State::from_page(&page(&owner)).unwrap();
            assert_eq!(now.watermark, Revision(watermark));
            assert!(now.sequence > whole.sequence);
        }
        state.sync_page(&owner).unwrap();
        state.store(&mut owner);
        assert_eq!(slot(&page(&owner)[STATE_SLOT_OFFSETS[1]..]).unwrap().watermark.get(), 9);
    }

    #[test]
    fn death_after_any_store_leaves_a_state() {
        for stores in 0..8 {
            let mut owner = owner();
            let mut state = State::new(TreeRole::Server, Life(1));
            state.store_and_sync(&mut owner).unwrap();
            state.life = Life(2);
            state.store(&mut owner);
            state.life = Life(3);
            owner.stores_left.set(stores);
            state.store(&mut owner);
            let found = State::from_page(&page(&owner)).unwrap();
            assert!((1..=3).contains(&found.life.0), "{found:?} after {stores} stores");
            // What differs from the slot before lies in the first three words.
            assert_eq!(found.life == Life(3), stores >= 3, "after {stores} stores");
        }
    }

    #[test]
    fn a_failed_write_back_is_not_tried_again() {
        let mut state = State::new(TreeRole::Server, Life(1));
        let failed = state.sync(|| Err(io::ErrorKind::StorageFull.into()));
        assert!(matches!(failed, Err(SyncError::Failed(_))));
        let again = state.sync(|| panic!("tried again"));
        assert!(matches!(again, Err(SyncError::FailedBefore)));
    }

    #[test]
    fn a_boot_id_has_32_digits() {
        let text = "d3c639eb-5301-450b-97cc-8a69396cacac\n";
        assert_eq!(parse_boot_id(text).unwrap()[..4], [0xd3, 0xc6, 0x39, 0xeb]);
        assert_eq!(parse_boot_id("d3c639eb"), None);
        assert_eq!(parse_boot_id(""), None);
    }
}
