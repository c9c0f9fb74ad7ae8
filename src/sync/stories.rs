//! Stories: a server, its clients and a device over a network in virtual time.

use core::time::Duration;

use zerocopy::FromBytes;
use zerocopy::FromZeros;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::DataLocId;
use crate::layout::Revision;
use crate::sync::ClientCounters;
use crate::sync::ClientEvent;
use crate::sync::Device;
use crate::sync::DeviceConfig;
use crate::sync::DeviceEvent;
use crate::sync::JoinError;
use crate::sync::LayoutWish;
use crate::sync::Leaves;
use crate::sync::ReportError;
use crate::sync::Reports;
use crate::sync::ServedLeaves;
use crate::sync::SourceState;
use crate::sync::join::session_header;
use crate::sync::testing::MemLeaf;
use crate::sync::testing::MemTree;
use crate::sync::testing::Seeded;
use crate::sync::testing::Weather;
use crate::sync::testing::World;
use crate::sync::time::RandomSource;
use crate::wire;
use crate::wire::ByeReason;
use crate::wire::DatagramType;
use crate::wire::Flags;
use crate::wire::Header;
use crate::wire::LeafSource;
use crate::wire::RefusalReason;
use crate::wire::ResponseBody;

const SECOND: Duration = Duration::from_secs(1);
const SEEDS: core::ops::Range<u64> = 0..20;

fn storm() -> Weather {
    Weather { loss: 0.2, duplication: 0.1, jitter_us: 3_000 }
}

/// Writes to random leaves for a while, then lets the network calm down.
fn write_through(world: &mut World, weather: Weather, rounds: u32) {
    world.weather = weather;
    let count = u64::from(world.tree.leaf_count());
    for round in 0..rounds {
        for _ in 0..5 {
            let leaf = (world.random.next_u64() % count) as u32;
            world.write(leaf, format!("{round} at {leaf}").as_bytes());
        }
        world.run_for(Duration::from_millis(37));
    }
    world.weather = Weather::default();
}

/// Two periods and a heartbeat after the last write a verdict speaks of it.
fn settle(world: &mut World) {
    world.run_for(Duration::from_millis(500));
    let done = world.run_until(30 * SECOND, World::all_in_sync);
    assert!(done, "all clients are in sync in the end");
    for index in 0..world.copies.len() {
        assert!(world.is_equal(index), "client {index} says in sync, so it is equal");
    }
}

#[test]
fn a_late_joiner_gets_the_whole_tree() {
    let mut world = World::new(1, MemTree::new(1_000, 200), 0);
    (0..1_000).for_each(|leaf| world.write(leaf, &[leaf as u8; 150]));
    world.run_for(SECOND);
    world.add_client("", None);
    settle(&mut world);
    let counters = world.copies[0].client.counters();
    assert_eq!(counters.leaves_repaired, 1_000, "each leaf came once");
    assert_eq!(counters.requests_with_checksums, 0, "a fresh copy has no checksums to tell");
}

#[test]
fn an_event_carries_only_what_changed_and_reaches_every_client() {
    let mut world = World::new(2, MemTree::new(1_000, 200), 3);
    settle(&mut world);
    world.write(17, b"new");
    world.run_for(Duration::from_millis(150));
    for index in 0..3 {
        assert!(world.is_equal(index));
        assert!(world.copies[index].client.is_in_sync());
        assert_eq!(world.copies[index].client.counters().leaves_changed, 1);
    }
    assert_eq!(world.server.counters().events, 1, "one EVENT for all of them");
}

#[test]
fn a_lost_event_is_found_and_repaired_by_one_request_with_every_checksum() {
    let mut world = World::new(3, MemTree::new(100, 64), 1);
    (0..100).for_each(|leaf| world.write(leaf, b"old"));
    world.run_for(SECOND);
    settle(&mut world);
    let before = *world.copies[0].client.counters();
    world.weather.loss = 1.0;
    world.write(5, b"lost");
    world.run_for(Duration::from_millis(110));
    world.weather.loss = 0.0;
    world.write(6, b"kept");
    settle(&mut world);
    let after = world.copies[0].client.counters();
    assert_eq!(after.gaps - before.gaps, 1);
    assert_eq!(after.events_lost - before.events_lost, 1);
    assert_eq!(after.requests - before.requests, 1);
    assert_eq!(after.requests_with_checksums - before.requests_with_checksums, 1);
    assert_eq!(after.leaves_repaired - before.leaves_repaired, 1, "only what differs comes");
}

#[test]
fn a_large_tree_is_repaired_by_the_revision_alone() {
    let mut world = World::new(4, MemTree::new(2_000, 64), 1);
    (0..2_000).for_each(|leaf| world.write(leaf, b"old"));
    settle(&mut world);
    let before = *world.copies[0].client.counters();
    world.weather.loss = 1.0;
    world.write(1_500, b"lost");
    world.run_for(Duration::from_millis(110));
    world.weather.loss = 0.0;
    world.write(6, b"kept");
    settle(&mut world);
    let after = world.copies[0].client.counters();
    assert_eq!(after.requests - before.requests, 1);
    assert_eq!(after.requests_with_checksums, before.requests_with_checksums);
    assert_eq!(after.leaves_repaired - before.leaves_repaired, 1);
}

#[test]
fn what_is_lost_within_a_period_is_repaired_alone() {
    let (mut lossy, mut lost, mut brought) = (0, 0, 0);
    for seed in SEEDS {
        let mut world = World::new(seed, MemTree::new(2_000, 64), 1);
        (0..2_000).for_each(|leaf| world.write(leaf, &[b'o'; 60]));
        settle(&mut world);
        let before = *world.copies[0].client.counters();
        world.weather.loss = 0.02;
        (0..2_000).for_each(|leaf| world.write(leaf, &[b'n'; 60]));
        world.run_for(Duration::from_millis(110));
        world.weather.loss = 0.0;
        settle(&mut world);
        let after = world.copies[0].client.counters();
        assert_eq!(after.digest_mismatches, 0, "seed {seed}");
        lossy += u64::from(after.events_lost > before.events_lost);
        lost += after.events_lost - before.events_lost;
        brought += after.leaves_repaired + after.leaves_repeated
            - before.leaves_repaired
            - before.leaves_repeated;
    }
    // An EVENT has some ten leaves. A period whose first one is lost is asked for as a
    // whole, which is 2,000 leaves: a few of all.
    assert!(lossy >= 15 && lost >= 2 * lossy, "{lossy} lossy periods lost {lost}");
    assert!(brought < 400 * lossy, "{brought} leaves for {lost} EVENTs of {lossy} periods");
}

