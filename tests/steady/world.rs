//! Loops in threads of their own, each with a ledger.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Life;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::runtime::Board;
use mapleaf::runtime::Changes;
use mapleaf::runtime::Control;
use mapleaf::runtime::Counters;
use mapleaf::runtime::MirrorObserver;
use mapleaf::runtime::MirrorOptions;
use mapleaf::runtime::RelayOptions;
use mapleaf::runtime::ReloadableConfig;
use mapleaf::runtime::Reporter;
use mapleaf::runtime::ReporterOptions;
use mapleaf::runtime::ServeOptions;
use mapleaf::runtime::Stop;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Layout;
use mapleaf::tree::Tree;

use super::allocator::Ledger;
use super::support::WATCHDOG;

/// Held by a test whose server has threads that send: what those allocate is counted
/// for the whole process.
pub(crate) fn alone_with_senders() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loop that runs in a thread.
pub(crate) struct Running {
    pub(crate) name: String,
    /// Where it listens, if it does.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) ledger: &'static Ledger,
    pub(crate) board: Arc<Board>,
    pub(crate) seen: Arc<Seen>,
    stop: Stop,
    thread: JoinHandle<Counters>,
}

/// What an observer saw of a mirror.
#[derive(Default)]
pub(crate) struct Seen {
    in_sync: AtomicBool,
    /// Leaves that changed, where the observer wants to know.
    pub(crate) changes: AtomicU64,
}

impl Seen {
    pub(crate) fn is_in_sync(&self) -> bool {
        self.in_sync.load(Ordering::SeqCst)
    }
}

struct Observer(Arc<Seen>, Changes);

impl MirrorObserver for Observer {
    fn changes(&self) -> Changes {
        self.1
    }

    fn changed(&mut self, _: &Tree, _: DataLocId) -> ControlFlow<()> {
        self.0.changes.fetch_add(1, Ordering::SeqCst);
        ControlFlow::Continue(())
    }

    fn in_sync(&mut self, _: &Tree) {
        self.0.in_sync.store(true, Ordering::SeqCst);
    }

    fn out_of_sync(&mut self) {
        self.0.in_sync.store(false, Ordering::SeqCst);
    }
}

impl Running {
    fn start(
        name: &str,
        listens: bool,
        run: impl FnOnce(Control, Arc<Seen>, mpsc::Sender<SocketAddr>) -> Counters + Send + 'static,
    ) -> Running {
        let control = Control::new().unwrap();
        let (stop, board) = (control.stop_handle(), control.board());
        let (ledger, seen) = (Ledger::new(), Arc::new(Seen::default()));
        let (ready, addresses) = mpsc::channel();
        let watched = Arc::clone(&seen);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            ledger.open();
            let counters = run(control, watched, ready);
            Ledger::close();
            counters
        });
        let address = listens.then(|| addresses.recv_timeout(WATCHDOG).expect("it is ready"));
        let (name, thread) = (name.to_owned(), thread.unwrap());
        Running { name, address, ledger, board, seen, stop, thread }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("it listens")
    }

    /// Ends the loop in good order and gives what it counted.
    pub(crate) fn end(self) -> Counters {
        self.stop.stop();
        self.thread.join().expect("no loop panics")
    }
}

fn on_ready(ready: mpsc::Sender<SocketAddr>) -> Option<Box<dyn FnOnce(SocketAddr) + Send>> {
    Some(Box::new(move |address| {
        let _ = ready.send(address);
    }))
}

/// A new tree in a folder.
pub(crate) fn create(path: PathBuf, schema: &str) -> PathBuf {
    let layout = Layout::from_toml(schema).unwrap();
    let (role, tree_id) = (TreeRole::Server, TreeId(7));
    let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
    Tree::create(&path, layout, options).unwrap().close().unwrap();
    path
}

/// Settings with this period.
pub(crate) fn every(period: Duration) -> ReloadableConfig {
    ReloadableConfig { period, ..ReloadableConfig::default() }
}

/// A server of a tree.
pub(crate) fn serve(tree: PathBuf, config: ReloadableConfig) -> Running {
    serve_with(tree, config, |_| ())
}

/// A server of a tree, with the options that `change` makes of the usual ones.
pub(crate) fn serve_with(
    tree: PathBuf,
    config: ReloadableConfig,
    change: impl FnOnce(&mut ServeOptions) + Send + 'static,
) -> Running {
    Running::start("server", true, move |control, _, ready| {
        let mut options = ServeOptions::new(tree);
        change(&mut options);
        options.live.store(Arc::new(config));
        options.on_ready = on_ready(ready);
        mapleaf::runtime::serve(options, control).expect("it serves").counters
    })
}

/// A mirror, with the options that `change` makes of the usual ones.
pub(crate) fn mirror(
    name: &str,
    server: SocketAddr,
    changes: Changes,
    change: impl FnOnce(&mut MirrorOptions) + Send + 'static,
) -> Running {
    Running::start(name, false, move |control, seen, _| {
        let mut options = MirrorOptions::new(server);
        change(&mut options);
        let end = mapleaf::runtime::mirror(options, control, &mut Observer(seen, changes));
        end.expect("it mirrors").counters
    })
}

/// A mirror that serves its copy on.
pub(crate) fn relay(server: SocketAddr, config: ReloadableConfig) -> Running {
    Running::start("relay", true, move |control, seen, ready| {
        let mut options = MirrorOptions::new(server);
        let relay = RelayOptions { on_ready: on_ready(ready), ..RelayOptions::default() };
        relay.live.store(Arc::new(config));
        options.serve = Some(relay);
        let end = mapleaf::runtime::mirror(options, control, &mut Observer(seen, Changes::Wanted));
        end.expect("it mirrors").counters
    })
}

/// A device that reports all the time, until it is dropped.
pub(crate) struct Reports {
    end: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Reports {
    /// Reports every leaf of `leaves` round after round, with this pause between two
    /// leaves, `len` bytes of Data each.
    pub(crate) fn start(
        server: SocketAddr,
        leaves: std::ops::Range<u32>,
        len: usize,
        pause: Duration,
    ) -> Reports {
        let end: Arc<AtomicBool> = Arc::default();
        let (acknowledged, rounds): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let (until, count) = (Arc::clone(&end), Arc::clone(&acknowledged));
        let told = Arc::clone(&rounds);
        let thread = thread::spawn(move || {
            let mut options = ReporterOptions::new(server);
            options.report_timeout = WATCHDOG;
            let mut reporter = Reporter::connect(options).expect("the server is there");
            let mut number = 0_u64;
            while !until.load(Ordering::Relaxed) {
                for leaf in leaves.clone() {
                    number += 1;
                    let data = number.to_le_bytes().repeat(len.div_ceil(8));
                    reporter.report(DataLocId(leaf), &data[..len]).expect("it is taken");
                    if !pause.is_zero() {
                        reporter.poll(pause).expect("the session goes on");
                    }
                    count.store(reporter.acknowledged(), Ordering::Relaxed);
                }
                reporter.flush(WATCHDOG).expect("all is acknowledged");
                count.store(reporter.acknowledged(), Ordering::Relaxed);
                told.fetch_add(1, Ordering::Relaxed);
            }
            reporter.close();
        });
        Reports { end, acknowledged, rounds, thread: Some(thread) }
    }

    /// Leaves that were written.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Times that all leaves were reported and acknowledged.
    pub(crate) fn rounds(&self) -> u64 {
        assert!(!self.thread.as_ref().is_some_and(JoinHandle::is_finished), "the reports ended");
        self.rounds.load(Ordering::Relaxed)
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the device failed");
        }
    }
}
