//! The socket: how it is made, what it sends, and what it receives.

use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket as StdSocket;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::RawFd;

use socket2::Domain;
use socket2::Protocol;
use socket2::SockRef;
use socket2::Socket;
use socket2::Type;

use crate::net::batch::RecvBatch;
use crate::net::counters::Counters;
use crate::net::counters::SendReport;
use crate::net::counters::Tally;
use crate::net::lending::Ledger;
use crate::net::lending::Lent;
use crate::net::options::Capabilities;
use crate::net::options::ReusePort;
use crate::net::options::SocketOptions;
use crate::net::options::Support;
use crate::net::platform;
use crate::net::segments::Destinations;
use crate::net::segments::Message;
use crate::net::segments::Segments;
use crate::net::transmit::Gso;
use crate::net::transmit::send_one;

/// A non-blocking UDP socket over IPv4 or IPv6, unconnected (a server) or
/// connected (a client), owned by one thread.
///
/// An IPv6 socket speaks IPv6 alone, so that a peer has one spelling of its
/// address; a server for both families binds two sockets.
#[derive(Debug)]
pub struct UdpSocket {
    inner: StdSocket,
    gso: Gso,
    gro: Support,
    queue_drops: Support,
    ledger: Ledger,
    arrays: platform::SendArrays,
    /// What sends in place of `inner`, if it was asked for.
    raw: Option<platform::RawSender>,
    counters: Counters,
    /// The kernel's count of dropped messages when it was last told.
    drops_seen: u32,
}

