//! Sending through a raw IP socket: UDP datagrams whose UDP header is written
//! here and whose IP header is written by the kernel.
//!
//! Promises:
//! - The receiver sees the datagrams that the UDP socket would have sent: from its
//!   address and port, fragmented and routed as its own would be.
//! - Payload is not copied: a message is two parts, the header from an array of
//!   this file and the datagram from where it lies.
//! - The raw socket takes in nothing. The kernel would give it a copy of every UDP
//!   datagram that comes to this machine, so a filter drops them all.
//!
//! The UDP socket stays: it owns the port, receives, and keeps the kernel from
//! answering peers that the port is unreachable. Raw sockets know no segments:
//! each datagram is a message of its own.
//!
//! The kernel makes the IP header (no `IP_HDRINCL`), because only then does it
//! fragment what is longer than the path, choose the source address by the route
//! where the socket is bound to none, and treat both families alike.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::AsFd;

use socket2::Domain;
use socket2::Protocol;
use socket2::SockFilter;
use socket2::SockRef;
use socket2::Socket;
use socket2::Type;

use crate::net::counters::Tally;
use crate::net::linux::MESSAGES_MAX;
use crate::net::linux::set_buffer;
use crate::net::options::Support;
use crate::net::segments::Message;
use crate::net::sys;
use crate::net::sys::SendArrays;
use crate::net::transmit;
use crate::net::transmit::Gso;

/// Source port, destination port, length and checksum, all big-endian (RFC 768).
const HEADER_LEN: usize = 8;

/// Where the checksum lies in the header.
const CHECKSUM_OFFSET: i32 = 6;

/// Longest payload: the length field counts the header, too. What is longer is
/// refused by the kernel for its own reasons; it must not wrap here.
const PAYLOAD_MAX: usize = u16::MAX as usize - HEADER_LEN;

/// A raw socket beside a UDP socket, and what it sends from.
#[derive(Debug)]
pub(super) struct RawSender {
    socket: Socket,
    source_port: u16,
    /// The only peer of the UDP socket, if it is connected.
    peer: Option<SocketAddr>,
    arrays: SendArrays,
    headers: Vec<[u8; HEADER_LEN]>,
}

impl RawSender {
    /// Makes a raw socket that speaks for `socket`, which must be bound.
    pub(super) fn beside(socket: &UdpSocket) -> io::Result<RawSender> {
        let local = socket.local_addr()?;
        if local.port() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket is not bound"));
        }
        let raw = Socket::new(Domain::for_address(local), Type::RAW, Some(Protocol::UDP))?;
        take_nothing_in(&raw)?;
        raw.bind(&without_port(local).into())?;
        if local.is_ipv6() {
            sys::set_option(raw.as_fd(), libc::SOL_IPV6, libc::IPV6_CHECKSUM, CHECKSUM_OFFSET)?;
        }
        // The kernel tells twice the number that it is to be asked for.
        let send_buffer = SockRef::from(socket).send_buffer_size()? / 2;
        set_buffer(raw.as_fd(), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), send_buffer)?;
        Ok(RawSender {
            socket: raw,
            source_port: local.port(),
            peer: socket.peer_addr().ok(),
            arrays: SendArrays::default(),
            headers: Vec::with_capacity(MESSAGES_MAX),
        })
    }

    /// Another handle of the raw socket, with arrays of its own.
    pub(super) fn try_clone(&self) -> io::Result<RawSender> {
        Ok(RawSender {
            socket: self.socket.try_clone()?,
            source_port: self.source_port,
            peer: self.peer,
            arrays: SendArrays::default(),
            headers: Vec::with_capacity(MESSAGES_MAX),
        })
    }

    /// The raw socket.
    pub(super) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.socket)
    }

    /// Sends the messages, each of one datagram, from where they lie; those without
    /// an address go to the peer.
    pub(super) fn transmit<'m>(
        &mut self,
        mut messages: impl Iterator<Item = Message<'m>> + Clone,
        tally: &mut Tally,
    ) {
        let peer = self.peer;
        loop {
            let again = messages.clone();
            self.headers.clear();
            for message in messages.by_ref().take(MESSAGES_MAX) {
                debug_assert_eq!(message.datagrams(), 1, "raw sockets know no segments");
                let to = message.destination.or(peer).map_or(0, |to| to.port());
                self.headers.push(header(self.source_port, to, message.len()));
            }
            let framed = again.clone().zip(&self.headers);
            let mut filled = self.arrays.fill(framed.map(|(message, header)| Message {
                destination: message.destination.or(peer).map(without_port),
                body: header,
                tail: message.body,
                segment: usize::MAX,
            }));
            let count = filled.len();
            if count == 0 {
                return;
            }
            let send_many = |from| filled.send(&self.socket, from);
            let gso = &mut Gso::unused(Support::Disabled);
            transmit::send_filled(count, again, send_many, &no_split, gso, tally);
        }
    }

    /// Sends one datagram and says how many bytes of it left.
    pub(super) fn send_one(
        &mut self,
        to: Option<SocketAddr>,
        datagram: &[u8],
    ) -> io::Result<usize> {
        let to = to.or(self.peer).ok_or(io::ErrorKind::NotConnected)?;
        let header = header(self.source_port, to.port(), datagram.len());
        let message = Message {
            destination: Some(without_port(to)),
            body: &header,
            tail: datagram,
            segment: usize::MAX,
        };
        self.arrays.fill([message].into_iter()).send(&self.socket, 0).map(|_| datagram.len())
    }
}

