//! Group commits of a server that is to survive power loss.
//!
//! The loop stages what devices report. A thread of its own appends one batch after
//! another to the redo log, each with one write and one write-back; the next is gathered
//! meanwhile, so that a commit carries all that came during the one before. When a batch
//! is durable the loop stores it in the tree, and only then acknowledges it. When half
//! of the log is full another thread writes the tree back, while commits go on in the
//! other half. Both threads stand from the begin: a loop that is warm starts nothing
//! and allocates nothing.
//!
//! Nothing that failed is tried again: the server ends, and the next one recovers what
//! is durable.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::thread::JoinHandle;

use crate::runtime::adapter::TreeLeaves;
use crate::runtime::control::Stop;
use crate::runtime::error::LoopError;
use crate::runtime::metrics::Counters;
use crate::runtime::server_loop::ServingSide;
use crate::sync::CommitId;
use crate::tree::Checkpoint;
use crate::tree::Freed;
use crate::tree::Left;
use crate::tree::RedoBatch;
use crate::tree::RedoError;
use crate::tree::RedoLog;
use crate::tree::SyncError;
use crate::tree::Tree;

/// Bytes of a batch in the log, at most: some 4,000 leaves of 200 bytes. What comes
/// while it is full is not taken, and comes again.
const BATCH_LEN: usize = 1 << 20;

/// What the head of a batch takes of that, in whole pages.
const BATCH_HEAD: usize = 4096;

/// Length of half a log: 60,000 leaves of 200 bytes between two checkpoints. A small
/// tree has a small one, which is less to wait for when it begins.
const HALF_LEN_MAX: u64 = 16 << 20;

/// What the committing thread is told.
enum Job {
    Append(RedoBatch),
    Checkpointed(Result<Freed, SyncError>),
}

/// A batch that was appended, or not.
struct Done {
    batch: RedoBatch,
    outcome: Result<Option<Left>, RedoError>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    commits: u64,
    leaves: u64,
    bytes: u64,
    checkpoints: u64,
}

/// The loop's end of the committing thread.
pub(super) struct Commits {
    path: PathBuf,
    /// The batch that is not being gathered, unless its commit is under way.
    spare: Option<RedoBatch>,
    /// The commit of the batch that is, or was last, under way.
    last: CommitId,
    jobs: SyncSender<Job>,
    done: Receiver<Done>,
    committer: JoinHandle<()>,
    checkpoints: SyncSender<Checkpoint>,
    checkpointer: JoinHandle<()>,
    counts: Counts,
}

impl Commits {
    /// Makes the log of this life and begins to stage. `waker` wakes the loop when a
    /// commit is done.
    pub(super) fn start(tree: &mut TreeLeaves, waker: Stop) -> Result<Commits, LoopError> {
        let path = tree.tree().path().map(Into::into).unwrap_or_default();
        let half_len = half_len(tree.tree());
        let log = RedoLog::create(tree.tree_mut(), half_len)
            .map_err(|source| LoopError::Redo { path: PathBuf::clone(&path), source })?;
        // As many as can wait: one batch, and the end of one checkpoint.
        let (jobs, to_do) = sync_channel(2);
        let (tell, done) = sync_channel(1);
        // One at most is under way.
        let (checkpoints, to_write_back) = sync_channel(1);
        let committer = spawn("mapleaf-commit", move || commit_all(log, &to_do, &tell, &waker))?;
        let freed = jobs.clone();
        let checkpointer =
            spawn("mapleaf-checkpoint", move || checkpoint_all(&to_write_back, &freed))?;
        let batch = || RedoBatch::with_capacity(BATCH_LEN - BATCH_HEAD);
        let last = tree.begin_staging(batch());
        let spare = Some(batch());
        let counts = Counts::default();
        Ok(Commits { path, spare, last, jobs, done, committer, checkpoints, checkpointer, counts })
    }

    /// Stores and acknowledges what has become durable, and sends on what was staged
    /// meanwhile. Called in every turn.
    pub(super) fn turn(
        &mut self,
        side: &mut ServingSide,
        tree: &mut TreeLeaves,
    ) -> Result<(), LoopError> {
        while let Ok(done) = self.done.try_recv() {
            self.store(done, side, tree)?;
        }
        self.submit(tree);
        Ok(())
    }

    /// Waits until everything staged is durable, stored and acknowledged.
    pub(super) fn settle(
        &mut self,
        side: &mut ServingSide,
        tree: &mut TreeLeaves,
    ) -> Result<(), LoopError> {
        self.submit(tree);
        while self.spare.is_none() {
            let Ok(done) = self.done.recv() else { return Err(self.failed()) };
            self.store(done, side, tree)?;
            self.submit(tree);
        }
        Ok(())
    }

