//! Buffers that datagrams are received into, and the walk over what came.

use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket as StdSocket;
use std::ops::Range;
use std::slice;

use crate::net::platform::ReceiveArrays;
use crate::net::platform::SHORT_MEANS_EMPTY;

/// Buffers for a number of messages, allocated once and used again by every
/// [`crate::net::UdpSocket::receive`].
///
/// A message is one datagram, or several of one sender that the kernel joined.
pub struct RecvBatch {
    arrays: ReceiveArrays,
    /// What came last, oldest first. Its capacity is the number of messages.
    spans: Vec<Span>,
    /// Messages to offer room for in the first call: see `fill`.
    expected: usize,
    /// An error that came behind good messages: told by the next call.
    pending: Option<io::Error>,
    /// The last call saw the end of the queue.
    emptied: bool,
}

/// Where a message lies and how it is split.
#[derive(Clone, Debug)]
struct Span {
    source: SocketAddr,
    place: Range<usize>,
    segment: usize,
}

/// What the layer below says about one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Received {
    /// Who sent it, if the address is one of IPv4 or IPv6.
    pub(super) source: Option<SocketAddr>,
    /// Where it lies in the storage; nothing if it came incomplete.
    pub(super) place: Option<Range<usize>>,
    /// True length of the message.
    pub(super) len: usize,
    /// Length of its datagrams but the last, if it was joined.
    pub(super) segment: Option<usize>,
    /// The kernel's count of dropped messages, if it told.
    pub(super) drops: Option<u32>,
}

/// What one call brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) datagrams: usize,
    pub(super) bytes: usize,
    pub(super) truncated: usize,
    pub(super) drops: Option<u32>,
}

impl RecvBatch {
    /// Messages of a default batch: enough that the system call costs little,
    /// few enough that the buffers (4 MiB, touched only as far as they fill)
    /// stay near the processor.
    pub const MESSAGES_DEFAULT: usize = 64;

    /// Bytes of a default buffer: the longest message, joined or not, is 65,535
    /// bytes with its headers.
    pub const BUFFER_LEN_DEFAULT: usize = 65_536;

    /// Messages that a call on a quiet socket offers room for at first. Describing
    /// a place costs a few nanoseconds, which a lone datagram should not pay
    /// sixty-four times.
    const EXPECTED_MIN: usize = 8;

    /// Room for `messages` messages of up to `buffer_len` bytes each. Longer ones
    /// are dropped and counted.
    ///
    /// # Panics
    ///
    /// If one of the numbers is 0.
    pub fn new(messages: usize, buffer_len: usize) -> RecvBatch {
        assert!(messages > 0, "a batch of 0 messages, expected 1 or more");
        assert!(buffer_len > 0, "buffers of 0 bytes, expected 1 or more");
        RecvBatch {
            arrays: ReceiveArrays::new(messages, buffer_len),
            spans: Vec::with_capacity(messages),
            expected: Self::EXPECTED_MIN,
            pending: None,
            emptied: false,
        }
    }

    /// Whether the last receive saw the queue empty behind what it brought. Whoever is told
    /// of readiness once (edges) need not ask again: what comes from now on, datagram or
    /// error, is told of anew.
    pub fn emptied_queue(&self) -> bool {
        self.emptied
    }

    /// The datagrams that came last, oldest first, each with its sender.
    #[inline]
    pub fn iter(&self) -> Datagrams<'_> {
        Datagrams { storage: self.arrays.storage(), spans: self.spans.iter(), open: None }
    }

    pub(super) fn receive(&mut self, socket: &StdSocket) -> io::Result<Arrival> {
        self.spans.clear();
        self.emptied = false;
        if let Some(error) = self.pending.take() {
            return Err(error);
        }
        let came = self.fill(socket)?;
        self.expected = (2 * came).max(Self::EXPECTED_MIN);
        let mut arrival = Arrival::default();
        for index in 0..came {
            if let Some(message) = self.arrays.message(index) {
                self.note(message, &mut arrival);
            }
        }
        Ok(arrival)
    }

    /// Offers room for twice what came last; if all of it is used, for the rest.
    fn fill(&mut self, socket: &StdSocket) -> io::Result<usize> {
        let count = self.arrays.count();
        let armed = self.expected.min(count);
        let came = self.take(socket, 0, armed)?;
        if came < armed || armed == count {
            return Ok(came);
        }
        let more = self.take(socket, armed, count - armed);
        Ok(came + more.unwrap_or_else(|error| self.keep(error)))
    }

    fn take(&mut self, socket: &StdSocket, first: usize, room: usize) -> io::Result<usize> {
        let outcome = self.arrays.receive(socket, first, room);
        self.emptied = match &outcome {
            Ok(came) => SHORT_MEANS_EMPTY && *came < room,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        outcome
    }

    /// What came before an error counts. The system forgets an error that it has
    /// told, so it is kept here.
    fn keep(&mut self, error: io::Error) -> usize {
        self.pending = (error.kind() != io::ErrorKind::WouldBlock).then_some(error);
        0
    }

    fn note(&mut self, message: Received, arrival: &mut Arrival) {
        let segment = message.segment.filter(|len| *len > 0).unwrap_or(message.len).max(1);
        let datagrams = message.len.div_ceil(segment).max(1);
        arrival.drops = message.drops.or(arrival.drops);
        let (Some(source), Some(place)) = (message.source, message.place) else {
            arrival.truncated += datagrams;
            return;
        };
        arrival.datagrams += datagrams;
        arrival.bytes += place.len();
        self.spans.push(Span { source, place, segment });
    }
}

