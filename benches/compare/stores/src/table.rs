//! The rows of the table, for the numbers of leaves that were measured.

use std::path::Path;

use mapleaf_compare_table::Better;
use mapleaf_compare_table::Group;
use mapleaf_compare_table::Line;
use mapleaf_compare_table::Table;

/// Prints what the files of a folder say.
pub fn print(folder: &Path) -> anyhow::Result<()> {
    let table = Table::read(folder)?;
    table.print(&groups(&sizes(table.figures())));
    Ok(())
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
                Line::new(title, format!("{row}/{leaves}/{batch}{end}"), unit, digits, better)
            };
            batches.map(of).into_iter().collect::<Vec<_>>()
        }
    };
    vec![
        Group::new(
            "Updates of random leaves, files in memory, thousands a second",
            each(&updates("update/memory", 1e3, 0, "", More)),
        ),
        Group::new("The same, files on the disk", each(&updates("update/disk", 1e3, 0, "", More))),
        Group::new(
            "Bytes that reached the disk for each byte changed, the write-back at the end included",
            each(&updates("update/disk", 1.0, 2, "/device", Less)),
        ),
        Group::new(
            "Updates that are on the medium when each commit returns, a second",
            each(&updates("durable/disk", 1.0, 0, "", More)),
        ),
        Group::new(
            "Bytes that reached the disk for each byte changed, likewise",
            each(&updates("durable/disk", 1.0, 1, "/device", Less)),
        ),
        Group::new(
            "The same as the kernel books it for the process, by whole folios",
            each(&updates("durable/disk", 1.0, 1, "/booked", Less)),
        ),
        Group::new(
            "All values read and summed by the process that has the store open, GB/s of values",
            each(&|leaves| {
                vec![
                    Line::new(format!("{leaves} leaves"), format!("scan/{leaves}"), 5e6, 2, More),
                    Line::new(
                        format!("{leaves} leaves, million values/s"),
                        format!("scan/{leaves}"),
                        1e6,
                        2,
                        More,
                    ),
                ]
            }),
        ),
        Group::new(
            "Which leaves changed, microseconds",
            each(&|leaves| {
                let of = |count: u32| {
                    let title = format!("{count} of {leaves} leaves");
                    Line::new(title, format!("changed/{leaves}/{count}"), 1.0, 1, Less)
                };
                vec![of(10), of(1_000)]
            }),
        ),
        Group::new(
            "Read by another process, thousand values a second",
            each(&|leaves| {
                let of = |what: &str, told: &str| {
                    let title = format!("{leaves} leaves, {told}");
                    Line::new(title, format!("read/{leaves}/{what}"), 1e3, 0, More)
                };
                vec![
                    of("fresh", "random, each of the newest state"),
                    of("snapshot", "random, all of one state"),
                    of("scan", "all in order"),
                ]
            }),
        ),
        Group::new(
            "Bytes on the disk, MB",
            each(&|leaves| {
                let of = |what: &str, told: &str| {
                    let title = format!("{leaves} leaves, {told}");
                    Line::new(title, format!("size/{leaves}/{what}"), 1e6, 2, Less)
                };
                vec![of("filled", "each written once"), of("changed", "after random updates")]
            }),
        ),
        Group::new("Repair: milliseconds until equal, from nothing", each(&deltas("ms", 1.0, 1))),
        Group::new(
            "Repair: the same without the opening of files, from the connection on",
            each(&deltas("linked", 1.0, 2)),
        ),
        Group::new("Repair: payload bytes of both directions, kB", each(&deltas("bytes", 1e3, 1))),
        Group::new("Repair: of these from the replica, kB", each(&deltas("up", 1e3, 1))),
    ]
}

/// A line for each share of leaves that differ.
fn deltas(figure: &'static str, unit: f64, digits: usize) -> impl Fn(u64) -> Vec<Line> {
    move |leaves| {
        let of = |count: u32| {
            let title = format!("{count} of {leaves} leaves differ");
            let figure = format!("delta/{leaves}/{count}/{figure}");
            Line::new(title, figure, unit, digits, Better::Less)
        };
        [10, 1_000, 8_600].map(of).into_iter().collect()
    }
}

/// The numbers of leaves that figures are named with: ROW/LEAVES/.. or ROW/MEDIUM/LEAVES/...
fn sizes<'a>(figures: impl Iterator<Item = &'a str>) -> Vec<u64> {
    let size = |name: &str| name.split('/').skip(1).find_map(|part| part.parse().ok());
    let mut sizes: Vec<u64> = figures.filter_map(size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_found_in_names() {
        let names = ["update/disk/500/1", "scan/20", "x", "scan/20"];
        assert_eq!(sizes(names.into_iter()), [20, 500]);
    }
}
