//! The house rules that a compiler does not know.
//!
//! A module of src/ imports only from the layers below it, `unsafe` stays in the
//! files that are allowed to hold it, memory that somebody else may write is reached
//! in few places, and source text is ASCII. The scanner looks at code alone: comments,
//! doc comments and texts in quotes may name anything.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Module, layer, and what it may import beside itself.
const LAYERS: &[(&str, u8, &[&str])] = &[
    ("layout", 0, &[]),
    ("kernel", 0, &[]),
    ("net", 0, &[]),
    ("wire", 1, &["layout", "kernel"]),
    ("tree", 1, &["layout", "kernel"]),
    ("sync", 2, &["layout", "kernel", "wire"]),
    ("bridge", 3, &["layout", "kernel", "wire", "tree", "sync"]),
    ("sim", 4, &["layout", "kernel", "wire", "tree", "sync", "bridge"]),
    ("runtime", 4, &["layout", "kernel", "net", "wire", "tree", "sync", "bridge"]),
];

/// Where `unsafe` may be written: files, and folders with all that is in them.
const UNSAFE_IN: &[&str] = &[
    "src/kernel/arch/",
    "src/tree/map.rs",
    "src/tree/sigbus.rs",
    "src/net/sys.rs",
    // A counting allocator: `GlobalAlloc` is an unsafe trait.
    "tests/steady/allocator.rs",
    // A race that the sanitizer must find.
    "tools/tsan/planted.rs",
];

/// What may reach memory that another thread or process is writing, and where it may be
/// named. So no kernel of the product reads such memory: docs/RELIABILITY.md tells the
/// proof.
const SHARED_MEMORY_IN: &[(&str, &str)] = &[
    // The mapping of a tree without a reference to it.
    ("MmapRaw", "src/tree/map.rs"),
    // A slice of a mapping: of atomics, there.
    ("from_raw_parts", "src/tree/map.rs"),
    ("from_raw_parts_mut", "src/tree/map.rs"),
    // Checksums of memory that is being written: for callers of the library alone.
    ("batch_raw", "src/kernel/"),
];

/// Folders that the rule about `unsafe` holds for.
const SAFE_BUT_FOR_THEM: &[&str] = &["src/", "tests/", "tools/"];

/// Folders whose sources are ASCII.
const ASCII_IN: &[&str] = &["src", "tests", "tools", "benches"];

/// The text with comments, strings and characters replaced by spaces, so that
/// lines keep their numbers.
fn code_of(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let skipped = comment_len(&bytes[at..])
            .or_else(|| raw_string_len(&bytes[at..], code.chars().last()))
            .or_else(|| string_len(&bytes[at..]))
            .or_else(|| char_len(&bytes[at..]));
        let len = skipped.unwrap_or(1);
        for byte in &bytes[at..(at + len).min(bytes.len())] {
            let blank = skipped.is_some() && *byte != b'\n' || !byte.is_ascii();
            code.push(if blank { ' ' } else { char::from(*byte) });
        }
        at += len;
    }
    code
}

