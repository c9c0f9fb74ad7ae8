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

use super::input::Input;
use super::mem_tree::Counting;
use super::mem_tree::LEAVES;
use super::mem_tree::TREE_ID;
use super::mem_tree::layout_hash;
use super::peer;
use super::peer::Door;
use super::peer::Driven;
use super::peer::Right;

const SESSION_ID: u64 = 0xde71;

/// REPORTs that may be unacknowledged, and what is sent beside them.
const SENT_MAX: usize = 64 + 4;

struct World {
    now: Time,
    device: Device,
    door: Door,
    /// Sequence of the newest REPORT of the session.
    sequence: u64,
    layout_hash: u32,
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
        door: Door::default(),
        sequence: 0,
        layout_hash: layout_hash().0,
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

impl Driven for World {
    fn clock(&mut self) -> &mut Time {
        &mut self.now
    }

    fn due(&self) -> Option<Time> {
        self.device.poll_timeout()
    }

    fn wake(&mut self) {
        self.device.handle_timeout(self.now);
        self.drain();
    }
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
        let cookie = self.door.cookie(self.right(), input);
        self.receive(&cookie);
    }

    fn welcome(&mut self, input: &mut Input<'_>) {
        let wrong = input.u8();
        // Another layout than the one that is sent.
        self.layout_hash = peer::or(wrong, 0, layout_hash().0, input);
        let body = self.door.welcome(0, 0, wrong, input);
        let header = self.right().head(DatagramType::Welcome, SESSION_ID);
        self.receive(&peer::finished(&header, body.as_bytes()));
    }

    fn layout(&mut self, input: &mut Input<'_>) {
        let piece = self.door.layout(self.right(), SESSION_ID, input);
        self.receive(&piece);
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
            ..self.right().head(DatagramType::Ack, SESSION_ID)
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
            Datagram::Hello | Datagram::Init(_) => self.door.nonce = header.channel.get(),
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
