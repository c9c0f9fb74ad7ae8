//! The tables of docs/PROTOCOL.md against the structs, codes, flags and limits.
//!
//! Each table that is compared stands under a marker, `<!-- struct Name at N -->`
//! and the like. A row too many, one too few or another number fails, in either
//! direction; so does a struct or a limit that the page forgot.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::mem::offset_of;
use std::mem::size_of;

use mapleaf::layout::LeafHead;
use mapleaf::layout::Parent;
use mapleaf::layout::limits;
use mapleaf::wire::AckRefusal;
use mapleaf::wire::ByeReason;
use mapleaf::wire::DOOR_DATAGRAM_LEN;
use mapleaf::wire::DatagramType;
use mapleaf::wire::Flags;
use mapleaf::wire::GroupBody;
use mapleaf::wire::Header;
use mapleaf::wire::Hole;
use mapleaf::wire::INIT_FILTER_LEN_MAX;
use mapleaf::wire::InitBody;
use mapleaf::wire::LayoutBody;
use mapleaf::wire::LayoutRequestBody;
use mapleaf::wire::PROTOCOL_VERSION;
use mapleaf::wire::RefusalReason;
use mapleaf::wire::RequestBody;
use mapleaf::wire::ResponseBody;
use mapleaf::wire::TickBody;
use mapleaf::wire::WelcomeBody;
use mapleaf::wire::checked_len;

const PAGE: &str = include_str!("../docs/PROTOCOL.md");
const LIMITS_SOURCE: &str = include_str!("../src/layout/limits.rs");
const HEADER_SOURCE: &str = include_str!("../src/wire/header.rs");
const BODY_SOURCE: &str = include_str!("../src/wire/body.rs");

/// Offset, size and name of a field.
type Field = (usize, usize, String);

/// A struct as the compiler laid it out, with its whole size.
struct Laid {
    name: &'static str,
    size: usize,
    fields: Vec<Field>,
}

fn size_behind<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// The pattern names every field, so that a new one does not compile unless it
/// is listed here; then the page has to list it too.
macro_rules! laid {
    ($name:ident { $($field:ident),* $(,)? }) => {{
        #[allow(dead_code)]
        fn is_complete(all: &$name) {
            let $name { $($field: _),* } = all;
        }
        Laid {
            name: stringify!($name),
            size: size_of::<$name>(),
            fields: vec![$((
                offset_of!($name, $field),
                size_behind(|all: &$name| &all.$field),
                stringify!($field).to_string(),
            )),*],
        }
    }};
}

fn structs() -> Vec<Laid> {
    vec![
        laid!(Header {
            datagram_size,
            datagram_type,
            version,
            header_checksum,
            tree_id,
            life,
            layout_hash,
            channel,
            event_num,
            watermark,
            digest,
            count,
            flags,
            detail,
        }),
        laid!(LeafHead { checksum, data_size, data_loc_id, reserved, revision }),
        laid!(InitBody {
            cookie_time,
            cookie_mac,
            held_life,
            held_layout_hash,
            held_watermark,
            role,
            level,
            filter_len,
            reserved,
            filter,
        }),
        laid!(WelcomeBody {
            nonce,
            view_id,
            life_start,
            period_us,
            heartbeat_ms,
            lease_ms,
            datagram_size,
            leaf_count,
            layout_len,
            credit_max,
            level,
            reserved,
        }),
        laid!(GroupBody { address, port, reserved }),
        laid!(LayoutRequestBody { offset, credit }),
        laid!(LayoutBody { offset, layout_len }),
        laid!(Parent {
            parent_id,
            enclosing_parent_id,
            first_leaf_loc_id,
            last_leaf_loc_id,
            capacity,
            stride,
            first_record_offset,
            name,
        }),
        laid!(TickBody { session_id, tag, reserved }),
        laid!(RequestBody { first_leaf, leaf_count, request_id, credit, reserved }),
        laid!(Hole { first_leaf, leaf_count, since, up_to }),
        laid!(ResponseBody { request_id, first_leaf, next_leaf, index, reserved }),
        laid!(AckRefusal { sequence, data_loc_id, reason, reserved, detail, reserved_too }),
    ]
}

/// The rows of the table under a marker, cell by cell, without head and rule.
fn rows_under(page: &str, marker: &str) -> Result<Vec<Vec<String>>, String> {
    let line = format!("<!-- {marker} -->");
    let mut parts = page.split(&line);
    let after = parts.nth(1).ok_or(format!("no table `{marker}`"))?;
    if parts.next().is_some() {
        return Err(format!("two tables `{marker}`"));
    }
    let table = after.trim_start().lines().take_while(|line| line.starts_with('|'));
    Ok(table
        .skip(2)
        .map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect())
        .collect())
}

