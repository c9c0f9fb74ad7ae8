//! Replicas behind bad paths, behind relays, and of a part of the tree.

use std::net::SocketAddr;
use std::path::Path;

use crate::support::load::Stream;
use crate::support::load::leaf_line;
use crate::support::load::report_lines;
use crate::support::process::Program;
use crate::support::process::Serving;
use crate::support::process::mirror;
use crate::support::proxy::Passed;
use crate::support::proxy::Proxy;
use crate::support::proxy::Weather;
use crate::support::trees::Site;
use crate::support::trees::assert_whole;
use crate::support::trees::dump;
use crate::support::trees::equal;
use crate::support::trees::example;
use crate::support::trees::text_of;
use crate::support::trees::wait_equal;
use crate::support::wait_until;

const MIRRORS: [&str; 3] = ["mirror-1", "mirror-2", "mirror-3"];

fn weather(loss: f64, seed: u64) -> Weather {
    Weather { loss, duplicate: 0.1, reorder: 0.1, seed }
}

/// Three mirrors, each behind a path of its own.
struct Fleet {
    mirrors: Vec<(Program, Proxy)>,
}

impl Fleet {
    fn join(site: &Site, server: SocketAddr, loss: f64) -> Fleet {
        let mirrors = MIRRORS.iter().zip(1..).map(|(name, seed)| {
            let proxy = Proxy::start(server, weather(loss, seed)).unwrap();
            (mirror(proxy.address(), &site.path(name), &[]), proxy)
        });
        let mirrors: Vec<_> = mirrors.collect();
        mirrors.iter().for_each(|(mirror, _)| mirror.wait_stderr("in sync at"));
        Fleet { mirrors }
    }

    /// All equal the server, and each had something to repair.
    fn assert_repaired(self, site: &Site, tree: &Path) {
        MIRRORS.iter().for_each(|name| wait_equal(tree, &site.path(name)));
        let mut all = Passed::default();
        for (mirror, proxy) in self.mirrors {
            let ended = mirror.terminate().well();
            all = all.plus(proxy.passed());
            for counter in ["client.gaps", "client.events_lost", "client.leaves_repaired"] {
                assert!(ended.counter(counter) > 0, "{counter} of {ended}");
            }
        }
        assert!(all.dropped > 0 && all.doubled > 0 && all.reordered > 0, "{all:?}");
    }

    fn assert_closed(site: &Site, tree: &Path) {
        for name in MIRRORS {
            assert!(equal(tree, &site.path(name)));
            assert_whole(&site.path(name));
        }
        assert_whole(tree);
    }
}

/// Every form of a line, over the parents of the example.
fn fleet_line(number: u64) -> String {
    let (rack, port) = (number % 2 + 1, number % 48 + 1);
    match number % 4 {
        0 => {
            let door = ["rack1", "rack2", "door"][number as usize / 4 % 3];
            let temp = number as f64 / 8.0;
            format!("{{\"path\":\"/site/climate/{door}\",\"fields\":{{\"temp\":{temp:.3}}}}}")
        }
        1 => format!("{{\"leaf\":{},\"hex\":\"01{number:06x}\"}}", number % 96),
        2 => format!("{{\"path\":\"/site/rack{rack}/port{port}\",\"data\":\"line {number}\"}}"),
        _ => format!(
            "{{\"path\":\"/site/rack{rack}/port{port}\",\"fields\":\
             {{\"up\":true,\"rx_bytes\":{number},\"label\":\"port {port}\"}}}}"
        ),
    }
}

#[test]
fn mirrors_behind_a_bad_path_equal_a_tree_of_typed_leaves() {
    let site = Site::new();
    let tree = site.create("tree", &example("fleet.toml"));
    let server = Serving::server(&tree, &["--period", "10ms"]);
    let fleet = Fleet::join(&site, server.address, 0.05);
    let way = Proxy::start(server.address, weather(0.05, 9)).unwrap();
    let reports = Stream::start(way.address(), 2, fleet_line);
    reports.pass(400);
    let written = reports.end();
    fleet.assert_repaired(&site, &tree);
    let server = server.program.terminate().well();
    // Of a leaf that is reported again before it is acknowledged the newest goes only.
    let reported = server.counter("server.leaves_reported");
    assert!((1..=written).contains(&reported), "{reported} of {written}");
    assert_eq!(server.counter("server.leaves_refused"), 0);
    assert!(way.passed().dropped > 0);
    Fleet::assert_closed(&site, &tree);
}

