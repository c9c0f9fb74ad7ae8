//! The changes: what the server's process writes, and when.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use mapleaf::layout::DataLocId;
use mapleaf::runtime::Feed;
use mapleaf::runtime::FeedWriter;
use mapleaf::runtime::Next;

use crate::machine::now_ns;
use crate::turns::Turns;

/// Most changes of one call that is behind its rate: some 50 us.
const BURST: u64 = 256;

/// Every leaf once, so many a call.
const FILLED_AT_ONCE: u32 = 256;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing.
    Paused,
    /// Every leaf once, in order; then nothing.
    Filling,
    /// Random leaves, as fast as it goes.
    Fast,
    /// Random leaves, so many a second.
    Paced { rate: u64 },
    /// Leaves in an order that comes back to a leaf only after all others.
    InTurn { rate: u64 },
    /// So many leaves at once, each another one, time and again.
    Bursts { changes: u32, every: Duration },
}

/// What the measurement tells the feed, and hears of it.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    mode: AtomicU8,
    /// Of bursts: their changes, and the microseconds from one to the next.
    rate: AtomicU64,
    every: AtomicU64,
    /// Rises with each order, so that a rate counts from it.
    number: AtomicU64,
    /// Changes are marked with it; 0 means that they are not timed.
    round: AtomicU32,
    updates: AtomicU64,
    /// From one call of the feed to the next, when that is timed.
    turns: Mutex<Option<Turns>>,
    timed: AtomicBool,
}

impl Orders {
    pub(crate) fn set(&self, mode: Mode) {
        let mut us = 0;
        let (code, rate) = match mode {
            Mode::Paused => (0, 0),
            Mode::Filling => (1, 0),
            Mode::Fast => (2, 0),
            Mode::Paced { rate } => (3, rate),
            Mode::InTurn { rate } => (4, rate),
            Mode::Bursts { changes, every } => {
                us = every.as_micros() as u64;
                (5, changes.into())
            }
        };
        self.every.store(us, Ordering::Relaxed);
        self.rate.store(rate, Ordering::Relaxed);
        self.number.fetch_add(1, Ordering::Relaxed);
        self.mode.store(code, Ordering::Release);
    }

    pub(crate) fn mode(&self) -> Mode {
        let code = self.mode.load(Ordering::Acquire);
        let rate = self.rate.load(Ordering::Relaxed);
        match code {
            1 => Mode::Filling,
            2 => Mode::Fast,
            3 => Mode::Paced { rate },
            4 => Mode::InTurn { rate },
            5 => Mode::Bursts {
                changes: u32::try_from(rate).unwrap_or(u32::MAX),
                every: Duration::from_micros(self.every.load(Ordering::Relaxed)),
            },
            _ => Mode::Paused,
        }
    }

    pub(crate) fn set_round(&self, round: u32) {
        self.round.store(round, Ordering::Release);
    }

    /// Changes made so far.
    pub(crate) fn updates(&self) -> u64 {
        self.updates.load(Ordering::Acquire)
    }

    /// Times the turns of the loop from now on.
    pub(crate) fn time_turns(&self) {
        *self.kept_turns() = Some(Turns::default());
        self.timed.store(true, Ordering::Release);
    }

    /// The turns that were timed, which ends their timing.
    pub(crate) fn turns(&self) -> Turns {
        self.timed.store(false, Ordering::Release);
        self.kept_turns().take().unwrap_or_default()
    }

    fn kept_turns(&self) -> MutexGuard<'_, Option<Turns>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts changes that somebody else makes.
    pub(crate) fn note(&self, updates: u64) {
        self.updates.fetch_add(updates, Ordering::Release);
    }

    /// When a change is made, and in which round, for its Data; nothing if it is not
    /// timed.
    fn stamp(&self) -> (u64, u32) {
        match self.round.load(Ordering::Acquire) {
            0 => (0, 0),
            round => (now_ns(), round),
        }
    }
}

/// Data of a change: when it was made, in which round, and something that differs.
pub(crate) fn mark(data: &mut [u8], (moment, round): (u64, u32), number: u64) {
    if let Some((head, _)) = data.split_first_chunk_mut::<16>() {
        head[..8].copy_from_slice(&moment.to_le_bytes());
        head[8..12].copy_from_slice(&round.to_le_bytes());
        head[12..].copy_from_slice(&(number as u32).to_le_bytes());
    }
}

/// When Data was made, and in which round; nothing if it is not timed.
pub(crate) fn marked(data: &[u8]) -> Option<(u64, u32)> {
    let (moment, rest) = data.split_first_chunk::<8>()?;
    let (round, _) = rest.split_first_chunk::<4>()?;
    let round = u32::from_le_bytes(*round);
    (round > 0).then_some((u64::from_le_bytes(*moment), round))
}

/// Random numbers that are good enough to choose leaves (xorshift64*).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        ((u64::from((self.next() >> 32) as u32) * u64::from(limit)) >> 32) as u32
    }
}

/// Writes what the orders say.
pub(crate) struct Load {
    orders: Arc<Orders>,
    /// Changes of one call at full speed.
    batch: u32,
    data: Vec<u8>,
    random: Random,
    /// The next leaf of those in order.
    next_leaf: u32,
    /// The order that is carried out, and since when, with its changes so far.
    number: u64,
    begun: Instant,
    made: u64,
    /// The burst under way: what is left of it, or when the next one is due.
    left: u32,
    next_burst: Instant,
}

/// From one leaf of a burst to the next: a prime, so that they lie anywhere in a tree
/// and none comes twice.
const STRIDE: u32 = 7_919;

