//! One line a datagram, for logs and traces.

use core::fmt;

use crate::wire::decode::Datagram;
use crate::wire::decode::decode;
use crate::wire::header::DatagramType;
use crate::wire::header::Flags;
use crate::wire::header::Header;

/// Prints the datagram in these bytes as one line, or why it is none.
#[derive(Clone, Copy, Debug)]
pub struct Pretty<'a>(pub &'a [u8]);

impl fmt::Display for Pretty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match decode(self.0) {
            Err(error) => write!(f, "?? {} bytes: {error}", self.0.len()),
            Ok((header, datagram)) => {
                head(f, header)?;
                body(f, header, datagram)
            }
        }
    }
}

fn head(f: &mut fmt::Formatter<'_>, header: &Header) -> fmt::Result {
    match DatagramType::from_code(header.datagram_type) {
        Some(datagram_type) => write!(f, "{datagram_type:?}")?,
        None => write!(f, "type {}", header.datagram_type)?,
    }
    write!(
        f,
        " size={} tree={:016x} life={} layout={:08x} channel={:016x}",
        header.datagram_size,
        header.tree_id.get(),
        header.life,
        header.layout_hash.get(),
        header.channel.get(),
    )
}

fn body(f: &mut fmt::Formatter<'_>, header: &Header, datagram: Datagram<'_>) -> fmt::Result {
    let event_num = header.event_num;
    let watermark = header.watermark;
    let digest = header.digest.get();
    match datagram {
        Datagram::Hello | Datagram::Cookie | Datagram::Ready => Ok(()),
        Datagram::Init(init) => {
            write!(f, " role={} filter={:?}", init.role, init.filter_path().unwrap_or("?"))
        }
        Datagram::Welcome(welcome) => write!(
            f,
            " view={:016x} event_num={event_num} watermark={watermark} leaves={} period_us={}",
            welcome.view_id.get(),
            welcome.leaf_count,
            welcome.period_us,
        ),
        Datagram::LayoutRequest(request) => {
            write!(f, " offset={} credit={}", request.offset, request.credit)
        }
        Datagram::Layout(layout, piece) => {
            write!(f, " offset={} of {} piece={}", layout.offset, layout.layout_len, piece.len())
        }
        Datagram::Event(leaves) => {
            write!(f, " event_num={event_num} watermark={watermark}")?;
            if Flags(header.flags.get()).has(Flags::CLOSES_PERIOD) {
                write!(f, " closes digest={digest:016x}")?;
            }
            leaf_ids(f, leaves)
        }
        Datagram::Tick(_) => {
            write!(f, " event_num={event_num} watermark={watermark} digest={digest:016x}")
        }
        Datagram::Request(request, checksums) => write!(
            f,
            " id={} first_leaf={} leaf_count={} credit={} {}",
            request.request_id,
            request.first_leaf,
            request.leaf_count,
            request.credit,
            match checksums {
                Some(checksums) => format!("checksums={}", checksums.0.len()),
                None => format!("since={watermark}"),
            },
        ),
        Datagram::Response(response, leaves) => {
            write!(
                f,
                " id={} index={} covers={}..{} event_num={event_num} watermark={watermark}",
                response.request_id, response.index, response.first_leaf, response.next_leaf,
            )?;
            leaf_ids(f, leaves)
        }
        Datagram::Report(leaves) => {
            write!(f, " sequence={event_num}")?;
            leaf_ids(f, leaves)
        }
        Datagram::Ack(refusals) => {
            write!(f, " sequences={watermark}..={event_num} refused={}", refusals.len())
        }
        Datagram::Bye(reason) => write!(f, " reason={reason:?} detail={}", header.detail),
    }
}

fn leaf_ids(f: &mut fmt::Formatter<'_>, leaves: crate::wire::LeafIter<'_>) -> fmt::Result {
    f.write_str(" leaves=[")?;
    for (position, leaf) in leaves.enumerate() {
        let gap = if position == 0 { "" } else { " " };
        match leaf {
            Ok(leaf) => write!(f, "{gap}{}@{}", leaf.data_loc_id(), leaf.revision())?,
            Err(error) => write!(f, "{gap}{error}")?,
        }
    }
    f.write_str("]")
}
