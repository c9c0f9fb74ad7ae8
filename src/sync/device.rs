//! A device: reports the changes of its own leaves (claim 23), and knows which of
//! them the server has written.

use core::time::Duration;
use std::collections::BTreeMap;
use std::collections::VecDeque;

use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::DataLocId;
use crate::layout::LayoutHash;
use crate::layout::Life;
use crate::layout::Revision;
use crate::layout::TreeId;
use crate::layout::leaf_wire_len;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::layout::limits::DATAGRAM_SIZE_DEFAULT;
use crate::sync::counters::DeviceCounters;
use crate::sync::join::JoinError;
use crate::sync::join::JoinOutcome;
use crate::sync::join::Joined;
use crate::sync::join::Joiner;
use crate::sync::join::RETRY_FULL;
use crate::sync::join::Role;
use crate::sync::join::Wants;
use crate::sync::join::bye;
use crate::sync::join::session_header;
use crate::sync::layout_pull::LayoutPull;
use crate::sync::outbox::Destination;
use crate::sync::outbox::Outbox;
use crate::sync::outbox::Queued;
use crate::sync::round_trip::RoundTrip;
use crate::sync::time::RandomSource;
use crate::sync::time::Time;
use crate::sync::transmit::Recipients;
use crate::sync::transmit::Transmit;
use crate::wire;
use crate::wire::AckRefusal;
use crate::wire::Datagram;
use crate::wire::DatagramType;
use crate::wire::Header;
use crate::wire::LeafIter;
use crate::wire::RefusalReason;
use crate::wire::RequestBody;

/// REPORT datagrams under way: a window of this many round trips' worth.
const WINDOW: usize = 64;

/// Tries in a row that nobody answers before the session is believed dead.
const UNANSWERED_MAX: u32 = 12;

/// Whether a device needs the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutWish {
    /// It names leaves by path.
    Pull,
    /// It knows its DataLocIDs.
    Skip,
}

/// Settings of a device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceConfig {
    /// See [`LayoutWish`].
    pub layout: LayoutWish,
    /// Tree that the server must have, if that is known.
    pub tree_id: Option<TreeId>,
}

/// What happened, for whoever drives the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceEvent {
    /// A session was opened: reports may be made (by path after
    /// [`DeviceEvent::Layout`] only).
    Joined(Joined),
    /// The layout is there. If it is not the one before, [`Device::renumber`] is due.
    Layout,
    /// The server cannot be joined; the device has stopped.
    Refused(JoinError),
    /// The server fell silent or ended the session; what was not acknowledged is
    /// reported again in the next one.
    Rejoining,
    /// The server did not write a leaf.
    LeafRefused {
        /// The leaf.
        leaf: DataLocId,
        /// Why.
        reason: RefusalReason,
        /// The number that the reason speaks of.
        detail: u32,
    },
    /// The server has written this many leaves more.
    Acknowledged {
        /// Leaves, refused ones not counted.
        leaves: u64,
    },
}

/// Why a report could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportError {
    /// The window is full: drive the device until something is acknowledged.
    Full,
    /// Data does not fit a datagram.
    TooLarge {
        /// Most bytes that fit.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// There is no session yet.
    NotJoined,
}

impl core::fmt::Display for ReportError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ReportError::Full => f.write_str("too many reports are not acknowledged yet"),
            ReportError::TooLarge { expected, found } => {
                write!(f, "data does not fit a datagram: at most {expected} bytes, found {found}")
            }
            ReportError::NotJoined => f.write_str("not connected to the server"),
        }
    }
}

impl core::error::Error for ReportError {}

/// Leaves of one REPORT.
#[derive(Debug, Default)]
struct Batch {
    leaves: Vec<u8>,
    count: u16,
    /// Reports that it stands for: more than its leaves where newer Data took the
    /// place of older.
    reports: u64,
}

/// A REPORT that is not acknowledged yet.
#[derive(Debug)]
struct Pending {
    batch: Batch,
    sequence: u64,
    sent: Time,
    is_repeated: bool,
    is_acknowledged: bool,
}

