//! The device's side for ordinary code: connect, report, flush, close.
//!
//! Everything happens in the calls, in the caller's thread. Between them nothing is
//! sent or received, so a device that has nothing to report calls
//! [`Reporter::poll`] now and then, or is joined again when it next reports.

use std::time::Duration;

use tracing::debug;
use tracing::info;

use crate::layout::DataLocId;
use crate::net::RecvBatch;
use crate::runtime::clock::Clock;
use crate::runtime::clock::OsRandom;
use crate::runtime::clock::Turn;
use crate::runtime::control::Control;
use crate::runtime::error::LoopError;
use crate::runtime::error::ReporterError;
use crate::runtime::metrics::Counters;
use crate::runtime::mirror::connected;
use crate::runtime::options::LayoutPull;
use crate::runtime::options::RECEIVE_BUFFER_DEFAULT;
use crate::runtime::options::ReporterOptions;
use crate::runtime::outlet::NoLeaves;
use crate::runtime::outlet::Outlet;
use crate::runtime::outlet::OutletParts;
use crate::runtime::outlet::trace_in;
use crate::runtime::poll::Poller;
use crate::runtime::poll::Source;
use crate::sync::Device;
use crate::sync::DeviceConfig;
use crate::sync::DeviceEvent;
use crate::sync::JoinError;
use crate::sync::LayoutWish;
use crate::sync::ReportError;
use crate::tree::Layout;
use crate::wire::RefusalReason;

/// Names under which a device's socket counts.
const PARTS: OutletParts = OutletParts { socket: "socket", ring: "ring", arena: "arena" };

/// A leaf that the server did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The leaf.
    pub leaf: DataLocId,
    /// Why.
    pub reason: RefusalReason,
    /// The number that the reason speaks of: leaves of the tree, or the capacity.
    pub detail: u32,
}

/// A device that reports changes of its leaves to a server.
///
/// Dropping it leaves the session to run out; [`Reporter::close`] ends it.
pub struct Reporter {
    options: ReporterOptions,
    control: Control,
    clock: Clock,
    poller: Poller,
    source: Source,
    outlet: Outlet,
    batch: RecvBatch,
    device: Device,
    layout: Option<Layout>,
    /// The leaf that waits to be taken.
    in_hand: Option<DataLocId>,
    refusals: Vec<Refusal>,
    acknowledged: u64,
    failed: Option<JoinError>,
}

impl Reporter {
    /// Opens a session, and pulls the layout if it is wanted.
    ///
    /// # Errors
    /// The server refuses, or does not answer in `connect_timeout`.
    pub fn connect(options: ReporterOptions) -> Result<Reporter, ReporterError> {
        let control = Control::new().map_err(LoopError::system("make a pipe"))?;
        Reporter::connect_with(options, control)
    }

    /// The same; the control ends every wait, with [`ReporterError::Stopped`].
    ///
    /// # Errors
    /// The server refuses, or does not answer in `connect_timeout`.
    pub fn connect_with(
        options: ReporterOptions,
        control: Control,
    ) -> Result<Reporter, ReporterError> {
        let mut reporter = Reporter::new(options, control)?;
        let ReporterOptions { server, connect_timeout, .. } = reporter.options;
        match reporter.wait_until(connect_timeout, |reporter| reporter.is_connected())? {
            None => Ok(reporter),
            Some(waited) => Err(ReporterError::Unreachable { server, waited }),
        }
    }

    fn new(options: ReporterOptions, control: Control) -> Result<Reporter, ReporterError> {
        let system = LoopError::system;
        let socket = connected(options.server, RECEIVE_BUFFER_DEFAULT)?;
        let random = OsRandom::new().map_err(system("draw random numbers"))?;
        let mut poller = Poller::new(options.waiting, &control).map_err(system("make a poll"))?;
        let source = poller.add(&socket).map_err(system("watch the socket"))?;
        let layout = match options.layout {
            LayoutPull::Pull => LayoutWish::Pull,
            LayoutPull::Skip => LayoutWish::Skip,
        };
        let clock = Clock::start();
        let device =
            Device::new(DeviceConfig { layout, tree_id: None }, Box::new(random), clock.now());
        Ok(Reporter {
            options,
            control,
            clock,
            poller,
            source,
            outlet: Outlet::of_client(socket),
            batch: RecvBatch::default(),
            device,
            layout: None,
            in_hand: None,
            refusals: Vec::new(),
            acknowledged: 0,
            failed: None,
        })
    }

