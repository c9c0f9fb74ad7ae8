//! The rows of the table, and which of them stand together.

use std::path::Path;

use mapleaf_compare_table::Better;
use mapleaf_compare_table::Group;
use mapleaf_compare_table::Line;
use mapleaf_compare_table::Table;

/// Title, figure, what it is divided by, digits, what is better.
type Row = (&'static str, &'static str, f64, usize, Better);

/// Titles, and the rows below them.
const GROUPS: &[(&str, &[Row])] = &[
    (
        "Values applied at each subscriber, thousands a second (median of subscribers)",
        &[
            ("1 subscriber, 1 record", "throughput/1/1/applied", 1e3, 1, Better::More),
            ("1 subscriber, 64 records", "throughput/1/64/applied", 1e3, 1, Better::More),
            ("8 subscribers, 1 record", "throughput/8/1/applied", 1e3, 1, Better::More),
            ("8 subscribers, 64 records", "throughput/8/64/applied", 1e3, 1, Better::More),
            ("64 subscribers, 1 record", "throughput/64/1/applied", 1e3, 1, Better::More),
            ("64 subscribers, 64 records", "throughput/64/64/applied", 1e3, 1, Better::More),
        ],
    ),
    (
        "Processor seconds of all processes in a million values applied",
        &[
            ("1 subscriber, 1 record", "throughput/1/1/cpu", 1.0, 2, Better::Less),
            ("1 subscriber, 64 records", "throughput/1/64/cpu", 1.0, 2, Better::Less),
            ("8 subscribers, 1 record", "throughput/8/1/cpu", 1.0, 2, Better::Less),
            ("8 subscribers, 64 records", "throughput/8/64/cpu", 1.0, 2, Better::Less),
        ],
    ),
    (
        "Latency at 10,000 updates a second, microseconds",
        &[
            ("sleeping, p50", "latency/sleeping/p50", 1.0, 0, Better::Less),
            ("sleeping, p99", "latency/sleeping/p99", 1.0, 0, Better::Less),
            ("spinning, p50", "latency/spinning/p50", 1.0, 1, Better::Less),
            ("spinning, p99", "latency/spinning/p99", 1.0, 1, Better::Less),
        ],
    ),
    (
        "The same over a link of 1,500 B packets that loses some, each way, asleep, microseconds",
        &[
            ("nothing lost, p99", "loss/0/p99", 1.0, 0, Better::Less),
            ("0.1 % lost, p99", "loss/0.1/p99", 1.0, 0, Better::Less),
            ("1 % lost, p99", "loss/1/p99", 1.0, 0, Better::Less),
            ("1 % lost, p99.9", "loss/1/p99.9", 1.0, 0, Better::Less),
            ("1 % lost, values that never came", "loss/1/lost", 1.0, 0, Better::Less),
        ],
    ),
    (
        "A late joiner has all leaves after, milliseconds",
        &[
            ("10,000 leaves", "join/10k", 1.0, 1, Better::Less),
            ("1,000,000 leaves", "join/1M", 1.0, 0, Better::Less),
        ],
    ),
    (
        "Memory of the server that keeps 1,000,000 leaves, MB",
        &[("1,000,000 leaves", "memory/1M", 1e6, 0, Better::Less)],
    ),
    (
        "A subscriber that was stopped for 2 s",
        &[
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
    ),
];

/// Prints what the files of a folder say.
pub fn print(folder: &Path) -> anyhow::Result<()> {
    let line = |&(title, figure, unit, digits, better): &Row| {
        Line::new(title, figure, unit, digits, better)
    };
    let group = |&(title, rows): &(&'static str, &[Row])| {
        Group::new(title, rows.iter().map(line).collect())
    };
    Table::read(folder)?.print(&GROUPS.iter().map(group).collect::<Vec<_>>());
    Ok(())
}
