//! Once a loop is warm, its thread allocates nothing.
//!
//! Warm means: everybody has joined, every leaf was changed, asked for and compared,
//! and counters were published. What a loop allocates then would be a cost of each
//! period or datagram, or memory that grows with time.

use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use mapleaf::runtime::Changes;
use mapleaf::runtime::Durability;
use mapleaf::runtime::MirrorOptions;

use super::allocator::Ledger;
use super::support::proxy::Proxy;
use super::support::proxy::Weather;
use super::support::trees::Site;
use super::support::wait_until;
use super::world;
use super::world::Reports;
use super::world::Running;

/// More leaves than one REQUEST carries checksums of (280), and a part with fewer.
const SCHEMA: &str = "[[parent]]\nname = 'many'\nleaves = 300\ncapacity = 64\n\
     [[parent]]\nname = 'few'\nleaves = 60\ncapacity = 200\n";

const MANY: std::ops::Range<u32> = 0..300;
const FEW: std::ops::Range<u32> = 300..360;

/// Sections of an audit come this often, so that some fall in each measurement.
const AUDIT: Duration = Duration::from_millis(300);

/// Twice the interval at which counters are published, and a little.
const MEASURED_MIN: Duration = Duration::from_millis(2_200);

/// Reports that are acknowledged while allocations are counted, a device.
fn reports_wanted() -> u64 {
    let number = std::env::var("MAPLEAF_STEADY").ok();
    number.map_or(3_000, |number| number.parse().expect("MAPLEAF_STEADY is a number"))
}

/// A server, three mirrors of it, a relay with a mirror behind it, two devices.
fn steady(name: &str, period: Duration, loss: f64, durability: Durability) {
    steady_with(name, period, loss, durability, 0);
}

/// The same, with so many threads of the server's that send.
fn steady_with(name: &str, period: Duration, loss: f64, durability: Durability, senders: usize) {
    let site = Site::new();
    let tree = world::create(site.path("tree"), SCHEMA);
    let _alone = (senders > 0).then(world::alone_with_senders);
    let sending = (senders > 0).then(Ledger::of_senders);
    let server = world::serve_with(tree, world::every(period), move |options| {
        (options.durability, options.senders) = (durability, senders);
    });
    let weather = Weather { loss, duplicate: loss / 4.0, reorder: loss / 2.0, seed: 11 };
    let (front, path) = (server.address(), Proxy::start(server.address(), weather).unwrap());
    let upstream = if loss > 0.0 { path.address() } else { front };
    let often = |options: &mut MirrorOptions| options.audit_interval = AUDIT;
    let file = site.path("copy");
    let mut loops = vec![
        world::mirror("mirror", upstream, Changes::Wanted, often),
        world::mirror("mirror with a file", upstream, Changes::Unwanted, move |options| {
            often(options);
            options.file = Some(file);
        }),
        world::mirror("mirror of a part", upstream, Changes::Unwanted, move |options| {
            often(options);
            options.filter = "/few".to_owned();
        }),
    ];
    let relay = world::relay(upstream, world::every(period));
    let behind = relay.address();
    loops.push(relay);
    loops.push(world::mirror("mirror behind a relay", behind, Changes::Unwanted, often));
    loops.insert(0, server);
    wait_until("all are in sync", || loops[1..].iter().all(|one| one.seen.is_in_sync()));

    let devices = [
        Reports::start(upstream, MANY, 60, Duration::ZERO),
        Reports::start(upstream, FEW, 200, Duration::from_micros(200)),
    ];
    warm_up(&loops, &devices);
    let ledgers = || loops.iter().map(|one| (one.name.as_str(), one.ledger));
    let ledgers = || ledgers().chain(sending.map(|ledger| ("threads that send", ledger)));
    ledgers().for_each(|(_, ledger)| ledger.begin());
    let (begun, before) = (Instant::now(), devices.each_ref().map(Reports::acknowledged));
    let wanted = reports_wanted();
    wait_until("the reports pass", || {
        let passed = |(device, before): (&Reports, u64)| device.acknowledged() >= before + wanted;
        begun.elapsed() >= MEASURED_MIN && devices.iter().zip(before).all(passed)
    });
    let found: Vec<_> = ledgers().map(|(name, ledger)| (name.to_owned(), ledger.end())).collect();
    let reported =
        devices.iter().map(Reports::acknowledged).sum::<u64>() - before.iter().sum::<u64>();
    drop(devices);
    wait_until("all are in sync again", || loops[1..].iter().all(|one| one.seen.is_in_sync()));
    let told = loops[1].seen.changes.load(Ordering::SeqCst);
    let counters: Vec<_> = loops.into_iter().map(Running::end).collect();
    let allocations: u64 = found.iter().map(|(_, (count, _))| count).sum();
    let periods = counters[0].value("server", "periods").unwrap();
    println!(
        "figure: {name}: {allocations} allocations in 6 loops, {reported} leaves reported and \
         acknowledged in {:.1} s, {periods} periods in all",
        begun.elapsed().as_secs_f64()
    );
    for (name, (count, first)) in found {
        assert_eq!(count, 0, "{name} allocates, first here:\n{first}");
    }
    assert!(told > 0, "an observer is told of changes");
    if durability == Durability::Power {
        let checkpoints = counters[0].value("redo", "checkpoints").unwrap();
        assert!(checkpoints >= 2, "{checkpoints} checkpoints: too few reports to fill the log");
    }
    if senders > 0 {
        assert!(counters[0].value("senders", "handed_over").unwrap() > 0);
    }
    if loss > 0.0 {
        let repaired = counters[1].value("client", "leaves_repaired").unwrap();
        assert!(repaired > 0, "a path that loses makes REQUESTs");
    }
}

