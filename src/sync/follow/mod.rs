//! Following a server: EVENTs applied, gaps found, REQUESTs made, equality told.
//!
//! The copy is cut into spans, and each span is `Live`, `Since(revision)` or
//! `Unknown`. A fresh copy, a lost EVENT, a restart, a server that lost history
//! and an audit differ only in what they do to the spans; one mechanism makes
//! them live again.

mod asking;

use core::ops::Range;
use core::ops::RangeInclusive;
use core::time::Duration;

use crate::layout::DataLocId;
use crate::layout::Life;
use crate::layout::Revision;
use crate::sync::ask::Answer;
use crate::sync::ask::Ask;
use crate::sync::client::Held;
use crate::sync::counters::ClientCounters;
use crate::sync::ear::Ear;
use crate::sync::join::Joined;
use crate::sync::leaves::ReplicaLeaves;
use crate::sync::outbox::Outbox;
use crate::sync::round_trip::RoundTrip;
use crate::sync::span::Gap;
use crate::sync::span::Known;
use crate::sync::span::Spans;
use crate::sync::time::RandomSource;
use crate::sync::time::Time;
use crate::sync::view::Selection;
use crate::wire::Flags;
use crate::wire::Header;
use crate::wire::Leaf;
use crate::wire::LeafIter;
use crate::wire::ResponseBody;

/// REQUESTs under way at a time: enough to keep the server busy while the last
/// RESPONSEs of one are on their way.
const ASKS_MAX: usize = 4;

/// The same, of those that repair what a few lost EVENTs carried: at 1 % loss and 400
/// EVENTs a period of 1 ms eight losses come in the longest random delay.
const REPAIRS_MAX: usize = 16;

/// A loss is seen by every client at once: each waits a random part of this, so
/// that the server is not asked by all in the same instant.
const REPAIR_DELAY_MAX: Duration = Duration::from_millis(2);

/// Where a loss is not narrowed down.
const EVERY_LEAF: Range<u32> = 0..u32::MAX;

/// Id of REQUESTs that only renew the lease.
const LEASE_REQUEST_ID: u32 = 0;

/// Pause before differing digests are looked into a second time.
const MISMATCH_PAUSE: Duration = Duration::from_secs(1);

/// Which leaves are taken although the ones held have a higher revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Older {
    /// None: the sender is a relay that may be behind. Up to this watermark it shows all
    /// that is left of the history.
    Never(Revision),
    /// Those that take the place of leaves made in another life than the server's.
    OfOtherLives,
    /// All: the server lost history.
    Always,
}

/// The last EVENT of the run, if its period goes on: what the next one is held against.
#[derive(Clone, Copy, Debug)]
struct Tail {
    /// Of the end of its period, which no other has.
    watermark: u64,
    digest: u64,
    last_leaf: u32,
}

impl Tail {
    /// The tail that an EVENT makes which brought these leaves whole.
    fn of(header: &Header, leaves: Option<&RangeInclusive<u32>>) -> Option<Tail> {
        let closes = Flags(header.flags.get()).has(Flags::CLOSES_PERIOD);
        let (watermark, digest) = (header.watermark.get(), header.digest.get());
        let last_leaf = *leaves?.end();
        // A relay that does not know its watermark says zero in every period.
        let is_told = watermark > 0 && source_in_sync(header);
        (is_told && !closes).then_some(Tail { watermark, digest, last_leaf })
    }

    /// Whether an EVENT is of the same period.
    fn is_of_period(&self, header: &Header) -> bool {
        let found = (header.watermark.get(), header.digest.get());
        (self.watermark, self.digest) == found && source_in_sync(header)
    }
}

/// How far a copy has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Leaves that the server has spoken of.
    pub held_leaves: u32,
    /// Leaves wanted.
    pub wanted_leaves: u32,
}

/// What the follower works with beside itself.
pub(crate) struct Desk<'a> {
    pub(crate) now: Time,
    pub(crate) random: &'a mut (dyn RandomSource + Send),
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) counters: &'a mut ClientCounters,
    pub(crate) ear: &'a mut Ear,
}

