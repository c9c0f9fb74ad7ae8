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

/// A server in a thread.
pub(crate) struct ServerPart {
    file: PathBuf,
    address: SocketAddr,
    stop: Stop,
    thread: JoinHandle<anyhow::Result<ServeReport>>,
}

impl ServerPart {
    /// Starts serving a tree on a port of its own.
    pub(crate) fn start(file: &Path) -> anyhow::Result<ServerPart> {
        let control = Control::new().context("cannot make a control")?;
        let stop = control.stop_handle();
        let (on_ready, ready) = announcing();
        let mut options = ServeOptions::new(file);
        options.ring_size = RING_SIZE;
        options.on_ready = Some(on_ready);
        let thread = thread::Builder::new()
            .name("server".to_owned())
            .spawn(move || Ok(runtime::serve(options, control)?))
            .context("cannot start a thread")?;
        match ready.recv_timeout(READY_WATCHDOG) {
            Ok(address) => Ok(ServerPart { file: file.to_owned(), address, stop, thread }),
            Err(RecvTimeoutError::Timeout) => bail!("not ready in {READY_WATCHDOG:?}"),
            // The thread ended before it was ready.
            Err(RecvTimeoutError::Disconnected) => match joined(thread)? {
                Ok(_) => bail!("ended before it was ready"),
                Err(error) => Err(error),
            },
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

    /// Whether its thread came to an end.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it.
    pub(crate) fn end(self) -> anyhow::Result<ServeReport> {
        self.stop.stop();
        joined(self.thread)?
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
    stop: Stop,
    relay: Option<Receiver<SocketAddr>>,
    thread: JoinHandle<anyhow::Result<MirrorReport>>,
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
        let mut address = None;
        if relay == RelayOf::Next {
            let (on_ready, ready) = announcing();
            address = Some(ready);
            options.serve = Some(RelayOptions {
                ring_size: RING_SIZE,
                on_ready: Some(on_ready),
                ..RelayOptions::default()
            });
        }
        let status = Arc::new(Mutex::new(MirrorStatus::default()));
        let mut noted = Noted(Arc::clone(&status));
        let thread = thread::Builder::new()
            .name("replica".to_owned())
            .spawn(move || Ok(runtime::mirror(options, control, &mut noted)?))
            .context("cannot start a thread")?;
        Ok(Replica { file: file.to_owned(), proxy, status, board, stop, relay: address, thread })
    }

    /// Where the relay listens; nothing if a signal came meanwhile.
    pub(crate) fn relay_address(&self, stop: &Stop) -> anyhow::Result<Option<SocketAddr>> {
        let ready = self.relay.as_ref().context("this replica is no relay")?;
        let begun = Instant::now();
        while !stop.is_stopped() {
            match ready.recv_timeout(LOOK) {
                Ok(address) => return Ok(Some(address)),
                Err(RecvTimeoutError::Disconnected) => bail!("ended before it was ready"),
                Err(RecvTimeoutError::Timeout) if begun.elapsed() > READY_WATCHDOG => {
                    bail!("not ready in {READY_WATCHDOG:?}")
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Ok(None)
    }

    /// Whether it is in sync, and knows of this revision.
    pub(crate) fn is_in_sync(&self, newest: Revision) -> bool {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.in_sync && status.watermark >= newest
    }

    /// Whether its thread came to an end.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
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
        self.stop.stop();
        Ok((self.file, joined(self.thread)??))
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

/// What a thread came to.
pub(crate) fn joined<T>(thread: JoinHandle<T>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))
}
