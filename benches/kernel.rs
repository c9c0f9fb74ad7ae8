//! Speed of the kernels, against what they replace and against reading the
//! same memory.
//!
//! ```text
//! cargo bench --bench kernel                 all, and a table of ratios
//! cargo bench --bench kernel -- scan         one group
//! cargo bench --bench kernel -- --test       each once, over little memory
//! ```
//!
//! CRC32C is compared with the crates crc32c and crc-fast, in the second-level cache and over a
//! mapped file of 256 MiB, there on one thread and on two.
//!
//! Ratios are what counts: both sides of each run in the same minute, on the
//! same memory. Absolute figures depend on the machine and on its neighbours.

use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use memmap2::Mmap;

use mapleaf::kernel::ChangedSet;
use mapleaf::kernel::ChecksumKernel;
use mapleaf::kernel::DiffKernel;
use mapleaf::kernel::RevisionColumn;

/// Half of the smallest L2 among common machines, so that it all stays there.
const IN_L2: usize = 128 << 10;

/// Many times the L3 that one core can fill on common machines.
const IN_MEMORY: usize = 256 << 20;

/// Records that a thread computes between two looks for more work.
const SHARE_LEN: usize = 4 << 20;

/// Leaves of the tree that is scanned.
const LEAVES: u32 = 1_000_000;

/// Checksums that fit one datagram of 64 KiB.
const COLUMN: usize = 16 << 10;

/// A ratio of two medians that a change must not spoil.
struct Target {
    group: &'static str,
    ours: String,
    base: Base,
}

enum Base {
    /// Our throughput is at least so many times that of another function.
    Faster(String, f64),
    /// Our time is at most so many nanoseconds.
    WithinNs(f64),
}

fn main() {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("criterion-kernel");
    let small = std::env::args().any(|arg| arg == "--test");
    let mut criterion = Criterion::default()
        .output_directory(&home)
        .without_plots()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .sample_size(40)
        .configure_from_args();
    let mut targets = Vec::new();
    checksum(&mut criterion, &mut targets);
    mapped(&mut criterion, if small { IN_L2 } else { IN_MEMORY }, &mut targets);
    scan(&mut criterion, &mut targets);
    mark(&mut criterion, &mut targets);
    diff(&mut criterion, &mut targets);
    revisions(&mut criterion);
    criterion.final_summary();
    if !small {
        targets.iter().for_each(|target| target.print(&home));
    }
}

/// A way to compute the records of an area, by name.
type Way = (String, Box<dyn Fn(&[u8], &mut [u32]) + Sync>);

/// Every way to compute records of `stride` bytes, and reading them.
fn ways(stride: usize) -> Vec<Way> {
    let ours = ChecksumKernel::available().into_iter().map(move |kernel| -> Way {
        let lens = vec![stride as u32; SHARE_LEN / stride];
        let run = move |area: &[u8], out: &mut [u32]| {
            kernel.batch(area, stride, &lens[..out.len()], out).expect("records in their area");
        };
        (kernel.name().into(), Box::new(run))
    });
    let one_by_one = |name: &str, crc: fn(&[u8]) -> u32| -> Way {
        let run = move |area: &[u8], out: &mut [u32]| {
            area.chunks_exact(stride).zip(out).for_each(|(record, out)| *out = crc(record));
        };
        (name.into(), Box::new(run))
    };
    let reading = |area: &[u8], out: &mut [u32]| out[0] = read(area) as u32;
    ours.chain([
        one_by_one("crate crc32c", crc32c::crc32c),
        one_by_one("crate crc-fast", crc_fast::crc32_iscsi),
        ("reading".into(), Box::new(reading)),
    ])
    .collect()
}

fn checksum(criterion: &mut Criterion, targets: &mut Vec<Target>) {
    let name = "checksum in L2";
    let area = noise(IN_L2);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::BytesDecimal(IN_L2 as u64));
    for stride in [64, 256, 1024] {
        let mut out = vec![0; IN_L2 / stride];
        for (way, run) in ways(stride) {
            group.bench_function(BenchmarkId::new(way, stride), |b| {
                b.iter(|| run(black_box(&area), &mut out));
            });
        }
        let best = ChecksumKernel::detect().name();
        for (base, times) in [("crate crc32c", 3.0), ("crate crc-fast", 1.0)] {
            let (ours, base) = (format!("{best}_{stride}"), format!("{base}_{stride}"));
            targets.push(Target { group: name, ours, base: Base::Faster(base, times) });
        }
    }
}

