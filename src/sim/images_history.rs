//! A server in power mode, driven step by step: what it staged, what it acknowledged,
//! and what its files held all the while.

use core::ops::Range;
use std::collections::VecDeque;
use std::fs::File;

use crate::layout::DataLocId;
use crate::layout::Life;
use crate::layout::RedoBatchHead;
use crate::layout::Revision;
use crate::layout::TreeId;
use crate::layout::TreeRole;
use crate::sim::images::ImageBug;
use crate::sim::images_disk::Time;
use crate::sim::images_growth::Growing;
use crate::sim::images_growth::Shape;
use crate::sim::images_watch::Shared;
use crate::sim::random::Seeded;
use crate::tree::CreateOptions;
use crate::tree::Freed;
use crate::tree::Left;
use crate::tree::RedoBatch;
use crate::tree::RedoError;
use crate::tree::RedoLog;
use crate::tree::StageError;
use crate::tree::Tree;
use crate::tree::sim_seam;

/// Any error of the real code: it ends a history as a failure.
pub(super) type Fault = Box<dyn std::error::Error>;

/// The clock of a history: it stands still.
pub(super) const UNIX_S: u64 = Life::EPOCH_UNIX_S + 1_000;

/// Batches that are durable and wait to be stored: the length of the pipeline.
const COMMITTED_MAX: usize = 3;

/// One change of a leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) revision: Revision,
    pub(super) staged: Time,
    /// None as long as it is not acknowledged.
    pub(super) acknowledged: Option<Time>,
    pub(super) data_size: usize,
}

impl Change {
    /// The Data of this change: nothing else has it.
    pub(super) fn data(&self) -> Vec<u8> {
        data_of(self.revision, self.data_size)
    }
}

fn data_of(revision: Revision, data_size: usize) -> Vec<u8> {
    let mut random = Seeded::new(revision.0);
    let words =
        (0..data_size.div_ceil(8)).flat_map(|_| random.between(0, u64::MAX - 1).to_le_bytes());
    words.take(data_size).collect()
}

/// What is known of a history when it is over.
#[derive(Debug)]
pub(super) struct History {
    pub(super) timeline: Shared,
    /// By place: leaves in the order in which they came in.
    pub(super) changes: Vec<Vec<Change>>,
    /// For the tree as it was at first, and after each growth: the places of its leaves.
    pub(super) generations: Vec<Vec<usize>>,
    /// When it was growing, until there was a log for it again.
    pub(super) growths: Vec<Range<Time>>,
    /// Since when a life was in use.
    pub(super) lives: Vec<(Time, Life)>,
    /// The first moment at which power may fail.
    pub(super) start: Time,
}

impl History {
    /// A moment at which power fails. What a growth does is short, and is drawn more often.
    pub(super) fn moment(&self, random: &mut Seeded) -> Time {
        let all = u64::from(self.start)..=u64::from(self.timeline.now());
        let within = match self.growths.len() {
            0 => all,
            _ if random.chance(0.7) => all,
            count => {
                let growth = &self.growths[random.index(count)];
                u64::from(growth.start)..=u64::from(growth.end)
            }
        };
        random.between(*within.start(), *within.end()) as Time
    }
}

/// The server while it runs.
pub(super) struct Server {
    pub(super) tree: Option<Tree>,
    pub(super) file: File,
    log: RedoLog,
    log_file: File,
    pub(super) staged: VecDeque<RedoBatch>,
    pub(super) committed: VecDeque<RedoBatch>,
    pub(super) left: Option<Left>,
    pub(super) freed: Option<Freed>,
    random: Seeded,
    /// How the tree grows, in the histories in which it does.
    pub(super) growing: Option<Growing>,
    half_len: u64,
    /// One leaf gets so much of all changes, of eight.
    hot: u64,
    bug: Option<ImageBug>,
    /// What was staged up to here and is not acknowledged never will be.
    buried: Revision,
    pub(super) history: History,
}

impl History {
    /// Runs the history of a seed.
    pub(super) fn run(seed: u64, bug: Option<ImageBug>) -> Result<History, Fault> {
        let mut server = Server::start(Seeded::new(seed), Growing::draw(seed, bug)?, bug)?;
        for _ in 0..server.random.between(10, 60) {
            server.grow_now_and_then()?;
            server.step()?;
        }
        Ok(server.history)
    }
}

