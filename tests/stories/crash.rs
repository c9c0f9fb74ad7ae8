//! kill -9: nothing that was acknowledged is lost, nothing is torn, and a copy goes on
//! from where it was.

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

const LEAVES: u32 = 40;

/// What was reported, in its order, and what of it was acknowledged.
struct Oracle {
    reporter: Reporter,
    random: SplitMix,
    /// Leaf of each report: its number is its place.
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

impl Oracle {
    fn report(&mut self) {
        let leaf = self.random.below(LEAVES);
        let number = self.reported.len();
        self.reporter.report(DataLocId(leaf), &data(number)).unwrap();
        self.reported.push(leaf);
    }

    /// Reports as fast as the window lets it.
    fn report_for(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            (0..20).for_each(|_| self.report());
            self.reporter.poll(Duration::ZERO).unwrap();
        }
    }

    /// Each leaf holds what was last acknowledged for it, or what was reported later.
    fn assert_kept(&self, tree: &FilePath) {
        let acknowledged = self.reporter.acknowledged_through() as usize;
        let file = TreeFile::open(tree).unwrap();
        for leaf in 0..LEAVES {
            let held = file.read_leaf(DataLocId(leaf)).unwrap().unwrap().unwrap();
            let kept = self.reported[..acknowledged].iter().rposition(|known| *known == leaf);
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

#[test]
fn a_killed_server_keeps_every_acknowledged_report() {
    let site = Site::new();
    let tree = site.create_plain("tree", [2, LEAVES, 200]);
    let options = ["--period", "10ms"];
    let mut server = Serving::server(&tree, &options);
    let address = server.address;
    let copy = site.path("copy");
    let follower = mirror(address, &copy, &[]);
    let reporter = ReporterOptions {
        connect_timeout: WATCHDOG,
        report_timeout: WATCHDOG,
        ..ReporterOptions::new(address)
    };
    let reporter = Reporter::connect(reporter).unwrap();
    let mut oracle = Oracle { reporter, random: SplitMix(0x6b69_6c6c), reported: Vec::new() };
    for _ in 0..KILLS {
        let delay = Duration::from_millis(u64::from(20 + oracle.random.below(300)));
        let before = oracle.reporter.acknowledged();
        oracle.report_for(delay);
        server.program.kill();
        // Acknowledgements that left before the end count as well.
        oracle.reporter.poll(Duration::from_millis(20)).unwrap();
        assert_whole(&tree);
        server = Serving::server_at(address, &tree, &options);
        oracle.assert_kept(&tree);
        assert_whole(&tree);
        oracle.reporter.flush(WATCHDOG).unwrap();
        assert!(oracle.reporter.acknowledged() > before);
        oracle.assert_kept(&tree);
    }
    assert_eq!(oracle.reporter.acknowledged() as usize, oracle.reported.len());
    assert!(oracle.reporter.refusals().is_empty());
    wait_equal(&tree, &copy);
    follower.terminate().well();
    server.program.terminate().well();
    oracle.assert_kept(&tree);
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
