//! What came out: every value of every figure, by who was measured.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

/// One who is measured.
struct Entry {
    name: String,
    version: String,
    settings: String,
    /// Why it was not measured.
    missing: Option<String>,
    figures: Map<String, Value>,
    notes: Vec<String>,
}

/// All who are measured, in their order.
#[derive(Default)]
pub struct Book(Vec<Entry>);

impl Book {
    /// Opens the page of one more; one that is there already does something else as well.
    pub fn enter(&mut self, name: &str, version: String, settings: &str) {
        if let Some(entry) = self.entry(name) {
            entry.settings = format!("{}. Repair: {settings}", entry.settings);
            return;
        }
        let (name, settings) = (name.to_owned(), settings.to_owned());
        let (figures, notes) = (Map::new(), Vec::new());
        self.0.push(Entry { name, version, settings, missing: None, figures, notes });
    }

    fn entry(&mut self, name: &str) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| entry.name == name)
    }

    /// It cannot be measured.
    pub fn miss(&mut self, name: &str, reason: String) {
        if let Some(entry) = self.entry(name) {
            entry.missing = Some(reason);
        }
    }

    pub fn add(&mut self, name: &str, figure: &str, value: f64) {
        let Some(entry) = self.entry(name) else { return };
        let values = entry.figures.entry(figure).or_insert_with(|| json!([]));
        if let Some(values) = values.as_array_mut() {
            values.push(json!(value));
        }
    }

    /// Said below the table, once.
    pub fn note(&mut self, name: &str, text: String) {
        if let Some(entry) = self.entry(name)
            && !entry.notes.contains(&text)
        {
            entry.notes.push(text);
        }
    }

    /// Writes a file for each.
    pub fn save(&self, folder: &Path, run: &Value) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        for entry in &self.0 {
            let mut told = json!({
                "rival": entry.name,
                "version": entry.version,
                "settings": entry.settings,
                "figures": entry.figures,
                "notes": entry.notes,
            });
            if let Some(reason) = &entry.missing {
                told["missing"] = json!(reason);
            }
            if let (Value::Object(told), Value::Object(run)) = (&mut told, run) {
                told.extend(run.clone());
            }
            let path = folder.join(format!("{}.json", entry.name));
            fs::write(&path, format!("{told}\n")).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

/// The version of a crate that this program was built with.
pub fn locked(name: &str) -> String {
    let of_this = |package: &&str| package.lines().any(|line| line == format!("name = \"{name}\""));
    let package = include_str!("../Cargo.lock").split("[[package]]").find(of_this);
    let version = package.and_then(|package| {
        package.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
    });
    version.unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_kept() {
        let mut book = Book::default();
        book.enter("one", "1.0".to_owned(), "as it comes");
        book.enter("two", "2.0".to_owned(), "");
        book.add("one", "speed", 1.5);
        book.add("one", "speed", 2.5);
        book.add("nobody", "speed", 9.0);
        book.note("one", "so".to_owned());
        book.note("one", "so".to_owned());
        book.enter("one", "1.0".to_owned(), "too");
        book.miss("two", "not there".to_owned());
        let folder = tempfile::tempdir().unwrap();
        book.save(folder.path(), &json!({"repetitions": 2})).unwrap();
        let read = |name: &str| -> Value {
            let path = folder.path().join(name).with_extension("json");
            serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
        };
        let one = read("one");
        assert_eq!(one["figures"], json!({"speed": [1.5, 2.5]}));
        assert_eq!((&one["notes"], &one["repetitions"]), (&json!(["so"]), &json!(2)));
        assert_eq!((&one["rival"], &one["version"]), (&json!("one"), &json!("1.0")));
        assert_eq!(
            (&one["settings"], &one["missing"]),
            (&json!("as it comes. Repair: too"), &Value::Null)
        );
        assert_eq!(read("two")["missing"], "not there");
    }

    #[test]
    fn versions_are_those_of_the_lock() {
        assert!(locked("redb").starts_with("4."), "{}", locked("redb"));
        assert_eq!(locked("no-such-crate"), "?");
    }
}
