//! Encoding: headers, small datagrams, and datagrams of leaves laid out once.

use core::mem::offset_of;
use core::mem::size_of;
use core::ops::Range;

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::kernel;
use crate::layout::DataLocId;
use crate::layout::LeafHead;
use crate::layout::leaf_wire_len;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::layout::limits::DATAGRAM_SIZE_MAX;
use crate::wire::body::ResponseBody;
use crate::wire::header::DatagramType;
use crate::wire::header::Header;
use crate::wire::header::checked_len;
use crate::wire::leaf::LeafSource;
use crate::wire::leaf::leaf_checksum;

/// A datagram of leaves that is still to be laid out: its head, and which of a
/// list of leaves it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Header; size, count and checksum are filled in when it is laid out.
    pub header: Header,
    /// Body of a RESPONSE, nothing for an EVENT.
    pub response: Option<ResponseBody>,
    /// Which leaves of the list go in.
    pub leaves: Range<usize>,
}

/// So many leaves ahead their memory is asked for: changed leaves lie anywhere in the
/// tree, and a copy of some 200 bytes takes less time than it takes to come from memory.
const COPIES_AHEAD: usize = 8;

/// Writes size and checksum into a datagram whose header and body are complete.
///
/// # Panics
/// If `datagram` is shorter than its header (and the body of a RESPONSE) or
/// longer than a UDP payload: the caller laid it out wrongly.
pub fn seal(datagram: &mut [u8]) {
    let size = datagram.len();
    assert!(size <= DATAGRAM_SIZE_MAX, "a datagram of {size} bytes is no UDP payload");
    let (header, _) = Header::mut_from_prefix(datagram).expect("a datagram holds its header");
    header.datagram_size = U16::new(size as u16);
    header.header_checksum = U32::ZERO;
    let checked = DatagramType::from_code(header.datagram_type)
        .map_or(size, |datagram_type| checked_len(datagram_type, size));
    let checksum = kernel::crc32c(&datagram[..checked]);
    let at = offset_of!(Header, header_checksum);
    datagram[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Appends a finished datagram of header, body and tail to `out`, padded with
/// zeros to `padded_len` if it is shorter, and gives its place.
pub fn encode<B: IntoBytes + Immutable>(
    out: &mut Vec<u8>,
    header: &Header,
    body: &B,
    tail: &[u8],
    padded_len: usize,
) -> Range<usize> {
    let start = out.len();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(body.as_bytes());
    out.extend_from_slice(tail);
    let len = (out.len() - start).max(padded_len);
    out.resize(start + len, 0);
    seal(&mut out[start..]);
    start..start + len
}

/// Lays out a packet at the front of `out` and gives its DatagramSize: one
/// straight copy a leaf. Bytes behind it are left as they are: whoever pads a
/// segment writes zeros there, so that nothing of an earlier datagram leaks.
///
/// # Panics
/// If `out` is too small for the packet, or the source does not hold a leaf that
/// was planned: the plan was made for the same tree and datagram size.
pub fn lay_out(
    packet: &Packet,
    leaves: &[DataLocId],
    source: &impl LeafSource,
    out: &mut [u8],
) -> usize {
    let mut end = DATAGRAM_HEADER_LEN;
    if let Some(response) = &packet.response {
        out[end..end + size_of::<ResponseBody>()].copy_from_slice(response.as_bytes());
        end += size_of::<ResponseBody>();
    }
    let ahead = leaves.get(packet.leaves.start + COPIES_AHEAD..).unwrap_or_default();
    let leaves = &leaves[packet.leaves.clone()];
    for (place, leaf) in leaves.iter().enumerate() {
        if let Some(later) = ahead.get(place) {
            source.expect_copy(*later);
        }
        end += source.copy_wire(*leaf, &mut out[end..]).expect("a planned leaf fits");
    }
    let mut header = packet.header;
    header.count = U16::new(u16::try_from(leaves.len()).expect("a datagram holds few leaves"));
    out[..DATAGRAM_HEADER_LEN].copy_from_slice(header.as_bytes());
    seal(&mut out[..end]);
    end
}

/// Appends a device's leaf to a REPORT that is being built: revision 0, checksum
/// computed here.
pub fn push_leaf(out: &mut Vec<u8>, leaf: DataLocId, data: &[u8]) {
    let mut head = LeafHead {
        checksum: U32::ZERO,
        data_size: U32::new(u32::try_from(data.len()).expect("Data is at most a datagram")),
        data_loc_id: U32::new(leaf.0),
        reserved: U32::ZERO,
        revision: U64::ZERO,
    };
    head.checksum = U32::new(leaf_checksum(&head, data));
    let end = out.len() + leaf_wire_len(data.len());
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(data);
    out.resize(end, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::limits::CAPACITY_MAX;
    use crate::layout::limits::DATAGRAM_SIZE_MAX;
    use crate::layout::limits::RESPONSE_BODY_LEN;
    use crate::wire::Datagram;
    use crate::wire::decode;
    use crate::wire::samples;
    use crate::wire::samples::Source;

    fn packet(leaves: Range<usize>) -> Packet {
        Packet { header: samples::header(DatagramType::Event), response: None, leaves }
    }

    #[test]
    fn datagrams_lie_one_behind_the_other() {
        let mut out = Vec::new();
        let header = samples::header(DatagramType::Ready);
        let first = encode(&mut out, &header, &(), &[], 0);
        let second = encode(&mut out, &header, &(), &[], 100);
        assert_eq!((first.clone(), second.clone()), (0..64, 64..164));
        assert!(decode(&out[first]).is_ok());
        assert!(decode(&out[second]).is_ok());
        assert!(out[128..].iter().all(|byte| *byte == 0), "padding is zero");
    }

    #[test]
    fn a_packet_carries_its_own_part_of_the_list() {
        let list = [DataLocId(9), DataLocId(7), DataLocId(9)];
        let mut out = [0xee; 256];
        let size = lay_out(&packet(1..3), &list, &Source, &mut out);
        assert_eq!(size, 64 + 32 + 40);
        let (header, Datagram::Event(leaves)) = decode(&out).expect("laid out") else {
            panic!("not an event")
        };
        assert_eq!(header.count.get(), 2);
        let ids: Vec<u32> = leaves.map(|leaf| leaf.expect("undamaged").data_loc_id().0).collect();
        assert_eq!(ids, [7, 9]);
        assert!(out[size..].iter().all(|byte| *byte == 0xee), "nothing is written behind it");
    }

    #[test]
    fn a_packet_without_leaves_is_its_head() {
        let mut out = [0; 64];
        assert_eq!(lay_out(&packet(0..0), &[], &Source, &mut out), 64);
        assert!(decode(&out).is_ok());
    }

    #[test]
    #[should_panic(expected = "a planned leaf fits")]
    fn a_plan_for_larger_datagrams_is_a_broken_invariant() {
        lay_out(&packet(0..1), &[DataLocId(7)], &Source, &mut [0; 80]);
    }

    #[test]
    #[should_panic(expected = "no UDP payload")]
    fn more_than_a_udp_payload_is_a_broken_invariant() {
        seal(&mut vec![0; DATAGRAM_SIZE_MAX + 1]);
    }

    #[test]
    fn the_largest_leaf_fits_the_largest_response() {
        let data = vec![0x5a; CAPACITY_MAX];
        let mut leaves = Vec::new();
        push_leaf(&mut leaves, DataLocId(1), &data);
        let header = Header { count: U16::new(1), ..samples::header(DatagramType::Response) };
        let mut out = Vec::new();
        let place = encode(&mut out, &header, &[0_u8; RESPONSE_BODY_LEN], &leaves, 0);
        assert!(place.len() <= DATAGRAM_SIZE_MAX, "{}", place.len());
        let Ok((_, Datagram::Response(_, mut leaves))) = decode(&out) else {
            panic!("not a response")
        };
        assert_eq!(leaves.next().expect("one leaf").expect("undamaged").data, data);
    }
}
