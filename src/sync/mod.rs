//! The protocol, without sockets, clocks, threads or files.
//!
//! Nothing here asks the operating system for anything: time and randomness are
//! arguments, datagrams come in as bytes and go out as plans. One loop drives a
//! [`Server`], a [`Client`] or a [`Device`]:
//!
//! 1. wait until a datagram comes or `poll_timeout` is reached;
//! 2. make ONE mutation: `handle_datagram`, `handle_timeout` or `handle_changes`;
//! 3. drain `poll_transmit`, then `poll_event`, until both give nothing;
//! 4. go back to 1.
//!
//! The core says WHICH leaves go to WHOM ([`Transmit`]); whoever drives it lays
//! them out with `wire::lay_out` before the next mutation, and sends them.

mod ask;
mod budget;
mod client;
mod cookie;
mod counters;
mod device;
mod ear;
mod follow;
#[cfg(test)]
mod group_stories;
mod handled;
mod join;
mod layout_pull;
mod leaves;
mod outbox;
mod packing;
mod prefix;
mod round_trip;
mod server;
mod session;
mod span;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod testing;
mod time;
mod transmit;
mod view;

pub use client::Client;
pub use client::ClientConfig;
pub use client::ClientEvent;
pub use client::Held;
pub use client::HeldTree;
pub use cookie::CookieMac;
pub use counters::ClientCounters;
pub use counters::DeviceCounters;
pub use counters::ServerCounters;
pub use device::Device;
pub use device::DeviceConfig;
pub use device::DeviceEvent;
pub use device::LayoutWish;
pub use device::ReportError;
pub use follow::Progress;
pub use join::JoinError;
pub use join::Joined;
pub use join::Role;
pub use leaves::CommitId;
pub use leaves::Leaves;
pub use leaves::ReplicaLeaves;
pub use leaves::ServedLeaves;
pub use leaves::WriteRefusal;
pub use prefix::Prefix;
pub use server::PeriodEnd;
pub use server::Reports;
pub use server::Server;
pub use server::ServerConfig;
pub use server::ServerEvent;
pub use server::SourceState;
pub use time::RandomSource;
pub use time::Time;
pub use transmit::Recipients;
pub use transmit::Transmit;
