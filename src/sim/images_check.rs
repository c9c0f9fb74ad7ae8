//! An image of a crash is opened by the real recovery, and what it gives is held
//! against what was staged and acknowledged.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::layout::DataLocId;
use crate::layout::Life;
use crate::layout::Revision;
use crate::sim::images::ImageBug;
use crate::sim::images_disk::Time;
use crate::sim::images_history::Change;
use crate::sim::images_history::Fault;
use crate::sim::images_history::History;
use crate::sim::images_history::UNIX_S;
use crate::sim::images_watch::Shared;
use crate::sim::random::Seeded;
use crate::tree::Replay;
use crate::tree::Tree;
use crate::tree::leaf_checksum;
use crate::tree::sim_seam;

/// Crashes of one recovery after the other.
const DEPTH_MAX: u32 = 3;

/// A crash that harmed nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Survived {
    /// How often power failed.
    pub(super) crashes: u32,
    /// Whether a recovery found in the log what the tree lacked.
    pub(super) has_replayed: bool,
    /// Whether the tree was growing when it failed first.
    pub(super) was_growing: bool,
}

/// Where images are laid out: a tree and a log in memory, used again and again.
pub(super) struct Bench {
    tree: File,
    log: File,
    tree_bytes: Vec<u8>,
    log_bytes: Vec<u8>,
    has_log: bool,
    has_replayed: bool,
    bug: Option<ImageBug>,
}

impl Bench {
    pub(super) fn new(bug: Option<ImageBug>) -> io::Result<Bench> {
        Ok(Bench {
            tree: sim_seam::memory_file()?,
            log: sim_seam::memory_file()?,
            tree_bytes: Vec::new(),
            log_bytes: Vec::new(),
            has_log: false,
            has_replayed: false,
            bug,
        })
    }

    /// Draws a crash of a history and recovers from it, crashing on the way now and
    /// then.
    pub(super) fn crash(
        &mut self,
        history: &History,
        random: &mut Seeded,
    ) -> Result<Survived, Fault> {
        self.has_replayed = false;
        let crash = history.moment(random);
        let was_growing = history.growths.iter().any(|growth| growth.contains(&crash));
        let (tree, log) = (&mut self.tree_bytes, &mut self.log_bytes);
        let drawn = history.timeline.draw(crash, random, tree, log);
        self.has_log = drawn.has_log;
        let mut known = Known::at(history, crash, &history.generations[drawn.generation]);
        for depth in 1..=DEPTH_MAX {
            self.lay_out()?;
            if depth == DEPTH_MAX || random.chance(0.5) {
                known.check(&self.recover()?)?;
                let has_replayed = self.has_replayed;
                return Ok(Survived { crashes: depth, has_replayed, was_growing });
            }
            self.crash_again(&mut known, random)?;
        }
        unreachable!("the last depth returns")
    }

    fn lay_out(&self) -> io::Result<()> {
        for (file, bytes) in [(&self.tree, &self.tree_bytes), (&self.log, &self.log_bytes)] {
            file.set_len(bytes.len() as u64)?;
            file.write_all_at(bytes, 0)?;
        }
        Ok(())
    }

    fn recover(&mut self) -> Result<Tree, Fault> {
        let log = self.has_log.then_some(&self.log);
        let (tree, recovery) = sim_seam::recover(&self.tree, log, UNIX_S)?;
        self.has_replayed |= matches!(recovery.redo, Replay::Done { leaves: 1.., .. });
        Ok(tree)
    }

    /// Power fails while this recovery runs, or after it while the next life begins.
    fn crash_again(&mut self, known: &mut Known<'_>, random: &mut Seeded) -> Result<(), Fault> {
        let timeline = Shared::new(self.tree.try_clone()?)?;
        timeline.set_bugs(self.bug == Some(ImageBug::ReplayNotSynced), false);
        let mut tree = timeline.watch(|| self.recover())?;
        let recovered = timeline.now();
        known.check(&tree)?;
        timeline.watch(|| tree.begin_life(UNIX_S))?;
        let begun = timeline.now();
        let crash = random.between(0, u64::from(begun)) as Time;
        if crash >= recovered {
            known.show(&tree);
            // It was removed; that a name comes back must harm nothing either.
            self.has_log &= random.chance(0.5);
        }
        if crash == begun {
            known.life = tree.life();
        }
        drop(tree);
        let mut none = Vec::new();
        timeline.draw(crash, random, &mut self.tree_bytes, &mut none);
        Ok(())
    }
}

/// What a tree must hold after a crash.
struct Known<'a> {
    history: &'a History,
    crash: Time,
    /// Which of all leaves those of the tree are.
    places: &'a [usize],
    /// By place: the oldest revision that may be held.
    least: Vec<Revision>,
    /// A life that was in use.
    life: Life,
}

impl Known<'_> {
    fn at<'a>(history: &'a History, crash: Time, places: &'a [usize]) -> Known<'a> {
        let is_old = |change: &&Change| change.acknowledged.is_some_and(|time| time <= crash);
        let newest = |changes: &Vec<Change>| {
            let acknowledged = changes.iter().filter(is_old);
            acknowledged.map(|change| change.revision).max().unwrap_or_default()
        };
        let lives = history.lives.iter().filter(|(since, _)| *since <= crash);
        Known {
            history,
            crash,
            places,
            least: history.changes.iter().map(newest).collect(),
            life: lives.map(|(_, life)| *life).max().unwrap_or_default(),
        }
    }

    /// What a recovery that ended gave was shown to others.
    fn show(&mut self, tree: &Tree) {
        for (leaf, place) in (0..).zip(self.places) {
            self.least[*place] = tree.revision(DataLocId(leaf));
        }
    }

    fn check(&self, tree: &Tree) -> Result<(), Fault> {
        if tree.life() < self.life {
            return Err(format!("life {} after life {}", tree.life(), self.life).into());
        }
        let leaves = tree.layout().leaf_count() as usize;
        if leaves != self.places.len() {
            return Err(format!("{leaves} leaves of {}", self.places.len()).into());
        }
        // Places are given in the order in which leaves come in.
        let beyond = self.least.get(leaves..).unwrap_or_default();
        if let Some(lost) = beyond.iter().find(|least| **least > Revision::ZERO) {
            return Err(format!("a leaf is gone after its revision {lost}").into());
        }
        let mut data = Vec::new();
        for (leaf, place) in (0..).zip(self.places) {
            let changes = &self.history.changes[*place];
            let head = tree.read(DataLocId(leaf), &mut data).ok_or("a leaf is gone")?;
            let revision = Revision(head.revision.get());
            let least = self.least[*place];
            if revision < least {
                let text = format!("leaf {leaf}: revision {revision} after {least}");
                return Err(text.into());
            }
            let is_whole = match changes.iter().find(|change| change.revision == revision) {
                Some(change) => change.staged <= self.crash && change.data() == data,
                None => revision == Revision::ZERO && data.is_empty(),
            };
            if !is_whole || leaf_checksum(&head, &data) != head.checksum.get() {
                return Err(format!("leaf {leaf}: Data of no change, revision {revision}").into());
            }
            if tree.revision(DataLocId(leaf)) != revision {
                return Err(format!("leaf {leaf}: its column is not its record").into());
            }
        }
        Ok(())
    }
}
