//! Whole loops in threads over loopback: a server, mirrors, relays and devices.
//!
//! Each wait is bounded by a watchdog; no test asserts that something is fast.

mod feed;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::layout::DataLocId;
use crate::layout::LeafHead;
use crate::layout::Life;
use crate::layout::TreeId;
use crate::layout::TreeRole;
use crate::runtime::*;
use crate::tree::CreateOptions;
use crate::tree::Damaged;
use crate::tree::Layout;
use crate::tree::OpenOptions;
use crate::tree::Tree;
use crate::wire::RefusalReason;

/// A loaded machine is slow, but not as slow as this.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Waits until `done`, looking every few milliseconds.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < WATCHDOG, "waited too long: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A loop in its thread.
struct Running<T> {
    stop: Stop,
    board: Arc<Board>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Running<T> {
    fn start(work: impl FnOnce(Control) -> T + Send + 'static) -> Running<T> {
        let control = Control::new().unwrap();
        let (stop, board) = (control.stop_handle(), control.board());
        Running { stop, board, thread: Some(thread::spawn(move || work(control))) }
    }

    /// Stops the loop, unless it ends by itself, and gives what it returned.
    fn end(self) -> T {
        self.stop.stop();
        self.join()
    }

    fn join(mut self) -> T {
        let thread = self.thread.take().unwrap();
        wait_until("the loop ends", || thread.is_finished());
        thread.join().unwrap()
    }
}

/// A test that fails must not leave threads behind.
impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

type Server = Running<Result<ServeReport, ServeError>>;
type Mirror = Running<Result<MirrorReport, MirrorError>>;

fn serve_with(mut options: ServeOptions) -> (SocketAddr, Server) {
    let (tell, told) = mpsc::channel();
    options.on_ready = Some(Box::new(move |address| tell.send(address).unwrap()));
    options.ring_size = 1 << 20;
    let running = Running::start(move |control| serve(options, control));
    match told.recv_timeout(WATCHDOG) {
        Ok(address) => (address, running),
        Err(_) => panic!("{}", running.end().unwrap_err()),
    }
}

fn serve_file(tree: &Path, listen: SocketAddr) -> (SocketAddr, Server) {
    let config = ReloadableConfig { period: Duration::from_millis(5), ..Default::default() };
    let live = Arc::new(ArcSwap::from_pointee(config));
    serve_with(ServeOptions { listen, live, ..ServeOptions::new(tree) })
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Data of each leaf, and the last verdict, as an observer saw them.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<(Vec<Vec<u8>>, bool)>>);

impl Seen {
    fn equals(&self, expected: &[Vec<u8>]) -> bool {
        let (leaves, in_sync) = &*self.0.lock().unwrap();
        *in_sync && leaves == expected
    }
}

impl MirrorObserver for Seen {
    fn progress(&mut self, status: &MirrorStatus, tree: Option<&Tree>) {
        let leaves = tree.map(data_of).unwrap_or_default();
        *self.0.lock().unwrap() = (leaves, status.in_sync);
    }
}

fn data_of(tree: &Tree) -> Vec<Vec<u8>> {
    leaves_of(tree).into_iter().map(|(_, data)| data).collect()
}

fn leaves_of(tree: &Tree) -> Vec<(LeafHead, Vec<u8>)> {
    let mut data = Vec::new();
    let read = |leaf| (tree.read(DataLocId(leaf), &mut data).unwrap(), data.clone());
    (0..tree.leaf_count()).map(read).collect()
}

fn mirror_with(options: MirrorOptions, seen: &Seen) -> Mirror {
    let mut seen = seen.clone();
    Running::start(move |control| mirror(options, control, &mut seen))
}

/// A relay, and the address that it serves at.
fn relay_to(server: SocketAddr, file: &Path, seen: &Seen) -> (SocketAddr, Mirror) {
    let config = ReloadableConfig { period: Duration::from_millis(5), ..Default::default() };
    let live = Arc::new(ArcSwap::from_pointee(config));
    let relay = RelayOptions { ring_size: 1 << 20, live, ..Default::default() };
    relay_with(relay, server, file, seen)
}

fn relay_with(
    mut relay: RelayOptions,
    server: SocketAddr,
    file: &Path,
    seen: &Seen,
) -> (SocketAddr, Mirror) {
    let (tell, told) = mpsc::channel();
    relay.on_ready = Some(Box::new(move |address| tell.send(address).unwrap()));
    let mut options = MirrorOptions::new(server);
    (options.file, options.serve) = (Some(file.to_owned()), Some(relay));
    let running = mirror_with(options, seen);
    (told.recv_timeout(WATCHDOG).expect("the relay serves"), running)
}

fn reporter(server: SocketAddr) -> Reporter {
    let options = ReporterOptions {
        connect_timeout: WATCHDOG,
        report_timeout: WATCHDOG,
        ..ReporterOptions::new(server)
    };
    Reporter::connect(options).unwrap()
}

/// A folder with a tree of `leaves` empty leaves of 40 bytes.
struct Site {
    folder: tempfile::TempDir,
    model: Vec<Vec<u8>>,
}

impl Site {
    fn new(leaves: u32) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::plain(3, leaves, 40).unwrap();
        let (role, tree_id) = (TreeRole::Server, TreeId(77));
        let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
        let tree = Tree::create(&folder.path().join("server"), layout, options).unwrap();
        tree.close().unwrap();
        Site { folder, model: vec![Vec::new(); leaves as usize] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Reports `count` changes, each of another leaf, and waits for them.
    fn report(&mut self, server: SocketAddr, round: u32, count: u32) {
        let mut device = reporter(server);
        for number in 0..count {
            let leaf = (number * 7 + round) as usize % self.model.len();
            let data = format!("round {round} number {number}").into_bytes();
            device.report(DataLocId(leaf as u32), &data).unwrap();
            self.model[leaf] = data;
        }
        device.flush(WATCHDOG).unwrap();
        assert_eq!(device.acknowledged(), u64::from(count));
        assert!(device.refusals().is_empty());
        device.close();
    }

    /// Compares two closed files leaf by leaf, heads included.
    fn assert_equal(&self, one: &str, role: TreeRole, other: &str) {
        let open = |name: &str, role| {
            let options = OpenOptions { role, damaged: Damaged::Refuse, unix_s: 0 };
            Tree::open(&self.path(name), options).unwrap().0
        };
        let (one, other) = (open(one, role), open(other, TreeRole::Replica));
        assert_eq!(one.digest(), other.digest());
        assert_eq!(leaves_of(&one), leaves_of(&other));
    }
}

#[test]
fn what_a_device_reports_is_in_the_replica_s_file() {
    let mut site = Site::new(300);
    let (address, server) = serve_file(&site.path("server"), any_port());
    let seen = Seen::default();
    let mut options = MirrorOptions::new(address);
    options.file = Some(site.path("replica"));
    let replica = mirror_with(options, &seen);
    site.report(address, 1, 200);
    // More than a window of REPORTs holds.
    site.report(address, 2, 3_000);
    wait_until("the replica is equal", || seen.equals(&site.model));
    wait_until("counters are published", || {
        server.board.counters().value("server", "sessions").is_some()
    });
    let report = replica.end().unwrap();
    assert_eq!((report.end, report.tree_id), (MirrorEnd::Stopped, Some(TreeId(77))));
    // Of a leaf that is reported again before it is acknowledged the newest goes only.
    let served = server.end().unwrap();
    let written = served.counters.value("server", "leaves_reported").unwrap();
    assert!((300..=3_200).contains(&written), "{written}");
    site.assert_equal("server", TreeRole::Server, "replica");
}

#[test]
fn a_replica_that_loses_datagrams_on_purpose_is_equal_in_the_end() {
    let mut site = Site::new(300);
    let (address, server) = serve_file(&site.path("server"), any_port());
    let seen = Seen::default();
    // Nothing comes and nothing leaves: there is no session.
    let loss = Loss::new(1.0, 7);
    let mut options = MirrorOptions::new(address);
    (options.file, options.loss) = (Some(site.path("replica")), Some(loss.clone()));
    let replica = mirror_with(options, &seen);
    let sent = || replica.board.counters().value("socket", "datagrams_sent");
    wait_until("counters are published", || sent().is_some());
    assert_eq!(sent(), Some(0), "{} were lost", loss.dropped());
    assert!(loss.dropped() > 0);
    loss.set(0.3);
    for round in 1..5 {
        site.report(address, round, 500);
        wait_until("the replica is equal", || seen.equals(&site.model));
    }
    let report = replica.end().unwrap();
    server.end().unwrap();
    let value = |name| report.counters.value("client", name).unwrap();
    assert!(loss.dropped() > 10 && value("events_lost") > 0 && value("requests") > 1);
    site.assert_equal("server", TreeRole::Server, "replica");
}

#[test]
fn threads_that_send_leave_a_replica_equal() {
    let mut site = Site::new(300);
    let config = ReloadableConfig { period: Duration::from_millis(5), ..Default::default() };
    let live = Arc::new(ArcSwap::from_pointee(config));
    let options = ServeOptions { senders: 2, live, ..ServeOptions::new(site.path("server")) };
    let (address, server) = serve_with(options);
    let seen: [Seen; 3] = Default::default();
    let replica = |seen: &Seen| mirror_with(MirrorOptions::new(address), seen);
    let replicas = seen.each_ref().map(replica);
    site.report(address, 1, 2_000);
    for one in &seen {
        wait_until("a replica is equal", || one.equals(&site.model));
    }
    replicas.into_iter().for_each(|replica| assert!(replica.end().unwrap().status.in_sync));
    let counters = server.end().unwrap().counters;
    let value = |part, name| counters.value(part, name).unwrap();
    assert_eq!(value("senders", "threads"), 2);
    // Whatever the threads send is counted with the socket.
    let events = value("server", "events");
    assert!(events > 0 && value("socket", "datagrams_sent") >= 3 * events);
    assert!(value("senders", "handed_over") > 0);
}

#[test]
fn a_period_that_leaves_in_slices_is_the_same_period() {
    leaves_in_slices(0);
}

#[test]
fn so_is_one_whose_slices_are_sent_by_threads() {
    leaves_in_slices(2);
}

fn leaves_in_slices(senders: usize) {
    let mut site = Site::new(5_000);
    // Long enough that a burst of changes lies in one, and the table is five bursts.
    let config = ReloadableConfig { period: Duration::from_millis(200), ..Default::default() };
    let live = Arc::new(ArcSwap::from_pointee(config));
    let options = ServeOptions {
        burst: 1,
        senders,
        live: Arc::clone(&live),
        ..ServeOptions::new(site.path("server"))
    };
    let (address, server) = serve_with(options);
    let seen: [Seen; 2] = Default::default();
    let relay = RelayOptions { burst: 1, live, ..Default::default() };
    let (relay, first) = relay_with(relay, address, &site.path("first"), &seen[0]);
    let mut options = MirrorOptions::new(relay);
    options.file = Some(site.path("second"));
    let second = mirror_with(options, &seen[1]);
    wait_until("the mirror is there", || seen[1].equals(&site.model));
    for round in 1..4 {
        site.report(address, round, 5_000);
    }
    for one in &seen {
        wait_until("a replica is equal", || one.equals(&site.model));
    }
    assert!(second.end().unwrap().status.in_sync);
    let relayed = first.end().unwrap().counters;
    assert!(relayed.value("relay_ring", "slices").unwrap() > 0);
    let served = server.end().unwrap().counters;
    assert!(served.value("ring", "slices").unwrap() > 0);
    assert_eq!(served.value("senders", "handed_over").is_some(), senders > 0);
    site.assert_equal("server", TreeRole::Server, "first");
    site.assert_equal("server", TreeRole::Server, "second");
}

#[test]
fn a_server_whose_sender_panics_ends_and_says_so() {
    let site = Site::new(20);
    let (tell, told) = mpsc::channel();
    let mut options = ServeOptions::new(site.path("server"));
    options.senders = 2;
    options.on_ready = Some(Box::new(move |address| {
        crate::runtime::senders::injected::break_next();
        tell.send(address).unwrap();
    }));
    let server = Running::start(move |control| serve(options, control));
    let address = told.recv_timeout(WATCHDOG).unwrap();
    let mirror = mirror_with(MirrorOptions::new(address), &Seen::default());
    let error = server.join().unwrap_err();
    assert!(matches!(error, ServeError::Loop(LoopError::Sender)), "{error}");
    mirror.end().unwrap();
    // The tree was closed in good order, and is free.
    let how = OpenOptions { role: TreeRole::Server, damaged: Damaged::Refuse, unix_s: 0 };
    let (_, recovery) = Tree::open(&site.path("server"), how).unwrap();
    assert_eq!(recovery.ending, crate::tree::Ending::Clean);
}

#[test]
fn a_relay_of_a_relay_is_equal_too() {
    let mut site = Site::new(500);
    let (address, server) = serve_file(&site.path("server"), any_port());
    site.report(address, 1, 300);
    let seen: [Seen; 3] = Default::default();
    let (first, first_relay) = relay_to(address, &site.path("first"), &seen[0]);
    let (second, second_relay) = relay_to(first, &site.path("second"), &seen[1]);
    let mut options = MirrorOptions::new(second);
    options.file = Some(site.path("third"));
    let last = mirror_with(options, &seen[2]);
    site.report(address, 2, 700);
    for one in &seen {
        wait_until("a relay is equal", || one.equals(&site.model));
    }
    let refused = Reporter::connect(ReporterOptions::new(first)).err().unwrap();
    assert!(refused.to_string().contains("is a relay"), "{refused}");
    for running in [last, second_relay, first_relay] {
        assert!(running.end().unwrap().status.in_sync);
    }
    server.end().unwrap();
    for name in ["first", "second", "third"] {
        site.assert_equal("server", TreeRole::Server, name);
    }
}

#[test]
fn a_server_that_comes_back_finds_its_replicas_relays_and_devices_again() {
    let mut site = Site::new(200);
    let (address, server) = serve_file(&site.path("server"), any_port());
    let seen: [Seen; 2] = Default::default();
    let (relay, relaying) = relay_to(address, &site.path("relay"), &seen[0]);
    let mut options = MirrorOptions::new(relay);
    options.file = Some(site.path("replica"));
    let replica = mirror_with(options, &seen[1]);
    let mut device = reporter(address);
    site.report(address, 1, 150);
    wait_until("the replica is equal", || seen[1].equals(&site.model));
    let first = server.end().unwrap();
    assert_eq!(first.address, address);
    device.report(DataLocId(3), b"while the server was away").unwrap();
    site.model[3] = b"while the server was away".to_vec();
    device.poll(Duration::from_millis(1)).unwrap();
    let (_, server) = serve_file(&site.path("server"), address);
    device.flush(WATCHDOG).unwrap();
    site.report(address, 2, 90);
    for one in &seen {
        wait_until("all are equal again", || one.equals(&site.model));
    }
    let lives = [relaying.end().unwrap().life, replica.end().unwrap().life];
    assert_eq!(lives[0], lives[1]);
    server.end().unwrap();
    site.assert_equal("server", TreeRole::Server, "relay");
    site.assert_equal("server", TreeRole::Server, "replica");
}

#[test]
fn a_live_tree_grows_and_its_replicas_follow() {
    let mut site = Site::new(30);
    let schema = site.path("schema.toml");
    let text = Layout::plain(3, 30, 40).unwrap().schema_text().to_owned();
    let (tell, told) = mpsc::channel();
    let mut options = ServeOptions::new(site.path("server"));
    options.on_ready = Some(Box::new(move |address| tell.send(address).unwrap()));
    let file = schema.clone();
    let server = Running::start(move |control| {
        serve(
            options,
            control.on_reload(move || {
                let period = Duration::from_millis(5);
                Ok(ReloadableConfig { period, schema: Some(file.clone()), ..Default::default() })
            }),
        )
    });
    let address = told.recv_timeout(WATCHDOG).unwrap();
    let seen: [Seen; 2] = Default::default();
    let (relay, relaying) = relay_to(address, &site.path("relay"), &seen[0]);
    let replica = mirror_with(MirrorOptions::new(relay), &seen[1]);
    site.report(address, 1, 30);
    wait_until("the replica is equal", || seen[1].equals(&site.model));

    std::fs::write(&schema, text.replacen("leaves = 10", "leaves = 4", 1)).unwrap();
    server.stop.reload();
    std::thread::sleep(Duration::from_millis(50));
    site.report(address, 2, 30);
    wait_until("a smaller schema changes nothing", || seen[1].equals(&site.model));

    std::fs::write(&schema, text.replacen("leaves = 10", "leaves = 15", 1)).unwrap();
    server.stop.reload();
    // Five leaves more behind those of the first parent.
    site.model.splice(10..10, vec![Vec::new(); 5]);
    wait_until("the replica has grown", || seen[1].equals(&site.model));
    site.report(address, 3, 35);
    for one in &seen {
        wait_until("all are equal again", || one.equals(&site.model));
    }
    replica.end().unwrap();
    relaying.end().unwrap();
    server.end().unwrap();
    site.assert_equal("server", TreeRole::Server, "relay");
}

#[test]
fn a_replica_resumes_from_its_file_and_fetches_the_difference() {
    let mut site = Site::new(2_000);
    let (address, server) = serve_file(&site.path("server"), any_port());
    site.report(address, 1, 2_000);
    let options = || {
        let mut options = MirrorOptions::new(address);
        options.file = Some(site.folder.path().join("replica"));
        options.until = MirrorUntil::InSync;
        options.connect_timeout = Some(WATCHDOG);
        options
    };
    let first = mirror_with(options(), &Seen::default()).join().unwrap();
    assert_eq!(first.end, MirrorEnd::InSync);
    // Those whose flag was still set came by EVENT.
    let came = |name| first.counters.value("client", name).unwrap();
    assert_eq!(came("leaves_repaired") + came("leaves_changed"), 2_000);
    let (again, options) = (options(), options());
    site.report(address, 2, 10);
    // The changes are in a period's EVENT, or were.
    std::thread::sleep(Duration::from_millis(50));
    let second = mirror_with(again, &Seen::default()).join().unwrap();
    let fetched = second.counters.value("client", "leaves_repaired").unwrap()
        + second.counters.value("client", "leaves_changed").unwrap();
    assert_eq!(fetched, 10);
    server.end().unwrap();
    site.assert_equal("server", TreeRole::Server, "replica");

    // Another tree at the same address.
    let other = Site::new(4);
    let path = other.path("server");
    std::fs::remove_file(&path).unwrap();
    let (role, tree_id) = (TreeRole::Server, TreeId(78));
    let create = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
    Tree::create(&path, Layout::plain(1, 4, 8).unwrap(), create).unwrap().close().unwrap();
    let (_, server) = serve_file(&path, address);
    let error = mirror_with(options, &Seen::default()).join().unwrap_err();
    assert!(matches!(error, MirrorError::WrongTree { wanted: TreeId(78), .. }), "{error}");
    server.end().unwrap();
}

/// Counts changes, and ends the mirror with the last one.
struct Watch {
    left: u32,
    last: Vec<u8>,
}

impl MirrorObserver for Watch {
    fn changes(&self) -> Changes {
        Changes::Wanted
    }

