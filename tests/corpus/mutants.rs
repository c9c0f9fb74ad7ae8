//! Kept inputs, altered at random, in large numbers and without a fuzzer.
//!
//! Coverage finds new inputs (fuzz/); this tries very many near to those that are
//! there, at the speed of the code itself: a datagram takes well below a microsecond.
//! Each run is drawn from the seed, the target and its number alone, so a run that
//! breaks something is made again without those before it.
//!
//! `MAPLEAF_RUNS` is the number of runs of each datagram type; a target that is dearer
//! takes the part of it that [`COSTS`] says. `MAPLEAF_SEED` is the seed, `MAPLEAF_ONLY`
//! a list of targets with a comma between them, `MAPLEAF_THREADS` how many threads,
//! `MAPLEAF_FIRST` the number of the first run.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use mapleaf::wire::DatagramType;

use super::bodies;
use super::bodies::Target;
use super::bodies::datagram;
use super::bodies::datagram::Scratch;
use super::data;
use super::files;

/// Runs of each datagram type with a plain `cargo test`.
const RUNS_DEFAULT: u64 = 20_000;

/// What a run costs, in runs of a datagram's decoder, so that all targets together take
/// some minutes: parsers of text some microseconds, both ends of the protocol ten to
/// twenty, whole files milliseconds.
const COSTS: [(&str, u64); 11] = [
    ("schema", 4),
    ("blob", 3),
    ("dump", 2),
    ("config", 100),
    ("lines", 40),
    ("server", 50),
    ("client", 50),
    ("device", 50),
    ("inspect", 1_000),
    ("open", 2_000),
    ("operations", 2_000),
];

/// Every so many runs the printer and all texts are asked for as well.
const THOROUGH_EVERY: u64 = 256;

/// Runs that a thread takes at a time.
const CHUNK: u64 = 1_024;

/// Longest input: what the fuzzer is given as well, and room for the largest door.
const INPUT_LEN_MAX: usize = 4_096;

