//! The loops around the protocol: a server, a mirror, a device.
//!
//! Each loop has one thread, one `mio` poll, and the protocol core of [`crate::sync`]:
//! it waits, hands the core one datagram or moment, lays out what the core planned
//! (once for each view, in a ring that nobody writes until its turn comes again),
//! sends it from there, and waits again. Time, randomness, sockets and files come
//! from here; what is said to whom does not.
//!
//! - [`serve`] owns a tree file and serves it until its [`Control`] ends it; a [`Feed`]
//!   fills it from the same process.
//! - [`mirror`] keeps a replica, in a file or in memory, and may serve it on.
//! - [`Reporter`] reports the leaves of one device from ordinary code.
//!
//! Logs go to `tracing`: what happens to sessions at `info` and `debug`, datagrams
//! at `trace` alone, numbers to [`Counters`].

mod adapter;
mod alarm;
mod buffers;
mod clock;
mod commits;
mod control;
mod error;
mod feed;
mod group;
mod growth;
mod handover;
mod journal;
mod keeper;
mod lists;
mod lookout;
mod loss;
mod metrics;
mod mirror;
mod mirror_core;
#[cfg(all(loom, test))]
mod models;
mod observer;
mod options;
#[cfg_attr(all(loom, test), path = "models/order.rs")]
mod order;
mod outlet;
mod pacing;
mod poll;
mod relay;
mod reporter;
mod ring;
mod senders;
mod serve;
mod server_loop;

#[cfg(test)]
mod loopback_tests;

pub use control::Control;
pub use control::Reload;
pub use control::Stop;
pub use control::Waker;
pub use error::LoopError;
pub use error::MirrorError;
pub use error::ReporterError;
pub use error::ServeError;
pub use feed::Feed;
pub use feed::FeedError;
pub use feed::FeedWriter;
pub use feed::Next;
pub use loss::Loss;
pub use metrics::Board;
pub use metrics::Counter;
pub use metrics::Counters;
pub use metrics::Kind;
pub use mirror::MirrorEnd;
pub use mirror::MirrorReport;
pub use mirror::mirror;
pub use observer::Changes;
pub use observer::GroupState;
pub use observer::MirrorObserver;
pub use observer::MirrorStatus;
pub use options::Durability;
pub use options::GroupWish;
pub use options::LayoutPull;
pub use options::MirrorOptions;
pub use options::MirrorUntil;
pub use options::Multicast;
pub use options::OnReady;
pub use options::RECEIVE_BUFFER_DEFAULT;
pub use options::RING_SIZE_DEFAULT;
pub use options::RelayOptions;
pub use options::ReloadableConfig;
pub use options::ReporterOptions;
pub use options::SENDERS_MAX;
pub use options::ServeOptions;
pub use options::Transport;
pub use options::Waiting;
pub use reporter::Refusal;
pub use reporter::Reporter;
pub use serve::ServeReport;
pub use serve::serve;