#[test]
fn what_a_loss_brings_follows_from_where_it_lies_in_its_period() {
    let mut world = World::new(6, MemTree::new(2_000, 64), 1);
    (0..2_000).for_each(|leaf| world.write(leaf, &[b'o'; 60]));
    settle(&mut world);
    // All leaves change, in EVENTs of twelve: 167, of which the last one has eight.
    for (lost, brought) in [
        (vec![50], 12),
        (vec![50, 51, 52], 36),
        (vec![50, 90], 24),
        (vec![167], 8),
        (vec![166, 167], 2_000),
        (vec![1], 2_000),
        (vec![1, 50], 2_000),
    ] {
        let before = *world.copies[0].client.counters();
        let first = world.server.counters().events;
        world.doomed = lost.iter().map(|number| first + number).collect();
        (0..2_000).for_each(|leaf| world.write(leaf, &[b'n'; 60]));
        settle(&mut world);
        let after = world.copies[0].client.counters();
        let came = |counters: &ClientCounters| counters.leaves_repaired + counters.leaves_repeated;
        assert_eq!(after.events_lost - before.events_lost, lost.len() as u64);
        assert_eq!(came(after) - came(&before), brought, "{lost:?}");
        assert_eq!(world.server.counters().events - first, 167);
    }
}

#[test]
fn what_changed_again_behind_a_loss_comes_by_its_event_alone() {
    // Which EVENTs a relay's leaves came by does not follow from their revisions.
    for (reports, brought) in [(Reports::Accept, 3), (Reports::Refuse, 12)] {
        let mut world = World::new(6, MemTree::new(2_000, 64), 1);
        world.config.reports = reports;
        world.restart_server(20);
        (0..2_000).for_each(|leaf| world.write(leaf, &[b'o'; 60]));
        settle(&mut world);
        let before = *world.copies[0].client.counters();
        world.doomed = vec![world.server.counters().events + 50];
        (0..2_000).for_each(|leaf| world.write(leaf, &[b'n'; 60]));
        let is_lost = |world: &World| world.copies[0].client.counters().gaps > before.gaps;
        assert!(world.run_until(SECOND, is_lost));
        // The next period ends before a REQUEST can have come, and nine of the twelve
        // leaves change again in it.
        (591..2_000).for_each(|leaf| world.write(leaf, &[b'x'; 60]));
        world.end_period();
        settle(&mut world);
        let after = world.copies[0].client.counters();
        let came = |counters: &ClientCounters| counters.leaves_repaired + counters.leaves_repeated;
        assert_eq!(after.gaps - before.gaps, 1, "{reports:?}");
        assert_eq!(after.requests - before.requests, 1, "{reports:?}");
        assert_eq!(came(after) - came(&before), brought, "{reports:?}");
        assert_eq!(after.digest_mismatches, 0, "{reports:?}");
    }
}

#[test]
fn what_was_lost_after_a_request_is_asked_for_by_another() {
    let mut world = World::new(6, MemTree::new(2_000, 64), 1);
    (0..2_000).for_each(|leaf| world.write(leaf, &[b'o'; 60]));
    settle(&mut world);
    let before = *world.copies[0].client.counters();
    let first = world.server.counters().events;
    // The same leaves twice: the second time while the answer is under way.
    world.doomed = vec![first + 50, first + 167 + 50];
    (0..2_000).for_each(|leaf| world.write(leaf, &[b'n'; 60]));
    let asks = |world: &World| world.copies[0].client.counters().requests > before.requests;
    assert!(world.run_until(SECOND, asks));
    (0..2_000).for_each(|leaf| world.write(leaf, &[b'x'; 60]));
    world.end_period();
    let is_lost = |world: &World| world.copies[0].client.counters().gaps == before.gaps + 2;
    assert!(world.run_until(SECOND, is_lost));
    settle(&mut world);
    let after = world.copies[0].client.counters();
    assert_eq!(after.requests - before.requests, 2);
    assert_eq!(after.leaves_repaired - before.leaves_repaired, 12, "by the second answer");
    assert_eq!(after.digest_mismatches, 0);
}

#[test]
fn copies_are_equal_after_a_storm_of_short_periods() {
    let (mut lost, mut asked) = (0, 0);
    for seed in SEEDS {
        let mut world = World::new(seed, MemTree::new(2_000, 64), 2);
        (0..2_000).for_each(|leaf| world.write(leaf, &[b'o'; 60]));
        settle(&mut world);
        let jitter_us = if seed % 2 == 0 { 0 } else { 1_000 };
        world.weather = Weather { loss: 0.02, duplication: 0.02, jitter_us };
        for round in 0..200_u8 {
            for _ in 0..300 {
                let leaf = (world.random.next_u64() % 2_000) as u32;
                world.write(leaf, &[round; 60]);
            }
            world.end_period();
            world.run_for(Duration::from_micros(300));
        }
        world.weather = Weather::default();
        settle(&mut world);
        for copy in &world.copies {
            let counters = copy.client.counters();
            lost += counters.events_lost;
            asked += counters.requests;
            assert_eq!(counters.digest_mismatches, 0, "seed {seed}");
        }
    }
    assert!(lost > 1_000 && asked > 500, "{asked} REQUESTs for {lost} EVENTs");
}

#[test]
fn copies_are_equal_after_a_storm_over_large_periods() {
    let mut lost = 0;
    for seed in SEEDS {
        let mut world = World::new(seed, MemTree::new(2_000, 64), 2);
        world.weather = storm();
        for round in 0..40_u8 {
            for _ in 0..400 {
                let leaf = (world.random.next_u64() % 2_000) as u32;
                world.write(leaf, &[round; 60]);
            }
            world.run_for(Duration::from_millis(37));
        }
        world.weather = Weather::default();
        settle(&mut world);
        for copy in &world.copies {
            let counters = copy.client.counters();
            lost += counters.events_lost;
            assert_eq!(counters.digest_mismatches, 0, "seed {seed}");
        }
    }
    assert!(lost > 1_000, "the storms lost {lost} EVENTs");
}

#[test]
fn a_lost_last_event_is_found_by_the_next_tick() {
    let mut world = World::new(5, MemTree::new(1_000, 64), 1);
    settle(&mut world);
    world.weather.loss = 1.0;
    world.write(5, b"lost and last");
    world.run_for(Duration::from_millis(110));
    world.weather.loss = 0.0;
    assert!(!world.is_equal(0));
    world.run_for(SECOND);
    assert!(world.is_equal(0));
    assert!(world.copies[0].client.is_in_sync());
}

#[test]
fn copies_are_equal_after_a_storm_and_never_said_so_while_they_were_not() {
    for seed in SEEDS {
        for leaves in [40, 600] {
            let mut world = World::new(seed, MemTree::new(leaves, 64), 3);
            write_through(&mut world, storm(), 60);
            settle(&mut world);
            let lost: u64 =
                world.copies.iter().map(|copy| copy.client.counters().events_lost).sum();
            assert!(lost > 0, "seed {seed}: the storm lost EVENTs");
        }
    }
}