    /// The layout of the server's tree, if it was asked for. It follows the tree's
    /// growth when the session is opened anew.
    pub fn layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
    }

    /// Takes one leaf into the next REPORT. It is sent when a datagram is full, and
    /// with [`Reporter::flush`] or [`Reporter::poll`]; it waits while the window of
    /// unacknowledged REPORTs is full.
    ///
    /// # Errors
    /// Data does not fit a datagram, or nothing was acknowledged in
    /// `report_timeout`. The leaf is not reported then.
    pub fn report(&mut self, leaf: DataLocId, data: &[u8]) -> Result<(), ReporterError> {
        let timeout = self.options.report_timeout;
        let begun = self.clock.now();
        let mut now = begun;
        self.in_hand = Some(leaf);
        // The tree may grow while it waits, and the leaf move.
        while let Some(leaf) = self.in_hand {
            match self.device.report(now, leaf, data) {
                Ok(()) => return self.drain(),
                Err(ReportError::TooLarge { expected: max, found }) => {
                    return Err(ReporterError::TooLarge { leaf, max, found });
                }
                Err(ReportError::Full | ReportError::NotJoined) => {}
            }
            let waited = now.since(begun);
            if waited >= timeout {
                return Err(ReporterError::TimedOut { server: self.options.server, waited });
            }
            self.turn(timeout - waited)?;
            now = self.clock.now();
        }
        let detail = self.layout.as_ref().map_or(0, Layout::leaf_count);
        self.refusals.push(Refusal { leaf, reason: RefusalReason::UnknownLeaf, detail });
        Ok(())
    }

    /// Sends what was taken, and waits until all is acknowledged.
    ///
    /// # Errors
    /// Something was not acknowledged in this time, the server refuses the device, or
    /// the control asked to end.
    pub fn flush(&mut self, timeout: Duration) -> Result<(), ReporterError> {
        // What waits for room in the window is sent as soon as there is some.
        let done = |reporter: &mut Reporter| {
            reporter.device.flush(reporter.clock.now());
            reporter.device.is_idle()
        };
        match self.wait_until(timeout, done)? {
            None => Ok(()),
            Some(waited) => Err(ReporterError::TimedOut { server: self.options.server, waited }),
        }
    }

    /// Sends what was taken, and keeps the session for so long, or until something
    /// came.
    ///
    /// # Errors
    /// The server refuses the device, or the control asked to end.
    pub fn poll(&mut self, wait: Duration) -> Result<(), ReporterError> {
        let begun = self.clock.now();
        loop {
            self.device.flush(self.clock.now());
            let waited = self.clock.now().since(begun);
            let came = self.turn(wait.saturating_sub(waited))?;
            if came > 0 || waited >= wait {
                return Ok(());
            }
        }
    }

    /// Whether everything reported is acknowledged.
    pub fn is_idle(&self) -> bool {
        self.device.is_idle()
    }

    /// Gives the leaves that the server refused since the last call.
    pub fn refusals(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refusals)
    }

    /// Every report up to this number, counted from 1 in the order in which they were
    /// made, was written or refused, or newer data of its leaf was.
    pub fn acknowledged_through(&self) -> u64 {
        self.device.acknowledged_through()
    }

    /// Leaves that the server has written so far, those that newer data replaced
    /// before they were sent included.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        counters.add("device", self.device.counters().entries());
        self.outlet.count(PARTS, &mut counters);
        counters
    }

    /// Says goodbye. What is not acknowledged may be lost: [`Reporter::flush`] comes
    /// first.
    pub fn close(mut self) -> Counters {
        self.device.leave();
        // A server that refuses now has nothing to refuse any more.
        let _ = self.drain();
        self.outlet.flush();
        self.counters()
    }

    fn is_connected(&self) -> bool {
        let wants_layout = self.options.layout == LayoutPull::Pull;
        self.device.joined().is_some() && !(wants_layout && self.layout.is_none())
    }

    /// Turns until `done`, and gives the time that it took if that was too long.
    fn wait_until(
        &mut self,
        timeout: Duration,
        done: impl Fn(&mut Reporter) -> bool,
    ) -> Result<Option<Duration>, ReporterError> {
        let begun = self.clock.now();
        let deadline = begun.after(timeout);
        loop {
            self.drain()?;
            if done(self) {
                self.outlet.flush();
                return Ok(None);
            }
            let now = self.clock.now();
            if now >= deadline {
                return Ok(Some(now.since(begun)));
            }
            self.turn(deadline.since(now))?;
        }
    }

    /// Waits once, takes what came, and then looks at the clock. Gives the number of
    /// datagrams that came.
    fn turn(&mut self, wait: Duration) -> Result<usize, ReporterError> {
        if self.control.is_stopped() {
            return Err(ReporterError::Stopped);
        }
        self.drain()?;
        self.outlet.flush();
        let latest = self.clock.now().after(wait);
        let deadline = self.device.poll_timeout().map_or(latest, |due| due.min(latest));
        let turn = Turn::begin(self.clock, deadline);
        let waited = self.poller.wait(turn.timeout(), &self.control);
        waited.map_err(LoopError::system("wait for datagrams"))?;
        let came = self.receive();
        let now = turn.time_of_timers(self.clock);
        if self.device.poll_timeout().is_some_and(|due| due <= now) {
            self.device.handle_timeout(now);
        }
        self.drain()?;
        self.outlet.flush();
        Ok(came)
    }

    fn receive(&mut self) -> usize {
        let mut came = 0;
        // Answers to one window are few, so this ends.
        while self.poller.is_ready(self.source) {
            match self.outlet.socket.receive(&mut self.batch) {
                Ok(count) => {
                    came += count;
                    let now = self.clock.now();
                    for (from, datagram) in &self.batch {
                        trace_in(from, datagram);
                        self.device.handle_datagram(now, datagram);
                        send_all(&mut self.device, &mut self.outlet);
                    }
                    if self.batch.emptied_queue() {
                        self.poller.drained(self.source);
                        break;
                    }
                }
                Err(_) => self.device.handle_unreachable(self.clock.now()),
            }
        }
        came
    }

    fn drain(&mut self) -> Result<(), ReporterError> {
        send_all(&mut self.device, &mut self.outlet);
        while let Some(event) = self.device.poll_event() {
            self.handle_event(event)?;
        }
        match self.failed {
            None => Ok(()),
            Some(source) => Err(ReporterError::Refused { server: self.options.server, source }),
        }
    }

    /// Takes a layout over. What is not acknowledged moves with its leaves.
    fn follow(&mut self, layout: Layout) {
        let now = self.clock.now();
        match &self.layout {
            // Without a layout nothing was reported yet.
            None => self.device.renumber(now, Some),
            Some(before) => {
                let place = place_in(&layout, before);
                self.in_hand = self.in_hand.and_then(&place);
                self.device.renumber(now, place);
            }
        }
        send_all(&mut self.device, &mut self.outlet);
        self.layout = Some(layout);
    }

    fn handle_event(&mut self, event: DeviceEvent) -> Result<(), ReporterError> {
        let server = self.options.server;
        match event {
            DeviceEvent::Joined(joined) => debug!("{server}: joined, life {}", joined.life),
            DeviceEvent::Layout => {
                let layout = Layout::from_blob(self.device.layout_blob())
                    .map_err(Box::new)
                    .map_err(|source| ReporterError::Layout { server, source })?;
                self.follow(layout);
            }
            DeviceEvent::Refused(error) => self.failed = Some(error),
            DeviceEvent::Rejoining => info!("{server}: the session is over, joining again"),
            DeviceEvent::LeafRefused { leaf, reason, detail } => {
                self.refusals.push(Refusal { leaf, reason, detail });
            }
            DeviceEvent::Acknowledged { leaves } => self.acknowledged += leaves,
        }
        Ok(())
    }
}

/// Where a leaf of a layout lies in a later one: by its place in its parent if that
/// only grew, else by its path.
fn place_in(new: &Layout, old: &Layout) -> impl Fn(DataLocId) -> Option<DataLocId> {
    let growth = new.extends(old).ok();
    move |leaf| match &growth {
        Some(growth) => growth.new_leaf(leaf),
        None => new.leaf_at(&old.path_of(leaf)?),
    }
}

fn send_all(device: &mut Device, outlet: &mut Outlet) {
    while let Some(transmit) = device.poll_transmit() {
        outlet.send(transmit, &NoLeaves);
    }
}
