//! What a client was told, what it asked and what it claims: the rules that look at
//! a client before an audit has mended what it did wrong.
//!
//! The witness keeps its own account of the EventNums. It shares nothing with the
//! client but the datagrams.

use core::time::Duration;

use zerocopy::FromBytes;

use crate::layout::Life;
use crate::layout::Revision;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::sim::leaves::SimLeaves;
use crate::sim::leaves::Step;
use crate::sim::node::Kind;
use crate::sim::world::World;
use crate::sync::Client;
use crate::sync::ClientCounters;
use crate::sync::Joined;
use crate::sync::Leaves;
use crate::sync::Time;
use crate::wire;
use crate::wire::Datagram;
use crate::wire::DatagramType;
use crate::wire::Flags;
use crate::wire::Header;
use crate::wire::RequestBody;

/// A loss is asked for in this time: the random delay of 2 ms, the longest wait of
/// a REQUEST that stands in the way (1 s), and the time of a turn.
const ASKED_WITHIN: Duration = Duration::from_millis(1_100);

/// What was done to a copy behind the protocol's back is mended by an audit, which
/// may itself be lost: for so long a verdict does not end the excuse.
const EXCUSED_FOR: Duration = Duration::from_secs(10);

/// The account of one client, anew in each run of it.
#[derive(Debug, Default)]
pub(super) struct Witness {
    session_id: u64,
    /// Number of the next EVENT of the view.
    next: u64,
    /// When the loss was shown that nothing was asked for yet.
    loss_shown: Option<Time>,
    /// When the first of the differences was found that no equality has followed.
    differs_since: Option<Time>,
    mismatches: u64,
    matches: u64,
    claim: (Life, Revision),
}

impl Witness {
    /// The process was stopped, and could not ask.
    pub(super) fn wakes(&mut self) {
        self.loss_shown = None;
    }

    /// Follows the numbers of a session that there is.
    fn came(&mut self, now: Time, joined: &Joined, lacks_nothing: bool, bytes: &[u8]) {
        if self.session_id != joined.session_id {
            self.session_id = joined.session_id;
            self.next = joined.event_num + 1;
            self.loss_shown = None;
        }
        let Ok((header, datagram)) = wire::decode(bytes) else { return };
        let event_num = header.event_num.get();
        let (next, is_event, is_response) = match datagram {
            Datagram::Event(mut leaves) => {
                // Lost itself, if a leaf of it cannot be read.
                let is_whole = leaves.all(|leaf| leaf.is_ok());
                (event_num.saturating_add(u64::from(!is_whole)), is_whole, false)
            }
            Datagram::Tick(_) => (event_num.saturating_add(1), false, false),
            Datagram::Response(..) => (event_num.saturating_add(1), false, true),
            _ => return,
        };
        if next > self.next {
            self.loss_shown.get_or_insert(now);
        }
        if is_response && self.loss_shown.is_some() {
            // A REQUEST was under way: this is what mends the loss, or a part of it. What it
            // asked for beside the loss need not come.
            let is_last = Flags(header.flags.get()).has(Flags::LAST);
            self.loss_shown = (!is_last && !lacks_nothing).then_some(now);
        }
        self.next = self.next.max(next.saturating_add(u64::from(is_event)));
    }

    /// Whether the copy is known to differ.
    #[cfg(test)]
    pub(super) fn differs(&self) -> bool {
        self.differs_since.is_some()
    }

    /// How long the copy has been known to differ.
    fn differs_for(&self, now: Time) -> Option<Duration> {
        self.differs_since.map(|since| now.since(since))
    }

    fn count(&mut self, now: Time, counters: &ClientCounters) -> bool {
        let differs = counters.digest_mismatches > self.mismatches;
        let is_equal = counters.digest_matches > self.matches;
        (self.mismatches, self.matches) = (counters.digest_mismatches, counters.digest_matches);
        if differs {
            self.differs_since.get_or_insert(now);
        } else if is_equal {
            self.differs_since = None;
        }
        differs
    }
}

/// Whether a datagram belongs to the session that there is.
pub(super) fn is_for(client: &Client, bytes: &[u8]) -> bool {
    let Some(joined) = client.joined().filter(|_| client.is_attached()) else { return false };
    let Some(head) = bytes.get(..DATAGRAM_HEADER_LEN) else { return false };
    let Ok((header, _)) = Header::read_from_prefix(head) else { return false };
    let channel = header.channel.get();
    header.life.get() == joined.life.0
        && header.layout_hash.get() == joined.layout_hash.0
        && (channel == joined.view_id || channel == joined.session_id)
}

