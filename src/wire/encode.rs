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

/// Writes size and checksum into a datagram whose header and body are complete.
///
/// # Panics
/// If `datagram` is shorter than a header or longer than a UDP payload: the
/// caller laid it out wrongly.
pub fn seal(datagram: &mut [u8]) {
    let size = datagram.len();
    let (header, _) = Header::mut_from_prefix(datagram).expect("a datagram holds its header");
    header.datagram_size = U16::new(u16::try_from(size).expect("a datagram is at most 65,507"));
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
/// straight copy a leaf. Bytes behind it are left as they are.
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
    let leaves = &leaves[packet.leaves.clone()];
    for leaf in leaves {
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
