//! A device and a server that lies.

use std::time::Duration;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use mapleaf::layout::DataLocId;
use mapleaf::sync::Device;
use mapleaf::sync::DeviceConfig;
use mapleaf::sync::DeviceEvent;
use mapleaf::sync::LayoutWish;
use mapleaf::sync::Recipients;
use mapleaf::sync::Time;
use mapleaf::sync::Transmit;
use mapleaf::wire;
use mapleaf::wire::AckRefusal;
use mapleaf::wire::Datagram;
use mapleaf::wire::DatagramType;
use mapleaf::wire::Header;
use mapleaf::wire::LayoutBody;
use mapleaf::wire::WelcomeBody;

use super::datagram::bare;
use super::input::Input;
use super::mem_tree::Counting;
use super::mem_tree::LEAVES;
use super::mem_tree::TREE_ID;
use super::mem_tree::layout_blob;
use super::mem_tree::layout_hash;
use super::peer;
use super::peer::Right;

const SESSION_ID: u64 = 0xde71;

/// REPORTs that may be unacknowledged, and what is sent beside them.
const SENT_MAX: usize = 64 + 4;

struct World {
    now: Time,
    device: Device,
    nonce: u64,
    /// Sequence of the newest REPORT of the session.
    sequence: u64,
    layout_hash: u32,
    layout_offset: u32,
    /// Leaves told as refused, and as acknowledged.
    refused: u64,
    acknowledged: u64,
}

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let layout = if input.flag() { LayoutWish::Pull } else { LayoutWish::Skip };
    let tree_id = input.flag().then_some(TREE_ID);
    let now = Time(1_000_000);
    let config = DeviceConfig { layout, tree_id };
    let mut world = World {
        now,
        device: Device::new(config, Box::new(Counting(5)), now),
        nonce: 0,
        sequence: 0,
        layout_hash: layout_hash().0,
        layout_offset: 0,
        refused: 0,
        acknowledged: 0,
    };
    while !input.is_empty() {
        world.step(&mut input);
    }
    world.device.leave();
    world.drain();
    assert!(world.device.joined().is_none());
}

