//! Figures along a quantity that grows: points of one curve each.

use std::fmt::Write as _;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::figures::number;

/// The points of some curves over one quantity.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    name: &'static str,
    unit: &'static str,
    /// The quantity with the figures that were measured there, as JSON tells them.
    points: Vec<(u64, Map<String, Value>)>,
}

impl Series {
    pub(crate) fn new(name: &'static str, unit: &'static str) -> Series {
        Series { name, unit, points: Vec::new() }
    }

    pub(crate) fn add(&mut self, at: u64, figures: Map<String, Value>) {
        self.points.push((at, figures));
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Each point: the settings that are its own, and its figures.
    pub(crate) fn points(&self) -> impl Iterator<Item = (Map<String, Value>, &Map<String, Value>)> {
        self.points.iter().map(|(at, figures)| {
            let own = [("grows", json!(self.name)), (self.name, json!(at))];
            (own.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(), figures)
        })
    }

    /// One line a figure, one column a point: medians.
    pub(crate) fn table(&self) -> String {
        let mut names: Vec<_> =
            self.points.iter().flat_map(|(_, figures)| figures.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let mut text = format!("{:WIDTH$}", format!("{} ({})", self.name, self.unit));
        for (at, _) in &self.points {
            // Writing to a text does not fail.
            let _ = write!(text, "{at:>12}");
        }
        for name in names {
            let at = |(_, figures): &(u64, Map<String, Value>)| figures.get(name).cloned();
            let unit = self
                .points
                .iter()
                .find_map(at)
                .and_then(|figure| figure["unit"].as_str().map(str::to_owned));
            let name = format!("{name}, {}", unit.unwrap_or_default());
            let _ = write!(text, "\n{name:WIDTH$}");
            for figure in self.points.iter().map(at) {
                let median = figure.and_then(|figure| figure["median"].as_f64());
                let _ = write!(text, "{:>12}", median.map_or("-".to_owned(), number));
            }
        }
        text + "\n"
    }
}

/// As wide as the longest name of a figure with its unit.
const WIDTH: usize = 46;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_a_line_and_a_point_a_column() {
        let figures = |value: Value| match value {
            Value::Object(figures) => figures,
            _ => unreachable!(),
        };
        let mut series = Series::new("size", "bytes");
        series.add(16, figures(json!({"join": {"unit": "ms", "median": 2.5}})));
        series.add(
            64,
            figures(json!({"join": {"unit": "ms", "median": 300}, "cost": {"unit": "us"}})),
        );
        let table = series.table();
        let lines: Vec<Vec<_>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        let expected: [&[&str]; 3] = [
            &["size", "(bytes)", "16", "64"],
            &["cost,", "us", "-", "-"],
            &["join,", "ms", "2.500", "300"],
        ];
        assert_eq!(lines, expected);
        let (own, figures) = series.points().nth(1).unwrap();
        assert_eq!((&own["grows"], &own["size"]), (&json!("size"), &json!(64)));
        assert_eq!(figures["join"]["median"], 300);
    }
}
