//! What the socket does through Linux: batches, offloads, buffers and errors.

use std::ffi::CStr;
use std::ffi::c_int;
use std::io;
use std::net::UdpSocket;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use socket2::Socket;

use crate::net::counters::Tally;
use crate::net::lending;
use crate::net::lending::How;
use crate::net::lending::Ledger;
use crate::net::options::Offload;
use crate::net::options::SocketOptions;
use crate::net::options::Support;
use crate::net::segments::Message;
use crate::net::sys;
use crate::net::transmit;
use crate::net::transmit::Gso;

pub(super) use crate::net::raw::RawSender;
pub(super) use crate::net::sys::ReceiveArrays;
pub(super) use crate::net::sys::SendArrays;

/// Most messages of one `sendmmsg` (UIO_MAXIOV of the kernel).
pub(super) const MESSAGES_MAX: usize = 1_024;

/// A `recvmmsg` that brings fewer messages than it had room for has asked for one more
/// and got EAGAIN: nothing else ends its loop early but an error of the socket
/// (`do_recvmmsg` of the kernel's net/socket.c). So a short call saw what an empty one
/// sees, and what is queued behind it raises an edge of epoll, as every datagram does.
///
/// An error that ends the loop is put back (`sk_err`) for the next call. It was raised
/// after this call began, as a call looks for one first; so its edge came after the one
/// that led here, and is still to be told. Datagrams behind it are found with it.
pub(super) const SHORT_MEANS_EMPTY: bool = true;

/// Room for one full system call: no send costs an allocation.
impl Default for SendArrays {
    fn default() -> SendArrays {
        SendArrays::new(MESSAGES_MAX)
    }
}

/// Sends the messages from where they lie, up to `MESSAGES_MAX` a system call.
pub(super) fn transmit<'m>(
    socket: &UdpSocket,
    arrays: &mut SendArrays,
    mut messages: impl Iterator<Item = Message<'m>> + Clone,
    gso: &mut Gso,
    tally: &mut Tally,
) {
    loop {
        let again = messages.clone();
        let mut filled = arrays.fill(messages.by_ref().take(MESSAGES_MAX));
        let count = filled.len();
        if count == 0 {
            return;
        }
        let send_many = |from| filled.send(socket, from);
        let send_one = |to, datagram: &[u8]| transmit::send_one(socket, to, datagram);
        transmit::send_filled(count, again, send_many, &send_one, gso, tally);
    }
}

/// Sends the messages from memory that the kernel may read until they are over. Those
/// for which it has no room to note that are copied.
pub(super) fn lend<'m>(
    socket: &UdpSocket,
    arrays: &mut SendArrays,
    mut messages: impl Iterator<Item = Message<'m>> + Clone,
    gso: &mut Gso,
    tally: &mut Tally,
    ledger: &mut Ledger,
) {
    let mut told = Tally::default();
    loop {
        let again = messages.clone();
        let mut filled = arrays.fill(messages.by_ref().take(MESSAGES_MAX));
        let count = filled.len();
        if count == 0 {
            tally.lent += told.lent;
            tally.lent_copied += told.lent_copied;
            return;
        }
        let send_many = |from| {
            let outcome = match filled.lend(socket, from) {
                // The notes that wait to be read take the room.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    reclaim(socket, ledger, &mut told);
                    filled.lend(socket, from)
                }
                outcome => outcome,
            };
            match outcome {
                Ok(sent) => {
                    ledger.note_lent(sent);
                    Ok(sent)
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    filled.send(socket, from)
                }
                outcome => outcome,
            }
        };
        let send_one = |to, datagram: &[u8]| transmit::send_one(socket, to, datagram);
        transmit::send_filled(count, again, send_many, &send_one, gso, tally);
    }
}

/// Reads which messages from lent memory are over.
pub(super) fn reclaim(socket: &UdpSocket, ledger: &mut Ledger, tally: &mut Tally) {
    while let Ok(notes) = sys::read_error_queue(socket) {
        let Some(over) = notes.over else { continue };
        let count = ledger.note_over(over);
        tally.lent += count;
        tally.lent_copied += if over.how == How::Copied { count } else { 0 };
    }
}

/// Whether the kernel lends: since 5.0.
pub(super) fn zerocopy(socket: &UdpSocket, wanted: Offload) -> Ledger {
    let on = || sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1).is_ok();
    Ledger::new(lending::wanted(wanted, on))
}

pub(super) fn set_buffers(socket: &UdpSocket, options: &SocketOptions) -> io::Result<()> {
    let receive = (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF);
    set_buffer(socket.as_fd(), receive, options.receive_buffer)?;
    set_buffer(socket.as_fd(), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), options.send_buffer)
}

/// The first name passes the system's limit and needs CAP_NET_ADMIN.
pub(super) fn set_buffer(
    socket: BorrowedFd<'_>,
    names: (c_int, c_int),
    len: usize,
) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    // The kernel doubles it in an int.
    let len = c_int::try_from(len).unwrap_or(c_int::MAX).min(c_int::MAX / 2);
    sys::set_option(socket, libc::SOL_SOCKET, names.0, len)
        .or_else(|_| sys::set_option(socket, libc::SOL_SOCKET, names.1, len))
}

