//! A checkpoint: the tree's data are written back by another thread than its owner's,
//! so that a half of the redo log can be used again.

use std::fs::File;
use std::sync::Arc;

use crate::tree::loss::FileLoss;
use crate::tree::loss::check_loss;
use crate::tree::map::Map;
use crate::tree::mapped::Tree;
use crate::tree::mishap::Call;
use crate::tree::mishap::perform;
use crate::tree::redo_log::Freed;
use crate::tree::redo_log::Left;
use crate::tree::state::Failure;
use crate::tree::state::SyncError;

/// A write-back of a tree in which every batch of a half of its log is stored.
#[derive(Debug)]
pub struct Checkpoint {
    file: Arc<File>,
    map: Arc<Map>,
    failed: Failure,
    left: Left,
}

impl Tree {
    /// The checkpoint that frees a half of this tree's log. None as long as a batch of
    /// that half is not stored, or if it is a half of another log.
    pub fn checkpoint(&self, left: Left) -> Option<Checkpoint> {
        let redo = self.redo.as_ref()?;
        let is_due = redo.log == left.log && redo.stored >= left.last;
        is_due.then(|| Checkpoint {
            file: Arc::clone(self.file.shared()),
            map: Arc::clone(self.owner.map()),
            failed: self.state.failure(),
            left,
        })
    }
}

impl Checkpoint {
    /// Writes the tree back and waits for that; its owner may store meanwhile. What was
    /// stored before is on the medium then.
    ///
    /// # Errors
    ///
    /// A failed write-back, now or earlier, or a file that was cut: the process should
    /// stop. The tree is never closed as in good order then, and its log takes nothing
    /// any more.
    pub fn run(self) -> Result<Freed, SyncError> {
        if self.failed.is_set() {
            return Err(SyncError::FailedBefore);
        }
        let written = perform(Call::WriteBack, || self.file.sync_data());
        written.map_err(|source| self.fail(SyncError::Failed(source)))?;
        self.check().map_err(|loss| self.fail(SyncError::Lost(loss)))?;
        Ok(Freed(self.left))
    }

    fn check(&self) -> Result<(), FileLoss> {
        check_loss(&self.file, &self.map)
    }

    fn fail(&self, error: SyncError) -> SyncError {
        self.failed.set();
        error
    }
}

const fn is_send<T: Send>() {}
const _: () = is_send::<Checkpoint>();
