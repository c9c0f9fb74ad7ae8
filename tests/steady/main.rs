//! What a running loop costs: no allocation once it is warm, one copy of a changed
//! leaf for all clients of a view, memory that what is read cannot blow up, and equal
//! replicas behind threads that send.
//!
//! Loops, sockets, files and weather are real. Allocations are counted by thread.

#![cfg(feature = "cli")]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)]
#[path = "../corpus/bodies/mod.rs"]
mod bodies;

mod allocator;
mod copies;
mod loops;
mod memory;
mod senders;
mod world;
