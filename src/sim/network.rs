//! The network between the processes: what it loses, repeats, delays and damages.
//!
//! A port names a process and which of its sockets: `NODES_MAX * generation +
//! node`. Generation [`SERVING`] is the socket that a server listens on, [`HEARING`] that
//! by which a process hears the multicast group; a client has a new one in each of its
//! runs, as the system gives out ports.

use std::collections::VecDeque;
use std::rc::Rc;

use zerocopy::FromBytes;

use crate::sim::options::Faults;
use crate::sim::options::NODES_MAX;
use crate::sim::random::Seeded;
use crate::sim::trace::Fate;
use crate::sim::trace::Trace;
use crate::sim::trace::node_of;
use crate::sync::RandomSource;
use crate::sync::Time;
use crate::wire::DatagramType;
use crate::wire::Header;

/// The socket by which a process hears the group.
pub(super) const HEARING: u16 = 99;

/// The group itself. The last number of a process belongs to none.
pub(super) const GROUP: u16 = HEARING * NODES_MAX + NODES_MAX - 1;

/// The socket that a server listens on.
pub(super) const SERVING: u16 = 100;

/// Sockets of clients begin here, and are used again after this many runs.
const CLIENT_FIRST: u16 = 101;
const CLIENT_GENERATIONS: u16 = 300;

const _: () = assert!((CLIENT_FIRST + CLIENT_GENERATIONS) as u32 * NODES_MAX as u32 <= 65_536);

/// A datagram takes at least this long: a switch and two hosts.
const FLIGHT_US: u64 = 150;
/// And up to this much more.
const JITTER_US: u64 = 100;

/// Share of datagrams that is recorded, and how many are kept: those of a second and
/// those of minutes ago come again.
const RECORDED: f64 = 0.02;
const RECORDED_MAX: usize = 64;

pub(super) fn serving_port(node: usize) -> u16 {
    SERVING * NODES_MAX + node as u16
}

pub(super) fn hearing_port(node: usize) -> u16 {
    HEARING * NODES_MAX + node as u16
}

pub(super) fn client_port(node: usize, run: u64) -> u16 {
    let generation = CLIENT_FIRST + (run % u64::from(CLIENT_GENERATIONS)) as u16;
    generation * NODES_MAX + node as u16
}

/// What is on its way.
#[derive(Clone, Debug)]
pub(super) enum Cargo {
    /// A datagram; `told` is the end of a period that it tells of, by the count of
    /// its server.
    Datagram {
        /// The bytes.
        bytes: Rc<[u8]>,
        /// See above; nothing if it was damaged.
        told: Option<u64>,
    },
    /// "Nobody listens there", to the socket that sent.
    Unreachable,
}

impl Cargo {
    /// The bytes of a datagram.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Cargo::Datagram { bytes, .. } => Some(bytes),
            Cargo::Unreachable => None,
        }
    }
}

/// One thing on its way.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) cargo: Cargo,
}

/// A link that is cut in one direction.
#[derive(Clone, Copy, Debug)]
struct Cut {
    from: usize,
    to: usize,
    until: Time,
}

pub(super) struct Network {
    random: Seeded,
    faults: Faults,
    cuts: Vec<Cut>,
    /// Loss of a link, as a multiple of the general one, by direction.
    factors: Vec<f64>,
    /// The same of the group's way to a process.
    group_factors: Vec<f64>,
    /// Until when nothing comes to a process by the group.
    deaf: Vec<Time>,
    /// By the time of arrival, and then in the order of sending.
    in_flight: VecDeque<(Time, Flight)>,
    /// Some of all that was ever sent, to come again.
    recorded: Vec<(u16, u16, Rc<[u8]>)>,
    /// Datagrams and bytes sent.
    pub(super) sent: (u64, u64),
}

