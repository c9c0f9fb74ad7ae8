//! Schemas and layouts that somebody else wrote.

use mapleaf::layout::DataLocId;
use mapleaf::layout::ParentId;
use mapleaf::layout::limits::LEAVES_MAX;
use mapleaf::layout::limits::PAGE_SIZE;
use mapleaf::layout::limits::PARENTS_MAX;
use mapleaf::tree::Layout;
use mapleaf::tree::encode_fields;

use super::super::input::Input;

/// Leaves of a layout that are looked at.
const LOOKED_AT: u32 = 40;

/// The input is the text of a schema.
pub(in super::super) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Layout::from_toml(&text) {
        Ok(layout) => check(&layout, &text),
        Err(error) => one_line(&error.to_string()),
    }
}

/// The input is what LAYOUT datagrams bring: as it is, or only its schema text,
/// then the rest is put right and perhaps damaged once.
pub(in super::super) fn run_blob(bytes: &[u8]) {
    let mut input = Input(bytes);
    let how = input.u8();
    let blob = if how & 1 == 0 { input.0.to_vec() } else { right_blob(how, &mut input) };
    match Layout::from_blob(&blob) {
        Ok(layout) => {
            assert_eq!(layout.to_blob(), blob, "a layout is taken in one form only");
            check(&layout, layout.schema_text());
        }
        Err(error) => one_line(&error.to_string()),
    }
}

fn right_blob(how: u8, input: &mut Input<'_>) -> Vec<u8> {
    let (place, damage) = (input.u16(), input.u8());
    let text = String::from_utf8_lossy(input.0);
    let Ok(layout) = Layout::from_toml(&text) else { return input.0.to_vec() };
    let mut blob = layout.to_blob();
    let place = usize::from(place) % blob.len();
    blob[place] ^= damage;
    if how & 2 != 0 {
        blob.pop();
    }
    blob
}

fn one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains('\n'), "one line: {message:?}");
}

/// Everything that a layout promises.
pub(super) fn check(layout: &Layout, text: &str) {
    assert_eq!(layout.schema_text(), text);
    assert!((1..=LEAVES_MAX).contains(&layout.leaf_count()));
    assert!((1..=PARENTS_MAX).contains(&layout.parent_count()));
    assert!(layout.file_len().is_multiple_of(PAGE_SIZE as u64));
    assert_eq!(Layout::from_blob(&layout.to_blob()).as_ref(), Ok(layout));
    let count = layout.leaf_count();
    let first = 0..count.min(LOOKED_AT);
    let last = count.saturating_sub(LOOKED_AT).max(first.end)..count;
    first.chain(last).for_each(|leaf| check_leaf(layout, DataLocId(leaf)));
    assert_eq!(layout.record_offset(DataLocId(count)), None);
    for parent in 0..layout.parent_count().min(LOOKED_AT) {
        let path = layout.parent_path(ParentId(parent)).expect("it is in the table");
        assert_eq!(layout.parent_at(&path), Some(ParentId(parent)), "{path:?}");
    }
}

fn check_leaf(layout: &Layout, leaf: DataLocId) {
    let path = layout.path_of(leaf).expect("every leaf has a path");
    assert_eq!(layout.leaf_at(&path), Some(leaf), "{path:?}");
    let capacity = u64::from(layout.capacity_of(leaf).expect("and a capacity"));
    let at = layout.record_offset(leaf).expect("and a place");
    assert!(at >= layout.records_offset());
    assert!(at + capacity < layout.records_offset() + layout.records_len());
    let data = vec![0x41; capacity as usize];
    for field in layout.fields_of(leaf) {
        let value = field.decode(&data).expect("fields lie within the capacity");
        assert!(field.display(&data).is_some());
        let values = [(field.name.as_str(), value)];
        let again = encode_fields(layout.fields_of(leaf), &data, values).expect("its own value");
        assert!(again.len() as u64 <= capacity);
    }
}
