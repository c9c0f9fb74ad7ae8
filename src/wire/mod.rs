//! The datagrams: their structs, decoding into typed messages, encoding.
//!
//! Every datagram begins with a [`Header`] of 64 bytes; what follows depends on
//! its [`DatagramType`]. docs/PROTOCOL.md is the specification. This module
//! keeps no state and knows no session: whether a datagram is believed is
//! decided by `sync`.

mod body;
mod decode;
mod encode;
mod header;
#[cfg(test)]
mod hostile;
mod leaf;
mod pretty;
#[cfg(test)]
mod samples;

pub use body::AckRefusal;
pub use body::GroupBody;
pub use body::Hole;
pub use body::INIT_FILTER_LEN_MAX;
pub use body::InitBody;
pub use body::LayoutBody;
pub use body::LayoutRequestBody;
pub use body::RequestBody;
pub use body::ResponseBody;
pub use body::TickBody;
pub use body::WelcomeBody;
pub use decode::Checksums;
pub use decode::Datagram;
pub use decode::DecodeError;
pub use decode::Question;
pub use decode::decode;
pub use encode::Packet;
pub use encode::encode;
pub use encode::lay_out;
pub use encode::push_leaf;
pub use encode::seal;
pub use header::ByeReason;
pub use header::DatagramType;
pub use header::Flags;
pub use header::Header;
pub use header::PROTOCOL_VERSION;
pub use header::RefusalReason;
pub use header::checked_len;
pub use leaf::Leaf;
pub use leaf::LeafError;
pub use leaf::LeafIter;
pub use leaf::LeafSource;
pub use leaf::leaf_checksum;
pub use pretty::Pretty;

/// Payload to which HELLO and INIT are padded: whoever asks sends more than what
/// comes back.
pub const DOOR_DATAGRAM_LEN: usize = 1_200;

const _: () = assert!(DOOR_DATAGRAM_LEN <= crate::layout::limits::DATAGRAM_SIZE_MIN);