/// Records of a mapped file, as a tree has them: in memory, and in pages of 4 KiB.
fn mapped(criterion: &mut Criterion, len: usize, targets: &mut Vec<Target>) {
    let name = "checksum in a mapped file";
    let map = map_noise(len);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::BytesDecimal(len as u64)).sample_size(10);
    for stride in [64, 256, 1024] {
        for threads in [1, 2] {
            for (way, run) in ways(stride) {
                let id = format!("{way} x{threads}");
                group.bench_function(BenchmarkId::new(id, stride), |b| {
                    b.iter(|| on_threads(threads, black_box(&map), stride, &run));
                });
            }
            let best = ChecksumKernel::detect().name();
            for (base, times) in [("crate crc32c", 2.0), ("crate crc-fast", 1.0), ("reading", 0.85)]
            {
                let ours = format!("{best} x{threads}_{stride}");
                let base = Base::Faster(format!("{base} x{threads}_{stride}"), times);
                targets.push(Target { group: name, ours, base });
            }
        }
    }
}

/// Lets each thread compute a part of its own, in shares.
fn on_threads(
    threads: usize,
    area: &[u8],
    stride: usize,
    run: &(impl Fn(&[u8], &mut [u32]) + Sync),
) {
    let compute = |part: &[u8]| {
        let mut out = vec![0; SHARE_LEN / stride];
        for share in part.chunks(SHARE_LEN) {
            run(share, &mut out[..share.len() / stride]);
            black_box(&out);
        }
    };
    let parts = area.chunks(area.len() / threads);
    thread::scope(|scope| {
        let (first, others) = (parts.clone().next(), parts.skip(1));
        others.for_each(|part| drop(scope.spawn(|| compute(part))));
        first.into_iter().for_each(compute);
    });
}

/// A mapped file without a name, filled.
#[allow(unsafe_code)]
fn map_noise(len: usize) -> Mmap {
    let mut file = tempfile::tempfile().expect("a temporary file");
    let piece = noise(1 << 20);
    for written in (0..len).step_by(piece.len()) {
        let piece = &piece[..piece.len().min(len - written)];
        file.write_all(piece).expect("room for a temporary file");
    }
    // SAFETY: the file has no name and this is its only handle, so that nobody else can
    // write or cut it.
    let map = unsafe { Mmap::map(&file) }.expect("a mapping");
    // The first touch is not what is measured.
    black_box(read(&map));
    map
}

fn scan(criterion: &mut Criterion, targets: &mut Vec<Target>) {
    let mut group = criterion.benchmark_group("scan of 1 M leaves");
    let mut set = ChangedSet::new(LEAVES);
    let mut out = Vec::with_capacity(LEAVES as usize);
    for (changed, limit) in [(0, Some(300.0)), (10, Some(600.0)), (10_000, None)] {
        let leaves: Vec<u32> = spread(changed).collect();
        group.bench_function(BenchmarkId::new("mark and take", changed), |b| {
            b.iter(|| {
                leaves.iter().for_each(|leaf| set.mark(*leaf));
                out.clear();
                black_box(&mut set).take(&mut out);
                out.len()
            });
        });
        let ours = format!("mark and take_{changed}");
        let target = |ns| Target { group: "scan of 1 M leaves", ours, base: Base::WithinNs(ns) };
        targets.extend(limit.map(target));
    }
}

fn mark(criterion: &mut Criterion, targets: &mut Vec<Target>) {
    let mut group = criterion.benchmark_group("mark");
    let leaves: Vec<u32> = spread(10_000).collect();
    group.throughput(Throughput::Elements(1));
    // Between two takes the same leaves change again and again.
    for (name, emptied) in [("first", true), ("again", false)] {
        let mut set = ChangedSet::new(LEAVES);
        let mut out = Vec::with_capacity(leaves.len());
        leaves.iter().for_each(|leaf| set.mark(*leaf));
        group.bench_function(name, |b| {
            b.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times.div_ceil(leaves.len() as u64) {
                    if emptied {
                        out.clear();
                        set.take(&mut out);
                    }
                    let start = Instant::now();
                    black_box(&leaves).iter().for_each(|leaf| set.mark(*leaf));
                    spent += start.elapsed();
                }
                // Whole rounds were measured, `times` were asked for.
                let rounds = times.div_ceil(leaves.len() as u64) * leaves.len() as u64;
                spent.mul_f64(times as f64 / rounds as f64)
            });
        });
        targets.push(Target { group: "mark", ours: name.into(), base: Base::WithinNs(10.0) });
    }
}