/// Whether this says of itself that it is of this type: cheaper than to decode it.
pub(super) fn is_type(bytes: &[u8], datagram_type: DatagramType) -> bool {
    Header::read_from_prefix(bytes)
        .is_ok_and(|(header, _)| header.datagram_type == datagram_type.code())
}

fn source_in_sync(bytes: &[u8]) -> bool {
    let header = Header::read_from_prefix(bytes);
    header.is_ok_and(|(header, _)| Flags(header.flags.get()).has(Flags::SOURCE_IN_SYNC))
}

impl World {
    /// Something was done to a copy that only an audit can find: it and all that
    /// follow it may differ for a while.
    pub(super) fn excuse(&mut self, index: usize) {
        let mut excused = vec![index];
        while let Some(one) = excused.pop() {
            self.nodes[one].following.excused = Some(self.now);
            let follows = |other: &usize| *other != one && self.nodes[*other].upstream == one;
            excused.extend((0..self.nodes.len()).filter(follows));
        }
    }

    /// The origin lost history. What it held comes to those behind a relay while the
    /// relay is not in sync itself, and cannot be told from what is merely late.
    pub(super) fn excuse_those_behind_relays(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[self.nodes[index].upstream].kind == Kind::Relay {
                self.nodes[index].following.excused = Some(self.now);
            }
        }
    }

    /// A verdict was right: what was done to the copy is mended.
    pub(super) fn absolve(&mut self, index: usize) {
        let excused = &mut self.nodes[index].following.excused;
        if excused.is_some_and(|since| self.now.since(since) > EXCUSED_FOR) {
            *excused = None;
        }
    }

    /// Looks at a client after something came for it, or its time was up.
    pub(super) fn witness(&mut self, index: usize, came: Option<&[u8]>) {
        let node = &mut self.nodes[index];
        let Some(client) = &node.following.client else { return };
        let witness = &mut node.following.witness;
        let joined = client.joined().filter(|_| client.is_attached());
        match (joined, came) {
            (Some(joined), Some(bytes)) if is_for(client, bytes) => {
                witness.came(self.now, joined, client.lacks_nothing(), bytes);
            }
            (None, _) => witness.loss_shown = None,
            _ => {}
        }
        if client.is_in_sync() {
            witness.loss_shown = None;
        }
        let differs = witness.count(self.now, client.counters());
        let is_caused = node.following.excused.is_some() || !came.is_some_and(source_in_sync);
        if differs && !is_caused && !self.is_lost_held() {
            let name = &self.names[index];
            self.checks.fail("a difference has a cause", || {
                format!("{name}: the digests differ, and nothing was forged, rotten or lost")
            });
        }
        self.look_for_request(index);
        self.look_at_claim(index);
    }

    /// Whether anybody still holds a leaf that was forged, or that the origin lost: only a
    /// source that is in sync tells it apart from one that a relay still waits for.
    fn is_lost_held(&self) -> bool {
        let copies = self.nodes.iter().filter_map(|node| node.leaves.as_ref());
        let mut cells =
            copies.flat_map(|leaves| leaves.range_of(None).map(|leaf| leaves.cell(leaf)));
        cells.any(|cell| self.checks.is_abandoned(cell.revision))
    }

    /// A loss that was shown is asked for.
    fn look_for_request(&mut self, index: usize) {
        let shown = self.nodes[index].following.witness.loss_shown;
        self.checks.counted.losses += u64::from(shown == Some(self.now));
        if let Some(shown) = shown.filter(|shown| self.now.since(*shown) > ASKED_WITHIN) {
            let (name, waited) = (&self.names[index], self.now.since(shown));
            self.checks.fail("a loss is asked for", || {
                format!("{name}: no REQUEST {waited:?} after a loss was shown")
            });
        }
    }

    /// Everything up to the watermark that a client claims is held.
    fn look_at_claim(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let (Some(client), Some(leaves)) = (&node.following.client, &node.leaves) else { return };
        let claim = (leaves.life(), client.watermark());
        if core::mem::replace(&mut node.following.witness.claim, claim) == claim {
            return;
        }
        let node = &self.nodes[index];
        let (Some(client), Some(leaves)) = (&node.following.client, &node.leaves) else { return };
        let (is_excused, filter) = (node.following.excused.is_some(), node.filter);
        let (Some(origin), false) = (&self.nodes[0].leaves, is_excused) else { return };
        // A copy that has not heard of the origin's new life speaks of the old one.
        let is_of_this_life = client.is_attached()
            && client.joined().is_some_and(|joined| joined.life == origin.life())
            && leaves.layout_hash() == origin.layout_hash();
        if claim.1 == Revision::ZERO || !is_of_this_life {
            return;
        }
        self.checks.counted.claims += 1;
        let mut missing = missing(leaves, origin, origin.range_of(filter), claim.1);
        // One that was forged is mended by the second difference, which nobody hastens.
        let leaf = missing.find(|leaf| !self.checks.is_forged(leaves.cell(*leaf).revision));
        if let Some(leaf) = leaf {
            let found = self.nodes[index].leaves.as_ref().map(|leaves| leaves.cell(leaf));
            let expected = self.nodes[0].leaves.as_ref().map(|leaves| leaves.cell(leaf));
            let name = &self.names[index];
            self.checks.fail("a watermark is true", || {
                format!(
                    "{name}: all up to {} is held, but leaf {leaf} is {found:?}, not {expected:?}",
                    claim.1
                )
            });
        }
    }

    /// No leaf goes backwards on a copy, but where the server lost what it held, or
    /// somebody forged it; and then only after the second difference.
    pub(super) fn look_at_steps(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(leaves) = &mut node.leaves else { return };
        if leaves.steps.is_empty() {
            return;
        }
        let mut steps = core::mem::take(&mut leaves.steps);
        let base = leaves.life().base();
        let differs_for = node.following.witness.differs_for(self.now);
        let pause =
            Duration::from_secs(1).max(Duration::from_millis(self.options.heartbeat_ms) * 4);
        let is_late = differs_for.is_some_and(|time| time >= pause);
        self.checks.applied(&self.names[index], &steps);
        let is_early = |step: &&Step| {
            step.to.revision < step.from.revision && step.from.revision > base.0 && !is_late
        };
        if let Some(step) = steps.iter().find(is_early) {
            let name = &self.names[index];
            self.checks.fail("an older leaf is taken at the second difference", || {
                format!("{name}: leaf {} from {:?} to {:?}", step.leaf, step.from, step.to)
            });
        }
        // Their place is used again.
        steps.clear();
        if let Some(leaves) = &mut self.nodes[index].leaves {
            leaves.steps = steps;
        }
    }

    /// Looks at what a client sends.
    pub(super) fn look_at_request(&mut self, index: usize, bytes: &[u8]) {
        if !is_type(bytes, DatagramType::Request) {
            return;
        }
        let Ok((header, body)) = Header::read_from_prefix(bytes) else { return };
        let Ok((request, _)) = RequestBody::read_from_prefix(body) else { return };
        self.look_at_flags(index, Flags(header.flags.get()), request.leaf_count.get() == 0);
        if request.leaf_count.get() == 0 {
            return;
        }
        let following = &mut self.nodes[index].following;
        following.witness.loss_shown = None;
        let is_for_all =
            !Flags(header.flags.get()).has(Flags::CHECKSUMS) && header.watermark.get() == 0;
        let held = following.client.as_ref().map_or(Revision::ZERO, Client::watermark);
        if is_for_all && held > Revision::ZERO && following.excused.is_none() {
            let name = &self.names[index];
            self.checks.fail("a repair costs what differs", || {
                format!("{name}: asks for everything, and holds all up to {held}")
            });
        }
    }
}

/// The leaves whose newest change is not above the watermark, and that are not held as
/// the origin, whose layout is the same, holds them.
fn missing(
    leaves: &SimLeaves,
    origin: &SimLeaves,
    range: core::ops::Range<u32>,
    watermark: Revision,
) -> impl Iterator<Item = u32> {
    let pairs = leaves.cells(&range).iter().zip(origin.cells(&range));
    range.zip(pairs).filter_map(move |(leaf, (held, expected))| {
        let is_missing = expected.revision <= watermark.0
            && (held.revision, held.checksum) != (expected.revision, expected.checksum);
        is_missing.then_some(leaf)
    })
}
