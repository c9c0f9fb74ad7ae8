//! A server that is fed by its own process.

use std::collections::VecDeque;

use super::*;

/// Changes that another thread hands over.
type Handed = Arc<Mutex<VecDeque<(u32, Vec<u8>)>>>;

/// Writes what was handed over, a few leaves a call, and keeps what finds no room.
fn take_from(handed: &Handed) -> impl Feed + use<> {
    let handed = Arc::clone(handed);
    move |writer: &mut FeedWriter<'_>| {
        let mut handed = handed.lock().unwrap();
        for _ in 0..50 {
            let Some((leaf, data)) = handed.pop_front() else { return Next::Woken };
            match writer.write(DataLocId(leaf), &data) {
                Ok(_) => {}
                Err(FeedError::Later) => {
                    handed.push_front((leaf, data));
                    return Next::Woken;
                }
                Err(error) => panic!("{error}"),
            }
        }
        Next::Now
    }
}

/// A server with a feed, and what wakes it.
fn serve_fed(
    tree: &Path,
    period: Duration,
    durability: Durability,
    feed: impl Feed + 'static,
) -> (SocketAddr, Server, Waker) {
    let (tell, told) = mpsc::channel();
    let live = Arc::new(ArcSwap::from_pointee(ReloadableConfig { period, ..Default::default() }));
    let on_ready: OnReady = Box::new(move |address| tell.send(address).unwrap());
    let options = ServeOptions {
        live,
        durability,
        ring_size: 1 << 20,
        on_ready: Some(on_ready),
        feed: Some(Box::new(feed)),
        ..ServeOptions::new(tree)
    };
    let (tell_waker, told_waker) = mpsc::channel();
    let running = Running::start(move |control| {
        tell_waker.send(control.waker()).unwrap();
        serve(options, control)
    });
    let waker = told_waker.recv_timeout(WATCHDOG).unwrap();
    let address = told.recv_timeout(WATCHDOG).expect("the server serves");
    (address, running, waker)
}

/// Hands over `count` changes, in some bursts with a wake each.
fn hand(site: &mut Site, handed: &Handed, waker: &Waker, round: u32, count: u32) {
    for number in 0..count {
        let leaf = (number * 7 + round) % site.model.len() as u32;
        let data = format!("round {round} number {number}").into_bytes();
        site.model[leaf as usize].clone_from(&data);
        handed.lock().unwrap().push_back((leaf, data));
        if number % 40 == 39 {
            waker.wake();
        }
    }
    waker.wake();
}

fn feed_a_replica(period: Duration, durability: Durability) -> ServeReport {
    let mut site = Site::new(300);
    let handed = Handed::default();
    let feed = take_from(&handed);
    let (address, server, waker) = serve_fed(&site.path("server"), period, durability, feed);
    let seen = Seen::default();
    let mut options = MirrorOptions::new(address);
    options.file = Some(site.path("replica"));
    let replica = mirror_with(options, &seen);
    for round in 1..5 {
        hand(&mut site, &handed, &waker, round, 500);
        // The loop sleeps when this is reached.
        wait_until("the replica is equal", || seen.equals(&site.model));
    }
    // A device is served beside it.
    site.report(address, 9, 30);
    wait_until("the replica is equal", || seen.equals(&site.model));
    assert!(replica.end().unwrap().status.applied >= 300);
    let report = server.end().unwrap();
    site.assert_equal("server", TreeRole::Server, "replica");
    report
}

#[test]
fn what_a_feed_writes_is_in_the_replica_s_file() {
    let report = feed_a_replica(Duration::from_millis(5), Durability::Process);
    let value = |name| report.counters.value("server", name).unwrap();
    // Of 2,000 writes and 30 reports each was sent, or replaced by a later one.
    assert_eq!(value("leaves_reported"), 30);
    assert_eq!(value("leaves_changed") + value("conflated"), 2_030);
}

#[test]
fn the_writes_of_a_turn_end_a_period_of_no_length() {
    let report = feed_a_replica(Duration::ZERO, Durability::Process);
    let value = |name| report.counters.value("server", name).unwrap();
    assert_eq!(value("leaves_changed") + value("conflated"), 2_030);
}

#[test]
fn a_feed_s_writes_are_committed_where_power_may_fail() {
    let report = feed_a_replica(Duration::ZERO, Durability::Power);
    let committed = report.counters.value("redo", "leaves").unwrap();
    assert!((300..=2_030).contains(&committed), "{committed}");
}

#[test]
fn a_feed_that_never_rests_starves_nobody() {
    let mut site = Site::new(100);
    let mut number = 0_u32;
    let endless = move |writer: &mut FeedWriter<'_>| {
        number += 1;
        writer.write(DataLocId(99), &number.to_le_bytes()).unwrap();
        Next::Now
    };
    let durability = Durability::Process;
    let (address, server, _) =
        serve_fed(&site.path("server"), Duration::from_millis(5), durability, endless);
    // The leaves 1 to 50 are the device's.
    let mut device = reporter(address);
    for leaf in 1..=50 {
        site.model[leaf as usize] = vec![leaf];
        device.report(DataLocId(leaf.into()), &[leaf]).unwrap();
        device.flush(WATCHDOG).unwrap();
    }
    let seen = Seen::default();
    let replica = mirror_with(MirrorOptions::new(address), &seen);
    wait_until("the replica holds what was reported", || {
        let (leaves, _) = &*seen.0.lock().unwrap();
        leaves.len() == 100 && leaves[..99] == site.model[..99] && !leaves[99].is_empty()
    });
    replica.end().unwrap();
    server.end().unwrap();
}

