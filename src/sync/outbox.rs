//! What a core has to send, in arenas that are used again.

use core::net::SocketAddr;
use core::ops::Range;
use std::collections::VecDeque;

use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;

use crate::layout::DataLocId;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::layout::limits::DATAGRAM_SIZE_MAX;
use crate::wire;
use crate::wire::Header;
use crate::wire::Packet;
use crate::wire::RequestBody;

/// Who gets it. The clients of a view are looked up when it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Peer,
    One(SocketAddr),
    View(usize),
}

/// One thing to send, by its place in the arenas.
#[derive(Debug)]
pub(crate) enum Queued {
    Datagram { to: Destination, bytes: Range<usize> },
    Leaves { to: Destination, packets: Range<usize>, segment: usize },
}

/// Queue and arenas. Drained after every mutation, so it holds what one of them
/// brought and never grows with a peer's slowness.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Queued>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) packets: Vec<Packet>,
    pub(crate) leaves: Vec<DataLocId>,
    /// Leaves that differ, while a REQUEST's checksums are compared.
    pub(crate) differing: Vec<u32>,
}

/// Checksums that a REQUEST of the largest datagram carries.
const DIFFERING_MAX: usize = DATAGRAM_SIZE_MAX / size_of::<u32>();

/// Things that are queued at a time: for each view an EVENT or a TICK, and an answer.
const QUEUE_ROOM: usize = 64;

/// Bytes of small datagrams that are queued at a time: the largest goes alone, REQUESTs
/// and LAYOUT pieces come in small numbers.
const BYTES_ROOM: usize = 16 << 10;

impl Outbox {
    /// An outbox with room for so many datagrams of leaves and so many leaves in them.
    /// It grows beyond, but a usual load costs no allocation from the start.
    pub(crate) fn with_room(packets: usize, leaves: usize) -> Outbox {
        Outbox {
            queue: VecDeque::with_capacity(QUEUE_ROOM),
            bytes: Vec::with_capacity(BYTES_ROOM),
            packets: Vec::with_capacity(packets),
            leaves: Vec::with_capacity(leaves),
            differing: Vec::with_capacity(leaves.min(DIFFERING_MAX)),
        }
    }

    pub(crate) fn push(&mut self, queued: Queued) {
        self.queue.push_back(queued);
    }

    /// Queues a small datagram.
    pub(crate) fn datagram<B: IntoBytes + Immutable>(
        &mut self,
        to: Destination,
        header: &Header,
        body: &B,
        tail: &[u8],
        padded_len: usize,
    ) {
        let bytes = wire::encode(&mut self.bytes, header, body, tail, padded_len);
        self.queue.push_back(Queued::Datagram { to, bytes });
    }

    /// Queues a REQUEST with the checksums or holes that it carries.
    pub(crate) fn request<T: IntoBytes + Immutable>(
        &mut self,
        header: &Header,
        body: &RequestBody,
        items: impl Iterator<Item = T>,
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(body.as_bytes());
        let mut count = 0;
        for item in items {
            self.bytes.extend_from_slice(item.as_bytes());
            count += 1;
        }
        let header = Header { count: U16::new(count), ..*header };
        self.bytes[start..start + DATAGRAM_HEADER_LEN].copy_from_slice(header.as_bytes());
        wire::seal(&mut self.bytes[start..]);
        let bytes = start..self.bytes.len();
        self.queue.push_back(Queued::Datagram { to: Destination::Peer, bytes });
    }

    /// The next thing to send; when there is none, the arenas are empty again.
    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let next = self.queue.pop_front();
        if next.is_none() {
            self.bytes.clear();
            self.packets.clear();
            self.leaves.clear();
        }
        next
    }
}
