//! What a mirror does with datagrams: client, replica and observer together.
//!
//! The loop around it is `mirror`'s. Here the protocol client is driven, its events
//! are acted on (a layout makes the replica, or makes it grow), and the observer is
//! told.

use std::net::SocketAddr;
use std::ops::ControlFlow;

use tracing::info;

use crate::bridge::held_up_to;
use crate::layout::CHANGES_ROOM;
use crate::layout::DataLocId;
use crate::runtime::adapter::Following;
use crate::runtime::adapter::Noting;
use crate::runtime::adapter::TreeLeaves;
use crate::runtime::error::MirrorError;
use crate::runtime::keeper::Keeper;
use crate::runtime::loss::Dropper;
use crate::runtime::loss::Loss;
use crate::runtime::mirror::MirrorEnd;
use crate::runtime::observer::Changes;
use crate::runtime::observer::GroupState;
use crate::runtime::observer::MirrorObserver;
use crate::runtime::observer::MirrorStatus;
use crate::runtime::options::MirrorUntil;
use crate::runtime::outlet::NoLeaves;
use crate::runtime::outlet::Outlet;
use crate::sync::Client;
use crate::sync::ClientEvent;
use crate::sync::Joined;
use crate::sync::Leaves;
use crate::sync::PeriodEnd;
use crate::sync::ReplicaLeaves;
use crate::sync::SourceState;
use crate::sync::Time;

/// The protocol client with its replica, and who watches them.
pub(super) struct Core<'o> {
    pub(super) client: Client,
    pub(super) keeper: Keeper,
    observer: &'o mut dyn MirrorObserver,
    how: Following,
    changes: Changes,
    until: MirrorUntil,
    /// Whether there ever was a session.
    pub(super) was_joined: bool,
    /// The session in which the replica follows the server.
    pub(super) attached: Option<Joined>,
    taken: Vec<DataLocId>,
    /// Loses datagrams on purpose, where that is wanted.
    dropper: Option<Dropper>,
    /// Why the mirror is to end.
    pub(super) end: Option<MirrorEnd>,
}

