//! What is sent: datagrams that lie one behind the other, and how they are cut
//! into messages that the kernel takes.

use std::net::SocketAddr;
use std::slice;

use crate::net::MESSAGE_LEN_MAX;

/// Finished datagrams one behind the other, all of one length but the last,
/// which may be shorter; and, where wanted, one more for each destination alone.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'m> {
    memory: &'m [u8],
    segment: usize,
    tails: &'m [u8],
    tail_len: usize,
}

impl<'m> Segments<'m> {
    /// Takes the datagrams of `segment` bytes that `memory` holds.
    ///
    /// # Panics
    ///
    /// If `segment` is 0 or above [`MESSAGE_LEN_MAX`].
    pub fn new(memory: &'m [u8], segment: usize) -> Segments<'m> {
        let range = 1..=MESSAGE_LEN_MAX;
        assert!(range.contains(&segment), "segment of {segment} bytes, expected {range:?}");
        Segments { memory, segment, tails: &[], tail_len: 0 }
    }

    /// Adds one last datagram of `tail_len` bytes for each destination: the first
    /// destination gets the first `tail_len` bytes of `tails`, and so on.
    ///
    /// A tail no longer than the segment leaves in one message with the shared
    /// datagrams when those fill their segments.
    ///
    /// # Panics
    ///
    /// If `tail_len` is above [`MESSAGE_LEN_MAX`]; and when sent, if `tails` is
    /// not exactly one tail for each destination.
    #[must_use]
    pub fn with_tails(self, tails: &'m [u8], tail_len: usize) -> Segments<'m> {
        assert!(
            tail_len <= MESSAGE_LEN_MAX,
            "tail of {tail_len} bytes, expected {MESSAGE_LEN_MAX} at most"
        );
        Segments { tails, tail_len, ..self }
    }

    /// Datagrams that each destination is sent.
    pub fn datagrams(&self) -> usize {
        self.memory.len().div_ceil(self.segment) + usize::from(self.tail_len > 0)
    }

    /// Bytes that each destination is sent.
    pub fn bytes(&self) -> usize {
        self.memory.len() + self.tail_len
    }

    /// The messages for all destinations, each at most `segments_max` datagrams.
    pub(super) fn messages(
        self,
        destinations: Destinations<'m>,
        segments_max: usize,
    ) -> impl Iterator<Item = Message<'m>> + Clone {
        let count = destinations.len();
        let expected = self.tail_len * count;
        let found = self.tails.len();
        assert!(found == expected, "{found} bytes of tails, expected {expected} for {count}");
        (0..count).flat_map(move |index| self.cut(index, destinations.at(index), segments_max))
    }

    /// The messages for one destination; its tail is the first one.
    pub(super) fn cut_for(
        self,
        to: SocketAddr,
        segments_max: usize,
    ) -> impl Iterator<Item = Message<'m>> + Clone {
        self.cut(0, Some(to), segments_max)
    }

    fn cut(self, index: usize, to: Option<SocketAddr>, segments_max: usize) -> Cut<'m> {
        let tail_at = index * self.tail_len;
        let tail = self.tails.get(tail_at..tail_at + self.tail_len).unwrap_or(&[]);
        Cut { destination: to, rest: self.memory, tail, segment: self.segment, segments_max }
    }
}

/// To whom segments go.
#[derive(Clone, Copy, Debug)]
pub enum Destinations<'d> {
    /// The peer that the socket is connected to.
    Connected,
    /// Each of these, in this order.
    Each(&'d [SocketAddr]),
}

impl Destinations<'_> {
    /// Number of destinations.
    pub fn len(&self) -> usize {
        match self {
            Destinations::Connected => 1,
            Destinations::Each(addresses) => addresses.len(),
        }
    }

    /// Whether there is nobody to send to.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn at(&self, index: usize) -> Option<SocketAddr> {
        match self {
            Destinations::Connected => None,
            Destinations::Each(addresses) => addresses.get(index).copied(),
        }
    }
}

/// One message for the kernel: datagrams of `segment` bytes in `body`, the last
/// one maybe shorter, or followed by the one in `tail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'m> {
    pub(super) destination: Option<SocketAddr>,
    pub(super) body: &'m [u8],
    pub(super) tail: &'m [u8],
    /// At least 1.
    pub(super) segment: usize,
}

impl<'m> Message<'m> {
    /// A message of one datagram, which may be empty.
    pub(super) fn single(destination: Option<SocketAddr>, datagram: &'m [u8]) -> Message<'m> {
        Message { destination, body: datagram, tail: &[], segment: datagram.len().max(1) }
    }

    pub(super) fn len(&self) -> usize {
        self.body.len() + self.tail.len()
    }

    /// Datagrams in the message: an empty one is a datagram as well.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "counted one by one there"))]
    pub(super) fn datagrams(&self) -> usize {
        self.len().div_ceil(self.segment).max(1)
    }

    /// The datagrams, one by one.
    pub(super) fn split(&self) -> impl Iterator<Item = &'m [u8]> {
        let empty = (self.len() == 0).then_some(self.body);
        let tail = (!self.tail.is_empty()).then_some(self.tail);
        let body: slice::Chunks<'m, u8> = self.body.chunks(self.segment);
        body.chain(tail).chain(empty)
    }
}

