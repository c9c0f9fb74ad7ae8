//! Campaigns: the same mishap many times, at moments drawn from a seed, with the real
//! programs.
//!
//! Each test does a few of them. `tools/campaign.sh` does many: the numbers come from
//! variables, and each campaign ends with one line that begins with `figure:` for
//! docs/RELIABILITY.md. A seed draws the same options and pauses again; what a program
//! is doing when the pause is over is up to the machine.

#![cfg(feature = "cli")]

#[path = "../support/mod.rs"]
mod support;

mod cuts;
mod full;
mod kills;

use std::env;
use std::fmt;
use std::time::Duration;

use support::proxy::SplitMix;

/// A number that a variable may raise.
fn count(variable: &str, usual: u32) -> u32 {
    env::var(variable).map_or(usual, |text| text.parse().expect(variable))
}

/// The seed of all draws.
fn seed() -> u64 {
    env::var("MAPLEAF_SEED").map_or(1, |text| text.parse().expect("MAPLEAF_SEED"))
}

/// A pause of less than `end`, in steps of a microsecond.
fn pause(random: &mut SplitMix, end: Duration) -> Duration {
    Duration::from_micros(u64::from(random.below(end.as_micros() as u32)))
}

/// What a campaign came to.
fn figure(campaign: &str, seed: u64, found: impl fmt::Display) {
    println!("figure: {campaign}, seed {seed}: {found}");
}