    fn changed(&mut self, tree: &Tree, leaf: DataLocId) -> ControlFlow<()> {
        tree.read(leaf, &mut self.last).unwrap();
        self.left -= 1;
        if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_watcher_sees_single_changes_at_once() {
    let site = Site::new(20);
    let config = ReloadableConfig { period: Duration::ZERO, ..Default::default() };
    let live = Arc::new(ArcSwap::from_pointee(config));
    let waiting = Waiting::Spin;
    let (address, server) =
        serve_with(ServeOptions { live, waiting, ..ServeOptions::new(site.path("server")) });
    let watcher = Running::start(move |control| {
        let mut watch = Watch { left: 2, last: Vec::new() };
        let mut options = MirrorOptions::new(address);
        options.filter = "/p1".to_owned();
        let report = mirror(options, control, &mut watch).unwrap();
        (report.end, watch.last)
    });
    wait_until("the watcher joined", || {
        server.board.counters().value("server", "sessions") == Some(1)
    });
    let mut device = reporter(address);
    for (leaf, data) in [(0, "not asked for"), (7, "first"), (19, "nor this"), (8, "second")] {
        device.report(DataLocId(leaf), data.as_bytes()).unwrap();
        device.flush(WATCHDOG).unwrap();
    }
    assert_eq!(watcher.join(), (MirrorEnd::Observer, b"second".to_vec()));
    server.end().unwrap();
}

#[test]
fn what_is_refused_is_told_with_its_reason() {
    let site = Site::new(20);
    let (address, server) = serve_file(&site.path("server"), any_port());
    let options = ReporterOptions { layout: LayoutPull::Pull, ..ReporterOptions::new(address) };
    let mut device = Reporter::connect(options).unwrap();
    assert_eq!(device.layout().unwrap().leaf_count(), 20);
    device.report(DataLocId(20), b"no such leaf").unwrap();
    device.report(DataLocId(0), &[7; 41]).unwrap();
    device.report(DataLocId(0), &[7; 40]).unwrap();
    device.flush(WATCHDOG).unwrap();
    let mut refusals = device.refusals();
    refusals.sort_by_key(|refusal| refusal.leaf);
    let told: Vec<_> = refusals.iter().map(|one| (one.leaf.0, one.reason, one.detail)).collect();
    let expected = [(0, RefusalReason::TooLarge, 40), (20, RefusalReason::UnknownLeaf, 20)];
    assert_eq!(told, expected);
    assert_eq!(device.acknowledged(), 1);
    let error = device.report(DataLocId(0), &[7; 1_200]).unwrap_err();
    assert!(matches!(error, ReporterError::TooLarge { found: 1_200, .. }), "{error}");

    let mut options = MirrorOptions::new(address);
    options.filter = "/nowhere".to_owned();
    let error = mirror_with(options, &Seen::default()).join().unwrap_err();
    assert!(error.to_string().contains("no such parent"), "{error}");
    let locked = serve(ServeOptions::new(site.path("server")), Control::new().unwrap());
    assert!(matches!(locked, Err(ServeError::Open { .. })));
    server.end().unwrap();

    let short = Duration::from_millis(50);
    let mut options = MirrorOptions::new(address);
    options.connect_timeout = Some(short);
    let error = mirror_with(options, &Seen::default()).join().unwrap_err();
    assert!(matches!(error, MirrorError::Unreachable { waited, .. } if waited >= short));
    let options = ReporterOptions { connect_timeout: short, ..ReporterOptions::new(address) };
    let error = Reporter::connect(options).err().unwrap();
    assert!(matches!(error, ReporterError::Unreachable { waited, .. } if waited >= short));
}