fn number(cell: &str) -> Result<usize, String> {
    cell.parse().map_err(|_| format!("`{cell}` is no number"))
}

fn cell(row: &[String], index: usize) -> Result<&str, String> {
    row.get(index).map(String::as_str).ok_or(format!("row {row:?} is too short"))
}

/// Where a marker says that its struct begins in the datagram.
fn base_of(page: &str, name: &str) -> Result<usize, String> {
    let before = format!("<!-- struct {name} at ");
    let rest = page.split(&before).nth(1).ok_or(format!("{name} has no table"))?;
    number(rest.split_whitespace().next().unwrap_or(""))
}

fn compare(page: &str, laid: &Laid) -> Result<(), String> {
    let name = laid.name;
    let base = base_of(page, name)?;
    let mut documented = Vec::new();
    let mut end = base;
    for row in rows_under(page, &format!("struct {name} at {base}"))? {
        let (offset, size) = (number(cell(&row, 0)?)?, number(cell(&row, 1)?)?);
        if offset != end {
            return Err(format!("{name}: expected a field at {end}, found {offset}"));
        }
        end = offset + size;
        documented.push((offset - base, size, cell(&row, 2)?.to_string()));
    }
    if end - base != laid.size {
        return Err(format!("{name}: expected {} bytes, found {}", laid.size, end - base));
    }
    if documented != laid.fields {
        return Err(format!("{name}: expected {:?}, found {documented:?}", laid.fields));
    }
    Ok(())
}

/// Code and name of each row of a table of codes.
fn codes(marker: &str) -> Vec<(usize, String)> {
    let rows = rows_under(PAGE, marker).expect("the table is there");
    rows.iter().map(|row| (number(&row[0]).expect("a code"), row[1].clone())).collect()
}

#[test]
fn structs_are_as_the_page_says() {
    for laid in structs() {
        compare(PAGE, &laid).unwrap_or_else(|difference| panic!("{difference}"));
    }
}

#[test]
fn bodies_begin_behind_the_header() {
    for laid in structs() {
        let expected = match laid.name {
            // The end of a WELCOME.
            "GroupBody" => limits::DATAGRAM_HEADER_LEN + size_of::<WelcomeBody>(),
            name if name.ends_with("Body") => limits::DATAGRAM_HEADER_LEN,
            _ => 0,
        };
        assert_eq!(base_of(PAGE, laid.name), Ok(expected), "{}", laid.name);
    }
}

#[test]
fn no_struct_is_left_out() {
    let markers = PAGE.split("<!-- struct ").skip(1);
    let documented: BTreeSet<&str> =
        markers.map(|rest| rest.split(' ').next().unwrap_or("")).collect();
    let compared: BTreeSet<&str> = structs().iter().map(|laid| laid.name).collect();
    assert_eq!(documented, compared);
    let bodies = BODY_SOURCE.lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?.strip_suffix(" {")?;
        name.chars().all(char::is_alphanumeric).then_some(name)
    });
    let bodies: Vec<&str> = bodies.collect();
    assert!(bodies.contains(&"TickBody"), "the bodies are not found any more: {bodies:?}");
    let missing: Vec<&&str> = bodies.iter().filter(|name| !compared.contains(**name)).collect();
    assert!(missing.is_empty(), "not compared: {missing:?}");
}

#[test]
fn types_and_what_their_checksum_covers_are_as_the_page_says() {
    let expected: Vec<(usize, String)> =
        DatagramType::ALL.iter().map(|t| (usize::from(t.code()), format!("{t:?}"))).collect();
    assert_eq!(codes("types"), expected);
    for (row, found) in rows_under(PAGE, "types").expect("there").iter().zip(DatagramType::ALL) {
        let covered = checked_len(*found, 1_200);
        let expected = if covered == 1_200 { "all".to_string() } else { covered.to_string() };
        assert_eq!(row[3], expected, "{found:?}");
    }
}

#[test]
fn reasons_are_as_the_page_says() {
    let byes: Vec<(usize, String)> =
        ByeReason::ALL.iter().map(|r| (usize::from(r.code()), format!("{r:?}"))).collect();
    assert_eq!(codes("bye reasons"), byes);
    let refusals: Vec<(usize, String)> =
        RefusalReason::ALL.iter().map(|r| (usize::from(r.code()), format!("{r:?}"))).collect();
    assert_eq!(codes("refusal reasons"), refusals);
}

