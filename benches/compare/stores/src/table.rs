//! The table: a group of lines for each row, ours first, with the ratio to each rival.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::book::middle;

/// What is better.
#[derive(Clone, Copy, PartialEq)]
enum Better {
    More,
    Less,
}

/// A line: its title, its figure, what that is divided by, digits, what is better.
struct Line {
    title: String,
    figure: String,
    unit: f64,
    digits: usize,
    better: Better,
}

struct Group {
    title: &'static str,
    lines: Vec<Line>,
}

fn line(title: String, figure: String, unit: f64, digits: usize, better: Better) -> Line {
    Line { title, figure, unit, digits, better }
}

/// The numbers of leaves are those of the figures that are there.
fn groups(sizes: &[u64]) -> Vec<Group> {
    use Better::Less;
    use Better::More;
    let each = |of: &dyn Fn(u64) -> Vec<Line>| sizes.iter().flat_map(|size| of(*size)).collect();
    let batches = [(1, "1 a transaction"), (64, "64 a transaction")];
    let updates = |row: &'static str, unit: f64, digits, end: &'static str, better| {
        move |leaves: u64| {
            let of = |(batch, told): (u32, &str)| {
                let title = format!("{leaves} leaves, {told}");
                line(title, format!("{row}/{leaves}/{batch}{end}"), unit, digits, better)
            };
            batches.map(of).into_iter().collect::<Vec<_>>()
        }
    };
    let group = |title, lines| Group { title, lines };
    vec![
        group(
            "Updates of random leaves, files in memory, thousands a second",
            each(&updates("update/memory", 1e3, 0, "", More)),
        ),
        group("The same, files on the disk", each(&updates("update/disk", 1e3, 0, "", More))),
        group(
            "Bytes that reached the disk for each byte changed, the write-back at the end included",
            each(&updates("update/disk", 1.0, 2, "/device", Less)),
        ),
        group(
            "Updates that are on the medium when each commit returns, a second",
            each(&updates("durable/disk", 1.0, 0, "", More)),
        ),
        group(
            "Bytes that reached the disk for each byte changed, likewise",
            each(&updates("durable/disk", 1.0, 1, "/device", Less)),
        ),
        group(
            "The same as the kernel books it for the process, by whole folios",
            each(&updates("durable/disk", 1.0, 1, "/booked", Less)),
        ),
        group(
            "All values read and summed by the process that has the store open, GB/s of values",
            each(&|leaves| {
                vec![
                    line(format!("{leaves} leaves"), format!("scan/{leaves}"), 5e6, 2, More),
                    line(
                        format!("{leaves} leaves, million values/s"),
                        format!("scan/{leaves}"),
                        1e6,
                        2,
                        More,
                    ),
                ]
            }),
        ),
        group(
            "Which leaves changed, microseconds",
            each(&|leaves| {
                let of = |count: u32| {
                    let title = format!("{count} of {leaves} leaves");
                    line(title, format!("changed/{leaves}/{count}"), 1.0, 1, Less)
                };
                vec![of(10), of(1_000)]
            }),
        ),
        group(
            "Read by another process, thousand values a second",
            each(&|leaves| {
                let of = |what: &str, told: &str| {
                    let title = format!("{leaves} leaves, {told}");
                    line(title, format!("read/{leaves}/{what}"), 1e3, 0, More)
                };
                vec![
                    of("fresh", "random, each of the newest state"),
                    of("snapshot", "random, all of one state"),
                    of("scan", "all in order"),
                ]
            }),
        ),
        group(
            "Bytes on the disk, MB",
            each(&|leaves| {
                let of = |what: &str, told: &str| {
                    let title = format!("{leaves} leaves, {told}");
                    line(title, format!("size/{leaves}/{what}"), 1e6, 2, Less)
                };
                vec![of("filled", "each written once"), of("changed", "after random updates")]
            }),
        ),
        group("Repair: milliseconds until equal, from nothing", each(&deltas("ms", 1.0, 1))),
        group(
            "Repair: the same without the opening of files, from the connection on",
            each(&deltas("linked", 1.0, 2)),
        ),
        group("Repair: payload bytes of both directions, kB", each(&deltas("bytes", 1e3, 1))),
        group("Repair: of these from the replica, kB", each(&deltas("up", 1e3, 1))),
    ]
}

/// A line for each share of leaves that differ.
fn deltas(figure: &'static str, unit: f64, digits: usize) -> impl Fn(u64) -> Vec<Line> {
    move |leaves| {
        let of = |count: u32| {
            let title = format!("{count} of {leaves} leaves differ");
            let figure = format!("delta/{leaves}/{count}/{figure}");
            line(title, figure, unit, digits, Better::Less)
        };
        [10, 1_000, 8_600].map(of).into_iter().collect()
    }
}

/// One file's figures.
struct Column {
    name: String,
    told: Value,
}

impl Column {
    fn values(&self, figure: &str) -> Option<Vec<f64>> {
        let values = self.told["figures"][figure].as_array()?;
        Some(values.iter().filter_map(Value::as_f64).collect())
    }