#[test]
fn a_heavy_storm_delays_a_join_but_does_not_prevent_it() {
    for seed in SEEDS {
        let mut world = World::new(seed, MemTree::new(400, 64), 1);
        (0..400).for_each(|leaf| world.write(leaf, b"there before"));
        world.weather = Weather { loss: 0.5, duplication: 0.2, jitter_us: 20_000 };
        let done = world.run_until(60 * SECOND, |world| world.is_equal(0));
        assert!(done, "seed {seed}: {:?}", world.copies[0].client.counters());
    }
}

#[test]
fn a_stopped_client_costs_the_server_nothing_and_is_equal_soon_after() {
    let mut world = World::new(6, MemTree::new(500, 64), 2);
    settle(&mut world);
    world.copies[0].is_stopped = true;
    write_through(&mut world, Weather::default(), 130);
    world.run_for(Duration::from_millis(150));
    assert!(world.is_equal(1));
    assert_eq!(world.server.session_count(), 3, "its lease has not run out");
    world.copies[0].is_stopped = false;
    world.run_for(Duration::from_millis(300));
    assert!(world.is_equal(0));
}

#[test]
fn a_client_that_is_gone_longer_than_its_lease_is_dropped_and_may_come_back() {
    let mut world = World::new(7, MemTree::new(500, 64), 1);
    settle(&mut world);
    world.copies[0].is_stopped = true;
    world.run_for(11 * SECOND);
    assert_eq!(world.server.session_count(), 1, "the device's");
    assert_eq!(world.server.counters().sessions_expired, 1);
    world.write(3, b"missed");
    world.copies[0].is_stopped = false;
    settle(&mut world);
}

#[test]
fn a_restarted_server_sends_nothing_again_that_is_held() {
    let mut world = World::new(8, MemTree::new(3_000, 64), 2);
    (0..3_000).for_each(|leaf| world.write(leaf, b"held"));
    settle(&mut world);
    let before = world.copies[0].client.counters().leaves_repaired;
    world.run_for(SECOND);
    world.restart_server(20);
    world.write(77, b"after the restart");
    world.run_for(3 * SECOND);
    settle(&mut world);
    let counters = world.copies[0].client.counters();
    assert_eq!(counters.rejoins, 1);
    assert!(counters.leaves_repaired - before <= 1, "only what differs came");
}

#[test]
fn a_server_restored_from_a_backup_wins() {
    for seed in SEEDS {
        let mut world = World::new(seed, MemTree::new(700, 64), 2);
        (0..700).for_each(|leaf| world.write(leaf, b"in the backup"));
        settle(&mut world);
        let backup = world.tree.clone();
        write_through(&mut world, Weather::default(), 20);
        settle(&mut world);
        world.tree = backup;
        world.restart_server(20);
        world.write(1, b"the restored server goes on");
        world.run_for(3 * SECOND);
        settle(&mut world);
    }
}

#[test]
fn a_backup_restored_under_a_life_seen_before_still_wins() {
    // The clock was wrong, so the restored server draws a life that its clients
    // know already: only the digest can tell, and the second audit takes it all.
    let mut world = World::new(9, MemTree::new(700, 64), 1);
    (0..700).for_each(|leaf| world.write(leaf, b"in the backup"));
    settle(&mut world);
    let backup = world.tree.clone();
    write_through(&mut world, Weather::default(), 20);
    settle(&mut world);
    world.tree = backup;
    world.tree.life = crate::layout::Life(9);
    world.restart_server(10);
    world.run_for(3 * SECOND);
    settle(&mut world);
    assert!(world.copies[0].client.counters().digest_mismatches > 0);
}

#[test]
fn a_copy_that_missed_a_life_is_compared_by_checksums() {
    // The life in between began with a loss, and its `life_start` told so. That of
    // the life behind it is above the copy's watermark.
    let mut world = World::new(31, MemTree::new(700, 64), 1);
    (0..700).for_each(|leaf| world.write(leaf, b"in the backup"));
    settle(&mut world);
    let backup = world.tree.clone();
    write_through(&mut world, Weather::default(), 20);
    settle(&mut world);
    world.weather.loss = 1.0;
    world.tree = backup;
    world.restart_server(20);
    world.write(1, b"after the loss");
    world.run_for(SECOND);
    world.restart_server(30);
    world.weather.loss = 0.0;
    world.run_for(3 * SECOND);
    settle(&mut world);
    let counters = world.copies[0].client.counters();
    assert!(counters.requests_with_checksums > 0);
    assert_eq!(counters.digest_mismatches, 0, "what may differ is not taken for equal first");
}

#[test]
fn a_copy_that_is_owed_a_leaf_relies_on_no_watermark_in_another_life() {
    let mut world = World::new(37, MemTree::new(700, 64), 1);
    (0..700).for_each(|leaf| world.write(leaf, b"in the backup"));
    settle(&mut world);
    let backup = world.tree.clone();
    world.write(5, b"lost");
    settle(&mut world);
    // Restored, the server tells all but what is written again at this moment.
    world.tree = backup;
    world.restart_server(20);
    world.write(6, b"in the second backup");
    world.end_period();
    let backup = world.tree.clone();
    let rejoined = |joins| move |world: &World| world.copies[0].client.counters().joins == joins;
    assert!(world.run_until(30 * SECOND, rejoined(2)));
    world.write(5, b"written again");
    let answered = |world: &World| world.copies[0].client.watermark() > Revision::ZERO;
    assert!(world.run_until(SECOND, answered), "the answer comes before the period ends");
    let copy = &world.copies[0];
    assert_eq!(copy.tree.as_ref().unwrap().leaves[5].data, b"lost", "it is left out");
    assert_eq!(copy.client.lasting_watermark(), None, "the file would not say so");
    // And restored to the moment before.
    world.tree = backup;
    world.restart_server(30);
    assert!(world.run_until(30 * SECOND, rejoined(3)));
    assert_eq!(world.copies[0].client.watermark(), Revision::ZERO);
    settle(&mut world);
    let client = &world.copies[0].client;
    assert_eq!(client.lasting_watermark(), Some(client.watermark()));
    assert_eq!(client.counters().digest_mismatches, 0, "what may differ is compared first");
}

