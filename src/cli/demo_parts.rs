//! The server and the replicas of a demo, each in a thread of its own.

use core::time::Duration;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::channel;
use std::thread;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use anyhow::anyhow;
use anyhow::bail;

use mapleaf::layout::Revision;
use mapleaf::runtime;
use mapleaf::runtime::Board;
use mapleaf::runtime::Control;
use mapleaf::runtime::Counters;
use mapleaf::runtime::MirrorObserver;
use mapleaf::runtime::MirrorOptions;
use mapleaf::runtime::MirrorReport;
use mapleaf::runtime::MirrorStatus;
use mapleaf::runtime::OnReady;
use mapleaf::runtime::RelayOptions;
use mapleaf::runtime::ServeOptions;
use mapleaf::runtime::ServeReport;
use mapleaf::runtime::Stop;
use mapleaf::tree::Tree;

use crate::cli::demo_world::Interrupted;
use crate::cli::proxy::Passed;
use crate::cli::proxy::Proxy;
use crate::cli::proxy::Weather;

/// How long a server or relay may take to listen: a relay joins and copies first,
/// through a path that loses most of it.
const READY_WATCHDOG: Duration = Duration::from_secs(60);

/// How often a wait looks whether a signal came.
const LOOK: Duration = Duration::from_millis(50);

/// Event ring of a demo: its periods are small, and there are several rings.
const RING_SIZE: usize = 8 << 20;

/// A loop of the runtime in a thread, ended when it is dropped.
struct Looping<T> {
    stop: Stop,
    thread: Option<JoinHandle<anyhow::Result<T>>>,
}

impl<T: Send + 'static> Looping<T> {
    fn start<F>(name: &str, stop: Stop, run: F) -> anyhow::Result<Looping<T>>
    where
        F: FnOnce() -> anyhow::Result<T> + Send + 'static,
    {
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .context("cannot start a thread")?;
        Ok(Looping { stop, thread: Some(thread) })
    }

    /// What went wrong, if it ended though nobody asked for that.
    fn check(&mut self) -> anyhow::Result<()> {
        match self.thread.take_if(|thread| thread.is_finished()) {
            None => Ok(()),
            Some(thread) => joined(thread)?.and_then(|_| bail!("ended early")),
        }
    }

    fn end(mut self) -> anyhow::Result<T> {
        self.stop.stop();
        joined(self.thread.take().context("ended early")?)?
    }
}

impl<T> Drop for Looping<T> {
    fn drop(&mut self) {
        self.stop.stop();
        // What it came to was asked for by whoever wanted to know.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A server in a thread.
pub(crate) struct ServerPart {
    file: PathBuf,
    address: SocketAddr,
    looping: Looping<ServeReport>,
}

impl ServerPart {
    /// Starts serving a tree on a port of its own.
    pub(crate) fn start(file: &Path) -> anyhow::Result<ServerPart> {
        let control = Control::new().context("cannot make a control")?;
        let (on_ready, ready) = announcing();
        let mut options = ServeOptions::new(file);
        options.ring_size = RING_SIZE;
        options.on_ready = Some(on_ready);
        let stop = control.stop_handle();
        let run = move || Ok(runtime::serve(options, control)?);
        let looping = Looping::start("server", stop, run)?;
        match ready.recv_timeout(READY_WATCHDOG) {
            Ok(address) => Ok(ServerPart { file: file.to_owned(), address, looping }),
            Err(RecvTimeoutError::Timeout) => bail!("not ready in {READY_WATCHDOG:?}"),
            // The thread ended before it was ready, and says why.
            Err(RecvTimeoutError::Disconnected) => {
                looping.end().and_then(|_| bail!("ended before it was ready"))
            }
        }
    }

    /// The tree file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What went wrong, if it ended early.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.looping.check().context("server")
    }

    /// Ends it.
    pub(crate) fn end(self) -> anyhow::Result<ServeReport> {
        self.looping.end().context("server")
    }
}

/// Who is behind a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayOf {
    /// Nobody.
    Nobody,
    /// The next replica.
    Next,
}

