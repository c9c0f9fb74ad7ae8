//! This machine's network interfaces as leaves.

use std::fs;

use serde_json::Value;

use crate::support::process::Program;
use crate::support::process::Serving;
use crate::support::process::mapleaf;
use crate::support::process::run;
use crate::support::trees::Site;
use crate::support::trees::dump;
use crate::support::trees::example;

/// Interfaces that the example has leaves for.
const LEAVES: usize = 32;

fn is_loopback(leaf: &Value) -> bool {
    leaf["fields"]["name"] == "lo"
}

/// What the kernel says of `lo`.
fn kernel(attribute: &str) -> u64 {
    let text = fs::read_to_string(format!("/sys/class/net/lo/{attribute}")).unwrap();
    text.trim().parse().unwrap()
}

fn assert_typed(leaf: &Value) {
    let fields = &leaf["fields"];
    assert_eq!(fields["mtu"], kernel("mtu"), "{leaf}");
    assert_eq!(fields["index"], kernel("ifindex"), "{leaf}");
    assert!(fields["state"].as_u64().is_some_and(|state| state <= 6), "{leaf}");
    assert!(fields["speed_mbps"].is_i64(), "{leaf}");
    // The datagrams of this story passed it.
    let received = fields["rx_bytes"].as_u64().unwrap();
    assert!(received > 0 && received <= kernel("statistics/rx_bytes"), "{leaf}");
    assert!(leaf["path"].as_str().unwrap().starts_with("/host/interfaces/"), "{leaf}");
}

#[test]
fn an_agent_shows_the_interfaces_of_this_machine() {
    let interfaces = fs::read_dir("/sys/class/net").map_or(0, Iterator::count);
    if !fs::exists("/sys/class/net/lo").unwrap_or(false) || interfaces > LEAVES {
        println!("skipped: {interfaces} interfaces, wanted lo and at most {LEAVES}");
        return;
    }
    let site = Site::new();
    let tree = site.create("host", &example("interfaces.toml"));
    let server = Serving::server(&tree, &["--period", "10ms"]);
    let address = server.address.to_string();
    let watch = |count: usize| {
        let count = count.to_string();
        let place = ["--path", "/host/interfaces", "--count", &count, "--json"];
        let watch = Program::start(mapleaf(["watch", &address].into_iter().chain(place)));
        watch.wait_stderr("watching ");
        watch
    };
    let (one, all) = (watch(1), watch(interfaces));
    run(mapleaf(["agent", &address, "--parent", "interfaces", "--count", "1"])).well();
    let lines = |watch: Program| -> Vec<Value> {
        let lines = watch.ended().well().stdout;
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let first = lines(one);
    assert_eq!(first.len(), 1, "{first:?}");
    assert!(first[0]["fields"]["name"].is_string(), "{first:?}");
    let seen = lines(all);
    let loopback: Vec<&Value> = seen.iter().filter(|leaf| is_loopback(leaf)).collect();
    assert_eq!(loopback.len(), 1, "{seen:?}");
    assert_typed(loopback[0]);
    server.program.terminate().well();
    let held = dump(&tree);
    let held = held.values().find(|leaf| is_loopback(leaf)).expect("the tree has lo");
    assert_typed(held);
    assert_eq!(held["checksum"], loopback[0]["checksum"]);
}
