//! Decoding: any bytes are an error or a datagram that says the same when it is
//! encoded again.

use core::mem::offset_of;

use zerocopy::FromZeros;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;

use mapleaf::layout::LeafHead;
use mapleaf::layout::leaf_wire_len;
use mapleaf::layout::limits::DATAGRAM_HEADER_LEN;
use mapleaf::layout::limits::DATAGRAM_SIZE_MAX;
use mapleaf::layout::limits::RESPONSE_BODY_LEN;
use mapleaf::wire;
use mapleaf::wire::DOOR_DATAGRAM_LEN;
use mapleaf::wire::Datagram;
use mapleaf::wire::DatagramType;
use mapleaf::wire::Header;
use mapleaf::wire::LeafIter;
use mapleaf::wire::PROTOCOL_VERSION;
use mapleaf::wire::Pretty;
use mapleaf::wire::Question;

/// The first byte says what is put right of the bytes behind it.
const RIGHT_HEADER: u8 = 1;
const RIGHT_LEAVES: u8 = 1 << 1;
const PADDED: u8 = 1 << 2;
const RIGHT_COUNT: u8 = 1 << 3;
/// The version stays what the input says, under a right checksum.
const OTHER_VERSION: u8 = 1 << 4;

/// Decodes bytes that were put right as far as the input wants.
pub(super) fn run(datagram_type: DatagramType, input: &[u8]) {
    let mut bytes = Vec::new();
    put_right(datagram_type, input, &mut bytes);
    check(&bytes);
}

fn put_right(datagram_type: DatagramType, input: &[u8], bytes: &mut Vec<u8>) {
    bytes.clear();
    let Some((how, rest)) = input.split_first() else { return };
    bytes.extend_from_slice(rest.get(..DATAGRAM_SIZE_MAX).unwrap_or(rest));
    if how & PADDED != 0 && bytes.len() < DOOR_DATAGRAM_LEN {
        bytes.resize(DOOR_DATAGRAM_LEN, 0);
    }
    if how & RIGHT_LEAVES != 0 {
        put_leaves_right(datagram_type, bytes);
    }
    if how & RIGHT_HEADER != 0 {
        put_header_right(datagram_type, *how, bytes);
    }
}

/// A byte that puts most things right: for whoever alters inputs.
#[cfg(test)]
pub(crate) fn mostly_right(datagram_type: DatagramType, random: u32) -> u8 {
    let is_one_of = |shift: u32, of: u32| random >> shift & (of - 1) == 0;
    let is_door = matches!(datagram_type, DatagramType::Hello | DatagramType::Init);
    let mut how = 0;
    how |= if is_one_of(0, 8) { 0 } else { RIGHT_HEADER };
    how |= if is_one_of(3, 4) { 0 } else { RIGHT_LEAVES };
    how |= if is_one_of(5, 8) == is_door { 0 } else { PADDED };
    how |= if is_one_of(8, 4) { 0 } else { RIGHT_COUNT };
    how | if is_one_of(10, 32) { OTHER_VERSION } else { 0 }
}

/// Memory that is used again from input to input.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    again: Vec<u8>,
    third: Vec<u8>,
}

/// What [`run`] does but for the printer and texts, some ten times as fast. Says
/// whether the bytes were a datagram.
#[cfg(test)]
pub(crate) fn run_fast(datagram_type: DatagramType, input: &[u8], scratch: &mut Scratch) -> bool {
    let Scratch { bytes, again, third } = scratch;
    put_right(datagram_type, input, bytes);
    let Ok((header, datagram)) = wire::decode(bytes) else { return false };
    assert!(usize::from(header.datagram_size.get()) <= bytes.len());
    if encode_into(again, header, &datagram).is_none() {
        return true;
    }
    let (header_again, datagram_again) = wire::decode(again).expect("what was encoded");
    assert_eq!(plain(header), plain(header_again));
    assert!(says_the_same(&datagram, &datagram_again));
    encode_into(third, header_again, &datagram_again).expect("whole leaves stay whole");
    assert_eq!(again, third);
    true
}

