//! The table: one line a row, ours first, the limit last.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::rows::middle;

/// What is better.
#[derive(Clone, Copy, PartialEq)]
enum Better {
    More,
    Less,
}

/// Title, figure of the rivals, what it is divided by, digits, what is better.
type Line = (&'static str, &'static str, f64, usize, Better);

struct Group {
    title: &'static str,
    lines: &'static [Line],
}

const GROUPS: &[Group] = &[
    Group {
        title: "Values applied at each subscriber, thousands a second (median of subscribers)",
        lines: &[
            ("1 subscriber, 1 record", "throughput/1/1/applied", 1e3, 1, Better::More),
            ("1 subscriber, 64 records", "throughput/1/64/applied", 1e3, 1, Better::More),
            ("8 subscribers, 1 record", "throughput/8/1/applied", 1e3, 1, Better::More),
            ("8 subscribers, 64 records", "throughput/8/64/applied", 1e3, 1, Better::More),
            ("64 subscribers, 1 record", "throughput/64/1/applied", 1e3, 1, Better::More),
            ("64 subscribers, 64 records", "throughput/64/64/applied", 1e3, 1, Better::More),
        ],
    },
    Group {
        title: "Processor seconds of all processes in a million values applied",
        lines: &[
            ("1 subscriber, 1 record", "throughput/1/1/cpu", 1.0, 2, Better::Less),
            ("1 subscriber, 64 records", "throughput/1/64/cpu", 1.0, 2, Better::Less),
            ("8 subscribers, 1 record", "throughput/8/1/cpu", 1.0, 2, Better::Less),
            ("8 subscribers, 64 records", "throughput/8/64/cpu", 1.0, 2, Better::Less),
        ],
    },
    Group {
        title: "Latency at 10,000 updates a second, microseconds",
        lines: &[
            ("sleeping, p50", "latency/sleeping/p50", 1.0, 0, Better::Less),
            ("sleeping, p99", "latency/sleeping/p99", 1.0, 0, Better::Less),
            ("spinning, p50", "latency/spinning/p50", 1.0, 1, Better::Less),
            ("spinning, p99", "latency/spinning/p99", 1.0, 1, Better::Less),
        ],
    },
    Group {
        title: "The same over a link of 1,500 B packets that loses some, asleep, microseconds",
        lines: &[
            ("nothing lost, p99", "loss/0/p99", 1.0, 0, Better::Less),
            ("0.1 % lost, p99", "loss/0.1/p99", 1.0, 0, Better::Less),
            ("1 % lost, p99", "loss/1/p99", 1.0, 0, Better::Less),
            ("1 % lost, values that never came", "loss/1/lost", 1.0, 0, Better::Less),
        ],
    },
    Group {
        title: "A late joiner has all leaves after, milliseconds",
        lines: &[
            ("10,000 leaves", "join/10k", 1.0, 1, Better::Less),
            ("1,000,000 leaves", "join/1M", 1.0, 0, Better::Less),
        ],
    },
    Group {
        title: "Memory of the server that keeps 1,000,000 leaves, MB",
        lines: &[("1,000,000 leaves", "memory/1M", 1e6, 0, Better::Less)],
    },
    Group {
        title: "A subscriber that was stopped for 2 s",
        lines: &[
            ("10 k/s: equal again, ms", "repair/10k/ms", 1.0, 1, Better::Less),
            ("10 k/s: bytes until then, MB", "repair/10k/bytes", 1e6, 2, Better::Less),
            ("10 k/s: queued for it, MB", "repair/10k/queued", 1e6, 2, Better::Less),
            ("10 k/s: values lost", "repair/10k/lost", 1.0, 0, Better::Less),
            ("10 k/s: other applied, k/s", "repair/10k/beside", 1e3, 1, Better::More),
            ("100 k/s: equal again, ms", "repair/100k/ms", 1.0, 1, Better::Less),
            ("100 k/s: bytes until then, MB", "repair/100k/bytes", 1e6, 2, Better::Less),
            ("100 k/s: queued for it, MB", "repair/100k/queued", 1e6, 2, Better::Less),
            ("100 k/s: values lost", "repair/100k/lost", 1.0, 0, Better::Less),
            ("100 k/s: other applied, k/s", "repair/100k/beside", 1e3, 1, Better::More),
        ],
    },
];

/// One file's figures: a rival's, or ours.
struct Column {
    name: String,
    told: Value,
}

impl Column {
    fn values(&self, figure: &str) -> Option<Vec<f64>> {
        let values = self.told["figures"][figure].as_array()?;
        Some(values.iter().filter_map(Value::as_f64).collect())
    }

    fn middle(&self, figure: &str) -> Option<f64> {
        self.values(figure).map(|values| middle(&values)).filter(|value| value.is_finite())
    }

    fn is_limit(&self) -> bool {
        self.name.starts_with("bare")
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
    for group in GROUPS {
        print_group(group, &columns);
    }
    println!(
        "\nMedian (least-most) of the repetitions. x: ours beside the best rival, above 1 is ours."
    );
    for column in &columns {
        for note in column.told["notes"].as_array().into_iter().flatten() {
            println!("{}: {}", column.name, note.as_str().unwrap_or(""));
        }
    }
    Ok(())
}

/// Ours first, the limits last.
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
    all.sort_by_key(|column| (column.name != "mapleaf", column.is_limit(), column.name.clone()));
    Ok(all)
}

fn print_group(group: &Group, columns: &[Column]) {
    let measured =
        |column: &&Column| group.lines.iter().any(|line| column.values(line.1).is_some());
    let columns: Vec<&Column> = columns.iter().filter(measured).collect();
    if columns.is_empty() {
        return;
    }
    println!("\n## {}\n", group.title);
    let names = columns.iter().map(|column| format!(" {} |", column.name)).collect::<String>();
    println!("| |{names} x |");
    println!("|---|{}---|", "---|".repeat(columns.len()));
    for line in group.lines {
        print_line(line, &columns);
    }
}

fn print_line(&(title, figure, unit, digits, better): &Line, columns: &[&Column]) {
    let cell = |column: &&Column| match column.values(figure) {
        Some(values) => spread(&values, unit, digits),
        None => "-".to_owned(),
    };
    let cells: String = columns.iter().map(|column| format!(" {} |", cell(column))).collect();
    let ours = columns.iter().find(|column| column.name == "mapleaf");
    let ours = ours.and_then(|column| column.middle(figure));
    let rivals = columns.iter().filter(|column| column.name != "mapleaf" && !column.is_limit());
    let rivals = rivals.filter_map(|column| column.middle(figure));
    let best = rivals.reduce(if better == Better::More { f64::max } else { f64::min });
    let ratio = match (ours, best) {
        (Some(ours), Some(best)) if ours > 0.0 && best > 0.0 => {
            let ratio = if better == Better::More { ours / best } else { best / ours };
            format!("{ratio:.2}")
        }
        _ => "-".to_owned(),
    };
    println!("| {title} |{cells} {ratio} |");
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
