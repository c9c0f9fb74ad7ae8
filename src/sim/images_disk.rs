//! A file as a disk may hold it when power fails: each sector in any version between
//! the last completed write-back and the crash.

use core::ops::Range;

use crate::sim::random::Seeded;
use crate::sync::RandomSource;

/// What a disk writes whole: docs/FORMAT.md, section 1.
pub(super) const SECTOR: usize = 512;

/// Sectors that a disk of larger ones loses together: 4 KiB is the largest in use.
const LOST_TOGETHER: usize = 8;

/// Bytes that are stored in one piece.
const WORD: usize = 8;

type Sector = [u8; SECTOR];

/// A moment of a history: they are counted.
pub(super) type Time = u32;

/// Everything that a file ever held, and when it was written back.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// What was on the medium at first.
    base: Vec<u8>,
    /// What it holds in the page cache.
    now: Vec<u8>,
    /// By sector: later versions, ascending.
    versions: Vec<Vec<(Time, Sector)>>,
    /// Sectors that have such.
    changed: Vec<usize>,
    syncs: Vec<Sync>,
    /// Whether what was being written may come back as noise.
    noise: bool,
}

/// A write-back that returned.
#[derive(Clone, Debug)]
struct Sync {
    begin: Time,
    end: Time,
    sectors: Range<usize>,
}

/// Which versions an image prefers: a disk that wrote nothing yet, one that wrote all,
/// and all between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mood {
    /// Of four sectors so many are as old as they can be.
    old: u64,
    /// Of those left, of four so many are as new as they can be.
    new: u64,
    /// Of eight so many are a mix of two versions.
    mixed: u64,
    /// Of eight places that were being written so many hold noise, where they may.
    noise: u64,
}

impl Mood {
    pub(super) fn draw(random: &mut Seeded) -> Mood {
        Mood {
            old: random.between(0, 4),
            new: random.between(0, 4),
            mixed: random.pick(&[0, 0, 1, 4]),
            noise: random.pick(&[0, 0, 1, 4]),
        }
    }
}

impl Disk {
    pub(super) fn new(base: Vec<u8>) -> Disk {
        let versions = vec![Vec::new(); base.len().div_ceil(SECTOR)];
        Disk { now: base.clone(), base, versions, ..Disk::default() }
    }

    /// The same for a file that promises nothing about what is being written: eight
    /// sectors, of which one is, may all hold noise after a crash.
    pub(super) fn with_noise(self) -> Disk {
        Disk { noise: true, ..self }
    }

    pub(super) fn len(&self) -> usize {
        self.base.len()
    }

    /// Notes what the page cache holds now.
    pub(super) fn look(&mut self, time: Time, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.now.len(), "files keep their lengths");
        let sectors = self.now.chunks_exact_mut(SECTOR).zip(bytes.chunks_exact(SECTOR));
        for (at, (known, found)) in sectors.enumerate() {
            if known != found {
                known.copy_from_slice(found);
                let mut sector = [0; SECTOR];
                sector.copy_from_slice(found);
                if self.versions[at].is_empty() {
                    self.changed.push(at);
                }
                self.versions[at].push((time, sector));
            }
        }
    }

    /// A write-back of a part of the file has returned: what was there when it began is
    /// on the medium.
    pub(super) fn synced(&mut self, begin: Time, end: Time, part: &Range<u64>) {
        let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.base.len());
        let sectors = clamp(part.start) / SECTOR..clamp(part.end).div_ceil(SECTOR);
        self.syncs.push(Sync { begin, end, sectors });
    }

    /// Draws what the medium holds after a crash.
    pub(super) fn draw(&self, crash: Time, mood: Mood, random: &mut Seeded, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.base);
        let mut written = Vec::new();
        let returned: Vec<_> = self.syncs.iter().filter(|sync| sync.end <= crash).collect();
        for at in self.changed.iter().copied() {
            let covering = returned.iter().filter(|sync| sync.sectors.contains(&at));
            let safe = covering.map(|sync| sync.begin).max().unwrap_or(0);
            let of_sector = &self.versions[at];
            // Version 0 is the base, version i the one at i - 1.
            let low = of_sector.partition_point(|(time, _)| *time <= safe);
            let high = of_sector.partition_point(|(time, _)| *time <= crash);
            if self.noise && low < high {
                written.push(at / LOST_TOGETHER);
            }
            let picked = pick(low, high, mood, random);
            let place = &mut out[at * SECTOR..][..SECTOR];
            if let Some(before) = picked.checked_sub(1) {
                place.copy_from_slice(&of_sector[before].1);
            }
            if picked < high && random.between(1, 8) <= mood.mixed {
                mix(place, &of_sector[picked].1, random);
            }
        }
        written.sort_unstable();
        written.dedup();
        for place in written {
            if random.between(1, 8) <= mood.noise {
                let begin = place * LOST_TOGETHER * SECTOR;
                let end = (begin + LOST_TOGETHER * SECTOR).min(out.len());
                out[begin..end].fill_with(|| random.next_u64() as u8);
            }
        }
    }
}

