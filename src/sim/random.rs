//! Randomness from a seed: everything that a run draws.

use core::time::Duration;

use crate::sync::RandomSource;

/// SplitMix64: one u64 of state, every seed a good one, and a sequence that any
/// machine repeats.
#[derive(Clone, Debug)]
pub(super) struct Seeded(u64);

/// The finaliser of SplitMix64.
pub(super) const fn mix(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Seeded {
    pub(super) fn new(seed: u64) -> Seeded {
        Seeded(seed)
    }

    /// Another source, whose numbers do not depend on how many are drawn here.
    pub(super) fn fork(&mut self) -> Seeded {
        Seeded(mix(self.next_u64()))
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        // 53 bits: what an f64 holds exactly.
        let drawn = (self.next_u64() >> 11) as f64 / ((1_u64 << 53) as f64);
        drawn < probability
    }

    /// A number of `low..=high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next_u64() % (high - low + 1)
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        (self.next_u64() % len as u64) as usize
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    pub(super) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.between(low * 1_000, high * 1_000))
    }
}

impl RandomSource for Seeded {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

/// FNV-1a with a key, for cookies: it tells messages apart, and nobody attacks a
/// simulation from outside.
pub(super) fn mac(key: [u64; 2], message: &[u8]) -> [u64; 2] {
    key.map(|start| {
        message.iter().fold(start ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    })
}
