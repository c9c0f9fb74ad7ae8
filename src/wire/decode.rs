//! Decoding: bytes from outside become one typed message or one error.

use core::fmt;
use core::mem::size_of;

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::U32;

use crate::kernel;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::wire::DOOR_DATAGRAM_LEN;
use crate::wire::body::AckRefusal;
use crate::wire::body::GroupBody;
use crate::wire::body::Hole;
use crate::wire::body::InitBody;
use crate::wire::body::LayoutBody;
use crate::wire::body::LayoutRequestBody;
use crate::wire::body::RequestBody;
use crate::wire::body::ResponseBody;
use crate::wire::body::TickBody;
use crate::wire::body::WelcomeBody;
use crate::wire::header::ByeReason;
use crate::wire::header::DatagramType;
use crate::wire::header::Flags;
use crate::wire::header::Header;
use crate::wire::header::PROTOCOL_VERSION;
use crate::wire::header::checked_len;
use crate::wire::leaf::LeafIter;

/// The checksums of a REQUEST, one a leaf of its range, as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksums<'a>(pub &'a [U32]);

/// How a REQUEST says what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// By the revision in the header, up to which every change is held.
    Since,
    /// By the checksum of every leaf in the range.
    Checksums(Checksums<'a>),
    /// By the parts of the range that something was lost in: they ascend, lie within the
    /// range and apart from each other. Everything else is held.
    Holes(&'a [Hole]),
}

/// What a datagram says, by its type. The [`Header`] comes beside it.
#[derive(Clone, Debug)]
pub enum Datagram<'a> {
    /// HELLO; all that it says is in the header.
    Hello,
    /// COOKIE; likewise.
    Cookie,
    /// INIT.
    Init(&'a InitBody),
    /// WELCOME, and the group of its view if it names one.
    Welcome(&'a WelcomeBody, Option<&'a GroupBody>),
    /// READY; all that it says is in the header.
    Ready,
    /// LAYOUT_REQUEST.
    LayoutRequest(&'a LayoutRequestBody),
    /// LAYOUT and its piece.
    Layout(&'a LayoutBody, &'a [u8]),
    /// EVENT and its leaves.
    Event(LeafIter<'a>),
    /// TICK.
    Tick(&'a TickBody),
    /// REQUEST and what it says of the leaves in its range.
    Request(&'a RequestBody, Question<'a>),
    /// RESPONSE and its leaves.
    Response(&'a ResponseBody, LeafIter<'a>),
    /// REPORT and its leaves.
    Report(LeafIter<'a>),
    /// ACK and what was refused.
    Ack(&'a [AckRefusal]),
    /// BYE and its reason, if it is one that we know.
    Bye(Option<ByeReason>),
}

/// Why bytes are no datagram of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer bytes came than the datagram needs.
    Short {
        /// Bytes needed.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
    /// Another protocol version; the door answers a HELLO of any version.
    Version {
        /// Version in the datagram.
        found: u8,
        /// Whether the datagram is a HELLO, padded and with the right checksum:
        /// its form is the same in every version.
        hello: bool,
    },
    /// No type has this code.
    Type {
        /// Code in the datagram.
        found: u8,
    },
    /// The header's checksum does not match.
    Checksum {
        /// Checksum in the datagram.
        expected: u32,
        /// Checksum of the bytes.
        found: u32,
    },
    /// HELLO or INIT without its padding: answering it would amplify.
    Unpadded {
        /// DatagramSize.
        found: usize,
    },
    /// `count` and the bytes behind the body do not agree.
    Count {
        /// What the header says.
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// The body speaks of a range that runs backwards or beyond its end.
    Range {
        /// Where the range begins.
        start: u64,
        /// Where it ends.
        end: u64,
        /// Where it ends at the latest.
        limit: u64,
    },
    /// EventNum, or the sequence of a device, is the last that a u64 holds. No
    /// sender counts that far, and a receiver adds one to it.
    Exhausted,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Short { expected, found } => {
                write!(f, "datagram is cut: expected {expected} bytes, found {found}")
            }
            DecodeError::Version { found, .. } => {
                write!(f, "protocol version differs: expected {PROTOCOL_VERSION}, found {found}")
            }
            DecodeError::Type { found } => write!(f, "unknown datagram type {found}"),
            DecodeError::Checksum { expected, found } => {
                write!(f, "header checksum differs: expected {expected:08x}, found {found:08x}")
            }
            DecodeError::Unpadded { found } => {
                write!(f, "not padded: expected {DOOR_DATAGRAM_LEN} bytes, found {found}")
            }
            DecodeError::Count { expected, found } => {
                write!(f, "count differs: expected {expected}, found {found}")
            }
            DecodeError::Range { start, end, limit } => {
                write!(f, "range is wrong: expected at most {limit}, found {start}..{end}")
            }
            DecodeError::Exhausted => {
                write!(f, "event_num is out of range: expected less than {}", u64::MAX)
            }
        }
    }
}

impl core::error::Error for DecodeError {}

/// Decodes one datagram. Bytes behind its DatagramSize are ignored: they fill up
/// a segment.
///
/// # Errors
/// See [`DecodeError`]. Leaves are checked one by one when they are read.
pub fn decode(bytes: &[u8]) -> Result<(&Header, Datagram<'_>), DecodeError> {
    let short = |expected| DecodeError::Short { expected, found: bytes.len() };
    let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| short(DATAGRAM_HEADER_LEN))?;
    if header.version != PROTOCOL_VERSION {
        let hello = is_foreign_hello(header, bytes);
        return Err(DecodeError::Version { found: header.version, hello });
    }
    let datagram_type = DatagramType::from_code(header.datagram_type)
        .ok_or(DecodeError::Type { found: header.datagram_type })?;
    let size = usize::from(header.datagram_size.get());
    let datagram = bytes.get(..size).ok_or_else(|| short(size))?;
    verify(header, datagram_type, datagram)?;
    if header.event_num.get() == u64::MAX {
        return Err(DecodeError::Exhausted);
    }
    let body = datagram.get(DATAGRAM_HEADER_LEN..).unwrap_or_default();
    Ok((header, decode_body(header, datagram_type, body)?))
}

/// Whether this is a HELLO of another version. Its place in the header, its
/// padding and its checksum are promised never to change, so a flipped bit in the
/// version of one of ours is not taken for one.
fn is_foreign_hello(header: &Header, bytes: &[u8]) -> bool {
    let size = usize::from(header.datagram_size.get());
    header.datagram_type == DatagramType::Hello.code()
        && size >= DOOR_DATAGRAM_LEN
        && bytes.get(..size).is_some_and(|all| verify(header, DatagramType::Hello, all).is_ok())
}

fn verify(
    header: &Header,
    datagram_type: DatagramType,
    datagram: &[u8],
) -> Result<(), DecodeError> {
    let checked = checked_len(datagram_type, datagram.len());
    let rest = datagram.get(DATAGRAM_HEADER_LEN..checked).ok_or(DecodeError::Short {
        expected: checked.max(DATAGRAM_HEADER_LEN),
        found: datagram.len(),
    })?;
    let unsealed = Header { header_checksum: U32::ZERO, ..*header };
    let found =
        kernel::crc32c_append(kernel::crc32c(zerocopy::IntoBytes::as_bytes(&unsealed)), rest);
    let expected = header.header_checksum.get();
    if found == expected { Ok(()) } else { Err(DecodeError::Checksum { expected, found }) }
}

fn decode_body<'a>(
    header: &Header,
    datagram_type: DatagramType,
    body: &'a [u8],
) -> Result<Datagram<'a>, DecodeError> {
    let count = header.count.get();
    Ok(match datagram_type {
        DatagramType::Hello => {
            padded(body)?;
            Datagram::Hello
        }
        DatagramType::Cookie => Datagram::Cookie,
        DatagramType::Init => {
            padded(body)?;
            Datagram::Init(prefix::<InitBody>(body)?.0)
        }
        DatagramType::Welcome => {
            let (welcome, rest) = prefix::<WelcomeBody>(body)?;
            Datagram::Welcome(welcome, prefix::<GroupBody>(rest).ok().map(|(group, _)| group))
        }
        DatagramType::Ready => Datagram::Ready,
        DatagramType::LayoutRequest => {
            Datagram::LayoutRequest(prefix::<LayoutRequestBody>(body)?.0)
        }
        DatagramType::Layout => {
            let (layout, piece) = prefix::<LayoutBody>(body)?;
            let start = u64::from(layout.offset.get());
            range(start, start + piece.len() as u64, u64::from(layout.layout_len.get()))?;
            Datagram::Layout(layout, piece)
        }
        DatagramType::Event => Datagram::Event(LeafIter::new(body, count)),
        DatagramType::Tick => Datagram::Tick(prefix::<TickBody>(body)?.0),
        DatagramType::Request => decode_request(header, body)?,
        DatagramType::Response => {
            let (response, leaves) = prefix::<ResponseBody>(body)?;
            let (first, next) = (response.first_leaf.get(), response.next_leaf.get());
            range(u64::from(first), u64::from(next), u64::from(u32::MAX))?;
            Datagram::Response(response, LeafIter::new(leaves, count))
        }
        DatagramType::Report => Datagram::Report(LeafIter::new(body, count)),
        DatagramType::Ack => Datagram::Ack(items::<AckRefusal>(body, usize::from(count))?),
        DatagramType::Bye => Datagram::Bye(ByeReason::from_code(header.flags.get())),
    })
}

fn decode_request<'a>(header: &Header, body: &'a [u8]) -> Result<Datagram<'a>, DecodeError> {
    let (request, tail) = prefix::<RequestBody>(body)?;
    let first = u64::from(request.first_leaf.get());
    let end = first + u64::from(request.leaf_count.get());
    range(first, end, u64::from(u32::MAX))?;
    let (flags, count) = (Flags(header.flags.get()), usize::from(header.count.get()));
    if flags.has(Flags::HOLES) {
        let holes = items::<Hole>(tail, count)?;
        apart(holes, first, end)?;
        return Ok(Datagram::Request(request, Question::Holes(holes)));
    }
    if !flags.has(Flags::CHECKSUMS) {
        return Ok(Datagram::Request(request, Question::Since));
    }
    let wanted = request.leaf_count.get() as usize;
    if count != wanted {
        return Err(DecodeError::Count { expected: wanted, found: count });
    }
    Ok(Datagram::Request(request, Question::Checksums(Checksums(items::<U32>(tail, count)?))))
}