impl<'o> Core<'o> {
    pub(super) fn new(
        client: Client,
        keeper: Keeper,
        observer: &'o mut dyn MirrorObserver,
        how: Following,
        until: MirrorUntil,
    ) -> Core<'o> {
        Core {
            client,
            keeper,
            changes: observer.changes(),
            observer,
            how,
            until,
            was_joined: false,
            attached: None,
            taken: Vec::new(),
            dropper: None,
            end: None,
        }
    }

    /// The same, losing datagrams.
    pub(super) fn with_loss(mut self, loss: Option<Loss>) -> Core<'o> {
        self.dropper = loss.map(Loss::dropper);
        self
    }

    pub(super) fn handle_datagram(
        &mut self,
        now: Time,
        datagram: &[u8],
        outlet: &mut Outlet,
    ) -> Result<(), MirrorError> {
        if self.dropper.as_mut().is_some_and(Dropper::drops) {
            return Ok(());
        }
        self.client.handle_datagram(now, datagram, self.keeper.leaves_mut());
        self.drain(now, outlet)
    }

    /// Takes one datagram that came by the multicast group from `from`. Only what
    /// the server sent is believed.
    pub(super) fn handle_group_datagram(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &[u8],
        outlet: &mut Outlet,
    ) -> Result<(), MirrorError> {
        let server = self.keeper.server();
        // Beside IPv6 addresses stands the interface that they came by.
        if (from.ip(), from.port()) != (server.ip(), server.port()) {
            self.client.note_group_stranger();
            return Ok(());
        }
        if self.dropper.as_mut().is_some_and(Dropper::drops) {
            return Ok(());
        }
        self.client.handle_group_datagram(now, datagram, self.keeper.leaves_mut());
        self.drain(now, outlet)
    }

    pub(super) fn handle_timeout(
        &mut self,
        now: Time,
        outlet: &mut Outlet,
    ) -> Result<(), MirrorError> {
        if self.client.poll_timeout().is_some_and(|due| due <= now) {
            self.client.handle_timeout(now, self.keeper.leaves_mut());
        }
        self.drain(now, outlet)
    }

    /// Sends what the client planned, at once: a REQUEST that waited for the end of a
    /// batch would leave the server idle. Does what its events ask for.
    pub(super) fn drain(&mut self, now: Time, outlet: &mut Outlet) -> Result<(), MirrorError> {
        loop {
            while let Some(transmit) = self.client.poll_transmit() {
                if !self.dropper.as_mut().is_some_and(Dropper::drops) {
                    outlet.send(transmit, &NoLeaves);
                }
            }
            outlet.flush();
            match self.client.poll_event() {
                None => return Ok(()),
                Some(event) => self.handle_event(now, event)?,
            }
        }
    }

    fn handle_event(&mut self, now: Time, event: ClientEvent) -> Result<(), MirrorError> {
        match event {
            ClientEvent::Joined(joined) => self.joined(now, joined),
            ClientEvent::Layout => self.layout_came(now)?,
            ClientEvent::Refused(error) => {
                self.observer.refused(&error);
                return Err(self.keeper.refused(error));
            }
            ClientEvent::Rejoining => {
                info!("{}: the session is over, joining again", self.keeper.server());
                self.observer.rejoining();
            }
            ClientEvent::InSync => self.in_sync(),
            ClientEvent::OutOfSync => self.observer.out_of_sync(),
            ClientEvent::GroupHeard => self.observer.group(GroupState::Heard),
            ClientEvent::GroupSilent => self.observer.group(GroupState::Silent),
        }
        Ok(())
    }

    fn joined(&mut self, now: Time, joined: Joined) {
        self.was_joined = true;
        info!("{}: joined, life {}", self.keeper.server(), joined.life);
        self.observer.joined(&joined);
        if !self.keeper.has_layout_of(&joined) {
            // It is on its way.
            return;
        }
        match self.attached {
            Some(before) if before.layout_hash == joined.layout_hash => self.went_on(joined),
            _ => self.attach(now, joined),
        }
    }

    fn layout_came(&mut self, now: Time) -> Result<(), MirrorError> {
        let Some(joined) = self.client.joined().copied() else { return Ok(()) };
        self.keeper.take_layout(&joined, self.client.layout_blob())?;
        self.attach(now, joined);
        Ok(())
    }

    /// Gives the client the replica, at the start and when it has grown.
    fn attach(&mut self, now: Time, joined: Joined) {
        let held = match self.attached {
            None => self.keeper.held(),
            Some(before) => held_up_to(before.life, self.client.lasting_watermark()),
        };
        let Some(leaves) = self.keeper.leaves_mut() else { return };
        leaves.set_upstream_life_start(joined.life_start);
        self.client.attach(now, held, leaves);
        if self.changes == Changes::Wanted {
            self.taken.reserve(leaves.leaf_count().min(CHANGES_ROOM) as usize);
        }
        self.attached = Some(joined);
        self.observer.attached(leaves.tree());
    }

    /// The client goes on by itself with a replica of the same layout.
    fn went_on(&mut self, joined: Joined) {
        if let Some(leaves) = self.keeper.leaves_mut() {
            leaves.set_upstream_life_start(joined.life_start);
        }
        self.attached = Some(joined);
    }

    fn in_sync(&mut self) {
        self.tell_changes();
        if let Some(leaves) = self.keeper.leaves() {
            self.observer.in_sync(leaves.tree());
        }
        if self.until == MirrorUntil::InSync {
            self.end.get_or_insert(MirrorEnd::InSync);
        }
    }

    /// Tells the observer of leaves that were applied. Beside a relay they are those
    /// that it has sent on.
    pub(super) fn tell_changes(&mut self) {
        let Some(leaves) = self.keeper.leaves_mut().filter(|_| self.changes == Changes::Wanted)
        else {
            return;
        };
        self.taken.clear();
        match self.how.noting {
            Noting::On => leaves.take_noted(&mut self.taken),
            Noting::Off => leaves.tree_mut().take_changes(&mut self.taken),
        }
        tell(self.observer, leaves, &self.taken, &mut self.end);
    }

    pub(super) fn tell_progress(&mut self) {
        let status = self.status();
        let tree = self.keeper.leaves().map(TreeLeaves::tree);
        self.observer.progress(&status, tree);
    }

    /// Writes down in the file how far the replica has got.
    pub(super) fn save(&mut self) {
        let watermark = self.client.lasting_watermark();
        let leaves = self.keeper.leaves_mut().filter(|_| self.attached.is_some());
        if let (Some(leaves), Some(watermark)) = (leaves, watermark) {
            let life = leaves.life();
            leaves.follow(life, watermark);
        }
    }

    pub(super) fn status(&self) -> MirrorStatus {
        let progress = self.client.progress();
        let counters = self.client.counters();
        MirrorStatus {
            held_leaves: progress.held_leaves,
            wanted_leaves: progress.wanted_leaves,
            in_sync: self.client.is_in_sync(),
            watermark: self.client.watermark(),
            applied: counters.leaves_changed + counters.leaves_repaired,
        }
    }

    /// How far a relay may say that it is.
    pub(super) fn end_of_period(&self) -> PeriodEnd {
        let in_sync = self.client.is_in_sync();
        PeriodEnd {
            watermark: self.client.watermark(),
            source: if in_sync { SourceState::InSync } else { SourceState::Behind },
        }
    }
}

fn tell(
    observer: &mut dyn MirrorObserver,
    leaves: &TreeLeaves,
    taken: &[DataLocId],
    end: &mut Option<MirrorEnd>,
) {
    for leaf in taken {
        if end.is_some() {
            return;
        }
        if let ControlFlow::Break(()) = observer.changed(leaves.tree(), *leaf) {
            *end = Some(MirrorEnd::Observer);
        }
    }
}
