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

/// What a datagram says, by its type. The [`Header`] comes beside it.
#[derive(Clone, Debug)]
pub enum Datagram<'a> {
    /// HELLO; all that it says is in the header.
    Hello,
    /// COOKIE; likewise.
    Cookie,
    /// INIT.
    Init(&'a InitBody),
    /// WELCOME.
    Welcome(&'a WelcomeBody),
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
    /// REQUEST and its checksums, if it carries them.
    Request(&'a RequestBody, Option<Checksums<'a>>),
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
    /// Another protocol version; the type is told so that the door can answer.
    Version {
        /// Version in the datagram.
        found: u8,
        /// Whether the datagram is a padded HELLO.
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
    let size = usize::from(header.datagram_size.get());
    if header.version != PROTOCOL_VERSION {
        let hello =
            header.datagram_type == DatagramType::Hello.code() && bytes.len() >= DOOR_DATAGRAM_LEN;
        return Err(DecodeError::Version { found: header.version, hello });
    }
    let datagram_type = DatagramType::from_code(header.datagram_type)
        .ok_or(DecodeError::Type { found: header.datagram_type })?;
    let datagram = bytes.get(..size).ok_or_else(|| short(size))?;
    verify(header, datagram_type, datagram)?;
    let body = datagram.get(DATAGRAM_HEADER_LEN..).unwrap_or_default();
    Ok((header, decode_body(header, datagram_type, body)?))
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
        DatagramType::Welcome => Datagram::Welcome(prefix::<WelcomeBody>(body)?.0),
        DatagramType::Ready => Datagram::Ready,
        DatagramType::LayoutRequest => {
            Datagram::LayoutRequest(prefix::<LayoutRequestBody>(body)?.0)
        }
        DatagramType::Layout => {
            let (layout, piece) = prefix::<LayoutBody>(body)?;
            Datagram::Layout(layout, piece)
        }
        DatagramType::Event => Datagram::Event(LeafIter::new(body, count)),
        DatagramType::Tick => Datagram::Tick(prefix::<TickBody>(body)?.0),
        DatagramType::Request => decode_request(header, body)?,
        DatagramType::Response => {
            let (response, leaves) = prefix::<ResponseBody>(body)?;
            Datagram::Response(response, LeafIter::new(leaves, count))
        }
        DatagramType::Report => Datagram::Report(LeafIter::new(body, count)),
        DatagramType::Ack => Datagram::Ack(items::<AckRefusal>(body, usize::from(count))?),
        DatagramType::Bye => Datagram::Bye(ByeReason::from_code(header.flags.get())),
    })
}

fn decode_request<'a>(header: &Header, body: &'a [u8]) -> Result<Datagram<'a>, DecodeError> {
    let (request, tail) = prefix::<RequestBody>(body)?;
    if !Flags(header.flags.get()).has(Flags::CHECKSUMS) {
        return Ok(Datagram::Request(request, None));
    }
    let count = usize::from(header.count.get());
    let wanted = request.leaf_count.get() as usize;
    if count != wanted {
        return Err(DecodeError::Count { expected: wanted, found: count });
    }
    Ok(Datagram::Request(request, Some(Checksums(items::<U32>(tail, count)?))))
}

fn padded(body: &[u8]) -> Result<(), DecodeError> {
    let found = DATAGRAM_HEADER_LEN + body.len();
    if found >= DOOR_DATAGRAM_LEN { Ok(()) } else { Err(DecodeError::Unpadded { found }) }
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
