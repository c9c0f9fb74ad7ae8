//! `serve --durability power`: what is acknowledged is on the medium, in the redo log at
//! first, and a tree whose pages were never written back gets it from there.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use mapleaf::tree::RedoSummary;

use crate::support::oracle::Devices;
use crate::support::process::Serving;
use crate::support::process::Signal;
use crate::support::process::mapleaf;
use crate::support::process::mapleaf_tree;
use crate::support::process::mirror;
use crate::support::process::run;
use crate::support::trees::Site;
use crate::support::trees::assert_whole;
use crate::support::trees::equal;
use crate::support::trees::wait_equal;
use crate::support::wait_until;

const LEAVES: u32 = 60;

/// Devices of one leaf each.
const SINGLES: u32 = 8;

const POWER: [&str; 4] = ["--period", "5ms", "--durability", "power"];

fn log_of(tree: &Path) -> PathBuf {
    let mut name = tree.as_os_str().to_owned();
    name.push(".redo");
    name.into()
}

/// Writes an older image over a page of the tree, or over all of them: what a machine
/// holds that lost its power before these pages were written back.
fn lose_pages(tree: &Path, old: &[u8], lost: impl Fn(usize) -> bool) {
    let mut bytes = fs::read(tree).unwrap();
    assert_eq!(bytes.len(), old.len());
    for (page, (new, old)) in bytes.chunks_mut(4096).zip(old.chunks(4096)).enumerate() {
        if lost(page) {
            new.copy_from_slice(old);
        }
    }
    fs::write(tree, bytes).unwrap();
}

#[test]
fn a_tree_that_lost_its_pages_gets_them_back_from_the_redo_log() {
    let site = Site::new();
    let tree = site.create_plain("tree", [3, LEAVES, 180]);
    let mut address = "127.0.0.1:0".parse().unwrap();
    let mut devices: Option<Devices> = None;
    let all = |_| true;
    let odd = |page| page % 2 == 1;
    let even = |page| page % 2 == 0;
    let none = |_| false;
    let losses: [&dyn Fn(usize) -> bool; 4] = [&all, &odd, &even, &none];
    for (round, lost) in losses.into_iter().enumerate() {
        // Every other server that recovers makes no promise of its own.
        let options = if round % 2 == 0 { &POWER[..] } else { &POWER[..2] };
        Serving::server_at(address, &tree, options).program.terminate().well();
        let server = Serving::server_at(address, &tree, &POWER);
        address = server.address;
        let synced = fs::read(&tree).unwrap();
        let devices = devices
            .get_or_insert_with(|| Devices::connect(address, 0..LEAVES, SINGLES, 0x706f_7765));
        devices.report_for(Duration::from_millis(300));
        server.program.kill();
        devices.poll(Duration::from_millis(5));
        assert!(devices.acknowledged() > 0);
        lose_pages(&tree, &synced, lost);
        // It may call leaves damaged: those that were written when the end came.
        let stat = run(mapleaf_tree([Path::new("stat"), &tree]));
        let told = stat.stdout.join("\n");
        assert!(told.contains("redo"), "{told}");
        let server = Serving::server_at(address, &tree, options);
        devices.assert_kept(&tree);
        devices.flush();
        devices.assert_kept(&tree);
        assert_whole(&tree);
        server.program.terminate().well();
        assert!(!log_of(&tree).exists(), "nothing waits once it ended in good order");
        assert_whole(&tree);
    }
}

#[test]
fn commits_and_checkpoints_go_on_while_a_tree_grows_and_is_followed() {
    let site = Site::new();
    let schema = |leaves: u32| {
        let text = format!("[[parent]]\nname = \"meters\"\nleaves = {leaves}\ncapacity = 200\n");
        site.write("schema.toml", &text)
    };
    let path = schema(LEAVES);
    let tree = site.create("tree", &path);
    let options = [&POWER[..], &["--schema", path.to_str().unwrap()]].concat();
    let server = Serving::server(&tree, &options);
    let copy = site.path("copy");
    let follower = mirror(server.address, &copy, &[]);
    let mut devices = Devices::connect(server.address, 0..LEAVES, SINGLES, 0x6772_6f77);
    for leaves in 1..=3 {
        devices.report_for(Duration::from_millis(400));
        schema(LEAVES + leaves);
        server.program.signal(Signal::Hup);
        devices.report_for(Duration::from_millis(100));
        devices.flush();
        devices.assert_kept(&tree);
    }
    // Until the log has been gone round: what lies in it becomes less then.
    let mut held = 0;
    wait_until("the log is gone round", || {
        devices.report_for(Duration::from_millis(100));
        let summary = RedoSummary::beside(&tree).unwrap().unwrap();
        core::mem::replace(&mut held, summary.batches) > summary.batches
    });
    devices.flush();
    wait_equal(&tree, &copy);
    follower.terminate().well();
    let ended = server.program.terminate().well();
    assert!(ended.counter("redo.checkpoints") > 0, "{ended}");
    assert!(ended.counter("redo.leaves") > ended.counter("redo.commits"), "{ended}");
    devices.assert_kept(&tree);
    assert!(equal(&tree, &copy));
}

#[test]
fn a_log_that_somebody_cuts_ends_the_server_and_nothing_acknowledged_is_lost() {
    let site = Site::new();
    let tree = site.create_plain("tree", [3, LEAVES, 180]);
    let server = Serving::server(&tree, &POWER);
    let address = server.address;
    let mut devices = Devices::connect(address, 0..LEAVES - 1, SINGLES, 0x6375_7473);
    devices.report_for(Duration::from_millis(100));
    devices.flush();
    fs::File::options().write(true).open(log_of(&tree)).unwrap().set_len(8_192).unwrap();
    let last = (LEAVES - 1).to_string();
    let report =
        ["report", &address.to_string(), "--leaf", &last, "--data", "x", "--timeout", "1s"];
    assert_eq!(run(mapleaf(report)).code(), 2, "it is not acknowledged");
    let ended = server.program.ended();
    assert_eq!(ended.code(), 2, "{ended}");
    assert!(ended.stderr.join("\n").contains("while in use, expected"), "{ended}");
    // Nobody can tell what the log held: it is for a person to decide.
    let mut again = mapleaf(["serve"]);
    again.arg(&tree).args(["--listen", "127.0.0.1:0"]).args(POWER);
    let refused = run(again);
    assert_eq!(refused.code(), 2, "{refused}");
    assert!(refused.stderr.join("\n").contains("tree.redo"), "{refused}");
    let options = [&POWER[..], &["--reset-damaged"]].concat();
    let server = Serving::server_at(address, &tree, &options);
    devices.assert_kept(&tree);
    devices.flush();
    devices.assert_kept(&tree);
    server.program.terminate().well();
}
