//! What was measured, as a table or as JSON Lines.

use std::fmt::Write as _;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::machine;
use crate::series::Series;

/// One figure of several measurements.
#[derive(Clone, Debug)]
struct Figure {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
}

/// Figures by name, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    /// Adds one measurement of a figure.
    pub(crate) fn add(&mut self, name: &str, unit: &'static str, value: f64) {
        match self.0.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.values.push(value),
            None => self.0.push(Figure { name: name.to_owned(), unit, values: vec![value] }),
        }
    }

    /// Each with its unit, its median, its bounds, and its values, of which there are `runs`.
    pub(crate) fn json(&self) -> Map<String, Value> {
        let tell = |figure: &Figure| {
            let (min, max) = bounds(&figure.values);
            let told = json!({
                "unit": figure.unit,
                "median": median(&figure.values),
                "min": min,
                "max": max,
                "runs": figure.values.len(),
                "values": figure.values,
            });
            (figure.name.clone(), told)
        };
        self.0.iter().map(tell).collect()
    }

    fn table(&self, text: &mut String) {
        let width = self.0.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
        line(text, width, ("figure", "median", "min", "max"), "unit");
        for Figure { name, unit, values } in &self.0 {
            let (min, max) = bounds(values);
            let told = [median(values), min, max].map(number);
            line(text, width, (name, &told[0], &told[1], &told[2]), unit);
        }
    }
}

/// All figures of a run.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    command: &'static str,
    machine: Value,
    options: Value,
    figures: Figures,
    /// What a figure can reach at most, by its name.
    limits: Vec<(String, f64)>,
    series: Vec<Series>,
    notes: Vec<String>,
}

impl Report {
    /// Nothing yet. The machine is described as it is before the load.
    pub(crate) fn new(command: &'static str, options: Value) -> Report {
        let mut notes = Vec::new();
        if cfg!(debug_assertions) {
            notes.push("not a release build: these are no figures of speed".to_owned());
        }
        let (machine, figures) = (machine::describe(), Figures::default());
        let (limits, series) = (Vec::new(), Vec::new());
        Report { command, machine, options, figures, limits, series, notes }
    }

    /// Adds one measurement of a figure.
    pub(crate) fn add(&mut self, name: &str, unit: &'static str, value: f64) {
        self.figures.add(name, unit, value);
    }

    /// Says what a figure can reach at most, as it was measured in the same run.
    pub(crate) fn limit(&mut self, name: &str, limit: f64) {
        self.limits.push((name.to_owned(), limit));
    }

    /// Adds curves.
    pub(crate) fn add_series(&mut self, series: Series) {
        self.series.push(series);
    }

    /// Adds a sentence that a reader of the figures has to know.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The median of a figure.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        let found = self.figures.0.iter().find(|figure| figure.name == name);
        found.map(|figure| median(&figure.values))
    }

    /// One object a figure, the points of curves included.
    pub(crate) fn json(&self) -> Vec<Value> {
        let settings = self.settings();
        let mut lines = self.lines(&self.figures.json(), &settings);
        for series in &self.series {
            for (own, figures) in series.points() {
                let mut settings = settings.clone();
                settings.extend(own);
                lines.extend(self.lines(figures, &settings));
            }
        }
        lines
    }

    /// What was asked for, of what build, on which machine.
    fn settings(&self) -> Map<String, Value> {
        let mut settings = self.options.as_object().cloned().unwrap_or_default();
        settings.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        settings.insert("commit".to_owned(), json!(machine::commit()));
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        settings.insert("build".to_owned(), json!(build));
        settings.insert("machine".to_owned(), self.machine.clone());
        settings.insert("load_average_at_end".to_owned(), json!(machine::load_average()));
        settings
    }

    fn lines(&self, figures: &Map<String, Value>, settings: &Map<String, Value>) -> Vec<Value> {
        let line = |(name, figure): (&String, &Value)| {
            let mut line = json!({"command": self.command, "measure": name, "settings": settings});
            if let (Value::Object(line), Value::Object(figure)) = (&mut line, figure) {
                line.extend(figure.clone());
            }
            if let Some((_, limit)) = self.limits.iter().find(|(of, _)| of == name) {
                line["limit"] = json!(limit);
                line["share"] = json!(figure["median"].as_f64().unwrap_or(0.0) / limit);
            }
            line
        };
        figures.iter().map(line).collect()
    }

    /// What a reader of the figures has to know.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// One line a figure, then the curves.
    pub(crate) fn table(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "mapleaf-load {} {}, {} cores of {}, Linux {}\n{}\n\n",
            self.command,
            env!("CARGO_PKG_VERSION"),
            machine["cores"],
            machine["cpu"].as_str().unwrap_or("unknown"),
            machine["kernel"].as_str().unwrap_or("unknown"),
            self.options,
        );
        if !self.figures.0.is_empty() {
            self.figures.table(&mut text);
        }
        let tables: Vec<_> = self.series.iter().map(Series::table).collect();
        text.push_str(&tables.join("\n"));
        for note in &self.notes {
            let _ = writeln!(text, "\nNote: {note}.");
        }
        text
    }
}

fn line(text: &mut String, width: usize, cells: (&str, &str, &str, &str), unit: &str) {
    let (name, median, min, max) = cells;
    // Writing to a text does not fail.
    let _ = writeln!(text, "{name:width$}  {median:>12}  {min:>12}  {max:>12}  {unit}");
}

/// Whole numbers as such, small ones with three digits behind the point.
pub(crate) fn number(value: f64) -> String {
    if value.abs() >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    }
}

/// The middle of some values, or the mean of the two in the middle; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) && middle > 0 {
        return f64::midpoint(at(middle - 1), at(middle));
    }
    at(middle)
}

/// The least and the greatest.
pub(crate) fn bounds(values: &[f64]) -> (f64, f64) {
    let start = values.first().copied().unwrap_or(0.0);
    values.iter().fold((start, start), |(min, max), value| (min.min(*value), max.max(*value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(bounds(&[3.0, -1.0, 2.0]), (-1.0, 3.0));
    }

    #[test]
    fn figures_of_one_name_are_one() {
        let mut report = Report::new("latency", json!({"rate": 5}));
        for value in [1.0, 3.0, 200.0] {
            report.add("p50", "us", value);
        }
        report.note("said");
        report.limit("p50", 2.0);
        let lines = report.json();
        assert_eq!((lines.len(), &lines[0]["measure"]), (1, &json!("p50")));
        assert_eq!((&lines[0]["median"], &lines[0]["runs"]), (&json!(3.0), &json!(3)));
        assert_eq!(lines[0]["values"], json!([1.0, 3.0, 200.0]));
        assert_eq!((&lines[0]["limit"], &lines[0]["share"]), (&json!(2.0), &json!(1.5)));
        let settings = &lines[0]["settings"];
        assert_eq!(settings["rate"], 5);
        assert!(settings["machine"]["cores"].as_u64().is_some_and(|cores| cores > 0));
        let table = report.table();
        assert!(table.contains("p50") && table.contains("200  us"), "{table}");
        assert!(table.contains("Note: said."), "{table}");
    }
}
