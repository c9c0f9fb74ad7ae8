//! Servers in the world: datagrams in, periods ended, everything sent looked at.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::rc::Rc;

use zerocopy::FromBytes;

use crate::layout::Life;
use crate::sim::leaves::Cell;
use crate::sim::leaves::cell_of;
use crate::sim::network::GROUP;
use crate::sim::network::serving_port;
use crate::sim::node::Kind;
use crate::sim::node::address;
use crate::sim::node::group_address;
#[cfg(test)]
use crate::sim::planted::Planted;
use crate::sim::random::mac;
use crate::sim::trace::node_of;
use crate::sim::world::World;
use crate::sync::Leaves;
use crate::sync::Recipients;
use crate::sync::Reports;
use crate::sync::Server;
use crate::sync::ServerConfig;
use crate::sync::Time;
use crate::sync::Transmit;
use crate::wire;
use crate::wire::Checksums;
use crate::wire::Datagram;
use crate::wire::DatagramType;
use crate::wire::Flags;
use crate::wire::Header;
use crate::wire::Question;

/// Share of an origin's runs in which it has a group.
const GROUP_SERVED: f64 = 0.85;

/// What one mutation of a server brought.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Leaves in EVENTs, by the filter of those who get them, in the order in which they go.
    events: BTreeMap<Option<usize>, Vec<u32>>,
    /// Who was answered, by what, with how many bytes.
    answers: Vec<(u16, DatagramType, usize)>,
    /// Leaves in RESPONSEs.
    repaired: Vec<(u32, Cell)>,
}

/// One datagram to be sent.
struct Outgoing {
    to: Rc<[u16]>,
    bytes: Rc<[u8]>,
}

fn ports(to: Recipients<'_>) -> Rc<[u16]> {
    to.addresses().unwrap_or(&[]).iter().map(|address| address.port()).collect()
}

fn kind_of(bytes: &[u8]) -> Option<(Header, DatagramType)> {
    let (header, _) = Header::read_from_prefix(bytes).ok()?;
    Some((header, DatagramType::from_code(header.datagram_type)?))
}

impl World {
    fn server_config(&self, kind: Kind, group: Option<SocketAddr>) -> ServerConfig {
        let options = &self.options;
        ServerConfig {
            period: Duration::from_millis(options.period_ms),
            heartbeat: Duration::from_millis(options.heartbeat_ms),
            lease: Duration::from_millis(options.lease_ms),
            datagram_size: options.datagram_size,
            credit_max: options.credit_max,
            request_rate: options.request_rate,
            reports: if kind == Kind::Origin { Reports::Accept } else { Reports::Refuse },
            group,
            ..ServerConfig::new(mac)
        }
    }

    /// Begins to serve the leaves that there are.
    pub(super) fn serve(&mut self, index: usize) {
        let kind = self.nodes[index].kind;
        // Whoever runs it may do so without the group now and then.
        let may_have = kind == Kind::Origin && self.options.has_group();
        let has_group = may_have && self.random.chance(GROUP_SERVED);
        let config = self.server_config(kind, has_group.then(group_address));
        let node = &mut self.nodes[index];
        let end = node.period_end();
        let random = Box::new(node.random.fork());
        let Some(leaves) = &mut node.leaves else { return };
        let serving = &mut node.serving;
        serving.server = Some(Server::new(config, random, self.now, end, leaves));
        (serving.life, serving.layout_hash) = (leaves.life(), leaves.layout_hash());
        serving.source = Some(end.source);
        let has_length = self.options.period_ms > 0;
        serving.next_period = if has_length { self.now } else { Time(u64::MAX) };
        serving.has_group = has_group;
        serving.views.clear();
        serving.view_filters.clear();
        serving.audience.clear();
        serving.cookied.clear();
        serving.proven.clear();
        serving.ends.push(*leaves.state());
        leaves.touched.clear();
    }

    /// Lets a relay serve as soon as it can, and sends its clients to the door when
    /// the tree has another life.
    pub(super) fn relay(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.kind != Kind::Relay || node.following.attached.is_none() {
            return;
        }
        let Some(leaves) = &node.leaves else { return };
        if node.serving.server.is_none() {
            self.serve(index);
            return;
        }
        let told = (node.serving.life, node.serving.layout_hash);
        if told != (leaves.life(), leaves.layout_hash()) {
            self.send_to_the_door(index);
        }
    }

    /// Sends all clients to the door: the tree has another life or layout.
    pub(super) fn send_to_the_door(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let end = node.period_end();
        let (serving, Some(leaves)) = (&mut node.serving, &mut node.leaves) else { return };
        let Some(server) = &mut serving.server else { return };
        (serving.life, serving.layout_hash) = (leaves.life(), leaves.layout_hash());
        serving.source = Some(end.source);
        server.rejoin_all(end, leaves);
        leaves.touched.clear();
        serving.ends.push(*leaves.state());
        serving.audience.clear();
        self.drain_server(index);
    }

