//! The window of a device: REPORTs sent, repeated, acknowledged.

use zerocopy::little_endian::U16;
use zerocopy::little_endian::U64;

use crate::layout::DataLocId;
use crate::layout::leaf_wire_len;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::layout::limits::DATAGRAM_SIZE_DEFAULT;
use crate::sync::device::Device;
use crate::sync::device::DeviceEvent;
use crate::sync::device::batch::Batch;
use crate::sync::device::batch::Pending;
use crate::sync::join::Joined;
use crate::sync::join::session_header;
use crate::sync::outbox::Destination;
use crate::sync::outbox::Outbox;
use crate::sync::time::Time;
use crate::wire::AckRefusal;
use crate::wire::DatagramType;
use crate::wire::Header;
use crate::wire::RefusalReason;

impl Device {
    pub(super) fn send_filling(&mut self, now: Time, joined: &Joined) {
        let batch = core::mem::replace(&mut self.filling, self.spare.pop().unwrap_or_default());
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        if self.retry_at().is_none() {
            self.waits_since = now;
        }
        self.under_way.extend(&batch.ids);
        send(joined, sequence, &batch, &mut self.outbox);
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

    /// When the first REPORT has waited for its acknowledgement for long enough.
    pub(super) fn retry_at(&self) -> Option<Time> {
        let open = self.pending.iter().filter(|pending| !pending.is_acknowledged);
        open.map(|pending| pending.sent.after(self.round_trip.timeout())).min()
    }

    /// Sends again what was last sent before `sent_before` and is not acknowledged.
    pub(super) fn repeat(&mut self, now: Time, joined: &Joined, sent_before: Time) {
        let open = self.pending.iter_mut().filter(|pending| !pending.is_acknowledged);
        for pending in open.filter(|pending| pending.sent < sent_before) {
            send(joined, pending.sequence, &pending.batch, &mut self.outbox);
            pending.sent = now;
            pending.is_repeated = true;
            self.counters.reports_repeated += 1;
            self.last_sent = now;
        }
    }

    pub(super) fn take_ack(
        &mut self,
        now: Time,
        joined: &Joined,
        header: &Header,
        refusals: &[AckRefusal],
    ) {
        let handled = header.watermark.get()..=header.event_num.get();
        let mut acknowledged = 0;
        let mut newest_sent = None;
        for pending in &mut self.pending {
            if pending.is_acknowledged || !handled.contains(&pending.sequence) {
                continue;
            }
            pending.is_acknowledged = true;
            acknowledged += pending.batch.reports.count;
            if !pending.is_repeated {
                self.round_trip.measured(now.since(pending.sent));
                newest_sent = newest_sent.max(Some(pending.sent));
            }
            for id in &pending.batch.ids {
                self.under_way.remove(id);
            }
            self.has_freed |= !self.waiting.is_empty();
            for refusal in refusals.iter().filter(|one| one.sequence.get() == pending.sequence) {
                acknowledged = acknowledged.saturating_sub(1);
                self.counters.leaves_refused += 1;
                self.events.push_back(refused(refusal));
            }
        }
        self.round_trip.answered();
        self.retire();
        // What was sent clearly earlier than a REPORT that has arrived was lost, as
        // RFC 8985 has it: no need to wait for the timeout.
        if let Some(sent) = newest_sent {
            let earlier = Time(sent.0.saturating_sub(self.round_trip.grace().as_micros() as u64));
            self.repeat(now, joined, earlier);
        }
        self.flush_waiting(now);
        if acknowledged > 0 {
            self.counters.leaves_acknowledged += acknowledged;
            self.events.push_back(DeviceEvent::Acknowledged { leaves: acknowledged });
        }
    }

    /// Leaves that waited for an acknowledgement go at once: their reports were
    /// flushed when they were made, or will be.
    fn flush_waiting(&mut self, now: Time) {
        if self.has_freed {
            self.flush(now);
        }
    }

    /// Takes acknowledged REPORTs out of the window.
    fn retire(&mut self) {
        while self.pending.front().is_some_and(|pending| pending.is_acknowledged) {
            let Some(Pending { mut batch, .. }) = self.pending.pop_front() else { return };
            batch.clear();
            self.spare.push(batch);
        }
    }
}

fn send(joined: &Joined, sequence: u64, batch: &Batch, outbox: &mut Outbox) {
    let header = Header {
        event_num: U64::new(sequence),
        count: U16::new(batch.count()),
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