impl UdpSocket {
    /// Makes a socket and binds it.
    ///
    /// # Errors
    ///
    /// What the system says: the address is in use or not of this machine, the
    /// family is missing, there are too many open files.
    pub fn bind(address: SocketAddr, options: &SocketOptions) -> io::Result<UdpSocket> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if options.reuse_port == ReusePort::Shared {
            share_port(&socket)?;
        }
        socket.bind(&address.into())?;
        UdpSocket::from_std(socket.into(), options)
    }

    /// Takes over a socket that was made and bound elsewhere, connected or not,
    /// for instance by a service manager. `reuse_port` has no effect on it.
    ///
    /// # Errors
    ///
    /// What the system says when the socket is made non-blocking or its buffers
    /// are set.
    pub fn from_std(socket: StdSocket, options: &SocketOptions) -> io::Result<UdpSocket> {
        socket.set_nonblocking(true)?;
        platform::set_buffers(&socket, options)?;
        platform::keep_errors_apart(&socket);
        // An error that waits from before is nobody's business here.
        let _ = socket.take_error();
        Ok(UdpSocket {
            gso: platform::gso(&socket, options.gso),
            gro: platform::gro(&socket, options.gro),
            queue_drops: platform::queue_drops(&socket),
            ledger: platform::zerocopy(&socket, options.zerocopy),
            arrays: Default::default(),
            raw: None,
            counters: Counters::default(),
            drops_seen: 0,
            inner: socket,
        })
    }

    /// Another handle of the same socket, for another thread to send with: port, buffers
    /// and peers are shared, counters begin at zero. The kernel lets several threads
    /// send on one UDP socket without a lock between them. One that sends by a raw socket
    /// gives one that does.
    ///
    /// # Errors
    ///
    /// The process has no descriptors left, or no `CAP_NET_RAW` any more.
    pub fn try_clone(&self) -> io::Result<UdpSocket> {
        let inner = self.inner.try_clone()?;
        // The same raw socket with what was set on it; an array of headers is not shared.
        let raw = self.raw.as_ref().map(platform::RawSender::try_clone).transpose()?;
        Ok(UdpSocket {
            inner,
            raw,
            gso: self.gso,
            gro: self.gro,
            queue_drops: self.queue_drops,
            // The kernel numbers what a socket lends, whatever the handle: one handle lends.
            ledger: Ledger::unused(),
            arrays: Default::default(),
            counters: Counters::default(),
            drops_seen: 0,
        })
    }

    /// Makes `address` the only peer: others are no longer heard, and an ICMP
    /// answer becomes an error of the socket.
    ///
    /// # Errors
    ///
    /// What the system says, for instance that there is no route.
    pub fn connect(&self, address: SocketAddr) -> io::Result<()> {
        self.inner.connect(address)
    }

    /// Lets all that is sent from now on leave by a raw socket (`SOCK_RAW`) beside
    /// this one, with the address and port of this one; it goes on receiving. Each
    /// datagram is a message of its own then: raw sockets know no segments.
    ///
    /// A socket that is to have a peer is connected first.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` where the process lacks `CAP_NET_RAW`, `Unsupported` on
    /// systems other than Linux, `InvalidInput` for a socket that is not bound, and
    /// what else the system says. The socket sends as before then.
    pub fn switch_to_raw(&mut self) -> io::Result<()> {
        self.raw = Some(platform::RawSender::beside(&self.inner)?);
        self.gso = Gso::unused(Support::Disabled);
        Ok(())
    }

    /// The address that the socket is bound to, its port chosen by the system if
    /// it was bound to port 0.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Bytes of the receive buffer as the kernel accounts for them: Linux books
    /// twice what was asked for, and charges about twice a small datagram's size.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn receive_buffer_len(&self) -> io::Result<usize> {
        SockRef::from(&self.inner).recv_buffer_size()
    }

    /// Bytes of the send buffer, doubled like those of the receive buffer.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn send_buffer_len(&self) -> io::Result<usize> {
        SockRef::from(&self.inner).send_buffer_size()
    }

    /// What the kernel offers this socket.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities {
            gso: self.gso.support(),
            segments_max: self.gso.segments_max(),
            gro: self.gro,
            zerocopy: self.ledger.support(),
            queue_drops: self.queue_drops,
        }
    }

    /// Totals since the socket was made.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sends the datagrams to every destination, straight from where they lie.
    ///
    /// One that finds no room, or whose destination fails, is lost and counted;
    /// the others go out.
    ///
    /// # Panics
    ///
    /// If the tails of the segments are not exactly one for each destination.
    pub fn send_segments(
        &mut self,
        destinations: Destinations<'_>,
        segments: Segments<'_>,
    ) -> SendReport {
        let segments_max = self.gso.segments_max();
        self.transmit(segments.messages(destinations, segments_max))
    }

    /// Sends like [`UdpSocket::send_segments`], but lends the memory to the kernel where
    /// that is on and pays: what it lends must not be written before
    /// [`UdpSocket::is_over`] says so, or datagrams leave garbled. Nothing is lent where
    /// no moment is returned.
    ///
    /// # Panics
    ///
    /// Like [`UdpSocket::send_segments`].
    pub fn lend_segments(
        &mut self,
        destinations: Destinations<'_>,
        segments: Segments<'_>,
    ) -> (SendReport, Option<Lent>) {
        if self.raw.is_some() || !self.ledger.takes(segments.bytes()) {
            return (self.send_segments(destinations, segments), None);
        }
        let messages = segments.messages(destinations, self.gso.segments_max());
        let mut tally = Tally::default();
        let UdpSocket { inner, arrays, gso, ledger, .. } = self;
        platform::lend(inner, arrays, messages, gso, &mut tally, ledger);
        self.counters.note_sends(&tally);
        (tally.report, self.ledger.now())
    }

    /// Whether the kernel is done with what was lent before this moment, as far as
    /// [`UdpSocket::reclaim`] has read.
    pub fn is_over(&self, lent: Lent) -> bool {
        self.ledger.is_over(lent)
    }

    /// Reads what the kernel says of memory that it was lent.
    pub fn reclaim(&mut self) {
        let mut tally = Tally::default();
        platform::reclaim(&self.inner, &mut self.ledger, &mut tally);
        self.counters.note_sends(&tally);
    }

    /// Sends to each destination segments of its own: many answers at once.
    pub fn send_runs<'m, I>(&mut self, runs: I) -> SendReport
    where
        I: IntoIterator<Item = (SocketAddr, Segments<'m>), IntoIter: Clone>,
    {
        let segments_max = self.gso.segments_max();
        self.transmit(runs.into_iter().flat_map(move |(to, run)| run.cut_for(to, segments_max)))
    }

    /// Sends many different datagrams, each to its own destination.
    pub fn send_batch<'m, I>(&mut self, datagrams: I) -> SendReport
    where
        I: IntoIterator<Item = (SocketAddr, &'m [u8]), IntoIter: Clone>,
    {
        let datagrams = datagrams.into_iter();
        self.transmit(datagrams.map(|(to, datagram)| Message::single(Some(to), datagram)))
    }

    /// Sends one datagram to an address.
    ///
    /// # Errors
    ///
    /// What the system says; it is counted as well. `WouldBlock` is a loss.
    pub fn send_to(&mut self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.send_counted(Some(to), datagram)
    }

    /// Sends one datagram to the peer that the socket is connected to.
    ///
    /// # Errors
    ///
    /// What the system says; it is counted as well. `WouldBlock` is a loss.
    pub fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        self.send_counted(None, datagram)
    }

    /// Receives what has arrived, as far as the batch has room, and returns the
    /// number of datagrams taken from the queue, dropped ones included: 0 says that
    /// the queue is empty. The batch holds them afterwards, and knows whether more may
    /// wait ([`RecvBatch::emptied_queue`]).
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` and the like on a connected socket: an earlier datagram
    /// found nobody. The datagrams that wait come with the next call. An
    /// unconnected socket never shows such errors.
    pub fn receive(&mut self, batch: &mut RecvBatch) -> io::Result<usize> {
        let arrival = match batch.receive(&self.inner) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            outcome => outcome?,
        };
        self.counters.datagrams_received += arrival.datagrams as u64;
        self.counters.bytes_received += arrival.bytes as u64;
        self.counters.truncated += arrival.truncated as u64;
        if let Some(drops) = arrival.drops {
            // The kernel's count wraps; what it grew by does not.
            self.counters.queue_drops += u64::from(drops.wrapping_sub(self.drops_seen));
            self.drops_seen = drops;
        }
        Ok(arrival.datagrams + arrival.truncated)
    }

    /// The raw socket beside it, if there is one.
    pub(super) fn raw_socket(&self) -> Option<SockRef<'_>> {
        self.raw.as_ref().map(platform::RawSender::socket)
    }

    fn transmit<'m>(&mut self, messages: impl Iterator<Item = Message<'m>> + Clone) -> SendReport {
        let mut tally = Tally::default();
        match &mut self.raw {
            Some(raw) => raw.transmit(messages, &mut tally),
            None => {
                platform::transmit(
                    &self.inner,
                    &mut self.arrays,
                    messages,
                    &mut self.gso,
                    &mut tally,
                );
            }
        }
        self.counters.note_sends(&tally);
        tally.report
    }

    fn send_counted(&mut self, to: Option<SocketAddr>, datagram: &[u8]) -> io::Result<()> {
        let outcome = match &mut self.raw {
            Some(raw) => raw.send_one(to, datagram),
            None => send_one(&self.inner, to, datagram),
        };
        let mut tally = Tally::default();
        match &outcome {
            Ok(len) => tally.sent(1, *len),
            Err(error) => tally.lost(1, error),
        }
        self.counters.note_sends(&tally);
        outcome.map(drop)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

#[cfg(not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin")))]
fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))]
fn share_port(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
