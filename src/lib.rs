//! mapleaf keeps many replicas of one live state table equal to it, over UDP.
//!
//! A table is a tree of leaves in a fixed-layout, memory-mapped file. Each
//! period the server sends the leaves that changed in EVENT datagrams; an
//! EventNum shows a loss at once; a REQUEST names what a replica holds, by
//! checksums or by a revision, and a RESPONSE brings what differs.
//!
//! The layers, lowest first (a module imports only from lower ones):
//!
//! | layer | module | holds |
//! | --- | --- | --- |
//! | 0 | [`layout`] | structs of the tree file, ids, every limit |
//! | 0 | [`kernel`] | CRC32C, changed scan, column difference |
//! | 0 | `net` | UDP socket that sends segments and receives in batches |
//! | 1 | [`wire`] | datagrams: structs, decoding, encoding |
//! | 1 | `tree` | the mapped tree: create, open, recover, write, read, index |
//! | 2 | [`sync`] | the protocol without sockets, clocks, threads or files |
//! | 3 | `bridge` | how a tree answers what the protocol asks |
//! | 4 | `sim` | seeded network, clock and faults around `sync` and `tree` |
//! | 4 | `runtime` | the mio loops around it |
//!
//! Without features the crate is `layout`, `kernel`, `wire` and `sync`; the
//! features `tree`, `net`, `sim`, `runtime` and `cli` add the rest.

#[cfg(any(feature = "runtime", feature = "sim"))]
mod bridge;
pub mod kernel;
pub mod layout;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "runtime")]
pub mod runtime;
#[cfg(feature = "sim")]
pub mod sim;
pub mod sync;
#[cfg(feature = "tree")]
pub mod tree;
pub mod wire;
