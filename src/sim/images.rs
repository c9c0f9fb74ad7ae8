//! Images of power loss: what a disk may hold at any moment of a server in power mode,
//! opened by the real recovery.
//!
//! A history drives the real staging, log, stores and checkpoints step by step, and
//! notes what the files hold after each. Then crashes are drawn: a moment, and for each
//! sector a version between its last completed write-back and that moment, or a mix of
//! two. Recovery runs on that over memory, and power fails in there as well. Each leaf
//! must be whole, not older than what was acknowledged or shown, and not newer than
//! what was staged.

use core::fmt;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;

use crate::sim::images_check::Bench;
use crate::sim::images_check::Survived;
use crate::sim::images_history::Fault;
use crate::sim::images_history::History;
use crate::sim::images_slots::Slots;
use crate::sim::images_slots::Turns;
use crate::sim::random::Seeded;

/// Images of one history: enough to pay for running it.
pub const IMAGES_OF_HISTORY: u64 = 200;

/// Failing seeds that are told; all are counted.
const TOLD_MAX: usize = 8;

/// A bug that is planted: images must show each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageBug {
    /// Half the log is used again before the checkpoint of the tree has returned: the
    /// older of two copies is overwritten in turns.
    HalfReusedEarly,
    /// A report is acknowledged when it is staged.
    AcknowledgedFirst,
    /// A leaf is stored in its record before its batch is durable.
    StoredFirst,
    /// A batch counts as durable when it was written and not written back.
    LogNotSynced,
    /// The log is let go, and a life begins, before what was replayed is on the medium.
    ReplayNotSynced,
    /// A file that the tree grew into takes its place before it is on the medium.
    GrownNotSynced,
    /// What is reported to a tree that has grown is acknowledged before the new file's name
    /// is on the medium.
    GrowthNotNamed,
    /// No log, but two slots a leaf that are written in turns.
    AlternatingSlots,
}

impl ImageBug {
    /// All of them.
    pub const ALL: [ImageBug; 8] = [
        ImageBug::HalfReusedEarly,
        ImageBug::AcknowledgedFirst,
        ImageBug::StoredFirst,
        ImageBug::LogNotSynced,
        ImageBug::ReplayNotSynced,
        ImageBug::GrownNotSynced,
        ImageBug::GrowthNotNamed,
        ImageBug::AlternatingSlots,
    ];

    /// The word for it on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            ImageBug::HalfReusedEarly => "half-reused-early",
            ImageBug::AcknowledgedFirst => "acknowledged-first",
            ImageBug::StoredFirst => "stored-first",
            ImageBug::LogNotSynced => "log-not-synced",
            ImageBug::ReplayNotSynced => "replay-not-synced",
            ImageBug::GrownNotSynced => "grown-not-synced",
            ImageBug::GrowthNotNamed => "growth-not-named",
            ImageBug::AlternatingSlots => "alternating-slots",
        }
    }

    /// The bug of that name.
    pub fn from_name(name: &str) -> Option<ImageBug> {
        ImageBug::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// What is to be drawn.
#[derive(Clone, Copy, Debug)]
pub struct ImageOptions {
    /// Seed of the first history; the next ones count up.
    pub seed: u64,
    /// Images; rounded up to whole histories.
    pub images: u64,
    /// Threads.
    pub jobs: usize,
    /// A bug to be shown.
    pub bug: Option<ImageBug>,
}

/// An image of which a promise was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadImage {
    /// Seed of its history.
    pub seed: u64,
    /// Which image of that history; none if the history itself failed.
    pub image: Option<u64>,
    /// What was wrong.
    pub what: String,
}

impl fmt::Display for BadImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.image {
            Some(image) => write!(f, "seed {}, image {image}: {}", self.seed, self.what),
            None => write!(f, "seed {}, while it ran: {}", self.seed, self.what),
        }
    }
}

/// What images showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageReport {
    /// Histories.
    pub histories: u64,
    /// Crashes that were drawn and recovered from.
    pub images: u64,
    /// Crashes of recoveries among them.
    pub again: u64,
    /// Images whose log held what their tree lacked.
    pub replayed: u64,
    /// Images of a tree that was growing.
    pub growing: u64,
    /// Images of which a promise was broken.
    pub bad: u64,
    /// The first of them, by seed; one a history.
    pub told: Vec<BadImage>,
}

impl ImageReport {
    fn add(&mut self, other: ImageReport) {
        self.histories += other.histories;
        self.images += other.images;
        self.again += other.again;
        self.replayed += other.replayed;
        self.growing += other.growing;
        self.bad += other.bad;
        self.told.extend(other.told);
        self.told.sort_by_key(|bad| bad.seed);
        self.told.truncate(TOLD_MAX);
    }
}

/// Runs histories and draws their images. The report is the same however many threads
/// there are.
pub fn draw_images(options: &ImageOptions) -> ImageReport {
    let histories = options.images.div_ceil(IMAGES_OF_HISTORY);
    let (next, report) = (AtomicU64::new(0), Mutex::new(ImageReport::default()));
    let work = || {
        let mut own = ImageReport::default();
        loop {
            let history = next.fetch_add(1, Ordering::Relaxed);
            if history >= histories {
                break;
            }
            own.add(images_of(options.seed.wrapping_add(history), options.bug));
        }
        report.lock().expect("no thread panics with it").add(own);
    };
    thread::scope(|scope| {
        for _ in 1..options.jobs.max(1) {
            scope.spawn(work);
        }
        work();
    });
    report.into_inner().expect("no thread panicked with it")
}