/// Settings that do not change in a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FollowConfig {
    /// What the kernel gave the socket, as it counts (twice the bytes asked for).
    pub(crate) receive_buffer: usize,
    /// Every leaf is compared by its checksum once in this time.
    pub(crate) audit_interval: Duration,
}

/// One copy that follows one server.
#[derive(Debug)]
pub(crate) struct Follower {
    config: FollowConfig,
    pub(crate) joined: Joined,
    selection: Selection,
    spans: Spans,
    /// Number of the next EVENT (claim 8: the first event number).
    expected: u64,
    /// First EVENT of the unbroken run that ends before `expected`.
    run_start: u64,
    /// What a live span falls back to when the run breaks.
    closed: Known,
    tail: Option<Tail>,
    /// A different digest means something for periods closed by this EVENT or a
    /// later one.
    comparable_from: u64,
    /// A RESPONSE left leaves out that an EVENT is to bring, and no period's end has shown
    /// since that all of them came: what is held of them may be of any history.
    owed: bool,
    /// The digests differed, or a leaf of this revision is held that a relay's history may
    /// not have: nothing is sure up to a watermark from here on until digests are equal.
    doubtful_from: Option<Revision>,
    is_in_sync: bool,
    mismatches_in_row: u32,
    /// Before this moment a difference of the digests is not looked into again.
    compare_at: Time,
    /// The last difference was to a source in sync.
    differed_in_sync: bool,
    is_false_run: bool,
    /// Number of the last empty REQUEST, from 1 in each session.
    lease_number: u32,
    /// Last EVENT that had come when it was sent.
    lease_event_num: u64,
    asks: Vec<Ask>,
    next_request_id: u32,
    repair_at: Time,
    /// A part is stale, and the random delay before the REQUEST still runs.
    waits_for_repair: bool,
    /// There is nothing to ask for until a span or a REQUEST changes.
    is_all_asked: bool,
    round_trip: RoundTrip,
    audit_at: Time,
    /// Leaf at which a running audit goes on.
    audit_from: Option<u32>,
    pub(crate) last_sent: Time,
}

impl Follower {
    pub(crate) fn new<T: ReplicaLeaves>(
        config: FollowConfig,
        joined: Joined,
        selection: Selection,
        held: Held,
        tree: &mut T,
        now: Time,
    ) -> Follower {
        let known = match held {
            _ if tree.newest_revision() == Revision::ZERO => Known::Since(Revision::ZERO),
            Held::Nothing => Known::Since(Revision::ZERO),
            Held::UpTo { life, watermark } if is_of_history(tree, life, watermark, &joined) => {
                Known::Since(watermark)
            }
            // The server lost history. Or a copy that was cut off half-way.
            Held::UpTo { .. } | Held::Partial => Known::Unknown,
        };
        let mut follower = Follower {
            config,
            joined,
            spans: Spans::new(&selection.ranges, known),
            selection,
            expected: joined.event_num + 1,
            run_start: joined.event_num + 1,
            closed: Known::Unknown,
            tail: None,
            comparable_from: 0,
            owed: false,
            doubtful_from: None,
            is_in_sync: false,
            mismatches_in_row: 0,
            compare_at: now,
            differed_in_sync: false,
            is_false_run: false,
            lease_number: 0,
            lease_event_num: 0,
            asks: Vec::with_capacity(REPAIRS_MAX),
            next_request_id: LEASE_REQUEST_ID + 1,
            repair_at: now,
            waits_for_repair: false,
            is_all_asked: false,
            round_trip: RoundTrip::default(),
            audit_at: now,
            audit_from: None,
            last_sent: now,
        };
        follower.audit_at = now.after(follower.audit_step());
        follower.note_in(tree);
        follower
    }

