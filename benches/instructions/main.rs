//! Instructions of what costs most, counted: a regression shows here on a busy machine as
//! on an idle one, because no time is measured.
//!
//! ```text
//! tools/instructions.sh                          counts, and fails if there are more
//! MAPLEAF_BLESS=1 tools/instructions.sh          writes the table anew
//! MAPLEAF_MISSES=1 tools/instructions.sh         lines of memory that caches would not hold
//! cargo bench --bench instructions -- --test     each case once, nothing is counted
//! ```
//!
//! The program runs itself under valgrind's callgrind, which counts from where [`counted`]
//! is entered to where it returns, and holds each count against `tests/golden/instructions.txt`.
//! More by a twentieth fails; so does a row too many or too few. Fewer is said, so that the
//! table can follow.
//!
//! With MAPLEAF_MISSES callgrind plays the caches of data as well, as large as those of the machine.
//! It compares with nothing: it is a model, without prefetching, and alone on the machine.
//!
//! What it does not see: memory that is waited for, the kernel of the system, and instructions
//! that valgrind does not know: it shows programs a processor without VPCLMULQDQ, so the
//! kernels `Fold` and `Wide` and those of AVX-512 are not among the cases. Rows of kernels that a
//! processor lacks are left out.

mod cases;
mod table;
mod world;

use std::collections::HashMap;
use std::env;
use std::fs;
use std::hint::black_box;
use std::process::Command;
use std::process::ExitCode;

use anyhow::Context as _;
use anyhow::ensure;

use crate::cases::Case;
use crate::table::Row;
use crate::table::Table;

/// Where the counts are kept.
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/instructions.txt");

/// The argument by which the program is told that it is the one that is counted.
const TEST: &str = "--test";

/// What callgrind calls [`counted`]; of patterns it takes one option alone.
const COUNTED: &str = "instructions::counted";

/// The C library copies by what the processor offers; here by what all offer, so that counts
/// do not depend on the machine.
const PLAIN_COPIES: &str =
    "glibc.cpu.hwcaps=-AVX_Fast_Unaligned_Load,-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM";

fn main() -> ExitCode {
    if env::args().any(|arg| arg == TEST) {
        cases::run(&mut |case, work| {
            println!("{case}");
            counted(work);
        });
        return ExitCode::SUCCESS;
    }
    let is_right = match env::var_os("MAPLEAF_MISSES") {
        Some(_) => misses().map(|()| true),
        None => check(),
    };
    match is_right {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Callgrind knows it by its name: it counts what happens in here.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    // Something is left to do: otherwise it is a jump to `work`, and not seen.
    black_box(());
}

/// Counts, and says whether all is as the table has it. Writes it anew if that is asked for.
fn check() -> anyhow::Result<bool> {
    let found = Table { tools: tools()?, rows: count()? };
    if env::var_os("MAPLEAF_BLESS").is_some() {
        fs::write(TABLE, found.to_string()).context(TABLE)?;
        println!("{TABLE}: {} rows written", found.rows.len());
        return Ok(true);
    }
    let expected = fs::read_to_string(TABLE).context(TABLE)?;
    Ok(Table::parse(&expected).context(TABLE)?.compare(&found))
}

/// Counts, for each case that ran.
fn count() -> anyhow::Result<Vec<Row>> {
    let found = callgrind(&[])?;
    let row = |(case, events): (Case, Events)| -> anyhow::Result<Row> {
        Ok(Row { count: events.sum(&["Ir"])?, case })
    };
    found.cases.into_iter().map(row).collect()
}

/// Prints what the caches would not hold: callgrind plays two, so that it runs once for the
/// second level and once for the third.
fn misses() -> anyhow::Result<()> {
    let mut levels = Vec::new();
    for level in ["2", "3"] {
        let cache = cache_of(level).with_context(|| format!("no cache of level {level}"))?;
        let found = callgrind(&["--cache-sim=yes", &format!("--LL={cache}")])?;
        found.caches.iter().for_each(|cache| println!("{cache}"));
        levels.push(found.cases);
    }
    let headings = ["instructions", "accesses", "D1 misses", "L2 misses", "L3 misses"];
    headings.iter().for_each(|heading| print!("{heading:>12} "));
    println!(" case");
    for ((case, second), (_, third)) in levels[0].iter().zip(&levels[1]) {
        let columns = [
            second.sum(&["Ir"])?,
            second.sum(&["Dr", "Dw"])?,
            second.sum(&["D1mr", "D1mw"])?,
            second.sum(&["DLmr", "DLmw"])?,
            third.sum(&["DLmr", "DLmw"])?,
        ];
        columns.iter().for_each(|count| print!("{count:12} "));
        println!(" {case}");
    }
    Ok(())
}

/// Size, ways and line of a level of the first processor, as callgrind takes them. What it finds
/// out by itself is the cache of the host where the machine is a virtual one.
fn cache_of(level: &str) -> Option<String> {
    (0..8).find_map(|index| {
        let read = |name| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}");
            fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
        };
        if read("level")? != level {
            return None;
        }
        let kib: u64 = read("size")?.strip_suffix('K')?.parse().ok()?;
        let (ways, line) = (read("ways_of_associativity")?, read("coherency_line_size")?);
        Some(format!("{},{ways},{line}", kib << 10))
    })
}

