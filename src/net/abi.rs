//! Socket addresses and control messages as the Linux kernel lays them out in
//! memory, written and read as bytes.
//!
//! The layouts are those of `struct sockaddr_in`, `struct sockaddr_in6` and
//! `struct cmsghdr`. Handling them as bytes needs no pointer and no union.

use std::ffi::c_int;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::SocketAddrV6;

use crate::net::lending::How;
use crate::net::lending::Over;

/// Length of `struct sockaddr_in`.
const V4_LEN: usize = 16;
/// Length of `struct sockaddr_in6`.
const V6_LEN: usize = 28;

/// Room for an address of either family.
///
/// ```text
/// v4   family u16 | port u16 BE | address 4 B | zero 8 B
/// v6   family u16 | port u16 BE | flow info u32 | address 16 B | scope id u32
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct RawAddress([u8; RawAddress::ROOM]);

impl RawAddress {
    /// `V6_LEN`, rounded up to the alignment.
    pub(super) const ROOM: usize = V6_LEN.next_multiple_of(8);
    /// Room not yet written to.
    pub(super) const EMPTY: RawAddress = RawAddress([0; RawAddress::ROOM]);

    /// The address and the length that goes with it.
    pub(super) fn new(address: SocketAddr) -> (RawAddress, usize) {
        let mut raw = RawAddress::EMPTY;
        let port = address.port().to_be_bytes();
        match address {
            SocketAddr::V4(v4) => {
                raw.put(0, (libc::AF_INET as u16).to_ne_bytes());
                raw.put(2, port);
                raw.put(4, v4.ip().octets());
                (raw, V4_LEN)
            }
            SocketAddr::V6(v6) => {
                raw.put(0, (libc::AF_INET6 as u16).to_ne_bytes());
                raw.put(2, port);
                raw.put(4, v6.flowinfo().to_ne_bytes());
                raw.put(8, v6.ip().octets());
                raw.put(24, v6.scope_id().to_ne_bytes());
                (raw, V6_LEN)
            }
        }
    }

    /// The address, if its family and length are those of IPv4 or IPv6.
    pub(super) fn decode(&self, len: usize) -> Option<SocketAddr> {
        let port = u16::from_be_bytes(self.take(2));
        match (c_int::from(u16::from_ne_bytes(self.take(0))), len) {
            (libc::AF_INET, V4_LEN..) => {
                let ip = Ipv4Addr::from(self.take::<4>(4));
                Some(SocketAddr::new(IpAddr::V4(ip), port))
            }
            (libc::AF_INET6, V6_LEN..) => {
                let flow = u32::from_ne_bytes(self.take(4));
                let ip = Ipv6Addr::from(self.take::<16>(8));
                let scope = u32::from_ne_bytes(self.take(24));
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)))
            }
            _ => None,
        }
    }

    fn put<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) {
        self.0[offset..offset + N].copy_from_slice(&bytes);
    }

    fn take<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[offset..offset + N]);
        bytes
    }
}

/// Control messages are aligned to the machine's word, as `CMSG_ALIGN` has it.
const WORD: usize = size_of::<usize>();
/// A `struct cmsghdr`: length as a word, then level and type; Data follows.
const CONTROL_HEAD: usize = (WORD + 8).next_multiple_of(WORD);
/// `CMSG_SPACE` of a u16.
const SEGMENT_CONTROL: usize = CONTROL_HEAD + 2_usize.next_multiple_of(WORD);

const _: () = assert!(CONTROL_HEAD == size_of::<libc::cmsghdr>().next_multiple_of(WORD));

/// The control message that tells the kernel where to cut a message.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct SegmentControl([u8; SEGMENT_CONTROL]);

impl SegmentControl {
    /// Length of the control message and its filling.
    pub(super) const LEN: usize = SEGMENT_CONTROL;

    /// `UDP_SEGMENT` with this many bytes a segment.
    pub(super) fn new(segment: u16) -> SegmentControl {
        let mut bytes = [0; SEGMENT_CONTROL];
        bytes[..WORD].copy_from_slice(&(CONTROL_HEAD + 2).to_ne_bytes());
        bytes[WORD..WORD + 4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        bytes[WORD + 4..WORD + 8].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        bytes[CONTROL_HEAD..CONTROL_HEAD + 2].copy_from_slice(&segment.to_ne_bytes());
        SegmentControl(bytes)
    }
}

/// Room for the control messages of one received message. Ours take 48 bytes;
/// a socket that was made elsewhere may ask for time stamps and the like.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct ReceiveControl([u8; ReceiveControl::ROOM]);

impl ReceiveControl {
    /// Bytes of room.
    pub(super) const ROOM: usize = 256;
    /// Room not yet written to.
    pub(super) const EMPTY: ReceiveControl = ReceiveControl([0; ReceiveControl::ROOM]);

