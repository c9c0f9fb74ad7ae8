//! What a follower asks for: parts that are not live, audits, the lease.

use core::ops::Range;
use core::time::Duration;

use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::Revision;
use crate::layout::leaf_wire_len;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::layout::limits::RESPONSE_BODY_LEN;
use crate::sync::ask::ASK_CREDIT_MAX;
use crate::sync::ask::Ask;
use crate::sync::ask::Method;
use crate::sync::follow::ASKS_MAX;
use crate::sync::follow::Desk;
use crate::sync::follow::Follower;
use crate::sync::follow::LEASE_REQUEST_ID;
use crate::sync::follow::REPAIRS_MAX;
use crate::sync::join::session_header;
use crate::sync::leaves::ReplicaLeaves;
use crate::sync::outbox::Destination;
use crate::sync::span::Known;
use crate::sync::span::Span;
use crate::wire::DatagramType;
use crate::wire::Flags;
use crate::wire::Header;
use crate::wire::Hole;
use crate::wire::RequestBody;

/// What the kernel charges to a receive buffer for a datagram beyond its bytes,
/// at the least (an sk_buff, its shared info, and rounding up).
const DATAGRAM_OVERHEAD: usize = 1_200;

impl Follower {
    /// Gives up REQUESTs that were not answered in time, and makes those that are
    /// due. Called after every mutation.
    pub(crate) fn advance<T: ReplicaLeaves>(&mut self, desk: &mut Desk<'_>, tree: &T) {
        self.give_up_late_asks(desk);
        self.waits_for_repair = desk.now < self.repair_at && !self.spans.is_live();
        // Most datagrams change nothing that could be asked for.
        if !self.waits_for_repair && !self.is_all_asked {
            while self.ask_for_stale(desk, tree) {}
            self.is_all_asked = true;
        }
        self.audit(desk, tree);
        if desk.ear.is_due(desk.now) || desk.now >= self.last_sent.after(self.joined.lease / 3) {
            // Its number comes back: an answer to an older one says less.
            self.lease_number = self.lease_number.saturating_add(1);
            self.lease_event_num = self.expected - 1;
            let nothing = self.lease_number..self.lease_number;
            self.request(desk, LEASE_REQUEST_ID, nothing, 1, Method::Since(Revision::ZERO), tree);
            desk.ear.told(desk.now, self.lease_number);
        }
    }

    fn give_up_late_asks(&mut self, desk: &mut Desk<'_>) {
        let asked = self.asks.len();
        let is_late = |ask: &Ask| ask.deadline <= desk.now;
        if !self.asks.iter().any(is_late) {
            return;
        }
        let is_silent = self.asks.iter().filter(|ask| is_late(ask)).all(Ask::is_unanswered);
        self.asks.retain(|ask| !is_late(ask));
        let late = asked - self.asks.len();
        desk.counters.requests_timed_out += late as u64;
        self.is_all_asked = false;
        match is_silent {
            // REQUESTs that went together wait together: one step back for all.
            true => self.round_trip.back_off(),
            false => self.round_trip.answered(),
        }
    }