/// What callgrind found.
struct Found {
    /// The caches that it played, a line each.
    caches: Vec<String>,
    cases: Vec<(Case, Events)>,
}

/// Counts by callgrind's names of what is counted.
#[derive(Debug, PartialEq, Eq)]
struct Events(HashMap<String, u64>);

impl Events {
    /// Of lines "events: NAME NAME" and "totals: COUNT COUNT": zeros at the end are left out.
    fn parse(names: &str, totals: &str) -> anyhow::Result<Events> {
        let mut counts = totals.split_whitespace();
        let mut all = HashMap::new();
        for name in names.split_whitespace() {
            let count = counts.next().map_or(Ok(0), str::parse);
            all.insert(name.to_owned(), count.with_context(|| format!("a count: {totals}"))?);
        }
        ensure!(counts.next().is_none(), "more counts than {names}: {totals}");
        Ok(Events(all))
    }

    fn sum(&self, names: &[&str]) -> anyhow::Result<u64> {
        let count = |name: &&str| self.0.get(*name).with_context(|| format!("no {name}"));
        names.iter().map(|name| count(name).copied()).sum()
    }
}

/// Runs the cases under callgrind, with further options.
fn callgrind(options: &[&str]) -> anyhow::Result<Found> {
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let path = folder.path().join("callgrind.out");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", path.display()))
        .args(options)
        .args(
            ["--combine-dumps=yes", "--zero-before=FN", "--dump-after=FN"]
                .map(|arg| arg.replace("FN", COUNTED)),
        )
        .args([env::current_exe().context("this program")?.as_os_str(), TEST.as_ref()])
        .env("GLIBC_TUNABLES", PLAIN_COPIES)
        .output()
        .context("valgrind does not start: is it installed? (apt-get install valgrind)")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind: {}\n{words}", output.status);
    let names = String::from_utf8(output.stdout).context("names of cases")?;
    let cases: Vec<Case> = names.lines().map(Case::parse).collect::<Result<_, _>>()?;
    let text = fs::read_to_string(&path).context("what callgrind found")?;
    let counts = counts_in(&text)?;
    ensure!(
        cases.len() == counts.len(),
        "callgrind counted {} cases of {}: is `counted` still a function of its own?",
        counts.len(),
        cases.len()
    );
    Ok(Found { caches: caches_in(&text), cases: cases.into_iter().zip(counts).collect() })
}

/// The sums of each part that ended with [`counted`].
fn counts_in(text: &str) -> anyhow::Result<Vec<Events>> {
    let mut counts = Vec::new();
    let (mut is_measured, mut names) = (false, "");
    for line in text.lines() {
        if let Some(trigger) = line.strip_prefix("desc: Trigger:") {
            is_measured = trigger.contains("--dump-after");
        } else if let Some(events) = line.strip_prefix("events:") {
            names = events;
        } else if let Some(totals) = line.strip_prefix("totals:").filter(|_| is_measured) {
            counts.push(Events::parse(names, totals)?);
        }
    }
    Ok(counts)
}

/// The caches of data, as callgrind says once a part.
fn caches_in(text: &str) -> Vec<String> {
    let caches = text.lines().filter_map(|line| line.strip_prefix("desc: "));
    let mut caches: Vec<String> = caches
        .filter(|line| line.starts_with("D1 cache:") || line.starts_with("LL cache:"))
        .map(str::to_owned)
        .collect();
    caches.sort();
    caches.dedup();
    caches
}

/// What the counts depend on beside the source.
fn tools() -> anyhow::Result<String> {
    let version = |program: &str| -> anyhow::Result<String> {
        let output = Command::new(program)
            .arg("--version")
            .output()
            .with_context(|| format!("{program} does not start"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    Ok(format!("{}, {}", version("rustc")?, version("valgrind")?))
}