/// An EVENT behind the ones that there were, of these leaves as they are now; the last
/// of them is damaged on its way if `is_damaged`.
fn next_event(world: &World, event_num: u64, leaves: &[u32], is_damaged: bool) -> Vec<u8> {
    let joined = world.copies[0].client.joined().unwrap();
    let header = Header {
        event_num: U64::new(event_num),
        channel: U64::new(joined.view_id),
        count: U16::new(leaves.len() as u16),
        ..session_header(joined, DatagramType::Event)
    };
    let mut body = Vec::new();
    for leaf in leaves {
        let mut bytes = vec![0; world.tree.wire_len(DataLocId(*leaf))];
        world.tree.copy_wire(DataLocId(*leaf), &mut bytes).unwrap();
        body.extend_from_slice(&bytes);
    }
    let mut event = Vec::new();
    wire::encode(&mut event, &header, &(), &body, 0);
    if is_damaged {
        *event.last_mut().unwrap() ^= 1;
    }
    event
}

#[test]
fn a_copy_with_a_leaf_of_a_history_that_was_lost_is_compared_by_checksums() {
    let mut world = World::new(32, MemTree::new(700, 64), 1);
    (0..700).for_each(|leaf| world.write(leaf, b"in the backup"));
    settle(&mut world);
    let backup = world.tree.clone();
    let joined = *world.copies[0].client.joined().unwrap();
    // The copy gets one EVENT of a period, and the machine of the server dies.
    world.weather.loss = 1.0;
    world.write(5, b"lost");
    let event = next_event(&world, joined.event_num + 1, &[5], false);
    world.forge(0, event);
    assert_eq!(world.copies[0].tree.as_ref().unwrap().leaves[5].data, b"lost");
    world.tree = backup;
    world.restart_server(20);
    world.run_for(3 * SECOND);
    world.weather.loss = 0.0;
    settle(&mut world);
    let counters = world.copies[0].client.counters();
    assert_eq!(counters.digest_mismatches, 0, "what may differ is not taken for equal first");
}

#[test]
fn what_a_relay_that_is_behind_shows_to_be_lost_leaves_no_watermark_sure() {
    let mut world = World::new(34, MemTree::new(700, 64), 1);
    world.write(5, b"in the backup");
    let backup = world.tree.leaves[5].clone();
    world.write(5, b"lost");
    let lost = world.tree.revision(DataLocId(5));
    settle(&mut world);
    world.restart_server(20);
    let rejoined = |world: &World| world.copies[0].client.counters().joins == 2;
    assert!(world.run_until(30 * SECOND, rejoined));
    settle(&mut world);
    world.weather.loss = 1.0;
    world.tree.leaves[5] = backup;
    let first = world.copies[0].client.joined().unwrap().event_num + 1;
    let known = world.copies[0].client.watermark().0;
    assert!(known > 0);
    // The session's header says nothing of SOURCE_IN_SYNC.
    for (event_num, watermark, sure) in [(first, lost.0 - 1, known), (first + 1, lost.0, 0)] {
        let mut event = next_event(&world, event_num, &[5], false);
        let (header, _) = Header::mut_from_prefix(&mut event).unwrap();
        header.watermark = U64::new(watermark);
        wire::seal(&mut event);
        world.forge(0, event);
        let copy = &world.copies[0];
        assert_eq!(copy.tree.as_ref().unwrap().leaves[5].data, b"lost", "the relay may be behind");
        assert_eq!(copy.client.watermark(), Revision(sure));
    }
}

#[test]
fn what_a_relay_sent_while_it_was_behind_brings_back_nothing_that_was_lost() {
    // Behind one start of a life what was lost is above `life_start`, behind two it may not be.
    for lives in [&[20][..], &[20, 30]] {
        let mut world = World::new(39, MemTree::new(700, 64), 1);
        (0..700).for_each(|leaf| world.write(leaf, b"in the backup"));
        settle(&mut world);
        let backup = world.tree.clone();
        world.write(5, b"lost");
        settle(&mut world);
        let lost = world.tree.leaves[5].clone();
        world.tree = backup;
        for (joins, life) in (2..).zip(lives) {
            world.restart_server(*life);
            let rejoined = |world: &World| world.copies[0].client.counters().joins == joins;
            assert!(world.run_until(30 * SECOND, rejoined));
            world.write(6, b"goes on");
            settle(&mut world);
        }
        assert!(world.is_equal(0));
        let joined = *world.copies[0].client.joined().unwrap();
        let is_above = lost.head.revision.get() > joined.life_start.0;
        assert_eq!(is_above, lives.len() == 1);
        let known = world.copies[0].client.watermark();
        assert!(known.0 > lost.head.revision.get());
        // An EVENT of before comes now. The session's header says nothing of SOURCE_IN_SYNC.
        world.weather.loss = 1.0;
        world.tree.leaves[5] = lost;
        let event = next_event(&world, joined.event_num, &[5], false);
        world.forge(0, event);
        let copy = &world.copies[0];
        assert_eq!(copy.tree.as_ref().unwrap().leaves[5].data, b"in the backup");
        assert_eq!(copy.client.watermark(), known);
    }
}

#[test]
fn what_the_life_cannot_have_from_its_past_is_taken_by_nobody() {
    let mut world = World::new(40, MemTree::new(700, 64), 0);
    world.write(5, b"in the backup");
    let backup = world.tree.clone();
    world.write(5, b"lost");
    let lost = world.tree.leaves[5].clone();
    world.tree = backup;
    world.restart_server(20);
    world.add_client("", None);
    let has_joined = |world: &World| world.copies[0].tree.is_some();
    assert!(world.run_until(SECOND, has_joined));
    assert_eq!(world.copies[0].client.watermark(), Revision::ZERO, "it knows of nothing yet");
    let right = core::mem::replace(&mut world.tree.leaves[5], lost);
    let first = world.copies[0].client.joined().unwrap().event_num + 1;
    let event = next_event(&world, first, &[5], false);
    world.forge(0, event);
    assert!(world.copies[0].tree.as_ref().unwrap().leaves[5].data.is_empty());
    assert_eq!(world.copies[0].client.counters().leaves_older, 1);
    world.tree.leaves[5] = right;
    settle(&mut world);
}

#[test]
fn an_event_that_came_damaged_is_lost_at_once() {
    let mut world = World::new(33, MemTree::new(700, 64), 1);
    settle(&mut world);
    let joined = *world.copies[0].client.joined().unwrap();
    let before = world.tree.digest();
    world.weather.loss = 1.0;
    world.write(1, &[1; 48]);
    world.write(2, &[2; 48]);
    let event = next_event(&world, joined.event_num + 1, &[1, 2], true);
    world.forge(0, event);
    // A TICK of the period before was late.
    let header = Header {
        event_num: U64::new(joined.event_num),
        channel: U64::new(joined.view_id),
        digest: U64::new(before.0),
        watermark: U64::new(joined.watermark.0),
        flags: U16::new(Flags::CLOSES_PERIOD | Flags::SOURCE_IN_SYNC),
        ..session_header(&joined, DatagramType::Tick)
    };
    let mut tick = Vec::new();
    wire::encode(&mut tick, &header, &(), &[0; 32], 0);
    world.forge(0, tick);
    let counters = world.copies[0].client.counters();
    assert_eq!((counters.leaves_damaged, counters.gaps), (1, 1));
    assert_eq!(counters.digest_mismatches, 0, "half of a later period is no difference");
    world.weather.loss = 0.0;
    settle(&mut world);
}