impl Default for RecvBatch {
    fn default() -> RecvBatch {
        RecvBatch::new(Self::MESSAGES_DEFAULT, Self::BUFFER_LEN_DEFAULT)
    }
}

impl std::fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvBatch").field("spans", &self.spans).finish_non_exhaustive()
    }
}

impl<'a> IntoIterator for &'a RecvBatch {
    type Item = (SocketAddr, &'a [u8]);
    type IntoIter = Datagrams<'a>;

    fn into_iter(self) -> Datagrams<'a> {
        self.iter()
    }
}

/// Walk over the single datagrams of a [`RecvBatch`].
#[derive(Clone, Debug)]
pub struct Datagrams<'a> {
    storage: &'a [u8],
    spans: slice::Iter<'a, Span>,
    /// The message that is being split: its sender, and its datagrams to come.
    open: Option<(&'a SocketAddr, slice::Chunks<'a, u8>)>,
}

impl<'a> Iterator for Datagrams<'a> {
    type Item = (SocketAddr, &'a [u8]);

    // Called once a datagram, from another crate: a call costs more than the step.
    #[inline]
    fn next(&mut self) -> Option<(SocketAddr, &'a [u8])> {
        if let Some((source, datagrams)) = &mut self.open
            && let Some(datagram) = datagrams.next()
        {
            return Some((**source, datagram));
        }
        let span = self.spans.next()?;
        let message = self.storage.get(span.place.clone())?;
        let mut datagrams = message.chunks(span.segment);
        // An empty message is one empty datagram.
        let datagram = datagrams.next().unwrap_or(message);
        self.open = Some((&span.source, datagrams));
        Some((span.source, datagram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(place: Option<Range<usize>>, len: usize, segment: Option<usize>) -> Received {
        let source = Some(SocketAddr::from(([127, 0, 0, 1], 9)));
        Received { source, place, len, segment, drops: None }
    }

    fn lens(batch: &RecvBatch) -> Vec<usize> {
        batch.iter().map(|(_, datagram)| datagram.len()).collect()
    }

    #[test]
    fn messages_are_split_and_empty_ones_are_kept() {
        let mut batch = RecvBatch::new(4, 100);
        let mut arrival = Arrival::default();
        batch.note(received(Some(0..25), 25, Some(10)), &mut arrival);
        batch.note(received(Some(100..100), 0, None), &mut arrival);
        batch.note(received(Some(200..230), 30, Some(0)), &mut arrival);
        batch.note(received(Some(300..310), 10, Some(10)), &mut arrival);
        assert_eq!(lens(&batch), [10, 10, 5, 0, 30, 10]);
        assert_eq!((arrival.datagrams, arrival.bytes), (6, 65));
    }

    #[test]
    fn incomplete_messages_are_counted_by_their_true_length() {
        let mut batch = RecvBatch::new(4, 100);
        let mut arrival = Arrival::default();
        batch.note(received(None, 250, Some(100)), &mut arrival);
        batch.note(received(None, 250, None), &mut arrival);
        let nobody = Received { source: None, ..received(Some(0..5), 5, None) };
        batch.note(Received { drops: Some(3), ..nobody }, &mut arrival);
        let expected = Arrival { truncated: 3 + 1 + 1, drops: Some(3), ..Arrival::default() };
        assert_eq!(arrival, expected);
        assert!(lens(&batch).is_empty());
    }
}
