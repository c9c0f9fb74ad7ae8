//! What the socket does through a Unix system other than Linux: one call a
//! datagram, no offloads.

use std::ffi::CStr;
use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::num::NonZeroU32;

use socket2::SockRef;
use socket2::Socket;

use crate::net::counters::Tally;
use crate::net::lending;
use crate::net::lending::Ledger;
use crate::net::options::Offload;
use crate::net::options::SocketOptions;
use crate::net::options::Support;
use crate::net::segments::Message;
use crate::net::transmit;
use crate::net::transmit::Gso;

pub(super) use crate::net::portable::ReceiveArrays;

/// A call may also be short because an error came behind the first datagram, and what
/// other systems tell of it anew is not known.
pub(super) const SHORT_MEANS_EMPTY: bool = false;

/// Nothing is kept between calls.
#[derive(Debug, Default)]
pub(super) struct SendArrays;

/// No way to ask that needs no unsafe code here.
pub(super) fn interface_index(_: &CStr) -> io::Result<NonZeroU32> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn set_interface_v4(_: &Socket, _: NonZeroU32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There is none on these systems.
#[derive(Debug)]
pub(super) enum RawSender {}

impl RawSender {
    pub(super) fn beside(_: &UdpSocket) -> io::Result<RawSender> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn transmit<'m>(&mut self, _: impl Iterator<Item = Message<'m>>, _: &mut Tally) {
        match *self {}
    }

    pub(super) fn try_clone(&self) -> io::Result<RawSender> {
        match *self {}
    }

    pub(super) fn socket(&self) -> SockRef<'_> {
        match *self {}
    }

    pub(super) fn send_one(&mut self, _: Option<SocketAddr>, _: &[u8]) -> io::Result<usize> {
        match *self {}
    }
}

/// Sends each datagram of the messages by a call of its own.
pub(super) fn transmit<'m>(
    socket: &UdpSocket,
    _: &mut SendArrays,
    messages: impl Iterator<Item = Message<'m>>,
    _: &mut Gso,
    tally: &mut Tally,
) {
    let send_one = |to, datagram: &[u8]| transmit::send_one(socket, to, datagram);
    for message in messages {
        transmit::send_split(&message, &send_one, tally);
    }
}

/// Nothing is lent there.
pub(super) fn lend<'m>(
    socket: &UdpSocket,
    arrays: &mut SendArrays,
    messages: impl Iterator<Item = Message<'m>>,
    gso: &mut Gso,
    tally: &mut Tally,
    _: &mut Ledger,
) {
    transmit(socket, arrays, messages, gso, tally);
}

pub(super) fn reclaim(_: &UdpSocket, _: &mut Ledger, _: &mut Tally) {}

pub(super) fn zerocopy(_: &UdpSocket, wanted: Offload) -> Ledger {
    Ledger::new(lending::wanted(wanted, || false))
}

/// Some systems refuse what they cannot give; what they have stays then.
pub(super) fn set_buffers(socket: &UdpSocket, options: &SocketOptions) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if options.receive_buffer > 0 {
        let _ = socket.set_recv_buffer_size(options.receive_buffer);
    }
    if options.send_buffer > 0 {
        let _ = socket.set_send_buffer_size(options.send_buffer);
    }
    Ok(())
}

/// Unconnected sockets are told of no destination's errors there anyway.
pub(super) fn keep_errors_apart(_: &UdpSocket) {}

pub(super) fn gso(_: &UdpSocket, wanted: Offload) -> Gso {
    Gso::unused(unused(wanted))
}

pub(super) fn gro(_: &UdpSocket, wanted: Offload) -> Support {
    unused(wanted)
}

pub(super) fn queue_drops(_: &UdpSocket) -> Support {
    Support::Missing
}

fn unused(wanted: Offload) -> Support {
    match wanted {
        Offload::Detect => Support::Missing,
        Offload::Off => Support::Disabled,
    }
}
