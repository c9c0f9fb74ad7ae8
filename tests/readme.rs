//! What README.md and docs/ARCHITECTURE.md say exists: commands and options, files
//! that are linked, settings that are shown, names of the code.
#![cfg(feature = "cli")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

const README: &str = include_str!("../README.md");
const ARCHITECTURE: &str = include_str!("../docs/ARCHITECTURE.md");

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The text of all blocks between fences of one kind.
fn blocks(page: &str, kind: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside: Option<String> = None;
    for line in page.lines() {
        match (&mut inside, line.strip_prefix("```")) {
            (Some(text), None) => *text += &format!("{line}\n"),
            (Some(_), Some(_)) => found.extend(inside.take()),
            (None, Some(fence)) if fence == kind => inside = Some(String::new()),
            (None, _) => {}
        }
    }
    found
}

/// Program, command and options of a line such as `$ X=1 mapleaf serve F --listen A; echo`.
fn shown_command(line: &str) -> Option<(&str, &str, Vec<&str>)> {
    let line = line.strip_prefix("$ ")?;
    let words = line.split([';', '|', '<']).next()?.split_whitespace();
    let mut words = words.skip_while(|word| word.contains('='));
    let (program, command) = (words.next()?, words.next()?);
    let options = words.filter(|word| word.starts_with("--"));
    program.starts_with("mapleaf").then(|| (program, command, options.collect()))
}

fn help(program: &str, command: &str) -> String {
    let path = match program {
        "mapleaf" => env!("CARGO_BIN_EXE_mapleaf"),
        "mapleaf-tree" => env!("CARGO_BIN_EXE_mapleaf-tree"),
        other => panic!("the README shows a program {other}"),
    };
    let output = Command::new(path).args([command, "--help"]).output().unwrap();
    assert!(output.status.success(), "{program} has no command {command}");
    String::from_utf8(output.stdout).unwrap()
}

fn has_word(text: &str, word: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(inside) && !text[at + word.len()..].starts_with(inside)
    })
}

/// Targets of `[text](target)` that are files.
fn links(page: &str) -> BTreeSet<&str> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.map(|target| target.split('#').next().unwrap_or("")).filter(|t| !t.is_empty()).collect()
}

/// Texts between backticks outside of fenced blocks.
fn names(page: &str) -> BTreeSet<&str> {
    let prose = page.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *into += &fs::read_to_string(path).unwrap();
        }
    }
}

/// Whether the code has a name: a path's last part counts.
fn is_in(code: &str, name: &str) -> bool {
    let last = name.rsplit("::").next().unwrap_or(name);
    let kinds = ["fn", "struct", "enum", "trait", "mod", "type", "const"];
    // Variants and fields have no keyword before them.
    let is_part = name.contains("::") || !last.contains(|c: char| c == '_' || c.is_uppercase());
    kinds.iter().any(|kind| has_word(code, &format!("{kind} {last}")))
        || (is_part && has_word(code, last))
}

fn is_name(text: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    text.split("::").all(is_part)
}

#[test]
fn the_readme_shows_commands_and_options_that_exist() {
    let mut helps = BTreeMap::new();
    let blocks = blocks(README, "text");
    let shown: Vec<_> =
        blocks.iter().flat_map(|block| block.lines()).filter_map(shown_command).collect();
    assert!(shown.len() > 15, "the commands are not found any more: {shown:?}");
    for (program, command, options) in shown {
        let help = helps.entry((program, command)).or_insert_with(|| help(program, command));
        for option in options {
            assert!(has_word(help, option), "{program} {command} has no {option}");
        }
    }
}

#[test]
fn options_of_the_readme_s_table_exist() {
    let serve = help("mapleaf", "serve");
    let rows = README.lines().filter_map(|line| line.strip_prefix("| `--")?.split_once('`'));
    let options: Vec<_> = rows.collect();
    assert!(options.len() >= 7);
    for (option, rest) in options {
        assert!(has_word(&serve, &format!("--{option}")), "serve has no --{option}");
        let default = rest.split('|').nth(1).unwrap_or("").trim();
        let told = serve.contains(&format!("[default: {default}]")) || default == "off";
        assert!(told, "--{option}: no option has the default {default}");
    }
}

#[test]
fn the_readme_s_settings_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let settings = blocks(README, "toml").into_iter().find(|text| text.contains("[serve]"));
    let file = folder.path().join("settings.toml");
    fs::write(&file, settings.unwrap()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mapleaf"))
        .args(["serve", "missing.mapleaf", "--config"])
        .arg(&file)
        .current_dir(folder.path())
        .output()
        .unwrap();
    // All that it misses is the tree.
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("missing.mapleaf") && !told.contains("settings.toml"), "{told}");
}

#[test]
fn what_is_linked_exists() {
    for (page, folder) in [(README, root()), (ARCHITECTURE, root().join("docs"))] {
        let links = links(page);
        assert!(links.len() >= 3, "the links are not found any more");
        for link in links {
            assert!(folder.join(link).exists(), "{link} is linked and does not exist");
        }
    }
}

#[test]
fn names_of_the_architecture_exist() {
    let mut code = String::new();
    ["src", "tools"].iter().for_each(|folder| sources(&root().join(folder), &mut code));
    let names = names(ARCHITECTURE);
    assert!(names.len() > 80, "the names are not found any more");
    let exists = |name: &str| {
        let is_file = name.ends_with(".rs") || name.ends_with('/') || name.starts_with("src/");
        match is_file {
            true => root().join(name).exists(),
            false => !is_name(name) || is_in(&code, name),
        }
    };
    let missing: Vec<_> = names.into_iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "named, and not in the code: {missing:?}");
}

#[test]
fn what_does_not_exist_is_caught() {
    let code = "pub(super) fn plan_events() {}\nenum Mark { Changed }\nevents_sent: u64";
    assert!(is_in(code, "plan_events") && is_in(code, "Mark::Changed") && is_in(code, "Mark"));
    assert!(!is_in(code, "plan_event") && !is_in(code, "Server::gone") && !is_in(code, "Changed"));
    assert!(is_name("Tree::write") && !is_name("cargo bench") && !is_name("--listen"));
    let (program, command, options) =
        shown_command("$ A=1 mapleaf mirror X F --until-synced; echo $?").unwrap();
    assert_eq!((program, command, options), ("mapleaf", "mirror", vec!["--until-synced"]));
    assert!(shown_command("$ cargo test --lib").is_none());
    assert!(has_word("--period <TIME>", "--period") && !has_word("--periods", "--period"));
    assert_eq!(links("a [b](c.md#d) [e](f)"), BTreeSet::from(["c.md", "f"]));
    assert_eq!(names("a `b` c\n```\n`d`\n```\n`e`"), BTreeSet::from(["b", "e"]));
}
