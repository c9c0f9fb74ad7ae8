//! Stories of clients that hear a multicast group, over a network in virtual time.

use core::time::Duration;

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::sync::ClientEvent;
use crate::sync::Leaves;
use crate::sync::join::session_header;
use crate::sync::testing::FLIGHT_US;
use crate::sync::testing::GROUP;
use crate::sync::testing::MemTree;
use crate::sync::testing::Seeded;
use crate::sync::testing::Weather;
use crate::sync::testing::World;
use crate::sync::time::RandomSource;
use crate::wire;
use crate::wire::DatagramType;
use crate::wire::Header;

const SECOND: Duration = Duration::from_secs(1);

/// A server with a group and clients that want it.
fn world(seed: u64, leaves: u32, clients: usize) -> World {
    let mut world = World::new(seed, MemTree::new(leaves, 64), 0);
    world.config.group = Some(GROUP);
    world.restart_server(20);
    for _ in 0..clients {
        add_listener(&mut world);
    }
    world
}

fn add_listener(world: &mut World) -> usize {
    let index = world.add_client("", None);
    world.copies[index].wants_group = true;
    index
}

fn settle(world: &mut World) {
    world.run_for(Duration::from_millis(500));
    assert!(world.run_until(30 * SECOND, World::all_in_sync), "in sync in the end");
    assert!((0..world.copies.len()).all(|index| world.is_equal(index)));
}

fn write_rounds(world: &mut World, rounds: u32) {
    let count = u64::from(world.tree.leaf_count());
    for round in 0..rounds {
        for _ in 0..5 {
            let leaf = (world.random.next_u64() % count) as u32;
            world.write(leaf, format!("{round} at {leaf}").as_bytes());
        }
        world.run_for(Duration::from_millis(37));
    }
}

fn blocked() -> Weather {
    Weather { loss: 1.0, ..Weather::default() }
}

fn saw(world: &World, index: usize, event: ClientEvent) -> bool {
    world.copies[index].verdicts.contains(&event)
}

#[test]
fn a_period_leaves_once_however_many_hear_the_group() {
    for clients in [1, 3, 40] {
        let mut world = world(1, 100, clients);
        settle(&mut world);
        world.run_for(SECOND);
        assert!((0..clients).all(|index| saw(&world, index, ClientEvent::GroupHeard)));
        assert_eq!(world.server.counters().group_joined, clients as u64);
        let own = datagrams_in(&world);
        let planned = |world: &World| {
            let counters = world.server.counters();
            (counters.events, counters.events + counters.ticks - world.sent_to_group)
        };
        let (events, apart) = planned(&world);
        world.write(7, b"once");
        world.run_for(Duration::from_millis(110));
        assert_eq!(planned(&world), (events + 1, apart), "{clients} clients, one send each");
        assert_eq!(datagrams_in(&world), own, "nobody got it by his own address as well");
        assert!((0..clients).all(|index| world.is_equal(index)));
        // Heartbeats, too.
        world.run_for(SECOND);
        assert_eq!(datagrams_in(&world), own);
        assert_eq!(planned(&world).1, apart);
        assert!(world.all_in_sync());
    }
}

/// Datagrams that came to clients' own addresses.
fn datagrams_in(world: &World) -> u64 {
    world.copies.iter().map(|copy| copy.client.counters().datagrams_in).sum()
}

#[test]
fn clients_of_both_kinds_share_a_view_and_its_event_nums() {
    let mut world = world(2, 100, 2);
    world.add_client("", None);
    world.add_client("/a", None);
    settle(&mut world);
    write_rounds(&mut world, 20);
    world.run_for(SECOND);
    assert!(world.all_in_sync());
    assert!((0..3).all(|index| world.is_equal(index)));
    let views: Vec<u64> =
        world.copies.iter().map(|copy| copy.client.joined().unwrap().view_id).collect();
    assert!(views[0] == views[1] && views[1] == views[2] && views[2] != views[3]);
    let counters = |index: usize| *world.copies[index].client.counters();
    assert_eq!(counters(2).events, counters(0).events, "the same EVENTs");
    assert_eq!((counters(2).group_datagrams, counters(3).group_datagrams), (0, 0));
    assert_eq!((0..4).map(|index| counters(index).gaps).sum::<u64>(), 0, "no false loss");
    let filtered = world.copies[3].client.joined().unwrap();
    assert_eq!(filtered.group, None, "a part of the tree has no group");
    assert_eq!(world.copies[2].client.joined().unwrap().group, Some(GROUP));
}