impl Network {
    pub(super) fn new(faults: Faults, mut random: Seeded, nodes: usize) -> Network {
        // Links are not alike, nor are their directions.
        let factors = (0..2 * nodes).map(|_| random.pick(&[0.0, 0.5, 1.0, 1.0])).collect();
        Network {
            random,
            faults,
            cuts: Vec::new(),
            factors,
            group_factors: Vec::new(),
            deaf: vec![Time::START; nodes],
            in_flight: VecDeque::new(),
            recorded: Vec::new(),
            sent: (0, 0),
        }
    }

    /// Lets the group's ways to processes be as unlike as their links.
    pub(super) fn reach_group(&mut self) {
        let nodes = self.deaf.len();
        self.group_factors = (0..nodes).map(|_| self.random.pick(&[0.0, 0.5, 1.0, 1.0])).collect();
    }

    /// Links that are all alike.
    pub(super) fn make_even(&mut self) {
        self.factors.fill(1.0);
    }

    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Cuts a link in one direction.
    pub(super) fn cut(&mut self, from: usize, to: usize, until: Time) {
        self.cuts.push(Cut { from, to, until });
    }

    /// Lets nothing come to a process by the group. That is no link: a quiet time does not
    /// mend it.
    pub(super) fn deafen(&mut self, node: usize, until: Time) {
        self.deaf[node] = self.deaf[node].max(until);
    }

    /// Mends all links.
    pub(super) fn mend(&mut self) {
        self.cuts.clear();
    }

    pub(super) fn next_arrival(&self) -> Option<Time> {
        self.in_flight.front().map(|(time, _)| *time)
    }

    pub(super) fn arrive(&mut self, now: Time) -> Option<Flight> {
        self.next_arrival().filter(|time| *time <= now)?;
        self.in_flight.pop_front().map(|(_, flight)| flight)
    }

    /// Sends a datagram, with what the network does to it.
    pub(super) fn send(
        &mut self,
        now: Time,
        (from, to): (u16, u16),
        bytes: Rc<[u8]>,
        told: Option<u64>,
        trace: &mut Trace,
    ) {
        self.count(&bytes);
        self.carry(now, (from, to), bytes, told, trace);
    }

    /// Sends a datagram once, to all of the group: each loses it, or gets it late or
    /// damaged, on its own.
    pub(super) fn send_to_group(
        &mut self,
        now: Time,
        (from, members): (u16, &[usize]),
        bytes: &Rc<[u8]>,
        told: Option<u64>,
        trace: &mut Trace,
    ) {
        self.count(bytes);
        for member in members {
            let path = (from, hearing_port(*member));
            if self.deaf[*member] > now || self.is_lost_by_group(*member) {
                trace.datagram(now, path, Fate::Lost, bytes);
            } else {
                self.carry(now, path, bytes.clone(), told, trace);
            }
        }
    }

    /// A datagram costs its sender once, whoever gets it.
    fn count(&mut self, bytes: &[u8]) {
        self.sent.0 += 1;
        self.sent.1 += bytes.len() as u64;
    }

    fn carry(
        &mut self,
        now: Time,
        (from, to): (u16, u16),
        bytes: Rc<[u8]>,
        told: Option<u64>,
        trace: &mut Trace,
    ) {
        if self.faults.replays > 0 && self.random.chance(RECORDED) {
            self.record(from, to, &bytes);
        }
        if self.is_cut(now, from, to) || self.is_lost(from, to) {
            trace.datagram(now, (from, to), Fate::Lost, &bytes);
            return;
        }
        trace.datagram(now, (from, to), Fate::Sent, &bytes);
        let copies = 1 + u64::from(self.drawn(self.faults.duplication));
        for _ in 0..copies {
            let cargo = if self.drawn(self.faults.corruption) {
                Cargo::Datagram { bytes: self.damage(&bytes), told: None }
            } else {
                Cargo::Datagram { bytes: bytes.clone(), told }
            };
            let mut late = self.random.between(0, JITTER_US);
            if self.drawn(self.faults.reordering) {
                late += self.random.between(0, self.faults.late_ms * 1_000);
            }
            self.launch(Time(now.0 + FLIGHT_US + late), Flight { from, to, cargo });
        }
    }

