//! What the processes of one measurement tell each other: counters in a shared file.
//!
//! The rivals' own ways are left to the values alone. To count, to begin and to end goes
//! through this file, which costs a rival a store in memory.

use std::fs::File;
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use memmap2::MmapRaw;

/// What the publisher does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing, but what joins ask for.
    Idle,
    /// Random leaves as fast as subscribers follow.
    Fast,
    /// Random leaves, so many a second.
    Paced,
    /// Every leaf once, in order.
    Fill,
}

/// Words of the whole measurement.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub enum Word {
    Mode,
    Rate,
    /// Rises with each order, so that a rate counts from it.
    Order,
    /// Not 0 while latencies are recorded.
    Timed,
    /// How often somebody has asked for all leaves.
    Asked,
    /// The publisher can publish.
    PublisherReady,
    /// Values that were published.
    Made,
    /// The last order that was carried out to its end.
    Filled,
}

/// Words of one subscriber.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub enum Sub {
    /// It can receive; a rival with addresses puts its port here.
    Ready,
    /// Changes that were applied.
    Applied,
    /// Leaves that were applied because they were told again: those are no changes.
    Told,
    /// Values that never came, by the gaps in their numbers.
    Missed,
    /// When the newest value that was applied was made.
    Newest,
    /// Before the first thing it did for the rival.
    Begun,
    /// When it had every leaf.
    Whole,
    Histogram,
}

/// Most subscribers.
pub const SUBSCRIBERS_MAX: usize = 66;

/// Six bits behind the highest one: a bucket is 1.6 % wide.
const MANTISSA: u32 = 6;
pub const BUCKETS: usize = 64 << MANTISSA;
const SUB_WORDS: usize = 16 + BUCKETS;
const SUBS_AT: usize = 16;
const WORDS: usize = SUBS_AT + SUBSCRIBERS_MAX * SUB_WORDS;

/// The file, mapped.
pub struct Board {
    map: MmapRaw,
}

impl Board {
    pub fn create(path: &Path) -> anyhow::Result<Board> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.set_len(8 * WORDS as u64)?;
        Board::map(&file)
    }

    pub fn open(path: &Path) -> anyhow::Result<Board> {
        Board::map(&OpenOptions::new().read(true).write(true).open(path)?)
    }

    fn map(file: &File) -> anyhow::Result<Board> {
        let map = MmapRaw::map_raw(file)?;
        anyhow::ensure!(map.len() == 8 * WORDS, "the board has {} bytes", map.len());
        Ok(Board { map })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS);
        // SAFETY: the map is page-aligned, 8 * WORDS bytes long and lives as long as self;
        // index is below WORDS; every process uses its words as atomics alone.
        unsafe { &*self.map.as_mut_ptr().cast::<AtomicU64>().add(index) }
    }

    pub fn get(&self, word: Word) -> u64 {
        self.word(word as usize).load(Ordering::Acquire)
    }

    pub fn set(&self, word: Word, value: u64) {
        self.word(word as usize).store(value, Ordering::Release);
    }

    pub fn raise(&self, word: Word) -> u64 {
        self.word(word as usize).fetch_add(1, Ordering::AcqRel) + 1
    }

    pub fn sub(&self, number: usize, word: Sub) -> u64 {
        self.word(sub_word(number, word)).load(Ordering::Acquire)
    }

    pub fn set_sub(&self, number: usize, word: Sub, value: u64) {
        self.word(sub_word(number, word)).store(value, Ordering::Release);
    }

    pub fn mode(&self) -> Mode {
        match self.get(Word::Mode) {
            1 => Mode::Fast,
            2 => Mode::Paced,
            3 => Mode::Fill,
            _ => Mode::Idle,
        }
    }

    /// Gives the publisher something else to do; gives the number of the order.
    pub fn order(&self, mode: Mode, rate: u64) -> u64 {
        self.set(Word::Rate, rate);
        self.set(Word::Mode, mode as u64);
        self.raise(Word::Order)
    }

    /// Subscribers that are ready are the first so many.
    pub fn ready(&self) -> usize {
        (0..SUBSCRIBERS_MAX).take_while(|number| self.sub(*number, Sub::Ready) > 0).count()
    }

    pub fn time(&self, number: usize, nanoseconds: u64) {
        let word = self.word(sub_word(number, Sub::Histogram) + bucket(nanoseconds));
        // One thread of one process counts here.
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub fn histogram(&self, number: usize) -> Vec<u64> {
        let begin = sub_word(number, Sub::Histogram);
        (begin..begin + BUCKETS).map(|at| self.word(at).load(Ordering::Relaxed)).collect()
    }
}

fn sub_word(number: usize, word: Sub) -> usize {
    assert!(number < SUBSCRIBERS_MAX);
    SUBS_AT + number * SUB_WORDS + word as usize
}

fn bucket(value: u64) -> usize {
    let value = value.max(1 << MANTISSA);
    let shift = value.ilog2() - MANTISSA;
    (shift as usize) << MANTISSA | (value >> shift) as usize & ((1 << MANTISSA) - 1)
}

/// The middle of a bucket, in nanoseconds.
fn middle(bucket: usize) -> f64 {
    let low = (1_u64 << MANTISSA) + (bucket as u64 & ((1 << MANTISSA) - 1));
    (low as f64 + 0.5) * 2_f64.powi((bucket >> MANTISSA) as i32)
}

/// The latency in microseconds that a share of a histogram stays below.
pub fn quantile(histogram: &[u64], share: f64) -> f64 {
    let wanted = (histogram.iter().sum::<u64>() as f64 * share).ceil() as u64;
    let mut seen = 0;
    let found = histogram.iter().position(|count| {
        seen += count;
        seen >= wanted.max(1)
    });
    found.map_or(f64::NAN, |bucket| middle(bucket) / 1e3)
}

/// Nanoseconds of the monotonic clock, which all processes of a machine share.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, and there is one.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(done, 0, "there is a monotonic clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_value_to_two_percent() {
        for value in [64, 65, 1_000, 12_345, 987_654_321, u64::MAX / 3] {
            let off = middle(bucket(value)) / value as f64;
            assert!((0.98..1.02).contains(&off), "{value}: {off}");
            assert!(bucket(value) < BUCKETS);
        }
    }

    #[test]
    fn half_of_all_lie_below_the_median() {
        let mut histogram = vec![0; BUCKETS];
        histogram[bucket(1_000)] = 50;
        histogram[bucket(9_000)] = 50;
        assert!((quantile(&histogram, 0.5) - 1.0).abs() < 0.02);
        assert!((quantile(&histogram, 0.51) - 9.0).abs() < 0.2);
    }
}
