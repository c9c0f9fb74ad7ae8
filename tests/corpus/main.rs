//! Every input that fuzzing has kept, run again on stable Rust.
//!
//! `data/TARGET/` holds the inputs of a target: the smallest set that reaches what
//! the fuzzer has reached, and each input that ever broke a promise. See
//! docs/FUZZING.md.

mod bodies;
mod mutants;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Most bytes of all inputs together: they are cloned by everybody.
const CORPUS_LEN_MAX: u64 = 2 << 20;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/data")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn every_kept_input_keeps_the_promises() {
    for target in bodies::all() {
        let inputs = files(&data().join(target.name));
        assert!(!inputs.is_empty(), "{} has inputs", target.name);
        for input in inputs {
            // A panic names the input: its output is shown when a test fails.
            println!("{}", input.display());
            (target.run)(&fs::read(&input).expect("an input"));
        }
    }
}

#[test]
fn every_folder_of_inputs_belongs_to_a_target_and_all_are_small() {
    let folders = files(&data());
    let names: BTreeSet<_> = folders.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    let known: BTreeSet<_> = bodies::all().map(|target| target.name).collect();
    if cfg!(feature = "cli") {
        assert_eq!(names, known);
    }
    let len = |path: &PathBuf| fs::metadata(path).expect("an input").len();
    let total: u64 = folders.iter().flat_map(|folder| files(folder)).map(|path| len(&path)).sum();
    assert!(total <= CORPUS_LEN_MAX, "{total} bytes");
    assert!(bodies::named("server").is_some() && bodies::named("nothing").is_none());
}

#[test]
fn every_target_has_a_binary_of_its_name() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    if cfg!(not(feature = "cli")) || !fuzz.exists() {
        // A published package holds the inputs and not the fuzzer.
        return;
    }
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("a manifest");
    let sources = files(&fuzz.join("fuzz_targets"));
    assert_eq!(sources.len(), bodies::all().count());
    for target in bodies::all() {
        let name = format!("\"{}\"", target.name);
        assert!(manifest.contains(&format!("name = {name}\n")), "{name}");
        let source = fuzz.join("fuzz_targets").join(target.name).with_extension("rs");
        assert!(fs::read_to_string(source).expect("a source").contains(&name), "{name}");
    }
}