#[cfg(test)]
fn says_the_same(one: &Datagram<'_>, other: &Datagram<'_>) -> bool {
    match (one, other) {
        (Datagram::Hello, Datagram::Hello)
        | (Datagram::Cookie, Datagram::Cookie)
        | (Datagram::Ready, Datagram::Ready) => true,
        (Datagram::Init(a), Datagram::Init(b)) => a.as_bytes() == b.as_bytes(),
        (Datagram::Welcome(a, of_a), Datagram::Welcome(b, of_b)) => {
            a.as_bytes() == b.as_bytes() && of_a == of_b
        }
        (Datagram::LayoutRequest(a), Datagram::LayoutRequest(b)) => a.as_bytes() == b.as_bytes(),
        (Datagram::Layout(a, p), Datagram::Layout(b, q)) => a.as_bytes() == b.as_bytes() && p == q,
        (Datagram::Tick(a), Datagram::Tick(b)) => a.as_bytes() == b.as_bytes(),
        (Datagram::Request(a, p), Datagram::Request(b, q)) => {
            a.as_bytes() == b.as_bytes() && p == q
        }
        (Datagram::Ack(a), Datagram::Ack(b)) => a.as_bytes() == b.as_bytes(),
        (Datagram::Bye(a), Datagram::Bye(b)) => a == b,
        (Datagram::Event(a), Datagram::Event(b)) | (Datagram::Report(a), Datagram::Report(b)) => {
            a.clone().eq(b.clone())
        }
        (Datagram::Response(a, p), Datagram::Response(b, q)) => {
            a.as_bytes() == b.as_bytes() && p.clone().eq(q.clone())
        }
        _ => false,
    }
}

