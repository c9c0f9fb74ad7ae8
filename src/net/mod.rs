//! A UDP socket that sends segments from mapped memory to many destinations and
//! receives in batches.
//!
//! Promises:
//! - Nothing is copied between the caller's memory and the kernel, nothing is
//!   queued, and nothing is allocated per call once the arrays have grown.
//! - A send that would block is a loss: counted, never tried again.
//! - An error of one destination never stops the others.
//! - What the kernel can do (segmentation offload, joined receiving, how many
//!   segments a call takes) is found out when the socket is made, never assumed;
//!   without it the same datagrams go out and come in, only more slowly.
//!
//! Left to others: waiting for readiness (the socket is non-blocking and shows
//! its file descriptor), pacing, what the bytes mean, and that the memory being
//! sent is not written meanwhile.
//!
//! Linux is served by `sendmmsg`, `recvmmsg`, `UDP_SEGMENT` and `UDP_GRO`, and where
//! it is asked for by a raw socket beside the UDP socket; other Unix systems by one
//! `send_to` or `recv_from` a datagram.

#[cfg(target_os = "linux")]
mod abi;
mod batch;
mod counters;
mod lending;
#[cfg(target_os = "linux")]
mod linux;
mod multicast;
mod options;
#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(any(test, not(target_os = "linux")))]
mod portable;
#[cfg(target_os = "linux")]
mod raw;
mod segments;
mod socket;
#[cfg(target_os = "linux")]
mod sys;
mod transmit;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(target_os = "linux"))]
use other as platform;

pub use batch::Datagrams;
pub use batch::RecvBatch;
pub use counters::Counters;
pub use counters::SendErrors;
pub use counters::SendReport;
pub use lending::Lent;
pub use multicast::Interface;
pub use options::Capabilities;
pub use options::Offload;
pub use options::ReusePort;
pub use options::SocketOptions;
pub use options::Support;
pub use segments::Destinations;
pub use segments::Segments;
pub use socket::UdpSocket;

/// Largest payload of a UDP datagram over IPv4: 65,535 - 20 (IP) - 8 (UDP). A
/// message of joined segments is bound by the same figure.
pub const MESSAGE_LEN_MAX: usize = 65_507;