/// Names of the constants in a source text that begin a line with `prefix`.
fn constants<'a>(source: &'a str, prefix: &str, ends: &str) -> BTreeSet<&'a str> {
    let lines = source.lines().filter_map(|line| line.strip_prefix(prefix));
    lines
        .filter_map(|rest| rest.split_once(':'))
        .filter(|(_, kind)| kind.trim_start().starts_with(ends))
        .map(|(name, _)| name)
        .collect()
}

macro_rules! named {
    ($($path:path),* $(,)?) => {
        BTreeMap::from([$((
            stringify!($path).rsplit(':').next().expect("a name").trim(),
            u64::try_from($path).expect("not negative"),
        )),*])
    };
}

#[test]
fn flags_are_as_the_page_says() {
    let compared = named![
        Flags::CLOSES_PERIOD,
        Flags::SOURCE_IN_SYNC,
        Flags::CHECKSUMS,
        Flags::LAST,
        Flags::CHANGES_PENDING,
        Flags::GROUP_WANTED,
        Flags::GROUP_HEARD,
        Flags::HOLES,
    ];
    let documented: BTreeMap<String, u64> =
        codes("flags").into_iter().map(|(value, name)| (name, value as u64)).collect();
    let expected: BTreeMap<String, u64> =
        compared.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    assert_eq!(documented, expected);
    let in_source = constants(HEADER_SOURCE, "    pub const ", "u16 = 1");
    assert_eq!(in_source, compared.keys().copied().collect());
}

#[test]
fn limits_are_as_the_page_says() {
    let in_layout = named![
        limits::PAGE_SIZE,
        limits::STRIDE_ALIGN,
        limits::LEAF_ALIGN,
        limits::LEAVES_MAX,
        limits::PARENTS_MAX,
        limits::DEPTH_MAX,
        limits::SCHEMA_LEN_MAX,
        limits::FIELDS_MAX,
        limits::TREE_FIELDS_MAX,
        limits::PARENT_NAME_LEN_MAX,
        limits::LEAF_NAME_LEN_MAX,
        limits::DATAGRAM_SIZE_MAX,
        limits::DATAGRAM_SIZE_DEFAULT,
        limits::DATAGRAM_SIZE_MIN,
        limits::DATAGRAM_HEADER_LEN,
        limits::RESPONSE_BODY_LEN,
        limits::CAPACITY_MAX,
    ];
    let in_source = constants(LIMITS_SOURCE, "pub const ", "u");
    assert_eq!(in_source, in_layout.keys().copied().collect(), "a limit is not compared");
    let in_wire = named![DOOR_DATAGRAM_LEN, INIT_FILTER_LEN_MAX, PROTOCOL_VERSION];
    let expected: BTreeMap<String, u64> =
        in_layout.iter().chain(&in_wire).map(|(name, value)| (name.to_string(), *value)).collect();
    let documented: BTreeMap<String, u64> = rows_under(PAGE, "limits")
        .expect("there")
        .iter()
        .map(|row| (row[0].clone(), number(&row[1]).expect("a limit") as u64))
        .collect();
    assert_eq!(documented, expected);
}

#[test]
fn every_rule_that_is_cited_exists() {
    let cited = |start: char| -> BTreeSet<String> {
        PAGE.split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| word.starts_with(start) && word.len() > 1)
            .filter(|word| word[1..].chars().all(|c| c.is_ascii_digit()))
            .map(String::from)
            .collect()
    };
    for start in ['R', 'F'] {
        for rule in cited(start) {
            let stated = [format!("- **{rule}**"), format!("- **{rule} (")];
            assert!(stated.iter().any(|text| PAGE.contains(text)), "{rule} is not stated");
        }
    }
}

#[test]
fn a_wrong_page_is_caught() {
    let right = structs();
    let tick = right.iter().find(|laid| laid.name == "TickBody").expect("compared");
    assert_eq!(compare(PAGE, tick), Ok(()));
    let row = "| 72 | 16 | tag | zero |\n";
    assert!(PAGE.contains(row));
    for wrong in [
        "",
        "| 72 | 8 | tag | zero |\n",
        "| 73 | 16 | tag | zero |\n",
        "| 72 | 16 | label | zero |\n",
        "| 72 | 16 | tag | zero |\n| 88 | 4 | more | new |\n",
        "| here | 16 | tag | zero |\n",
    ] {
        let page = PAGE.replacen(row, wrong, 1);
        assert!(compare(&page, tick).is_err(), "{wrong:?} was not caught");
    }
}