/// All images of one seed.
fn images_of(seed: u64, bug: Option<ImageBug>) -> ImageReport {
    let mut report = ImageReport { histories: 1, ..ImageReport::default() };
    let mut drawing = match Drawing::new(seed, bug) {
        Ok(drawing) => drawing,
        Err(fault) => {
            report.tell(seed, None, &fault);
            return report;
        }
    };
    for image in 0..IMAGES_OF_HISTORY {
        match drawing.crash() {
            Ok(survived) => {
                report.images += 1;
                report.again += u64::from(survived.crashes - 1);
                report.replayed += u64::from(survived.has_replayed);
                report.growing += u64::from(survived.was_growing);
            }
            Err(fault) => {
                report.images += 1;
                report.tell(seed, Some(image), &fault);
            }
        }
    }
    report
}

impl ImageReport {
    fn tell(&mut self, seed: u64, image: Option<u64>, fault: &Fault) {
        self.bad += 1;
        if self.told.is_empty() {
            self.told.push(BadImage { seed, image, what: fault.to_string() });
        }
    }
}

/// Where images come from.
enum Drawing {
    Logged(Box<History>, Bench, Seeded),
    Slots(Slots, Seeded),
}

impl Drawing {
    fn new(seed: u64, bug: Option<ImageBug>) -> Result<Drawing, Fault> {
        let mut random = Seeded::new(seed);
        let images = random.fork();
        if bug == Some(ImageBug::AlternatingSlots) {
            return Ok(Drawing::Slots(Slots::run(seed, Turns::Strict), images));
        }
        let history = History::run(seed, bug)?;
        Ok(Drawing::Logged(Box::new(history), Bench::new(bug)?, images))
    }

    fn crash(&mut self) -> Result<Survived, Fault> {
        match self {
            Drawing::Logged(history, bench, random) => bench.crash(history, random),
            Drawing::Slots(slots, random) => {
                slots.crash(random)?;
                Ok(Survived { crashes: 1, has_replayed: false, was_growing: false })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(seed: u64, images: u64, bug: Option<ImageBug>) -> ImageReport {
        draw_images(&ImageOptions { seed, images, jobs: 2, bug })
    }

    #[test]
    fn power_loss_at_any_moment_costs_nothing_that_was_acknowledged() {
        let report = report(1, 20_000, None);
        assert_eq!((report.bad, &report.told[..]), (0, &[][..]));
        assert!(report.images == 20_000 && report.again > 5_000, "{report:?}");
        assert!(report.growing > 500, "{report:?}");
    }

    fn catches(bug: ImageBug, words: &[&str]) {
        let report = report(1, 6_000, Some(bug));
        assert!(report.bad > 0, "{bug:?} was not seen");
        let told = &report.told[0];
        assert!(words.iter().any(|word| told.what.contains(word)), "{told}");
        // The seed alone shows it again, and without the bug nothing.
        let again = self::report(told.seed, 1, Some(bug));
        assert_eq!(again.told.first(), Some(told));
        assert_eq!(self::report(told.seed, 1, None).bad, 0);
    }

    #[test]
    fn a_half_that_is_reused_before_its_checkpoint_is_caught() {
        catches(ImageBug::HalfReusedEarly, &["damaged", "after"]);
    }

    #[test]
    fn an_acknowledgement_before_the_commit_is_caught() {
        catches(ImageBug::AcknowledgedFirst, &["after"]);
    }

    #[test]
    fn a_leaf_that_is_stored_before_the_commit_is_caught() {
        catches(ImageBug::StoredFirst, &["damaged"]);
    }

    #[test]
    fn a_commit_without_a_write_back_is_caught() {
        catches(ImageBug::LogNotSynced, &["damaged", "after"]);
    }

    #[test]
    fn a_life_that_begins_before_the_replay_is_on_the_medium_is_caught() {
        catches(ImageBug::ReplayNotSynced, &["damaged", "after"]);
    }

    #[test]
    fn a_grown_file_that_is_named_before_it_is_on_the_medium_is_caught() {
        // What is a file of zeros, and what has a header and no leaves.
        catches(ImageBug::GrownNotSynced, &["damaged", "not a tree", "magic", "after"]);
    }

    #[test]
    fn an_acknowledgement_before_the_name_of_the_growth_is_caught() {
        catches(ImageBug::GrowthNotNamed, &["after", "gone"]);
    }

    #[test]
    fn slots_that_are_written_in_turns_are_caught_and_the_rule_mends_them() {
        catches(ImageBug::AlternatingSlots, &["after"]);
        for seed in 1..50 {
            let slots = Slots::run(seed, Turns::Sparing);
            let mut random = Seeded::new(seed);
            for _ in 0..IMAGES_OF_HISTORY {
                slots.crash(&mut random).unwrap();
            }
        }
    }

    #[test]
    fn the_report_does_not_depend_on_threads() {
        let of = |jobs| draw_images(&ImageOptions { seed: 9, images: 2_000, jobs, bug: None });
        assert_eq!(of(1), of(3));
    }

    #[test]
    fn every_bug_has_a_name() {
        for bug in ImageBug::ALL {
            assert_eq!(ImageBug::from_name(bug.name()), Some(bug));
        }
    }
}