#[test]
fn mirrors_behind_a_very_bad_path_equal_a_tree_of_many_leaves() {
    let site = Site::new();
    // More leaves than the checksums of one REQUEST.
    let tree = site.create_plain("tree", [3, 3_000, 100]);
    let server = Serving::server(&tree, &["--period", "10ms"]);
    let fleet = Fleet::join(&site, server.address, 0.3);
    let way = Proxy::start(server.address, weather(0.3, 9)).unwrap();
    let line = |number: u64| leaf_line(number * 7 % 3_000, &format!("line {number}"));
    let reports = Stream::start(way.address(), 2, line);
    reports.pass(400);
    let written = reports.end();
    fleet.assert_repaired(&site, &tree);
    let server = server.program.terminate().well();
    // Of a leaf that is reported again before it is acknowledged the newest goes only.
    let reported = server.counter("server.leaves_reported");
    assert!((1..=written).contains(&reported), "{reported} of {written}");
    assert!(server.counter("server.reports_repeated") + server.counter("server.reports_early") > 0);
    Fleet::assert_closed(&site, &tree);
}

#[test]
fn a_relay_of_a_relay_hands_the_tree_on() {
    let site = Site::new();
    let tree = site.create_plain("tree", [2, 500, 100]);
    let server = Serving::server(&tree, &["--period", "10ms"]);
    let options = ["--period", "10ms"];
    let near = Serving::relay(server.address, &site.path("near"), &options);
    let far = Serving::relay(near.address, &site.path("far"), &options);
    let last = mirror(far.address, &site.path("last"), &[]);
    last.wait_stderr("in sync at");
    let line = |number: u64| leaf_line(number % 500, &format!("line {number}"));
    let reports = Stream::start(server.address, 5, line);
    reports.pass(1_000);
    reports.end();
    let copies = ["near", "far", "last"].map(|name| site.path(name));
    copies.iter().for_each(|copy| wait_equal(&tree, copy));
    assert!(last.terminate().well().counter("client.events") > 0);
    for relay in [far, near] {
        let ended = relay.program.terminate().well();
        assert!(ended.counter("relay.events") > 0, "{ended}");
    }
    server.program.terminate().well();
    for copy in &copies {
        assert!(equal(&tree, copy));
        assert_whole(copy);
    }
}

const RACKS: &str = "\
[[parent]]\nname = \"rack1\"\nleaves = 20\nleaf_name = \"port{n}\"\ncapacity = 40\n\
[[parent]]\nname = \"rack2\"\nleaves = 30\nleaf_name = \"port{n}\"\ncapacity = 40\n";

fn rack_line(number: u64) -> String {
    let (rack, port) = (number % 2 + 1, number / 2 % 20);
    format!("{{\"path\":\"/rack{rack}/port{port}\",\"data\":\"/rack{rack} {number}\"}}")
}

/// What the dump says of the leaves below a parent, flags left out.
fn below(tree: &Path, parent: &str) -> Vec<(String, String, u64)> {
    let leaves = dump(tree).into_iter().filter(|(path, _)| path.starts_with(parent));
    let told = leaves.map(|(path, line)| {
        let (text, revision) = (text_of(&line), line["revision"].as_u64().unwrap());
        (path, text, revision)
    });
    told.collect()
}

#[test]
fn a_filter_brings_the_leaves_of_one_parent_alone() {
    let site = Site::new();
    let tree = site.create("tree", &site.write("racks.toml", RACKS));
    let server = Serving::server(&tree, &["--period", "10ms"]);
    // Some leaves come by the first copy, some by EVENTs.
    let lines = |from: u64| {
        let mut device = report_lines(server.address);
        (from..from + 40).for_each(|number| device.write_line(rack_line(number)));
        device.close_stdin();
        device.ended().well();
    };
    lines(0);
    let part = site.path("part");
    let filtered = mirror(server.address, &part, &["--path", "/rack1"]);
    filtered.wait_stderr("in sync at");
    assert_eq!(below(&part, "/rack1"), below(&tree, "/rack1"));
    lines(1_000);
    let wanted = below(&tree, "/rack1");
    wait_until("the part follows", || below(&part, "/rack1") == wanted);
    assert_eq!(wanted.len(), 20);
    let ended = filtered.terminate().well();
    // Each leaf came once by the first copy, and once or twice by EVENTs.
    assert!(ended.counter("client.leaves_changed") + ended.counter("client.leaves_repaired") >= 40);
    server.program.terminate().well();
    assert_eq!(below(&part, "/rack2"), []);
    assert_eq!(below(&part, "/rack1"), below(&tree, "/rack1"));
    assert_whole(&part);
}
