//! A changed leaf is copied once a period for all clients of a view.

use std::time::Duration;

use mapleaf::runtime::Changes;
use mapleaf::runtime::MirrorOptions;

use super::support::trees::Site;
use super::support::wait_until;
use super::world;
use super::world::Reports;
use super::world::Running;

const SCHEMA: &str = "[[parent]]\nname = 'a'\nleaves = 40\ncapacity = 64\n\
     [[parent]]\nname = 'b'\nleaves = 24\ncapacity = 64\n";

const PERIOD: Duration = Duration::from_millis(50);

/// What a server counted: leaves changed, each once a period; leaves copied for
/// EVENTs; EVENTs that its clients got.
struct Counted {
    changed: u64,
    copied: u64,
    sent: u64,
}

/// Lets every leaf change, period after period, under so many mirrors, which take
/// these filters in turn.
fn count(clients: usize, filters: &[&str]) -> Counted {
    let site = Site::new();
    let server = world::serve(world::create(site.path("tree"), SCHEMA), world::every(PERIOD));
    let mirrors: Vec<_> = (0..clients)
        .map(|index| {
            let filter = filters[index % filters.len()].to_owned();
            let how = |options: &mut MirrorOptions| options.filter = filter;
            world::mirror("mirror", server.address(), Changes::Unwanted, how)
        })
        .collect();
    wait_until("all are in sync", || mirrors.iter().all(|one| one.seen.is_in_sync()));
    // A leaf changes more than once in a period, and in many periods.
    let device = Reports::start(server.address(), 0..64, 40, Duration::from_micros(200));
    wait_until("reports pass", || device.rounds() >= 40);
    drop(device);
    // A mirror that leaves takes its view along: all changes are sent before that. All
    // reports were acknowledged before the device ended; the first counters that are
    // published now may be of the moment before the last period, the second are not.
    let periods = || server.board.counters().value("server", "periods").unwrap_or(0);
    for _ in 0..2 {
        let before = periods();
        wait_until("periods end", || periods() >= before + 2);
    }
    wait_until("all are in sync again", || mirrors.iter().all(|one| one.seen.is_in_sync()));
    mirrors.into_iter().map(Running::end).for_each(drop);
    let counters = server.end();
    let value = |part, name| counters.value(part, name).unwrap();
    Counted {
        changed: value("server", "leaves_changed"),
        copied: value("ring", "leaves"),
        sent: value("server", "events") * clients as u64,
    }
}

#[test]
fn a_changed_leaf_is_copied_once_whatever_the_number_of_clients() {
    for clients in [1, 16, 256] {
        let Counted { changed, copied, sent } = count(clients, &[""]);
        println!(
            "figure: {clients} clients of a view: {changed} changed, {copied} copied, {sent} EVENTs \
             for all"
        );
        assert!(changed >= 3 * 64, "{changed}");
        assert_eq!(copied, changed, "{clients} clients");
    }
}

#[test]
fn a_changed_leaf_is_copied_once_for_each_view_that_it_is_in() {
    let Counted { changed, copied, .. } = count(9, &["", "/a", "/b"]);
    println!("figure: 9 clients of 3 views: {changed} changed, {copied} copied");
    // Every leaf lies in the whole tree and in one of the two parts.
    assert_eq!(copied, 2 * changed);
}