/// Until each list has been as long as it gets: every leaf changed in one period,
/// whatever is lost asked for, counters published twice.
fn warm_up(loops: &[Running], devices: &[Reports]) {
    let published = |one: &Running| one.board.counters().iter().count() > 0;
    wait_until("counters are published", || loops.iter().all(published));
    let begun = Instant::now();
    let rounds = devices.iter().map(Reports::rounds).collect::<Vec<_>>();
    wait_until("the loops get warm", || {
        let turned = |(device, before): (&Reports, &u64)| device.rounds() >= before + 3;
        begun.elapsed() >= MEASURED_MIN && devices.iter().zip(&rounds).all(turned)
    });
}

#[test]
fn a_loop_with_a_period_allocates_nothing() {
    steady("period 20 ms", Duration::from_millis(20), 0.0, Durability::Process);
}

#[test]
fn a_loop_without_a_period_allocates_nothing() {
    steady("period 0", Duration::ZERO, 0.0, Durability::Process);
}

#[test]
fn a_loop_with_a_period_allocates_nothing_at_five_percent_loss() {
    steady("period 20 ms, 5 % loss", Duration::from_millis(20), 0.05, Durability::Process);
}

#[test]
fn a_loop_without_a_period_allocates_nothing_at_five_percent_loss() {
    steady("period 0, 5 % loss", Duration::ZERO, 0.05, Durability::Process);
}

#[test]
fn a_loop_that_survives_power_loss_allocates_nothing() {
    let period = Duration::from_millis(20);
    steady("period 20 ms, durable", period, 0.0, Durability::Power);
}

#[test]
fn a_loop_without_a_period_that_survives_power_loss_allocates_nothing() {
    steady("period 0, durable", Duration::ZERO, 0.0, Durability::Power);
}

#[test]
fn a_loop_that_survives_power_loss_allocates_nothing_at_five_percent_loss() {
    let period = Duration::from_millis(20);
    steady("period 20 ms, 5 % loss, durable", period, 0.05, Durability::Power);
}

#[test]
fn threads_that_send_allocate_nothing_nor_does_their_loop() {
    let period = Duration::from_millis(20);
    steady_with("period 20 ms, 2 senders, 5 % loss", period, 0.05, Durability::Process, 2);
}
