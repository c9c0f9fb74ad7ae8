//! Instructions of what costs most, counted: a regression shows here on a busy machine as
//! on an idle one, because no time is measured.
//!
//! ```text
//! tools/instructions.sh                          counts, and fails if there are more
//! MAPLEAF_BLESS=1 tools/instructions.sh          writes the table anew
//! cargo bench --bench instructions -- --test     each case once, nothing is counted
//! ```
//!
//! The program runs itself under valgrind's callgrind, which counts from where [`counted`]
//! is entered to where it returns, and holds each count against `tests/golden/instructions.txt`.
//! More by a twentieth fails; so does a row too many or too few. Fewer is said, so that the
//! table can follow.
//!
//! What it does not see: memory that is waited for, the kernel of the system, and instructions
//! that valgrind does not know: it shows programs a processor without VPCLMULQDQ, so the
//! kernel `Fold` is not among the cases. Rows of kernels that a processor lacks are left out.

mod cases;
mod table;
mod world;

use std::env;
use std::fs;
use std::hint::black_box;
use std::path::Path;
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
    match check() {
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

/// Runs the cases under callgrind.
fn count() -> anyhow::Result<Vec<Row>> {
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let path = folder.path().join("callgrind.out");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", path.display()))
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
    let counts = counts_in(&path)?;
    ensure!(
        cases.len() == counts.len(),
        "callgrind counted {} cases of {}: is `counted` still a function of its own?",
        counts.len(),
        cases.len()
    );
    Ok(cases.into_iter().zip(counts).map(|(case, count)| Row { count, case }).collect())
}

/// The sum of each part that ended with [`counted`].
fn counts_in(path: &Path) -> anyhow::Result<Vec<u64>> {
    let text = fs::read_to_string(path).context("what callgrind found")?;
    let mut counts = Vec::new();
    let mut is_measured = false;
    for line in text.lines() {
        if let Some(trigger) = line.strip_prefix("desc: Trigger:") {
            is_measured = trigger.contains("--dump-after");
        } else if let Some(sum) = line.strip_prefix("totals:").filter(|_| is_measured) {
            counts.push(sum.trim().parse().with_context(|| format!("a count: {line}"))?);
        }
    }
    Ok(counts)
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
