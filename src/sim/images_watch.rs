//! What a tree and its logs held at every moment of a history, and what was on the
//! medium for certain.

use core::ops::Range;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;

use crate::sim::images_disk::Disk;
use crate::sim::images_disk::Mood;
use crate::sim::images_disk::Time;
use crate::sim::random::Seeded;
use crate::tree::mishap::Call;
use crate::tree::mishap::watched;
use crate::tree::mishap::watched::Phase;

/// A name that went from one file to another, or to none.
#[derive(Clone, Copy, Debug)]
struct Naming {
    at: Time,
    /// When the folder was on the medium.
    durable: Time,
    file: Option<usize>,
}

/// A growth that is under way: where the new file is before it has its name, and after.
#[derive(Debug)]
struct Growing {
    before: PathBuf,
    after: PathBuf,
    fresh: Option<usize>,
}

/// What a crash left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drawn {
    /// How often the tree had grown before it was what is found.
    pub(super) generation: usize,
    /// Whether the log's name leads to one.
    pub(super) has_log: bool,
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
    /// The tree's file, and those that took its place.
    trees: Vec<Watched>,
    tree_namings: Vec<Naming>,
    logs: Vec<Watched>,
    log_namings: Vec<Naming>,
    growing: Option<Growing>,
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
    /// A bug: a file that a tree grew into is not written back.
    pub(super) grown_not_synced: bool,
    /// A bug: neither is the folder of its name.
    pub(super) growth_not_named: bool,
}

/// A timeline that the watcher of calls shares.
#[derive(Clone, Debug)]
pub(super) struct Shared(Rc<RefCell<Timeline>>);

impl Shared {
    /// A timeline of a tree that is on the medium as it is.
    pub(super) fn new(tree: File) -> io::Result<Shared> {
        let timeline = Timeline {
            now: 0,
            trees: vec![Watched::new(tree)?],
            tree_namings: vec![Naming { at: 0, durable: 0, file: Some(0) }],
            logs: Vec::new(),
            log_namings: vec![Naming { at: 0, durable: 0, file: None }],
            growing: None,
            scratch: Vec::new(),
            begun: 0,
            is_checkpoint: false,
            checkpoint: None,
            tree_not_synced: false,
            log_not_synced: false,
            grown_not_synced: false,
            growth_not_named: false,
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
            timeline.tree().disk.synced(begun, end, &(0..u64::MAX));
        }
    }

    /// Runs the growth of a tree of this name.
    pub(super) fn watch_growth<T>(&self, name: &Path, run: impl FnOnce() -> T) -> T {
        let file_name = name.file_name().expect("a tree has a name").to_string_lossy();
        let before = name.with_file_name(format!(".{file_name}.next"));
        self.0.borrow_mut().growing = Some(Growing { before, after: name.to_owned(), fresh: None });
        let result = self.watch(run);
        let growing = self.0.borrow_mut().growing.take();
        let fresh = growing.and_then(|growing| growing.fresh);
        assert_eq!(fresh, self.0.borrow().named_now(), "a grown tree has its name");
        result
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
        timeline.log_namings.push(Naming { at: durable - 1, durable, file: log });
        Ok(())
    }

    pub(super) fn set_bugs(&self, tree_not_synced: bool, log_not_synced: bool) {
        let mut timeline = self.0.borrow_mut();
        timeline.tree_not_synced = tree_not_synced;
        timeline.log_not_synced = log_not_synced;
    }

    pub(super) fn set_growth_bugs(&self, grown_not_synced: bool, growth_not_named: bool) {
        let mut timeline = self.0.borrow_mut();
        timeline.grown_not_synced = grown_not_synced;
        timeline.growth_not_named = growth_not_named;
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
    ) -> Drawn {
        let timeline = self.0.borrow();
        let generation = named(&timeline.tree_namings, crash, random).unwrap_or_default();
        let mood = Mood::draw(random);
        timeline.trees[generation].disk.draw(crash, mood, random, tree);
        let Some(named) = named(&timeline.log_namings, crash, random) else {
            return Drawn { generation, has_log: false };
        };
        let mood = Mood::draw(random);
        timeline.logs[named].disk.draw(crash, mood, random, log);
        Drawn { generation, has_log: true }
    }
}

impl Timeline {
    fn told(&mut self, call: Call, part: &Range<u64>, phase: Phase) {
        if self.growing.is_some() {
            return self.told_of_growth(call, phase);
        }
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
            let (begun, now) = (self.begun, self.now);
            self.tree().disk.synced(begun, now, part);
        }
    }

    /// All that is written back meanwhile is the new file, and the folder of its name.
    fn told_of_growth(&mut self, call: Call, phase: Phase) {
        if !matches!(call, Call::WriteBack | Call::Folder) {
            return;
        }
        self.look();
        self.look_at_fresh().expect("memory can be read");
        let Some(fresh) = self.growing.as_ref().and_then(|growing| growing.fresh) else { return };
        match (call, phase) {
            (Call::WriteBack, Phase::Begin) => self.begun = self.now,
            (Call::WriteBack, Phase::End) if !self.grown_not_synced => {
                self.trees[fresh].disk.synced(self.begun, self.now, &(0..u64::MAX));
            }
            (Call::Folder, Phase::End) if !self.growth_not_named => {
                let naming = self.tree_namings.last_mut().expect("a tree has a name");
                naming.durable = self.now;
            }
            _ => {}
        }
    }

    /// Notes what the new file holds, and whether it has its name. Its space was reserved:
    /// there are zeros until it is written.
    fn look_at_fresh(&mut self) -> io::Result<()> {
        let Some(Growing { before, after, fresh }) = &mut self.growing else { return Ok(()) };
        let file = match fresh {
            Some(fresh) => &self.trees[*fresh].file,
            None => {
                let file = File::open(&*before).or_else(|_| File::open(&*after))?;
                let disk = Disk::new(vec![0; file.metadata()?.len() as usize]);
                self.trees.push(Watched { file, disk });
                &self.trees[*fresh.insert(self.trees.len() - 1)].file
            }
        };
        let own = file.metadata()?.ino();
        let is_named = after.metadata().is_ok_and(|named| named.ino() == own);
        let naming = Naming { at: self.now, durable: Time::MAX, file: *fresh };
        if is_named && self.named_now() != naming.file {
            self.tree_namings.push(naming);
        }
        if let Some(fresh) = naming.file {
            self.trees[fresh].look(self.now, &mut self.scratch);
        }
        Ok(())
    }

    /// The file that has the tree's name.
    fn named_now(&self) -> Option<usize> {
        self.tree_namings.last().and_then(|naming| naming.file)
    }

    fn tree(&mut self) -> &mut Watched {
        let named = self.named_now().expect("a tree has a file");
        &mut self.trees[named]
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
        let (now, mut scratch) = (self.now, core::mem::take(&mut self.scratch));
        self.tree().look(now, &mut scratch);
        self.scratch = scratch;
        if let Some(log) = self.current() {
            self.logs[log].look(self.now, &mut self.scratch);
        }
    }

    fn current(&self) -> Option<usize> {
        self.log_namings.last().and_then(|naming| naming.file)
    }
}

/// The file that a name leads to after a crash.
fn named(namings: &[Naming], crash: Time, random: &mut Seeded) -> Option<usize> {
    let count = namings.partition_point(|naming| naming.at <= crash);
    let (last, before) = namings[..count].split_last()?;
    match before.last() {
        Some(before) if last.durable > crash && random.chance(0.5) => before.file,
        _ => last.file,
    }
}
