//! Devices in the world, and what the origin owes them.

use crate::layout::DataLocId;
use crate::layout::LayoutHash;
use crate::layout::Life;
use crate::sim::leaves::version_in;
use crate::sim::network::Cargo;
use crate::sim::network::client_port;
use crate::sim::network::serving_port;
use crate::sim::places::leaf_at;
use crate::sim::places::place_in;
use crate::sim::witness::is_type;
use crate::sim::world::World;
use crate::sync::Device;
use crate::sync::DeviceConfig;
use crate::sync::DeviceEvent;
use crate::sync::LayoutWish;
use crate::sync::Transmit;
use crate::tree::Layout;
use crate::wire;
use crate::wire::Datagram;
use crate::wire::DatagramType;

impl World {
    pub(super) fn start_device(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let config = DeviceConfig { layout: LayoutWish::Pull, tree_id: None };
        let random = Box::new(node.random.fork());
        node.device = Some(Device::new(config, random, self.now));
        node.reports.clear();
        node.device_layout = None;
    }

    /// Something for a device's socket.
    pub(super) fn device_hears(&mut self, index: usize, cargo: &Cargo) {
        let node = &mut self.nodes[index];
        let Some(device) = &mut node.device else { return };
        match cargo {
            Cargo::Unreachable => device.handle_unreachable(self.now),
            Cargo::Datagram { bytes, .. } => {
                let session = device.joined().map(|joined| joined.session_id);
                device.handle_datagram(self.now, bytes);
                if is_type(bytes, DatagramType::Ack)
                    && let Ok((header, Datagram::Ack(refusals))) = wire::decode(bytes)
                    && session == Some(header.channel.get())
                {
                    let (first, last) = (header.watermark.get(), header.event_num.get());
                    let life = Life(header.life.get());
                    self.acknowledged(index, header.channel.get(), first..=last, life);
                    if !refusals.is_empty() {
                        let name = &self.names[index];
                        self.checks.fail("liveness", || format!("{name}: a report was refused"));
                    }
                }
            }
        }
        self.drain_device(index);
    }

    fn acknowledged(
        &mut self,
        index: usize,
        session: u64,
        sequences: core::ops::RangeInclusive<u64>,
        life: Life,
    ) {
        for sequence in sequences {
            let reported = self.nodes[index].reports.remove(&(session, sequence));
            let origin = self.nodes[0].leaves.as_ref();
            self.checks.acknowledged(life, &reported.unwrap_or_default(), origin);
        }
    }

    /// What is due at a device by now.
    pub(super) fn device_timers(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(device) = &mut node.device else { return };
        if device.poll_timeout().is_some_and(|due| due <= self.now) {
            device.handle_timeout(self.now);
            self.drain_device(index);
        }
    }

    /// Sends what a device has to send.
    pub(super) fn drain_device(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let path = (client_port(index, node.run), serving_port(node.upstream));
        let Some(device) = &mut node.device else { return };
        device.flush(self.now);
        while let Some(Transmit::Datagram { bytes, .. }) = device.poll_transmit() {
            if let Ok((header, Datagram::Report(leaves))) = wire::decode(bytes) {
                let key = (header.channel.get(), header.event_num.get());
                let layout = self.layouts.of(LayoutHash(header.layout_hash.get()));
                let read = leaves.flatten().filter_map(|leaf| {
                    let place = place_in(layout?, leaf.data_loc_id().0)?;
                    Some((place, version_in(leaf.data)))
                });
                node.reports.entry(key).or_insert_with(|| read.collect());
            }
            self.net.send(self.now, path, bytes.into(), None, &mut self.trace);
        }
        while let Some(event) = device.poll_event() {
            let name = &self.names[index];
            match event {
                DeviceEvent::Refused(error) => {
                    self.checks.fail("liveness", || format!("{name}: {error}"));
                }
                // The session is over: what it carried is numbered anew.
                DeviceEvent::Joined(_) => node.reports.retain(|(session, _), _| {
                    device.joined().is_some_and(|joined| joined.session_id == *session)
                }),
                DeviceEvent::Layout => {
                    let layout = Layout::from_blob(device.layout_blob());
                    let layout = layout.expect("the origin's layout");
                    let moved = |before: &Layout, leaf: DataLocId| {
                        leaf_at(&layout, place_in(before, leaf.0)?).map(DataLocId)
                    };
                    match &node.device_layout {
                        None => device.renumber(self.now, Some),
                        Some(before) => device.renumber(self.now, |leaf| moved(before, leaf)),
                    }
                    node.device_layout = Some(layout);
                }
                _ => {}
            }
        }
    }
}