#[test]
fn a_feed_is_called_at_the_moment_that_it_names() {
    let site = Site::new(10);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let called = Arc::clone(&calls);
    let pause = Duration::from_millis(30);
    let feed = move |writer: &mut FeedWriter<'_>| {
        let now = Instant::now();
        called.lock().unwrap().push(now);
        assert_eq!((writer.leaf_count(), writer.layout().leaf_count()), (10, 10));
        Next::At(now + pause)
    };
    let durability = Durability::Process;
    let (_, server, waker) =
        serve_fed(&site.path("server"), Duration::from_millis(5), durability, feed);
    wait_until("it was called again", || calls.lock().unwrap().len() >= 4);
    let made = server.end().map(|_| calls.lock().unwrap().clone()).unwrap();
    assert!(made.windows(2).all(|pair| pair[1] - pair[0] >= pause), "{made:?}");
    drop(waker);
}

#[test]
fn a_full_batch_is_told_and_the_feed_called_when_there_is_room() {
    // A batch holds some 4,000 leaves of 200 bytes; a call writes more than any holds.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    let layout = Layout::plain(1, 1_000, 1_000).unwrap();
    let (role, tree_id) = (TreeRole::Server, TreeId(5));
    let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
    Tree::create(&path, layout, options).unwrap().close().unwrap();
    let counts = Arc::new(Mutex::new((0_u32, 0_u32)));
    let counted = Arc::clone(&counts);
    let feed = move |writer: &mut FeedWriter<'_>| {
        let (written, later) = &mut *counted.lock().unwrap();
        while *written < 6_000 {
            match writer.write(DataLocId(*written % 1_000), &[7; 1_000]) {
                Ok(_) => *written += 1,
                Err(FeedError::Later) => {
                    *later += 1;
                    // It is called all the same.
                    return Next::Woken;
                }
                Err(error) => panic!("{error}"),
            }
        }
        Next::Woken
    };
    let (_, server, _) = serve_fed(&path, Duration::ZERO, Durability::Power, feed);
    wait_until("all are taken", || counts.lock().unwrap().0 == 6_000);
    let report = server.end().unwrap();
    let (_, later) = *counts.lock().unwrap();
    // 6 MB through batches of 1 MiB: each but the last was found full once.
    assert!((5..=6).contains(&later), "{later}");
    assert_eq!(report.counters.value("redo", "leaves"), Some(6_000));
}

#[test]
fn what_a_feed_may_not_write_is_told() {
    let site = Site::new(10);
    let (tell, told) = mpsc::channel();
    let feed = move |writer: &mut FeedWriter<'_>| {
        let errors = [(10, 1), (9, 41)].map(|(leaf, len)| {
            writer.write(DataLocId(leaf), &vec![1; len]).map_err(|error| error.to_string())
        });
        let _ = tell.send(errors.map(Result::unwrap_err));
        Next::Woken
    };
    let (_, server, _) = serve_fed(&site.path("server"), Duration::ZERO, Durability::Process, feed);
    let errors = told.recv_timeout(WATCHDOG).unwrap();
    assert_eq!(errors[0], "no leaf 10: the tree has 10 leaves");
    assert_eq!(errors[1], "leaf 9 holds 40 bytes, found 41");
    let report = server.end().unwrap();
    assert_eq!(report.counters.value("server", "conflated"), Some(0));
}

/// Tells which leaf was applied.
struct Told(mpsc::Sender<Vec<u8>>);

impl MirrorObserver for Told {
    fn changes(&self) -> Changes {
        Changes::Wanted
    }

    fn changed(&mut self, tree: &Tree, leaf: DataLocId) -> ControlFlow<()> {
        let mut data = Vec::new();
        tree.read(leaf, &mut data).unwrap();
        let _ = self.0.send(data);
        ControlFlow::Continue(())
    }
}

#[test]
fn what_is_committed_leaves_without_waiting_for_something_else_to_come() {
    let site = Site::new(10);
    let handed = Handed::default();
    let feed = take_from(&handed);
    let (address, server, waker) =
        serve_fed(&site.path("server"), Duration::ZERO, Durability::Power, feed);
    let (tell, told) = mpsc::channel();
    let replica = Running::start(move |control| {
        mirror(MirrorOptions::new(address), control, &mut Told(tell))
    });
    // A loop that went to sleep with each would take longer than the watchdog lets it.
    let begun = Instant::now();
    for number in 0..1_000_u32 {
        let data = number.to_le_bytes().to_vec();
        handed.lock().unwrap().push_back((3, data.clone()));
        waker.wake();
        while told.recv_timeout(WATCHDOG).expect("it is applied") != data {}
        assert!(begun.elapsed() < WATCHDOG, "only {number} came");
    }
    replica.end().unwrap();
    server.end().unwrap();
}