/// The messages for one destination.
#[derive(Clone, Debug)]
struct Cut<'m> {
    destination: Option<SocketAddr>,
    rest: &'m [u8],
    tail: &'m [u8],
    segment: usize,
    segments_max: usize,
}

impl<'m> Iterator for Cut<'m> {
    type Item = Message<'m>;

    fn next(&mut self) -> Option<Message<'m>> {
        if self.rest.is_empty() {
            return self.lone_tail();
        }
        let whole = self.segments_max.min(MESSAGE_LEN_MAX / self.segment).max(1);
        let len = self.rest.len().min(whole * self.segment);
        let (body, rest) = self.rest.split_at(len);
        self.rest = rest;
        let tail = if self.tail_joins(body) { std::mem::take(&mut self.tail) } else { &[] };
        Some(Message { destination: self.destination, body, tail, segment: self.segment })
    }
}

impl<'m> Cut<'m> {
    fn lone_tail(&mut self) -> Option<Message<'m>> {
        let tail = std::mem::take(&mut self.tail);
        (!tail.is_empty()).then(|| Message::single(self.destination, tail))
    }

    /// Only the last segment of a message may be short, so what lies before the
    /// tail must be whole segments, and all of it must fit.
    fn tail_joins(&self, body: &[u8]) -> bool {
        self.rest.is_empty()
            && body.len().is_multiple_of(self.segment)
            && body.len() / self.segment < self.segments_max
            && body.len() + self.tail.len() <= MESSAGE_LEN_MAX
            && self.tail.len() <= self.segment
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_period_of_54_and_its_tick_is_one_message() {
        let ring = vec![7; 54 * 1_200];
        let ticks = [1; 2 * 64];
        let to = ["127.0.0.1:1", "127.0.0.1:2"].map(|text| text.parse().unwrap());
        let segments = Segments::new(&ring, 1_200).with_tails(&ticks, 64);
        let messages: Vec<_> = segments.messages(Destinations::Each(&to), 64).collect();
        assert_eq!(messages.len(), 2);
        for (message, destination) in messages.iter().zip(to) {
            assert_eq!(message.destination, Some(destination));
            assert_eq!((message.datagrams(), message.len()), (55, 54 * 1_200 + 64));
        }
    }

    #[test]
    fn a_tail_joins_as_long_as_the_message_takes_it() {
        let memory = [0; 54 * 1_200];
        let tail = [1; 1_200];
        let joined = |shared: usize, len: usize, segments_max: usize| {
            let segments = Segments::new(&memory[..shared], 1_200).with_tails(&tail[..len], len);
            segments.messages(Destinations::Connected, segments_max).count() == 1
        };
        assert!(joined(64_800, 707, 64), "65,507 bytes are the most");
        assert!(!joined(64_800, 708, 64));
        assert!(joined(2_400, 1_200, 3));
        assert!(!joined(2_400, 1_200, 2), "one segment too many");
        assert!(!joined(2_399, 10, 64), "only the last segment may be short");
    }

    #[test]
    fn an_empty_datagram_is_one_datagram() {
        let message = Message::single(None, &[]);
        assert_eq!(message.datagrams(), 1);
        assert_eq!(message.split().collect::<Vec<_>>(), [&[] as &[u8]]);
    }

    proptest! {
        #[test]
        fn messages_carry_the_same_datagrams_however_they_are_cut(
            len in 0usize..200_000,
            segment in 1usize..3_000,
            tail_len in 0usize..3_000,
            segments_max in 1usize..=128,
        ) {
            let memory: Vec<u8> = (0..len).map(|i| (i / segment) as u8).collect();
            let tail = vec![255; tail_len];
            let segments = Segments::new(&memory, segment).with_tails(&tail, tail_len);
            let tails = (tail_len > 0).then_some(&tail[..]);
            let expected: Vec<&[u8]> = memory.chunks(segment).chain(tails).collect();
            let messages: Vec<_> = segments.messages(Destinations::Connected, segments_max).collect();
            let found: Vec<&[u8]> = messages.iter().flat_map(|message| message.split()).collect();
            prop_assert!(found == expected);
            prop_assert_eq!(found.len(), segments.datagrams());
            for message in &messages {
                prop_assert!(message.len() <= MESSAGE_LEN_MAX);
                prop_assert!(message.datagrams() <= segments_max);
                prop_assert_eq!(message.datagrams(), message.split().count());
                prop_assert!(message.split().all(|datagram| datagram.len() <= message.segment));
            }
        }
    }
}
