//! A server that ends and comes back, and a mirror that stands still for a while.

use std::path::Path as FilePath;
use std::thread;
use std::time::Duration;

use crate::support::load::Stream;
use crate::support::load::leaf_line;
use crate::support::load::report_lines;
use crate::support::path::Path;
use crate::support::process::Serving;
use crate::support::process::Signal;
use crate::support::process::mirror;
use crate::support::process::resident;
use crate::support::trees::Site;
use crate::support::trees::assert_whole;
use crate::support::trees::equal;
use crate::support::trees::stat_number;
use crate::support::trees::wait_equal;
use crate::support::wait_until;

/// Writes every leaf once.
fn fill(server: &Serving, leaves: u64) {
    let mut device = report_lines(server.address);
    (0..leaves).for_each(|leaf| device.write_line(leaf_line(leaf, &format!("first {leaf}"))));
    device.close_stdin();
    device.ended().well();
}

#[test]
fn a_server_that_starts_again_is_followed_without_copying_what_is_held() {
    let site = Site::new();
    let leaves = 2_000;
    let tree = site.create_plain("tree", [2, leaves as u32, 100]);
    let options = ["--period", "10ms"];
    let server = Serving::server(&tree, &options);
    let address = server.address;
    fill(&server, leaves);
    let copies = ["one", "two"].map(|name| site.path(name));
    let mirrors = copies.clone().map(|copy| mirror(address, &copy, &[]));
    mirrors.iter().for_each(|mirror| mirror.wait_stderr("in sync at"));
    // Few leaves change: whatever else is sent again was held.
    let reports =
        Stream::start(address, 2, |number| leaf_line(number % 20 * 50, &format!("line {number}")));
    reports.pass(100);
    let life = stat_number(&tree, "life");
    let first = server.program.terminate().well();
    assert_eq!(first.counter("server.leaves_refused"), 0);
    reports.pass(20);
    let server = Serving::server_at(address, &tree, &options);
    assert!(stat_number(&tree, "life") > life);
    mirrors.iter().for_each(|mirror| mirror.wait_stderr(" again: "));
    reports.pass(100);
    reports.end();
    copies.iter().for_each(|copy| wait_equal(&tree, copy));
    for mirror in mirrors {
        let ended = mirror.terminate().well();
        assert_eq!(ended.counter("client.joins"), 2, "{ended}");
        assert_eq!(ended.counter("client.audits"), 0, "{ended}");
    }
    let second = server.program.terminate().well();
    let reported = |ended: &crate::support::process::Ended| ended.counter("server.leaves_reported");
    // Of a leaf that is reported again before it is acknowledged the newest goes only.
    assert!(reported(&first) >= leaves && reported(&second) > 0, "{first}\n{second}");
    let repaired = second.counter("server.leaves_repaired");
    assert!(repaired < leaves / 4, "{repaired} leaves of {leaves} were sent again: {second}");
    for copy in &copies {
        assert!(equal(&tree, copy));
        assert_whole(copy);
    }
}

/// Periods of the server between two moments, seen by another client.
const PERIOD: &str = "300ms";

/// How far a mirror may be behind after its next EVENT, and a period for looking.
const PERIODS_MAX: u64 = 3 + 1;

#[test]
fn a_mirror_that_stood_still_costs_the_server_nothing_and_catches_up() {
    let site = Site::new();
    let tree = site.create_plain("tree", [2, 2_000, 100]);
    // A TICK in every period: the witness counts them.
    let server = Serving::server(&tree, &["--period", PERIOD, "--heartbeat", PERIOD]);
    let way = Path::to(server.address);
    let (seen, still) = (site.path("seen"), site.path("still"));
    let witness = mirror(way.address(), &seen, &[]);
    let stopped = mirror(server.address, &still, &[]);
    [&witness, &stopped].iter().for_each(|mirror| mirror.wait_stderr("in sync at"));
    let load = || {
        Stream::start(server.address, 10, |number| {
            leaf_line(number * 7 % 2_000, &format!("line {number}"))
        })
    };
    let usual = growth_under(&server, || {
        let reports = load();
        thread::sleep(Duration::from_secs(2));
        reports.end();
    });
    wait_equal(&tree, &still);
    stopped.signal(Signal::Stop);
    let with_one_still = growth_under(&server, || {
        let reports = load();
        thread::sleep(Duration::from_secs(2));
        reports.end();
    });
    let slack = 4 << 20;
    assert!(with_one_still <= slack, "grew by {with_one_still} bytes, by {usual} before");
    wait_equal(&tree, &seen);
    assert!(!equal(&tree, &still), "nothing was to be caught up with");
    let reports = load();
    reports.pass(100);
    stopped.signal(Signal::Cont);
    reports.end();
    let behind = periods_until_equal(&way, (&tree, &still));
    assert!(behind <= PERIODS_MAX, "{behind} periods");
    wait_equal(&tree, &seen);
    let ended = stopped.terminate().well();
    assert_eq!(ended.counter("client.joins"), 1, "{ended}");
    let ended = witness.terminate().well();
    assert_eq!(ended.counter("client.joins"), 1, "{ended}");
    let ended = server.program.terminate().well();
    assert_eq!(ended.counter("server.sessions_expired"), 0, "{ended}");
}

/// By how many bytes the server grew meanwhile.
fn growth_under(server: &Serving, work: impl FnOnce()) -> u64 {
    let before = resident(server.program.id());
    work();
    resident(server.program.id()).saturating_sub(before)
}

/// Periods from the next EVENT on.
fn periods_until_equal(way: &Path, (tree, copy): (&FilePath, &FilePath)) -> u64 {
    let events = way.events();
    wait_until("the next EVENT", || way.events() > events || equal(tree, copy));
    let from = way.periods();
    wait_equal(tree, copy);
    way.periods() - from
}

#[test]
fn a_server_restored_from_a_backup_wins_over_its_mirrors_and_relays() {
    let site = Site::new();
    let (tree, backup) = (site.create_plain("tree", [2, 600, 100]), site.path("backup"));
    let options = ["--period", "10ms"];
    let server = Serving::server(&tree, &options);
    let address = server.address;
    fill(&server, 600);
    server.program.terminate().well();
    std::fs::copy(&tree, &backup).unwrap();
    let server = Serving::server_at(address, &tree, &options);
    let relay = Serving::relay(address, &site.path("relay"), &options);
    let far = mirror(relay.address, &site.path("far"), &[]);
    far.wait_stderr("in sync at");
    let mut device = report_lines(address);
    (0..300).for_each(|leaf| device.write_line(leaf_line(leaf * 2, "lost with the disk")));
    device.close_stdin();
    device.ended().well();
    let copies = ["relay", "far"].map(|name| site.path(name));
    copies.iter().for_each(|copy| wait_equal(&tree, copy));
    server.program.terminate().well();
    std::fs::rename(&backup, &tree).unwrap();
    let server = Serving::server_at(address, &tree, &options);
    copies.iter().for_each(|copy| wait_equal(&tree, copy));
    far.terminate().well();
    relay.program.terminate().well();
    server.program.terminate().well();
    for copy in &copies {
        assert!(equal(&tree, copy));
        assert_whole(copy);
    }
}
