//! The bodies of the fuzz targets, shared with the replay in tests/corpus.

// Some of it is for the altered inputs of tests/corpus alone.
#[allow(dead_code)]
#[path = "../../tests/corpus/bodies/mod.rs"]
mod bodies;

/// Runs one target.
///
/// # Panics
/// If mapleaf breaks a promise, or no target has this name.
pub fn run(name: &str, input: &[u8]) {
    let target = bodies::named(name).expect("a target in bodies/mod.rs");
    (target.run)(input);
}