#[test]
fn nobody_who_listens_means_nothing_for_the_group() {
    let mut world = world(3, 20, 0);
    world.add_client("", None);
    settle(&mut world);
    write_rounds(&mut world, 5);
    assert_eq!(world.sent_to_group, 0);
    let index = add_listener(&mut world);
    settle(&mut world);
    write_rounds(&mut world, 5);
    assert!(world.sent_to_group > 0);
    world.copies[index].client.leave();
    world.run_for(Duration::from_millis(150));
    let before = world.sent_to_group;
    world.write(1, b"to the other alone");
    world.run_for(SECOND);
    assert_eq!(world.sent_to_group, before, "the last listener left");
    assert!(world.is_equal(0));
}

#[test]
fn a_session_that_runs_out_takes_its_listener_along() {
    let mut world = world(4, 20, 1);
    settle(&mut world);
    world.run_for(SECOND);
    world.copies[0].is_stopped = true;
    world.run_for(15 * SECOND);
    assert_eq!(world.server.counters().sessions_expired, 1);
    let before = world.sent_to_group;
    let index = world.add_client("", None);
    world.run_for(SECOND);
    world.write(3, b"by unicast");
    world.run_for(SECOND);
    assert!(world.is_equal(index));
    assert_eq!(world.sent_to_group, before);
}

#[test]
fn a_lossy_group_is_repaired_by_requests() {
    for seed in 0..10 {
        let mut world = world(100 + seed, 200, 3);
        settle(&mut world);
        world.run_for(SECOND);
        world.group_weather = Some(Weather { loss: 0.2, duplication: 0.1, jitter_us: 3_000 });
        write_rounds(&mut world, 100);
        world.group_weather = None;
        settle(&mut world);
        for copy in &world.copies {
            let counters = copy.client.counters();
            assert!(counters.gaps > 0 && counters.leaves_repaired > 0, "seed {seed}: {counters:?}");
            assert_eq!(counters.rejoins, 0, "seed {seed}");
        }
    }
}

#[test]
fn both_ways_may_be_bad() {
    for seed in 0..10 {
        let mut world = world(200 + seed, 200, 4);
        world.weather = Weather { loss: 0.3, duplication: 0.1, jitter_us: 3_000 };
        write_rounds(&mut world, 200);
        world.weather = Weather::default();
        settle(&mut world);
        let heard: u64 =
            world.copies.iter().map(|copy| copy.client.counters().group_datagrams).sum();
        assert!(heard > 0, "seed {seed}");
    }
}

#[test]
fn a_group_that_carries_nothing_is_given_up_and_tried_again() {
    let mut world = world(5, 50, 2);
    world.group_weather = Some(blocked());
    settle(&mut world);
    write_rounds(&mut world, 60);
    assert!((0..2).all(|index| saw(&world, index, ClientEvent::GroupSilent)));
    assert!((0..2).all(|index| !saw(&world, index, ClientEvent::GroupHeard)));
    assert!(world.all_in_sync() && world.is_equal(0) && world.is_equal(1));
    assert_eq!(world.copies[0].client.counters().gaps, 0, "its own address got everything");
    world.run_for(SECOND);
    let before = world.sent_to_group;
    world.write(1, b"by unicast");
    world.run_for(SECOND);
    assert_eq!(world.sent_to_group, before, "nobody listens to it now");
    world.group_weather = None;
    world.run_for(32 * SECOND);
    assert!((0..2).all(|index| saw(&world, index, ClientEvent::GroupHeard)), "tried again");
    assert_eq!(world.server.counters().group_joined, 2);
}

#[test]
fn a_group_that_falls_silent_costs_a_repair_and_no_session() {
    for seed in 0..5 {
        let mut world = world(300 + seed, 50, 3);
        settle(&mut world);
        world.run_for(SECOND);
        assert_eq!(world.server.counters().group_joined, 3);
        world.group_weather = Some(blocked());
        world.write(9, b"lost with the group");
        world.run_for(Duration::from_millis(1_300));
        // The way back is itself lost now and then.
        world.weather.loss = 0.3;
        world.run_for(2 * SECOND);
        world.weather.loss = 0.0;
        settle(&mut world);
        write_rounds(&mut world, 10);
        settle(&mut world);
        assert!((0..3).all(|index| saw(&world, index, ClientEvent::GroupSilent)));
        assert_eq!(world.server.counters().group_left, 3);
        let rejoins: u64 = world.copies.iter().map(|copy| copy.client.counters().rejoins).sum();
        assert_eq!(rejoins, 0, "seed {seed}");
    }
}

