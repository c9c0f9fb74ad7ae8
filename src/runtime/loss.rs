//! Datagrams that a mirror loses on purpose, to see what loss costs.
//!
//! A datagram that came is dropped before the protocol sees it, and one that is to
//! leave is dropped instead of sent: for both ends it is lost on the way. No process
//! stands between them, so a figure with loss and one without are of the same path.
//! Which datagrams are lost is drawn from a seed, each by itself.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// How many datagrams a mirror loses on purpose, both ways. Clones are the same: one
/// is given to the mirror, another says more or less while it runs.
#[derive(Clone, Debug)]
pub struct Loss {
    seed: u64,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// A datagram is dropped if 53 random bits are below it.
    threshold: AtomicU64,
    dropped: AtomicU64,
}

/// Shares are counted in steps of this many bits, which are what an f64 holds.
const SHARE_BITS: u32 = 53;

impl Loss {
    /// Loses this share of the datagrams, from 0 (none) to 1 (all).
    pub fn new(share: f64, seed: u64) -> Loss {
        let loss = Loss { seed, shared: Arc::default() };
        loss.set(share);
        loss
    }

    /// Loses this share from now on.
    pub fn set(&self, share: f64) {
        let threshold = share.clamp(0.0, 1.0) * (1_u64 << SHARE_BITS) as f64;
        self.shared.threshold.store(threshold as u64, Ordering::Relaxed);
    }

    /// Datagrams lost so far, both ways together.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// What draws, datagram by datagram.
    pub(super) fn dropper(self) -> Dropper {
        Dropper { random: self.seed, loss: self }
    }
}

/// Decides of one datagram after the other.
#[derive(Debug)]
pub(super) struct Dropper {
    loss: Loss,
    random: u64,
}

impl Dropper {
    /// Whether the next datagram is lost.
    pub(super) fn drops(&mut self) -> bool {
        let shared = &self.loss.shared;
        let threshold = shared.threshold.load(Ordering::Relaxed);
        if threshold == 0 || self.next() >= threshold {
            return false;
        }
        self.loss.shared.dropped.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// The next of SplitMix64: small, and the same everywhere for a seed.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> (u64::BITS - SHARE_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of so many datagrams are lost.
    fn lost(loss: Loss, count: usize) -> Vec<usize> {
        let mut dropper = loss.dropper();
        (0..count).filter(|_| dropper.drops()).collect()
    }

    #[test]
    fn none_and_all_are_exact() {
        assert_eq!(lost(Loss::new(0.0, 1), 10_000), Vec::<usize>::new());
        assert_eq!(lost(Loss::new(1.0, 1), 100).len(), 100);
        // What is no share is none or all of them.
        assert_eq!(lost(Loss::new(f64::NAN, 1), 100).len(), 0);
        assert_eq!(lost(Loss::new(7.0, 1), 100).len(), 100);
    }

    #[test]
    fn a_seed_loses_the_same_datagrams_again_at_its_rate() {
        let loss = |seed| Loss::new(0.01, seed);
        let first = lost(loss(1), 100_000);
        // 1,000 are expected; six deviations are 190.
        assert!((810..1_190).contains(&first.len()), "{} of 100,000 at 1 %", first.len());
        assert_eq!(first, lost(loss(1), 100_000));
        assert_ne!(first, lost(loss(2), 100_000));
    }

    #[test]
    fn it_changes_while_it_runs_and_is_counted() {
        let loss = Loss::new(0.0, 1);
        let mut dropper = loss.clone().dropper();
        assert!(!dropper.drops());
        loss.set(1.0);
        assert!(dropper.drops() && dropper.drops());
        loss.set(0.0);
        assert!(!dropper.drops());
        assert_eq!(loss.dropped(), 2);
    }
}