/// A device without sockets: see the module's contract.
pub struct Device {
    config: DeviceConfig,
    random: Box<dyn RandomSource + Send>,
    joiner: Joiner,
    joined: Option<Joined>,
    pull: Option<LayoutPull>,
    layout_blob: Vec<u8>,
    /// Layout whose DataLocIDs the reports name.
    named_by: LayoutHash,
    filling: Batch,
    pending: VecDeque<Pending>,
    /// Reports of earlier sessions, until they are reported again.
    held_back: Vec<Batch>,
    /// Empty batches whose memory is used again.
    spare: Vec<Batch>,
    next_sequence: u64,
    round_trip: RoundTrip,
    retry_at: Time,
    last_repeat: Time,
    last_sent: Time,
    last_heard: Time,
    outbox: Outbox,
    events: VecDeque<DeviceEvent>,
    counters: DeviceCounters,
}

impl Device {
    /// A device that knocks at the server's door at once.
    pub fn new(
        config: DeviceConfig,
        mut random: Box<dyn RandomSource + Send>,
        now: Time,
    ) -> Device {
        let wants = Wants {
            role: Role::Device,
            filter: String::new(),
            tree_id: config.tree_id,
            life: Life(0),
            layout_hash: LayoutHash(0),
            watermark: Revision::ZERO,
        };
        Device {
            joiner: Joiner::new(wants, &mut *random, now),
            config,
            random,
            joined: None,
            pull: None,
            layout_blob: Vec::new(),
            named_by: LayoutHash(0),
            filling: Batch::default(),
            pending: VecDeque::with_capacity(WINDOW),
            held_back: Vec::new(),
            spare: Vec::new(),
            next_sequence: 1,
            round_trip: RoundTrip::default(),
            retry_at: now,
            last_repeat: now,
            last_sent: now,
            last_heard: now,
            outbox: Outbox::default(),
            events: VecDeque::new(),
            counters: DeviceCounters::default(),
        }
    }

    /// Takes one datagram.
    pub fn handle_datagram(&mut self, now: Time, bytes: &[u8]) {
        self.counters.datagrams_in += 1;
        let Ok((header, datagram)) = wire::decode(bytes) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        let in_session = self.joined.filter(|joined| {
            joined.tree_id.0 == header.tree_id.get() && joined.session_id == header.channel.get()
        });
        match (datagram, in_session) {
            (Datagram::Bye(_), Some(_)) => self.rejoin(now, Duration::from_millis(200)),
            (datagram @ (Datagram::Cookie | Datagram::Welcome(_) | Datagram::Bye(_)), _) => {
                self.knock(now, header, &datagram);
            }
            (Datagram::Ack(refusals), Some(joined)) => {
                self.last_heard = now;
                self.take_ack(now, &joined, header, refusals);
            }
            (Datagram::Layout(body, piece), Some(joined)) => {
                self.last_heard = now;
                self.take_layout(now, &joined, body, piece);
            }
            // The answer to a REQUEST that renewed the lease.
            (Datagram::Response(..), Some(_)) => self.last_heard = now,
            _ => self.counters.dropped_foreign += 1,
        }
    }

    /// Does what is due by now.
    pub fn handle_timeout(&mut self, now: Time) {
        self.joiner.handle_timeout(now, &mut *self.random, &mut self.outbox);
        let Some(joined) = self.joined else { return };
        if let Some(pull) = &mut self.pull {
            pull.handle_timeout(now, &joined, &mut self.outbox);
        }
        if !self.pending.is_empty() && now >= self.retry_at {
            self.round_trip.back_off();
            if self.round_trip.backoffs() > UNANSWERED_MAX {
                self.rejoin(now, Duration::ZERO);
                return;
            }
            self.repeat(now, &joined);
        }
        if now.since(self.last_heard) > joined.lease {
            self.rejoin(now, Duration::ZERO);
        } else if now >= self.last_sent.after(joined.lease / 3) {
            self.renew_lease(now, &joined);
        }
    }

    /// Takes note that the network says nobody listens at the server's address.
    pub fn handle_unreachable(&mut self, now: Time) {
        if self.joined.is_some() {
            self.rejoin(now, Duration::ZERO);
        }
        self.joiner.hold_off(now);
    }

