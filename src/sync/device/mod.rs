//! A device: reports the changes of its own leaves (claim 23), and knows which of
//! them the server has written.

mod batch;
mod event;
mod window;

use core::time::Duration;
use std::collections::BTreeMap;
use std::collections::HashSet;
use std::collections::VecDeque;

use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;

use crate::layout::DataLocId;
use crate::layout::LayoutHash;
use crate::layout::Life;
use crate::layout::Revision;
use crate::layout::leaf_wire_len;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::sync::counters::DeviceCounters;
use crate::sync::device::batch::Batch;
use crate::sync::device::batch::Pending;
use crate::sync::device::batch::Reports;
use crate::sync::device::batch::Waiting;
use crate::sync::handled::REPORT_WINDOW;
use crate::sync::join::JoinError;
use crate::sync::join::JoinOutcome;
use crate::sync::join::Joined;
use crate::sync::join::Joiner;
use crate::sync::join::RETRY_FULL;
use crate::sync::join::Role;
use crate::sync::join::Wants;
use crate::sync::join::bye;
use crate::sync::join::session_header;
use crate::sync::join::silence_limit;
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
use crate::wire::Datagram;
use crate::wire::DatagramType;
use crate::wire::Header;
use crate::wire::LeafIter;
use crate::wire::RefusalReason;
use crate::wire::RequestBody;

pub use event::DeviceConfig;
pub use event::DeviceEvent;
pub use event::LayoutWish;
pub use event::ReportError;

