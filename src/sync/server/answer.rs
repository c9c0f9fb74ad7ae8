//! A server's answers: RESPONSE, LAYOUT and ACK.
//!
//! The work and the bytes of each answer are bounded by the client's credit, the
//! server's limit and the client's budget, whichever is least.

use core::net::SocketAddr;
use core::ops::Range;
use core::ops::RangeInclusive;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::kernel;
use crate::layout::DataLocId;
use crate::layout::Revision;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::layout::limits::RESPONSE_BODY_LEN;
use crate::sync::leaves::ServedLeaves;
use crate::sync::leaves::WriteRefusal;
use crate::sync::outbox::Destination;
use crate::sync::outbox::Outbox;
use crate::sync::outbox::Queued;
use crate::sync::packing::Packer;
use crate::sync::server::Reports;
use crate::sync::server::Server;
use crate::sync::server::commit::Due;
use crate::sync::time::Time;
use crate::sync::view::Selection;
use crate::wire::AckRefusal;
use crate::wire::Checksums;
use crate::wire::DatagramType;
use crate::wire::Flags;
use crate::wire::Header;
use crate::wire::Hole;
use crate::wire::LayoutBody;
use crate::wire::LeafIter;
use crate::wire::Packet;
use crate::wire::Question;
use crate::wire::RefusalReason;
use crate::wire::ResponseBody;

/// A REQUEST as it came.
pub(super) struct Asked<'a> {
    pub(super) id: u32,
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) credit: u16,
    /// What a REQUEST without checksums and holes names.
    pub(super) since: Revision,
    pub(super) question: Question<'a>,
}

impl Server {
    /// Answers a REQUEST with the leaves that differ (claims 5 and 13).
    ///
    /// Leaves whose ChangeFlag is set are left out: the next EVENT brings them.
    /// So a RESPONSE is the state at the end of the last period and never runs
    /// ahead of the EVENTs.
    pub(super) fn answer_request(
        &mut self,
        now: Time,
        from: SocketAddr,
        asked: &Asked<'_>,
        tree: &impl ServedLeaves,
    ) {
        let credit_max = self.config.credit_max;
        let Some(session) = self.sessions.get_mut(&from) else { return };
        let credit = u64::from(asked.credit.min(credit_max)).min(session.budget.available(now));
        if credit == 0 {
            self.counters.dropped_request_budget += 1;
            return;
        }
        let session_id = session.id;
        let view = session.view.and_then(|index| self.views[index].as_ref());
        let header = Header {
            event_num: U64::new(view.map_or(0, |view| view.event_num)),
            digest: U64::new(view.and_then(|view| view.digest).map_or(0, |digest| digest.0)),
            ..self.header(DatagramType::Response, session_id)
        };
        let nothing = Selection::all(0);
        let selection = view.map_or(&nothing, |view| &view.selection);
        let room = self.config.datagram_size - DATAGRAM_HEADER_LEN - RESPONSE_BODY_LEN;
        let bound = match self.config.reports {
            Reports::Accept => Bound::Kept,
            Reports::Refuse => Bound::Ignored,
        };
        let outbox = &mut self.outbox;
        let mut planner =
            ResponsePlan::new(header, asked.id, asked.first, room, credit, bound, outbox);
        planner.fill(asked, selection, tree);
        let (packets, segment, leaves) = planner.finish();
        let count = packets.len() as u64;
        self.outbox.push(Queued::Leaves { to: Destination::One(from), packets, segment });
        if let Some(session) = self.sessions.get_mut(&from) {
            session.budget.take(count);
        }
        self.counters.requests += 1;
        self.counters.requests_with_checksums +=
            u64::from(matches!(asked.question, Question::Checksums(_)));
        self.counters.responses += count;
        self.counters.leaves_repaired += leaves;
    }