    /// Takes one leaf's new Data. It goes with others in one REPORT, when that is
    /// full or when [`Device::flush`] is called.
    ///
    /// # Errors
    /// See [`ReportError`]; the device keeps nothing of a report that it refuses.
    pub fn report(&mut self, now: Time, leaf: DataLocId, data: &[u8]) -> Result<(), ReportError> {
        let joined = self.joined.filter(|joined| self.knows_layout_of(joined));
        let Some(joined) = joined else { return Err(ReportError::NotJoined) };
        let room = joined.datagram_size - DATAGRAM_HEADER_LEN;
        let wire_len = leaf_wire_len(data.len());
        if wire_len > room {
            let expected = room - leaf_wire_len(0);
            return Err(ReportError::TooLarge { expected, found: data.len() });
        }
        if self.filling.leaves.len() + wire_len > room {
            if self.pending.len() >= WINDOW {
                return Err(ReportError::Full);
            }
            self.send_filling(now, &joined);
        }
        wire::push_leaf(&mut self.filling.leaves, leaf, data);
        self.filling.count += 1;
        self.filling.reports += 1;
        self.counters.leaves_reported += 1;
        Ok(())
    }

    /// Sends what was taken and not sent yet, if the window has room.
    pub fn flush(&mut self, now: Time) {
        if let Some(joined) = self.joined
            && self.filling.count > 0
            && self.pending.len() < WINDOW
        {
            self.send_filling(now, &joined);
        }
    }

    /// Whether everything reported is acknowledged.
    pub fn is_idle(&self) -> bool {
        self.filling.count == 0 && self.pending.is_empty() && self.held_back.is_empty()
    }

    /// Says where the leaves of the layout before lie in the one that came with
    /// [`DeviceEvent::Layout`]: a tree that grew may have moved them. Until then
    /// nothing is reported, because it would go to other leaves. A leaf that is
    /// nowhere any more is told as refused. Does nothing if the layout is as it was.
    pub fn renumber(&mut self, now: Time, place: impl Fn(DataLocId) -> Option<DataLocId>) {
        let Some(joined) = self.joined.filter(|_| self.pull.is_none()) else { return };
        if !self.knows_layout_of(&joined) {
            self.named_by = joined.layout_hash;
            self.report_again(now, &joined, place);
        }
    }

    /// Says goodbye.
    pub fn leave(&mut self) {
        if let Some(joined) = self.joined.take() {
            bye(&joined, &mut self.outbox);
        }
        self.joiner.stop();
    }

    /// The next thing to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        match self.outbox.pop()? {
            Queued::Datagram { bytes, .. } => {
                Some(Transmit::Datagram { to: Recipients::Peer, bytes: &self.outbox.bytes[bytes] })
            }
            Queued::Leaves { .. } => None,
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<DeviceEvent> {
        self.events.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        let pull = self.pull.as_ref().map(LayoutPull::poll_timeout);
        let retry = (!self.pending.is_empty()).then_some(self.retry_at);
        let lease = self.joined.map(|joined| self.last_sent.after(joined.lease / 3));
        let session = [pull, retry, lease].into_iter().flatten().filter(|_| self.joined.is_some());
        session.chain(self.joiner.poll_timeout()).min()
    }

    /// What was counted.
    pub fn counters(&self) -> &DeviceCounters {
        &self.counters
    }

    /// The session, if there is one.
    pub fn joined(&self) -> Option<&Joined> {
        self.joined.as_ref()
    }

    /// The layout that came last.
    pub fn layout_blob(&self) -> &[u8] {
        &self.layout_blob
    }

    fn knock(&mut self, now: Time, header: &Header, datagram: &Datagram<'_>) {
        match self.joiner.handle(now, header, datagram, &mut self.outbox) {
            JoinOutcome::Ignored | JoinOutcome::Progress => {}
            JoinOutcome::Failed(error) if self.counters.joins > 0 && error.may_pass() => {
                self.joiner.restart(now, RETRY_FULL, &mut *self.random);
            }
            JoinOutcome::Failed(error) => self.events.push_back(DeviceEvent::Refused(error)),
            JoinOutcome::Joined(joined) => self.enter(now, joined),
        }
    }