/// Nothing is split: a message of one datagram is never sent again in parts.
fn no_split(_: Option<SocketAddr>, _: &[u8]) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes the socket drop all that the kernel would queue for it, and drops what
/// came between its making and this.
fn take_nothing_in(raw: &Socket) -> io::Result<()> {
    let drop_all = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    raw.set_nonblocking(true)?;
    raw.attach_filter(&[drop_all])?;
    // Bounded by what the buffer holds: nothing comes behind the filter.
    while raw.recv(&mut [MaybeUninit::uninit()]).is_ok() {}
    Ok(())
}

/// A raw socket's address has no port; IPv6 takes one that is set for a protocol.
fn without_port(mut address: SocketAddr) -> SocketAddr {
    address.set_port(0);
    address
}

/// The UDP header of a datagram.
///
/// Checksum 0. Over IPv6, which demands one, the kernel fills it in
/// (`IPV6_CHECKSUM`). Over IPv4 it means that there is none (RFC 768): it would
/// cover the source address, which the kernel chooses after us, and read every
/// byte once more, while header and leaves of a datagram have checksums of their own.
fn header(source_port: u16, port: u16, payload_len: usize) -> [u8; HEADER_LEN] {
    let len = (payload_len.min(PAYLOAD_MAX) + HEADER_LEN) as u16;
    let mut header = [0; HEADER_LEN];
    header[0..2].copy_from_slice(&source_port.to_be_bytes());
    header[2..4].copy_from_slice(&port.to_be_bytes());
    header[4..6].copy_from_slice(&len.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// A bound socket and a raw one beside it; nothing where the process may not have
    /// one.
    fn pair(address: &str) -> Option<(UdpSocket, RawSender)> {
        let socket = UdpSocket::bind(address).unwrap();
        match RawSender::beside(&socket) {
            Ok(raw) => Some((socket, raw)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    #[test]
    fn a_header_is_big_endian_and_counts_itself() {
        assert_eq!(header(0x1270, 53, 1_200), [0x12, 0x70, 0, 53, 0x04, 0xb8, 0, 0]);
        assert_eq!(header(1, 2, 0)[4..6], [0, 8]);
        assert_eq!(header(1, 2, usize::MAX)[4..6], [0xff, 0xff], "it does not wrap");
    }

    #[test]
    fn what_comes_to_the_port_is_the_udp_socket_s_alone() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let Some((socket, raw)) = pair(address) else { return };
            let port = socket.local_addr().unwrap().port();
            let v6 = socket.local_addr().unwrap().is_ipv6();
            let home = if v6 { "::1" } else { "127.0.0.1" };
            let peer = UdpSocket::bind((home, 0)).unwrap();
            for _ in 0..3 {
                peer.send_to(b"a copy?", (home, port)).unwrap();
                assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 7);
            }
            // The kernel hands copies out before it queues the original.
            let copy = raw.socket.recv(&mut [MaybeUninit::uninit(); 64]);
            assert_eq!(copy.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock), "{address}");
        }
    }

    #[test]
    fn a_socket_without_a_port_has_nothing_to_speak_for() {
        let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let refused = RawSender::beside(&unbound.into()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn the_send_buffer_is_as_large_as_the_udp_socket_s() {
        let Some((socket, _)) = pair("127.0.0.1:0") else { return };
        SockRef::from(&socket).set_send_buffer_size(50_000).unwrap();
        let raw = RawSender::beside(&socket).unwrap();
        assert_eq!(raw.socket.send_buffer_size().unwrap(), 100_000);
    }
}