/// Holes that lie apart cost a server no more than their range does.
fn apart(holes: &[Hole], first: u64, end: u64) -> Result<(), DecodeError> {
    let mut behind = first;
    for hole in holes {
        let start = u64::from(hole.first_leaf.get());
        let hole_end = start + u64::from(hole.leaf_count.get());
        range(behind, start, end)?;
        range(start, hole_end, end)?;
        behind = hole_end;
    }
    Ok(())
}

fn padded(body: &[u8]) -> Result<(), DecodeError> {
    let found = DATAGRAM_HEADER_LEN + body.len();
    if found >= DOOR_DATAGRAM_LEN { Ok(()) } else { Err(DecodeError::Unpadded { found }) }
}

fn range(start: u64, end: u64, limit: u64) -> Result<(), DecodeError> {
    let right = start <= end && end <= limit;
    if right { Ok(()) } else { Err(DecodeError::Range { start, end, limit }) }
}

fn prefix<T>(body: &[u8]) -> Result<(&T, &[u8]), DecodeError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::ref_from_prefix(body).map_err(|_| DecodeError::Short {
        expected: DATAGRAM_HEADER_LEN + size_of::<T>(),
        found: DATAGRAM_HEADER_LEN + body.len(),
    })
}

fn items<T>(tail: &[u8], count: usize) -> Result<&[T], DecodeError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    <[T]>::ref_from_prefix_with_elems(tail, count)
        .map(|(items, _)| items)
        .map_err(|_| DecodeError::Count { expected: count, found: tail.len() / size_of::<T>() })
}