impl Server {
    fn start(
        mut random: Seeded,
        mut growing: Option<Growing>,
        bug: Option<ImageBug>,
    ) -> Result<Server, Fault> {
        let shape = Shape::draw(&mut random);
        let layout = shape.layout();
        if let Some(growing) = &mut growing {
            growing.shape = shape;
        }
        let leaves = layout.leaf_count();
        let (role, tree_id) = (TreeRole::Server, TreeId(7));
        let options = CreateOptions { role, tree_id, life: Life(0), unix_s: UNIX_S };
        let mut tree = Tree::create_unnamed(layout, options)?;
        let file = sim_seam::file_of(&tree)?;
        tree.begin_life(UNIX_S)?;
        let mut changes = vec![Vec::new(); leaves as usize];
        for leaf in (0..leaves).filter(|_| random.chance(0.7)).collect::<Vec<_>>() {
            let change = first_change(&mut tree, leaf, &mut random)?;
            changes[leaf as usize].push(change);
        }
        tree.sync()?;
        let half_len = 4_096 * random.between(1, 3);
        let timeline = Shared::new(sim_seam::file_of(&tree)?)?;
        let (log, log_file) = timeline.watch(|| sim_seam::create_log(&mut tree, half_len))?;
        timeline.name(Some(log_file.try_clone()?))?;
        timeline.set_bugs(false, bug == Some(ImageBug::LogNotSynced));
        let (not_synced, not_named) = (ImageBug::GrownNotSynced, ImageBug::GrowthNotNamed);
        timeline.set_growth_bugs(bug == Some(not_synced), bug == Some(not_named));
        let (start, life) = (timeline.now(), tree.life());
        let history = History {
            timeline,
            generations: vec![(0..changes.len()).collect()],
            growths: Vec::new(),
            changes,
            lives: vec![(start, life)],
            start,
        };
        Ok(Server {
            tree: Some(tree),
            file,
            log,
            log_file,
            staged: VecDeque::new(),
            committed: VecDeque::new(),
            left: None,
            freed: None,
            hot: random.between(0, 6),
            random,
            growing,
            half_len,
            bug,
            buried: Revision::ZERO,
            history,
        })
    }

    fn step(&mut self) -> Result<(), Fault> {
        match self.random.between(0, 99) {
            0..25 => self.stage(),
            25..55 => self.commit(),
            55..78 => self.store(),
            78..86 => self.begin_checkpoint(),
            86..94 => self.end_checkpoint(),
            94..98 => self.take_changes(),
            _ => self.end(),
        }
    }

    /// Stages a batch of some leaves, or goes on with the last one.
    fn stage(&mut self) -> Result<(), Fault> {
        if self.staged.len() >= 2 {
            return Ok(());
        }
        // Of one page, or as long as a half: the latter are torn in more ways.
        let most = self.half_len as usize - size_of::<RedoBatchHead>();
        let mut batch = RedoBatch::with_capacity(self.random.pick(&[3_900, most]));
        let most = self.random.pick(&[4, 30]);
        for _ in 0..self.random.between(1, most) {
            let leaf = self.leaf();
            let capacity = self.capacity(leaf);
            let data_size = self.random.index(capacity + 1);
            let time = self.history.timeline.now();
            // The revision decides the Data: it is the next one.
            let revision = self.next_revision();
            let data = data_of(revision, data_size);
            match self.tree().stage(leaf, &data, &mut batch) {
                Err(StageError::Full { .. }) => break,
                given => assert_eq!(given?, revision, "revisions count up"),
            }
            let acknowledged = (self.bug == Some(ImageBug::AcknowledgedFirst)).then_some(time);
            let change = Change { revision, staged: time, acknowledged, data_size };
            let place = self.places()[leaf.index()];
            self.history.changes[place].push(change);
        }
        if self.bug == Some(ImageBug::StoredFirst) {
            let timeline = self.history.timeline.clone();
            timeline.watch(|| sim_seam::store_early(self.tree(), &batch))?;
        }
        self.staged.push_back(batch);
        Ok(())
    }

    /// The places of the tree's leaves.
    pub(super) fn places(&self) -> &[usize] {
        self.history.generations.last().expect("there is the tree of the begin")
    }

    pub(super) fn tree(&mut self) -> &mut Tree {
        self.tree.as_mut().expect("a server has a tree, but while it dies")
    }

    fn leaf(&mut self) -> DataLocId {
        let is_hot = self.random.between(1, 8) <= self.hot;
        let leaves = self.history.changes.len();
        DataLocId(if is_hot { 0 } else { self.random.index(leaves) as u32 })
    }

    fn capacity(&mut self, leaf: DataLocId) -> usize {
        let parent = self.tree().layout().parent_of(leaf).expect("the leaf is there");
        parent.capacity.get() as usize
    }

    fn newest_staged(&self) -> Revision {
        let all = self.history.changes.iter().flatten();
        all.map(|change| change.revision).max().unwrap_or_default()
    }

    fn next_revision(&mut self) -> Revision {
        self.newest_staged().max(self.tree().newest_revision()).next()
    }

