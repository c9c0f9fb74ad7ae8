//! The job that is the same for everyone: values, the replica, and the publisher's loop.

use std::thread;
use std::time::Duration;

use crate::board::Board;
use crate::board::Mode;
use crate::board::Sub;
use crate::board::Word;
use crate::board::now_ns;

/// Bytes of a value: leaf, whether it is timed, number, moment, and filling.
pub const VALUE: usize = 200;

/// What a value says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    pub leaf: u32,
    /// Not 0 if its latency is of interest.
    pub timed: u32,
    /// The number of the change; 0 of a leaf that is told again.
    pub seq: u64,
    pub moment: u64,
}

impl Value {
    pub fn read(value: &[u8]) -> Value {
        let (leaf, timed) = (u32_at(value, 0), u32_at(value, 4));
        Value { leaf, timed, seq: u64_at(value, 8), moment: u64_at(value, 16) }
    }
}

/// A subscriber's state, and the counting.
pub struct Replica {
    board: Board,
    number: usize,
    state: Vec<u8>,
    /// Leaves that have come at least once.
    seen: Vec<bool>,
    missing: usize,
    next: u64,
    applied: u64,
    told: u64,
    missed: u64,
}

impl Replica {
    pub fn new(board: Board, number: usize, leaves: usize) -> Replica {
        // Written once, so that no page is first touched while it is measured.
        let state = vec![1; leaves * VALUE];
        let seen = vec![false; leaves];
        let (next, applied, told, missed) = (0, 0, 0, 0);
        Replica { board, number, state, seen, missing: leaves, next, applied, told, missed }
    }

    /// The rival has subscribed: `port` is where, if it has such a thing.
    pub fn ready(&self, port: u16) {
        self.board.set_sub(self.number, Sub::Ready, u64::from(port).max(1));
    }

    /// The last thing before the rival is first called.
    pub fn begin(&self) {
        self.board.set_sub(self.number, Sub::Begun, now_ns());
    }

    /// Applies all values of a message.
    pub fn take(&mut self, message: &[u8]) {
        let (mut timed, mut moment) = (0, 0);
        for value in message.chunks_exact(VALUE) {
            (timed, moment) = self.apply(value);
        }
        self.board.set_sub(self.number, Sub::Missed, self.missed);
        self.board.set_sub(self.number, Sub::Told, self.told);
        self.board.set_sub(self.number, Sub::Applied, self.applied);
        self.board.set_sub(self.number, Sub::Newest, moment);
        if timed > 0 {
            self.board.time(self.number, now_ns().saturating_sub(moment));
        }
    }