    /// A datagram for a server.
    pub(super) fn server_hears(&mut self, index: usize, from: u16, bytes: &[u8]) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let (Some(server), Some(leaves)) = (&mut node.serving.server, &mut node.leaves) else {
            return;
        };
        let is_proven = node.serving.proven.contains(&from);
        server.handle_datagram(now, address(from), bytes, leaves);
        let head = kind_of(bytes);
        node.serving.channel = head.map_or(0, |(header, _)| header.channel.get());
        if self.bury(index) {
            return;
        }
        self.look_at_writes(index);
        let sent = self.drain_server(index);
        let request = head.filter(|(_, kind)| *kind == DatagramType::Request);
        let request = request.and_then(|_| wire::decode(bytes).ok());
        if let Some((header, Datagram::Request(..))) = request {
            let serving = &mut self.nodes[index].serving;
            let told = (header.life.get(), header.layout_hash.get());
            if told == (serving.life.0, serving.layout_hash.0) {
                serving.audience.asks(from, header);
            }
        }
        self.check_answers(index, from, (bytes.len(), request), is_proven, &sent);
    }

    /// Looks at what was stored by a server since the last look.
    pub(super) fn look_at_writes(&mut self, index: usize) {
        if let Some(leaves) = &mut self.nodes[index].leaves {
            self.checks.written(&leaves.steps);
            leaves.steps.clear();
        }
    }

    fn check_answers(
        &mut self,
        index: usize,
        from: u16,
        (came, request): (usize, Option<(&Header, Datagram<'_>)>),
        is_proven: bool,
        sent: &Sent,
    ) {
        let is_relay = self.nodes[index].kind == Kind::Relay;
        let serving = &mut self.nodes[index].serving;
        let name = self.names[index].clone();
        let count = |kind| sent.answers.iter().filter(|answer| answer.1 == kind).count();
        let credit = match request {
            Some((header, Datagram::Request(request, asked))) => {
                let first = request.first_leaf.get();
                let since = header.watermark.get();
                self.checks.repaired(&name, &sent.repaired, |leaf, cell| match asked {
                    Question::Checksums(Checksums(known)) => {
                        let index = leaf.checked_sub(first).map(|index| index as usize);
                        let known = index.and_then(|index| known.get(index));
                        known.is_none_or(|known| known.get() != cell.checksum)
                    }
                    Question::Since => cell.revision > since,
                    Question::Holes(holes) => holes.iter().any(|hole| {
                        let part =
                            hole.first_leaf.get()..hole.first_leaf.get() + hole.leaf_count.get();
                        let until = if is_relay { u64::MAX } else { hole.up_to.get() };
                        let lost = hole.since.get() + 1..=until;
                        part.contains(&leaf) && lost.contains(&cell.revision)
                    }),
                });
                usize::from(request.credit.get().min(self.options.credit_max))
            }
            _ => 0,
        };
        let responses = count(DatagramType::Response);
        if credit > 0 || responses > 0 {
            self.checks.answered(&name, credit, responses);
        }
        if sent.answers.iter().any(|(to, ..)| *to != from) {
            self.checks.fail("budgets are kept", || format!("{name}: answers another address"));
        }
        if count(DatagramType::Welcome) > 0 {
            if !serving.cookied.contains(&from) {
                let what = || format!("{name}: WELCOME to port {from}, which has no cookie");
                self.checks.fail("budgets are kept", what);
            }
            serving.proven.insert(from);
        } else if !is_proven && came > 0 {
            let went = sent.answers.iter().map(|(.., len)| len).sum();
            self.checks.unproven(&name, came, went);
        }
        if count(DatagramType::Cookie) > 0 {
            serving.cookied.insert(from);
        }
    }

    /// Ends a period of a server.
    pub(super) fn end_period(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let end = node.period_end();
        let serving = &mut node.serving;
        let (Some(server), Some(leaves)) = (&mut serving.server, &mut node.leaves) else { return };
        let period = Duration::from_millis(self.options.period_ms);
        // On a grid, as the product's loop keeps it.
        let next = serving.next_period.after(period);
        serving.next_period = if next > self.now { next } else { self.now.after(period) };
        serving.source = Some(end.source);
        // Only a planted bug writes later.
        #[cfg(test)]
        leaves.write_deferred();
        let touched = leaves.touched.take();
        serving.ends.push(*leaves.state());
        server.handle_changes(self.now, end, leaves);
        if self.bury(index) {
            return;
        }
        let node = &mut self.nodes[index];
        let serving = &mut node.serving;
        let filters = &self.filters;
        let filters: BTreeSet<Option<usize>> =
            serving.audience.ports().map(|port| filters[node_of(port)]).collect();
        let mut sent = self.drain_server(index);
        for filter in filters {
            let mut planned = sent.events.remove(&filter).unwrap_or_default();
            planned.sort_unstable();
            planned.dedup();
            let Some(leaves) = &self.nodes[index].leaves else { return };
            let range = leaves.range_of(filter);
            let place = |end: u32| touched.partition_point(|leaf| *leaf < end);
            let wanted = &touched[place(range.start)..place(range.end)];
            self.checks.period(&self.names[index], wanted, &planned);
        }
    }

    /// What is due at a server by now.
    pub(super) fn server_timers(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(server) = &mut node.serving.server else { return };
        if server.poll_timeout().is_some_and(|due| due <= self.now) {
            server.handle_timeout(self.now);
            self.drain_server(index);
        }
        if self.nodes[index].serving.next_period <= self.now {
            self.end_period(index);
        }
    }

    /// Sends what a server planned, and looks at each datagram.
    pub(super) fn drain_server(&mut self, index: usize) -> Sent {
        let mut outgoing = Vec::new();
        let node = &mut self.nodes[index];
        let (Some(server), Some(leaves)) = (&mut node.serving.server, &node.leaves) else {
            return Sent::default();
        };
        while let Some(transmit) = server.poll_transmit() {
            match transmit {
                Transmit::Datagram { to, bytes } => {
                    outgoing.push(Outgoing { to: ports(to), bytes: bytes.into() });
                }
                Transmit::Leaves { to, packets, leaves: list, segment } => {
                    let to = ports(to);
                    self.segment.resize(segment, 0);
                    for (position, packet) in packets.iter().enumerate() {
                        let out = &mut self.segment[..];
                        let len = wire::lay_out(packet, list, leaves, out);
                        out[len..].fill(0);
                        // Segments of one message are of one size but for the last.
                        let is_last = position + 1 == packets.len();
                        let bytes = if is_last { &out[..len] } else { out };
                        outgoing.push(Outgoing { to: to.clone(), bytes: bytes.into() });
                    }
                }
            }
        }
        while let Some(event) = server.poll_event() {
            node.serving.audience.note(event, node.serving.channel);
        }
        #[cfg(test)]
        if self.planted == Planted::OwnLeftOut {
            let to_group =
                outgoing.iter_mut().filter(|one: &&mut Outgoing| one.to.contains(&GROUP));
            to_group.for_each(|one| one.to = [GROUP].into());
        }
        #[cfg(test)]
        if self.nodes[index].serving.has_group {
            for one in &mut outgoing {
                one.bytes = crate::sim::bent::told(self.planted, group_address(), &one.bytes);
            }
        }
        let mut sent = Sent::default();
        for one in outgoing {
            self.look_at(index, &one, &mut sent);
            self.send_from_server(index, one);
        }
        sent
    }

    fn look_at(&mut self, index: usize, one: &Outgoing, sent: &mut Sent) {
        let Some((header, kind)) = kind_of(&one.bytes) else {
            let name = &self.names[index];
            return self.checks.fail("datagrams have a type", || format!("{name}: no type"));
        };
        let node = &mut self.nodes[index];
        let position = [
            DatagramType::Event,
            DatagramType::Tick,
            DatagramType::Response,
            DatagramType::Welcome,
        ];
        if node.kind == Kind::Origin && position.contains(&kind) {
            self.checks.watermark(Life(header.life.get()), header.watermark.get());
        }
        match kind {
            DatagramType::Event => {
                let (view, num) = (header.channel.get(), header.event_num.get());
                self.checks.event(&self.names[index], &mut node.serving.views, view, num);
                let filter = node.serving.view_filters.get(&view).filter(|_| !one.to.is_empty());
                let filter = filter.copied();
                self.look_at_recipients(index, view, &one.to);
                let Ok((_, Datagram::Event(leaves))) = wire::decode(&one.bytes) else { return };
                let ids = leaves.flatten().map(|leaf| leaf.data_loc_id().0);
                if let Some(filter) = filter {
                    sent.events.entry(filter).or_default().extend(ids);
                }
            }
            DatagramType::Tick => self.look_at_recipients(index, header.channel.get(), &one.to),
            _ => {
                match wire::decode(&one.bytes) {
                    Ok((_, Datagram::Welcome(body, group))) => {
                        one.to.iter().for_each(|to| self.look_at_welcome(index, *to, body, group));
                    }
                    Ok((_, Datagram::Response(_, leaves))) => {
                        let leaves = leaves.flatten();
                        let cells = leaves.map(|leaf| (leaf.data_loc_id().0, cell_of(&leaf)));
                        sent.repaired.extend(cells);
                    }
                    _ => {}
                }
                let len = one.bytes.len();
                sent.answers.extend(one.to.iter().map(|port| (*port, kind, len)));
            }
        }
    }

    fn send_from_server(&mut self, index: usize, one: Outgoing) {
        let told = kind_of(&one.bytes).and_then(|(header, kind)| {
            let closes = Flags(header.flags.get()).has(Flags::CLOSES_PERIOD);
            let tells = match kind {
                DatagramType::Event | DatagramType::Tick => closes,
                kind => kind == DatagramType::Response,
            };
            tells.then(|| self.nodes[index].serving.ends.last())
        });
        for to in one.to.iter().copied() {
            let path = (serving_port(index), to);
            if to == GROUP {
                let members = (0..self.nodes.len())
                    .filter(|index| self.nodes[*index].following.hearing.is_member)
                    .collect::<Vec<_>>();
                let path = (path.0, &members[..]);
                self.net.send_to_group(self.now, path, &one.bytes, told, &mut self.trace);
                continue;
            }
            self.net.send(self.now, path, one.bytes.clone(), told, &mut self.trace);
        }
    }
}
