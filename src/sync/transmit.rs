//! What a core wants sent.

use core::net::SocketAddr;

use crate::layout::DataLocId;
use crate::wire::Packet;

/// One thing to send.
#[derive(Clone, Copy, Debug)]
pub enum Transmit<'a> {
    /// A finished datagram. `to` is nothing when the core has one peer.
    Datagram {
        /// Where to.
        to: Option<SocketAddr>,
        /// The datagram.
        bytes: &'a [u8],
    },
    /// Datagrams of leaves, to be laid out once, one behind the other, and sent
    /// to every recipient.
    Leaves {
        /// Where to.
        to: Recipients<'a>,
        /// The datagrams.
        packets: &'a [Packet],
        /// The leaves that the packets point into.
        leaves: &'a [DataLocId],
        /// Size of the largest of the datagrams: all but the last may be padded
        /// to it, so that they leave as segments of one message.
        segment: usize,
    },
}

/// Who gets datagrams of leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipients<'a> {
    /// One client.
    One(SocketAddr),
    /// Every client of a view.
    All(&'a [SocketAddr]),
}

impl Recipients<'_> {
    /// The addresses.
    pub fn addresses(&self) -> &[SocketAddr] {
        match self {
            Recipients::One(address) => core::slice::from_ref(address),
            Recipients::All(addresses) => addresses,
        }
    }
}