    /// Sends pieces of the layout.
    pub(super) fn answer_layout(
        &mut self,
        now: Time,
        from: SocketAddr,
        offset: u32,
        credit: u32,
        tree: &impl ServedLeaves,
    ) {
        let credit_max = u32::from(self.config.credit_max);
        let room = self.config.datagram_size - DATAGRAM_HEADER_LEN - size_of::<LayoutBody>();
        let Some(session) = self.sessions.get_mut(&from) else { return };
        let header_for = session.id;
        let blob = tree.layout_blob();
        let rest = blob.get(offset as usize..).unwrap_or_default();
        let pieces = rest.chunks(room).take(credit.min(credit_max) as usize);
        let mut at = offset;
        for piece in pieces {
            let Some(session) = self.sessions.get_mut(&from) else { return };
            if !session.budget.take_one(now) {
                self.counters.dropped_request_budget += 1;
                return;
            }
            let body = LayoutBody {
                offset: U32::new(at),
                layout_len: U32::new(u32::try_from(blob.len()).unwrap_or(u32::MAX)),
            };
            let header = self.header(DatagramType::Layout, header_for);
            self.outbox.datagram(Destination::One(from), &header, &body, piece, 0);
            self.counters.layouts += 1;
            at = at.saturating_add(u32::try_from(piece.len()).unwrap_or(u32::MAX));
        }
    }

    /// Applies a REPORT unless it was before, and acknowledges it (claims 3 and 23).
    pub(crate) fn take_report(
        &mut self,
        from: SocketAddr,
        header: &Header,
        leaves: LeafIter<'_>,
        tree: &mut impl ServedLeaves,
    ) {
        let sequence = header.event_num.get();
        // All or nothing: a REPORT with a damaged leaf is sent again whole.
        if leaves.clone().any(|leaf| leaf.is_err()) {
            self.counters.dropped_malformed += 1;
            return;
        }
        let Some(session) = self.sessions.get(&from) else { return };
        let id = session.id;
        match session.reported.due(sequence) {
            Due::Apply => self.apply_new(from, sequence, leaves, tree),
            Due::Acknowledge => match refusals_again(sequence, leaves, tree) {
                None => self.counters.reports_failed += 1,
                Some(refusals) => {
                    self.counters.reports_repeated += 1;
                    self.acknowledge(from, id, sequence..=sequence, &refusals);
                }
            },
            Due::Wait => self.counters.reports_waiting += 1,
            Due::Drop => self.counters.reports_early += 1,
        }
    }

    fn apply_new(
        &mut self,
        from: SocketAddr,
        sequence: u64,
        leaves: LeafIter<'_>,
        tree: &mut impl ServedLeaves,
    ) {
        let refusals = if self.held.is_full() { None } else { self.write(sequence, leaves, tree) };
        let Some(refusals) = refusals else {
            // Not written, so not acknowledged: the device sends it again.
            self.counters.reports_failed += 1;
            return;
        };
        self.counters.reports += 1;
        self.counters.leaves_refused += refusals.len() as u64;
        self.acknowledge_when_safe(from, sequence, refusals, tree.commit());
    }

    fn write(
        &mut self,
        sequence: u64,
        leaves: LeafIter<'_>,
        tree: &mut impl ServedLeaves,
    ) -> Option<Vec<AckRefusal>> {
        let mut refusals = Vec::new();
        for head in leaves.guesses() {
            tree.expect(DataLocId(head.data_loc_id.get()), head.data_size.get() as usize);
        }
        for leaf in leaves.flatten() {
            let id = leaf.data_loc_id();
            match tree.write(id, leaf.data) {
                Err(WriteRefusal::Trouble) => return None,
                Err(refusal) => refusals.push(ack_refusal(sequence, id, refusal)),
                Ok(_) => {
                    self.counters.leaves_reported += 1;
                    // One that waits for its commit is no change of this period yet.
                    self.writes_in_period += u64::from(tree.commit().is_none());
                }
            }
        }
        Some(refusals)
    }

    pub(super) fn acknowledge(
        &mut self,
        to: SocketAddr,
        session_id: u64,
        sequences: RangeInclusive<u64>,
        refusals: &[AckRefusal],
    ) {
        // A refusal takes no more bytes than the leaf that it answers, so an ACK
        // is never larger than its REPORT.
        let header = Header {
            event_num: U64::new(*sequences.end()),
            watermark: U64::new(*sequences.start()),
            count: U16::new(u16::try_from(refusals.len()).unwrap_or(u16::MAX)),
            ..self.header(DatagramType::Ack, session_id)
        };
        let tail = refusals.as_bytes();
        self.counters.acks += 1;
        self.outbox.datagram(Destination::One(to), &header, &(), tail, 0);
    }
}

