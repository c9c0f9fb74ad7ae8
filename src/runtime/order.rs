//! What the hand-over between the loop and its senders orders its work by.
//!
//! In tests built with `--cfg loom` the file `models/order.rs` takes its place, so
//! that the models run the very functions that hand over and take. Here every name is
//! one of the standard library: it costs nothing.

pub(super) use std::hint::spin_loop;
pub(super) use std::sync::atomic::AtomicU32;
pub(super) use std::sync::atomic::AtomicU64;
pub(super) use std::sync::atomic::Ordering;
pub(super) use std::thread::Builder;
pub(super) use std::thread::JoinHandle;
pub(super) use std::thread::Thread;
#[cfg(test)]
pub(super) use std::thread::current;
pub(super) use std::thread::park;

/// Looks at its lane that a sender takes before it sleeps: some 5 us, about what the
/// next part of the same period takes to be laid out. To be woken costs more.
pub(super) const SPINS: u32 = 200;