/// Leaves that wait for their last report to be acknowledged; more are refused until
/// some are.
const WAITING_MAX: usize = 65_536;

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
    /// Newest Data of leaves whose last report is under way.
    waiting: BTreeMap<DataLocId, Waiting>,
    /// Leaves in REPORTs that are not acknowledged.
    under_way: HashSet<DataLocId>,
    /// Reports taken from the first session on.
    taken: u64,
    /// A leaf that waits may have become free.
    has_freed: bool,
    pending: VecDeque<Pending>,
    /// Empty batches whose memory is used again.
    spare: Vec<Batch>,
    next_sequence: u64,
    round_trip: RoundTrip,
    last_sent: Time,
    last_heard: Time,
    /// When the oldest of what is under way was first sent.
    waits_since: Time,
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
            waiting: BTreeMap::new(),
            under_way: HashSet::new(),
            taken: 0,
            has_freed: false,
            pending: VecDeque::with_capacity(REPORT_WINDOW as usize),
            spare: Vec::new(),
            next_sequence: 1,
            round_trip: RoundTrip::default(),
            last_sent: now,
            last_heard: now,
            waits_since: now,
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
            (datagram @ (Datagram::Cookie | Datagram::Welcome(..) | Datagram::Bye(_)), _) => {
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
        if self.retry_at().is_some_and(|due| now >= due) {
            let earlier = Time(now.0.saturating_sub(self.round_trip.timeout().as_micros() as u64));
            self.round_trip.back_off();
            if now.since(self.last_heard.max(self.waits_since)) > silence_limit(&joined) {
                self.rejoin(now, Duration::ZERO);
                return;
            }
            self.repeat(now, &joined, Time(earlier.0 + 1));
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
    /// A leaf is under way once at a time, so that REPORTs may arrive in any order:
    /// Data that comes meanwhile waits, and the newest takes the place of older.
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
        self.make_room(now, &joined, wire_len)?;
        let reports = Reports { count: 1, oldest: self.taken + 1 };
        if self.under_way.contains(&leaf) || self.waiting.contains_key(&leaf) {
            self.hold(leaf, data, reports)?;
        } else {
            self.filling.push(leaf, data, reports);
        }
        self.taken += 1;
        self.counters.leaves_reported += 1;
        Ok(())
    }

    /// Keeps Data until the leaf's last report is acknowledged.
    fn hold(&mut self, leaf: DataLocId, data: &[u8], reports: Reports) -> Result<(), ReportError> {
        let replaces = self.waiting.contains_key(&leaf);
        if self.waiting.len() >= WAITING_MAX && !replaces {
            return Err(ReportError::Full);
        }
        self.counters.conflated += u64::from(replaces);
        self.hold_again(leaf, data, reports);
        Ok(())
    }

    /// Sends the REPORT that is being filled if a leaf finds no room in it.
    fn make_room(
        &mut self,
        now: Time,
        joined: &Joined,
        wire_len: usize,
    ) -> Result<(), ReportError> {
        let room = joined.datagram_size - DATAGRAM_HEADER_LEN;
        if self.filling.leaves.len() + wire_len <= room {
            return Ok(());
        }
        if self.is_window_full() {
            return Err(ReportError::Full);
        }
        self.send_filling(now, joined);
        Ok(())
    }

    /// Sends what was taken and not sent yet, if the window has room.
    pub fn flush(&mut self, now: Time) {
        let joined = self.joined.filter(|joined| self.knows_layout_of(joined));
        let Some(joined) = joined else { return };
        self.fill_waiting(now, &joined);
        if !self.filling.ids.is_empty() && !self.is_window_full() {
            self.send_filling(now, &joined);
        }
    }

    /// Takes up leaves that waited and whose last report is acknowledged by now.
    fn fill_waiting(&mut self, now: Time, joined: &Joined) {
        if core::mem::take(&mut self.has_freed) {
            let mut waiting = core::mem::take(&mut self.waiting);
            waiting.retain(|leaf, one| {
                let wire_len = leaf_wire_len(one.data.len());
                let is_free = !self.under_way.contains(leaf);
                let goes = is_free && self.make_room(now, joined, wire_len).is_ok();
                if goes {
                    self.filling.push(*leaf, &one.data, one.reports);
                }
                !goes
            });
            // What found no room is tried again when the next REPORT is out of the way.
            self.has_freed = waiting.keys().any(|leaf| !self.under_way.contains(leaf));
            self.waiting = waiting;
        }
    }

    /// The server remembers a window of sequences: the oldest that is not
    /// acknowledged holds it.
    fn is_window_full(&self) -> bool {
        self.pending.len() as u64 >= REPORT_WINDOW
    }

    /// Whether everything reported is acknowledged.
    pub fn is_idle(&self) -> bool {
        self.filling.ids.is_empty() && self.waiting.is_empty() && self.pending.is_empty()
    }

    /// Every report up to this number, counted from 1 in the order in which they were
    /// taken, was written or refused, or newer Data of its leaf was.
    pub fn acknowledged_through(&self) -> u64 {
        let pending = self.pending.iter().filter(|one| !one.is_acknowledged);
        let under_way = pending.map(|one| one.batch.reports.oldest);
        let waiting = self.waiting.values().map(|one| one.reports.oldest);
        let open = under_way.chain(waiting).chain([self.filling.reports.oldest]);
        open.min().map_or(self.taken, |oldest| self.taken.min(oldest - 1))
    }

    /// Says where the leaves of the layout before lie in the one that came with
    /// [`DeviceEvent::Layout`]: a tree that grew may have moved them. Until then
    /// nothing is reported, because it would go to other leaves. A leaf that is
    /// nowhere any more is told as refused. Does nothing if the layout is as it was.
    pub fn renumber(&mut self, now: Time, place: impl Fn(DataLocId) -> Option<DataLocId>) {
        let Some(joined) = self.joined.filter(|_| self.pull.is_none()) else { return };
        if self.knows_layout_of(&joined) {
            return;
        }
        self.named_by = joined.layout_hash;
        for (named, one) in core::mem::take(&mut self.waiting) {
            match place(named) {
                Some(leaf) => self.hold_again(leaf, &one.data, one.reports),
                None => self.give_up(named, RefusalReason::UnknownLeaf, joined.leaf_count),
            }
        }
        self.resume(now, &joined);
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
        let retry = self.retry_at();
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
        self.hold_everything();
        if self.counters.joins == 1 {
            self.named_by = joined.layout_hash;
        }
        if self.knows_layout_of(&joined) {
            self.resume(now, &joined);
        } else if self.config.layout == LayoutWish::Skip {
            self.follow_blindly(&joined);
        }
    }

    /// A device that does not look at layouts finds another one: its DataLocIDs may
    /// name other leaves now. What it has not got rid of must not go to those.
    fn follow_blindly(&mut self, joined: &Joined) {
        if self.waiting.is_empty() {
            self.named_by = joined.layout_hash;
            return;
        }
        let (expected, found) = (self.named_by, joined.layout_hash);
        self.leave();
        self.events.push_back(DeviceEvent::Refused(JoinError::Layout { expected, found }));
    }

    /// Whether reports name leaves as this session's tree does.
    fn knows_layout_of(&self, joined: &Joined) -> bool {
        self.named_by == joined.layout_hash
    }

    /// Keeps the newest Data of each leaf that is not acknowledged. The last session
    /// may have written some of it: an older value sent again would turn the leaf
    /// back.
    fn hold_everything(&mut self) {
        let pending = core::mem::take(&mut self.pending);
        let batches = pending.into_iter().filter(|one| !one.is_acknowledged).map(|one| one.batch);
        let filling = core::mem::take(&mut self.filling);
        let waiting = core::mem::take(&mut self.waiting);
        self.under_way.clear();
        // Older first: a leaf that waits is newer than the one under way.
        for batch in batches.chain([filling]) {
            let mut reports = batch.reports;
            for leaf in LeafIter::new(&batch.leaves, batch.count()).flatten() {
                // The first leaf stands for what was replaced in its batch too.
                let share = Reports { count: core::mem::take(&mut reports.count), ..reports };
                self.hold_again(leaf.data_loc_id(), leaf.data, share);
            }
        }
        for (leaf, one) in waiting {
            self.hold_again(leaf, &one.data, one.reports);
        }
    }

    /// Reports what was kept.
    fn resume(&mut self, now: Time, joined: &Joined) {
        self.refuse_too_large(joined);
        self.has_freed = true;
        self.flush(now);
    }

    fn give_up(&mut self, leaf: DataLocId, reason: RefusalReason, detail: u32) {
        self.events.push_back(DeviceEvent::LeafRefused { leaf, reason, detail });
        self.counters.leaves_refused += 1;
    }

    fn hold_again(&mut self, leaf: DataLocId, data: &[u8], reports: Reports) {
        let waiting = self.waiting.entry(leaf).or_default();
        waiting.data.clear();
        waiting.data.extend_from_slice(data);
        waiting.reports.add(reports);
    }

    /// Gives up what does not fit the datagrams of a server that was restarted with
    /// smaller ones.
    fn refuse_too_large(&mut self, joined: &Joined) {
        let room = joined.datagram_size - DATAGRAM_HEADER_LEN;
        let detail = u32::try_from(room - leaf_wire_len(0)).unwrap_or(u32::MAX);
        let too_large = |one: &Waiting| leaf_wire_len(one.data.len()) > room;
        let refused = self.waiting.iter().filter(|(_, one)| too_large(one));
        let refused: Vec<DataLocId> = refused.map(|(leaf, _)| *leaf).collect();
        for leaf in refused {
            self.waiting.remove(&leaf);
            self.give_up(leaf, RefusalReason::TooLarge, detail);
        }
    }

    fn rejoin(&mut self, now: Time, delay: Duration) {
        self.counters.rejoins += 1;
        self.joined = None;
        self.pull = None;
        self.joiner.restart(now, delay, &mut *self.random);
        self.events.push_back(DeviceEvent::Rejoining);
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
        let header = session_header(joined, DatagramType::Request);
        self.outbox.datagram(Destination::Peer, &header, &body, &[], 0);
        self.last_sent = now;
    }
}