/// The refusals that the leaves of a REPORT had when it was applied: they follow from
/// the layout alone. None if they cannot be told.
fn refusals_again(
    sequence: u64,
    leaves: LeafIter<'_>,
    tree: &impl ServedLeaves,
) -> Option<Vec<AckRefusal>> {
    let mut refusals = Vec::new();
    for leaf in leaves.flatten() {
        let id = leaf.data_loc_id();
        match tree.check_write(id, leaf.data.len()) {
            Err(WriteRefusal::Trouble) => return None,
            Err(refusal) => refusals.push(ack_refusal(sequence, id, refusal)),
            Ok(()) => {}
        }
    }
    Some(refusals)
}

fn ack_refusal(sequence: u64, leaf: DataLocId, refusal: WriteRefusal) -> AckRefusal {
    let (reason, detail) = match refusal {
        WriteRefusal::UnknownLeaf { leaf_count } => (RefusalReason::UnknownLeaf, leaf_count),
        WriteRefusal::TooLarge { capacity } => (RefusalReason::TooLarge, capacity),
        WriteRefusal::Trouble | WriteRefusal::ReadOnly => (RefusalReason::Trouble, 0),
    };
    AckRefusal {
        sequence: U64::new(sequence),
        data_loc_id: U32::new(leaf.0),
        reason: U16::new(reason.code()),
        reserved: U16::ZERO,
        detail: U32::new(detail),
        reserved_too: U32::ZERO,
    }
}

/// The RESPONSEs to one REQUEST while they are being planned.
struct ResponsePlan<'a> {
    header: Header,
    request_id: u32,
    /// First leaf that the datagram being filled speaks of.
    first_leaf: u32,
    credit: u64,
    start: usize,
    packer: Packer,
    leaves: u64,
    is_pending: bool,
    bound: Bound,
    outbox: &'a mut Outbox,
}

/// Whether the EVENTs of a view bring no leaf above the watermark that they name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// They do not: what a hole leaves out came in later ones.
    Kept,
    /// They may, as a relay's copy runs ahead of its watermark.
    Ignored,
}

/// Whether there is credit left.
enum Room {
    Left,
    Gone,
}