fn diff(criterion: &mut Criterion, targets: &mut Vec<Target>) {
    let name = "difference of 16 k checksums";
    let mut group = criterion.benchmark_group(name);
    let ours = numbers(COLUMN);
    let mut out = Vec::with_capacity(COLUMN);
    group.throughput(Throughput::BytesDecimal(8 * COLUMN as u64));
    for per_mille in [0, 10, 100] {
        let theirs = differing_column(&ours, per_mille);
        let bytes: Vec<u8> = theirs.iter().flat_map(|item| item.to_le_bytes()).collect();
        for kernel in DiffKernel::available() {
            let id = |what: &str| BenchmarkId::new(format!("{}{what}", kernel.name()), per_mille);
            group.bench_function(id(""), |b| {
                b.iter(|| {
                    out.clear();
                    kernel.differing(black_box(&ours), black_box(&theirs), 0, &mut out);
                });
            });
            group.bench_function(id(" bytes"), |b| {
                b.iter(|| {
                    out.clear();
                    kernel.differing_le(black_box(&ours), black_box(&bytes), 0, &mut out);
                });
            });
        }
        group.bench_function(BenchmarkId::new("reading both", per_mille), |b| {
            b.iter(|| read_both(black_box(&ours), black_box(&theirs)));
        });
        let ours = format!("{}_{per_mille}", DiffKernel::detect().name());
        let base = Base::Faster(format!("reading both_{per_mille}"), 0.8);
        targets.push(Target { group: name, ours, base });
    }
}

fn revisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("revisions of 1 M leaves");
    let mut column = RevisionColumn::new(LEAVES);
    (0..LEAVES).for_each(|leaf| column.set(leaf, u64::from(leaf) + 1));
    group.bench_function("nothing newer", |b| {
        b.iter(|| black_box(&column).next_since(0, LEAVES, u64::from(LEAVES)));
    });
    group.bench_function("last leaf newer", |b| {
        b.iter(|| black_box(&column).next_since(0, LEAVES, u64::from(LEAVES) - 1));
    });
    let mut leaf = 0;
    let mut revision = u64::from(LEAVES);
    group.bench_function("set", |b| {
        b.iter(|| {
            leaf = (leaf + 7919) % LEAVES;
            revision += 1;
            column.set(leaf, revision);
        });
    });
    group.bench_function("lower a maximum", |b| {
        b.iter(|| {
            black_box(&mut column).set(5, u64::MAX);
            column.set(5, 0);
        });
    });
}

impl Target {
    /// One line: what was measured, the ratio, and the limit.
    fn print(&self, home: &Path) {
        let Some(ours) = median_ns(home, self.group, &self.ours) else { return };
        let name = format!("{}/{}", self.group, self.ours);
        match &self.base {
            Base::WithinNs(limit) => println!("{name:50} {ours:12.1} ns    limit {limit} ns"),
            Base::Faster(base, least) => {
                let Some(theirs) = median_ns(home, self.group, base) else { return };
                let ratio = theirs / ours;
                println!("{name:50} {ours:12.1} ns    {ratio:6.2} x {base}, limit {least}");
            }
        }
    }
}

/// The median that criterion wrote down, if the function was run.
fn median_ns(home: &Path, group: &str, function: &str) -> Option<f64> {
    let (function, size) = function.rsplit_once('_').unwrap_or((function, ""));
    let path: PathBuf = [group, function, size, "new", "estimates.json"].iter().collect();
    let json = fs::read_to_string(home.join(path)).ok()?;
    let (_, median) = json.split_once("\"median\"")?;
    let (_, point) = median.split_once("\"point_estimate\":")?;
    point.split([',', '}']).next()?.trim().parse().ok()
}

/// Every `LEAVES / count`-th leaf.
fn spread(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |i| (u64::from(i) * u64::from(LEAVES) / u64::from(count)) as u32)
}

fn numbers(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect()
}

fn noise(len: usize) -> Vec<u8> {
    numbers(len.div_ceil(4)).iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// `ours` with so many items of 1,000 changed, at places without a pattern.
fn differing_column(ours: &[u32], per_mille: u32) -> Vec<u32> {
    let mut state = 1_u32;
    let mut change = |item: &u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        item ^ u32::from((state >> 8) % 1000 < per_mille)
    };
    ours.iter().map(&mut change).collect()
}

/// Reads all of it, as wide as the compiler can.
fn read(area: &[u8]) -> u64 {
    let (words, _) = area.as_chunks::<8>();
    words.iter().fold(0, |all, word| all ^ u64::from_ne_bytes(*word))
}

fn read_both(ours: &[u32], theirs: &[u32]) -> u32 {
    ours.iter().zip(theirs).fold(0, |all, (a, b)| all ^ a ^ b)
}
