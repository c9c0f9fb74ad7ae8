//! What travelled last, and a fingerprint of all that ever did.

use core::fmt::Write as _;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::kernel::crc32c;
use crate::sim::options::NODES_MAX;
use crate::sim::random::mix;
use crate::sync::Time;
use crate::wire::Pretty;

/// Datagrams that a failure shows: some periods of a small world.
const LINES_MAX: usize = 120;

/// Bytes that are hashed of a datagram that arrives: its header.
const HASHED: usize = 64;

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is on its way.
    Sent,
    /// It arrived.
    Came,
    /// Lost by chance, or on a link that is cut.
    Lost,
    /// Nobody listens there.
    Nobody,
    /// It lies in the socket of a stopped process.
    Waits,
    /// The socket of a stopped process is full.
    Overflows,
}

enum Entry {
    Datagram { time: Time, from: u16, to: u16, fate: Fate, bytes: Rc<[u8]> },
    Note { time: Time, text: String },
}

/// The last entries, and a running hash of all.
pub(super) struct Trace {
    last: VecDeque<Entry>,
    hash: u64,
    /// What was hashed whole last: the same datagram often goes to many.
    hashed: Option<(Rc<[u8]>, u32)>,
    datagrams: u64,
    bytes: u64,
}

impl Trace {
    pub(super) fn new() -> Trace {
        Trace {
            last: VecDeque::with_capacity(LINES_MAX),
            hash: 0,
            hashed: None,
            datagrams: 0,
            bytes: 0,
        }
    }

    pub(super) fn datagram(
        &mut self,
        time: Time,
        (from, to): (u16, u16),
        fate: Fate,
        bytes: &Rc<[u8]>,
    ) {
        if fate == Fate::Came {
            self.datagrams += 1;
            self.bytes += bytes.len() as u64;
        }
        let path = u64::from(from) << 32 | u64::from(to) << 8 | fate as u64;
        // What arrives was hashed whole when it was sent.
        let head = if fate == Fate::Came { bytes.get(..HASHED) } else { None };
        let checksum = head.map_or_else(|| self.checksum(bytes), crc32c);
        let content = (bytes.len() as u64) << 32 | u64::from(checksum);
        self.fold(time.0);
        self.fold(path);
        self.fold(content);
        self.push(Entry::Datagram { time, from, to, fate, bytes: bytes.clone() });
    }

    fn checksum(&mut self, bytes: &Rc<[u8]>) -> u32 {
        match &self.hashed {
            Some((known, checksum)) if Rc::ptr_eq(known, bytes) => *checksum,
            _ => {
                let checksum = crc32c(bytes);
                self.hashed = Some((bytes.clone(), checksum));
                checksum
            }
        }
    }

    pub(super) fn note(&mut self, time: Time, text: String) {
        self.fold(time.0);
        self.fold(u64::from(crc32c(text.as_bytes())));
        self.push(Entry::Note { time, text });
    }

    fn fold(&mut self, number: u64) {
        self.hash = mix(self.hash.rotate_left(5) ^ number);
    }

    fn push(&mut self, entry: Entry) {
        if self.last.len() == LINES_MAX {
            self.last.pop_front();
        }
        self.last.push_back(entry);
    }

    /// The same for two runs that did the same, byte for byte.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// Datagrams that arrived, and their bytes.
    pub(super) fn traffic(&self) -> (u64, u64) {
        (self.datagrams, self.bytes)
    }

    pub(super) fn lines(&self, name: impl Fn(u16) -> String) -> Vec<String> {
        self.last.iter().map(|entry| line(entry, &name)).collect()
    }
}

fn line(entry: &Entry, name: &impl Fn(u16) -> String) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match entry {
        Entry::Note { time, text: note } => write!(text, "{} -- {note}", stamp(*time)),
        Entry::Datagram { time, from, to, fate, bytes } => write!(
            text,
            "{} {} -> {} {}: {}",
            stamp(*time),
            name(*from),
            name(*to),
            format!("{fate:?}").to_lowercase(),
            Pretty(bytes)
        ),
    };
    text
}

/// Seconds since the start, to the microsecond.
pub(super) fn stamp(time: Time) -> String {
    format!("{:>6}.{:06}", time.0 / 1_000_000, time.0 % 1_000_000)
}

/// Process and run that a port names: see `network`.
pub(super) const fn node_of(port: u16) -> usize {
    (port % NODES_MAX) as usize
}