    /// Ends the threads. What is staged stays unacknowledged.
    pub(super) fn end(self, tree: &mut TreeLeaves) {
        tree.end_staging();
        // A thread that panicked has said so.
        drop(self.checkpoints);
        let _ = self.checkpointer.join();
        drop((self.jobs, self.done));
        let _ = self.committer.join();
    }

    /// Adds what it counts.
    pub(super) fn count(&self, counters: &mut Counters) {
        let Counts { commits, leaves, bytes, checkpoints } = self.counts;
        let entries = [
            ("commits", "Group commits: one write and one write-back each.", commits),
            ("leaves", "Leaves made durable by them.", leaves),
            ("bytes", "Bytes written to the redo log.", bytes),
            ("checkpoints", "Checkpoints begun: the tree is written back.", checkpoints),
        ];
        counters.add("redo", entries.into_iter());
    }

    fn submit(&mut self, tree: &mut TreeLeaves) {
        if tree.is_staged_empty() {
            return;
        }
        let Some(spare) = self.spare.take() else { return };
        let (batch, commit) = tree.take_staged(spare);
        self.last = commit;
        // A thread that has ended shows at the next `settle`, or by its last word.
        let _ = self.jobs.send(Job::Append(batch));
    }

    fn store(
        &mut self,
        done: Done,
        side: &mut ServingSide,
        tree: &mut TreeLeaves,
    ) -> Result<(), LoopError> {
        let Done { mut batch, outcome } = done;
        let path = || PathBuf::clone(&self.path);
        let left = outcome.map_err(|source| LoopError::Redo { path: path(), source })?;
        let stored = tree.tree_mut().store_batch(&batch);
        stored.map_err(|source| LoopError::Store { path: path(), source })?;
        self.counts.commits += 1;
        self.counts.leaves += u64::from(batch.leaves());
        self.counts.bytes += batch.bytes() as u64;
        batch.clear();
        self.spare = Some(batch);
        if let Some(left) = left {
            self.checkpoint(left, tree.tree());
        }
        side.committed(self.last, tree);
        Ok(())
    }

    /// Begins to write the tree back, so that a half of the log can be used again. The
    /// one before is over: its half was turned to only then.
    fn checkpoint(&mut self, left: Left, tree: &Tree) {
        let Some(checkpoint) = tree.checkpoint(left) else {
            unreachable!("every batch before the one just stored is stored");
        };
        // A thread that has ended shows by a log that gets no room.
        let _ = self.checkpoints.send(checkpoint);
        self.counts.checkpoints += 1;
    }

    fn failed(&self) -> LoopError {
        LoopError::Redo { path: PathBuf::clone(&self.path), source: RedoError::FailedBefore }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LoopError> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(LoopError::system("start a thread"))
}

/// Half a log: as much as the tree, within limits.
fn half_len(tree: &Tree) -> u64 {
    let pages = tree.layout().file_len().next_multiple_of(4096);
    pages.clamp(BATCH_LEN as u64, HALF_LEN_MAX)
}

/// The committing thread: ends when the loop has gone, or a write-back has failed.
fn commit_all(mut log: RedoLog, jobs: &Receiver<Job>, tell: &SyncSender<Done>, waker: &Stop) {
    while let Ok(job) = jobs.recv() {
        let done = match job {
            Job::Append(mut batch) => {
                let outcome = append(&mut log, &mut batch, jobs);
                Done { batch, outcome }
            }
            Job::Checkpointed(Ok(freed)) => {
                log.mark_free(freed);
                continue;
            }
            Job::Checkpointed(Err(error)) => {
                Done { batch: RedoBatch::with_capacity(0), outcome: Err(RedoError::Sync(error)) }
            }
        };
        let has_failed = done.outcome.is_err();
        if tell.send(done).is_err() || has_failed {
            waker.wake();
            return;
        }
        waker.wake();
    }
}

/// The thread that writes the tree back: ends when the loop has gone.
fn checkpoint_all(checkpoints: &Receiver<Checkpoint>, jobs: &SyncSender<Job>) {
    while let Ok(checkpoint) = checkpoints.recv() {
        let _ = jobs.send(Job::Checkpointed(checkpoint.run()));
    }
}

/// Appends a batch, after the checkpoint that it may have to wait for.
fn append(
    log: &mut RedoLog,
    batch: &mut RedoBatch,
    jobs: &Receiver<Job>,
) -> Result<Option<Left>, RedoError> {
    while !log.room(batch) {
        // The loop sends no batch while one is under way.
        match jobs.recv() {
            Ok(Job::Checkpointed(freed)) => {
                log.mark_free(freed.map_err(RedoError::Sync)?);
            }
            Ok(Job::Append(_)) | Err(_) => return Err(RedoError::Busy),
        }
    }
    log.append(batch).map(|appended| appended.left)
}
