//! docs/FORMAT.md says where every byte of a tree file lies. These tests compare
//! its tables with the structs, and its limits with the constants.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::mem::size_of;

use mapleaf::layout::Header;
use mapleaf::layout::LeafHead;
use mapleaf::layout::Parent;
use mapleaf::layout::RecordHead;
use mapleaf::layout::RedoBatchHead;
use mapleaf::layout::RedoHeader;
use mapleaf::layout::STATE_SLOT_OFFSETS;
use mapleaf::layout::StateSlot;
use mapleaf::layout::UndoHeader;
use mapleaf::layout::limits;

const DOC: &str = include_str!("../docs/FORMAT.md");

/// Offset, size and name of each field of a table.
type Fields = Vec<(usize, usize, String)>;

/// Cells of a table row, or nothing for another line.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// The tables headed `offset | size | field`, by the heading above each.
fn tables() -> BTreeMap<String, Fields> {
    let mut found = BTreeMap::new();
    let mut heading = String::new();
    let mut open = false;
    for line in DOC.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            heading = title.to_owned();
        }
        let Some(row) = cells(line) else {
            open = false;
            continue;
        };
        if row.starts_with(&["offset", "size", "field"]) {
            open = found.insert(heading.clone(), Fields::new()).is_none();
            assert!(open, "two tables below {heading:?}");
        } else if open && !row[0].starts_with("---") {
            let fields = found.get_mut(&heading).expect("was inserted");
            fields.push((number(row[0]), number(row[1]), row[2].to_owned()));
        }
    }
    found
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

/// Size of a field, by a projection that is never called.
const fn size_by<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! compare {
    ($tables:ident, $name:ident { $($field:ident),* }) => {
        let documented = $tables.remove(stringify!($name)).expect(stringify!($name));
        let actual: Fields = vec![$((
            offset_of!($name, $field),
            size_by(|s: &$name| &s.$field),
            stringify!($field).to_owned(),
        )),*];
        let $name { $($field: _),* } = zerocopy::FromZeros::new_zeroed();
        assert_eq!(documented, actual, "fields of {}", stringify!($name));
        let end = documented.last().map_or(0, |(offset, size, _)| offset + size);
        assert_eq!(end, size_of::<$name>(), "size of {}", stringify!($name));
    };
}

#[test]
fn every_struct_lies_as_documented() {
    let mut tables = tables();
    compare!(
        tables,
        Header {
            magic,
            format_major,
            format_minor,
            header_checksum,
            tree_id,
            created_unix_s,
            file_len,
            state_offset,
            undo_offset,
            undo_len,
            schema_offset,
            schema_len,
            parents_offset,
            records_offset,
            records_len,
            parent_count,
            leaf_count,
            layout_hash,
            capacity_max
        }
    );
    compare!(
        tables,
        StateSlot { sequence, state_checksum, role, life, clean, boot_id, watermark, reserved }
    );
    compare!(tables, UndoHeader { armed, saved_len, reserved });
    compare!(
        tables,
        Parent {
            parent_id,
            enclosing_parent_id,
            first_leaf_loc_id,
            last_leaf_loc_id,
            capacity,
            stride,
            first_record_offset,
            name
        }
    );
    compare!(tables, RecordHead { seq, change_flag, leaf });
    compare!(tables, LeafHead { checksum, data_size, data_loc_id, reserved, revision });
    compare!(
        tables,
        RedoHeader {
            magic,
            format_major,
            format_minor,
            header_checksum,
            tree_id,
            layout_hash,
            life,
            half_len,
            reserved
        }
    );
    compare!(
        tables,
        RedoBatchHead {
            magic,
            batch_checksum,
            leaf_count,
            epoch,
            sequence,
            tree_id,
            layout_hash,
            life,
            leaves_len,
            reserved
        }
    );
    assert!(tables.is_empty(), "documented, but no struct: {:?}", tables.keys());
}

#[test]
fn every_limit_is_the_documented_one() {
    let known: [(&str, usize); 12] = [
        ("LEAVES_MAX", limits::LEAVES_MAX as usize),
        ("PARENTS_MAX", limits::PARENTS_MAX as usize),
        ("DEPTH_MAX", limits::DEPTH_MAX),
        ("SCHEMA_LEN_MAX", limits::SCHEMA_LEN_MAX),
        ("PARENT_NAME_LEN_MAX", limits::PARENT_NAME_LEN_MAX),
        ("LEAF_NAME_LEN_MAX", limits::LEAF_NAME_LEN_MAX),
        ("FIELDS_MAX", limits::FIELDS_MAX),
        ("TREE_FIELDS_MAX", limits::TREE_FIELDS_MAX),
        ("CAPACITY_MAX", limits::CAPACITY_MAX),
        ("PAGE_SIZE", limits::PAGE_SIZE),
        ("STRIDE_ALIGN", limits::STRIDE_ALIGN),
        ("HALF_LEN_MAX", RedoHeader::HALF_LEN_MAX as usize),
    ];
    for (name, value) in known {
        let row = DOC.lines().filter_map(cells).find(|row| row[0] == name);
        assert_eq!(number(row.expect(name)[1]), value, "{name}");
    }
}

#[test]
fn versions_and_offsets_in_the_text_are_the_real_ones() {
    let version = format!("Format {}.{}.", Header::FORMAT_MAJOR, Header::FORMAT_MINOR);
    assert!(DOC.contains(&version), "{version}");
    let magics = [RedoHeader::MAGIC, RedoBatchHead::MAGIC];
    for magic in magics.map(|magic| String::from_utf8(magic.to_vec()).unwrap()) {
        assert!(DOC.contains(&format!("`{}`", magic.trim_end_matches('\0'))), "{magic}");
    }
    let slots = format!("at {} and {} of", STATE_SLOT_OFFSETS[0], STATE_SLOT_OFFSETS[1]);
    assert!(DOC.contains(&slots), "{slots}");
    assert_eq!(RecordHead::WIRE_OFFSET, 8);
    assert_eq!(RecordHead::DATA_OFFSET, 32);
    assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
}
