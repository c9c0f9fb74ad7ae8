//! The hand-over of finished parts from the loop to the threads that send them.
//!
//! The loop owns a fixed number of parts and uses them in turns. It fills one, and
//! hands it to some *lanes*, one a sender; each lane takes what it was handed in that
//! order. A part is filled again when every lane that it was handed to is done with
//! it. If one is not, filling is refused: nothing waits, nothing is queued
//! beyond the parts, and what to do about it is the caller's affair. Between the two the
//! loop may fill and hand over others; a part's turn does not come round before that.
//!
//! Two words a lane are all that is shared beside the parts: how many the loop has
//! published to it (with a bit for a sender that sleeps, and one for the end), and how
//! many it is done with. Each has one writer of its count, and a sender that falls asleep does so
//! in the word that a publication replaces, so no publication is slept through. The
//! locks around the parts are never waited for: the words see to that, and a lock that
//! is found taken is a broken invariant. They are there so that the compiler, too,
//! knows that nobody reads what is being filled.
//!
//! `models/` runs all this through every interleaving.

use std::sync::Arc;
use std::sync::RwLock;

use crate::runtime::order::AtomicU32;
use crate::runtime::order::AtomicU64;
use crate::runtime::order::Ordering;
use crate::runtime::order::SPINS;
use crate::runtime::order::Thread;
use crate::runtime::order::park;
use crate::runtime::order::spin_loop;

/// Most lanes: a bit each in [`Lanes`].
pub(super) const LANES_MAX: usize = 64;

/// In a lane's word: its sender sleeps, or is about to.
const ASLEEP: u64 = 1;
/// In a lane's word: nothing more will come.
const ENDED: u64 = 2;
/// One part in a lane's word. At a million parts a second the count lasts 146,000
/// years.
const ONE: u64 = 4;

/// Some of the lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lanes(u64);

impl Lanes {
    /// One lane.
    pub(super) fn one(lane: usize) -> Lanes {
        Lanes(1 << lane)
    }

    /// These and one more.
    #[must_use]
    pub(super) fn and(self, lane: usize) -> Lanes {
        Lanes(self.0 | 1 << lane)
    }

    fn iter(self) -> impl Iterator<Item = usize> {
        (0..LANES_MAX).filter(move |lane| self.0 >> lane & 1 == 1)
    }
}

/// The part whose turn it is has not been sent by everybody yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// What both sides share of one lane. Each has a cache line of its own, and the one
/// that the processor fetches along with it.
#[derive(Debug)]
#[repr(align(128))]
struct Lane {
    /// Parts published, with [`ASLEEP`] and [`ENDED`].
    word: AtomicU64,
    /// Parts that the sender is done with.
    done: AtomicU64,
    /// The parts in the order of their publication: as many places as there are
    /// parts, so it cannot overflow.
    queue: Box<[AtomicU32]>,
}

#[derive(Debug)]
struct Shared<T> {
    parts: Box<[RwLock<T>]>,
    lanes: Box<[Lane]>,
}

/// The loop's end: it fills parts and hands them over.
#[derive(Debug)]
pub(super) struct Handover<T> {
    shared: Arc<Shared<T>>,
    /// The part whose turn it is.
    next: usize,
    /// Parts that are filled and in no lane yet.
    filled: Box<[bool]>,
    seats: Box<[Seat]>,
}

/// What the loop alone knows of a lane.
#[derive(Debug)]
struct Seat {
    thread: Option<Thread>,
    published: u64,
    /// For each part, how many the lane must be done with before it is filled again.
    waits: Box<[u64]>,
    wakes: u64,
}

impl<T> Handover<T> {
    /// A hand-over of these parts to so many lanes, and the other end of each lane.
    ///
    /// # Panics
    /// There is no part, no lane, or more than [`LANES_MAX`] of them.
    pub(super) fn new(parts: Vec<T>, lanes: usize) -> (Handover<T>, Vec<Taker<T>>) {
        assert!(!parts.is_empty() && (1..=LANES_MAX).contains(&lanes), "{lanes} lanes");
        let count = parts.len();
        let lane = |_| Lane {
            word: AtomicU64::new(0),
            done: AtomicU64::new(0),
            queue: (0..count).map(|_| AtomicU32::new(0)).collect(),
        };
        let seat = |_| Seat { thread: None, published: 0, waits: vec![0; count].into(), wakes: 0 };
        let shared = Arc::new(Shared {
            parts: parts.into_iter().map(RwLock::new).collect(),
            lanes: (0..lanes).map(lane).collect(),
        });
        let taker = |lane| Taker { shared: Arc::clone(&shared), lane, done: 0 };
        let takers = (0..lanes).map(taker).collect();
        let (filled, seats) = (vec![false; count].into(), (0..lanes).map(seat).collect());
        (Handover { shared, next: 0, filled, seats }, takers)
    }

