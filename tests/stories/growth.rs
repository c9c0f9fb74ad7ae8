//! A tree that grows while it is served, followed by mirrors, relays and devices.

use std::path::Path;

use crate::support::load::Stream;
use crate::support::load::report_lines;
use crate::support::process::Serving;
use crate::support::process::Signal;
use crate::support::process::mirror;
use crate::support::trees::Site;
use crate::support::trees::assert_whole;
use crate::support::trees::dump;
use crate::support::trees::equal;
use crate::support::trees::stat_number;
use crate::support::trees::text_of;
use crate::support::trees::wait_equal;
use crate::support::wait_until;

fn hall(name: &str, leaves: u32) -> String {
    format!(
        "[[parent]]\nname = \"{name}\"\nleaves = {leaves}\nleaf_name = \"m{{n}}\"\ncapacity = 60\n"
    )
}

/// Data of a leaf begins with its path: a value that went astray is seen.
fn line(path: &str, number: u64) -> String {
    format!("{{\"path\":\"{path}\",\"data\":\"{path} {number}\"}}")
}

fn path_of(number: u64) -> String {
    format!("/hall{}/m{}", number % 2 + 1, number / 2 % 10)
}

/// Every leaf holds a value that was reported for it.
fn assert_nothing_astray(tree: &Path) {
    for (path, leaf) in dump(tree) {
        let text = text_of(&leaf);
        assert!(text.starts_with(&format!("{path} ")), "{path} holds {text:?}");
    }
}

/// Old halls get more leaves, so that DataLocIDs move, and new halls come.
struct Plant {
    site: Site,
    server: Serving,
}

const SMALL: u64 = 20 + 10;
const LARGE: u64 = 25 + 10 + 300;

impl Plant {
    fn new() -> Plant {
        let site = Site::new();
        let schema = site.write("plant.toml", &(hall("hall1", 20) + &hall("hall2", 10)));
        let tree = site.create("tree", &schema);
        let server =
            Serving::server(&tree, &["--period", "10ms", "--schema", schema.to_str().unwrap()]);
        Plant { site, server }
    }

    fn grow(&self) {
        let text = hall("hall1", 25) + &hall("hall2", 10) + &hall("hall3", 300);
        self.site.write("plant.toml", &text);
        self.server.program.signal(Signal::Hup);
        let tree = self.site.path("tree");
        wait_until("the tree grows", || stat_number(&tree, "leaves") == LARGE);
    }

    fn report(&self, lines: &[String]) {
        let mut device = report_lines(self.server.address);
        lines.iter().for_each(|line| device.write_line(line));
        device.close_stdin();
        device.ended().well();
    }
}

#[test]
fn mirrors_and_relays_follow_a_tree_that_grows() {
    let plant = Plant::new();
    let site = &plant.site;
    let near = mirror(plant.server.address, &site.path("near"), &[]);
    let relay = Serving::relay(plant.server.address, &site.path("relay"), &["--period", "10ms"]);
    let far = mirror(relay.address, &site.path("far"), &[]);
    let old: Vec<String> = (0..20).map(|number| line(&path_of(number), number)).collect();
    plant.report(&old);
    let tree = site.path("tree");
    let copies = ["near", "relay", "far"].map(|name| site.path(name));
    copies.iter().for_each(|copy| wait_equal(&tree, copy));
    copies.iter().for_each(|copy| assert_eq!(stat_number(copy, "leaves"), SMALL));
    let before = dump(&tree);
    assert_eq!(before.len(), 20);
    plant.grow();
    let new = ["/hall1/m24", "/hall3/m0", "/hall3/m299"];
    plant.report(&new.map(|path| line(path, 77)));
    copies.iter().for_each(|copy| wait_equal(&tree, copy));
    for mirror in [near, far] {
        mirror.terminate().well();
    }
    relay.program.terminate().well();
    plant.server.program.terminate().well();
    for file in copies.iter().chain([&tree]) {
        assert_eq!(stat_number(file, "leaves"), LARGE);
        assert_whole(file);
        assert!(equal(&tree, file));
        assert_nothing_astray(file);
        let after = dump(file);
        assert_eq!(after.len(), 23);
        for (path, leaf) in &before {
            let kept = |key: &str| assert_eq!(after[path][key], leaf[key], "{key} of {path}");
            ["data", "revision"].iter().for_each(|key| kept(key));
        }
    }
}

#[test]
fn reports_by_path_find_their_leaves_while_the_tree_grows() {
    let plant = Plant::new();
    let tree = plant.site.path("tree");
    let reports = Stream::start(plant.server.address, 20, |n| line(&path_of(n), n));
    reports.pass(500);
    plant.grow();
    reports.pass(500);
    reports.end();
    plant.server.program.terminate().well();
    assert_nothing_astray(&tree);
    assert_eq!(dump(&tree).len(), 20);
}
