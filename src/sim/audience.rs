//! Who is to get the EVENTs of a server: an account of its own, made of what the clients
//! asked for (R45 and R46).

use std::collections::BTreeMap;

use crate::sim::network::GROUP;
use crate::sim::node::group_address;
use crate::sim::trace::node_of;
use crate::sim::world::World;
use crate::sync::Role;
use crate::sync::ServerEvent;
use crate::wire::Flags;
use crate::wire::GroupBody;
use crate::wire::Header;
use crate::wire::WelcomeBody;

/// What a replica asked for in its session.
#[derive(Clone, Copy, Debug)]
struct Asked {
    session_id: u64,
    /// Those of its last REQUEST.
    flags: Flags,
}

/// Replicas that have a session, by their ports.
#[derive(Debug, Default)]
pub(super) struct Audience {
    asked: BTreeMap<u16, Asked>,
}

impl Audience {
    pub(super) fn clear(&mut self) {
        self.asked.clear();
    }

    /// Something happened at the server after a datagram on this channel. A new session
    /// begins without the group.
    pub(super) fn note(&mut self, event: ServerEvent, channel: u64) {
        match event {
            ServerEvent::Joined { address, role: Role::Replica } => {
                let asked = Asked { session_id: channel, flags: Flags(0) };
                self.asked.insert(address.port(), asked);
            }
            ServerEvent::Joined { address, .. }
            | ServerEvent::Left { address }
            | ServerEvent::Expired { address } => {
                self.asked.remove(&address.port());
            }
            _ => {}
        }
    }

    /// A REQUEST came that the server takes, if it is of the session that there is.
    pub(super) fn asks(&mut self, port: u16, header: &Header) {
        let asked = self.asked.get_mut(&port);
        if let Some(asked) = asked.filter(|asked| asked.session_id == header.channel.get()) {
            asked.flags = Flags(header.flags.get());
        }
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.asked.keys().copied()
    }

    /// Who is to get what is sent to the view of these leaves, ascending.
    fn of_view(&self, filter: Option<usize>, is_group: bool, of: &[Option<usize>]) -> Vec<u16> {
        let mut all = Vec::new();
        let mut hears_group = false;
        let members = self.asked.iter().filter(|(port, _)| of[node_of(**port)] == filter);
        for (port, asked) in members {
            let listens = is_group && asked.flags.has(Flags::GROUP_WANTED);
            hears_group |= listens;
            if !(listens && asked.flags.has(Flags::GROUP_HEARD)) {
                all.push(*port);
            }
        }
        all.extend(hears_group.then_some(GROUP));
        all.sort_unstable();
        all
    }
}

impl World {
    /// An EVENT or TICK goes to those who asked for it, each once, and to the group while
    /// somebody listens.
    pub(super) fn look_at_recipients(&mut self, index: usize, view: u64, to: &[u16]) {
        let serving = &self.nodes[index].serving;
        let Some(filter) = serving.view_filters.get(&view) else { return };
        let is_group = serving.has_group && filter.is_none();
        let wanted = serving.audience.of_view(*filter, is_group, &self.filters);
        let mut found = to.to_vec();
        found.sort_unstable();
        let counted = &mut self.checks.counted;
        counted.group_sent += u64::from(found.contains(&GROUP));
        if found != wanted {
            let name = &self.names[index];
            self.checks.fail("EVENTs go to who asked for them", || {
                format!("{name}: view {view:016x} to {to:?}, wanted {wanted:?}")
            });
        }
    }

    /// A WELCOME names the group to those of the view of the whole tree, and to no others.
    pub(super) fn look_at_welcome(
        &mut self,
        index: usize,
        to: u16,
        welcome: &WelcomeBody,
        group: Option<&GroupBody>,
    ) {
        let serving = &mut self.nodes[index].serving;
        let view = welcome.view_id.get();
        let filter = self.filters.get(node_of(to)).copied().flatten();
        // A device has no view.
        if view != 0 {
            serving.view_filters.insert(view, filter);
        }
        let is_group = serving.has_group && filter.is_none() && view != 0;
        let wanted = is_group.then(group_address);
        let found = group.and_then(GroupBody::group);
        if found != wanted {
            let name = &self.names[index];
            self.checks.fail("WELCOME names the group of the view", || {
                format!("{name}: {found:?} to port {to}, wanted {wanted:?}")
            });
        }
    }
}
