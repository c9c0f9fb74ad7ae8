//! The table of counts: what a version of the source took, case by case.

use std::fmt;

use anyhow::Context as _;

use crate::cases::Case;

/// More than this share fails: what the compiler moves about when something else changes
/// stays below it.
const ALLOWED: f64 = 0.05;

/// So many more are no regression: a case of few instructions would fail by two of them.
const ALLOWED_COUNT: f64 = 16.0;

/// One case with its count.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) count: u64,
    pub(crate) case: Case,
}

/// All of them, with what they were counted by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) tools: String,
    pub(crate) rows: Vec<Row>,
}

impl Table {
    /// Reads what [`Table`] writes.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Table> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let tools = lines.next().context("the line of the tools is missing")?.to_owned();
        let row = |line: &str| -> anyhow::Result<Row> {
            let (count, case) = line.trim().split_once(' ').context("a count, then the case")?;
            Ok(Row { count: count.parse().context("a count")?, case: Case::parse(case.trim())? })
        };
        let rows = lines.map(|line| row(line).with_context(|| line.to_owned()));
        Ok(Table { tools, rows: rows.collect::<Result<_, _>>()? })
    }

    /// Prints each count beside the one of this table, and says whether all are in order.
    pub(crate) fn compare(&self, found: &Table) -> bool {
        println!("{:>12} {:>12} {:>8}  case", "table", "now", "change");
        let mut wrong = 0;
        for row in &found.rows {
            let known = self.rows.iter().find(|known| known.case == row.case);
            wrong += u32::from(!print(row, known));
        }
        for row in &self.rows {
            if found.rows.iter().all(|now| now.case != row.case) {
                let lacking = found.rows.iter().all(|now| now.case.kernel != row.case.kernel);
                wrong += u32::from(!lacking);
                let why = if lacking { "not on this processor" } else { "NO SUCH CASE" };
                println!("{:12} {:>12} {:>8}  {} ({why})", row.count, "-", "", row.case);
            }
        }
        if self.tools != found.tools {
            println!("the table was made by {}, this is {}", self.tools, found.tools);
        }
        if wrong > 0 {
            println!(
                "{wrong} rows are not as the table has them. If that is meant, or the compiler's doing:\n    \
                MAPLEAF_BLESS=1 tools/instructions.sh"
            );
        }
        wrong == 0
    }
}

/// Whether a count is in order, in a line.
fn print(row: &Row, known: Option<&Row>) -> bool {
    let Some(known) = known else {
        println!("{:>12} {:12} {:>8}  {} NOT IN THE TABLE", "-", row.count, "", row.case);
        return false;
    };
    let (before, now) = (known.count as f64, row.count as f64);
    let allowed = (before * ALLOWED).max(ALLOWED_COUNT);
    let (is_right, word) = match now - before {
        change if change > allowed => (false, " MORE"),
        change if change < -allowed => (true, " fewer: the table may follow"),
        _ => (true, ""),
    };
    let percent = 100.0 * (now / before - 1.0);
    println!("{:12} {:12} {percent:+7.1}%  {}{word}", known.count, row.count, row.case);
    is_right
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Instructions, counted by valgrind's callgrind: benches/instructions/main.rs."
        )?;
        writeln!(f, "# Written by `MAPLEAF_BLESS=1 tools/instructions.sh`.")?;
        writeln!(f, "{}", self.tools)?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{:12} {}", row.count, row.case))
    }
}
