//! Models of the hand-over between the loop and its senders, run through every
//! interleaving and every value that an ordering lets a load see.
//!
//! The functions under test are the product's: `Handover::fill`, `hand_over` and
//! `end`, `Taker::take`. Only their atomics and their sleep are loom's (`order`); the locks
//! around the parts are std's, which loom does not know and which therefore order
//! nothing for it. What lies in a part is a word that the loop writes plainly: loom
//! ends a run in which a sender's look at it is not ordered against that, in either
//! direction. Each ordering has a mutant that must be found.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::Mutex;

use loom::sync::atomic::AtomicU64;
use loom::thread;
use loom::thread::JoinHandle;

use crate::runtime::handover::Handover;
use crate::runtime::handover::Lanes;
use crate::runtime::handover::Taken;
use crate::runtime::handover::Taker;
use crate::runtime::order::Mutant;
use crate::runtime::order::Ordering;
use crate::runtime::order::leave_out;
use crate::tree::models::every_run;

/// What lies in a part.
type Word = AtomicU64;

/// A sender that notes what it saw in each part.
fn sender(mut taker: Taker<Word>) -> JoinHandle<Vec<u64>> {
    thread::spawn(move || {
        let mut seen = Vec::new();
        while taker.take(|word| seen.push(word.load(Ordering::Relaxed))) == Taken::One {}
        seen
    })
}

/// A loop with so many parts and lanes.
struct Loop {
    handover: Handover<Word>,
    senders: Vec<JoinHandle<Vec<u64>>>,
    /// What each lane was handed.
    handed: Vec<Vec<u64>>,
    dropped: u64,
}

impl Loop {
    fn new(parts: usize, lanes: usize) -> Loop {
        let parts = (0..parts).map(|_| Word::new(0)).collect();
        let (mut handover, takers) = Handover::new(parts, lanes);
        let senders: Vec<_> = takers.into_iter().map(sender).collect();
        let threads = senders.iter().map(|sender| sender.thread().clone());
        threads.enumerate().for_each(|(lane, thread)| handover.attach(lane, thread));
        Loop { handover, senders, handed: vec![Vec::new(); lanes], dropped: 0 }
    }

    /// Fills a part, if one is free.
    fn fill(&mut self, value: u64) -> Option<usize> {
        let filled = self.handover.fill(|word| word.with_mut(|word| *word = value));
        self.dropped += u64::from(filled.is_err());
        filled.ok()
    }

    fn hand_over(&mut self, part: usize, lanes: &[usize]) {
        let to = lanes.iter().fold(Lanes::default(), |to, lane| to.and(*lane));
        let mut value = 0;
        self.handover.hand_over(part, to, |word| value = word.load(Ordering::Relaxed));
        lanes.iter().for_each(|lane| self.handed[*lane].push(value));
    }

    fn send(&mut self, value: u64, lanes: &[usize]) {
        if let Some(part) = self.fill(value) {
            self.hand_over(part, lanes);
        }
    }

    /// Ends the senders. Each has seen what its lane was handed: all of it, in that
    /// order, once.
    fn end(mut self) -> Outcome {
        self.handover.end();
        for (sender, handed) in self.senders.into_iter().zip(&self.handed) {
            let seen = sender.join().expect("no sender panics");
            assert!(seen == *handed, "handed over {handed:?}, sent {seen:?}");
        }
        Outcome { dropped: self.dropped, wakes: self.handover.wakes() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Outcome {
    dropped: u64,
    wakes: u64,
}

/// What came out in one run or another: a model that never sees a case shows nothing
/// about it.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Outcome>>>);

impl Seen {
    fn note(&self, outcome: Outcome) {
        let mut all = self.0.lock().expect("no test panics here");
        if !all.contains(&outcome) {
            all.push(outcome);
        }
    }

    fn any(&self, case: impl Fn(&Outcome) -> bool) -> bool {
        self.0.lock().expect("no test panics here").iter().any(case)
    }
}

/// Three values through two parts to one sender: a part is used again.
fn one_sender() -> Outcome {
    let mut work = Loop::new(2, 1);
    (1..=3).for_each(|value| work.send(value, &[0]));
    work.end()
}

/// One part to two senders, and used again for one of them.
fn two_senders() -> Outcome {
    let mut work = Loop::new(1, 2);
    work.send(1, &[0, 1]);
    work.send(2, &[1]);
    work.end()
}

#[test]
fn a_sender_gets_what_it_was_handed_whole_in_order_and_once() {
    let seen = Seen::default();
    let model = seen.clone();
    every_run("three parts to one sender", move || model.note(one_sender()));
    assert!(seen.any(|outcome| outcome.dropped == 0), "a part is used again");
    assert!(seen.any(|outcome| outcome.dropped == 1), "the loop finds no part and goes on");
    assert!(seen.any(|outcome| outcome.wakes == 0) && seen.any(|outcome| outcome.wakes > 1));
}

/// Of two parts the first is handed over behind the second, and then used again.
fn one_later() -> Outcome {
    let mut work = Loop::new(2, 1);
    let first = work.fill(1).expect("no part is in use");
    work.send(2, &[0]);
    work.hand_over(first, &[0]);
    work.send(3, &[0]);
    work.end()
}

#[test]
fn a_part_that_is_handed_over_later_is_sent_behind_those_before_it() {
    let seen = Seen::default();
    let model = seen.clone();
    every_run("two parts, the first one later", move || model.note(one_later()));
    assert!(seen.any(|outcome| outcome.dropped == 0) && seen.any(|outcome| outcome.dropped == 1));
}

#[test]
fn a_part_is_used_again_when_every_sender_is_done_with_it() {
    let seen = Seen::default();
    let model = seen.clone();
    every_run("one part to two senders", move || model.note(two_senders()));
    assert!(seen.any(|outcome| outcome.dropped == 0) && seen.any(|outcome| outcome.dropped == 1));
}

/// Whether a model finds out that an ordering is missing, by the panic of a check
/// that says so.
fn finds(mutant: Mutant, expected: &str) {
    leave_out(Some(mutant));
    let model = || every_run("a mutant", || _ = one_sender());
    let outcome = catch_unwind(AssertUnwindSafe(model));
    leave_out(None);
    let panic = outcome.expect_err("the model passes without the ordering");
    let text = panic.downcast_ref::<String>().map_or("another kind of panic", String::as_str);
    assert!(text.contains(expected), "expected {expected:?}, found {text:?}");
}

/// loom's words for accesses that nothing orders.
const RACE: &str = "Causality violation";

#[test]
fn the_release_of_a_publication_is_needed() {
    finds(Mutant::ReleasePublication, RACE);
}

#[test]
fn the_release_of_a_part_that_is_done_is_needed() {
    finds(Mutant::ReleaseDone, RACE);
}

#[test]
fn the_acquisitions_are_needed() {
    finds(Mutant::AcquireLoads, RACE);
}

#[test]
fn looking_for_a_sleeper_and_publishing_must_be_one_step() {
    // loom's word for threads that sleep for ever.
    finds(Mutant::SwapInTwoSteps, "deadlock");
}