    /// Says which thread takes from a lane, before anything is handed to it.
    pub(super) fn attach(&mut self, lane: usize, thread: Thread) {
        self.seats[lane].thread = Some(thread);
    }

    /// The part whose turn it is.
    pub(super) fn next(&self) -> usize {
        self.next
    }

    /// Lets `fill` fill the part whose turn it is, and gives its number.
    ///
    /// # Errors
    /// That part was not handed over yet, or a lane is not done with it: nothing was filled.
    pub(super) fn fill(&mut self, fill: impl FnOnce(&mut T)) -> Result<usize, Full> {
        let part = self.next;
        let mut lanes = 0..self.seats.len();
        if self.filled[part] || !lanes.all(|lane| self.is_done(lane, self.seats[lane].waits[part]))
        {
            return Err(Full);
        }
        let place = self.shared.parts[part].try_write();
        fill(&mut place.expect("whoever was handed the part is done with it"));
        self.filled[part] = true;
        self.next = (part + 1) % self.shared.parts.len();
        Ok(part)
    }

    /// Lets `look` look at a part that was filled, and hands it to these lanes.
    ///
    /// # Panics
    /// It is not filled, or was handed over already.
    pub(super) fn hand_over(&mut self, part: usize, to: Lanes, look: impl FnOnce(&T)) {
        assert!(std::mem::take(&mut self.filled[part]), "part {part} is not filled");
        look(&self.shared.parts[part].try_read().expect("nobody fills a part twice"));
        to.iter().for_each(|lane| self.publish(lane, part));
    }

    /// Parts that a lane was handed so far.
    pub(super) fn published(&self, lane: usize) -> u64 {
        self.seats[lane].published
    }

    /// Whether a lane is done with the first `count` parts that it was handed. What
    /// the sender did for them happened before.
    pub(super) fn is_done(&self, lane: usize, count: u64) -> bool {
        self.shared.lanes[lane].done.load(Ordering::Acquire) >= count
    }

    /// Parts that the slowest lane is behind.
    pub(super) fn backlog(&self) -> u64 {
        let lanes = self.shared.lanes.iter().zip(&self.seats);
        // Looked at only to judge the lag: it orders nothing.
        let behind = |(lane, seat): (&Lane, &Seat)| {
            seat.published.saturating_sub(lane.done.load(Ordering::Relaxed))
        };
        lanes.map(behind).max().unwrap_or(0)
    }

    /// Number of parts.
    pub(super) fn parts(&self) -> usize {
        self.shared.parts.len()
    }

    /// Number of lanes.
    pub(super) fn lanes(&self) -> usize {
        self.seats.len()
    }

    /// Times that a sleeping sender was woken.
    pub(super) fn wakes(&self) -> u64 {
        self.seats.iter().map(|seat| seat.wakes).sum()
    }

    /// Tells every lane that nothing more comes. Senders end when they are done with
    /// what they were handed.
    pub(super) fn end(&mut self) {
        for lane in 0..self.seats.len() {
            let word = (self.seats[lane].published * ONE) | ENDED;
            self.replace(lane, word);
        }
    }

    fn publish(&mut self, lane: usize, part: usize) {
        let count = self.seats[lane].published;
        let queue = &self.shared.lanes[lane].queue;
        // The place was read long ago: its part has been filled again since. It goes
        // over with the word below.
        queue[count as usize % queue.len()].store(part as u32, Ordering::Relaxed);
        let seat = &mut self.seats[lane];
        seat.published = count + 1;
        seat.waits[part] = count + 1;
        self.replace(lane, (count + 1) * ONE);
    }

    /// Publishes a lane's word, and wakes its sender if that sleeps. A swap, so that
    /// a sender either falls asleep before it and is seen, or after it and sees it.
    fn replace(&mut self, lane: usize, word: u64) {
        let before = self.shared.lanes[lane].word.swap(word, Ordering::Release);
        if before & ASLEEP != 0 {
            let seat = &mut self.seats[lane];
            seat.wakes += 1;
            seat.thread.as_ref().expect("a lane has a thread").unpark();
        }
    }
}

/// A sender's end of a lane.
#[derive(Debug)]
pub(super) struct Taker<T> {
    shared: Arc<Shared<T>>,
    lane: usize,
    done: u64,
}

/// What came of a look at the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A part was worked on.
    One,
    /// Nothing more comes.
    Ended,
}

impl<T> Taker<T> {
    /// Number of the lane.
    pub(super) fn lane(&self) -> usize {
        self.lane
    }

    /// Waits for the next part, lets `work` see it, and gives it back.
    pub(super) fn take(&mut self, work: impl FnOnce(&T)) -> Taken {
        if self.wait() == Taken::Ended {
            return Taken::Ended;
        }
        let lane = &self.shared.lanes[self.lane];
        let place = &lane.queue[self.done as usize % lane.queue.len()];
        let part = place.load(Ordering::Relaxed) as usize;
        let guard = self.shared.parts[part].try_read();
        work(&guard.expect("a part that was handed over is not being filled"));
        self.done += 1;
        lane.done.store(self.done, Ordering::Release);
        Taken::One
    }

