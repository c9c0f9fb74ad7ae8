//! Figures of the tree engine; nothing is asserted.
//!
//! `cargo test --release --test tree_speed -- --ignored --nocapture`, with the
//! folder of the files in `MAPLEAF_SPEED_DIR` (that of temporary files otherwise).
#![cfg(feature = "tree")]

use std::env;
use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Life;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Damaged;
use mapleaf::tree::Layout;
use mapleaf::tree::OpenOptions;
use mapleaf::tree::Tree;

const ROUNDS: usize = 5;

/// Time that this thread had a processor, where the system tells it: other work
/// on the machine does not count. Otherwise the clock.
fn thread_time(begin: Instant) -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ran = text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok());
    ran.map_or_else(|| begin.elapsed().as_secs_f64(), |ns| ns / 1e9)
}

/// Runs five times and prints the rate of the median, and the extremes.
fn measure(what: &str, count: u32, mut run: impl FnMut()) {
    let begin = Instant::now();
    let mut rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = thread_time(begin);
            run();
            f64::from(count) / (thread_time(begin) - start) / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let (low, median, high) = (rates[0], rates[ROUNDS / 2], rates[ROUNDS - 1]);
    println!("{what:44} {median:8.2} M/s ({low:.2} to {high:.2})");
}

/// Leaves in an order without a pattern.
fn shuffled(leaves: u32, count: u32) -> Vec<DataLocId> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((state >> 33) as u32) % leaves
    };
    (0..count).map(|_| DataLocId(next())).collect()
}

fn path() -> PathBuf {
    let folder = env::var_os("MAPLEAF_SPEED_DIR").map_or_else(env::temp_dir, PathBuf::from);
    folder.join(format!("mapleaf-speed-{}", std::process::id()))
}

fn run(leaves: u32, data_size: u32, count: u32) {
    println!("{leaves} leaves of {data_size} B:");
    let path = path();
    let layout = Layout::plain(16, leaves, data_size).unwrap();
    let role = TreeRole::Server;
    let options = CreateOptions { role, tree_id: TreeId(1), life: Life(0), unix_s: 0 };
    let start = Instant::now();
    let mut tree = Tree::create(&path, layout, options).unwrap();
    println!("  create {:.3} s", start.elapsed().as_secs_f64());
    tree.begin_life(0).unwrap();
    let order = shuffled(leaves, count);
    let data = vec![7; data_size as usize];
    measure("  write, random leaves", count, || {
        order.iter().for_each(|leaf| _ = tree.write(*leaf, &data).unwrap());
    });
    let mut taken = Vec::new();
    tree.take_changes(&mut taken);
    measure("  write and take, 1,000 a period", count, || {
        for period in order.chunks(1000) {
            period.iter().for_each(|leaf| _ = tree.write(*leaf, &data).unwrap());
            taken.clear();
            tree.take_changes(&mut taken);
        }
    });
    let mut wire = vec![0; 65_536];
    measure("  copy_wire, random leaves", count, || {
        order.iter().for_each(|leaf| _ = black_box(tree.copy_wire(*leaf, &mut wire)));
    });
    let (reader, mut found) = (tree.reader(), Vec::new());
    measure("  read by seqlock, random leaves", count, || {
        order.iter().for_each(|leaf| _ = black_box(reader.read(*leaf, &mut found)));
    });
    let start = Instant::now();
    tree.close().unwrap();
    println!("  close {:.3} s", start.elapsed().as_secs_f64());
    let open = OpenOptions { role, damaged: Damaged::Refuse, unix_s: 0 };
    let start = Instant::now();
    drop(Tree::open(&path, open).unwrap());
    println!("  open and verify {:.3} s", start.elapsed().as_secs_f64());
    fs::remove_file(&path).unwrap();
}

#[test]
#[ignore = "a measurement, for a release build"]
fn figures() {
    run(10_000, 64, 2_000_000);
    run(1_000_000, 64, 1_000_000);
    run(1_000_000, 200, 1_000_000);
}
