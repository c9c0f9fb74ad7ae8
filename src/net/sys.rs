//! The system calls of Linux, behind a safe face.
//!
//! This is the only file of the module with `unsafe`. Two structs own what the
//! kernel reads and writes during a call: [`SendArrays`] and [`ReceiveArrays`].
//! The rule of both: pointers are made from the arrays in the very call that
//! hands them to the kernel or in a value that borrows the arrays for as long as
//! it lives; what is left in an array afterwards is never followed.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ffi::c_int;
use std::ffi::c_uint;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::ptr;

use crate::net::abi::Notes;
use crate::net::abi::RawAddress;
use crate::net::abi::ReceiveControl;
use crate::net::abi::SegmentControl;
use crate::net::batch::Received;
use crate::net::segments::Message;

/// Sets an option whose value is an int.
pub(super) fn set_option(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    let from = (&raw const value).cast();
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `from` points to `value`, which lives to the end of this function
    // and is `len` bytes long; the kernel reads that much and keeps no pointer.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, from, len) };
    checked(result).map(drop)
}

/// Reads an option whose value is an int.
pub(super) fn option(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    let (to, room) = ((&raw mut value).cast(), &raw mut len);
    // SAFETY: `to` points to `value` and `room` to `len`, which says how long
    // `value` is; the kernel writes no more than that, and any int is valid.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, to, room) };
    checked(result).map(|_| value)
}

/// Chooses the interface by which datagrams to groups of IPv4 leave.
pub(super) fn set_multicast_interface(socket: BorrowedFd<'_>, index: c_int) -> io::Result<()> {
    let nobody = libc::in_addr { s_addr: 0 };
    let choice = libc::ip_mreqn { imr_multiaddr: nobody, imr_address: nobody, imr_ifindex: index };
    let (level, name) = (libc::IPPROTO_IP, libc::IP_MULTICAST_IF);
    let from = (&raw const choice).cast();
    let len = size_of::<libc::ip_mreqn>() as libc::socklen_t;
    // SAFETY: `from` points to `choice`, which lives to the end of this function and
    // is `len` bytes long; the kernel reads that much and keeps no pointer.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, from, len) };
    checked(result).map(drop)
}

/// The index of the interface with this name; 0 if there is none.
pub(super) fn interface_index(name: &CStr) -> c_uint {
    // SAFETY: `name` is a string that ends with a zero and lives through the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// Whether a message of `segments` segments passes through the kernel: sent by a
/// socket of its own to itself over the loopback interface.
pub(super) fn segments_pass(segments: usize) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .or_else(|_| UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)))?;
    socket.connect(socket.local_addr()?)?;
    socket.set_nonblocking(true)?;
    let memory = vec![0; segments];
    let message = Message { destination: None, body: &memory, tail: &[], segment: 1 };
    let mut arrays = SendArrays::default();
    arrays.fill([message].into_iter()).send(&socket, 0).map(drop)
}