#[test]
fn an_answer_that_came_damaged_tells_of_a_lost_event() {
    let answered = (1..16).filter(|request_id| {
        let mut world = World::new(41, MemTree::new(700, 64), 1);
        settle(&mut world);
        let joined = *world.copies[0].client.joined().unwrap();
        world.weather.loss = 1.0;
        // A loss is seen, and asked for in vain.
        let lost = next_event(&world, joined.event_num + 2, &[3], false);
        world.forge(0, lost);
        world.run_for(SECOND / 50);
        world.write(1, &[1; 48]);
        world.write(2, &[2; 48]);
        let mut leaves = vec![0; 2 * world.tree.wire_len(DataLocId(1))];
        let end = world.tree.copy_wire(DataLocId(1), &mut leaves).unwrap();
        world.tree.copy_wire(DataLocId(2), &mut leaves[end..]).unwrap();
        *leaves.last_mut().unwrap() ^= 1;
        let header = Header {
            event_num: U64::new(joined.event_num + 3),
            count: U16::new(2),
            ..session_header(&joined, DatagramType::Response)
        };
        let body = ResponseBody {
            request_id: U32::new(*request_id),
            next_leaf: U32::new(700),
            ..ResponseBody::new_zeroed()
        };
        let mut answer = Vec::new();
        wire::encode(&mut answer, &header, &body, &leaves, 0);
        world.forge(0, answer);
        let counters = world.copies[0].client.counters();
        let is_of_an_open_one = counters.responses_late == 0;
        assert_eq!(counters.leaves_damaged, u64::from(is_of_an_open_one));
        assert_eq!(counters.gaps, 2, "the last EVENT did not come");
        is_of_an_open_one
    });
    assert!(answered.count() > 0, "REQUESTs were open");
}

#[test]
fn a_copy_cut_off_half_way_goes_on_with_the_difference() {
    let mut world = World::new(10, MemTree::new(5_000, 200), 0);
    (0..5_000).for_each(|leaf| world.write(leaf, &[leaf as u8; 200]));
    world.run_for(SECOND);
    world.add_client("", None);
    let half = |world: &World| world.copies[0].client.counters().leaves_repaired >= 2_000;
    assert!(world.run_until(10 * SECOND, half));
    let held = world.copies[0].client.counters().leaves_repaired;
    world.restart_client(0);
    settle(&mut world);
    let came = world.copies[0].client.counters().leaves_repaired;
    assert_eq!(held + came, 5_000, "nothing came twice");
}

#[test]
fn a_damaged_copy_is_found_by_its_digest_and_mended() {
    let mut world = World::new(11, MemTree::new(900, 64), 1);
    (0..900).for_each(|leaf| world.write(leaf, b"right"));
    settle(&mut world);
    let tree = world.copies[0].tree.as_mut().unwrap();
    let older = MemTree::new(900, 64).leaves[3].clone();
    tree.leaves[3] = older;
    world.write(800, b"so that a period ends");
    let mended = |world: &World| world.is_equal(0) && world.copies[0].client.is_in_sync();
    // The checksum column still has the right value: only the periodic audit of
    // a tree that recomputes its columns could tell, so mend the column as well.
    world.copies[0].tree.as_mut().unwrap().reindex();
    assert!(world.run_until(5 * SECOND, mended));
    assert!(world.copies[0].client.counters().digest_mismatches > 0);
}

/// Lets the copy hold a leaf that is newer than what the server wrote last: forged, or of a
/// history that was lost.
fn hold_newer(world: &mut World, leaf: u32) {
    let mut held = world.tree.leaves[4].clone();
    held.head.data_loc_id = leaf.into();
    held.head.revision = (world.tree.newest.0 + 1_000).into();
    held.head.checksum = wire::leaf_checksum(&held.head, &held.data).into();
    let tree = world.copies[0].tree.as_mut().unwrap();
    tree.leaves[leaf as usize] = held;
    tree.reindex();
}

/// A world whose copy holds leaf 3, which its server never wrote.
fn world_that_holds_what_was_never_written(seed: u64) -> World {
    let mut world = World::new(seed, MemTree::new(900, 64), 1);
    (0..900).filter(|leaf| *leaf != 3).for_each(|leaf| world.write(leaf, b"right"));
    settle(&mut world);
    // The audit has passed the leaf, and comes again in a minute.
    world.run_for(20 * SECOND);
    hold_newer(&mut world, 3);
    world
}

#[test]
fn a_leaf_that_the_server_never_wrote_is_mended_though_the_source_was_behind_at_first() {
    let mut world = world_that_holds_what_was_never_written(36);
    // The first three looks tell nothing of older leaves.
    world.source = SourceState::Behind;
    world.run_for(5 * SECOND);
    assert!(!world.is_equal(0));
    // It differs, so it is not said to hold all up to any revision.
    assert_eq!(world.copies[0].client.watermark(), Revision::ZERO);
    world.source = SourceState::InSync;
    assert!(world.run_until(10 * SECOND, |world| world.is_equal(0) && world.all_in_sync()));
    assert_eq!(world.copies[0].client.watermark(), world.tree.newest);
}

#[test]
fn differences_to_a_source_that_was_behind_for_long_do_not_make_the_next_one_wait() {
    let mut world = World::new(38, MemTree::new(900, 64), 1);
    (0..900).for_each(|leaf| world.write(leaf, b"right"));
    settle(&mut world);
    // The audit has passed the leaf, and comes again in a minute.
    world.run_for(20 * SECOND);
    hold_newer(&mut world, 3);
    world.source = SourceState::Behind;
    // Looked into after 1, 3, 7, 15 and 31 s; then it would be after 63.
    world.run_for(34 * SECOND);
    assert!(!world.is_equal(0));
    world.source = SourceState::InSync;
    assert!(world.run_until(4 * SECOND, |world| world.is_equal(0) && world.all_in_sync()));
}

#[test]
fn a_leaf_that_was_never_written_is_mended_as_soon_as_the_source_is_in_sync() {
    // Looked into after 1, 3, 7, 15 and 31 s: every other look goes by revision, and each
    // of them may be the last before the source is in sync.
    for behind_s in [2, 5, 10, 17, 33] {
        let mut world = world_that_holds_what_was_never_written(42);
        world.source = SourceState::Behind;
        world.run_for(behind_s * SECOND);
        assert!(!world.is_equal(0));
        world.source = SourceState::InSync;
        let is_mended = |world: &World| world.is_equal(0) && world.all_in_sync();
        assert!(world.run_until(4 * SECOND, is_mended), "behind for {behind_s} s");
    }
}

