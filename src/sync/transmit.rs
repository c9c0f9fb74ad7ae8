//! What a core wants sent.

use core::net::SocketAddr;

use crate::layout::DataLocId;
use crate::wire::Packet;

/// One thing to send.
#[derive(Clone, Copy, Debug)]
pub enum Transmit<'a> {
    /// A finished datagram.
    Datagram {
        /// Where to.
        to: Recipients<'a>,
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

/// Who gets a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipients<'a> {
    /// The peer that the socket is connected to.
    Peer,
    /// One client.
    One(SocketAddr),
    /// Every client of a view.
    All(&'a [SocketAddr]),
}

impl Recipients<'_> {
    /// The addresses; nothing for the peer of a connected socket.
    pub fn addresses(&self) -> Option<&[SocketAddr]> {
        match self {
            Recipients::Peer => None,
            Recipients::One(address) => Some(core::slice::from_ref(address)),
            Recipients::All(addresses) => Some(addresses),
        }
    }
}
