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
use crate::net::options::Capabilities;
use crate::net::options::Offload;
use crate::net::options::ReusePort;
use crate::net::options::SocketOptions;
use crate::net::options::Support;
use crate::net::segments::Destinations;
use crate::net::segments::Message;
use crate::net::segments::Segments;
use crate::net::transmit::Gso;

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
    #[cfg(target_os = "linux")]
    arrays: crate::net::sys::SendArrays,
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
        // An error that waits from before is nobody's business here.
        let _ = socket.take_error();
        Ok(UdpSocket {
            gso: platform::gso(&socket, options.gso),
            gro: platform::gro(&socket, options.gro),
            queue_drops: platform::queue_drops(&socket),
            #[cfg(target_os = "linux")]
            arrays: Default::default(),
            counters: Counters::default(),
            drops_seen: 0,
            inner: socket,
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
    /// the queue is empty. The batch holds them afterwards.
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

    fn transmit<'m>(&mut self, messages: impl Iterator<Item = Message<'m>> + Clone) -> SendReport {
        let mut tally = Tally::default();
        self.transmit_all(messages, &mut tally);
        self.counters.note_sends(&tally);
        tally.report
    }

    fn send_counted(&mut self, to: Option<SocketAddr>, datagram: &[u8]) -> io::Result<()> {
        let outcome = send_one(&self.inner, to, datagram);
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

fn send_one(socket: &StdSocket, to: Option<SocketAddr>, datagram: &[u8]) -> io::Result<usize> {
    loop {
        let outcome = match to {
            Some(to) => socket.send_to(datagram, to),
            None => socket.send(datagram),
        };
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
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

#[cfg(target_os = "linux")]
mod platform {
    use std::ffi::c_int;
    use std::sync::OnceLock;

    use super::*;
    use crate::net::sys;
    use crate::net::transmit;

    /// Most messages of one `sendmmsg` (UIO_MAXIOV of the kernel).
    const MESSAGES_MAX: usize = 1_024;

    impl UdpSocket {
        pub(super) fn transmit_all<'m>(
            &mut self,
            mut messages: impl Iterator<Item = Message<'m>> + Clone,
            tally: &mut Tally,
        ) {
            let socket = &self.inner;
            let send_one = |to: Option<SocketAddr>, datagram: &[u8]| send_one(socket, to, datagram);
            loop {
                let again = messages.clone();
                let mut filled = self.arrays.fill(messages.by_ref().take(MESSAGES_MAX));
                let count = filled.len();
                if count == 0 {
                    return;
                }
                let send_many = |from| filled.send(socket, from);
                transmit::send_filled(count, again, send_many, &send_one, &mut self.gso, tally);
            }
        }
    }

    pub(super) fn set_buffers(socket: &StdSocket, options: &SocketOptions) -> io::Result<()> {
        let receive = (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF);
        set_buffer(socket, receive, options.receive_buffer)?;
        set_buffer(socket, (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), options.send_buffer)
    }

    /// The first name passes the system's limit and needs CAP_NET_ADMIN.
    fn set_buffer(socket: &StdSocket, names: (c_int, c_int), len: usize) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        // The kernel doubles it in an int.
        let len = c_int::try_from(len).unwrap_or(c_int::MAX).min(c_int::MAX / 2);
        sys::set_option(socket.as_fd(), libc::SOL_SOCKET, names.0, len)
            .or_else(|_| sys::set_option(socket.as_fd(), libc::SOL_SOCKET, names.1, len))
    }

    pub(super) fn gso(socket: &StdSocket, wanted: Offload) -> Gso {
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

    pub(super) fn gro(socket: &StdSocket, wanted: Offload) -> Support {
        let on = c_int::from(wanted == Offload::Detect);
        let outcome = sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, on);
        match wanted {
            Offload::Off => Support::Disabled,
            Offload::Detect => supported(outcome),
        }
    }

    /// Also sees to it that an unconnected socket is not told of errors (a socket
    /// made elsewhere may have asked for them): the error of one destination would
    /// be told in place of another one's datagram.
    pub(super) fn queue_drops(socket: &StdSocket) -> Support {
        let fd = socket.as_fd();
        let _ = sys::set_option(fd, libc::SOL_IP, libc::IP_RECVERR, 0);
        let _ = sys::set_option(fd, libc::SOL_IPV6, libc::IPV6_RECVERR, 0);
        supported(sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1))
    }

    fn supported(outcome: io::Result<()>) -> Support {
        outcome.map_or(Support::Missing, |()| Support::Available)
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use super::*;
    use crate::net::transmit;

    impl UdpSocket {
        pub(super) fn transmit_all<'m>(
            &mut self,
            messages: impl Iterator<Item = Message<'m>> + Clone,
            tally: &mut Tally,
        ) {
            let send_one =
                |to: Option<SocketAddr>, datagram: &[u8]| send_one(&self.inner, to, datagram);
            for message in messages {
                transmit::send_split(&message, &send_one, tally);
            }
        }
    }

    /// Some systems refuse what they cannot give; what they have stays then.
    pub(super) fn set_buffers(socket: &StdSocket, options: &SocketOptions) -> io::Result<()> {
        let socket = SockRef::from(socket);
        if options.receive_buffer > 0 {
            let _ = socket.set_recv_buffer_size(options.receive_buffer);
        }
        if options.send_buffer > 0 {
            let _ = socket.set_send_buffer_size(options.send_buffer);
        }
        Ok(())
    }

    pub(super) fn gso(_: &StdSocket, wanted: Offload) -> Gso {
        Gso::unused(unused(wanted))
    }

    pub(super) fn gro(_: &StdSocket, wanted: Offload) -> Support {
        unused(wanted)
    }

    pub(super) fn queue_drops(_: &StdSocket) -> Support {
        Support::Missing
    }

    fn unused(wanted: Offload) -> Support {
        match wanted {
            Offload::Detect => Support::Missing,
            Offload::Off => Support::Disabled,
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::net::sys;

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
