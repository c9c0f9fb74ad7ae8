//! What stories about real processes share: programs that end with the test, lossy
//! paths, waits that a watchdog bounds, trees in a folder of their own and how they
//! are compared.
//!
//! Each story uses a part of it.
#![allow(dead_code)]

use std::thread;
use std::time::Duration;
use std::time::Instant;

pub(crate) mod load;
pub(crate) mod oracle;
pub(crate) mod path;
pub(crate) mod process;
pub(crate) mod trees;

/// The proxy of `mapleaf demo`: drops, doubles and reorders by a seed.
#[path = "../../src/cli/proxy.rs"]
pub(crate) mod proxy;

/// A loaded machine is slow, but not as slow as this.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(120);

/// Time between two looks of a wait.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `done`.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    wait_for(what, || done().then_some(()));
}

/// Waits until there is something, and gives it.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < WATCHDOG, "waited too long: {what}");
        thread::sleep(LOOK);
    }
}