    /// Goes on in a new session with the same layout.
    pub(crate) fn rejoin<T: ReplicaLeaves>(&mut self, joined: Joined, tree: &mut T, now: Time) {
        let closed = self.closed;
        let life = self.joined.life;
        let is_whole = life == joined.life || !self.owed;
        self.owed &= life == joined.life;
        self.spans.map(|known| {
            let known = if known == Known::Live { closed } else { known.as_since() };
            match known {
                Known::Since(watermark)
                    if is_whole && is_of_history(tree, life, watermark, &joined) =>
                {
                    known
                }
                _ => Known::Unknown,
            }
        });
        self.joined = joined;
        self.expected = joined.event_num + 1;
        self.run_start = self.expected;
        self.closed = Known::Unknown;
        self.tail = None;
        self.comparable_from = 0;
        self.doubtful_from = None;
        if life != joined.life {
            self.forget_differences(now);
        }
        self.is_in_sync = false;
        (self.lease_number, self.lease_event_num) = (0, 0);
        self.asks.clear();
        self.is_all_asked = false;
        // The session that was not answered is over, and the door has answered.
        self.round_trip.answered();
        self.repair_at = now;
        self.audit_from = None;
        self.last_sent = now;
        self.note_in(tree);
    }

    /// Writes down what a restart may rely on.
    fn note_in<T: ReplicaLeaves>(&self, tree: &mut T) {
        tree.follow(self.joined.life, self.watermark());
    }

    /// The session is over; the copy stays.
    pub(crate) fn pause(&mut self) {
        self.is_in_sync = false;
        self.asks.clear();
    }