fn pick(low: usize, high: usize, mood: Mood, random: &mut Seeded) -> usize {
    if low == high {
        return low;
    }
    if random.between(1, 4) <= mood.old {
        return low;
    }
    if random.between(1, 4) <= mood.new {
        return high;
    }
    low + random.index(high - low + 1)
}

/// A sector that was read from memory while its next version was stored: some words are
/// new. The order of stores is one of these.
fn mix(place: &mut [u8], next: &Sector, random: &mut Seeded) {
    let mask = random.next_u64();
    let words = place.chunks_exact_mut(WORD).zip(next.chunks_exact(WORD));
    for (i, (word, next)) in words.enumerate() {
        if mask >> (i % 64) & 1 == 1 {
            word.copy_from_slice(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(disk: &Disk, crash: Time, at: usize) -> Vec<u8> {
        let mut random = Seeded::new(5);
        let mut seen: Vec<u8> = (0..200)
            .map(|_| {
                let mut out = Vec::new();
                let mood = Mood { mixed: 0, ..Mood::draw(&mut random) };
                disk.draw(crash, mood, &mut random, &mut out);
                out[at]
            })
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn a_sector_is_of_any_time_since_its_last_write_back() {
        let mut disk = Disk::new(vec![0; 2 * SECTOR]);
        let mut bytes = vec![0; 2 * SECTOR];
        for time in 1..=5 {
            bytes[0] = time as u8;
            disk.look(time, &bytes);
        }
        assert_eq!(drawn(&disk, 0, 0), [0]);
        assert_eq!(drawn(&disk, 3, 0), [0, 1, 2, 3]);
        // It began at 2 and returned at 4: what was stored meanwhile may be missing.
        disk.synced(2, 4, &(0..u64::MAX));
        assert_eq!(drawn(&disk, 3, 0), [0, 1, 2, 3]);
        assert_eq!(drawn(&disk, 5, 0), [2, 3, 4, 5]);
        // Of the other sector nothing is known to be stored.
        disk.synced(5, 5, &(512..1024));
        assert_eq!(drawn(&disk, 5, 0), [2, 3, 4, 5]);
        assert_eq!(drawn(&disk, 5, 512), [0]);
    }

    #[test]
    fn a_mixed_sector_has_words_of_both_versions() {
        let mut disk = Disk::new(vec![0; SECTOR]);
        disk.look(1, &[1; SECTOR]);
        let mut random = Seeded::new(1);
        let mut out = Vec::new();
        let mood = Mood { old: 4, new: 0, mixed: 8, noise: 0 };
        disk.draw(1, mood, &mut random, &mut out);
        let new = out.iter().filter(|byte| **byte == 1).count();
        assert!(new > 64 && new < 448 && new.is_multiple_of(WORD), "{new}");
    }

    #[test]
    fn noise_takes_what_a_large_sector_holds_and_nothing_that_is_not_written() {
        let mut disk = Disk::new(vec![0; 24 * SECTOR]).with_noise();
        let mut bytes = vec![0; 24 * SECTOR];
        bytes[9 * SECTOR] = 1;
        disk.look(1, &bytes);
        let mut out = Vec::new();
        let mood = Mood { old: 4, new: 0, mixed: 0, noise: 8 };
        disk.draw(1, mood, &mut Seeded::new(1), &mut out);
        let noisy = |range: Range<usize>| out[range].iter().any(|byte| *byte != 0);
        assert!(noisy(8 * SECTOR..9 * SECTOR) && noisy(15 * SECTOR..16 * SECTOR));
        assert!(!noisy(0..8 * SECTOR) && !noisy(16 * SECTOR..24 * SECTOR));
        disk.synced(1, 2, &(0..u64::MAX));
        disk.draw(2, mood, &mut Seeded::new(1), &mut out);
        assert_eq!(out, bytes);
    }
}
