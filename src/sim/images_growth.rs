//! Growths in histories of a server in power mode: while it runs, as by SIGHUP, and
//! between the recovery and the life of the next one.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::layout::DataLocId;
use crate::sim::images::ImageBug;
use crate::sim::images_history::Fault;
use crate::sim::images_history::Server;
use crate::sim::random::Seeded;
use crate::sim::random::mix;
use crate::tree::Layout;
use crate::tree::Tree;
use crate::tree::sim_seam;

/// Share of histories in which the tree grows.
const SHARE: f64 = 0.35;

/// Chance of a growth before each step, and at each start of a server.
const BEFORE_A_STEP: f64 = 0.05;
const AT_A_START: f64 = 0.3;

/// Growths of one history: its images look at all that a file ever held.
const GROWTHS_MAX: usize = 3;

/// Growths are drawn from a source of their own: other histories are what they were.
const GROWTH: u64 = 0x6772_6f77_7468;

/// Leaves and capacities of the parents of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    small: u64,
    some: u64,
    large: u64,
    most: u64,
    /// Leaves of a parent that comes in later.
    late: u64,
}

impl Shape {
    /// Leaves of a sector's share, of a sector and more, and of several.
    pub(super) fn draw(random: &mut Seeded) -> Shape {
        let (small, large) = (random.between(1, 5), random.between(1, 2));
        let (some, most) = (random.between(8, 90), random.between(400, 1_800));
        Shape { small, some, large, most, late: 0 }
    }

    /// The same with more of something. The largest leaf still fits a page of the log.
    fn grown(self, random: &mut Seeded) -> Shape {
        let mut grown = self;
        while grown == self {
            grown.small += random.pick(&[0, 0, 1, 3]);
            grown.large += random.pick(&[0, 0, 1]);
            grown.some += random.pick(&[0, 0, 40]);
            grown.most += random.pick(&[0, 0, 300]);
            grown.late += random.pick(&[0, 0, 2]);
        }
        grown
    }

    pub(super) fn layout(&self) -> Layout {
        let Shape { small, some, large, most, late } = self;
        let parents = [("a", small, some), ("b", large, most), ("c", late, some)];
        let text: String = parents
            .into_iter()
            .filter(|(_, leaves, _)| **leaves > 0)
            .map(|(name, leaves, capacity)| {
                format!("[[parent]]\nname = \"{name}\"\nleaves = {leaves}\ncapacity = {capacity}\n")
            })
            .collect();
        Layout::from_toml(&text).expect("it is a schema")
    }
}

/// How the tree of a history grows.
pub(super) struct Growing {
    random: Seeded,
    pub(super) shape: Shape,
    /// Where grown files lie, in memory where there is such a place.
    folder: TempDir,
}

impl Growing {
    /// Draws whether a history has growths. What another bug leaves behind is none that a
    /// tree could grow from.
    pub(super) fn draw(seed: u64, bug: Option<ImageBug>) -> Result<Option<Growing>, Fault> {
        let mut random = Seeded::new(mix(seed ^ GROWTH));
        let may = matches!(bug, None | Some(ImageBug::GrownNotSynced | ImageBug::GrowthNotNamed));
        if !may || !random.chance(SHARE) {
            return Ok(None);
        }
        let builder = || {
            let mut builder = tempfile::Builder::new();
            builder.prefix("mapleaf-images-");
            builder
        };
        let folder = builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir())?;
        // It takes the one that the history is drawn.
        let shape = Shape { small: 1, some: 8, large: 1, most: 8, late: 0 };
        Ok(Some(Growing { random, shape, folder }))
    }

    fn name(&self) -> PathBuf {
        self.folder.path().join("tree")
    }
}

impl Server {
    /// As by SIGHUP with a larger schema: what was staged is stored and acknowledged
    /// first, and a log for the new layout is made.
    pub(super) fn grow_now_and_then(&mut self) -> Result<(), Fault> {
        if !self.is_to_grow(BEFORE_A_STEP) {
            return Ok(());
        }
        self.settle()?;
        let begun = self.history.timeline.now();
        let mut tree = self.tree.take().expect("a server has a tree");
        self.grow(&mut tree)?;
        self.tree = Some(tree);
        (self.left, self.freed) = (None, None);
        self.history.timeline.checkpoint_dies();
        self.make_log()?;
        let end = self.history.timeline.now();
        self.history.growths.push(begun..end);
        Ok(())
    }

    /// The schema has become larger while there was no server.
    pub(super) fn grow_at_the_start(&mut self, tree: &mut Tree) -> Result<bool, Fault> {
        let grows = self.is_to_grow(AT_A_START);
        if grows {
            self.grow(tree)?;
        }
        Ok(grows)
    }

    fn is_to_grow(&mut self, chance: f64) -> bool {
        let is_over = self.history.generations.len() > GROWTHS_MAX;
        let growing = self.growing.as_mut().filter(|_| !is_over);
        growing.is_some_and(|growing| growing.random.chance(chance))
    }

    /// Stores all that is staged.
    fn settle(&mut self) -> Result<(), Fault> {
        while !(self.staged.is_empty() && self.committed.is_empty()) {
            self.store()?;
            self.commit()?;
            self.begin_checkpoint()?;
            self.end_checkpoint()?;
        }
        Ok(())
    }

    fn grow(&mut self, tree: &mut Tree) -> Result<(), Fault> {
        let growing = self.growing.as_mut().expect("the history has growths");
        growing.shape = growing.shape.grown(&mut growing.random);
        let (layout, name) = (growing.shape.layout(), growing.name());
        let timeline = &self.history.timeline;
        let growth = timeline.watch_growth(&name, || sim_seam::grow(tree, layout, &name))?;
        self.file = sim_seam::file_of(tree)?;
        let mut places = vec![None; tree.layout().leaf_count() as usize];
        for (leaf, place) in (0..).zip(self.places()) {
            let moved = growth.new_leaf(DataLocId(leaf)).ok_or("a growth drops no leaf")?;
            places[moved.index()] = Some(*place);
        }
        let changes = &mut self.history.changes;
        let places = places.into_iter().map(|place| {
            place.unwrap_or_else(|| {
                changes.push(Vec::new());
                changes.len() - 1
            })
        });
        let places = places.collect();
        self.history.generations.push(places);
        Ok(())
    }
}