fn comment_len(rest: &[u8]) -> Option<usize> {
    if rest.starts_with(b"//") {
        return Some(rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with(b"/*") {
        return None;
    }
    let (mut depth, mut at) = (1, 2);
    while depth > 0 && at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    Some(at)
}

fn raw_string_len(rest: &[u8], before: Option<char>) -> Option<usize> {
    let in_a_name = before.is_some_and(|c| c.is_ascii_alphanumeric() && c != 'b' && c != 'c');
    if rest.first() != Some(&b'r') || in_a_name || before == Some('_') {
        return None;
    }
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let end = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let inside = &rest[2 + hashes..];
    let len = inside.windows(end.len()).position(|window| window == end);
    Some(len.map_or(rest.len(), |len| 2 + hashes + len + end.len()))
}

fn string_len(rest: &[u8]) -> Option<usize> {
    if rest.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    while let Some(byte) = rest.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
    Some(rest.len())
}

/// A character, not a lifetime: `'a'` and `'\''`, but not `'a`.
fn char_len(rest: &[u8]) -> Option<usize> {
    match rest {
        [b'\'', b'\\', _, tail @ ..] => {
            tail.iter().position(|byte| *byte == b'\'').map(|len| len + 4)
        }
        [b'\'', _, b'\'', ..] => Some(3),
        _ => None,
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether a place in the code is where a word begins.
fn begins_word(code: &str, at: usize) -> bool {
    !code[..at].chars().next_back().is_some_and(is_name)
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// First names of the paths behind `root::`: one, or those of a `{ ... }` group.
fn names_behind(code: &str) -> Vec<&str> {
    let rest = code.trim_start();
    let Some(group) = rest.strip_prefix('{') else {
        return vec![rest.split(|c| !is_name(c)).next().unwrap_or("")];
    };
    let (mut depth, mut end) = (1, group.len());
    for (at, c) in group.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            end = at;
            break;
        }
    }
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group[..end].char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            names.push(&group[start..at]);
            start = at + 1;
        }
    }
    names.push(&group[start..end]);
    names.iter().filter_map(|name| name.trim().split(|c| !is_name(c)).next()).collect()
}

/// Every module named behind `crate::`, `super::` or `mapleaf::`, with its line.
fn imports(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for root in ["crate", "super", "mapleaf"] {
        for (at, _) in code.match_indices(root) {
            let rest = code[at + root.len()..].trim_start();
            let (true, Some(path)) = (begins_word(code, at), rest.strip_prefix("::")) else {
                continue;
            };
            for name in names_behind(path) {
                found.push((name.to_string(), line_of(code, at)));
            }
        }
    }
    found
}

/// The module of src/ that a file belongs to: its folder, or its own name.
fn module_of(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

/// What is wrong with one source text.
fn violations(path: &str, source: &str) -> Vec<String> {
    let code = code_of(source);
    let mut wrong = layer_violations(path, &code);
    let may_be_unsafe = UNSAFE_IN.iter().any(|allowed| match allowed.ends_with('/') {
        true => path.starts_with(allowed),
        false => path == *allowed,
    });
    if SAFE_BUT_FOR_THEM.iter().any(|folder| path.starts_with(folder)) && !may_be_unsafe {
        wrong.extend(unsafe_violations(path, &code));
    }
    if path.starts_with("src/") {
        wrong.extend(shared_memory_violations(path, &code));
    }
    for (index, line) in source.lines().enumerate() {
        if !line.is_ascii() {
            wrong.push(format!("{path}:{}: not ASCII", index + 1));
        }
    }
    wrong
}

fn layer_violations(path: &str, code: &str) -> Vec<String> {
    let module = module_of(path);
    let Some((_, _, may_import)) = LAYERS.iter().find(|(name, ..)| *name == module) else {
        return Vec::new();
    };
    let is_other = |name: &str| LAYERS.iter().any(|(other, ..)| *other == name) && name != module;
    imports(code)
        .into_iter()
        .filter(|(name, _)| is_other(name) && !may_import.contains(&name.as_str()))
        .map(|(name, line)| format!("{path}:{line}: {module} may not import {name}"))
        .collect()
}

fn unsafe_violations(path: &str, code: &str) -> Vec<String> {
    code.match_indices("unsafe")
        .filter(|(at, _)| begins_word(code, *at))
        .filter(|(at, _)| {
            let rest = &code[at + "unsafe".len()..];
            // `deny(unsafe_code)` is welcome anywhere, `allow(unsafe_code)` is not.
            match rest.chars().next() {
                Some(c) if is_name(c) => code[..*at].trim_end().ends_with("allow("),
                _ => true,
            }
        })
        .map(|(at, _)| format!("{path}:{}: unsafe is not allowed here", line_of(code, at)))
        .collect()
}

fn shared_memory_violations(path: &str, code: &str) -> Vec<String> {
    let elsewhere = SHARED_MEMORY_IN.iter().filter(|(_, place)| !path.starts_with(place));
    let is_word = |at: usize, name: &str| {
        begins_word(code, at) && !code[at + name.len()..].starts_with(is_name)
    };
    elsewhere
        .flat_map(|(name, _)| code.match_indices(name))
        .filter(|(at, name)| is_word(*at, name))
        .map(|(at, name)| format!("{path}:{}: {name} is not allowed here", line_of(code, at)))
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder, by its path from the root of the package.
fn sources(folder: &Path, into: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).expect("below the root");
            let bytes = fs::read(&path).expect("a readable file");
            let text = String::from_utf8_lossy(&bytes).into_owned();
            into.insert(name.to_string_lossy().replace('\\', "/"), text);
        }
    }
}

