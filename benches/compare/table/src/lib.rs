//! The table of a comparison: a group of lines for each row, ours first, with the ratio to
//! the best rival.
//!
//! It reads a folder of JSON, a file for each who was measured:
//! `{"rival", "version", "settings", "missing", "figures": {NAME: [VALUE, ..]}, "notes"}`.
//! Which figures stand in which line is left to who compares.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// What is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Line {
    pub title: String,
    /// The name of the figure in the JSON.
    pub figure: String,
    /// What its values are divided by.
    pub unit: f64,
    /// Digits behind the point.
    pub digits: usize,
    pub better: Better,
}

impl Line {
    pub fn new(
        title: impl Into<String>,
        figure: impl Into<String>,
        unit: f64,
        digits: usize,
        better: Better,
    ) -> Line {
        Line { title: title.into(), figure: figure.into(), unit, digits, better }
    }
}

/// Lines below one heading.
#[derive(Clone, Debug)]
pub struct Group {
    pub title: &'static str,
    pub lines: Vec<Line>,
}

impl Group {
    pub fn new(title: &'static str, lines: Vec<Line>) -> Group {
        Group { title, lines }
    }
}

/// What was measured of one.
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

    fn is_ours(&self) -> bool {
        self.name.starts_with("mapleaf")
    }

    /// What the machine can do at most is nobody's rival.
    fn is_limit(&self) -> bool {
        self.name.starts_with("bare")
    }

    /// Its version and settings, or why it was not measured.
    fn heading(&self) -> String {
        let told = |name: &str| self.told[name].as_str().unwrap_or("");
        match self.told["missing"].as_str() {
            Some(reason) => format!("{}: not measured: {reason}", self.name),
            None => format!("{} {}: {}", self.name, told("version"), told("settings")),
        }
    }

    fn notes(&self) -> impl Iterator<Item = String> {
        let notes = self.told["notes"].as_array().into_iter().flatten();
        notes.map(|note| format!("{}: {}", self.name, note.as_str().unwrap_or("")))
    }
}

/// All that a folder says was measured.
pub struct Table(Vec<Column>);

impl Table {
    /// Reads the files of a folder: ours first, limits last.
    ///
    /// # Errors
    ///
    /// The folder or a file of it cannot be read, a file is no JSON, or there is none.
    pub fn read(folder: &Path) -> anyhow::Result<Table> {
        let mut columns = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "json") {
                let told: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
                if let Some(name) = told["rival"].as_str() {
                    columns.push(Column { name: name.to_owned(), told });
                }
            }
        }
        anyhow::ensure!(!columns.is_empty(), "nothing was measured in {}", folder.display());
        columns.sort_by_key(|column| (!column.is_ours(), column.is_limit(), column.name.clone()));
        Ok(Table(columns))
    }

    /// The names of all figures that are there, repeated where more than one has them.
    pub fn figures(&self) -> impl Iterator<Item = &str> {
        let figures = self.0.iter().filter_map(|column| column.told["figures"].as_object());
        figures.flat_map(|figures| figures.keys().map(String::as_str))
    }

    /// Prints who was measured and how, the groups that have a figure, and the notes.
    pub fn print(&self, groups: &[Group]) {
        self.0.iter().for_each(|column| println!("{}", column.heading()));
        groups.iter().for_each(|group| print!("{}", self.told(group)));
        println!(
            "\nMedian (least-most) of the repetitions. x: ours, the first that has the figure, \
             beside the best rival; above 1 is ours."
        );
        self.0.iter().flat_map(Column::notes).for_each(|note| println!("{note}"));
    }

    fn told(&self, group: &Group) -> String {
        let has = |column: &Column, line: &Line| column.values(&line.figure).is_some();
        let measured = |column: &&Column| group.lines.iter().any(|line| has(column, line));
        let columns: Vec<&Column> = self.0.iter().filter(measured).collect();
        if columns.is_empty() {
            return String::new();
        }
        let names: String = columns.iter().map(|column| format!(" {} |", column.name)).collect();
        let rule = "---|".repeat(columns.len());
        let lines =
            group.lines.iter().filter(|line| columns.iter().any(|column| has(column, line)));
        let lines: String = lines.map(|line| cells(line, &columns) + "\n").collect();
        format!("\n## {}\n\n| |{names} x |\n|---|{rule}---|\n{lines}", group.title)
    }
}

fn cells(line: &Line, columns: &[&Column]) -> String {
    let cell = |column: &&Column| match column.values(&line.figure) {
        Some(values) => spread(&values, line.unit, line.digits),
        None => "-".to_owned(),
    };
    let cells: String = columns.iter().map(|column| format!(" {} |", cell(column))).collect();
    let median = |column: &&Column| column.middle(&line.figure);
    let ours = columns.iter().filter(|column| column.is_ours()).find_map(median);
    let rivals = columns.iter().filter(|column| !column.is_ours() && !column.is_limit());
    let best = rivals.filter_map(median).reduce(match line.better {
        Better::More => f64::max,
        Better::Less => f64::min,
    });
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

/// The median; of nothing it is no number.
pub fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
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
        let limit = column("bare", json!({"a": [100.0]}));
        let columns = [&ours, &one, &two, &limit];
        let line = |better| Line::new("A", "a", 1.0, 0, better);
        let expected = "| A | 20 (10-30) | 5 | 8 | 100 | 2.50 |";
        assert_eq!(cells(&line(Better::More), &columns), expected);
        assert!(cells(&line(Better::Less), &columns).ends_with(" 0.25 |"));
        assert!(cells(&line(Better::More), &columns[..1]).ends_with(" - |"));
    }

    #[test]
    fn a_group_shows_who_has_a_figure_and_what_has_one() {
        let table = Table(vec![
            column("mapleaf", json!({"a": [1.0]})),
            column("idle", json!({})),
            column("one", json!({"a": [4.0]})),
        ]);
        let line = |figure: &str| Line::new(figure, figure, 1.0, 0, Better::Less);
        let group = |figure| Group::new("G", vec![line(figure), line("none")]);
        let expected =
            "\n## G\n\n| | mapleaf | one | x |\n|---|---|---|---|\n| a | 1 | 4 | 4.00 |\n";
        assert_eq!(table.told(&group("a")), expected);
        assert_eq!(table.told(&group("b")), "");
        assert_eq!(table.figures().collect::<Vec<_>>(), ["a", "a"]);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(middle(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(middle(&[4.0, 1.0]), 2.5);
        assert!(middle(&[]).is_nan());
    }
}
