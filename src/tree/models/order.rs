//! `order` as models of concurrency have it: the names of `tree/order.rs`, made of
//! loom's, and mutants of them that a model must find.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::Mutex;

use loom::sync::atomic;
use loom::sync::atomic::AtomicUsize;

pub(crate) use loom::hint::spin_loop;
pub(crate) use loom::sync::atomic::Ordering;
pub(crate) use loom::thread::yield_now;

/// As few attempts as show one that is made again, and giving up.
pub(crate) const SPINS: u32 = 1;
pub(crate) const YIELDS: u32 = 1;

/// An ordering that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The writer's fence behind the odd seq.
    FenceBehindOdd,
    /// The reader's fence behind its first look.
    FenceBehindFirstLook,
    /// The reader's fence before its second look.
    FenceBeforeSecondLook,
    /// What makes a store a release: the even seq comes relaxed.
    ReleaseStores,
    /// What makes a swap a release.
    ReleaseSwap,
}

thread_local! {
    // All threads of a model run in the one thread of its test.
    static MISSING: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Leaves an ordering out of all models that this test runs from now on.
pub(crate) fn leave_out(mutant: Option<Mutant>) {
    MISSING.set(mutant);
}

fn is_missing(mutant: Mutant) -> bool {
    MISSING.get() == Some(mutant)
}

pub(crate) fn fence_behind_odd() {
    if !is_missing(Mutant::FenceBehindOdd) {
        atomic::fence(Ordering::Release);
    }
}

/// A model's own thread does all in the order of the program.
pub(crate) fn compiler_fence_before_save() {}

pub(crate) fn fence_behind_first_look() {
    if !is_missing(Mutant::FenceBehindFirstLook) {
        atomic::fence(Ordering::Acquire);
    }
}

pub(crate) fn fence_before_second_look() {
    if !is_missing(Mutant::FenceBeforeSecondLook) {
        atomic::fence(Ordering::Acquire);
    }
}

/// A word of 4 bytes that threads share.
#[derive(Debug)]
pub(crate) struct AtomicU32(atomic::AtomicU32);

impl AtomicU32 {
    fn new(value: u32) -> AtomicU32 {
        AtomicU32(atomic::AtomicU32::new(value))
    }

    pub(crate) fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }

    pub(crate) fn store(&self, value: u32, order: Ordering) {
        let relaxed = is_missing(Mutant::ReleaseStores) && order == Ordering::Release;
        self.0.store(value, if relaxed { Ordering::Relaxed } else { order });
    }
}

/// A word of 8 bytes. Where a record begins it is two of 4 bytes, as those are what
/// threads share; only the owner copies both at once, and nobody else stores then.
#[derive(Debug)]
pub(crate) enum AtomicU64 {
    Whole(atomic::AtomicU64),
    Halves([AtomicU32; 2]),
}

impl AtomicU64 {
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        match self {
            AtomicU64::Whole(word) => word.load(order),
            AtomicU64::Halves([low, high]) => {
                u64::from(low.load(order)) | u64::from(high.load(order)) << 32
            }
        }
    }

    pub(crate) fn store(&self, value: u64, order: Ordering) {
        match self {
            AtomicU64::Whole(word) => word.store(value, order),
            AtomicU64::Halves([low, high]) => {
                low.store(value as u32, order);
                high.store((value >> 32) as u32, order);
            }
        }
    }
}

/// Parts of a file, zero at first: as much of it as a model touches.
#[derive(Debug, Default)]
pub(crate) struct Memory(Vec<(usize, Vec<AtomicU64>)>);

impl Memory {
    /// Parts by offset and length in bytes, both multiples of 8. The first word of
    /// each is two of 4 bytes.
    pub(crate) fn new(parts: &[(usize, usize)]) -> Memory {
        let words = |len: usize| {
            let halves = AtomicU64::Halves([AtomicU32::new(0), AtomicU32::new(0)]);
            let whole = (1..len / 8).map(|_| AtomicU64::Whole(atomic::AtomicU64::new(0)));
            std::iter::once(halves).chain(whole).collect()
        };
        Memory(parts.iter().map(|(offset, len)| (*offset, words(*len))).collect())
    }

    pub(crate) fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        if count == 0 {
            return &[];
        }
        let part = self
            .0
            .iter()
            .find_map(|(begin, words)| words.get(offset.checked_sub(*begin)? / 8..)?.get(..count));
        part.unwrap_or_else(|| panic!("{count} words at {offset} are not modelled"))
    }

    pub(crate) fn word32(&self, offset: usize) -> &AtomicU32 {
        match self.words(offset & !7, 1) {
            [AtomicU64::Halves(halves)] => &halves[offset / 4 % 2],
            _ => panic!("the word at {offset} is not modelled as two"),
        }
    }
}

/// `arc_swap::ArcSwap` for loom, which does not know that crate: the place of the
/// newest value in a list that nothing leaves. It orders no more than arc-swap
/// promises: who loads a value sees what came before its store. That arc-swap frees
/// a value when nobody uses it is its own affair, and not modelled.
#[derive(Debug)]
pub(crate) struct Swap<T> {
    newest: AtomicUsize,
    // Not loom's: it must not order what arc-swap does not.
    values: Mutex<Vec<Arc<T>>>,
}

impl<T> Swap<T> {
    pub(crate) fn new(value: Arc<T>) -> Swap<T> {
        Swap { newest: AtomicUsize::new(0), values: Mutex::new(vec![value]) }
    }

    pub(crate) fn load(&self) -> Arc<T> {
        let place = self.newest.load(Ordering::Acquire);
        Arc::clone(&self.values.lock().expect("no model panics here")[place])
    }

    pub(crate) fn store(&self, value: Arc<T>) {
        let place = {
            let mut values = self.values.lock().expect("no model panics here");
            values.push(value);
            values.len() - 1
        };
        let relaxed = is_missing(Mutant::ReleaseSwap);
        self.newest.store(place, if relaxed { Ordering::Relaxed } else { Ordering::Release });
    }
}