    /// Whether all that the server was heard to have sent is held.
    #[cfg(feature = "sim")]
    pub(crate) fn lacks_nothing(&self) -> bool {
        self.spans.is_live()
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            held_leaves: self.spans.held_count(),
            wanted_leaves: self.selection.leaf_count(),
        }
    }

    /// Every change up to this revision is held.
    pub(crate) fn watermark(&self) -> Revision {
        self.spans.watermark(self.live_watermark())
    }

    /// The same, of the live spans alone.
    fn live_watermark(&self) -> Revision {
        self.closed.sure_up_to(Revision::ZERO)
    }

    /// The same, as a restart may rely on it. Nothing while leaves are owed: the file would
    /// not say so, and a server that begins again before they were written (from a backup)
    /// would not know of them.
    pub(crate) fn lasting_watermark(&self) -> Option<Revision> {
        (!self.owed).then(|| self.watermark())
    }

    // What comes.

    /// Makes the REQUESTs that are due and says whether the copy is in sync. Nothing if an
    /// EVENT came whose number the server never gave: the run is false, and so is what
    /// was taken for live.
    pub(crate) fn conclude<T: ReplicaLeaves>(
        &mut self,
        desk: &mut Desk<'_>,
        tree: &mut T,
    ) -> Option<bool> {
        if core::mem::take(&mut self.is_false_run) {
            return None;
        }
        self.advance(desk, tree);
        Some(self.is_in_sync)
    }

    /// Takes an EVENT (claims 8, 13 and 22).
    pub(crate) fn handle_event<T: ReplicaLeaves>(
        &mut self,
        desk: &mut Desk<'_>,
        header: &Header,
        leaves: LeafIter<'_>,
        tree: &mut T,
    ) {
        let older = older_by(header);
        let mut is_whole = true;
        // Changed leaves lie anywhere in the tree, those of a RESPONSE in a row.
        for head in leaves.guesses() {
            tree.expect(DataLocId(head.data_loc_id.get()), head.data_size.get() as usize);
        }
        let mut ids = Ascending::default();
        for leaf in leaves {
            match leaf {
                Ok(leaf) => {
                    ids.add(leaf.data_loc_id().0);
                    if self.apply(desk, &leaf, older, tree) {
                        desk.counters.leaves_changed += 1;
                    }
                }
                Err(_) => is_whole = false,
            }
        }
        let (event_num, ids) = (header.event_num.get(), ids.range());
        if !is_whole {
            // Lost at once, and not when the next number shows the gap: its other
            // leaves are held already, so until then no digest would fit.
            desk.counters.leaves_damaged += 1;
            self.hear_of(desk, header);
            return;
        }
        if event_num < self.expected {
            desk.counters.events_late += 1;
            return;
        }
        if event_num > self.expected {
            let is_of_period = self.tail.is_some_and(|tail| tail.is_of_period(header));
            let before = ids.as_ref().filter(|_| is_of_period).map(|ids| *ids.start());
            self.lost_before(desk, Gap::before(event_num, header), before);
        }
        desk.counters.events += 1;
        self.expected = event_num + 1;
        self.tail = Tail::of(header, ids.as_ref());
        if Flags(header.flags.get()).has(Flags::CLOSES_PERIOD) {
            self.close(desk, header, tree);
        }
    }

    /// Takes a TICK: it shows a lost last EVENT, and closes a quiet period.
    pub(crate) fn handle_tick<T: ReplicaLeaves>(
        &mut self,
        desk: &mut Desk<'_>,
        header: &Header,
        tree: &mut T,
    ) {
        let event_num = header.event_num.get();
        if event_num >= self.expected {
            self.lost_before(desk, Gap::before(event_num + 1, header), None);
        }
        let is_current = event_num + 1 == self.expected;
        if is_current && Flags(header.flags.get()).has(Flags::CLOSES_PERIOD) {
            self.close(desk, header, tree);
        }
    }

    /// The leaves that the EVENTs from `expected` to the one before `next` can have
    /// carried, where `before` is the first leaf of the EVENT `next`, if that is of the
    /// same period as the last one that came. A period's leaves come ascending (R15).
    fn lost_leaves(&self, next: u64, before: Option<u32>) -> Range<u32> {
        let Some(tail) = self.tail else { return EVERY_LEAF };
        // A single one is of the period of the tail, which does not close it.
        let is_single = next == self.expected + 1;
        let all = self.selection.ranges.last().map_or(0, |range| range.end);
        let Some(end) = before.or(is_single.then_some(all)) else { return EVERY_LEAF };
        let lost = tail.last_leaf.saturating_add(1)..end;
        // Each of them carried a leaf.
        if lost.is_empty() { EVERY_LEAF } else { lost }
    }

    /// The EVENTs from `expected` up to the end of the gap did not come.
    /// `before` as in [`Follower::lost_leaves`].
    fn lost_before(&mut self, desk: &mut Desk<'_>, gap: Gap, before: Option<u32>) {
        let next = gap.next;
        desk.counters.gaps += 1;
        desk.counters.events_lost = desk.counters.events_lost.saturating_add(next - self.expected);
        let lost = self.lost_leaves(next, before);
        // Where many are lost that can lie anywhere, losses come thick: an answer that says
        // how all stands now gets further, however often it is overtaken.
        let is_heavy = lost == EVERY_LEAF && next > self.expected + 1;
        let gap = Gap { up_to: gap.up_to.filter(|_| !is_heavy), ..gap };
        self.spans.fall_back(lost, self.closed, gap);
        self.is_all_asked = false;
        self.expected = next;
        self.run_start = next;
        self.tail = None;
        self.is_in_sync = false;
        if self.repair_at <= desk.now {
            self.repair_at = desk.now.after(desk.random.below(REPAIR_DELAY_MAX));
        }
    }

    /// A period ended, and everything up to its end was seen.
    fn close<T: ReplicaLeaves>(&mut self, desk: &mut Desk<'_>, header: &Header, tree: &mut T) {
        desk.counters.periods += 1;
        self.closed = self.closed_at(header);
        if !self.spans.is_live() {
            return;
        }
        self.owed &= header.event_num.get() < self.comparable_from;
        if self.note_equality(desk, header, tree) {
            return;
        }
        // Leaves that an answer left out may be the reason: that is no damage, but
        // it is not in sync either.
        self.is_in_sync = false;
        if header.event_num.get() >= self.comparable_from {
            desk.counters.digest_mismatches += 1;
            // A comparison may leave what differs as it is, and the next one may have to wait.
            (self.doubtful_from, self.closed) = (Some(Revision::ZERO), Known::Unknown);
            let in_sync = source_in_sync(header);
            if in_sync && !self.differed_in_sync {
                // What it differed from before was a relay's way to this.
                self.forget_differences(desk.now);
            }
            self.differed_in_sync = in_sync;
            if desk.now >= self.compare_at {
                self.compare_everything(desk);
            }
        }
    }

    /// What a period's end makes known of everything that is live. A relay that does not
    /// know its own watermark says zero.
    fn closed_at(&self, header: &Header) -> Known {
        let watermark = Revision(header.watermark.get());
        let is_known = watermark > Revision::ZERO || source_in_sync(header);
        let is_sure = self.doubtful_from.is_none_or(|from| watermark < from);
        if is_known && is_sure { Known::Since(watermark) } else { Known::Unknown }
    }

    /// The digests differ: find out where. If a comparison by checksums did not
    /// mend it, the next one comes after a pause that doubles, takes older leaves
    /// too (the server lost history), and from the third on every other one asks for
    /// everything (two leaves may have the same checksum once in 2^32; but a leaf that
    /// the server never wrote has changed since nothing, and comes by checksums alone).
    fn compare_everything(&mut self, desk: &mut Desk<'_>) {
        desk.counters.audits += 1;
        let in_row = self.mismatches_in_row;
        self.compare_at = desk.now.after(self.compare_pause() * (1 << in_row.min(6)));
        self.mismatches_in_row = in_row.saturating_add(1);
        let is_for_all = in_row >= 2 && in_row.is_multiple_of(2);
        let known = if is_for_all { Known::Since(Revision::ZERO) } else { Known::Unknown };
        self.spans.set_all(known);
        self.asks.clear();
        self.is_all_asked = false;
    }

    fn compare_pause(&self) -> Duration {
        MISMATCH_PAUSE.max(self.joined.heartbeat * 4)
    }

    /// Differences that were looked into in vain say nothing about the next one: it waits
    /// for one pause at most.
    fn forget_differences(&mut self, now: Time) {
        self.mismatches_in_row = 0;
        self.compare_at = self.compare_at.min(now.after(self.compare_pause()));
    }

    /// Takes a RESPONSE (claims 8 and 21).
    pub(crate) fn handle_response<T: ReplicaLeaves>(
        &mut self,
        desk: &mut Desk<'_>,
        header: &Header,
        body: &ResponseBody,
        leaves: LeafIter<'_>,
        tree: &mut T,
    ) {
        self.is_all_asked = false;
        let event_num = header.event_num.get();
        let position = self.asks.iter().position(|ask| ask.id == body.request_id.get());
        let is_lease = body.request_id.get() == LEASE_REQUEST_ID;
        let named = match position {
            Some(index) => self.asks[index].event_num,
            None if is_lease && body.first_leaf == self.lease_number => self.lease_event_num,
            // An answer to an older one may have been overtaken by EVENTs of the group.
            None => 0,
        };
        if event_num < named {
            // An answer cannot be older than its REQUEST: what was taken for the
            // server's EVENTs was not.
            desk.counters.false_runs += 1;
            self.spans.set_all(Known::Unknown);
            self.is_false_run = true;
            return;
        }
        if is_lease {
            desk.ear.answered(desk.now, body.first_leaf.get());
            self.hear_of(desk, header);
            return;
        }
        let takes_older = position.is_some_and(|index| self.asks[index].takes_older);
        let older = match source_in_sync(header) {
            // Not if it was overtaken by an EVENT: that is newer in any history.
            true if takes_older && event_num + 1 == self.expected => Older::Always,
            _ => older_by(header),
        };
        let mut is_whole = true;
        for leaf in leaves {
            match leaf {
                Ok(leaf) => {
                    if self.apply(desk, &leaf, older, tree) {
                        desk.counters.leaves_repaired += 1;
                    }
                }
                Err(_) => is_whole = false,
            }
        }
        // Of one that is damaged, too: what it brought before that is held already.
        self.hear_of(desk, header);
        let Some(index) = position else {
            desk.counters.responses_late += 1;
            return;
        };
        if !is_whole {
            desk.counters.leaves_damaged += 1;
            return;
        }
        desk.counters.responses += 1;
        self.learn_from(index, header, body);
        self.count_answer(desk.now, index, header, body);
        self.compare_after_repair(desk, header, tree);
    }

    /// Takes note of the server's last EVENT at the time of a RESPONSE, also of one
    /// that brings nothing: EVENTs up to it were sent before it. If they did not come,
    /// the copy is not in sync, whatever comes late.
    fn hear_of(&mut self, desk: &mut Desk<'_>, header: &Header) {
        let event_num = header.event_num.get();
        if event_num >= self.expected {
            self.lost_before(desk, Gap::before(event_num + 1, header), None);
        }
    }

    /// Notes what a RESPONSE says about its part of the range.
    fn learn_from(&mut self, index: usize, header: &Header, body: &ResponseBody) {
        let event_num = header.event_num.get();
        let holes_up_to = self.asks[index].holes_up_to;
        let asked = &self.asks[index].range;
        let first = body.first_leaf.get().clamp(asked.start, asked.end);
        let next = body.next_leaf.get().clamp(first, asked.end);
        let flags = Flags(header.flags.get());
        let is_live = event_num + 1 >= self.run_start;
        let closed = self.closed_at(header);
        match holes_up_to {
            // What was hit again since then is not mended: the answer leaves out what
            // later EVENTs brought.
            Some(up_to) => self.spans.fill(first..next, up_to),
            None => self.spans.learn(first..next, if is_live { Known::Live } else { closed }),
        }
        if event_num + 1 == self.expected {
            self.closed = closed;
        }
        self.owed |= flags.has(Flags::CHANGES_PENDING);
        if (is_live || holes_up_to.is_some()) && flags.has(Flags::CHANGES_PENDING) {
            self.comparable_from = self.comparable_from.max(event_num + 1);
        }
    }

    fn count_answer(&mut self, now: Time, index: usize, header: &Header, body: &ResponseBody) {
        let ask = &mut self.asks[index];
        if ask.is_unanswered() {
            self.round_trip.measured(now.since(ask.sent));
        }
        let is_last = Flags(header.flags.get()).has(Flags::LAST);
        let wait = self.round_trip.timeout();
        let grace = self.round_trip.grace();
        if ask.came(now, body.index.get(), is_last, wait, grace) == Answer::Whole {
            self.asks.swap_remove(index);
        }
    }

    /// When the last part was repaired in a quiet time, there is no need to wait
    /// for the next TICK to know that all is equal.
    fn compare_after_repair<T: ReplicaLeaves>(
        &mut self,
        desk: &mut Desk<'_>,
        header: &Header,
        tree: &mut T,
    ) {
        // What is still to come of an answer may lie where nothing was lost.
        if self.is_in_sync || !self.spans.is_live() {
            return;
        }
        if header.event_num.get() + 1 == self.expected {
            self.note_equality(desk, header, tree);
        }
    }

    /// Whether the copy is equal to what the datagram tells of, and what follows if it is.
    fn note_equality<T: ReplicaLeaves>(
        &mut self,
        desk: &mut Desk<'_>,
        header: &Header,
        tree: &mut T,
    ) -> bool {
        let is_equal = self.selection.digest(tree).0 == header.digest.get();
        if is_equal {
            (self.doubtful_from, self.owed) = (None, false);
            self.closed = self.closed_at(header);
            desk.counters.digest_matches += 1;
            self.forget_differences(desk.now);
            self.is_in_sync = source_in_sync(header);
        }
        is_equal
    }

    /// Applies a leaf unless the one held is as new or newer. Says whether it did.
    ///
    /// A newer leaf is kept if its revision was made in the server's life, and
    /// wherever the sender itself is not in sync: a server that was restored from
    /// a backup has to win, or the copy would never be equal to it; a relay that
    /// is being repaired must not.
    fn apply<T: ReplicaLeaves>(
        &mut self,
        desk: &mut Desk<'_>,
        leaf: &Leaf<'_>,
        older: Older,
        tree: &mut T,
    ) -> bool {
        let id = leaf.data_loc_id();
        if !self.selection.contains(id.0) {
            desk.counters.leaves_refused += 1;
            return false;
        }
        let held = tree.revision(id);
        let came = leaf.revision();
        if came == held && tree.checksums().get(id.index()) == Some(&leaf.head.checksum.get()) {
            desk.counters.leaves_repeated += 1;
            return false;
        }
        let base = self.joined.life.base();
        if came > held && came <= base && self.is_lost(id, came, older) {
            desk.counters.leaves_older += 1;
            return false;
        }
        let is_kept = match older {
            Older::Never(_) => true,
            Older::OfOtherLives => held > base,
            Older::Always => false,
        };
        if came < held && is_kept {
            desk.counters.leaves_older += 1;
            if let Older::Never(up_to) = older
                && held <= base
            {
                // The relay is behind, or history was lost.
                let from = self.doubtful_from.map_or(held, |from| from.min(held));
                self.doubtful_from = Some(from);
                if held <= up_to {
                    self.closed = Known::Unknown;
                }
            }
            return false;
        }
        let is_applied = tree.apply(leaf);
        if !is_applied {
            desk.counters.leaves_refused += 1;
        }
        is_applied
    }

    /// Whether a change that was made before the server's life, and is not held, is none of
    /// its history.
    fn is_lost(&self, leaf: DataLocId, came: Revision, older: Older) -> bool {
        // A relay that has not heard of the life's start says zero.
        let life_start = self.joined.life_start;
        if life_start > Revision::ZERO && came > life_start {
            return true;
        }
        // A relay that was behind when it sent it may hold what was lost, and the copy may
        // have been told better since.
        matches!(older, Older::Never(_))
            && came <= self.spans.held_up_to(leaf.0, self.live_watermark())
    }

    // What goes.

    pub(crate) fn poll_timeout(&self) -> Time {
        let mut due = self.last_sent.after(self.joined.lease / 3).min(self.audit_at);
        for ask in &self.asks {
            due = due.min(ask.deadline);
        }
        if self.waits_for_repair {
            due = due.min(self.repair_at);
        }
        due
    }

    /// How often in a row the server did not answer.
    pub(crate) fn unanswered(&self) -> u32 {
        self.round_trip.backoffs()
    }
}