/// Gives each leaf the checksum of its bytes, as far as leaves can be found.
fn put_leaves_right(datagram_type: DatagramType, bytes: &mut [u8]) {
    let body = if datagram_type == DatagramType::Response { RESPONSE_BODY_LEN } else { 0 };
    let mut at = DATAGRAM_HEADER_LEN + body;
    while let Some(head) = bytes.get(at..at + size_of::<LeafHead>()) {
        let size_at = offset_of!(LeafHead, data_size);
        let size: [u8; 4] = head[size_at..size_at + 4].try_into().expect("four bytes");
        let size = u32::from_le_bytes(size) as usize;
        let Some(checked) = bytes.get(at + size_at..at + size_of::<LeafHead>() + size) else {
            return;
        };
        let checksum = mapleaf::kernel::crc32c(checked);
        bytes[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
        at += leaf_wire_len(size);
    }
}

fn put_header_right(datagram_type: DatagramType, how: u8, bytes: &mut Vec<u8>) {
    // A RESPONSE is sealed with its body.
    let least = DATAGRAM_HEADER_LEN + RESPONSE_BODY_LEN;
    bytes.resize(bytes.len().max(least), 0);
    bytes[offset_of!(Header, datagram_type)] = datagram_type.code();
    if how & OTHER_VERSION == 0 {
        bytes[offset_of!(Header, version)] = PROTOCOL_VERSION;
    }
    if how & RIGHT_COUNT != 0 {
        // Of what goes by count, the number that fits the bytes.
        let each = match datagram_type {
            DatagramType::Request => size_of::<U32>(),
            _ => size_of::<LeafHead>(),
        };
        let count = (bytes.len() - DATAGRAM_HEADER_LEN) / each;
        let at = offset_of!(Header, count);
        bytes[at..at + 2].copy_from_slice(&(count as u16).to_le_bytes());
    }
    wire::seal(bytes);
}

/// Everything that is promised of decoding.
pub(super) fn check(bytes: &[u8]) {
    let shown = Pretty(bytes).to_string();
    assert!(shown.is_ascii() && !shown.contains('\n'), "one line of ASCII: {shown:?}");
    let (header, datagram) = match wire::decode(bytes) {
        Ok(decoded) => decoded,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert!(usize::from(header.datagram_size.get()) <= bytes.len());
    let Some(again) = encoded(header, &datagram) else { return };
    let (header_again, datagram_again) = wire::decode(&again).expect("what was encoded");
    assert_eq!(plain(header), plain(header_again));
    assert_eq!(said(&datagram), said(&datagram_again));
    assert_eq!(Some(again.as_slice()), encoded(header_again, &datagram_again).as_deref());
}

/// The header without what follows from the bytes behind it: what those that are
/// ignored take is not encoded again.
fn plain(header: &Header) -> Header {
    Header { datagram_size: U16::ZERO, header_checksum: U32::ZERO, ..*header }
}

/// What follows the header, leaves with all that they hold.
fn said(datagram: &Datagram<'_>) -> String {
    match datagram {
        Datagram::Event(leaves) | Datagram::Report(leaves) => all_leaves(leaves),
        Datagram::Response(body, leaves) => format!("{body:?} {}", all_leaves(leaves)),
        other => format!("{other:?}"),
    }
}

fn all_leaves(leaves: &LeafIter<'_>) -> String {
    format!("{:?}", leaves.clone().collect::<Vec<_>>())
}

/// The datagram as a sender would lay it out; nothing if a leaf of it is damaged.
fn encoded(header: &Header, datagram: &Datagram<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    encode_into(&mut out, header, datagram)?;
    Some(out)
}

fn encode_into(out: &mut Vec<u8>, header: &Header, datagram: &Datagram<'_>) -> Option<()> {
    out.clear();
    let door = DOOR_DATAGRAM_LEN;
    match datagram {
        Datagram::Hello => wire::encode(out, header, &(), &[], door),
        Datagram::Cookie | Datagram::Ready | Datagram::Bye(_) => {
            wire::encode(out, header, &(), &[], 0)
        }
        Datagram::Init(body) => {
            // Must not panic, whatever the length says.
            let _ = body.filter_path();
            wire::encode(out, header, *body, &[], door)
        }
        Datagram::Welcome(body, group) => {
            let tail = group.map_or(&[][..], |group| group.as_bytes());
            wire::encode(out, header, *body, tail, 0)
        }
        Datagram::LayoutRequest(body) => wire::encode(out, header, *body, &[], 0),
        Datagram::Layout(body, piece) => wire::encode(out, header, *body, piece, 0),
        Datagram::Tick(body) => wire::encode(out, header, *body, &[], 0),
        Datagram::Request(body, question) => {
            let tail = match question {
                Question::Since => &[][..],
                Question::Checksums(checksums) => checksums.0.as_bytes(),
                Question::Holes(holes) => holes.as_bytes(),
            };
            wire::encode(out, header, *body, tail, 0)
        }
        Datagram::Ack(refusals) => wire::encode(out, header, &(), refusals.as_bytes(), 0),
        Datagram::Event(leaves) | Datagram::Report(leaves) => {
            out.extend_from_slice(header.as_bytes());
            lay_out(leaves, out)?;
            wire::seal(out);
            0..out.len()
        }
        Datagram::Response(body, leaves) => {
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(body.as_bytes());
            lay_out(leaves, out)?;
            wire::seal(out);
            0..out.len()
        }
    };
    Some(())
}

/// Appends leaves as a sender lays them out; nothing if one is damaged, or all are
/// too long.
fn lay_out(leaves: &LeafIter<'_>, out: &mut Vec<u8>) -> Option<()> {
    for leaf in leaves.clone() {
        let leaf = match leaf {
            Ok(leaf) => leaf,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return None;
            }
        };
        assert_eq!(leaf.data.len(), leaf.head.data_size.get() as usize);
        assert_eq!(wire::leaf_checksum(leaf.head, leaf.data), leaf.head.checksum.get());
        out.extend_from_slice(leaf.head.as_bytes());
        out.extend_from_slice(leaf.data);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    // The filling of the last leaf may have been cut off: it may not fit here.
    (out.len() <= DATAGRAM_SIZE_MAX).then_some(())
}

/// A header with nothing in it but its type and version.
pub(super) fn bare(datagram_type: DatagramType) -> Header {
    Header {
        datagram_type: datagram_type.code(),
        version: PROTOCOL_VERSION,
        ..Header::new_zeroed()
    }
}
