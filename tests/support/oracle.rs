//! Who knows what was reported and what of it was acknowledged.

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use mapleaf::layout::DataLocId;
use mapleaf::runtime::LayoutPull;
use mapleaf::runtime::Reporter;
use mapleaf::runtime::ReporterError;
use mapleaf::runtime::ReporterOptions;
use mapleaf::tree::TreeFile;

use super::WATCHDOG;
use super::proxy::SplitMix;

/// What was reported, in its order, and what of it was acknowledged.
pub(crate) struct Oracle {
    pub(crate) reporter: Reporter,
    pub(crate) random: SplitMix,
    /// First of the leaves that it reports.
    first: u32,
    /// How many they are.
    leaves: u32,
    /// Leaf of each report, counted from the first: its number is its place.
    reported: Vec<u32>,
}

/// Data that shows its number, and by every byte whether it is whole.
fn data(number: usize) -> Vec<u8> {
    let mut bytes = (number as u64).to_le_bytes().to_vec();
    bytes.resize(8 + number % 150, number as u8);
    bytes
}

fn number_of(bytes: &[u8]) -> usize {
    let head = bytes.first_chunk().expect("Data begins with its number");
    let number = u64::from_le_bytes(*head) as usize;
    assert_eq!(bytes, data(number), "Data of report {number} is whole");
    number
}

/// Options of a device that waits as long as a test does.
pub(crate) fn patient(server: std::net::SocketAddr) -> ReporterOptions {
    ReporterOptions {
        layout: LayoutPull::Pull,
        connect_timeout: WATCHDOG,
        report_timeout: WATCHDOG,
        ..ReporterOptions::new(server)
    }
}

impl Oracle {
    /// Reports leaves of this range, whose DataLocIDs are to stay what they are.
    pub(crate) fn new(reporter: Reporter, seed: u64, leaves: std::ops::Range<u32>) -> Oracle {
        let (first, leaves) = (leaves.start, leaves.end - leaves.start);
        Oracle { reporter, random: SplitMix(seed), first, leaves, reported: Vec::new() }
    }

    fn report(&mut self) {
        let leaf = self.random.below(self.leaves);
        let number = self.reported.len();
        self.reporter.report(DataLocId(self.first + leaf), &data(number)).unwrap();
        self.reported.push(leaf);
    }

    /// Reports as fast as the window lets it.
    pub(crate) fn report_for(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            (0..20).for_each(|_| self.report());
            self.reporter.poll(Duration::ZERO).unwrap();
        }
    }

    /// Takes acknowledgements that left before the server's end.
    pub(crate) fn take_late(&mut self) -> Result<(), ReporterError> {
        self.reporter.poll(Duration::from_millis(2))
    }

    /// Waits until everything is acknowledged, and nothing was refused.
    pub(crate) fn settle(&mut self) {
        self.reporter.flush(WATCHDOG).unwrap();
        assert_eq!(self.reporter.acknowledged() as usize, self.reported.len());
        assert!(self.reporter.refusals().is_empty());
    }

    /// Each leaf holds what was last acknowledged for it, or what was reported later.
    pub(crate) fn assert_kept(&self, tree: &Path) {
        let acknowledged = self.reporter.acknowledged() as usize;
        let mut kept = vec![None; self.leaves as usize];
        for (number, leaf) in self.reported[..acknowledged].iter().enumerate() {
            kept[*leaf as usize] = Some(number);
        }
        let file = TreeFile::open(tree).unwrap();
        for (leaf, kept) in kept.into_iter().enumerate() {
            let id = DataLocId(self.first + leaf as u32);
            let held = file.read_leaf(id).unwrap().unwrap().unwrap();
            if held.data.is_empty() {
                assert_eq!(kept, None, "leaf {id} lost an acknowledged report");
                continue;
            }
            let number = number_of(&held.data);
            assert_eq!(self.reported.get(number), Some(&(leaf as u32)), "not of leaf {id}");
            let lost = kept.is_some_and(|kept| number < kept);
            assert!(!lost, "leaf {id} holds report {number}, acknowledged was {kept:?}");
        }
    }

    /// Reports so far.
    pub(crate) fn count(&self) -> usize {
        self.reported.len()
    }
}
