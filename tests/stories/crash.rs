//! kill -9: nothing that was acknowledged is lost, nothing is torn, and a copy goes on
//! from where it was.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path as FilePath;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Life;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::runtime::Reporter;
use mapleaf::runtime::ReporterOptions;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Layout;
use mapleaf::tree::Scanned;
use mapleaf::tree::Tree;
use mapleaf::tree::TreeFile;

use crate::support::WATCHDOG;
use crate::support::load::Stream;
use crate::support::load::leaf_line;
use crate::support::path::Path;
use crate::support::process::Serving;
use crate::support::process::mirror;
use crate::support::proxy::SplitMix;
use crate::support::trees::Site;
use crate::support::trees::assert_whole;
use crate::support::trees::equal;
use crate::support::trees::wait_equal;
use crate::support::wait_until;

const KILLS: u32 = 8;

/// Devices of one leaf each.
const SINGLES: u32 = 8;

/// Leaves of the device that has many.
const MANY: Range<u32> = SINGLES..SINGLES + 32;

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

    /// Acknowledgements that left before the end count as well, and what is sent again
    /// finds nobody there: a server that is back at once is missed for seconds.
    fn notice_the_end(&mut self) {
        (0..4).for_each(|_| self.poll(Duration::from_millis(10)));
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

/// Every device of the story.
struct Devices {
    all: Vec<Device>,
    random: SplitMix,
}

impl Devices {
    fn connect(server: SocketAddr) -> Devices {
        let singles = (0..SINGLES).map(|leaf| leaf..leaf + 1);
        let all = singles.chain([MANY]).map(|leaves| Device::connect(server, leaves));
        Devices { all: all.collect(), random: SplitMix(0x6b69_6c6c) }
    }

    /// Some time, by the seed.
    fn delay(&mut self) -> Duration {
        Duration::from_millis(u64::from(100 + self.random.below(300)))
    }

    /// Reports as fast as the windows let them.
    fn report_for(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            for device in &mut self.all {
                let count = device.leaves.len() / 4 + 1;
                (0..count).for_each(|_| device.report(&mut self.random));
                device.poll(Duration::ZERO);
            }
        }
    }

    fn assert_kept(&self, tree: &FilePath) {
        let file = TreeFile::open(tree).unwrap();
        self.all.iter().for_each(|device| device.assert_kept(&file));
    }
}

#[test]
fn a_killed_server_keeps_every_acknowledged_report() {
    let site = Site::new();
    let tree = site.create_plain("tree", [2, MANY.end, 200]);
    let options = ["--period", "10ms"];
    let mut server = Serving::server(&tree, &options);
    let address = server.address;
    let copy = site.path("copy");
    let follower = mirror(address, &copy, &[]);
    let mut devices = Devices::connect(address);
    for round in 0..KILLS {
        let delay = devices.delay();
        devices.report_for(delay);
        server.program.kill();
        devices.all.iter_mut().for_each(Device::notice_the_end);
        assert_whole(&tree);
        devices.assert_kept(&tree);
        server = Serving::server_at(address, &tree, &options);
        devices.assert_kept(&tree);
        assert_whole(&tree);
        // Most of the time the next end comes while they report again.
        if round % 4 == 3 {
            devices.all.iter_mut().for_each(Device::flush);
            devices.assert_kept(&tree);
        }
    }
    devices.all.iter_mut().for_each(Device::flush);
    wait_equal(&tree, &copy);
    follower.terminate().well();
    server.program.terminate().well();
    devices.assert_kept(&tree);
    assert!(equal(&tree, &copy));
    assert_whole(&copy);
}

/// A tree of full leaves.
fn create_large(tree: &FilePath, leaves: u32, size: u32) {
    let layout = Layout::plain(4, leaves, size).unwrap();
    let (role, tree_id) = (TreeRole::Server, TreeId(0x6c61_7267));
    let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
    let mut tree = Tree::create(tree, layout, options).unwrap();
    tree.begin_life(1).unwrap();
    let mut data = vec![0; size as usize];
    for leaf in 0..leaves {
        data[..4].copy_from_slice(&leaf.to_le_bytes());
        tree.write(DataLocId(leaf), &data).unwrap();
    }
    tree.close().unwrap();
}

/// Whole leaves that were written.
fn held(tree: &FilePath) -> u64 {
    let file = TreeFile::open(tree).unwrap();
    let (mut leaves, mut count) = (file.leaves(), 0);
    while let Some(scanned) = leaves.next_leaf().unwrap() {
        match scanned {
            Scanned::Leaf(leaf) if leaf.revision > Revision::ZERO => count += 1,
            Scanned::Leaf(_) => {}
            Scanned::Damaged { leaf, damage } => panic!("leaf {leaf}: {damage}"),
        }
    }
    count
}

#[test]
fn a_mirror_killed_half_way_repairs_only_the_rest() {
    let site = Site::new();
    let (tree, copy) = (site.path("tree"), site.path("copy"));
    let (leaves, size) = (100_000, 200);
    create_large(&tree, leaves, size);
    let server = Serving::server(&tree, &[]);
    // Four leaves of 200 bytes go into a RESPONSE of 1,200.
    let way = Path::cut_after(server.address, u64::from(leaves) / 4 / 2);
    let first = mirror(way.address(), &copy, &[]);
    wait_until("the path is cut", || way.is_cut());
    // What is under way is taken; nothing follows.
    let mut last = 0;
    wait_until("the copy stands still", || {
        thread::sleep(Duration::from_millis(100));
        let now = if copy.exists() { held(&copy) } else { 0 };
        now > 0 && core::mem::replace(&mut last, now) == now
    });
    assert_eq!(first.kill().status.code(), None);
    let (half, all) = (held(&copy), u64::from(leaves));
    assert!(half > all / 8 && half < all, "{half} of {all} is not half-way");
    let second = mirror(server.address, &copy, &["--until-synced", "--timeout", "100s"]);
    let ended = second.ended().well();
    let repaired = ended.counter("client.leaves_repaired");
    // Nothing changes at the server.
    assert_eq!(repaired, all - half, "{ended}");
    server.program.terminate().well();
    assert!(equal(&tree, &copy));
    assert_whole(&copy);
}

#[test]
fn a_mirror_killed_under_load_goes_on_each_time() {
    let site = Site::new();
    let tree = site.create_plain("tree", [2, 1_000, 200]);
    let server = Serving::server(&tree, &["--period", "10ms"]);
    let copy = site.path("copy");
    let reports = Stream::start(server.address, 10, |number| {
        leaf_line(number * 7 % 1_000, &format!("line {number}"))
    });
    let mut random = SplitMix(0x6d69_7272);
    for _ in 0..KILLS {
        let running = mirror(server.address, &copy, &[]);
        running.wait_stderr("joined ");
        thread::sleep(Duration::from_millis(u64::from(random.below(300))));
        running.kill();
        if copy.exists() {
            assert_whole(&copy);
        }
    }
    let last = mirror(server.address, &copy, &[]);
    reports.pass(200);
    reports.end();
    wait_equal(&tree, &copy);
    last.terminate().well();
    server.program.terminate().well();
    assert!(equal(&tree, &copy));
    assert_whole(&copy);
}