fn checked(result: c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Repeats a call that a signal interrupted.
fn uninterrupted(mut call: impl FnMut() -> c_int) -> io::Result<usize> {
    loop {
        match checked(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// An mmsghdr with nothing in it. Some libcs have private filling fields, so it
/// cannot be written as a literal.
fn empty_header() -> libc::mmsghdr {
    // SAFETY: mmsghdr consists of integers and raw pointers alone, and both are
    // valid with all bytes zero.
    unsafe { std::mem::zeroed() }
}

fn part(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// What `sendmmsg` reads, kept from call to call so that nothing is allocated.
pub(super) struct SendArrays {
    addresses: Vec<(RawAddress, usize)>,
    parts: Vec<[libc::iovec; 2]>,
    controls: Vec<Option<SegmentControl>>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the raw pointers in `parts` and `headers` are followed only through a
// `Filled`, which borrows the arrays and the memory and is made after the
// pointers were written; what an earlier one left behind is never followed. So
// nothing depends on the thread that owns the arrays.
unsafe impl Send for SendArrays {}

impl fmt::Debug for SendArrays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendArrays").field("capacity", &self.headers.capacity()).finish()
    }
}

impl SendArrays {
    /// Room for this many messages; of it, what is not needed is not touched.
    pub(super) fn new(messages: usize) -> SendArrays {
        SendArrays {
            addresses: Vec::with_capacity(messages),
            parts: Vec::with_capacity(messages),
            controls: Vec::with_capacity(messages),
            headers: Vec::with_capacity(messages),
        }
    }

    /// Describes the messages for the kernel. They stay where they are.
    pub(super) fn fill<'m>(
        &mut self,
        messages: impl Iterator<Item = Message<'m>>,
    ) -> Filled<'_, 'm> {
        self.addresses.clear();
        self.parts.clear();
        self.controls.clear();
        self.headers.clear();
        for message in messages {
            self.push(&message);
        }
        self.link();
        Filled { headers: &mut self.headers, memory: PhantomData }
    }

    fn push(&mut self, message: &Message<'_>) {
        self.addresses.push(message.destination.map_or((RawAddress::EMPTY, 0), RawAddress::new));
        self.parts.push([part(message.body), part(message.tail)]);
        let joined = message.datagrams() > 1;
        // A segment is at most 65,507 bytes, or the message would not be joined.
        let segment = u16::try_from(message.segment).ok().filter(|_| joined);
        self.controls.push(segment.map(SegmentControl::new));
    }

    /// Points a header at the entries of each message. The vectors that are
    /// pointed into are not touched again before the next `fill`.
    fn link(&mut self) {
        let rows = self.addresses.iter_mut().zip(&mut self.parts).zip(&mut self.controls);
        for (((address, address_len), parts), control) in rows {
            let mut header = empty_header();
            let inner = &mut header.msg_hdr;
            if *address_len > 0 {
                inner.msg_name = ptr::from_mut(address).cast();
                inner.msg_namelen = *address_len as libc::socklen_t;
            }
            inner.msg_iovlen = 1 + usize::from(parts[1].iov_len > 0) as PartCount;
            inner.msg_iov = parts.as_mut_ptr();
            if let Some(control) = control {
                inner.msg_control = ptr::from_mut(control).cast();
                inner.msg_controllen = SegmentControl::LEN as ControlLen;
            }
            self.headers.push(header);
        }
    }
}

/// Type of `msg_iovlen`, which differs from libc to libc.
#[cfg(target_env = "musl")]
type PartCount = c_int;
#[cfg(not(target_env = "musl"))]
type PartCount = usize;

/// Type of `msg_controllen`, which differs from libc to libc.
#[cfg(target_env = "musl")]
type ControlLen = libc::socklen_t;
#[cfg(not(target_env = "musl"))]
type ControlLen = usize;

/// Messages described for the kernel. It borrows both the description and the
/// memory `'m` that is sent.
pub(super) struct Filled<'s, 'm> {
    headers: &'s mut Vec<libc::mmsghdr>,
    memory: PhantomData<&'m [u8]>,
}

impl Filled<'_, '_> {
    /// Number of messages.
    pub(super) fn len(&self) -> usize {
        self.headers.len()
    }

    /// Sends the messages from the one at `from` on, and tells how many the kernel
    /// took before one failed. An error is that of the first one.
    pub(super) fn send(&mut self, socket: &impl AsRawFd, from: usize) -> io::Result<usize> {
        self.send_with(socket, from, 0)
    }

    /// The same, but the kernel may read the memory until it says that the messages are
    /// over. It is the caller's who writes there meanwhile: the datagrams are garbled
    /// then, and nothing else is.
    pub(super) fn lend(&mut self, socket: &impl AsRawFd, from: usize) -> io::Result<usize> {
        self.send_with(socket, from, libc::MSG_ZEROCOPY)
    }

    fn send_with(&mut self, socket: &impl AsRawFd, from: usize, flag: c_int) -> io::Result<usize> {
        let headers = self.headers.get_mut(from..).unwrap_or_default();
        let count = headers.len() as c_uint;
        let (first, descriptor) = (headers.as_mut_ptr(), socket.as_raw_fd());
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | flag) as _;
        uninterrupted(|| {
            // SAFETY: `first` points to `count` headers of a slice that is borrowed
            // to the end of this function; the kernel writes `msg_len` there and
            // reads the rest. Each header points to one address, one pair of parts
            // and at most one control message with the lengths set by `link`, in
            // vectors that nothing has touched since (`self` borrows their owner);
            // each part is a slice that lives for `'m`, which outlives `self`.
            unsafe { libc::sendmmsg(descriptor, first, count, flags) }
        })
    }
}

/// Takes what the socket's error queue says next.
pub(super) fn read_error_queue(socket: &UdpSocket) -> io::Result<Notes> {
    let mut control = ReceiveControl::EMPTY;
    let mut header = empty_header().msg_hdr;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = ReceiveControl::ROOM as ControlLen;
    let (descriptor, flags) = (socket.as_raw_fd(), libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT);
    uninterrupted(|| {
        // SAFETY: the header has a control room with its length, and no address or part;
        // both live to the end of this function, nothing else reads or writes them
        // meanwhile, and any byte is valid in the room.
        let came = unsafe { libc::recvmsg(descriptor, &raw mut header, flags) };
        came.try_into().unwrap_or(c_int::MAX)
    })?;
    // A socklen_t on musl.
    #[allow(clippy::unnecessary_cast)]
    let len = header.msg_controllen as usize;
    Ok(control.decode(len))
}

/// What `recvmmsg` writes: a buffer, an address and control messages for each of
/// a fixed number of messages.
pub(super) struct ReceiveArrays {
    /// The buffers, one behind the other.
    storage: Vec<u8>,
    buffer_len: usize,
    addresses: Vec<RawAddress>,
    controls: Vec<ReceiveControl>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the raw pointers in `parts` and `headers` are followed only within
// `receive`, which writes them first. Nothing depends on the owning thread.
unsafe impl Send for ReceiveArrays {}

impl ReceiveArrays {
    /// Room for `count` messages of up to `buffer_len` bytes.
    pub(super) fn new(count: usize, buffer_len: usize) -> ReceiveArrays {
        let no_part = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        ReceiveArrays {
            storage: vec![0; count * buffer_len],
            buffer_len,
            addresses: vec![RawAddress::EMPTY; count],
            controls: vec![ReceiveControl::EMPTY; count],
            parts: vec![no_part; count],
            headers: vec![empty_header(); count],
        }
    }

    /// Number of messages that there is room for.
    pub(super) fn count(&self) -> usize {
        self.headers.len()
    }

    /// Receives up to `count` messages into the places from `first` on, and tells
    /// how many came.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        first: usize,
        count: usize,
    ) -> io::Result<usize> {
        let count = count.min(self.count().saturating_sub(first));
        self.link(first, count);
        let headers = self.headers.get_mut(first..first + count).unwrap_or_default();
        let (start, descriptor) = (headers.as_mut_ptr(), socket.as_raw_fd());
        // MSG_TRUNC asks for the true length of a message that does not fit.
        let flags = (libc::MSG_DONTWAIT | libc::MSG_TRUNC) as _;
        uninterrupted(|| {
            // SAFETY: `start` points to `count` headers of a slice that is borrowed
            // to the end of this function. `link` has just pointed each at a buffer,
            // an address and a control room of its own, with their lengths; `self` is
            // borrowed mutably, so nothing else reads or writes them. Any byte is
            // valid in all of them. The null time-out is allowed.
            unsafe { libc::recvmmsg(descriptor, start, count as c_uint, flags, ptr::null_mut()) }
        })
    }

    /// Points `count` headers from `first` on at their own places.
    fn link(&mut self, first: usize, count: usize) {
        let buffers = self.storage.chunks_exact_mut(self.buffer_len);
        let places = self.addresses.iter_mut().zip(&mut self.controls);
        let rows = self.headers.iter_mut().zip(&mut self.parts).zip(places).zip(buffers);
        for (((header, part), (address, control)), buffer) in rows.skip(first).take(count) {
            *part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let inner = &mut header.msg_hdr;
            inner.msg_name = ptr::from_mut(address).cast();
            inner.msg_namelen = RawAddress::ROOM as libc::socklen_t;
            inner.msg_iov = ptr::from_mut(part);
            inner.msg_iovlen = 1;
            inner.msg_control = ptr::from_mut(control).cast();
            inner.msg_controllen = ReceiveControl::ROOM as ControlLen;
            inner.msg_flags = 0;
        }
    }

    /// The message at `index`, of those that came last.
    pub(super) fn message(&self, index: usize) -> Option<Received> {
        let header = self.headers.get(index)?;
        let inner = &header.msg_hdr;
        let len = header.msg_len as usize;
        // A socklen_t on musl.
        #[allow(clippy::unnecessary_cast)]
        let notes_len = inner.msg_controllen as usize;
        let notes = self.controls.get(index)?.decode(notes_len);
        let start = index * self.buffer_len;
        let cut = libc::MSG_TRUNC | libc::MSG_CTRUNC;
        let whole = inner.msg_flags & cut == 0 && len <= self.buffer_len;
        Some(Received {
            source: self.addresses.get(index)?.decode(inner.msg_namelen as usize),
            place: whole.then_some(start..start + len),
            len,
            segment: notes.segment,
            drops: notes.drops,
        })
    }

    /// Bytes of the buffers.
    pub(super) fn storage(&self) -> &[u8] {
        &self.storage
    }
}