impl<'a> ResponsePlan<'a> {
    fn new(
        header: Header,
        request_id: u32,
        first_leaf: u32,
        room: usize,
        credit: u64,
        bound: Bound,
        outbox: &'a mut Outbox,
    ) -> ResponsePlan<'a> {
        let packer = Packer::new(room, outbox.leaves.len());
        let start = outbox.packets.len();
        ResponsePlan {
            header,
            request_id,
            first_leaf,
            credit,
            start,
            packer,
            leaves: 0,
            is_pending: false,
            bound,
            outbox,
        }
    }

    fn fill(&mut self, asked: &Asked<'_>, selection: &Selection, tree: &impl ServedLeaves) {
        let end = asked.first.saturating_add(asked.count).min(tree.leaf_count());
        let all = asked.first..end;
        let any = Revision(u64::MAX);
        let room = match asked.question {
            Question::Checksums(Checksums(theirs)) => {
                self.fill_part(all, selection, |plan, part| {
                    plan.compare(asked.first, part, theirs, tree)
                })
            }
            Question::Since => self.fill_part(all, selection, |plan, part| {
                plan.changed_within(asked.since, any, part, tree)
            }),
            Question::Holes(holes) => self.fill_holes(holes, end, selection, tree),
        };
        if matches!(room, Room::Left) {
            self.close(end.max(self.first_leaf), Flags::LAST);
        }
    }

    fn fill_holes(
        &mut self,
        holes: &[Hole],
        end: u32,
        selection: &Selection,
        tree: &impl ServedLeaves,
    ) -> Room {
        for hole in holes {
            let first = hole.first_leaf.get();
            let part = first..first.saturating_add(hole.leaf_count.get()).min(end);
            let since = Revision(hole.since.get());
            let up_to = match self.bound {
                Bound::Kept => Revision(hole.up_to.get()),
                Bound::Ignored => Revision(u64::MAX),
            };
            let room = self.fill_part(part, selection, |plan, part| {
                plan.changed_within(since, up_to, part, tree)
            });
            if matches!(room, Room::Gone) {
                return Room::Gone;
            }
        }
        Room::Left
    }

    /// Fills in what differs in a part of the tree, cut to the view.
    fn fill_part(
        &mut self,
        part: Range<u32>,
        selection: &Selection,
        mut differs: impl FnMut(&mut Self, Range<u32>) -> Room,
    ) -> Room {
        if part.is_empty() {
            return Room::Left;
        }
        let ranges = &selection.ranges;
        let from = ranges.partition_point(|range| range.end <= part.start);
        for range in ranges[from..].iter().take_while(|range| range.start < part.end) {
            let cut = range.start.max(part.start)..range.end.min(part.end);
            if matches!(differs(self, cut), Room::Gone) {
                return Room::Gone;
            }
        }
        Room::Left
    }

    fn compare(
        &mut self,
        first: u32,
        range: Range<u32>,
        theirs: &[U32],
        tree: &impl ServedLeaves,
    ) -> Room {
        // The decoder made sure that there is one checksum a leaf of the range asked
        // for, and both ranges end at the tree's last leaf.
        let part = (range.start - first) as usize..(range.end - first) as usize;
        let theirs = theirs.get(part).unwrap_or_default();
        let ours = tree.checksums().get(range.start as usize..range.end as usize);
        let ours = ours.unwrap_or_default();
        debug_assert_eq!(ours.len(), theirs.len());
        let mut differing = core::mem::take(&mut self.outbox.differing);
        differing.clear();
        kernel::differing_le(ours, theirs.as_bytes(), range.start, &mut differing);
        let mut leaves = differing.iter().map(|leaf| DataLocId(*leaf));
        let is_gone = leaves.any(|leaf| matches!(self.add(leaf, tree), Room::Gone));
        self.outbox.differing = differing;
        if is_gone { Room::Gone } else { Room::Left }
    }

    /// Leaves that changed between two revisions. One that changed again came in a later
    /// EVENT, or is due in the next one: then its flag is set, and it counts as left out.
    fn changed_within(
        &mut self,
        since: Revision,
        up_to: Revision,
        range: Range<u32>,
        tree: &impl ServedLeaves,
    ) -> Room {
        let mut from = range.start;
        while let Some(leaf) = tree.next_changed_since(from, range.end, since) {
            let is_wanted = tree.revision(leaf) <= up_to || tree.is_changed(leaf);
            if is_wanted && matches!(self.add(leaf, tree), Room::Gone) {
                return Room::Gone;
            }
            from = leaf.0 + 1;
        }
        Room::Left
    }

    fn add(&mut self, leaf: DataLocId, tree: &impl ServedLeaves) -> Room {
        if tree.is_changed(leaf) {
            self.is_pending = true;
            return Room::Left;
        }
        let wire_len = tree.wire_len(leaf);
        if self.packer.is_full_for(wire_len) {
            if self.credit == 1 {
                self.close(leaf.0, Flags::LAST);
                return Room::Gone;
            }
            self.close(leaf.0, 0);
        }
        self.packer.add(leaf, wire_len, &mut self.outbox.leaves);
        self.leaves += 1;
        Room::Left
    }

    fn close(&mut self, next_leaf: u32, last: u16) {
        let pending = if self.is_pending { Flags::CHANGES_PENDING } else { 0 };
        let header =
            Header { flags: U16::new(self.header.flags.get() | last | pending), ..self.header };
        let index = self.outbox.packets.len() - self.start;
        let response = ResponseBody {
            request_id: U32::new(self.request_id),
            first_leaf: U32::new(self.first_leaf),
            next_leaf: U32::new(next_leaf),
            index: U16::new(u16::try_from(index).unwrap_or(u16::MAX)),
            reserved: U16::ZERO,
        };
        let leaves = self.packer.close(&self.outbox.leaves);
        self.outbox.packets.push(Packet { header, response: Some(response), leaves });
        self.first_leaf = next_leaf;
        self.credit = self.credit.saturating_sub(1);
        self.is_pending = false;
    }

    /// The packets planned, the size of the largest, the leaves in them.
    fn finish(self) -> (Range<usize>, usize, u64) {
        let segment = DATAGRAM_HEADER_LEN + RESPONSE_BODY_LEN + self.packer.largest();
        (self.start..self.outbox.packets.len(), segment, self.leaves)
    }
}
