//! What a tree and its logs held at every moment of a history, and what was on the
//! medium for certain.

use core::ops::Range;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use crate::sim::images_disk::Disk;
use crate::sim::images_disk::Mood;
use crate::sim::images_disk::Time;
use crate::sim::random::Seeded;
use crate::tree::mishap::Call;
use crate::tree::mishap::watched;
use crate::tree::mishap::watched::Phase;

/// A name that went from one log to another, or to none.
#[derive(Clone, Copy, Debug)]
struct Naming {
    at: Time,
    /// When the folder was on the medium.
    durable: Time,
    log: Option<usize>,
}

/// A file and what it held.
#[derive(Debug)]
struct Watched {
    file: File,
    disk: Disk,
}

impl Watched {
    fn new(file: File) -> io::Result<Watched> {
        let mut base = vec![0; file.metadata()?.len() as usize];
        file.read_exact_at(&mut base, 0)?;
        Ok(Watched { file, disk: Disk::new(base) })
    }

    fn look(&mut self, time: Time, scratch: &mut Vec<u8>) {
        scratch.resize(self.disk.len(), 0);
        self.file.read_exact_at(scratch, 0).expect("memory can be read");
        self.disk.look(time, scratch);
    }
}

/// A history in the making, and then the source of images.
#[derive(Debug)]
pub(super) struct Timeline {
    now: Time,
    tree: Watched,
    logs: Vec<Watched>,
    namings: Vec<Naming>,
    scratch: Vec<u8>,
    begun: Time,
    /// Whether a write-back of the tree is a checkpoint, which returns later.
    is_checkpoint: bool,
    /// When the checkpoint that is under way began.
    checkpoint: Option<Time>,
    /// A bug: write-backs of the whole tree write nothing back.
    pub(super) tree_not_synced: bool,
    /// A bug: write-backs of the log write nothing back.
    pub(super) log_not_synced: bool,
}

/// A timeline that the watcher of calls shares.
#[derive(Clone, Debug)]
pub(super) struct Shared(Rc<RefCell<Timeline>>);

impl Shared {
    /// A timeline of a tree that is on the medium as it is.
    pub(super) fn new(tree: File) -> io::Result<Shared> {
        let timeline = Timeline {
            now: 0,
            tree: Watched::new(tree)?,
            logs: Vec::new(),
            namings: vec![Naming { at: 0, durable: 0, log: None }],
            scratch: Vec::new(),
            begun: 0,
            is_checkpoint: false,
            checkpoint: None,
            tree_not_synced: false,
            log_not_synced: false,
        };
        Ok(Shared(Rc::new(RefCell::new(timeline))))
    }

    /// Runs code whose write-backs belong to this history.
    pub(super) fn watch<T>(&self, run: impl FnOnce() -> T) -> T {
        let told = Rc::clone(&self.0);
        let watcher =
            move |call, part: &Range<u64>, phase| told.borrow_mut().told(call, part, phase);
        let result = watched::watch(Box::new(watcher), run);
        self.0.borrow_mut().look();
        result
    }

    /// The same for a checkpoint, which returns when [`Shared::checkpoint_returns`] says.
    pub(super) fn watch_checkpoint<T>(&self, run: impl FnOnce() -> T) -> T {
        self.0.borrow_mut().is_checkpoint = true;
        let result = self.watch(run);
        self.0.borrow_mut().is_checkpoint = false;
        result
    }

    /// The checkpoint that is under way has written back what was there when it began.
    pub(super) fn checkpoint_returns(&self) {
        let mut timeline = self.0.borrow_mut();
        if let Some(begun) = timeline.checkpoint.take() {
            timeline.now += 1;
            let end = timeline.now;
            timeline.tree.disk.synced(begun, end, &(0..u64::MAX));
        }
    }

    /// The owner is dead, and with it the thread of its checkpoint.
    pub(super) fn checkpoint_dies(&self) {
        self.0.borrow_mut().checkpoint = None;
    }

    /// Gives the log's name to another log, or to none. The folder is written back a
    /// moment later.
    pub(super) fn name(&self, log: Option<File>) -> io::Result<()> {
        let mut timeline = self.0.borrow_mut();
        let log = log.map(Watched::new).transpose()?.map(|mut log| {
            // Its pages are whole batches, so it asks nothing of a page in flight.
            log.disk = log.disk.with_noise();
            timeline.logs.push(log);
            timeline.logs.len() - 1
        });
        timeline.now += 2;
        let durable = timeline.now;
        timeline.namings.push(Naming { at: durable - 1, durable, log });
        Ok(())
    }

    pub(super) fn set_bugs(&self, tree_not_synced: bool, log_not_synced: bool) {
        let mut timeline = self.0.borrow_mut();
        timeline.tree_not_synced = tree_not_synced;
        timeline.log_not_synced = log_not_synced;
    }

    pub(super) fn now(&self) -> Time {
        self.0.borrow().now
    }

    /// Draws what a crash leaves: the tree into `tree`, and the log into `log`, if its
    /// name leads to one.
    pub(super) fn draw(
        &self,
        crash: Time,
        random: &mut Seeded,
        tree: &mut Vec<u8>,
        log: &mut Vec<u8>,
    ) -> bool {
        let timeline = self.0.borrow();
        let mood = Mood::draw(random);
        timeline.tree.disk.draw(crash, mood, random, tree);
        let Some(named) = timeline.named(crash, random) else { return false };
        let mood = Mood::draw(random);
        timeline.logs[named].disk.draw(crash, mood, random, log);
        true
    }
}

impl Timeline {
    fn told(&mut self, call: Call, part: &Range<u64>, phase: Phase) {
        match (call, phase) {
            (Call::WriteBack | Call::LogBack, Phase::Begin) | (Call::LogWrite, Phase::End) => {
                self.look();
                self.begun = self.now;
            }
            (Call::WriteBack, Phase::End) => self.tree_synced(part),
            (Call::LogBack, Phase::End) => self.log_synced(),
            _ => {}
        }
    }

    fn tree_synced(&mut self, part: &Range<u64>) {
        self.now += 1;
        if self.is_checkpoint {
            self.checkpoint = Some(self.begun);
        } else if !(self.tree_not_synced && part.end == u64::MAX) {
            self.tree.disk.synced(self.begun, self.now, part);
        }
    }

    fn log_synced(&mut self) {
        self.now += 1;
        if let Some(log) = self.current()
            && !self.log_not_synced
        {
            let (begun, now) = (self.begun, self.now);
            self.logs[log].disk.synced(begun, now, &(0..u64::MAX));
        }
    }

    /// Notes what the files hold now.
    fn look(&mut self) {
        self.now += 1;
        self.tree.look(self.now, &mut self.scratch);
        if let Some(log) = self.current() {
            self.logs[log].look(self.now, &mut self.scratch);
        }
    }

    fn current(&self) -> Option<usize> {
        self.namings.last().and_then(|naming| naming.log)
    }

    /// The log that the name leads to after a crash.
    fn named(&self, crash: Time, random: &mut Seeded) -> Option<usize> {
        let count = self.namings.partition_point(|naming| naming.at <= crash);
        let (last, before) = self.namings[..count].split_last()?;
        match before.last() {
            Some(before) if last.durable > crash && random.chance(0.5) => before.log,
            _ => last.log,
        }
    }
}