#[test]
fn clients_of_a_parent_get_its_leaves_only() {
    let mut world = World::new(12, MemTree::new(1_000, 64), 1);
    let filtered = world.add_client("/b", None);
    (0..1_000).for_each(|leaf| world.write(leaf, b"both"));
    world.run_for(SECOND);
    world.write(100, b"in a");
    world.write(900, b"in b");
    world.run_for(SECOND);
    assert!(world.run_until(5 * SECOND, World::all_in_sync));
    let tree = world.copies[filtered].tree.as_ref().unwrap();
    assert_eq!(tree.leaves[500..], world.tree.leaves[500..]);
    assert_eq!(tree.leaves[..500], MemTree::new(1_000, 64).leaves[..500]);
    assert!(world.is_equal(0));
}

#[test]
fn what_a_client_asks_for_in_vain_is_told() {
    let mut world = World::new(13, MemTree::new(10, 64), 0);
    let lost = world.add_client("/nowhere", None);
    world.run_for(SECOND);
    let refused = JoinError::Refused { reason: ByeReason::UnknownParent, detail: 0 };
    assert!(world.copies[lost].verdicts.contains(&ClientEvent::Refused(refused)));
    assert_eq!(world.server.session_count(), 1, "the device's");
}

#[test]
fn reports_are_written_and_acknowledged_once_each() {
    for seed in SEEDS {
        let mut world = World::new(seed, MemTree::new(50, 64), 1);
        world.weather = storm();
        assert!(world.run_until(30 * SECOND, |world| world.device.joined().is_some()));
        for round in 0..200_u32 {
            let now = world.now;
            let data = round.to_le_bytes();
            while world.device.report(now, DataLocId(round % 50), &data).is_err() {
                world.run_for(Duration::from_millis(5));
            }
            world.device.flush(now);
            world.run_for(Duration::from_millis(1));
        }
        assert!(world.run_until(60 * SECOND, |world| world.device.is_idle()), "seed {seed}");
        assert_eq!(world.acknowledged, 200, "seed {seed}");
        for leaf in 0..50_u32 {
            assert_eq!(world.tree.leaves[leaf as usize].data, (150 + leaf).to_le_bytes());
        }
        world.weather = Weather::default();
        settle(&mut world);
    }
}

#[test]
fn reports_outlive_a_restart_of_the_server() {
    let mut world = World::new(14, MemTree::new(50, 64), 1);
    world.run_for(SECOND);
    world.weather.loss = 1.0;
    let now = world.now;
    world.device.report(now, DataLocId(7), b"kept").unwrap();
    world.device.flush(now);
    world.run_for(Duration::from_millis(50));
    world.weather.loss = 0.0;
    world.restart_server(20);
    assert!(world.run_until(30 * SECOND, |world| world.device.is_idle()));
    assert_eq!(world.tree.leaves[7].data, b"kept");
    assert_eq!(world.acknowledged, 1);
}

#[test]
fn what_was_acknowledged_outlives_power_where_acks_wait_for_commits() {
    let mut waited = 0;
    for seed in SEEDS {
        let mut world = World::new(seed, MemTree::new(50, 64), 1);
        world.tree.staged = Some(Vec::new());
        world.weather = storm();
        assert!(world.run_until(30 * SECOND, |world| world.device.joined().is_some()));
        for round in 0..300_u32 {
            let data = round.to_le_bytes();
            while world.device.report(world.now, DataLocId(round % 50), &data).is_err() {
                world.run_for(Duration::from_millis(5));
                world.commit();
            }
            world.device.flush(world.now);
            world.run_for(Duration::from_millis(1));
            if world.random.chance(0.2) {
                world.commit();
            }
            if world.random.chance(0.01) {
                world.lose_power(20 + round);
                expect_acknowledged(&world, seed);
            }
        }
        let done = |world: &World| world.device.is_idle();
        for _ in 0..2_000 {
            world.commit();
            world.run_until(Duration::from_millis(20), done);
        }
        assert!(done(&world), "seed {seed}");
        expect_acknowledged(&world, seed);
        waited += world.server.counters().reports_waiting;
        world.weather = Weather::default();
        settle(&mut world);
    }
    assert!(waited > 0, "no REPORT came again while its commit was under way");
}

/// Round k was reported as k + 1st to leaf k % 50.
fn expect_acknowledged(world: &World, seed: u64) {
    for round in 0..world.device.acknowledged_through() as u32 {
        let held = round_of(&world.tree.leaves[round as usize % 50]);
        assert!(held >= round, "seed {seed}: {round} was acknowledged, {held} is held");
    }
}

#[test]
fn acks_of_one_commit_share_datagrams_and_none_comes_before_it() {
    let mut world = World::new(3, MemTree::new(50, 64), 0);
    world.tree.staged = Some(Vec::new());
    world.run_for(SECOND);
    for leaf in 0..40_u32 {
        world.device.report(world.now, DataLocId(leaf), &[7; 60]).unwrap();
        world.device.flush(world.now);
    }
    world.run_for(SECOND);
    assert_eq!((world.acknowledged, world.device.is_idle()), (0, false));
    assert_eq!(world.tree.leaves[0].data, b"", "not before it is durable");
    world.commit();
    world.run_for(Duration::from_millis(10));
    assert_eq!((world.acknowledged, world.device.is_idle()), (40, true));
    assert_eq!(world.server.counters().acks, 1);
    world.run_for(SECOND);
    let counters = world.server.counters();
    assert_eq!((counters.leaves_changed, counters.conflated), (40, 0), "each is in an EVENT");
}

#[test]
fn reports_of_a_tree_that_grew_wait_until_they_are_renumbered() {
    let mut world = World::new(14, MemTree::new(50, 64), 0);
    let config = DeviceConfig { layout: LayoutWish::Pull, tree_id: None };
    world.device = Device::new(config, Box::new(Seeded::new(5)), world.now);
    let has_layout = |world: &World| world.device_events.contains(&DeviceEvent::Layout);
    assert!(world.run_until(SECOND, has_layout));
    world.weather.loss = 1.0;
    let now = world.now;
    // The sixth leaf of the second parent, and one that will be gone.
    world.device.report(now, DataLocId(30), b"kept").unwrap();
    world.device.report(now, DataLocId(49), b"gone").unwrap();
    world.device.flush(now);
    world.run_for(Duration::from_millis(50));
    world.weather.loss = 0.0;
    world.tree = MemTree::new(80, 64);
    world.device_events.clear();
    world.restart_server(20);
    assert!(world.run_until(30 * SECOND, has_layout));
    world.run_for(SECOND);
    let now = world.now;
    assert_eq!(world.device.report(now, DataLocId(1), b"early"), Err(ReportError::NotJoined));
    assert!(world.tree.leaves.iter().all(|leaf| leaf.data.is_empty()));
    let place = |leaf: DataLocId| (leaf.0 < 49).then_some(DataLocId(leaf.0 + 15));
    world.device.renumber(now, place);
    world.device.report(now, DataLocId(1), b"later").unwrap();
    assert!(world.run_until(SECOND, |world| world.device.is_idle()));
    assert_eq!(world.tree.leaves[45].data, b"kept");
    assert_eq!(world.tree.leaves[1].data, b"later");
    assert_eq!(world.tree.leaves.iter().filter(|leaf| !leaf.data.is_empty()).count(), 2);
    let (leaf, reason) = (DataLocId(49), RefusalReason::UnknownLeaf);
    let gone = DeviceEvent::LeafRefused { leaf, reason, detail: 80 };
    assert!(world.device_events.contains(&gone));
}

