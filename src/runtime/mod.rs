//! The loops around the protocol: a server, a mirror, a device.
//!
//! Each loop has one thread, one `mio` poll, and the protocol core of [`crate::sync`]:
//! it waits, hands the core one datagram or moment, lays out what the core planned
//! (once for each view, in a ring that nobody writes until its turn comes again),
//! sends it from there, and waits again. Time, randomness, sockets and files come
//! from here; what is said to whom does not.
//!
//! - [`serve`] owns a tree file and serves it until its [`Control`] ends it.
//! - [`mirror`] keeps a replica, in a file or in memory, and may serve it on.
//! - [`Reporter`] reports the leaves of one device from ordinary code.
//!
//! Logs go to `tracing`: what happens to sessions at `info` and `debug`, datagrams
//! at `trace` alone, numbers to [`Counters`].

mod adapter;
mod clock;
mod control;
mod error;
mod growth;
mod keeper;
mod metrics;
mod mirror;
mod observer;
mod options;
mod outlet;
mod poll;
mod prefix;
mod reporter;
mod ring;
mod serve;
mod server_loop;

#[cfg(test)]
mod loopback_tests;

pub use control::Control;
pub use control::Reload;
pub use control::Stop;
pub use error::MirrorError;
pub use error::ReporterError;
pub use error::ServeError;
pub use metrics::Board;
pub use metrics::Counter;
pub use metrics::Counters;
pub use metrics::Kind;
pub use mirror::MirrorEnd;
pub use mirror::MirrorReport;
pub use mirror::mirror;
pub use observer::Changes;
pub use observer::MirrorObserver;
pub use observer::MirrorStatus;
pub use options::ARENA_SIZE_DEFAULT;
pub use options::Damaged;
pub use options::LayoutPull;
pub use options::MirrorOptions;
pub use options::MirrorUntil;
pub use options::OnReady;
pub use options::RECEIVE_BUFFER_DEFAULT;
pub use options::RING_SIZE_DEFAULT;
pub use options::RelayOptions;
pub use options::ReloadableConfig;
pub use options::ReporterOptions;
pub use options::ServeOptions;
pub use options::Waiting;
pub use prefix::PrefixError;
pub use prefix::parse_prefix;
pub use reporter::Refusal;
pub use reporter::Reporter;
pub use serve::ServeReport;
pub use serve::serve;

// pub fn serve(options: ServeOptions, control: Control) -> Result<ServeReport, ServeError>
// pub fn mirror(options: MirrorOptions, control: Control, observer: &mut dyn MirrorObserver)
//     -> Result<MirrorReport, MirrorError>
// pub struct ServeReport { address: SocketAddr, counters: Counters }
// pub struct MirrorReport { end: MirrorEnd, status: MirrorStatus, tree_id: Option<TreeId>,
//     life: Life, counters: Counters }
// pub enum MirrorEnd { Stopped, InSync, TimeUp, Observer }
// impl Reporter {
//   pub fn connect(ReporterOptions) -> Result<Reporter, ReporterError>
//   pub fn connect_with(ReporterOptions, Control) -> Result<Reporter, ReporterError>
//   pub fn layout(&self) -> Option<&tree::Layout>
//   pub fn leaf_count(&self) -> u32
//   pub fn report(&mut self, leaf: DataLocId, data: &[u8]) -> Result<(), ReporterError>
//   pub fn flush(&mut self, timeout: Duration) -> Result<(), ReporterError>
//   pub fn poll(&mut self, wait: Duration) -> Result<(), ReporterError>
//   pub fn refusals(&mut self) -> Vec<Refusal>       // drained
//   pub fn acknowledged(&self) -> u64
//   pub fn is_idle(&self) -> bool
//   pub fn counters(&self) -> Counters
//   pub fn close(self) -> Counters                    // BYE
// }
// pub struct Refusal { leaf: DataLocId, reason: wire::RefusalReason, detail: u32 }
// pub fn parse_prefix(text: &str) -> Result<sync::Prefix, PrefixError>   // 10.0.0.0/8, ::1, fd00::/8