fn all_sources() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    ASCII_IN.iter().for_each(|folder| sources(&root().join(folder), &mut found));
    found
}

/// Modules that a source text declares.
fn declared(source: &str) -> BTreeSet<String> {
    let code = code_of(source);
    let lines = code.lines().map(|line| line.trim().trim_start_matches("pub "));
    lines
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
        .map(String::from)
        .collect()
}

#[test]
fn the_sources_keep_the_rules() {
    let found = all_sources();
    assert!(found.contains_key("src/wire/decode.rs"), "the sources are not found any more");
    let wrong: Vec<String> =
        found.iter().flat_map(|(path, source)| violations(path, source)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_layer_and_lib_rs_says_the_same() {
    let lib = include_str!("../src/lib.rs");
    let table: Vec<(String, u8)> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "))
        .filter_map(|row| {
            let mut cells = row.split('|').map(str::trim);
            let layer = cells.next()?.parse().ok()?;
            let module = cells.next()?.trim_matches(|c| !is_name(c));
            Some((module.to_string(), layer))
        })
        .collect();
    let held: Vec<(String, u8)> =
        LAYERS.iter().map(|(module, layer, _)| (module.to_string(), *layer)).collect();
    assert_eq!(table, held, "the table in src/lib.rs");
    let modules: BTreeSet<String> = held.into_iter().map(|(module, _)| module).collect();
    assert_eq!(declared(lib), modules, "the modules of src/lib.rs");
}

#[test]
fn every_file_of_src_belongs_to_the_library_or_the_binary() {
    let library = declared(include_str!("../src/lib.rs"));
    let binary = declared(include_str!("../src/main.rs"));
    for path in all_sources().keys().filter(|path| path.starts_with("src/")) {
        let module = module_of(path);
        let is_known = library.contains(module) || binary.contains(module);
        assert!(is_known || ["lib", "main"].contains(&module), "{path} is in no layer");
    }
}

#[test]
fn layers_import_from_lower_ones_only() {
    for (module, layer, may_import) in LAYERS {
        for other in *may_import {
            let found = LAYERS.iter().find(|(name, ..)| name == other).expect("a module");
            assert!(found.1 < *layer, "{module} may not import {other}");
        }
    }
}

fn caught(path: &str, source: &str, what: &str) {
    let wrong = violations(path, source);
    assert_eq!(wrong.len(), 1, "{source:?}: {wrong:?}");
    assert!(wrong[0].contains(what), "{wrong:?}");
}

#[test]
fn an_import_from_a_higher_layer_is_caught() {
    let what = "wire may not import sync";
    caught("src/wire/leaf.rs", "use crate::sync::Server;", what);
    caught("src/wire/leaf.rs", "use crate :: sync;", what);
    caught("src/wire.rs", "fn f() { crate::sync::f() }", what);
    caught("src/wire/leaf.rs", "use crate::{\n    layout::{DataLocId, Life},\n    sync};", what);
    caught("src/wire/leaf.rs", "use super::super::sync::Server;", what);
    caught("src/wire/leaf.rs", "use mapleaf::sync::Server;", what);
    caught("src/wire/leaf.rs", "/* a /* b */ c */ use crate::sync;", what);
    caught("src/wire/leaf.rs", "let quote = '\"'; use crate::sync; // \"", what);
    caught("src/wire/leaf.rs", "let raw = r#\"\"\"#; use crate::sync;", what);
    caught("src/wire/leaf.rs", "fn f<'a>(x: &'a str) { crate::sync::f(x) }", what);
    caught("src/kernel/diff.rs", "use crate::layout::Life;", "kernel may not import layout");
    caught("src/sync/view.rs", "use crate::tree::Tree;", "sync may not import tree");
}

#[test]
fn the_line_of_a_violation_is_named() {
    let wrong = violations("src/net/mod.rs", "//! Doc.\n\n\nuse crate::layout;\n");
    assert_eq!(wrong, ["src/net/mod.rs:4: net may not import layout"]);
}

#[test]
fn unsafe_in_the_wrong_place_is_caught() {
    let what = "unsafe is not allowed";
    caught("src/sync/view.rs", "unsafe { f() }", what);
    caught("src/tree/read.rs", "unsafe impl Send for A {}", what);
    caught("src/tree/read.rs", "#![allow(unsafe_code)]", what);
    caught("src/kernel/mod.rs", "pub(crate) unsafe fn f() {}", what);
    caught("tests/steady/loops.rs", "unsafe { f() }", what);
    caught("tools/mapleaf-sim.rs", "unsafe { f() }", what);
}

#[test]
fn another_way_to_memory_that_others_write_is_caught() {
    caught("src/tree/open.rs", "kernel.batch_raw(first, 64, &lens, &mut out)", "batch_raw");
    caught("src/net/sys.rs", "slice::from_raw_parts(at, 1)", "from_raw_parts is not");
    caught("src/tree/sigbus.rs", "use memmap2::MmapRaw;", "MmapRaw");
    let elsewhere = "let batch_raw_len = 1; // MmapRaw";
    assert_eq!(violations("src/tree/open.rs", elsewhere), Vec::<String>::new());
}

#[test]
fn bytes_that_are_not_ascii_are_caught() {
    caught("src/wire/leaf.rs", "// a \u{2013} b", "src/wire/leaf.rs:1: not ASCII");
    caught("tests/layers.rs", "\n\"\u{e9}\"", "tests/layers.rs:2: not ASCII");
}

#[test]
fn what_is_allowed_is_not_caught() {
    for (path, source) in [
        ("src/wire/leaf.rs", "use crate::layout::Life; use crate::wire::Leaf; use crate::kernel;"),
        ("src/wire/leaf.rs", "//! See [`crate::sync`].\n/// crate::tree, unsafe\nfn f() {}"),
        ("src/wire/leaf.rs", "let text = \"use crate::sync; unsafe \\\" \";"),
        ("src/wire/leaf.rs", "let raw = r#\"crate::sync \"unsafe\" \"#;"),
        ("src/wire/leaf.rs", "use super::body::Header; let sync = 1; xcrate::sync();"),
        ("src/wire/leaf.rs", "#![deny(unsafe_code)] let unsafely = 1;"),
        ("src/tree/map.rs", "#![allow(unsafe_code)] unsafe { f() }"),
        ("tests/steady/allocator.rs", "#![allow(unsafe_code)] unsafe { f() }"),
        ("src/kernel/arch/x86_64.rs", "unsafe { f() }"),
        ("src/runtime/serve.rs", "use crate::net; use crate::tree; use crate::sync;"),
        ("src/main.rs", "use mapleaf::runtime::Server;"),
    ] {
        assert_eq!(violations(path, source), Vec::<String>::new(), "{path}: {source}");
    }
}