#[test]
fn a_report_that_cannot_be_written_is_refused_with_its_reason() {
    let mut world = World::new(15, MemTree::new(50, 64), 0);
    world.run_for(SECOND);
    let now = world.now;
    world.device.report(now, DataLocId(50), b"no such leaf").unwrap();
    world.device.report(now, DataLocId(1), &[1; 65]).unwrap();
    world.device.report(now, DataLocId(2), b"good").unwrap();
    world.device.flush(now);
    assert!(world.run_until(SECOND, |world| world.device.is_idle()));
    let refused = |leaf, reason, detail| DeviceEvent::LeafRefused { leaf, reason, detail };
    let unknown = refused(DataLocId(50), RefusalReason::UnknownLeaf, 50);
    let large = refused(DataLocId(1), RefusalReason::TooLarge, 64);
    assert!(world.device_events.contains(&unknown));
    assert!(world.device_events.contains(&large));
    assert_eq!(world.acknowledged, 1);
    assert_eq!(world.tree.leaves[1].data, b"");
    assert_eq!(world.tree.leaves[2].data, b"good");
}

#[test]
fn the_change_flag_never_travels_and_revisions_never_fall() {
    let mut world = World::new(16, MemTree::new(60, 64), 1);
    let mut highest = vec![Revision::ZERO; 60];
    world.weather = storm();
    for round in 0..200_u32 {
        world.write(round % 60, b"again and again");
        world.run_for(Duration::from_millis(11));
        let Some(tree) = &world.copies[0].tree else { continue };
        for leaf in 0..60 {
            let revision = tree.revision(DataLocId(leaf));
            assert!(revision >= highest[leaf as usize], "leaf {leaf} went backwards");
            highest[leaf as usize] = revision;
        }
    }
}

#[test]
fn leaves_whose_flag_an_earlier_run_left_set_reach_every_client() {
    let mut world = World::new(17, MemTree::new(1_000, 64), 1);
    settle(&mut world);
    world.write(3, b"written, and the server died before its period ended");
    world.restart_server(20);
    world.run_for(3 * SECOND);
    settle(&mut world);
}

#[test]
fn a_forged_far_event_deafens_nobody() {
    let mut world = World::new(18, MemTree::new(1_000, 64), 1);
    settle(&mut world);
    let joined = *world.copies[0].client.joined().unwrap();
    for event_num in [1 << 40, u64::MAX - 1, u64::MAX] {
        let header = Header {
            event_num: U64::new(event_num),
            channel: U64::new(joined.view_id),
            ..session_header(&joined, DatagramType::Event)
        };
        let mut forged = Vec::new();
        wire::encode(&mut forged, &header, &(), &[], 0);
        world.forge(0, forged);
        world.write(1, b"life goes on");
        world.run_for(SECOND);
    }
    settle(&mut world);
    let counters = world.copies[0].client.counters();
    assert!(counters.false_runs > 0);
    assert!(counters.requests < 100, "no storm: {}", counters.requests);
}

#[test]
fn an_answer_that_brings_nothing_still_tells_of_a_lost_event() {
    for request_id in [0, 99] {
        let mut world = World::new(24, MemTree::new(50, 64), 1);
        settle(&mut world);
        let joined = *world.copies[0].client.joined().unwrap();
        let header = Header {
            event_num: U64::new(joined.event_num + 1),
            ..session_header(&joined, DatagramType::Response)
        };
        // To the REQUEST that renews the lease, and to one that is given up.
        let body = ResponseBody { request_id: U32::new(request_id), ..ResponseBody::new_zeroed() };
        let mut answer = Vec::new();
        wire::encode(&mut answer, &header, &body, &[], 0);
        world.copies[0].verdicts.clear();
        world.forge(0, answer);
        assert_eq!(world.copies[0].verdicts, [ClientEvent::OutOfSync], "id {request_id}");
    }
}

#[test]
fn a_restart_never_turns_a_reported_leaf_back() {
    let mut world = World::new(19, MemTree::new(50, 64), 0);
    world.run_for(SECOND);
    for value in [b"one", b"two"] {
        let now = world.now;
        world.device.report(now, DataLocId(3), value).unwrap();
        world.device.flush(now);
    }
    // The first is written, and its acknowledgement is lost; the second waits for it.
    world.run_for(Duration::from_micros(1));
    world.weather.loss = 1.0;
    world.run_for(Duration::from_millis(50));
    assert_eq!(world.tree.leaves[3].data, b"one");
    world.weather.loss = 0.0;
    world.restart_server(20);
    let before = world.tree.newest_revision();
    assert!(world.run_until(30 * SECOND, |world| world.device.is_idle()));
    assert_eq!(world.tree.leaves[3].data, b"two");
    let written = world.tree.newest_revision().0 - before.0.max(world.tree.life.base().0);
    assert_eq!(written, 1, "only the newest value was sent again");
    assert_eq!(world.acknowledged, 2);
}

#[test]
fn a_client_of_another_version_is_told_in_its_own() {
    let mut world = World::new(20, MemTree::new(50, 64), 0);
    let header = Header {
        datagram_type: DatagramType::Hello.code(),
        version: 9,
        channel: U64::new(77),
        ..Header::default()
    };
    let mut hello = Vec::new();
    wire::encode(&mut hello, &header, &(), &[], wire::DOOR_DATAGRAM_LEN);
    let answers = world.knock(50, &hello);
    let [answer] = answers.as_slice() else { panic!("one answer, found {}", answers.len()) };
    assert!(answer.len() * 5 <= hello.len(), "no amplifier");
    let header = Header::read_from_prefix(answer).unwrap().0;
    assert_eq!((header.version, header.channel.get()), (9, 77));
    assert_eq!(header.flags.get(), ByeReason::Version.code());
    assert_eq!(header.detail.get(), u32::from(wire::PROTOCOL_VERSION));
}

