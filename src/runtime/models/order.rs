//! `order` as models of concurrency have it: the names of `runtime/order.rs`, made of
//! loom's, and mutants of them that a model must find.

use std::cell::Cell;

use loom::sync::atomic;

pub(in crate::runtime) use loom::hint::spin_loop;
pub(in crate::runtime) use loom::sync::atomic::AtomicU32;
pub(in crate::runtime) use loom::sync::atomic::Ordering;
pub(in crate::runtime) use loom::thread::Builder;
pub(in crate::runtime) use loom::thread::JoinHandle;
pub(in crate::runtime) use loom::thread::Thread;
pub(in crate::runtime) use loom::thread::current;
pub(in crate::runtime) use loom::thread::park;

/// As few looks as show one that is made again.
pub(in crate::runtime) const SPINS: u32 = 1;

/// An ordering that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) enum Mutant {
    /// What makes a publication a release.
    ReleasePublication,
    /// What makes it a release that a sender is done.
    ReleaseDone,
    /// What makes a look at the other side's word an acquisition.
    AcquireLoads,
    /// A publication looks for a sleeper first and replaces the word then.
    SwapInTwoSteps,
}

thread_local! {
    // All threads of a model run in the one thread of its test.
    static MISSING: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Leaves an ordering out of all models that this test runs from now on.
pub(in crate::runtime) fn leave_out(mutant: Option<Mutant>) {
    MISSING.set(mutant);
}

fn weakened(mutant: Mutant, order: Ordering) -> Ordering {
    if MISSING.get() == Some(mutant) { Ordering::Relaxed } else { order }
}

/// A lane's word or count: words are swapped, counts are stored.
#[derive(Debug)]
pub(in crate::runtime) struct AtomicU64(atomic::AtomicU64);

impl AtomicU64 {
    pub(in crate::runtime) fn new(value: u64) -> AtomicU64 {
        AtomicU64(atomic::AtomicU64::new(value))
    }

    pub(in crate::runtime) fn load(&self, order: Ordering) -> u64 {
        self.0.load(weakened(Mutant::AcquireLoads, order))
    }

    pub(in crate::runtime) fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, weakened(Mutant::ReleaseDone, order));
    }

    pub(in crate::runtime) fn swap(&self, value: u64, order: Ordering) -> u64 {
        if MISSING.get() == Some(Mutant::SwapInTwoSteps) {
            let before = self.0.load(Ordering::Acquire);
            self.0.store(value, order);
            return before;
        }
        self.0.swap(value, weakened(Mutant::ReleasePublication, order))
    }

    pub(in crate::runtime) fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, success, failure)
    }
}
