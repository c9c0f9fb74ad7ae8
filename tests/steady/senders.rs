//! Threads that send, many clients, and a path that loses.

use std::path::Path;
use std::thread;
use std::time::Duration;

use mapleaf::layout::DataLocId;
use mapleaf::layout::TreeRole;
use mapleaf::runtime::Changes;
use mapleaf::runtime::MirrorOptions;
use mapleaf::tree::Damaged;
use mapleaf::tree::OpenOptions;
use mapleaf::tree::Tree;

use super::support::proxy::Proxy;
use super::support::proxy::Weather;
use super::support::trees::Site;
use super::support::wait_until;
use super::world;
use super::world::Reports;
use super::world::Running;

const SCHEMA: &str = "[[parent]]\nname = 'a'\nleaves = 200\ncapacity = 64\n\
     [[parent]]\nname = 'b'\nleaves = 100\ncapacity = 200\n";

const PERIOD: Duration = Duration::from_millis(20);

/// As many as a proxy takes.
const MIRRORS: usize = 64;

/// Revision and Data of each of these leaves.
fn leaves(tree: &Path, role: TreeRole, range: std::ops::Range<u32>) -> Vec<(u64, Vec<u8>)> {
    let how = OpenOptions { role, damaged: Damaged::Refuse, unix_s: 0 };
    let (tree, _) = Tree::open(tree, how).unwrap();
    let mut data = Vec::new();
    range
        .map(|leaf| {
            let head = tree.read(DataLocId(leaf), &mut data).unwrap();
            (head.revision.get(), data.clone())
        })
        .collect()
}

#[test]
fn many_replicas_of_a_server_with_two_senders_are_equal_behind_a_path_that_loses() {
    let _alone = world::alone_with_senders();
    let site = Site::new();
    let tree = world::create(site.path("tree"), SCHEMA);
    let file = tree.clone();
    let server = world::serve_with(tree, world::every(PERIOD), |options| options.senders = 2);
    let weather = Weather { loss: 0.05, duplicate: 0.01, reorder: 0.02, seed: 5 };
    let path = Proxy::start(server.address(), weather).unwrap();
    let name = |index| format!("mirror-{index}");
    // Every fourth follows a part: two views.
    let is_part = |index: usize| index % 4 == 3;
    let mirrors: Vec<_> = (0..MIRRORS)
        .map(|index| {
            let file = site.path(&name(index));
            world::mirror(
                &name(index),
                path.address(),
                Changes::Unwanted,
                move |options: &mut MirrorOptions| {
                    options.file = Some(file);
                    options.filter = if is_part(index) { "/b".to_owned() } else { String::new() };
                },
            )
        })
        .collect();
    let all_in_sync = || mirrors.iter().all(|one| one.seen.is_in_sync());
    wait_until("all are in sync", all_in_sync);
    let device = Reports::start(server.address(), 0..300, 60, Duration::from_micros(100));
    wait_until("reports pass", || device.rounds() >= 20);
    drop(device);
    // The last period has ended, and whoever lost it has heard of it.
    thread::sleep(Duration::from_millis(500));
    wait_until("all are in sync again", all_in_sync);
    let ended: Vec<_> = mirrors.into_iter().map(Running::end).collect();
    let counters = server.end();
    let repaired = |counters: &mapleaf::runtime::Counters| {
        counters.value("client", "leaves_repaired").unwrap()
    };
    let dropped = counters.value("senders", "dropped").unwrap();
    println!(
        "figure: {MIRRORS} mirrors, {} EVENTs, {dropped} datagrams dropped, {} leaves repaired",
        counters.value("server", "events").unwrap(),
        ended.iter().map(repaired).sum::<u64>(),
    );
    assert!(ended.iter().all(|one| repaired(one) > 0), "a path that loses makes REQUESTs");
    let served = leaves(&file, TreeRole::Server, 0..300);
    for index in 0..MIRRORS {
        let range = if is_part(index) { 200..300 } else { 0..300 };
        let found = leaves(&site.path(&name(index)), TreeRole::Replica, range.clone());
        let wanted = &served[range.start as usize..range.end as usize];
        assert!(found == wanted, "mirror {index} differs");
    }
}