pub(super) fn gso(socket: &UdpSocket, wanted: Offload) -> Gso {
    if wanted == Offload::Off {
        return Gso::unused(Support::Disabled);
    }
    let known = sys::option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
    match segments_max() {
        most if known && most > 1 => Gso::available(most),
        _ => Gso::unused(Support::Missing),
    }
}

/// The same for every socket, so it is tried once in a process: 128 segments
/// since Linux 6.9, 64 since 4.18.
fn segments_max() -> usize {
    static SEGMENTS_MAX: OnceLock<usize> = OnceLock::new();
    *SEGMENTS_MAX.get_or_init(|| {
        let passes = |segments: &usize| sys::segments_pass(*segments).is_ok();
        [128, 64].into_iter().find(passes).unwrap_or(1)
    })
}

pub(super) fn gro(socket: &UdpSocket, wanted: Offload) -> Support {
    let on = c_int::from(wanted == Offload::Detect);
    let outcome = sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, on);
    match wanted {
        Offload::Off => Support::Disabled,
        Offload::Detect => supported(outcome),
    }
}

/// A socket made elsewhere may have asked for the errors of all destinations:
/// one would be told in place of another one's datagram. The option of the other
/// family fails, which is as good.
pub(super) fn keep_errors_apart(socket: &UdpSocket) {
    let _ = sys::set_option(socket.as_fd(), libc::SOL_IP, libc::IP_RECVERR, 0);
    let _ = sys::set_option(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_RECVERR, 0);
}

/// The index of the interface with this name.
pub(super) fn interface_index(name: &CStr) -> io::Result<NonZeroU32> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "there is no such interface");
    NonZeroU32::new(sys::interface_index(name)).ok_or_else(missing)
}

/// Lets datagrams to groups of IPv4 leave by the interface with this index.
pub(super) fn set_interface_v4(socket: &Socket, index: NonZeroU32) -> io::Result<()> {
    let index = c_int::try_from(index.get()).map_err(|_| io::ErrorKind::InvalidInput)?;
    sys::set_multicast_interface(socket.as_fd(), index)
}

pub(super) fn queue_drops(socket: &UdpSocket) -> Support {
    supported(sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1))
}

fn supported(outcome: io::Result<()>) -> Support {
    outcome.map_or(Support::Missing, |()| Support::Available)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as StdSocket;

    use super::*;
    use crate::net::Destinations;
    use crate::net::RecvBatch;
    use crate::net::Segments;
    use crate::net::UdpSocket;

    fn made(level: i32, name: i32, options: &SocketOptions) -> UdpSocket {
        let made = StdSocket::bind("127.0.0.1:0").unwrap();
        sys::set_option(made.as_fd(), level, name, 1).unwrap();
        UdpSocket::from_std(made, options).unwrap()
    }

    fn received(socket: &mut UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let (mut batch, mut found) = (RecvBatch::default(), Vec::new());
        for _ in 0..count {
            socket.receive(&mut batch).unwrap();
            found.extend(batch.iter().map(|(_, datagram)| datagram.to_vec()));
        }
        found
    }

    #[test]
    fn a_kernel_that_refuses_segments_gets_single_datagrams_and_is_remembered() {
        // Segments need checksums: without them every message of segments is EINVAL.
        const SO_NO_CHECK: i32 = 11;
        let options = SocketOptions { receive_buffer: 1 << 20, ..SocketOptions::default() };
        let mut sender = made(libc::SOL_SOCKET, SO_NO_CHECK, &options);
        if sender.capabilities().gso != Support::Available {
            println!("skipped: this kernel has no UDP_SEGMENT");
            return;
        }
        let mut receiver = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let to = vec![receiver.local_addr().unwrap(); 20];
        let memory: Vec<u8> = (0..250).collect();
        let report = sender.send_segments(Destinations::Each(&to), Segments::new(&memory, 100));
        assert_eq!((report.datagrams_sent, report.bytes_sent), (20 * 3, 20 * 250));
        assert_eq!(sender.counters().gso_fallbacks, 20);
        assert_eq!(sender.capabilities().gso, Support::GivenUp);
        sender.send_segments(Destinations::Each(&to), Segments::new(&memory, 100));
        assert_eq!(sender.counters().gso_fallbacks, 20, "it is not tried again");
        let wanted = memory.chunks(100).cycle().take(2 * 20 * 3);
        assert!(received(&mut receiver, 120).iter().eq(wanted));
    }

    #[test]
    fn a_socket_that_asked_for_the_errors_of_others_is_relieved_of_them() {
        let mut socket = made(libc::SOL_IP, libc::IP_RECVERR, &SocketOptions::default());
        let closed = StdSocket::bind("127.0.0.1:0").unwrap();
        closed.connect("127.0.0.1:1").unwrap();
        let own = socket.local_addr().unwrap();
        for _ in 0..3 {
            socket.send_to(b"anybody?", closed.local_addr().unwrap()).unwrap();
            socket.send_to(b"myself", own).unwrap();
            assert_eq!(received(&mut socket, 1), [b"myself"]);
        }
    }
}
