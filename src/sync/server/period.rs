//! The end of a period: EVENTs planned once for each view, TICKs where nothing changed.

use zerocopy::little_endian::U16;
use zerocopy::little_endian::U64;

use crate::layout::DataLocId;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::sync::leaves::ServedLeaves;
use crate::sync::outbox::Destination;
use crate::sync::outbox::Queued;
use crate::sync::packing::Packer;
use crate::sync::server::Server;
use crate::sync::time::Time;
use crate::wire::DatagramType;
use crate::wire::Flags;
use crate::wire::Header;
use crate::wire::Packet;
use crate::wire::TickBody;

impl Server {
    pub(super) fn close_period(
        &mut self,
        now: Time,
        index: usize,
        changed: &[DataLocId],
        turned: bool,
        tree: &impl ServedLeaves,
    ) {
        let Some(view) = self.views[index].as_mut() else { return };
        view.digest = Some(view.selection.digest(tree));
        let packets = self.plan_events(index, changed, tree);
        if packets > 0 {
            self.counters.events += packets;
            if let Some(view) = self.views[index].as_mut() {
                view.last_close = now;
            }
        } else if turned {
            self.tick(now, index);
        }
    }

    /// Plans the EVENTs of a period for one view and says how many they are.
    fn plan_events(
        &mut self,
        index: usize,
        changed: &[DataLocId],
        tree: &impl ServedLeaves,
    ) -> u64 {
        let room = self.config.datagram_size - DATAGRAM_HEADER_LEN;
        let template = self.header(DatagramType::Event, 0);
        let Some(view) = self.views[index].as_mut() else { return 0 };
        let outbox = &mut self.outbox;
        let first = outbox.packets.len();
        let mut packer = Packer::new(room, outbox.leaves.len());
        let mut close = |packer: &mut Packer, leaves: &[DataLocId], packets: &mut Vec<Packet>| {
            view.event_num += 1;
            let header = Header {
                channel: U64::new(view.id),
                event_num: U64::new(view.event_num),
                digest: U64::new(view.digest.map_or(0, |digest| digest.0)),
                ..template
            };
            packets.push(Packet { header, response: None, leaves: packer.close(leaves) });
        };
        let whole = view.selection.root.is_none();
        for leaf in changed.iter().filter(|leaf| whole || view.selection.contains(leaf.0)) {
            let wire_len = tree.wire_len(*leaf);
            if packer.is_full_for(wire_len) {
                close(&mut packer, &outbox.leaves, &mut outbox.packets);
            }
            packer.add(*leaf, wire_len, &mut outbox.leaves);
        }
        if !packer.is_empty() {
            close(&mut packer, &outbox.leaves, &mut outbox.packets);
        }
        let packets = first..outbox.packets.len();
        let Some(last) = outbox.packets[packets.clone()].last_mut() else { return 0 };
        last.header.flags = U16::new(last.header.flags.get() | Flags::CLOSES_PERIOD);
        let planned = packets.len() as u64;
        let segment = DATAGRAM_HEADER_LEN + packer.largest();
        outbox.push(Queued::Leaves { to: Destination::View(index), packets, segment });
        planned
    }

    /// Tells a view where it stands without an EVENT.
    pub(super) fn tick(&mut self, now: Time, index: usize) {
        let template = self.header(DatagramType::Tick, 0);
        let Some(view) = self.views[index].as_mut() else { return };
        view.last_close = now;
        let closes = if view.digest.is_some() { Flags::CLOSES_PERIOD } else { 0 };
        let header = Header {
            channel: U64::new(view.id),
            event_num: U64::new(view.event_num),
            digest: U64::new(view.digest.map_or(0, |digest| digest.0)),
            flags: U16::new(template.flags.get() | closes),
            ..template
        };
        let body = TickBody { session_id: U64::ZERO, tag: [0; 16], reserved: U64::ZERO };
        self.outbox.datagram(Destination::View(index), &header, &body, &[], 0);
        self.counters.ticks += 1;
    }
}