    /// Makes one REQUEST for a part that is not live. Says whether it did.
    fn ask_for_stale<T: ReplicaLeaves>(&mut self, desk: &mut Desk<'_>, tree: &T) -> bool {
        let busy: u32 = self.asks.iter().map(|ask| ask.credit).sum();
        let credit = self.credit().saturating_sub(busy);
        let free = REPAIRS_MAX.saturating_sub(self.asks.len());
        if free == 0 || credit == 0 {
            return false;
        }
        let asked = self.asks.iter().map(|ask| &ask.range);
        let (mut holes, mut leaves, mut most) = (0, 0_u32, 0);
        let takes = |part: &Span| {
            if holes == 0 {
                let answers = credit.min(ASK_CREDIT_MAX) - 1;
                most = answers.saturating_mul(self.leaves_per_answer(part.first, tree));
            }
            holes += 1;
            leaves = leaves.saturating_add(part.end - part.first);
            holes <= self.holes_max() && leaves <= most
        };
        let Some(stale) = self.spans.next_stale(asked, free, takes) else { return false };
        let is_hole = matches!(stale.known, Known::Between(_));
        if !stale.known.is_revision() && !is_hole && self.asks.len() >= ASKS_MAX {
            return false;
        }
        // Repairs leave no even shares: the last one may get less.
        let share = (self.credit() / ASKS_MAX as u32).max(1).min(credit);
        let (range, method, credit) = match (stale.known, self.whole_in_one_request()) {
            // Nothing is held: the rest is cut among the REQUESTs there may be.
            (Known::Since(Revision::ZERO), _) => {
                (self.cut(&stale, share, tree), Method::Since(Revision::ZERO), share)
            }
            // The claims' method: the checksums of every leaf.
            (_, Some(whole)) if self.asks.is_empty() => (whole, Method::Checksums, credit),
            (_, Some(_)) => return false,
            (Known::Since(revision), None) => {
                // Each RESPONSE brings a leaf at least, the last one perhaps none.
                let needed = (stale.end - stale.first).saturating_add(1);
                (stale.first..stale.end, Method::Since(revision), credit.min(needed))
            }
            (Known::Between(_), None) => {
                let range = stale.first..stale.end;
                let parts = self.spans.holes(range.clone()).map(|(part, _)| part.end - part.start);
                // Each RESPONSE brings so many at least, the last one perhaps none.
                let needed = parts.sum::<u32>().div_ceil(self.leaves_per_answer(stale.first, tree));
                (range, Method::Holes, credit.min(needed + 1))
            }
            (Known::Unknown | Known::Live, None) => {
                let end = stale.end.min(stale.first.saturating_add(self.checksums_max()));
                (stale.first..end, Method::Checksums, share)
            }
        };
        self.ask(desk, range, credit.min(ASK_CREDIT_MAX), method, tree);
        true
    }

    /// The part of a fresh span that one of several REQUESTs asks for: a quarter
    /// of what is left, but no less than what its credit brings.
    fn cut<T: ReplicaLeaves>(&self, stale: &Span, share: u32, tree: &T) -> Range<u32> {
        let brings = share.saturating_mul(self.leaves_per_answer(stale.first, tree));
        let quarter = (stale.end - stale.first).div_ceil(ASKS_MAX as u32);
        stale.first..stale.end.min(stale.first.saturating_add(quarter.max(brings)))
    }

    /// Leaves that a RESPONSE brings if they are as large as this one can be.
    fn leaves_per_answer<T: ReplicaLeaves>(&self, leaf: u32, tree: &T) -> u32 {
        let parents = tree.parents();
        let owner = parents.iter().find(|parent| parent.leaves().contains(&leaf));
        let leaf_len = leaf_wire_len(owner.map_or(0, |parent| parent.capacity.get() as usize));
        let room = self.joined.datagram_size - DATAGRAM_HEADER_LEN - RESPONSE_BODY_LEN;
        u32::try_from(room / leaf_len).unwrap_or(1).max(1)
    }

    fn ask<T: ReplicaLeaves>(
        &mut self,
        desk: &mut Desk<'_>,
        range: Range<u32>,
        credit: u32,
        method: Method,
        tree: &T,
    ) {
        let id = self.next_request_id;
        // Wraps safely: only a few are under way, and 0 means the lease.
        self.next_request_id = id.checked_add(1).unwrap_or(LEASE_REQUEST_ID + 1);
        let busy: u32 = self.asks.iter().map(|ask| ask.credit).sum();
        debug_assert!(busy + credit <= self.credit(), "{busy} and {credit} overrun the socket");
        let mut ask = Ask::new(id, range.clone(), credit, desk.now, self.round_trip.timeout());
        // A second audit in a row that found a difference: what the copy takes
        // for newer was never made, or was lost by the server.
        ask.takes_older = self.mismatches_in_row > 1;
        ask.event_num = self.expected - 1;
        ask.holes_up_to = (method == Method::Holes).then_some(self.run_start);
        self.asks.push(ask);
        self.request(desk, id, range, credit, method, tree);
        desk.counters.requests += 1;
        desk.counters.requests_with_checksums += u64::from(method == Method::Checksums);
    }