    /// Waits until a part was published, or the end.
    fn wait(&self) -> Taken {
        let lane = &self.shared.lanes[self.lane];
        let mut spins = 0;
        loop {
            let word = lane.word.load(Ordering::Acquire);
            if word / ONE > self.done {
                return Taken::One;
            }
            if word & ENDED != 0 {
                return Taken::Ended;
            }
            if spins < SPINS {
                spins += 1;
                spin_loop();
            } else {
                sleep(lane, word);
            }
        }
    }
}

/// Sleeps until the word is replaced, unless it has been already.
fn sleep(lane: &Lane, word: u64) {
    let asleep = word | ASLEEP;
    // Nothing is read because of it: it orders nothing.
    let fell = lane.word.compare_exchange(word, asleep, Ordering::Relaxed, Ordering::Relaxed);
    if fell.is_ok() {
        // Whoever is woken for no reason sleeps on.
        while lane.word.load(Ordering::Relaxed) == asleep {
            park();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::runtime::order::current;

    const WATCHDOG: Duration = Duration::from_secs(60);

    fn send(handover: &mut Handover<u64>, to: Lanes, number: u64) -> Result<(), Full> {
        let part = handover.fill(|part| *part = number)?;
        handover.hand_over(part, to, |_| ());
        Ok(())
    }

    #[test]
    fn a_part_that_is_not_sent_is_not_filled_again() {
        let (mut handover, mut takers) = Handover::new(vec![0; 2], 2);
        takers.iter().for_each(|taker| handover.attach(taker.lane(), current()));
        assert_eq!(send(&mut handover, Lanes::one(0).and(1), 10), Ok(()));
        assert_eq!(send(&mut handover, Lanes::one(1), 11), Ok(()));
        assert_eq!((handover.backlog(), handover.published(0), handover.published(1)), (2, 1, 2));
        assert_eq!(takers[0].take(|part| assert_eq!(*part, 10)), Taken::One);
        assert!(handover.is_done(0, 1) && !handover.is_done(1, 1));
        assert_eq!(handover.fill(|_| panic!("lane 1 has not sent it")), Err(Full));
        assert_eq!(takers[1].take(|part| assert_eq!(*part, 10)), Taken::One);
        assert_eq!(send(&mut handover, Lanes::one(0), 12), Ok(()));
        assert_eq!(takers[1].take(|part| assert_eq!(*part, 11)), Taken::One);
        assert_eq!(takers[0].take(|part| assert_eq!(*part, 12)), Taken::One);
        handover.end();
        takers.iter_mut().for_each(|taker| assert_eq!(taker.take(|_| ()), Taken::Ended));
    }

    #[test]
    fn a_part_may_be_handed_over_behind_others_and_is_not_filled_before() {
        let (mut handover, mut takers) = Handover::new(vec![0; 2], 1);
        handover.attach(0, current());
        assert_eq!(handover.fill(|part| *part = 10), Ok(0));
        assert_eq!(send(&mut handover, Lanes::one(0), 11), Ok(()));
        assert_eq!(takers[0].take(|part| assert_eq!(*part, 11)), Taken::One);
        assert_eq!((handover.backlog(), handover.next()), (0, 0));
        assert_eq!(handover.fill(|_| panic!("it is filled")), Err(Full));
        handover.hand_over(0, Lanes::one(0), |part| assert_eq!(*part, 10));
        assert_eq!(handover.fill(|_| panic!("it is not sent")), Err(Full));
        assert_eq!(takers[0].take(|part| assert_eq!(*part, 10)), Taken::One);
        assert_eq!(handover.fill(|part| *part = 12), Ok(0));
    }

    #[test]
    fn a_sender_that_sleeps_is_woken_and_ends_behind_the_last_part() {
        let (mut handover, mut takers) = Handover::new(vec![0; 4], 1);
        let (tell, told) = mpsc::channel();
        let mut taker = takers.remove(0);
        let sender =
            thread::spawn(
                move || {
                    while taker.take(|part| tell.send(*part).unwrap()) == Taken::One {}
                },
            );
        handover.attach(0, sender.thread().clone());
        for number in 1..=100 {
            // Long enough for the sender to fall asleep.
            if number % 10 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
            assert_eq!(send(&mut handover, Lanes::one(0), number), Ok(()));
            assert_eq!(told.recv_timeout(WATCHDOG), Ok(number));
            while !handover.is_done(0, number) {
                thread::yield_now();
            }
        }
        assert!(handover.wakes() > 0);
        send(&mut handover, Lanes::one(0), 101).unwrap();
        handover.end();
        assert_eq!(told.recv_timeout(WATCHDOG), Ok(101));
        sender.join().unwrap();
    }
}
