//! A mirror's membership in the multicast group of its view.
//!
//! The session says which group; the socket lives until another session names another
//! group. What cannot be joined is said, and EVENTs come to the mirror's own address.

use std::io;
use std::net::SocketAddr;

use tracing::info;
use tracing::warn;

use crate::net::Interface;
use crate::net::RecvBatch;
use crate::net::SocketOptions;
use crate::net::UdpSocket;
use crate::runtime::buffers;
use crate::runtime::buffers::Asked;
use crate::runtime::clock::STRIDE;
use crate::runtime::error::MirrorError;
use crate::runtime::mirror_core::Core;
use crate::runtime::options::GroupWish;
use crate::runtime::outlet::Outlet;
use crate::runtime::outlet::trace_in;
use crate::runtime::poll::Poller;
use crate::runtime::poll::Source;
use crate::runtime::server_loop::buffered_max;
use crate::sync::Time;

/// The side of a mirror that listens to a group.
pub(super) struct GroupSide {
    wish: GroupWish,
    server: SocketAddr,
    receive_buffer: usize,
    /// The session that was looked at last.
    session_id: Option<u64>,
    member: Option<Member>,
}

struct Member {
    group: SocketAddr,
    socket: UdpSocket,
    source: Source,
    batch: RecvBatch,
    /// Datagrams that its receive buffer may hold.
    buffered_max: usize,
}

impl GroupSide {
    pub(super) fn new(wish: GroupWish, server: SocketAddr, receive_buffer: usize) -> GroupSide {
        GroupSide { wish, server, receive_buffer, session_id: None, member: None }
    }

    /// Joins the group of a session that is new, if it has one and it is wanted.
    pub(super) fn follow(
        &mut self,
        now: Time,
        poller: &mut Poller,
        outlet: &Outlet,
        core: &mut Core<'_>,
    ) {
        let GroupWish::Join(interface) = self.wish else { return };
        let joined = core.client.joined().copied();
        let session_id = joined.map(|joined| joined.session_id);
        if session_id == self.session_id {
            return;
        }
        self.session_id = session_id;
        let Some(joined) = joined else { return };
        let Some(group) = joined.group else {
            info!("{}: no multicast group for this view", self.server);
            return;
        };
        match self.join(poller, outlet, group, interface) {
            Ok(()) => core.client.listen(now),
            Err(error) => {
                warn!("cannot join the group {group}, EVENTs come without it: {error}");
            }
        }
    }

    /// Takes what the group brought, so far as it can have lain there: before what lies
    /// in the other socket, where answers speak of EVENTs that came by the group.
    pub(super) fn receive(
        &mut self,
        now: impl Fn() -> Time,
        poller: &mut Poller,
        outlet: &mut Outlet,
        core: &mut Core<'_>,
    ) -> Result<(), MirrorError> {
        let Some(member) = &mut self.member else { return Ok(()) };
        let mut read = 0;
        while poller.is_ready(member.source) && read <= member.buffered_max {
            // A socket without a peer is told of no errors.
            let count = member.socket.receive(&mut member.batch).unwrap_or(0);
            let emptied = count == 0 || member.batch.emptied_queue();
            read += count;
            let mut time = now();
            for (index, (from, datagram)) in member.batch.iter().enumerate() {
                if index % STRIDE == STRIDE - 1 {
                    time = now();
                }
                trace_in(from, datagram);
                core.handle_group_datagram(time, from, datagram, outlet)?;
            }
            if emptied {
                poller.drained(member.source);
                break;
            }
        }
        Ok(())
    }

    /// What the socket counts, if there is one.
    pub(super) fn socket(&self) -> Option<&UdpSocket> {
        self.member.as_ref().map(|member| &member.socket)
    }

    fn join(
        &mut self,
        poller: &mut Poller,
        outlet: &Outlet,
        group: SocketAddr,
        interface: Interface,
    ) -> io::Result<()> {
        if self.member.as_ref().is_some_and(|member| member.group == group) {
            return Ok(());
        }
        if let Some(former) = self.member.take() {
            // It is closed with its socket; nobody asks for it any more.
            poller.drained(former.source);
        }
        let local = outlet.socket.local_addr()?.ip();
        let options =
            SocketOptions { receive_buffer: self.receive_buffer, ..SocketOptions::default() };
        let socket = UdpSocket::join_group(group, local, interface, &options)?;
        buffers::check(
            "the group's socket",
            &socket,
            Asked { receive: self.receive_buffer, send: 0 },
        );
        let source = poller.add(&socket)?;
        info!("{}: joined the group {group}", self.server);
        let buffered_max = buffered_max(&socket);
        let batch = RecvBatch::default();
        self.member = Some(Member { group, socket, source, batch, buffered_max });
        Ok(())
    }
}