    /// A session is open: number what is not acknowledged anew and send it.
    fn enter(&mut self, now: Time, joined: Joined) {
        self.counters.joins += 1;
        self.last_heard = now;
        self.last_sent = now;
        self.joined = Some(joined);
        self.joiner.wants.tree_id = Some(joined.tree_id);
        if self.config.layout == LayoutWish::Pull {
            self.pull = Some(LayoutPull::new(&joined, now));
        }
        self.events.push_back(DeviceEvent::Joined(joined));
        self.round_trip = RoundTrip::default();
        self.next_sequence = 1;
        let unacknowledged = self.pending.drain(..).filter(|one| !one.is_acknowledged);
        self.held_back.extend(unacknowledged.map(|one| one.batch));
        self.held_back.push(core::mem::take(&mut self.filling));
        if self.counters.joins == 1 {
            self.named_by = joined.layout_hash;
        }
        if self.knows_layout_of(&joined) {
            self.report_again(now, &joined, Some);
        }
    }

    /// Whether reports name leaves as this session's tree does. A device that skips
    /// the layout answers for its DataLocIDs itself.
    fn knows_layout_of(&self, joined: &Joined) -> bool {
        self.config.layout == LayoutWish::Skip || self.named_by == joined.layout_hash
    }

    /// Reports the newest Data of each leaf that is not acknowledged, at its place in
    /// this session's tree. The last session may have written some of it: an older
    /// value sent again would turn the leaf back.
    fn report_again(
        &mut self,
        now: Time,
        joined: &Joined,
        place: impl Fn(DataLocId) -> Option<DataLocId>,
    ) {
        let batches = core::mem::take(&mut self.held_back);
        let mut newest = BTreeMap::new();
        let mut reports = 0;
        for batch in &batches {
            reports += batch.reports;
            for leaf in LeafIter::new(&batch.leaves, batch.count).flatten() {
                newest.insert(leaf.data_loc_id(), leaf.data);
            }
        }
        // A REPORT stands for its leaves, the first one for what was replaced too.
        let mut replaced = reports - newest.len() as u64;
        let room = joined.datagram_size - DATAGRAM_HEADER_LEN;
        for (named, data) in newest {
            let Some(leaf) = place(named) else {
                let (reason, detail) = (RefusalReason::UnknownLeaf, joined.leaf_count);
                self.events.push_back(DeviceEvent::LeafRefused { leaf: named, reason, detail });
                self.counters.leaves_refused += 1;
                continue;
            };
            if leaf_wire_len(data.len()) > room {
                // The new server's datagrams are smaller.
                let detail = u32::try_from(room - leaf_wire_len(0)).unwrap_or(u32::MAX);
                let reason = RefusalReason::TooLarge;
                self.events.push_back(DeviceEvent::LeafRefused { leaf, reason, detail });
                self.counters.leaves_refused += 1;
                continue;
            }
            if self.filling.leaves.len() + leaf_wire_len(data.len()) > room {
                self.send_filling(now, joined);
            }
            wire::push_leaf(&mut self.filling.leaves, leaf, data);
            self.filling.count += 1;
            self.filling.reports += 1 + core::mem::take(&mut replaced);
        }
        if self.filling.count > 0 {
            self.send_filling(now, joined);
        }
    }

    fn rejoin(&mut self, now: Time, delay: Duration) {
        self.counters.rejoins += 1;
        self.joined = None;
        self.pull = None;
        self.joiner.restart(now, delay, &mut *self.random);
        self.events.push_back(DeviceEvent::Rejoining);
    }

    fn send_filling(&mut self, now: Time, joined: &Joined) {
        let batch = core::mem::replace(&mut self.filling, self.spare.pop().unwrap_or_default());
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        send(joined, sequence, &batch, &mut self.outbox);
        if self.pending.is_empty() {
            self.retry_at = now.after(self.round_trip.timeout());
        }
        self.last_sent = now;
        self.counters.reports += 1;
        self.pending.push_back(Pending {
            batch,
            sequence,
            sent: now,
            is_repeated: false,
            is_acknowledged: false,
        });
    }

