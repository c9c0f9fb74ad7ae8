//! Trees in a folder of their own, made and looked at by the programs.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use tempfile::TempDir;

use super::process::mapleaf;
use super::process::mapleaf_tree;
use super::process::run;
use super::wait_until;

/// A folder that goes away with the test.
pub(crate) struct Site(TempDir);

impl Site {
    pub(crate) fn new() -> Site {
        Site(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file with this text.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A tree made from a schema.
    pub(crate) fn create(&self, name: &str, schema: &Path) -> PathBuf {
        self.created(name, &["--schema", schema.to_str().unwrap()])
    }

    /// A tree of leaves without a schema.
    pub(crate) fn create_plain(&self, name: &str, sizes: [u32; 3]) -> PathBuf {
        let [parents, leaves, capacity] = sizes.map(|size| size.to_string());
        let plain = ["--parents", &parents, "--leaves", &leaves, "--capacity", &capacity];
        self.created(name, &plain)
    }

    fn created(&self, name: &str, options: &[&str]) -> PathBuf {
        let path = self.path(name);
        let mut command = mapleaf(["create"]);
        command.arg(&path).args(options);
        run(command).well();
        path
    }
}

/// An example that comes with the crate.
pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Whether `mapleaf-tree diff` says that two trees are equal.
pub(crate) fn equal(one: &Path, other: &Path) -> bool {
    let ended = run(mapleaf_tree([Path::new("diff"), one, other]));
    match ended.code() {
        0 => true,
        1 => false,
        _ => panic!("{ended}"),
    }
}

/// Waits until two trees, live or not, are equal.
pub(crate) fn wait_equal(one: &Path, other: &Path) {
    let what = format!("{} equals {}", other.display(), one.display());
    // A replica's file is made when its layout has come.
    wait_until(&what, || other.exists() && equal(one, other));
}

/// Nothing in the file is damaged.
#[track_caller]
pub(crate) fn assert_whole(tree: &Path) {
    let ended = run(mapleaf_tree([Path::new("verify"), tree]));
    assert_eq!(ended.code(), 0, "{}\n{ended}", ended.stdout.join("\n"));
}

/// What `mapleaf-tree stat --json` says.
pub(crate) fn stat(tree: &Path) -> serde_json::Value {
    let ended = run(mapleaf_tree([Path::new("stat"), Path::new("--json"), tree])).well();
    serde_json::from_str(&ended.stdout.join("\n")).unwrap()
}

/// A number of [`stat`].
#[track_caller]
pub(crate) fn stat_number(tree: &Path, key: &str) -> u64 {
    stat(tree)[key].as_u64().unwrap()
}

/// The lines of `mapleaf-tree dump --json`, by path: leaves that were ever written.
pub(crate) fn dump(tree: &Path) -> BTreeMap<String, serde_json::Value> {
    let ended = run(mapleaf_tree([Path::new("dump"), Path::new("--json"), tree])).well();
    let lines = ended.stdout.iter().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        (line["path"].as_str().unwrap().to_owned(), line)
    });
    lines.collect()
}

/// Data of a line of [`dump`], as text.
pub(crate) fn text_of(line: &serde_json::Value) -> String {
    let digits = line["data"].as_str().unwrap();
    let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
    String::from_utf8(bytes.map(Result::unwrap).collect()).unwrap()
}