#[test]
fn an_unproven_address_gets_less_than_it_sent_and_no_session() {
    let mut world = World::new(21, MemTree::new(50, 64), 0);
    let sessions = world.server.session_count();
    for datagram_type in DatagramType::ALL {
        let header = Header {
            datagram_type: datagram_type.code(),
            version: wire::PROTOCOL_VERSION,
            channel: U64::new(77),
            ..Header::default()
        };
        let mut bytes = Vec::new();
        wire::encode(&mut bytes, &header, &[0_u8; 600], &[], wire::DOOR_DATAGRAM_LEN);
        let answers = world.knock(60, &bytes);
        let sent: usize = answers.iter().map(Vec::len).sum();
        assert!(sent * 5 <= bytes.len(), "{datagram_type:?} was answered with {sent} bytes");
    }
    assert_eq!(world.server.session_count(), sessions);
}

#[test]
fn an_old_init_that_comes_again_does_not_end_the_session() {
    let mut world = World::new(22, MemTree::new(50, 64), 1);
    world.weather.duplication = 1.0;
    world.weather.jitter_us = 400_000;
    assert!(world.run_until(30 * SECOND, |world| world.is_equal(0)));
    world.weather = Weather::default();
    world.run_for(9 * SECOND);
    settle(&mut world);
    assert_eq!(world.server.session_count(), 2);
}

#[test]
fn a_client_that_finds_its_server_full_after_a_restart_waits_for_room() {
    let mut world = World::new(23, MemTree::new(50, 64), 2);
    settle(&mut world);
    world.config.sessions_max = 2;
    world.copies[0].is_stopped = true;
    world.copies[1].is_stopped = true;
    world.restart_server(20);
    // The device and one client fill it; the other is refused and waits.
    world.run_for(11 * SECOND);
    world.copies[0].is_stopped = false;
    world.run_for(5 * SECOND);
    world.copies[1].is_stopped = false;
    world.run_for(5 * SECOND);
    assert!(!world.copies[1].client.is_in_sync());
    assert!(world.server.counters().refused > 0);
    world.copies[0].is_stopped = true;
    assert!(world.run_until(30 * SECOND, |world| world.copies[1].client.is_in_sync()));
}

#[test]
fn clients_that_come_at_once_share_the_sessions_that_there_are() {
    let mut world = World::new(24, MemTree::new(50, 64), 5);
    world.config.sessions_max = 3;
    world.restart_server(20);
    // All of them hold half-open sessions before the first one confirms.
    world.run_for(9 * SECOND);
    let in_sync = world.copies.iter().filter(|copy| copy.client.is_in_sync()).count();
    let devices = usize::from(world.device.joined().is_some());
    assert_eq!(in_sync + devices, 3);
    assert_eq!(world.server.session_count(), 3);
    assert!(world.server.counters().refused > 0);
}

#[test]
fn a_leaf_is_under_way_once_and_its_newest_data_wins() {
    for seed in SEEDS {
        let mut world = World::new(seed, MemTree::new(4, 200), 0);
        world.weather = storm();
        assert!(world.run_until(30 * SECOND, |world| world.device.joined().is_some()));
        // 200 bytes a leaf: REPORTs fill up in the middle of a round.
        for round in 0..300_u32 {
            let leaf = DataLocId(round % 3);
            let data = [&round.to_le_bytes()[..], &[7; 196]].concat();
            while world.device.report(world.now, leaf, &data).is_err() {
                world.run_for(Duration::from_millis(1));
            }
            if round % 7 == 0 {
                world.device.flush(world.now);
            }
            let through = world.device.acknowledged_through();
            let kept = (0..through as u32).rev().take(3);
            for known in kept {
                let held = round_of(&world.tree.leaves[known as usize % 3]);
                assert!(held >= known, "seed {seed}: {known} is acknowledged, {held} is held");
            }
            let before: Vec<u32> = world.tree.leaves.iter().map(round_of).collect();
            world.run_for(Duration::from_micros(300));
            let after: Vec<u32> = world.tree.leaves.iter().map(round_of).collect();
            assert!(before.iter().zip(&after).all(|(a, b)| a <= b), "seed {seed}: turned back");
        }
        world.device.flush(world.now);
        assert!(world.run_until(30 * SECOND, |world| world.device.is_idle()), "seed {seed}");
        let rounds: Vec<u32> = world.tree.leaves.iter().map(round_of).collect();
        assert_eq!(rounds[..3], [297, 298, 299]);
        assert_eq!(world.acknowledged, 300, "each report counts, replaced ones too");
        assert_eq!(world.device.acknowledged_through(), 300);
    }
}

fn round_of(leaf: &MemLeaf) -> u32 {
    leaf.data.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[test]
fn a_device_is_done_soon_after_its_last_report_in_a_storm() {
    for seed in SEEDS {
        let mut world = World::new(seed, MemTree::new(50, 64), 0);
        world.weather = Weather { loss: 0.3, duplication: 0.01, jitter_us: 500 };
        assert!(world.run_until(30 * SECOND, |world| world.device.joined().is_some()));
        for round in 0..100_u32 {
            let leaf = DataLocId(round % 50);
            while world.device.report(world.now, leaf, &round.to_le_bytes()).is_err() {
                world.run_for(Duration::from_millis(1));
            }
            world.device.flush(world.now);
            world.run_for(Duration::from_millis(5));
        }
        let end = world.now;
        assert!(world.run_until(30 * SECOND, |world| world.device.is_idle()), "seed {seed}");
        let took = world.now.since(end);
        assert!(took < SECOND, "seed {seed}: {took:?} of virtual time");
    }
}

#[test]
fn every_leaf_is_compared_by_its_checksum_now_and_then() {
    for leaves in [100, 1_000] {
        let mut world = World::new(24, MemTree::new(leaves, 64), 1);
        settle(&mut world);
        let before = *world.copies[0].client.counters();
        world.run_for(130 * SECOND);
        let after = world.copies[0].client.counters();
        let sections = u64::from(leaves.div_ceil(280));
        let requests = after.requests_with_checksums - before.requests_with_checksums;
        assert!(requests >= 2 * sections, "{leaves} leaves: {requests} REQUESTs in two minutes");
        assert_eq!(after.leaves_repaired, before.leaves_repaired, "nothing differed");
    }
}

#[test]
fn a_device_finds_a_server_that_was_restarted_before_it_noticed() {
    let mut world = World::new(25, MemTree::new(50, 64), 0);
    world.run_for(5 * SECOND);
    world.restart_server(20);
    world.device.report(world.now, DataLocId(7), b"to the new one").unwrap();
    world.device.flush(world.now);
    assert!(world.run_until(4 * SECOND, |world| world.device.is_idle()));
    assert_eq!(world.tree.leaves[7].data, b"to the new one");
    assert_eq!(world.device.counters().rejoins, 1);
}
