//! Devices that know what they reported, and what of it was acknowledged.

use std::iter;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use mapleaf::layout::DataLocId;
use mapleaf::runtime::LayoutPull;
use mapleaf::runtime::Reporter;
use mapleaf::runtime::ReporterOptions;
use mapleaf::tree::TreeFile;

use super::WATCHDOG;
use super::proxy::SplitMix;

/// A device, and what was acknowledged of what it reported.
struct Device {
    reporter: Reporter,
    leaves: Range<u32>,
    /// Leaf of each report: its number is its place.
    reported: Vec<u32>,
    /// Reports that are known to be acknowledged: the first ones.
    acknowledged: usize,
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

impl Device {
    fn connect(server: SocketAddr, leaves: Range<u32>) -> Device {
        let options = ReporterOptions {
            // So that it goes on when the tree grows.
            layout: LayoutPull::Pull,
            connect_timeout: WATCHDOG,
            report_timeout: WATCHDOG,
            ..ReporterOptions::new(server)
        };
        let reporter = Reporter::connect(options).unwrap();
        Device { reporter, leaves, reported: Vec::new(), acknowledged: 0 }
    }

    fn report(&mut self, random: &mut SplitMix) {
        let leaf = self.leaves.start + random.below(self.leaves.len() as u32);
        self.reporter.report(DataLocId(leaf), &data(self.reported.len())).unwrap();
        self.reported.push(leaf);
    }

    /// Takes the acknowledgements that came.
    fn poll(&mut self, wait: Duration) {
        self.reporter.poll(wait).unwrap();
        self.learn();
    }

    fn flush(&mut self) {
        self.reporter.flush(WATCHDOG).unwrap();
        self.learn();
        assert_eq!(self.acknowledged, self.reported.len());
        assert!(self.reporter.refusals().is_empty());
    }

    fn learn(&mut self) {
        self.acknowledged = self.reporter.acknowledged_through() as usize;
    }

    /// Each leaf holds what was last acknowledged for it, or what was reported later.
    fn assert_kept(&self, file: &TreeFile) {
        for leaf in self.leaves.clone() {
            let held = file.read_leaf(DataLocId(leaf)).unwrap().unwrap().unwrap();
            let mut known = self.reported[..self.acknowledged].iter();
            let kept = known.rposition(|known| *known == leaf);
            if held.data.is_empty() {
                assert_eq!(kept, None, "leaf {leaf} lost an acknowledged report");
                continue;
            }
            let number = number_of(&held.data);
            assert_eq!(self.reported.get(number), Some(&leaf), "a report of another leaf");
            let lost = kept.is_some_and(|kept| number < kept);
            assert!(!lost, "leaf {leaf} holds report {number}, acknowledged was {kept:?}");
        }
    }
}

/// Devices of one server, driven by turns. Nobody else may report their leaves, and
/// these keep their DataLocIDs.
pub(crate) struct Devices {
    all: Vec<Device>,
    pub(crate) random: SplitMix,
}

impl Devices {
    /// The first leaves get a device of their own each, the others share one.
    pub(crate) fn connect(
        server: SocketAddr,
        leaves: Range<u32>,
        singles: u32,
        seed: u64,
    ) -> Devices {
        let many = leaves.start + singles;
        let singles = (leaves.start..many).map(|leaf| leaf..leaf + 1);
        let ranges = singles.chain(iter::once(many..leaves.end));
        let all = ranges.map(|leaves| Device::connect(server, leaves)).collect();
        Devices { all, random: SplitMix(seed) }
    }

    /// Reports as fast as the windows let them.
    pub(crate) fn report_for(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            for device in &mut self.all {
                let count = device.leaves.len() / 4 + 1;
                (0..count).for_each(|_| device.report(&mut self.random));
                device.poll(Duration::ZERO);
            }
        }
    }

    /// Takes the acknowledgements that came.
    pub(crate) fn poll(&mut self, wait: Duration) {
        self.all.iter_mut().for_each(|device| device.poll(wait));
    }

    /// Waits until everything is acknowledged, and nothing was refused.
    pub(crate) fn flush(&mut self) {
        self.all.iter_mut().for_each(Device::flush);
    }

    /// Reports that are known to be acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.all.iter().map(|device| device.acknowledged).sum()
    }

    /// Each leaf holds what was last acknowledged for it, or what was reported later.
    pub(crate) fn assert_kept(&self, tree: &Path) {
        let file = TreeFile::open(tree).unwrap();
        self.all.iter().for_each(|device| device.assert_kept(&file));
    }
}