/// A replica in a thread, behind a proxy.
pub(crate) struct Replica {
    file: PathBuf,
    proxy: Proxy,
    status: Arc<Mutex<MirrorStatus>>,
    board: Arc<Board>,
    relay: Option<Receiver<SocketAddr>>,
    looping: Looping<MirrorReport>,
}

impl Replica {
    /// Starts a replica of what `upstream` serves.
    pub(crate) fn start(
        file: &Path,
        upstream: SocketAddr,
        weather: Weather,
        relay: RelayOf,
    ) -> anyhow::Result<Replica> {
        let proxy = Proxy::start(upstream, weather).context("cannot start a proxy")?;
        let control = Control::new().context("cannot make a control")?;
        let (stop, board) = (control.stop_handle(), control.board());
        let mut options = MirrorOptions::new(proxy.address());
        options.file = Some(file.to_owned());
        let relay = match relay {
            RelayOf::Nobody => None,
            RelayOf::Next => {
                let (relay, ready) = relaying();
                options.serve = Some(relay);
                Some(ready)
            }
        };
        let status = Arc::new(Mutex::new(MirrorStatus::default()));
        let mut noted = Noted(Arc::clone(&status));
        let run = move || Ok(runtime::mirror(options, control, &mut noted)?);
        let looping = Looping::start("replica", stop, run)?;
        Ok(Replica { file: file.to_owned(), proxy, status, board, relay, looping })
    }

    /// Where the relay listens, once it does.
    ///
    /// # Errors
    ///
    /// It does not in time, or [`Interrupted`].
    pub(crate) fn relay_address(&self, stop: &Stop) -> anyhow::Result<SocketAddr> {
        let ready = self.relay.as_ref().context("this replica is no relay")?;
        let begun = Instant::now();
        loop {
            match ready.recv_timeout(LOOK) {
                Ok(address) => return Ok(address),
                Err(RecvTimeoutError::Disconnected) => bail!("ended before it was ready"),
                Err(RecvTimeoutError::Timeout) if stop.is_stopped() => {
                    return Err(Interrupted.into());
                }
                Err(RecvTimeoutError::Timeout) if begun.elapsed() > READY_WATCHDOG => {
                    bail!("not ready in {READY_WATCHDOG:?}")
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Whether it is in sync, and knows of this revision.
    pub(crate) fn is_in_sync(&self, newest: Revision) -> bool {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.in_sync && status.watermark >= newest
    }

    /// What went wrong, if it ended early.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.looping.check().context("replica")
    }

    /// What it counted, a second ago at most.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        self.board.counters()
    }

    /// What its proxy did.
    pub(crate) fn passed(&self) -> Passed {
        self.proxy.passed()
    }

    /// Ends it, and gives its file.
    pub(crate) fn end(self) -> anyhow::Result<(PathBuf, MirrorReport)> {
        let Replica { file, proxy, looping, .. } = self;
        let report = looping.end().context("replica")?;
        drop(proxy);
        Ok((file, report))
    }
}

/// Notes where a replica stands.
struct Noted(Arc<Mutex<MirrorStatus>>);

impl MirrorObserver for Noted {
    fn progress(&mut self, status: &MirrorStatus, _tree: Option<&Tree>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = *status;
    }
}

/// A way for a loop to say where it listens.
fn announcing() -> (OnReady, Receiver<SocketAddr>) {
    let (sender, receiver) = channel();
    let on_ready = move |address| {
        // Nobody waits any more when everything is ended.
        let _ = sender.send(address);
    };
    (Box::new(on_ready), receiver)
}

/// A relay on a port of its own, and where it says which.
fn relaying() -> (RelayOptions, Receiver<SocketAddr>) {
    let (on_ready, ready) = announcing();
    let on_ready = Some(on_ready);
    (RelayOptions { ring_size: RING_SIZE, on_ready, ..RelayOptions::default() }, ready)
}

/// What a thread came to.
pub(crate) fn joined<T>(thread: JoinHandle<T>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))
}