    /// Sends everything again that is not acknowledged: the server takes REPORTs
    /// in order only.
    fn repeat(&mut self, now: Time, joined: &Joined) {
        for pending in self.pending.iter_mut().filter(|pending| !pending.is_acknowledged) {
            send(joined, pending.sequence, &pending.batch, &mut self.outbox);
            pending.is_repeated = true;
            self.counters.reports_repeated += 1;
        }
        self.retry_at = now.after(self.round_trip.timeout());
        self.last_repeat = now;
        self.last_sent = now;
    }

    fn take_ack(&mut self, now: Time, joined: &Joined, header: &Header, refusals: &[AckRefusal]) {
        let (first, last) = (header.watermark.get(), header.event_num.get());
        if first > last {
            // The server waits for `first` and drops what is behind it. Once in a
            // round trip is enough to send it again.
            let is_waiting = self.pending.iter().any(|pending| pending.sequence == first);
            if is_waiting && now.since(self.last_repeat) > self.round_trip.grace() * 4 {
                self.repeat(now, joined);
            }
            return;
        }
        let mut acknowledged = 0;
        for pending in &mut self.pending {
            if pending.is_acknowledged || !(first..=last).contains(&pending.sequence) {
                continue;
            }
            pending.is_acknowledged = true;
            acknowledged += pending.batch.reports;
            if !pending.is_repeated {
                self.round_trip.measured(now.since(pending.sent));
            }
            for refusal in refusals.iter().filter(|one| one.sequence.get() == pending.sequence) {
                acknowledged = acknowledged.saturating_sub(1);
                self.counters.leaves_refused += 1;
                self.events.push_back(refused(refusal));
            }
        }
        self.round_trip.answered();
        self.retry_at = now.after(self.round_trip.timeout());
        self.retire();
        if acknowledged > 0 {
            self.counters.leaves_acknowledged += acknowledged;
            self.events.push_back(DeviceEvent::Acknowledged { leaves: acknowledged });
        }
    }

    /// Takes acknowledged REPORTs out of the window.
    fn retire(&mut self) {
        while self.pending.front().is_some_and(|pending| pending.is_acknowledged) {
            let Some(Pending { mut batch, .. }) = self.pending.pop_front() else { return };
            batch.leaves.clear();
            batch.count = 0;
            batch.reports = 0;
            self.spare.push(batch);
        }
    }

    fn take_layout(&mut self, now: Time, joined: &Joined, body: &wire::LayoutBody, piece: &[u8]) {
        let Some(pull) = &mut self.pull else { return };
        match pull.take(now, joined, body, piece, &mut self.outbox) {
            Some(Ok(blob)) => {
                self.pull = None;
                self.layout_blob = blob;
                self.events.push_back(DeviceEvent::Layout);
            }
            Some(Err(error)) => {
                self.joiner.stop();
                self.joined = None;
                self.events.push_back(DeviceEvent::Refused(error));
            }
            None => {}
        }
    }

    fn renew_lease(&mut self, now: Time, joined: &Joined) {
        let body = RequestBody {
            first_leaf: U32::ZERO,
            leaf_count: U32::ZERO,
            request_id: U32::ZERO,
            credit: U16::new(1),
            reserved: U16::ZERO,
        };
        self.outbox.request(&session_header(joined, DatagramType::Request), &body, &[]);
        self.last_sent = now;
    }
}

fn send(joined: &Joined, sequence: u64, batch: &Batch, outbox: &mut Outbox) {
    let header = Header {
        event_num: U64::new(sequence),
        count: U16::new(batch.count),
        ..session_header(joined, DatagramType::Report)
    };
    outbox.datagram(Destination::Peer, &header, &(), &batch.leaves, 0);
}

fn refused(refusal: &AckRefusal) -> DeviceEvent {
    DeviceEvent::LeafRefused {
        leaf: DataLocId(refusal.data_loc_id.get()),
        reason: RefusalReason::from_code(refusal.reason.get()).unwrap_or(RefusalReason::Trouble),
        detail: refusal.detail.get(),
    }
}

const _: () = assert!(
    // A REPORT is always acknowledged within one datagram: a refusal takes no more
    // than the smallest leaf.
    size_of::<AckRefusal>() <= leaf_wire_len(0) && DATAGRAM_SIZE_DEFAULT > DATAGRAM_HEADER_LEN
);