/// Whether a copy that followed `life` up to a watermark holds nothing that the
/// server's history lacks.
///
/// In another life that is sure only if the server's last change before it was made
/// in the life that the copy followed (a life in between may have begun with a loss
/// that its `life_start` told, and this one's does not), and if no leaf is newer than
/// it: those above the watermark are held as well.
fn is_of_history<T: ReplicaLeaves>(
    tree: &T,
    life: Life,
    watermark: Revision,
    joined: &Joined,
) -> bool {
    let newest = tree.newest_revision().max(watermark);
    life == joined.life || (joined.life_start.life() == life && newest <= joined.life_start)
}

impl Gap {
    /// The gap before EVENT `next`, as a datagram shows it: its period ended with those of
    /// the EVENTs that did not come, or later.
    fn before(next: u64, header: &Header) -> Gap {
        let watermark = Revision(header.watermark.get());
        Gap { next, up_to: source_in_sync(header).then_some(watermark) }
    }
}

/// When an older leaf of this datagram is taken, but for R33.
fn older_by(header: &Header) -> Older {
    match source_in_sync(header) {
        true => Older::OfOtherLives,
        false => Older::Never(Revision(header.watermark.get())),
    }
}

/// The leaves of an EVENT, which come ascending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ascending {
    #[default]
    Nothing,
    /// From the first to the last.
    From(u32, u32),
    /// They do not: nothing follows from them.
    Broken,
}

impl Ascending {
    fn add(&mut self, leaf: u32) {
        *self = match *self {
            Ascending::Nothing => Ascending::From(leaf, leaf),
            Ascending::From(first, last) if leaf > last => Ascending::From(first, leaf),
            Ascending::From(..) | Ascending::Broken => Ascending::Broken,
        };
    }

    fn range(self) -> Option<RangeInclusive<u32>> {
        match self {
            Ascending::From(first, last) => Some(first..=last),
            Ascending::Nothing | Ascending::Broken => None,
        }
    }
}

/// Whether the sender is the origin, or a relay that is in sync with it.
fn source_in_sync(header: &Header) -> bool {
    Flags(header.flags.get()).has(Flags::SOURCE_IN_SYNC)
}