fn number(name: &str, default: u64) -> u64 {
    let found = env::var(name).ok();
    found.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// SplitMix64: one step a number, and any state is a good one.
struct Random(u64);

impl Random {
    /// The numbers of one run.
    fn of(seed: u64, target: &str, run: u64) -> Random {
        let named = target
            .bytes()
            .fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let mut random = Random(named);
        random.0 = random.next().wrapping_add(run);
        Random(random.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }
}

/// Numbers at which widths and signs end.
const EDGES: [u64; 10] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

/// Alters `input` a few times.
fn alter(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        alter_once(input, others, random);
    }
    input.truncate(INPUT_LEN_MAX);
}

fn alter_once(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let what = random.below(16);
    if input.is_empty() {
        return input.push(what as u8);
    }
    // Half of all alterations fall where heads lie.
    let end = if random.below(2) == 0 { input.len() } else { input.len().min(96) };
    let at = random.below(end);
    match what {
        0..=3 => input[at] ^= 1 << random.below(8),
        4..=5 => input[at] = random.next() as u8,
        6..=9 => put_number(input, at, random),
        10 => input.truncate(at),
        11 => {
            let more = 1 + random.below(64);
            input.resize(input.len() + more, random.next() as u8);
        }
        12 => {
            let len = 1 + random.below(32);
            input.drain(at..(at + len).min(input.len()));
        }
        13 => {
            let len = (1 + random.below(64)).min(input.len() - at);
            let to = random.below(input.len());
            let len = len.min(input.len() - to);
            input.copy_within(at..at + len, to);
        }
        14 => {
            let len = (1 + random.below(64)).min(input.len() - at);
            let again = input[at..at + len].to_vec();
            input.splice(at..at, again);
        }
        _ => {
            let other = &others[random.below(others.len())];
            if !other.is_empty() {
                let from = random.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}

/// A field of two, four or eight bytes: an edge, near an edge, or near what it was.
fn put_number(input: &mut [u8], at: usize, random: &mut Random) {
    let width = [1, 2, 4, 8][random.below(4)];
    let at = if random.below(2) == 0 { at - at % width } else { at };
    let Some(place) = input.get_mut(at..at + width) else { return };
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(place);
    let base = match random.below(3) {
        0 => u64::from_le_bytes(bytes),
        _ => EDGES[random.below(EDGES.len())],
    };
    let near = base.wrapping_add(random.below(9) as u64).wrapping_sub(4);
    place.copy_from_slice(&near.to_le_bytes()[..width]);
}

/// Says which run it was and keeps its input, if it panics.
struct Run<'a> {
    target: &'a str,
    seed: u64,
    number: u64,
    input: &'a [u8],
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let Run { target, seed, number, input } = self;
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let kept = folder.join(format!("{target}-{seed}-{number}"));
        let written = fs::write(&kept, input).is_ok();
        eprintln!(
            "MAPLEAF_SEED={seed} MAPLEAF_ONLY={target} MAPLEAF_FIRST={number} MAPLEAF_RUNS=1 \
             makes it again; kept in {}: {written}",
            kept.display()
        );
    }
}

/// One target with its inputs.
struct Campaign<'a> {
    target: &'a Target,
    datagram_type: Option<DatagramType>,
    inputs: Vec<Vec<u8>>,
    seed: u64,
    first: u64,
    end: u64,
    next: AtomicU64,
    taken: AtomicU64,
}

impl<'a> Campaign<'a> {
    fn new(target: &'a Target, seed: u64, first: u64, runs: u64) -> Campaign<'a> {
        let read = |path: &PathBuf| fs::read(path).expect("an input");
        let mut inputs: Vec<_> = files(&data().join(target.name)).iter().map(read).collect();
        inputs.extend(golden(target.name));
        let named = |one: &DatagramType| name_of(*one) == target.name;
        Campaign {
            target,
            datagram_type: DatagramType::ALL.iter().copied().find(named),
            inputs,
            seed,
            first,
            end: first + runs,
            next: AtomicU64::new(first),
            taken: AtomicU64::new(0),
        }
    }

    /// Takes chunks of runs until there are none.
    fn work(&self) {
        let (mut scratch, mut input) = (Scratch::default(), Vec::new());
        let mut taken = 0;
        loop {
            let begin = self.next.fetch_add(CHUNK, Ordering::Relaxed);
            if begin >= self.end {
                break;
            }
            for number in begin..(begin + CHUNK).min(self.end) {
                taken += u64::from(self.run(number, &mut input, &mut scratch));
            }
        }
        self.taken.fetch_add(taken, Ordering::Relaxed);
    }

    /// One run. Says whether the bytes were a datagram.
    fn run(&self, number: u64, input: &mut Vec<u8>, scratch: &mut Scratch) -> bool {
        let mut random = Random::of(self.seed, self.target.name, number);
        input.clear();
        input.extend_from_slice(&self.inputs[random.below(self.inputs.len())]);
        alter(input, &self.inputs, &mut random);
        if let (Some(datagram_type), Some(how)) = (self.datagram_type, input.first_mut()) {
            *how = datagram::mostly_right(datagram_type, random.next() as u32);
        }
        let run = Run { target: self.target.name, seed: self.seed, number, input };
        match self.datagram_type {
            Some(datagram_type) if !number.is_multiple_of(THOROUGH_EVERY) => {
                datagram::run_fast(datagram_type, run.input, scratch)
            }
            _ => {
                (self.target.run)(run.input);
                false
            }
        }
    }

    fn run_all(&self, threads: u64) {
        let begun = Instant::now();
        thread::scope(|scope| {
            (0..threads).for_each(|_| {
                scope.spawn(|| self.work());
            });
        });
        let (runs, took) = (self.end - self.first, begun.elapsed());
        let each = took.as_nanos() as u64 * threads / runs.max(1);
        let taken = self.taken.load(Ordering::Relaxed) * 100 / runs.max(1);
        let taken = self.datagram_type.map(|_| format!(", {taken} % decoded")).unwrap_or_default();
        println!(
            "figure: {}: {runs} runs, 0 broken, {each} ns a run and thread{taken}, seed {}",
            self.target.name, self.seed
        );
    }
}

/// Whole datagrams of a type, as a sender makes them: kept inputs are the shortest that
/// reach something. Several times, so that every other run or so begins with one.
fn golden(name: &str) -> Vec<Vec<u8>> {
    const TIMES: usize = 16;
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let of_type = |path: &PathBuf| {
        let name_of_file = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let plain = name_of_file.replace('-', "_");
        path.extension().is_some_and(|end| end == "hex")
            && plain.get(3..).is_some_and(|rest| is_or_begins_with(rest, name))
    };
    let texts = files(&golden).into_iter().filter(of_type);
    let datagrams = texts.map(|path| from_hex(&fs::read_to_string(path).expect("a text")));
    datagrams.flat_map(|datagram| vec![datagram; TIMES]).collect()
}

/// `request` is `request_since`, and `layout` is not `layout_request`.
fn is_or_begins_with(file: &str, name: &str) -> bool {
    let kinds = ["_since", "_checksums"];
    file.strip_prefix(name).is_some_and(|rest| rest.is_empty() || kinds.contains(&rest))
}

/// The byte that says what is put right, and the bytes of a golden file: an offset,
/// bytes or `00 * N`, and a comment on each line.
fn from_hex(text: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (before, _) = line.split_once('|').unwrap_or((line, ""));
        let mut words = before.split_whitespace().skip(1);
        while let Some(word) = words.next() {
            if word == "*" {
                let times: usize = words.next().and_then(|n| n.parse().ok()).expect("a number");
                bytes.resize(bytes.len() + times - 1, 0);
            } else {
                bytes.push(u8::from_str_radix(word, 16).expect("hex"));
            }
        }
    }
    bytes
}

/// The target of a datagram type.
fn name_of(datagram_type: DatagramType) -> String {
    format!("{datagram_type:?}").chars().fold(String::new(), |mut name, letter| {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
        name
    })
}

fn cost(name: &str) -> u64 {
    COSTS.iter().find(|(other, _)| *other == name).map_or(1, |(_, cost)| *cost)
}

#[test]
fn mutants_keep_the_promises() {
    let (seed, first) = (number("MAPLEAF_SEED", 1), number("MAPLEAF_FIRST", 0));
    let runs = number("MAPLEAF_RUNS", RUNS_DEFAULT);
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let threads = number("MAPLEAF_THREADS", cores);
    let only = env::var("MAPLEAF_ONLY").ok();
    let is_wanted =
        |name: &str| only.as_ref().is_none_or(|list| list.split(',').any(|one| one == name));
    let mut found = 0;
    for target in bodies::all().filter(|target| is_wanted(target.name)) {
        let runs = runs.div_ceil(cost(target.name));
        Campaign::new(target, seed, first, runs).run_all(threads);
        found += 1;
    }
    assert!(found > 0, "no target of {only:?}");
}

#[test]
fn a_run_is_drawn_from_its_number_alone_and_runs_differ() {
    let target = bodies::named("event").expect("a target");
    let campaign = Campaign::new(target, 7, 0, 1);
    let made = |number| {
        let (mut input, mut scratch) = (Vec::new(), Scratch::default());
        campaign.run(number, &mut input, &mut scratch);
        input
    };
    let once: Vec<_> = (0..200).map(made).collect();
    assert!((0..200).rev().all(|number| made(number as u64) == once[number]));
    let different: std::collections::BTreeSet<_> = once.iter().collect();
    assert!(different.len() > 150, "{}", different.len());
}

#[test]
fn every_datagram_type_has_a_target_and_most_mutants_get_through_its_door() {
    for datagram_type in DatagramType::ALL.iter().copied() {
        let target = bodies::named(&name_of(datagram_type)).expect("a target");
        let campaign = Campaign::new(target, 3, 1, 2_000);
        assert_eq!(campaign.datagram_type, Some(datagram_type));
        campaign.work();
        let taken = campaign.taken.load(Ordering::Relaxed);
        assert!(taken > 400, "{}: {taken} of 2,000 were datagrams", target.name);
        assert!(!golden(target.name).is_empty(), "{}", target.name);
    }
}