impl World {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() & 15 {
            0 => self.wait(Duration::from_millis(u64::from(input.u8()))),
            1 => self.wait(Duration::from_secs(u64::from(input.u8()) / 8)),
            2 => {
                let len = usize::from(input.u16());
                let bytes = input.take(len);
                self.receive(bytes);
            }
            3 => self.cookie(input),
            4 => self.welcome(input),
            5 => self.layout(input),
            6 => {
                self.device.handle_unreachable(self.now);
                self.drain();
            }
            7 => {
                let mut nothing = Input(&[0; 64]);
                self.cookie(&mut nothing);
                self.welcome(&mut nothing);
                (0..4).for_each(|_| self.layout(&mut nothing));
            }
            8 => self.ack(input),
            9 | 10 => self.report(input),
            11 => {
                self.device.flush(self.now);
                self.drain();
            }
            12 => self.renumber(input),
            _ => {
                let bytes = peer::datagram(self.right(), &[], input);
                self.receive(&bytes);
            }
        }
    }

    fn right(&self) -> Right {
        Right {
            tree_id: TREE_ID.0,
            life: 10,
            layout_hash: self.layout_hash,
            channel: SESSION_ID,
            event_num: self.sequence,
            watermark: self.sequence,
            digest: 0,
        }
    }

    fn header(&self, datagram_type: DatagramType, channel: u64) -> Header {
        let right = self.right();
        Header {
            tree_id: U64::new(right.tree_id),
            life: U32::new(right.life),
            layout_hash: U32::new(right.layout_hash),
            channel: U64::new(channel),
            ..bare(datagram_type)
        }
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
        self.device.handle_timeout(self.now);
        self.drain();
        self.settle();
    }

    /// What was due was done: a driver that waits for `poll_timeout` does not spin.
    fn settle(&mut self) {
        for _ in 0..4 {
            if self.device.poll_timeout().is_none_or(|due| due > self.now) {
                return;
            }
            self.device.handle_timeout(self.now);
            self.drain();
        }
        panic!("due at {:?} for ever, now {:?}", self.device.poll_timeout(), self.now);
    }

    fn report(&mut self, input: &mut Input<'_>) {
        let leaf = DataLocId(u32::from(input.u8()) % (LEAVES + 2));
        let (repeats, byte) = (input.u8(), input.u8());
        let data = vec![byte; usize::from(repeats) * 6];
        match self.device.report(self.now, leaf, &data) {
            Ok(()) => assert!(!self.device.is_idle()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        self.drain();
    }

    fn renumber(&mut self, input: &mut Input<'_>) {
        let step = u32::from(input.u8() % 4);
        let place = |leaf: DataLocId| (leaf.0 >= step).then(|| DataLocId(leaf.0 - step));
        self.device.renumber(self.now, place);
        self.drain();
    }

    fn cookie(&mut self, input: &mut Input<'_>) {
        let header = self.header(DatagramType::Cookie, self.nonce);
        let header = Header { event_num: U64::new(input.near(1_000)), ..header };
        self.receive(&peer::finished(&header, &[]));
    }

    fn welcome(&mut self, input: &mut Input<'_>) {
        let wrong = input.u8();
        let mut or = |bit: u8, right: u32| if wrong >> bit & 1 == 1 { input.u32() } else { right };
        // Another layout than the one that is sent.
        self.layout_hash = or(0, layout_hash().0);
        let body = WelcomeBody {
            nonce: U64::new(self.nonce),
            view_id: U64::ZERO,
            life_start: U64::ZERO,
            period_us: U32::new(or(1, 100_000)),
            heartbeat_ms: U32::new(or(2, 250)),
            lease_ms: U32::new(or(3, 10_000)),
            datagram_size: U32::new(or(4, 1_200)),
            leaf_count: U32::new(or(5, LEAVES)),
            layout_len: U32::new(or(6, layout_blob().len() as u32)),
            credit_max: U32::new(or(7, 16)),
            level: 0,
            reserved: [0; 3],
        };
        self.layout_offset = 0;
        let header = self.header(DatagramType::Welcome, SESSION_ID);
        self.receive(&peer::finished(&header, body.as_bytes()));
    }

    fn layout(&mut self, input: &mut Input<'_>) {
        let blob = layout_blob();
        let offset = input.near(u64::from(self.layout_offset)) as u32;
        let piece = blob.get(offset as usize..).unwrap_or_default();
        let piece = &piece[..piece.len().min(600)];
        let body = LayoutBody {
            offset: U32::new(offset.min(blob.len() as u32)),
            layout_len: U32::new(blob.len() as u32),
        };
        self.layout_offset = offset.saturating_add(piece.len() as u32);
        let header = self.header(DatagramType::Layout, SESSION_ID);
        self.receive(&peer::finished(&header, &[body.as_bytes(), piece].concat()));
    }

    /// An ACK of some of the last sequences, with refusals of them.
    fn ack(&mut self, input: &mut Input<'_>) {
        let last = input.near(self.sequence);
        let first = last.saturating_sub(u64::from(input.u8() % 4));
        let count = input.u8() % 4;
        let refusal = |place: u8| AckRefusal {
            sequence: U64::new(last),
            data_loc_id: U32::new(u32::from(place)),
            reason: U16::new(u16::from(place)),
            reserved: U16::ZERO,
            detail: U32::ZERO,
            reserved_too: U32::ZERO,
        };
        let refusals: Vec<AckRefusal> = (0..count).map(refusal).collect();
        let header = Header {
            event_num: U64::new(last),
            watermark: U64::new(first),
            count: U16::new(u16::from(count)),
            ..self.header(DatagramType::Ack, SESSION_ID)
        };
        self.receive(&peer::finished(&header, refusals.as_bytes()));
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.device.handle_datagram(self.now, bytes);
        self.drain();
        self.settle();
    }

    fn drain(&mut self) {
        let mut sends = Vec::new();
        while let Some(transmit) = self.device.poll_transmit() {
            let Transmit::Datagram { to: Recipients::Peer, bytes } = transmit else {
                panic!("a device sends finished datagrams to its peer");
            };
            sends.push(bytes.to_vec());
        }
        assert!(sends.len() <= SENT_MAX, "{} datagrams at once", sends.len());
        sends.iter().for_each(|bytes| self.take(bytes));
        while let Some(event) = self.device.poll_event() {
            match event {
                DeviceEvent::Joined(_) => {}
                DeviceEvent::LeafRefused { .. } => self.refused += 1,
                DeviceEvent::Acknowledged { leaves } => self.acknowledged += leaves,
                _ => {}
            }
        }
        let counters = self.device.counters();
        assert_eq!(counters.leaves_acknowledged, self.acknowledged);
        assert_eq!(counters.leaves_refused, self.refused);
        assert!(self.acknowledged <= counters.leaves_reported, "more than was reported");
    }

    fn take(&mut self, bytes: &[u8]) {
        let (header, datagram) = wire::decode(bytes).expect("what a device sends can be read");
        match datagram {
            Datagram::Hello | Datagram::Init(_) => self.nonce = header.channel.get(),
            Datagram::Ready => self.sequence = 0,
            Datagram::Report(leaves) => {
                assert!(leaves.clone().count() > 0 && leaves.clone().all(|leaf| leaf.is_ok()));
                self.sequence = self.sequence.max(header.event_num.get());
            }
            Datagram::LayoutRequest(_) | Datagram::Request(..) | Datagram::Bye(_) => {}
            other => panic!("a device does not send this: {other:?}"),
        }
    }
}