    pub(super) fn commit(&mut self) -> Result<(), Fault> {
        if self.committed.len() >= COMMITTED_MAX {
            return Ok(());
        }
        let Some(mut batch) = self.staged.pop_front() else { return Ok(()) };
        let Server { log, history, .. } = self;
        match history.timeline.watch(|| log.append(&mut batch)) {
            Err(RedoError::Busy) => {
                self.staged.push_front(batch);
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(appended) => {
                if let Some(left) = appended.left {
                    self.leave(left);
                }
                self.committed.push_back(batch);
                Ok(())
            }
        }
    }

    fn leave(&mut self, left: Left) {
        self.left = Some(left);
        if self.bug == Some(ImageBug::HalfReusedEarly) {
            self.log.mark_free(sim_seam::free_unproven(left));
        }
    }

    pub(super) fn store(&mut self) -> Result<(), Fault> {
        let Some(batch) = self.committed.pop_front() else { return Ok(()) };
        let timeline = self.history.timeline.clone();
        if self.bug != Some(ImageBug::StoredFirst) {
            timeline.watch(|| self.tree().store_batch(&batch))?;
        }
        let (now, buried) = (timeline.now(), self.buried);
        for change in self.history.changes.iter_mut().flatten() {
            if change.revision <= batch.newest() && change.revision > buried {
                change.acknowledged.get_or_insert(now);
            }
        }
        Ok(())
    }

    pub(super) fn begin_checkpoint(&mut self) -> Result<(), Fault> {
        let Some(left) = self.left.filter(|_| self.freed.is_none()) else { return Ok(()) };
        let Some(checkpoint) = self.tree().checkpoint(left) else { return Ok(()) };
        let freed = self.history.timeline.watch_checkpoint(|| checkpoint.run())?;
        (self.left, self.freed) = (None, Some(freed));
        Ok(())
    }

    pub(super) fn end_checkpoint(&mut self) -> Result<(), Fault> {
        if let Some(freed) = self.freed.take() {
            self.history.timeline.checkpoint_returns();
            self.log.mark_free(freed);
        }
        Ok(())
    }

    fn take_changes(&mut self) -> Result<(), Fault> {
        let timeline = self.history.timeline.clone();
        timeline.watch(|| self.tree().take_changes(&mut Vec::new()));
        Ok(())
    }

    /// The process dies or ends in good order, and the next one takes over: the page
    /// cache lives on.
    fn end(&mut self) -> Result<(), Fault> {
        self.staged.clear();
        self.committed.clear();
        (self.left, self.freed) = (None, None);
        self.history.timeline.checkpoint_dies();
        self.buried = self.newest_staged();
        let timeline = self.history.timeline.clone();
        let is_closed = self.random.chance(0.4);
        // The lock ends with the owner.
        let tree = self.tree.take().filter(|_| is_closed);
        if let Some(tree) = tree {
            timeline.watch(|| tree.close())?;
            // Closing has removed it.
            timeline.name(None)?;
        }
        timeline.set_bugs(self.bug == Some(ImageBug::ReplayNotSynced), false);
        let log = (!is_closed).then_some(&self.log_file);
        let recovered = timeline.watch(|| sim_seam::recover(&self.file, log, UNIX_S));
        let (mut tree, _) = recovered?;
        self.show(&tree, timeline.now());
        timeline.name(None)?;
        let begun = timeline.now();
        let has_grown = self.grow_at_the_start(&mut tree)?;
        timeline.watch(|| tree.begin_life(UNIX_S))?;
        self.history.lives.push((timeline.now(), tree.life()));
        self.tree = Some(tree);
        self.make_log()?;
        if has_grown {
            self.history.growths.push(begun..timeline.now());
        }
        Ok(())
    }

    /// Makes the log of a life, or that of a tree that has grown in it.
    pub(super) fn make_log(&mut self) -> Result<(), Fault> {
        let (timeline, half_len) = (self.history.timeline.clone(), self.half_len);
        let made = timeline.watch(|| sim_seam::create_log(self.tree(), half_len));
        (self.log, self.log_file) = made?;
        timeline.name(Some(self.log_file.try_clone()?))?;
        timeline.set_bugs(false, self.bug == Some(ImageBug::LogNotSynced));
        Ok(())
    }

    /// What the next owner found goes to its clients, acknowledged before or not.
    fn show(&mut self, tree: &Tree, now: Time) {
        let History { changes, generations, .. } = &mut self.history;
        let places = generations.last().expect("there is the tree of the begin");
        for (leaf, place) in (0..).zip(places) {
            let changes = &mut changes[*place];
            let held = tree.revision(DataLocId(leaf));
            for change in changes.iter_mut().filter(|change| change.revision == held) {
                change.acknowledged.get_or_insert(now);
            }
        }
    }
}

/// A change of before the history: it is on the medium.
fn first_change(tree: &mut Tree, leaf: u32, random: &mut Seeded) -> Result<Change, Fault> {
    let leaf = DataLocId(leaf);
    let parent = tree.layout().parent_of(leaf).expect("the leaf is there");
    let data_size = random.index(parent.capacity.get() as usize + 1);
    let revision = tree.newest_revision().next();
    tree.write(leaf, &data_of(revision, data_size))?;
    Ok(Change { revision, staged: 0, acknowledged: Some(0), data_size })
}