    /// What the first `len` bytes say.
    pub(super) fn decode(&self, len: usize) -> Notes {
        let mut rest = self.0.get(..len).unwrap_or(&self.0);
        let mut notes = Notes::default();
        while let Some(note) = next_control(&mut rest) {
            notes.add(note);
        }
        notes
    }
}

/// What the kernel notes about a received message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// Bytes of each joined datagram but the last; nothing for a single one.
    pub(super) segment: Option<usize>,
    /// Messages dropped from the queue since the socket was made, modulo 2^32.
    pub(super) drops: Option<u32>,
    /// Messages from lent memory that are over.
    pub(super) over: Option<Over>,
}

impl Notes {
    fn add(&mut self, (level, kind, data): (c_int, c_int, &[u8])) {
        if let (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR) =
            (level, kind)
        {
            self.over = data.first_chunk().and_then(decode_over);
            return;
        }
        let Some(data) = data.first_chunk::<4>() else {
            return;
        };
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                self.segment = usize::try_from(i32::from_ne_bytes(*data)).ok();
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => self.drops = Some(u32::from_ne_bytes(*data)),
            _ => {}
        }
    }
}

/// `SO_EE_ORIGIN_ZEROCOPY` and `SO_EE_CODE_ZEROCOPY_COPIED` of linux/errqueue.h.
const ORIGIN_ZEROCOPY: u8 = 5;
const CODE_COPIED: u8 = 1;

/// What a `struct sock_extended_err` says of lent memory, if it is about that:
///
/// ```text
/// errno u32 | origin u8 | type u8 | code u8 | filling u8 | first u32 | last u32
/// ```
fn decode_over(error: &[u8; 16]) -> Option<Over> {
    let number = |at: usize| error.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
    let [_, _, _, _, origin, _, code, ..] = *error;
    let copied = code & CODE_COPIED != 0;
    let how = if copied { How::Copied } else { How::InPlace };
    let over = Over { first: number(8)?, last: number(12)?, how };
    (origin == ORIGIN_ZEROCOPY).then_some(over)
}

/// Takes the first control message (level, type, data) off `rest`.
fn next_control<'a>(rest: &mut &'a [u8]) -> Option<(c_int, c_int, &'a [u8])> {
    let bytes = *rest;
    let len = usize::from_ne_bytes(*bytes.first_chunk()?);
    let level = c_int::from_ne_bytes(*bytes.get(WORD..)?.first_chunk()?);
    let kind = c_int::from_ne_bytes(*bytes.get(WORD + 4..)?.first_chunk()?);
    let data = bytes.get(CONTROL_HEAD..len)?;
    *rest = bytes.get(len.next_multiple_of(WORD)..).unwrap_or(&[]);
    Some((level, kind, data))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_of_both_families_come_back() {
        for text in ["203.0.113.7:65535", "[2001:db8::7]:1", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            let (raw, len) = RawAddress::new(address);
            assert_eq!(raw.decode(len), Some(address), "{text}");
            assert_eq!(raw.decode(len - 1), None, "{text} cut short");
        }
        assert_eq!(RawAddress::EMPTY.decode(V6_LEN), None);
    }

    fn control(level: c_int, kind: c_int, value: u32) -> Vec<u8> {
        let mut bytes = (CONTROL_HEAD + 4).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(CONTROL_HEAD, 0);
        bytes.extend(value.to_ne_bytes());
        bytes.resize(bytes.len().next_multiple_of(WORD), 0);
        bytes
    }

    fn room(bytes: &[u8]) -> ReceiveControl {
        let mut room = ReceiveControl::EMPTY;
        room.0[..bytes.len()].copy_from_slice(bytes);
        room
    }

    #[test]
    fn both_notes_are_found_among_others() {
        let mut bytes = control(libc::SOL_SOCKET, 29, 5);
        bytes.extend(control(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, u32::MAX));
        bytes.extend(control(libc::SOL_UDP, libc::UDP_GRO, 1_200));
        let notes = room(&bytes).decode(bytes.len());
        let expected = Notes { segment: Some(1_200), drops: Some(u32::MAX), ..Notes::default() };
        assert_eq!(notes, expected);
        assert_eq!(room(&bytes).decode(0), Notes::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_end_or_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..ReceiveControl::ROOM),
            small in 0usize..64,
        ) {
            let mut bytes = bytes;
            let _ = room(&bytes).decode(bytes.len());
            // A believable length in front, so that the walk goes further.
            bytes.splice(..WORD.min(bytes.len()), small.to_ne_bytes());
            bytes.truncate(ReceiveControl::ROOM);
            let _ = room(&bytes).decode(bytes.len() + small);
        }
    }
}
