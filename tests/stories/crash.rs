//! kill -9: nothing that was acknowledged is lost, nothing is torn, and a copy goes on
//! from where it was.

use std::path::Path as FilePath;
use std::thread;
use std::time::Duration;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Life;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Layout;
use mapleaf::tree::Scanned;
use mapleaf::tree::Tree;
use mapleaf::tree::TreeFile;

use crate::support::oracle::Devices;
use crate::support::path::Path;
use crate::support::process::Serving;
use crate::support::process::mirror;
use crate::support::trees::Site;
use crate::support::trees::assert_whole;
use crate::support::trees::equal;
use crate::support::trees::wait_equal;
use crate::support::wait_until;

const KILLS: u32 = 8;

/// Leaves of the tree; most of them are those of one device.
const LEAVES: u32 = 40;

/// Devices of one leaf each.
const SINGLES: u32 = 8;

#[test]
fn a_killed_server_keeps_every_acknowledged_report() {
    let site = Site::new();
    let tree = site.create_plain("tree", [2, LEAVES, 200]);
    let options = ["--period", "10ms"];
    let mut server = Serving::server(&tree, &options);
    let address = server.address;
    let copy = site.path("copy");
    let follower = mirror(address, &copy, &[]);
    let mut devices = Devices::connect(address, 0..LEAVES, SINGLES, 0x6b69_6c6c);
    for round in 0..KILLS {
        let delay = Duration::from_millis(u64::from(20 + devices.random.below(300)));
        devices.report_for(delay);
        server.program.kill();
        // Acknowledgements that left before the end count as well.
        devices.poll(Duration::from_millis(5));
        assert_whole(&tree);
        devices.assert_kept(&tree);
        server = Serving::server_at(address, &tree, &options);
        devices.assert_kept(&tree);
        assert_whole(&tree);
        // Every other time the next end comes while they report again.
        if round % 2 == 1 {
            devices.flush();
            devices.assert_kept(&tree);
        }
    }
    devices.flush();
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