impl Load {
    pub(crate) fn new(orders: Arc<Orders>, batch: u32, size: u32) -> Load {
        let data = (0..size).map(|place| place as u8).collect();
        let random = Random(0x9e37_79b9_7f4a_7c15);
        let begun = Instant::now();
        Load {
            orders,
            batch,
            data,
            random,
            next_leaf: 0,
            number: 0,
            begun,
            made: 0,
            left: 0,
            next_burst: begun,
        }
    }

    /// The tree is of the leaves that are written: nothing is refused.
    fn write(&mut self, writer: &mut FeedWriter<'_>, leaf: u32) {
        mark(&mut self.data, self.orders.stamp(), self.made);
        self.made += 1;
        if let Err(error) = writer.write(DataLocId(leaf), &self.data) {
            panic!("the server's tree does not take a leaf: {error}");
        }
    }

    fn write_random(&mut self, writer: &mut FeedWriter<'_>, count: u64) {
        for _ in 0..count {
            let leaf = self.random.below(writer.leaf_count());
            self.write(writer, leaf);
        }
        self.orders.note(count);
    }

    fn write_in_turn(&mut self, writer: &mut FeedWriter<'_>, count: u64, stride: u32) {
        let leaves = writer.leaf_count();
        for _ in 0..count {
            let leaf = self.next_leaf % leaves;
            self.next_leaf = (leaf + stride) % leaves;
            self.write(writer, leaf);
        }
        self.orders.note(count);
    }

    /// Some of a burst, so that a call is short. A burst that is late is not made up
    /// for: a period has one.
    fn write_burst(&mut self, writer: &mut FeedWriter<'_>, changes: u32, every: Duration) -> Next {
        if self.left == 0 {
            let now = Instant::now();
            if now < self.next_burst {
                return Next::At(self.next_burst);
            }
            self.left = changes;
            self.next_burst = (self.next_burst + every).max(now);
        }
        let count = u64::from(self.left).min(BURST);
        self.write_in_turn(writer, count, STRIDE);
        self.left -= count as u32;
        Next::Now
    }

    fn write_all(&mut self, writer: &mut FeedWriter<'_>) -> Next {
        let end = self.next_leaf.saturating_add(FILLED_AT_ONCE).min(writer.leaf_count());
        for leaf in self.next_leaf..end {
            self.write(writer, leaf);
        }
        self.next_leaf = end;
        if end < writer.leaf_count() {
            return Next::Now;
        }
        self.next_leaf = 0;
        self.orders.set(Mode::Paused);
        Next::Woken
    }

    /// Notes that a turn of the loop has ended, if that is wanted.
    fn note_turn(&mut self) {
        if self.orders.timed.load(Ordering::Acquire)
            && let Some(turns) = &mut *self.orders.kept_turns()
        {
            turns.note();
        }
    }

    /// How many changes are due by now.
    fn due(&self, rate: u64) -> u64 {
        let by_now = (self.begun.elapsed().as_secs_f64() * rate as f64) as u64;
        by_now.saturating_sub(self.made).min(BURST)
    }

    /// The moment of the next change.
    fn next(&self, rate: u64) -> Next {
        let moment = Duration::from_secs_f64((self.made + 1) as f64 / rate.max(1) as f64);
        Next::At(self.begun + moment)
    }
}

impl Feed for Load {
    fn fill(&mut self, writer: &mut FeedWriter<'_>) -> Next {
        self.note_turn();
        let number = self.orders.number.load(Ordering::Relaxed);
        let mode = self.orders.mode();
        if number != self.number {
            (self.number, self.begun, self.made) = (number, Instant::now(), 0);
            (self.left, self.next_burst) = (0, self.begun);
        }
        match mode {
            Mode::Paused => return Next::Woken,
            Mode::Filling => return self.write_all(writer),
            Mode::Fast => self.write_random(writer, self.batch.into()),
            Mode::Paced { rate } => match self.due(rate) {
                0 => return self.next(rate),
                due => self.write_random(writer, due),
            },
            Mode::InTurn { rate } => match self.due(rate) {
                0 => return self.next(rate),
                due => self.write_in_turn(writer, due, 1),
            },
            Mode::Bursts { changes, every } => return self.write_burst(writer, changes, every),
        }
        Next::Now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_say_when_they_were_made() {
        let mut data = [9; 20];
        mark(&mut data, (77, 3), 5);
        assert_eq!(marked(&data), Some((77, 3)));
        mark(&mut data, (0, 0), 6);
        assert_eq!(marked(&data), None);
        assert_eq!(marked(&data[..11]), None);
    }

    #[test]
    fn orders_are_understood() {
        let orders = Orders::default();
        assert_eq!(orders.mode(), Mode::Paused);
        let (rate, modes) = (5, [Mode::Filling, Mode::Fast]);
        let bursts = Mode::Bursts { changes: 7, every: Duration::from_millis(3) };
        for mode in modes.into_iter().chain([Mode::Paced { rate }, Mode::InTurn { rate }, bursts]) {
            orders.set(mode);
            assert_eq!(orders.mode(), mode);
        }
        assert_eq!(orders.stamp(), (0, 0));
        orders.set_round(2);
        assert_eq!(orders.stamp().1, 2);
    }

    #[test]
    fn random_leaves_are_all_leaves() {
        let mut random = Random(1);
        let mut seen = [false; 10];
        (0..1_000).for_each(|_| seen[random.below(10) as usize] = true);
        assert_eq!(seen, [true; 10]);
    }
}
