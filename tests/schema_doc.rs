//! docs/SCHEMA.md says which schemas there are. These tests compare its tables of
//! keys, types and limits with what the reader takes, and its errors with those that
//! are told.
#![cfg(feature = "tree")]

use mapleaf::layout::DataLocId;
use mapleaf::layout::limits;
use mapleaf::tree::FieldKind;
use mapleaf::tree::Layout;

const DOC: &str = include_str!("../docs/SCHEMA.md");

/// Rows of the first table below a line, without its head.
fn rows(below: &str) -> Vec<Vec<&'static str>> {
    let (_, rest) = DOC.split_once(below).unwrap_or_else(|| panic!("{below:?} is gone"));
    let table = rest.lines().skip_while(|line| !line.starts_with('|'));
    let table = table.take_while(|line| line.starts_with('|')).skip(2);
    table.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

fn number(text: &str) -> usize {
    text.replace(',', "").parse().unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

fn refused(text: &str) -> String {
    Layout::from_toml(text).expect_err(text).to_string()
}

/// The keys of a table are those that the reader names, each of its type.
fn compare_keys(below: &str, begin: &str) {
    let rows = rows(below);
    let told = refused(&format!("{begin}other = 1\n"));
    let wanted = told.split_once("wanted ").unwrap().1.split_once(", found").unwrap().0;
    let known: Vec<&str> = wanted.split(", ").flat_map(|part| part.split(" or ")).collect();
    let documented: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(documented, known, "{below}");
    for row in rows {
        let (key, kind) = (row[0], row[1]);
        let another = if kind == "text" { "1" } else { "\"x\"" };
        let told = refused(&format!("{begin}{key} = {another}\n"));
        assert!(told.contains(&format!("{key}: wanted a {kind}, found")), "{key}: {told}");
    }
}

#[test]
fn every_key_is_documented_with_its_type() {
    compare_keys("### [[parent]]\n", "[[parent]]\n");
    compare_keys("### [[parent.field]]\n", "[[parent]]\n[[parent.field]]\n");
    assert!(refused("other = 1").contains("wanted name or [[parent]]"));
    let top: Vec<&str> = rows("Before the first parent:").iter().map(|row| row[0]).collect();
    assert_eq!(top, ["name"]);
}

#[test]
fn every_type_is_documented_with_its_size() {
    let rows = rows("## 2. Types of fields");
    let names: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(names, FieldKind::NAMES.split(' ').collect::<Vec<_>>());
    for row in rows {
        match FieldKind::fixed(row[0]) {
            Some(kind) => assert_eq!(number(row[1]), kind.size() as usize, "{}", row[0]),
            None => assert_eq!(row[1], "`size`", "{}", row[0]),
        }
    }
}

#[test]
fn every_limit_is_the_documented_one() {
    let documented: Vec<usize> = rows("## 3. Limits").iter().map(|row| number(row[1])).collect();
    let known = [
        limits::LEAVES_MAX as usize,
        limits::PARENTS_MAX as usize,
        limits::DEPTH_MAX,
        limits::SCHEMA_LEN_MAX,
        limits::PARENT_NAME_LEN_MAX,
        limits::LEAF_NAME_LEN_MAX,
        limits::CAPACITY_MAX,
        limits::FIELDS_MAX,
        limits::TREE_FIELDS_MAX,
    ];
    assert_eq!(documented, known);
}

#[test]
fn every_schema_that_is_shown_is_read_or_refused_as_shown() {
    // Fences come in pairs: every other part is a block.
    let parts: Vec<&str> = DOC.split("```").collect();
    let (mut read, mut told) = (0, 0);
    for (at, part) in parts.iter().enumerate() {
        let Some(text) = part.strip_prefix("toml\n") else { continue };
        let between = parts.get(at + 1).copied().unwrap_or_default();
        let next = parts.get(at + 2).and_then(|next| next.strip_prefix("text\n"));
        match next.filter(|_| between.trim().is_empty()) {
            Some(error) => {
                told += 1;
                assert_eq!(refused(text), error.trim_end(), "{text}");
            }
            None => {
                read += 1;
                Layout::from_toml(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            }
        }
    }
    assert!(read >= 1 && told >= 7, "the blocks are not found any more");
}

#[test]
fn the_examples_are_what_is_said_of_them() {
    let fleet = Layout::from_toml(include_str!("../examples/fleet.toml")).unwrap();
    let port = fleet.leaf_at("/site/rack1/port48").unwrap();
    assert!(fleet.leaf_at("/site/rack1/port0").is_none());
    assert_eq!(fleet.capacity_of(port), Some(64));
    assert_eq!(fleet.fields_of(port).last().unwrap().end(), 40);
    let door = fleet.leaf_at("/site/climate/door").unwrap();
    assert_eq!(fleet.capacity_of(door), Some(10));
    let host = Layout::from_toml(include_str!("../examples/interfaces.toml")).unwrap();
    let kinds: Vec<FieldKind> = host.fields_of(DataLocId(0)).iter().map(|one| one.kind).collect();
    assert!(kinds.contains(&FieldKind::Text(16)) && kinds.contains(&FieldKind::Bytes(6)));
}

#[test]
fn listed_leaves_count_when_the_others_are_numbered() {
    let text = "[[parent]]\nname = \"p\"\nnames = [\"a\", \"b\"]\nleaves = 4\ncapacity = 8\n";
    let layout = Layout::from_toml(text).unwrap();
    let paths = (0..4).filter_map(|leaf| layout.path_of(DataLocId(leaf)));
    assert_eq!(paths.collect::<Vec<_>>(), ["/p/a", "/p/b", "/p/2", "/p/3"]);
}
