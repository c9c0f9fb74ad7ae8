//! One line a datagram, for logs and traces.

use core::fmt;

use crate::wire::body::GroupBody;
use crate::wire::body::RequestBody;
use crate::wire::body::ResponseBody;
use crate::wire::body::WelcomeBody;
use crate::wire::decode::Datagram;
use crate::wire::decode::Question;
use crate::wire::decode::decode;
use crate::wire::header::ByeReason;
use crate::wire::header::DatagramType;
use crate::wire::header::Flags;
use crate::wire::header::Header;
use crate::wire::leaf::LeafIter;

/// Prints the datagram in these bytes as one line of ASCII, or why it is none.
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
    match datagram {
        Datagram::Hello | Datagram::Ready => Ok(()),
        Datagram::Cookie => write!(f, " time_ms={event_num}"),
        Datagram::Init(init) => {
            let filter = init.filter_path().unwrap_or("?").escape_default();
            write!(f, " role={} filter=\"{filter}\"", init.role)
        }
        Datagram::Welcome(welcome, group) => {
            opening(f, header, welcome)?;
            match group.and_then(GroupBody::group) {
                Some(group) => write!(f, " group={group}"),
                None => Ok(()),
            }
        }
        Datagram::LayoutRequest(request) => {
            write!(f, " offset={} credit={}", request.offset, request.credit)
        }
        Datagram::Layout(layout, piece) => {
            write!(f, " offset={} of {} piece={}", layout.offset, layout.layout_len, piece.len())
        }
        Datagram::Event(leaves) => {
            standing(f, header)?;
            leaf_ids(f, leaves)
        }
        Datagram::Tick(_) => standing(f, header),
        Datagram::Request(request, asked) => question(f, header, request, asked),
        Datagram::Response(response, leaves) => answer(f, header, response, leaves),
        Datagram::Report(leaves) => {
            write!(f, " sequence={event_num}")?;
            leaf_ids(f, leaves)
        }
        Datagram::Ack(refusals) => {
            write!(f, " sequences={watermark}..={event_num} refused={}", refusals.len())
        }
        Datagram::Bye(reason) => farewell(f, header, reason),
    }
}

fn opening(f: &mut fmt::Formatter<'_>, header: &Header, welcome: &WelcomeBody) -> fmt::Result {
    write!(
        f,
        " view={:016x} event_num={} watermark={} leaves={} period_us={}",
        welcome.view_id.get(),
        header.event_num,
        header.watermark,
        welcome.leaf_count,
        welcome.period_us,
    )
}

/// Where a view stands: an EVENT, TICK or RESPONSE.
fn standing(f: &mut fmt::Formatter<'_>, header: &Header) -> fmt::Result {
    let flags = Flags(header.flags.get());
    write!(f, " event_num={} watermark={}", header.event_num, header.watermark)?;
    if flags.has(Flags::CLOSES_PERIOD) {
        write!(f, " closes digest={:016x}", header.digest.get())?;
    }
    if flags.has(Flags::SOURCE_IN_SYNC) { Ok(()) } else { f.write_str(" behind") }
}

fn question(
    f: &mut fmt::Formatter<'_>,
    header: &Header,
    request: &RequestBody,
    asked: Question<'_>,
) -> fmt::Result {
    write!(
        f,
        " id={} first_leaf={} leaf_count={} credit={}",
        request.request_id, request.first_leaf, request.leaf_count, request.credit,
    )?;
    match asked {
        Question::Checksums(checksums) => write!(f, " checksums={}", checksums.0.len()),
        Question::Since => write!(f, " since={}", header.watermark),
        Question::Holes(holes) => {
            write!(f, " holes=[")?;
            for (position, hole) in holes.iter().enumerate() {
                let gap = if position == 0 { "" } else { " " };
                let (first, count) = (hole.first_leaf, hole.leaf_count);
                write!(f, "{gap}{first}+{count}@{}..{}", hole.since, hole.up_to)?;
            }
            f.write_str("]")
        }
    }
}

fn answer(
    f: &mut fmt::Formatter<'_>,
    header: &Header,
    response: &ResponseBody,
    leaves: LeafIter<'_>,
) -> fmt::Result {
    write!(
        f,
        " id={} index={} covers={}..{}",
        response.request_id, response.index, response.first_leaf, response.next_leaf,
    )?;
    standing(f, header)?;
    write!(f, " digest={:016x}", header.digest.get())?;
    let flags = Flags(header.flags.get());
    if flags.has(Flags::CHANGES_PENDING) {
        f.write_str(" pending")?;
    }
    if flags.has(Flags::LAST) {
        f.write_str(" last")?;
    }
    leaf_ids(f, leaves)
}

fn farewell(f: &mut fmt::Formatter<'_>, header: &Header, reason: Option<ByeReason>) -> fmt::Result {
    match reason {
        Some(reason) => write!(f, " reason={reason:?}")?,
        None => write!(f, " reason={}", header.flags)?,
    }
    write!(f, " detail={}", header.detail)
}

fn leaf_ids(f: &mut fmt::Formatter<'_>, leaves: LeafIter<'_>) -> fmt::Result {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::samples;
    use crate::wire::seal;

    #[test]
    fn every_type_prints_one_line_that_begins_with_its_name() {
        for bytes in samples::all() {
            let line = Pretty(&bytes).to_string();
            let name = format!("{:?} size={}", samples::type_of(&bytes), bytes.len());
            assert!(line.starts_with(&name), "{line}");
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
        }
    }

    #[test]
    fn what_is_no_datagram_prints_its_length_and_why() {
        let line = Pretty(&[1, 2, 3]).to_string();
        assert_eq!(line, "?? 3 bytes: datagram is cut: expected 64 bytes, found 3");
    }

    #[test]
    fn a_filter_reaches_the_terminal_escaped() {
        let bytes = samples::init("a\u{1b}[2J\n");
        let line = Pretty(&bytes).to_string();
        assert!(line.ends_with(r#"filter="a\u{1b}[2J\n""#), "{line}");
    }

    #[test]
    fn a_reason_that_we_do_not_know_prints_its_number() {
        let mut bytes = samples::of(DatagramType::Bye);
        bytes[58..60].copy_from_slice(&999_u16.to_le_bytes());
        seal(&mut bytes);
        assert!(Pretty(&bytes).to_string().ends_with("reason=999 detail=2"));
    }

    #[test]
    fn a_damaged_leaf_is_named_in_its_place() {
        let mut bytes = samples::of(DatagramType::Event);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let line = Pretty(&bytes).to_string();
        assert!(line.contains("leaves=[7@21474836480 leaf checksum differs"), "{line}");
    }
}