#[test]
fn a_new_life_of_the_server_is_followed_and_heard_again() {
    let mut world = world(6, 50, 2);
    settle(&mut world);
    world.run_for(SECOND);
    world.restart_server(30);
    world.write(4, b"in another life");
    world.run_for(4 * SECOND);
    settle(&mut world);
    world.run_for(2 * SECOND);
    assert_eq!(world.server.counters().group_joined, 2);
    let before = datagrams_in(&world);
    world.write(5, b"by the group");
    world.run_for(Duration::from_millis(150));
    assert_eq!(datagrams_in(&world), before);
    assert!(world.is_equal(0) && world.is_equal(1));
}

#[test]
fn a_member_that_was_not_answered_for_long_comes_in_again() {
    let mut world = world(9, 50, 1);
    settle(&mut world);
    world.run_for(SECOND);
    // It hears a part of the EVENTs, and what it asks for is lost.
    world.weather.loss = 1.0;
    world.group_weather = Some(Weather { loss: 0.3, ..Weather::default() });
    let mut rounds = 0;
    while !saw(&world, 0, ClientEvent::Rejoining) && rounds < 300 {
        write_rounds(&mut world, 1);
        rounds += 1;
    }
    let counters = *world.copies[0].client.counters();
    assert!(counters.rejoins == 1 && counters.requests_timed_out > 12, "{counters:?}");
    (world.weather, world.group_weather) = (Weather::default(), None);
    settle(&mut world);
    world.run_for(SECOND);
    assert_eq!(world.copies[0].client.counters().rejoins, 1, "a session is not given up at once");
    assert_eq!(world.server.counters().group_joined, 2);
}

#[test]
fn a_member_whose_session_was_never_opened_comes_in_again() {
    let mut world = world(10, 50, 1);
    settle(&mut world);
    // What opens the session is lost, and what asks for the layout; TICKs come by the group.
    let (index, before) = (add_listener(&mut world), *world.server.counters());
    let greeted = move |world: &World| world.server.counters().cookies > before.cookies;
    assert!(world.run_until(SECOND, greeted));
    world.run_for(Duration::from_micros(FLIGHT_US * 5 / 2));
    world.weather.loss = 1.0;
    world.group_weather = Some(Weather::default());
    let welcomed = |world: &World| world.copies[index].client.joined().is_some();
    assert!(world.run_until(SECOND, welcomed), "the WELCOME was on its way");
    world.run_for(6 * SECOND);
    assert_eq!(world.server.counters().sessions_opened, before.sessions_opened);
    assert!(saw(&world, index, ClientEvent::Rejoining));
    (world.weather, world.group_weather) = (Weather::default(), None);
    settle(&mut world);
}

#[test]
fn what_is_not_of_the_view_is_dropped_and_ends_nothing() {
    let mut world = world(7, 50, 1);
    settle(&mut world);
    world.run_for(SECOND);
    let joined = *world.copies[0].client.joined().unwrap();
    let before = *world.copies[0].client.counters();
    let tick = |change: &dyn Fn(&mut Header)| {
        let mut header = session_header(&joined, DatagramType::Tick);
        header.channel = U64::new(joined.view_id);
        change(&mut header);
        let body = wire::TickBody::read_from_bytes(&[0; 32]).unwrap();
        let mut bytes = Vec::new();
        wire::encode(&mut bytes, &header, &body, &[], 0);
        bytes
    };
    let foreign = [
        tick(&|header| header.channel = U64::new(joined.view_id ^ 1)),
        tick(&|header| header.channel = U64::new(joined.session_id)),
        tick(&|header| header.tree_id = U64::new(1)),
        tick(&|header| header.life = 99.into()),
        tick(&|header| header.layout_hash = 99.into()),
        b"noise".to_vec(),
        session_datagram(&joined, DatagramType::Bye),
        session_datagram(&joined, DatagramType::Ready),
    ];
    for bytes in &foreign {
        world.forge_by_group(0, bytes.clone());
    }
    let after = *world.copies[0].client.counters();
    assert_eq!(after.group_foreign - before.group_foreign, foreign.len() as u64);
    assert_eq!((after.group_datagrams, after.rejoins), (before.group_datagrams, 0));
    assert!(world.copies[0].client.is_in_sync());
    // One of the view is taken: this tick claims EVENTs that never were.
    world.forge_by_group(0, tick(&|header| header.event_num = U64::new(1_000)));
    assert_eq!(world.copies[0].client.counters().gaps, 1);
    assert!(!world.copies[0].client.is_in_sync());
    settle(&mut world);
}

