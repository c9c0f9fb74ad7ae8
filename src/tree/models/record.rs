//! A leaf's record between its writer and its readers: docs/FORMAT.md, section 7.

use loom::thread;

use super::*;
use crate::tree::order::Ordering;
use crate::tree::read::attempt_read;
use crate::tree::write::ARMED_AT;
use crate::tree::write::SAVED_LEN_AT;
use crate::tree::write::disarm;
use crate::tree::write::put_back;

/// One reader looks while one write goes on.
fn a_read_beside_a_write(seen: &Seen) {
    let mut leaf = Leaf::written(1);
    let reader = leaf.reader();
    let beside = thread::spawn(move || read(&reader));
    leaf.write(2);
    seen.note(beside.join().expect("a whole leaf"));
    assert_eq!(read(&leaf.reader()), Some(2));
}

#[test]
fn a_read_beside_a_write_is_the_leaf_before_or_after() {
    let seen = Seen::default();
    let model = seen.clone();
    every_run("a read beside a write", move || a_read_beside_a_write(&model));
    // Nothing: both attempts found the write going on. The product makes 100,064.
    assert_eq!(seen.sorted(), [None, Some(1), Some(2)]);
}

/// One attempt while two writes go on: words of three writes may be mixed.
#[test]
fn an_attempt_beside_two_writes_is_one_of_three_leaves_or_none() {
    let seen = Seen::default();
    let model = seen.clone();
    every_run("an attempt beside two writes", move || {
        let mut leaf = Leaf::written(1);
        let (map, record) = (Arc::clone(leaf.owner.map()), leaf.record);
        let beside = thread::spawn(move || {
            let mut data = Vec::new();
            attempt_read(&map, &record, &mut data).map(|head| whole(&head, &data))
        });
        leaf.write(2);
        leaf.write(3);
        model.note(beside.join().expect("a whole leaf, or none"));
    });
    assert_eq!(seen.sorted(), [None, Some(1), Some(2), Some(3)]);
}

/// A reader that looks twice never goes back.
#[test]
fn two_reads_beside_a_write_never_go_back() {
    let seen = Seen::default();
    let model = seen.clone();
    every_run("two reads beside a write", move || {
        let mut leaf = Leaf::written(1);
        let reader = leaf.reader();
        let beside = thread::spawn(move || [read(&reader), read(&reader)]);
        leaf.write(2);
        let found = beside.join().expect("whole leaves");
        assert!(found[1].is_none() || found[0] <= found[1], "went back: {found:?}");
        found.iter().for_each(|one| model.note(*one));
    });
    assert_eq!(seen.sorted(), [None, Some(1), Some(2)]);
}

/// What a writer acknowledged is what a reader finds that was told of it.
#[test]
fn a_reader_that_was_told_of_a_write_finds_it() {
    every_run("a read behind a write", || {
        let mut leaf = Leaf::written(1);
        let reader = leaf.reader();
        let told = Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let tell = Arc::clone(&told);
        let beside = thread::spawn(move || told.load(Ordering::Acquire).then(|| read(&reader)));
        leaf.write(2);
        tell.store(true, Ordering::Release);
        if let Some(found) = beside.join().expect("a whole leaf") {
            assert_eq!(found, Some(2), "told of what cannot be seen");
        }
    });
}

/// A writer dies after any of its stores, and the next owner puts the leaf back as
/// recovery does, while a reader looks all the time.
fn a_read_beside_a_death(stores: u64, seen: &Seen) -> bool {
    let mut leaf = Leaf::written(1);
    let reader = leaf.reader();
    let beside = thread::spawn(move || read(&reader));
    leaf.owner.stores_left.set(stores);
    leaf.write(2);
    let whole = leaf.owner.stores_left.get() > 0;
    leaf.owner.stores_left.set(u64::MAX);
    let odd = leaf.owner.load_u32(leaf.record.offset) % 2 == 1;
    let found = read(&leaf.reader());
    // Whoever reads what nobody writes any more is told that it is not whole.
    assert_eq!(found.is_none(), odd, "{found:?}");
    recover(&mut leaf);
    let after = read(&leaf.reader()).expect("a leaf at rest");
    assert_eq!(after, found.unwrap_or(1), "recovery keeps a whole leaf");
    seen.note(beside.join().expect("a whole leaf, or none"));
    whole
}

/// As `Undo::find` and `repair` do, which read the file.
fn recover(leaf: &mut Leaf) {
    let armed = leaf.owner.load_u32(UNDO_AT + ARMED_AT) == LEAF.0 + 1;
    if armed && leaf.owner.load_u32(leaf.record.offset) % 2 == 1 {
        let mut saved = vec![0; leaf.owner.load_u32(UNDO_AT + SAVED_LEN_AT) as usize];
        leaf.owner.copy_out(SAVED_AT, &mut saved);
        put_back(&mut leaf.owner, &leaf.record, &saved);
    }
    disarm(&mut leaf.owner);
}

#[test]
fn a_writer_that_dies_after_any_store_is_noticed_and_tears_nothing() {
    let (seen, whole) = (Seen::default(), Arc::new(Mutex::new(false)));
    for stores in 0.. {
        let (model, end) = (seen.clone(), Arc::clone(&whole));
        every_run(&format!("a read beside a death after {stores} stores"), move || {
            *end.lock().expect("no test panics here") = a_read_beside_a_death(stores, &model);
        });
        if *whole.lock().expect("no test panics here") {
            break;
        }
    }
    assert_eq!(seen.sorted(), [None, Some(1), Some(2)]);
}

fn one_reader() {
    every_run("a mutant", || a_read_beside_a_write(&Seen::default()));
}

#[test]
fn the_writers_fence_behind_odd_is_needed() {
    finds(Mutant::FenceBehindOdd, one_reader, "torn");
}

#[test]
fn the_readers_fence_before_its_second_look_is_needed() {
    finds(Mutant::FenceBeforeSecondLook, one_reader, "torn");
}

#[test]
fn the_readers_fence_behind_its_first_look_is_needed() {
    finds(Mutant::FenceBehindFirstLook, one_reader, "torn");
}

#[test]
fn the_release_of_the_even_seq_is_needed() {
    finds(Mutant::ReleaseStores, one_reader, "torn");
}