    fn request<T: ReplicaLeaves>(
        &mut self,
        desk: &mut Desk<'_>,
        id: u32,
        range: Range<u32>,
        credit: u32,
        method: Method,
        tree: &T,
    ) {
        let (flags, since) = match method {
            Method::Checksums => (Flags::CHECKSUMS, Revision::ZERO),
            Method::Since(revision) => (0, revision),
            Method::Holes => {
                let since = self.spans.holes(range.clone()).map(|(_, lost)| lost.since).min();
                (Flags::HOLES, since.unwrap_or_default())
            }
        };
        let header = Header {
            event_num: U64::new(self.expected - 1),
            watermark: U64::new(since.0),
            flags: U16::new(flags | desk.ear.flags()),
            ..session_header(&self.joined, DatagramType::Request)
        };
        let body = RequestBody {
            first_leaf: U32::new(range.start),
            leaf_count: U32::new(range.end - range.start),
            request_id: U32::new(id),
            credit: U16::new(u16::try_from(credit).unwrap_or(u16::MAX)),
            reserved: U16::ZERO,
        };
        match method {
            Method::Checksums => {
                let checksums = tree.checksums().get(to_usize(&range)).unwrap_or(&[]);
                desk.outbox.request(&header, &body, checksums.iter().map(|sum| U32::new(*sum)));
            }
            Method::Holes => {
                let holes = self.spans.holes(range).map(|(part, lost)| Hole {
                    first_leaf: U32::new(part.start),
                    leaf_count: U32::new(part.end - part.start),
                    since: U64::new(lost.since.0),
                    up_to: U64::new(lost.up_to.0),
                });
                desk.outbox.request(&header, &body, holes);
            }
            Method::Since(_) => desk.outbox.datagram(Destination::Peer, &header, &body, &[], 0),
        }
        self.last_sent = desk.now;
    }

    /// Compares all leaves by their checksums now and then (claims 9 and 16), a
    /// section at a time and only while nothing else is under way.
    fn audit<T: ReplicaLeaves>(&mut self, desk: &mut Desk<'_>, tree: &T) {
        if desk.now < self.audit_at {
            return;
        }
        self.audit_at = desk.now.after(self.audit_step());
        if !self.asks.is_empty() || !self.spans.is_live() {
            return;
        }
        let last = self.selection.ranges.last().map_or(0, |range| range.end);
        let from = self.audit_from.filter(|from| *from < last).unwrap_or(0);
        let Some(range) = self.selection.ranges.iter().find(|range| range.end > from) else {
            return;
        };
        if from == 0 {
            desk.counters.audits += 1;
        }
        let first = range.start.max(from);
        let end = range.end.min(first.saturating_add(self.checksums_max()));
        self.audit_from = Some(end);
        let share = (self.credit() / ASKS_MAX as u32).clamp(1, ASK_CREDIT_MAX);
        self.ask(desk, first..end, share, Method::Checksums, tree);
    }

    /// Time from one section to the next.
    pub(super) fn audit_step(&self) -> Duration {
        let sections = self.selection.leaf_count().div_ceil(self.checksums_max());
        self.config.audit_interval / sections.max(1)
    }

    /// RESPONSE datagrams that may be under way: half of the receive buffer holds
    /// them, the other half is for EVENTs.
    fn credit(&self) -> u32 {
        let each = self.joined.datagram_size + DATAGRAM_OVERHEAD;
        let fits = u32::try_from(self.config.receive_buffer / 2 / each).unwrap_or(u32::MAX);
        fits.clamp(ASKS_MAX as u32, u32::from(self.joined.credit_max) * ASKS_MAX as u32)
    }

    /// Checksums that one REQUEST carries.
    fn checksums_max(&self) -> u32 {
        u32::try_from(self.request_room() / size_of::<u32>()).unwrap_or(u32::MAX)
    }

    /// Holes that one REQUEST carries.
    fn holes_max(&self) -> usize {
        self.request_room() / size_of::<Hole>()
    }

    /// Bytes behind the body of a REQUEST.
    fn request_room(&self) -> usize {
        self.joined.datagram_size - DATAGRAM_HEADER_LEN - size_of::<RequestBody>()
    }

    /// The range of all wanted leaves, if one REQUEST carries their checksums.
    fn whole_in_one_request(&self) -> Option<Range<u32>> {
        let first = self.selection.ranges.first()?.start;
        let end = self.selection.ranges.last()?.end;
        (end - first <= self.checksums_max()).then_some(first..end)
    }
}

fn to_usize(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}