fn session_datagram(joined: &crate::sync::Joined, datagram_type: DatagramType) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(&mut bytes, &session_header(joined, datagram_type), &(), &[], 0);
    bytes
}

#[test]
fn a_client_that_joined_no_group_hears_none() {
    let mut world = world(8, 20, 0);
    let index = world.add_client("", None);
    settle(&mut world);
    let joined = *world.copies[index].client.joined().unwrap();
    let mut seeded = Seeded::new(1);
    for _ in 0..100 {
        let bytes: Vec<u8> = (0..80).map(|_| seeded.next_u64() as u8).collect();
        world.forge_by_group(index, bytes);
    }
    let mut header = session_header(&joined, DatagramType::Tick);
    (header.channel, header.event_num) = (U64::new(joined.view_id), U64::new(1_000));
    let body = wire::TickBody::read_from_bytes(&[0; 32]).unwrap();
    let mut bytes = Vec::new();
    wire::encode(&mut bytes, &header, &body, &[], 0);
    world.forge_by_group(index, bytes);
    let counters = world.copies[index].client.counters();
    assert_eq!((counters.group_foreign, counters.group_datagrams), (101, 0));
    assert!(world.copies[index].client.is_in_sync());
    assert!(!saw(&world, index, ClientEvent::GroupHeard));
}

/// The answer to an empty REQUEST, as the server gives it now.
fn answer(world: &World, number: u32) -> Vec<u8> {
    let joined = world.copies[0].client.joined().unwrap();
    let header = Header {
        event_num: U64::new(world.server.counters().events),
        ..session_header(joined, DatagramType::Response)
    };
    let mut body = wire::ResponseBody::read_from_bytes(&[0; 16]).unwrap();
    (body.first_leaf, body.next_leaf) = (U32::new(number), U32::new(number));
    let mut bytes = Vec::new();
    wire::encode(&mut bytes, &header, &body, &[], 0);
    bytes
}

#[test]
fn an_answer_to_an_older_request_does_not_end_the_repeats_of_a_newer() {
    let mut world = world(9, 20, 1);
    settle(&mut world);
    world.run_for(SECOND);
    assert!(saw(&world, 0, ClientEvent::GroupHeard));
    // It hears the group no more, and what it says of that is lost.
    world.weather = blocked();
    let is_deaf = |world: &World| saw(world, 0, ClientEvent::GroupSilent);
    assert!(world.run_until(3 * SECOND, is_deaf));
    let older = answer(&world, 1);
    world.forge(0, older);
    (world.weather, world.group_weather) = (Weather::default(), Some(blocked()));
    // A third of the lease is 3.3 s, a heartbeat 0.25 s.
    world.run_for(Duration::from_millis(300));
    assert_eq!(world.server.counters().group_left, 1, "it said so again");
    settle(&mut world);
}

#[test]
fn flags_that_an_older_request_may_have_undone_are_told_again() {
    let mut world = world(10, 20, 1);
    settle(&mut world);
    world.run_for(SECOND);
    let requests = world.server.counters().requests;
    // The number of one that is of these flags, and of one that was not.
    for (number, again) in [(1_000, 0), (0, 1), (1_000, 1)] {
        let bytes = answer(&world, number);
        world.forge(0, bytes);
        world.run_for(Duration::from_millis(100));
        assert_eq!(world.server.counters().requests - requests, again, "number {number}");
    }
}

#[test]
fn an_answer_that_was_overtaken_by_the_group_is_no_false_run() {
    for seed in 0..40 {
        let mut world = world(seed, 20, 0);
        world.config.period = Duration::from_millis(5);
        world.restart_server(30);
        add_listener(&mut world);
        // What comes by the client's own address is late.
        world.weather = Weather { jitter_us: 20_000, ..Weather::default() };
        world.group_weather = Some(Weather::default());
        for round in 0..100_u8 {
            world.write(u32::from(round % 20), &[round]);
            world.run_for(Duration::from_millis(5));
        }
        assert_eq!(world.copies[0].client.counters().false_runs, 0, "seed {seed}");
        settle(&mut world);
    }
}
