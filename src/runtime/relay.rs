//! The serving side of a mirror: it hands its replica on.
//!
//! It keeps the tree id, life and revisions of its upstream. It listens from the
//! start, so that a wrong address is told at once, and serves as soon as there is a
//! replica. A new life or layout from upstream sends its clients to the door again.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::info;

use crate::layout::LayoutHash;
use crate::layout::Life;
use crate::layout::TreeId;
use crate::net::Offload;
use crate::runtime::adapter::TreeLeaves;
use crate::runtime::clock::Clock;
use crate::runtime::clock::Turn;
use crate::runtime::error::LoopError;
use crate::runtime::metrics::Counters;
use crate::runtime::options::OnReady;
use crate::runtime::options::RelayOptions;
use crate::runtime::options::ReloadableConfig;
use crate::runtime::outlet::Outlet;
use crate::runtime::poll::Poller;
use crate::runtime::poll::Source;
use crate::runtime::server_loop::Listen;
use crate::runtime::server_loop::RELAY;
use crate::runtime::server_loop::ServingSide;
use crate::runtime::server_loop::check_capacities;
use crate::sync::Leaves;
use crate::sync::PeriodEnd;
use crate::sync::Reports;
use crate::sync::Time;

/// What a relay's clients were told of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity(TreeId, Life, LayoutHash);

impl Identity {
    fn of(leaves: &TreeLeaves) -> Identity {
        Identity(leaves.tree_id(), leaves.life(), leaves.layout_hash())
    }
}

/// A relay, before and after there is something to serve.
pub(super) struct Relay {
    live: Arc<ArcSwap<ReloadableConfig>>,
    listen: Listen,
    stage: Stage,
}

enum Stage {
    /// The socket is bound.
    Bound(Box<Outlet>, Option<OnReady>),
    /// Clients are served.
    Serving(Box<ServingSide>, Source, Identity),
    /// Only between the two, and after a failure.
    Over,
}

impl Relay {
    /// Binds the socket.
    pub(super) fn bind(options: RelayOptions) -> Result<Relay, LoopError> {
        let listen = Listen {
            address: options.listen,
            datagram_size: options.datagram_size,
            transport: options.transport,
            ring_size: options.ring_size,
            burst: options.burst,
            receive_buffer: options.receive_buffer,
            multicast: None,
            zerocopy: Offload::Off,
        };
        let outlet = listen.bind(&options.live.load())?;
        let stage = Stage::Bound(Box::new(outlet), options.on_ready);
        Ok(Relay { live: options.live, listen, stage })
    }

    /// Begins to serve if that is still to come, and sends the clients to the door if
    /// the tree is not the one that they were told of.
    pub(super) fn follow(
        &mut self,
        poller: &mut Poller,
        clock: Clock,
        upstream_datagram_size: usize,
        (end, leaves): (PeriodEnd, &mut TreeLeaves),
    ) -> Result<(), LoopError> {
        if let Stage::Bound(..) = self.stage {
            self.begin(poller, clock, upstream_datagram_size, (end, leaves))?;
        }
        let Stage::Serving(side, _, told) = &mut self.stage else { return Ok(()) };
        let found = Identity::of(leaves);
        if *told != found {
            *told = found;
            check_capacities(leaves.tree().layout(), side.datagram_size())?;
            info!("the tree has a new life or layout: clients are sent to join again");
            side.rejoin_all(end, leaves);
        }
        Ok(())
    }

    /// When the next turn is due though no datagram comes.
    pub(super) fn deadline(&self) -> Time {
        match &self.stage {
            Stage::Serving(side, ..) => side.deadline(),
            Stage::Bound(..) | Stage::Over => Time(u64::MAX),
        }
    }

    /// Takes what came from clients, and ends a period if it is time.
    pub(super) fn turn(
        &mut self,
        poller: &mut Poller,
        turn: Turn,
        end: PeriodEnd,
        leaves: &mut TreeLeaves,
    ) {
        if let Stage::Serving(side, source, _) = &mut self.stage {
            side.turn(poller, *source, turn, |_| end, leaves);
        }
    }

    /// Ends a period if it is time, between two batches from upstream.
    pub(super) fn tick(&mut self, end: PeriodEnd, leaves: &mut TreeLeaves) {
        if let Stage::Serving(side, ..) = &mut self.stage {
            side.tick(end, leaves);
        }
    }

    /// Takes over another configuration.
    pub(super) fn reconfigure(&mut self, config: ReloadableConfig) -> Result<(), LoopError> {
        self.listen.admits(&config)?;
        self.live.store(Arc::new(config));
        if let Stage::Serving(side, ..) = &mut self.stage {
            side.reconfigure();
        }
        Ok(())
    }

    /// Says goodbye to every client.
    pub(super) fn leave(&mut self, leaves: &TreeLeaves) {
        if let Stage::Serving(side, ..) = &mut self.stage {
            side.leave(leaves);
        }
    }

    /// Adds what the relay counts.
    pub(super) fn count(&self, counters: &mut Counters) {
        if let Stage::Serving(side, ..) = &self.stage {
            side.count(counters);
        }
    }

    fn begin(
        &mut self,
        poller: &mut Poller,
        clock: Clock,
        upstream_datagram_size: usize,
        (end, leaves): (PeriodEnd, &mut TreeLeaves),
    ) -> Result<(), LoopError> {
        let Stage::Bound(outlet, on_ready) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return Ok(());
        };
        // What came whole from upstream can be handed on whole.
        let size = self.listen.datagram_size.max(upstream_datagram_size);
        check_capacities(leaves.tree().layout(), size)?;
        let (live, kind) = (Arc::clone(&self.live), (RELAY, Reports::Refuse));
        let start = (end, &mut *leaves);
        let side = ServingSide::new(*outlet, live, kind, size, clock, start)?;
        let source = side.register(poller)?;
        let address = side.address()?;
        self.stage = Stage::Serving(Box::new(side), source, Identity::of(leaves));
        if let Some(on_ready) = on_ready {
            on_ready(address);
        }
        Ok(())
    }
}