    fn apply(&mut self, value: &[u8]) -> (u32, u64) {
        let Value { leaf, timed, seq, moment } = Value::read(value);
        let leaf = leaf as usize;
        assert!(leaf < self.seen.len(), "a value of leaf {leaf}");
        self.state[leaf * VALUE..][..VALUE].copy_from_slice(value);
        // 0 is a leaf told again, not a change; the first number is where it began.
        if seq == 0 {
            self.told += 1;
        } else {
            self.applied += 1;
            self.missed += if self.next == 0 { 0 } else { seq.saturating_sub(self.next) };
            self.next = seq + 1;
        }
        if !self.seen[leaf] {
            self.seen[leaf] = true;
            self.missing -= 1;
            if self.missing == 0 {
                self.board.set_sub(self.number, Sub::Whole, now_ns());
            }
        }
        (timed, moment)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What a rival does for a publisher.
pub trait Sender {
    /// Publishes one message. `leaf` is its first, for rivals with keys.
    fn send(&mut self, leaf: u32, message: &[u8]) -> anyhow::Result<()>;

    /// Hands on what is still held back to be sent in larger pieces.
    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Looks at who has come: called while there is nothing to send.
    fn look(&mut self, _board: &Board) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What the publisher is told when it starts.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub leaves: u32,
    /// Values in a message.
    pub records: u32,
    /// Most values that the slowest subscriber may be behind; 0 if the rival itself holds
    /// a publisher that is too fast.
    pub window: u64,
    /// Spins between changes instead of sleeping.
    pub spin: bool,
}

/// After this, what has not come is lost, and the window opens again.
const STALLED: Duration = Duration::from_millis(50);

/// A look at the counters of 64 subscribers costs some microseconds: one in this many.
const VALUES_A_LOOK: u32 = 256;

/// Most that is sent at once by one who is behind its rate.
const BURST: u64 = 256;

pub struct Publisher<'a, S: Sender + ?Sized = dyn Sender> {
    board: &'a Board,
    terms: Terms,
    sender: Box<S>,
    message: Vec<u8>,
    random: u64,
    made: u64,
    seq: u64,
    /// Values that count as lost.
    forgiven: u64,
    moved: (u64, u64),
    doing: Doing,
}

/// The order that is carried out: when it began, and what was made of it. How often all
/// leaves were told.
struct Doing {
    order: u64,
    begun: u64,
    made: u64,
    told: u64,
}

impl<'a, S: Sender + ?Sized> Publisher<'a, S> {
    pub fn new(board: &'a Board, terms: Terms, sender: Box<S>) -> Publisher<'a, S> {
        let message = (0..terms.records as usize * VALUE).map(|at| at as u8).collect();
        let random = 0x9e37_79b9_7f4a_7c15;
        let (made, seq, forgiven, moved) = (0, 0, 0, (0, 0));
        let doing = Doing { order: u64::MAX, begun: 0, made: 0, told: 0 };
        Publisher { board, terms, sender, message, random, made, seq, forgiven, moved, doing }
    }

    pub fn sender(&mut self) -> &mut S {
        &mut self.sender
    }

    /// Does what the board says until the process is ended.
    pub fn run(&mut self) -> anyhow::Result<()> {
        loop {
            let wait = self.turn()?;
            if !wait.is_zero() {
                thread::sleep(wait);
            }
        }
    }

    /// Does a part of what the board says, and says how long nothing is to be done then.
    pub fn turn(&mut self) -> anyhow::Result<Duration> {
        self.board.set(Word::PublisherReady, 1);
        let (now, asked) = (self.board.get(Word::Order), self.board.get(Word::Asked));
        if now != self.doing.order {
            self.doing = Doing { order: now, begun: now_ns(), made: 0, told: self.doing.told };
        }
        if asked != self.doing.told {
            self.doing.told = asked;
            self.tell_all()?;
        }
        match self.board.mode() {
            Mode::Idle => {
                self.sender.look(self.board)?;
                Ok(Duration::from_micros(500))
            }
            Mode::Fast => self.send_fast(),
            Mode::Paced => self.send_due(),
            Mode::Fill if self.board.get(Word::Filled) == now => Ok(Duration::from_millis(1)),
            Mode::Fill => {
                self.tell_all()?;
                self.board.set(Word::Filled, now);
                Ok(Duration::ZERO)
            }
        }
    }

    fn send_fast(&mut self) -> anyhow::Result<Duration> {
        if self.terms.window > 0 && self.behind() >= self.terms.window {
            self.sender.flush()?;
            return Ok(Duration::from_micros(50));
        }
        for _ in 0..VALUES_A_LOOK.div_ceil(self.terms.records) {
            self.send_random()?;
        }
        self.board.set(Word::Made, self.made);
        Ok(Duration::ZERO)
    }

    fn behind(&mut self) -> u64 {
        let done =
            |number| self.board.sub(number, Sub::Applied) + self.board.sub(number, Sub::Missed);
        let least = (0..self.board.ready()).map(done).min().unwrap_or(0);
        let now = now_ns();
        if least != self.moved.0 {
            self.moved = (least, now);
        } else if now - self.moved.1 > STALLED.as_nanos() as u64 {
            self.forgiven = self.made.saturating_sub(least);
        }
        self.made.saturating_sub(least + self.forgiven)
    }

    fn send_due(&mut self) -> anyhow::Result<Duration> {
        let (rate, records) = (self.board.get(Word::Rate), u64::from(self.terms.records));
        let Doing { begun, made, .. } = self.doing;
        let due = (u128::from(now_ns() - begun) * u128::from(rate) / 1_000_000_000) as u64;
        if due < made + records {
            if self.terms.spin {
                return Ok(Duration::ZERO);
            }
            let at = begun + (made + records) * 1_000_000_000 / rate;
            return Ok(Duration::from_nanos(at.saturating_sub(now_ns()).min(1_000_000)));
        }
        for _ in 0..((due - made) / records).min(BURST) {
            self.send_random()?;
            self.doing.made += records;
        }
        self.sender.flush()?;
        self.board.set(Word::Made, self.made);
        Ok(Duration::ZERO)
    }

    fn send_random(&mut self) -> anyhow::Result<()> {
        let timed = self.board.get(Word::Timed) as u32;
        let moment = now_ns();
        let mut first = 0;
        for value in self.message.chunks_exact_mut(VALUE) {
            self.random ^= self.random >> 12;
            self.random ^= self.random << 25;
            self.random ^= self.random >> 27;
            let random = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
            first = ((random * u64::from(self.terms.leaves)) >> 32) as u32;
            self.seq += 1;
            mark(value, first, timed, self.seq, moment);
        }
        self.made += u64::from(self.terms.records);
        self.sender.send(first, &self.message)
    }

    /// Every leaf once, in order: the state that a rival without one gets from its user.
    fn tell_all(&mut self) -> anyhow::Result<()> {
        self.sender.look(self.board)?;
        let mut message = self.message.clone();
        let moment = now_ns();
        let (mut told, before) = (0, self.told());
        for leaf in (0..self.terms.leaves).step_by(self.terms.records as usize) {
            let values = (self.terms.leaves - leaf).min(self.terms.records) as usize;
            for (at, value) in message.chunks_exact_mut(VALUE).take(values).enumerate() {
                mark(value, leaf + at as u32, 0, 0, moment);
            }
            self.sender.send(leaf, &message[..values * VALUE])?;
            told += values as u64;
            if self.terms.window > 0 {
                self.wait_for_room(told, &before)?;
            }
        }
        self.sender.flush()
    }

    fn told(&self) -> Vec<u64> {
        (0..self.board.ready()).map(|number| self.board.sub(number, Sub::Told)).collect()
    }

    /// The window again, for leaves that are told.
    fn wait_for_room(&mut self, told: u64, before: &[u64]) -> anyhow::Result<()> {
        let begun = now_ns();
        loop {
            let now = self.told();
            let risen = now.iter().zip(before).map(|(now, before)| now - before).min();
            let is_lost = now_ns() - begun > STALLED.as_nanos() as u64;
            if is_lost || told - risen.unwrap_or(told).min(told) < self.terms.window {
                return Ok(());
            }
            self.sender.flush()?;
            thread::sleep(Duration::from_micros(20));
        }
    }
}

fn mark(value: &mut [u8], leaf: u32, timed: u32, seq: u64, moment: u64) {
    value[..4].copy_from_slice(&leaf.to_le_bytes());
    value[4..8].copy_from_slice(&timed.to_le_bytes());
    value[8..16].copy_from_slice(&seq.to_le_bytes());
    value[16..24].copy_from_slice(&moment.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what is published.
    #[derive(Default)]
    struct Kept(Vec<Value>);

    impl Sender for Kept {
        fn send(&mut self, _: u32, message: &[u8]) -> anyhow::Result<()> {
            self.0.extend(message.chunks_exact(VALUE).map(Value::read));
            Ok(())
        }
    }

    fn board(name: &str) -> &'static Board {
        let path = std::env::temp_dir().join(format!("board-{}-{name}", std::process::id()));
        let board = Board::create(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        Box::leak(Box::new(board))
    }

    fn publisher(board: &'static Board) -> Publisher<'static, Kept> {
        let terms = Terms { leaves: 10, records: 4, window: 0, spin: false };
        Publisher::new(board, terms, Box::default())
    }

    #[test]
    fn a_value_says_what_it_was_marked_with() {
        let mut bytes = [9; VALUE];
        mark(&mut bytes, 7, 1, 1 << 40, 99);
        assert_eq!(Value::read(&bytes), Value { leaf: 7, timed: 1, seq: 1 << 40, moment: 99 });
    }

    #[test]
    fn a_turn_makes_what_is_due_and_says_how_long_to_wait() {
        let board = board("paced");
        let mut publisher = publisher(board);
        assert_eq!(publisher.turn().unwrap(), Duration::from_micros(500), "nothing is asked for");
        board.order(Mode::Paced, 4_000);
        assert!(publisher.turn().unwrap() > Duration::ZERO, "the first message is due in 1 ms");
        assert!(publisher.sender().0.is_empty());
        thread::sleep(Duration::from_millis(3));
        assert_eq!(publisher.turn().unwrap(), Duration::ZERO);
        let made = &publisher.sender().0;
        assert!(made.len() >= 12 && made.len().is_multiple_of(4), "{}", made.len());
        assert!(made.iter().zip(1..).all(|(value, seq)| value.seq == seq && value.leaf < 10));
    }

    #[test]
    fn who_asks_is_told_every_leaf_once() {
        let board = board("told");
        let mut publisher = publisher(board);
        board.raise(Word::Asked);
        for _ in 0..3 {
            publisher.turn().unwrap();
        }
        let told: Vec<_> =
            publisher.sender().0.iter().map(|value| (value.leaf, value.seq)).collect();
        assert_eq!(told, (0..10).map(|leaf| (leaf, 0)).collect::<Vec<_>>());
    }
}
