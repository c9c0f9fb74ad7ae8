//! Pulling the layout piece by piece, within a credit.

use core::time::Duration;

use zerocopy::little_endian::U32;

use crate::kernel;
use crate::layout::LayoutHash;
use crate::layout::Parent;
use crate::layout::limits::PARENTS_MAX;
use crate::layout::limits::SCHEMA_LEN_MAX;
use crate::sync::join::JoinError;
use crate::sync::join::Joined;
use crate::sync::join::session_header;
use crate::sync::outbox::Destination;
use crate::sync::outbox::Outbox;
use crate::sync::time::Time;
use crate::wire::DatagramType;
use crate::wire::LayoutBody;
use crate::wire::LayoutRequestBody;

/// Pieces asked for at a time: they fit any receive buffer.
const CREDIT: u32 = 32;

/// Wait for the next piece before asking again.
const RETRY: Duration = Duration::from_millis(100);

/// Longest layout: the largest table, the longest schema, and the two counts.
const LAYOUT_LEN_MAX: usize = 8 + PARENTS_MAX as usize * size_of::<Parent>() + SCHEMA_LEN_MAX;

/// Bytes at the front of a layout that its hash leaves out: the two counts.
const COUNTS_LEN: usize = 8;

/// A layout on its way.
#[derive(Debug)]
pub(crate) struct LayoutPull {
    layout_len: usize,
    /// What came, without a hole, from the front.
    blob: Vec<u8>,
    /// Where the last request's credit ends.
    asked_to: usize,
    next_try: Time,
    /// Times in a row that it was asked for in vain.
    unanswered: u32,
}

impl LayoutPull {
    pub(crate) fn new(joined: &Joined, now: Time) -> LayoutPull {
        LayoutPull {
            layout_len: (joined.layout_len as usize).min(LAYOUT_LEN_MAX),
            blob: Vec::new(),
            asked_to: 0,
            next_try: now,
            unanswered: 0,
        }
    }

    /// How often in a row the server did not answer.
    pub(crate) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    pub(crate) fn poll_timeout(&self) -> Time {
        self.next_try
    }

    /// Asks for what is missing, when it is time to.
    pub(crate) fn handle_timeout(&mut self, now: Time, joined: &Joined, outbox: &mut Outbox) {
        if now >= self.next_try {
            self.unanswered += u32::from(self.asked_to > 0);
            self.ask(now, joined, outbox);
        }
    }

    fn ask(&mut self, now: Time, joined: &Joined, outbox: &mut Outbox) {
        let piece_len = joined.datagram_size
            - crate::layout::limits::DATAGRAM_HEADER_LEN
            - size_of::<LayoutBody>();
        let body = LayoutRequestBody {
            offset: U32::new(u32::try_from(self.blob.len()).unwrap_or(u32::MAX)),
            credit: U32::new(CREDIT),
        };
        self.asked_to = self.blob.len() + piece_len * CREDIT as usize;
        self.next_try = now.after(RETRY);
        let header = session_header(joined, DatagramType::LayoutRequest);
        outbox.datagram(Destination::Peer, &header, &body, &[], 0);
    }

    /// Takes a piece; gives the layout when it is whole.
    ///
    /// Pieces are taken in order only. One that was lost makes the client ask
    /// again from there: layouts are small beside the tree.
    pub(crate) fn take(
        &mut self,
        now: Time,
        joined: &Joined,
        body: &LayoutBody,
        piece: &[u8],
        outbox: &mut Outbox,
    ) -> Option<Result<Vec<u8>, JoinError>> {
        let expected = body.offset.get() as usize == self.blob.len()
            && body.layout_len.get() as usize == self.layout_len
            && piece.len() <= self.layout_len - self.blob.len();
        if !expected {
            return None;
        }
        self.unanswered = 0;
        self.blob.extend_from_slice(piece);
        self.next_try = now.after(RETRY);
        if self.blob.len() < self.layout_len {
            if self.blob.len() >= self.asked_to {
                self.ask(now, joined, outbox);
            }
            return None;
        }
        let blob = core::mem::take(&mut self.blob);
        let hashed = blob.get(COUNTS_LEN..).unwrap_or_default();
        let found = LayoutHash(kernel::crc32c(hashed));
        if found == joined.layout_hash {
            Some(Ok(blob))
        } else {
            Some(Err(JoinError::Layout { expected: joined.layout_hash, found }))
        }
    }
}