    fn is_ours(&self) -> bool {
        self.name.starts_with("mapleaf")
    }
}

/// Prints what the files of a folder say.
pub fn print(folder: &Path) -> anyhow::Result<()> {
    let columns = columns(folder)?;
    anyhow::ensure!(!columns.is_empty(), "nothing was measured in {}", folder.display());
    for column in &columns {
        let told = |name: &str| column.told[name].as_str().unwrap_or("").to_owned();
        match column.told["missing"].as_str() {
            Some(reason) => println!("{}: not measured: {reason}", column.name),
            None => println!("{} {}: {}", column.name, told("version"), told("settings")),
        }
    }
    for group in groups(&sizes(&columns)) {
        print_group(&group, &columns);
    }
    println!(
        "\nMedian (least-most) of the repetitions. x: our first column beside the best rival, \
         above 1 is ours."
    );
    for column in &columns {
        for note in column.told["notes"].as_array().into_iter().flatten() {
            println!("{}: {}", column.name, note.as_str().unwrap_or(""));
        }
    }
    Ok(())
}

/// Ours first.
fn columns(folder: &Path) -> anyhow::Result<Vec<Column>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "json") {
            let told: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
            if let Some(name) = told["rival"].as_str() {
                all.push(Column { name: name.to_owned(), told });
            }
        }
    }
    all.sort_by_key(|column| (!column.is_ours(), column.name.clone()));
    Ok(all)
}

/// The numbers of leaves that figures are named with: ROW/LEAVES/.. or ROW/MEDIUM/LEAVES/...
fn sizes(columns: &[Column]) -> Vec<u64> {
    let figures = columns.iter().filter_map(|column| column.told["figures"].as_object());
    let names = figures.flat_map(|figures| figures.keys());
    let size = |name: &String| name.split('/').skip(1).find_map(|part| part.parse().ok());
    let mut sizes: Vec<u64> = names.filter_map(size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn print_group(group: &Group, columns: &[Column]) {
    let has = |column: &Column, line: &Line| column.values(&line.figure).is_some();
    let measured = |column: &&Column| group.lines.iter().any(|line| has(column, line));
    let columns: Vec<&Column> = columns.iter().filter(measured).collect();
    if columns.is_empty() {
        return;
    }
    println!("\n## {}\n", group.title);
    let names = columns.iter().map(|column| format!(" {} |", column.name)).collect::<String>();
    println!("| |{names} x |");
    println!("|---|{}---|", "---|".repeat(columns.len()));
    for line in group.lines.iter().filter(|line| columns.iter().any(|column| has(column, line))) {
        println!("{}", told(line, &columns));
    }
}

fn told(line: &Line, columns: &[&Column]) -> String {
    let cell = |column: &&Column| match column.values(&line.figure) {
        Some(values) => spread(&values, line.unit, line.digits),
        None => "-".to_owned(),
    };
    let cells: String = columns.iter().map(|column| format!(" {} |", cell(column))).collect();
    let median = |column: &&Column| column.values(&line.figure).map(|values| middle(&values));
    let ours = columns.iter().filter(|column| column.is_ours()).find_map(median);
    let rivals = columns.iter().filter(|column| !column.is_ours()).filter_map(median);
    let best = rivals.reduce(if line.better == Better::More { f64::max } else { f64::min });
    let ratio = match (ours, best) {
        (Some(ours), Some(best)) if ours > 0.0 && best > 0.0 => {
            let ratio = if line.better == Better::More { ours / best } else { best / ours };
            format!("{ratio:.2}")
        }
        _ => "-".to_owned(),
    };
    format!("| {} |{cells} {ratio} |", line.title)
}

fn spread(values: &[f64], unit: f64, digits: usize) -> String {
    let told = |value: f64| format!("{:.digits$}", value / unit);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match values.len() {
        1 => told(least),
        _ => format!("{} ({}-{})", told(middle(values)), told(least), told(most)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn column(name: &str, figures: Value) -> Column {
        Column { name: name.to_owned(), told: json!({"rival": name, "figures": figures}) }
    }

    #[test]
    fn a_line_has_the_ratio_to_the_best_rival() {
        let ours = column("mapleaf", json!({"a": [10.0, 30.0, 20.0]}));
        let (one, two) = (column("one", json!({"a": [5.0]})), column("two", json!({"a": [8.0]})));
        let columns = [&ours, &one, &two];
        let line = |better| line("A".to_owned(), "a".to_owned(), 1.0, 0, better);
        let expected = "| A | 20 (10-30) | 5 | 8 | 2.50 |";
        assert_eq!(told(&line(Better::More), &columns), expected);
        assert!(told(&line(Better::Less), &columns).ends_with(" 0.25 |"));
        assert!(told(&line(Better::More), &columns[..1]).ends_with(" - |"));
    }

    #[test]
    fn sizes_are_found_in_names() {
        let one = column("one", json!({"update/disk/500/1": [1.0], "scan/20": [1.0], "x": [1.0]}));
        assert_eq!(sizes(&[one]), [20, 500]);
    }
}
