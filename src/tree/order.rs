//! What threads order their work by: atomics, fences, a reader's pauses, and the swap
//! of a thing that others look at whole.
//!
//! Everything in `tree` that another thread may see goes through this file. In tests
//! built with `--cfg loom` the file `models/order.rs` takes its place, so that the
//! models run the very functions that store and read leaves. Here every name is one
//! of the standard library or arc-swap, or is inlined to one: it costs nothing.

use std::sync::atomic;

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::AtomicU32;
pub(crate) use std::sync::atomic::AtomicU64;
pub(crate) use std::sync::atomic::Ordering;
pub(crate) use std::thread::yield_now;

pub(crate) use arc_swap::ArcSwap as Swap;

/// Attempts of a reader that spin: a write takes some 100 ns.
pub(crate) const SPINS: u32 = 64;

/// Attempts that give the processor away between: the writer may be waiting for it
/// in mid-write.
pub(crate) const YIELDS: u32 = 100_000;

/// Keeps the writer's words behind its odd seq.
#[inline(always)]
pub(crate) fn fence_behind_odd() {
    atomic::fence(Ordering::Release);
}

/// Keeps what is saved behind what was stored before, in the order of the program: it
/// matters to who dies between two of its stores, and to no other thread.
#[inline(always)]
pub(crate) fn compiler_fence_before_save() {
    atomic::compiler_fence(Ordering::Release);
}

/// Keeps a reader's words behind its first look at seq.
#[inline(always)]
pub(crate) fn fence_behind_first_look() {
    atomic::fence(Ordering::Acquire);
}

/// Keeps a reader's words before its second look at seq.
#[inline(always)]
pub(crate) fn fence_before_second_look() {
    atomic::fence(Ordering::Acquire);
}