    /// Hands a datagram to a socket as if `from` had sent it.
    pub(super) fn forge(&mut self, now: Time, from: u16, to: u16, bytes: Vec<u8>) {
        let cargo = Cargo::Datagram { bytes: bytes.into(), told: None };
        self.launch(Time(now.0 + FLIGHT_US), Flight { from, to, cargo });
    }

    fn record(&mut self, from: u16, to: u16, bytes: &Rc<[u8]>) {
        let one = (from, to, bytes.clone());
        if self.recorded.len() < RECORDED_MAX {
            self.recorded.push(one);
        } else {
            let place = self.random.index(RECORDED_MAX);
            self.recorded[place] = one;
        }
    }

    /// Lets a datagram of any time before come again, which may have been lost before. The
    /// exception is a REPORT of a run of a device that is over: what the next run reports is
    /// another device's to the server (docs/PROTOCOL.md 8), and it comes back when nothing
    /// of the last is on its way.
    pub(super) fn replay(&mut self, now: Time, is_of_now: impl Fn(u16) -> bool) {
        if !self.recorded.is_empty() {
            let chosen = self.random.index(self.recorded.len());
            let (from, to, bytes) = self.recorded[chosen].clone();
            let is_report = |header: &Header| header.datagram_type == DatagramType::Report.code();
            let header = Header::ref_from_prefix(&bytes);
            if header.is_ok_and(|(header, _)| is_report(header)) && !is_of_now(from) {
                return;
            }
            let cargo = Cargo::Datagram { bytes, told: None };
            self.launch(Time(now.0 + FLIGHT_US), Flight { from, to, cargo });
        }
    }

    /// Tells a sender that nobody listens at `to`.
    pub(super) fn tell_unreachable(&mut self, now: Time, from: u16, to: u16) {
        if self.faults.unreachable {
            let flight = Flight { from: to, to: from, cargo: Cargo::Unreachable };
            self.launch(Time(now.0 + FLIGHT_US), flight);
        }
    }

    fn launch(&mut self, time: Time, flight: Flight) {
        let place = self.in_flight.partition_point(|(due, _)| *due <= time);
        self.in_flight.insert(place, (time, flight));
    }

    /// Draws only where there is something to draw, so that a run without a fault
    /// is not another one than that in which it has the share 0.
    fn drawn(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.chance(share)
    }

    fn is_cut(&mut self, now: Time, from: u16, to: u16) -> bool {
        self.cuts.retain(|cut| cut.until > now);
        let (from, to) = (node_of(from), node_of(to));
        self.cuts.iter().any(|cut| cut.from == from && cut.to == to)
    }

    fn is_lost(&mut self, from: u16, to: u16) -> bool {
        let factor = |node: usize, way: usize| self.factors.get(2 * node + way).copied();
        let up = factor(node_of(from), 0).unwrap_or(1.0);
        let down = factor(node_of(to), 1).unwrap_or(1.0);
        self.drawn(self.faults.loss * up.max(down))
    }

    fn is_lost_by_group(&mut self, member: usize) -> bool {
        let factor = self.group_factors.get(member).copied().unwrap_or(1.0);
        self.drawn(self.faults.group_loss * factor)
    }

    fn damage(&mut self, bytes: &Rc<[u8]>) -> Rc<[u8]> {
        let mut bytes = bytes.to_vec();
        if self.random.chance(0.3) {
            let len = self.random.index(bytes.len());
            bytes.truncate(len);
        } else {
            for _ in 0..self.random.between(1, 4) {
                let bit = self.random.next_u64() % (bytes.len() as u64 * 8);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
        }
        bytes.into()
    }
}
