//! Stories of `mapleaf-tree`: what it says of whole, live, damaged and hostile
//! files. The files are made here, byte by byte from the structs of the layout.

#![cfg(feature = "cli")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use tempfile::TempDir;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use mapleaf::layout::DataLocId;
use mapleaf::layout::LeafHead;
use mapleaf::layout::Life;
use mapleaf::layout::RecordHead;
use mapleaf::layout::STATE_SLOT_OFFSETS;
use mapleaf::layout::StateSlot;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::DumpReader;
use mapleaf::tree::Layout;
use mapleaf::tree::LeafDamage;
use mapleaf::tree::Mark;
use mapleaf::tree::Origin;
use mapleaf::tree::RedoBatch;
use mapleaf::tree::RedoLog;
use mapleaf::tree::STATE_OFFSET;
use mapleaf::tree::Scanned;
use mapleaf::tree::Tree;
use mapleaf::tree::TreeFile;
use mapleaf::tree::UNDO_OFFSET;
use mapleaf::tree::header_checksum;
use mapleaf::tree::leaf_checksum;
use mapleaf::tree::redo_path;
use mapleaf::tree::state_checksum;
use mapleaf::tree::write_dump;

const SCHEMA: &str = r#"name = "fleet"
[[parent]]
name = "site"
[[parent]]
name = "rack1"
in = "/site"
leaves = 5
leaf_name = "port{n}"
capacity = 24
[[parent.field]]
name = "temp"
type = "f32"
unit = "C"
[[parent.field]]
name = "label"
type = "text"
size = 8
[[parent]]
name = "wide"
names = ["door"]
leaves = 3
capacity = 300
"#;

/// Data of leaf 1: a temperature of 21.5, and a label that Data ends within.
const HOT: [u8; 7] = [0, 0, 0xac, 0x41, b'h', b'o', b't'];

/// A tree file in memory.
#[derive(Clone)]
struct Made {
    layout: Layout,
    bytes: Vec<u8>,
}

impl Made {
    fn new(layout: Layout) -> Made {
        let mut tree = Made { bytes: vec![0; layout.file_len() as usize], layout };
        let header = tree.layout.header(TreeId(0xc0ffee), 1_790_000_000);
        tree.put(0, header.as_bytes());
        tree.put_state(0, 1, 1);
        let text = tree.layout.schema_text().to_owned();
        tree.put(tree.layout.schema_offset(), text.as_bytes());
        let table = tree.layout.parents().to_vec();
        tree.put(tree.layout.parents_offset(), table.as_bytes());
        for leaf in 0..tree.layout.leaf_count() {
            tree.set(leaf, 0, 0, b"");
        }
        tree
    }

    fn of(schema: &str) -> Made {
        Made::new(Layout::from_toml(schema).unwrap())
    }

    /// Some leaves written, some not.
    fn filled() -> Made {
        let mut tree = Made::of(SCHEMA);
        tree.set(1, 11, 1, &HOT);
        tree.set(3, 12, 0, b"\0\0\0\0\x1b[31m\0\0\0");
        tree.set(5, 13, 1, &[7; 300]);
        tree
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        let offset = offset as usize;
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn put_state(&mut self, slot: usize, sequence: u64, clean: u32) {
        let mut state = StateSlot {
            sequence: U64::new(sequence),
            state_checksum: U32::new(0),
            role: U32::new(TreeRole::Server.code()),
            life: U32::new(5),
            clean: U32::new(clean),
            boot_id: [3; 16],
            watermark: U64::new(13),
            reserved: U64::new(0),
        };
        state.state_checksum = U32::new(state_checksum(&state));
        self.put(STATE_OFFSET + STATE_SLOT_OFFSETS[slot] as u64, state.as_bytes());
    }

    fn offset(&self, leaf: u32) -> u64 {
        self.layout.record_offset(DataLocId(leaf)).unwrap()
    }

    fn stride(&self, leaf: u32) -> usize {
        self.layout.parent_of(DataLocId(leaf)).unwrap().stride.get() as usize
    }

    fn set(&mut self, leaf: u32, revision: u64, flag: u32, data: &[u8]) {
        let bytes = record(leaf, revision, flag, data, self.stride(leaf));
        self.put(self.offset(leaf), &bytes);
    }

    fn write(&self, folder: &TempDir, name: &str) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, &self.bytes).unwrap();
        path
    }
}

fn record(leaf: u32, revision: u64, flag: u32, data: &[u8], stride: usize) -> Vec<u8> {
    let mut leaf = LeafHead {
        checksum: U32::new(0),
        data_size: U32::new(data.len() as u32),
        data_loc_id: U32::new(leaf),
        reserved: U32::new(0),
        revision: U64::new(revision),
    };
    leaf.checksum = U32::new(leaf_checksum(&leaf, data));
    let head = RecordHead { seq: U32::new(2), change_flag: U32::new(flag), leaf };
    let mut bytes = vec![0; stride];
    bytes[..32].copy_from_slice(head.as_bytes());
    bytes[32..32 + data.len()].copy_from_slice(data);
    bytes
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mapleaf-tree")).args(args).output().unwrap()
}

/// Exit status, stdout and stderr of a command on a file.
fn on(command: &str, path: &Path, rest: &[&str]) -> (i32, String, String) {
    let mut args = vec![command, path.to_str().unwrap()];
    args.extend(rest);
    let output = run(&args);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_usage_that_is_not_understood_is_one_line() {
    for args in [&["sta"][..], &["stat"], &["get", "a.tree"], &["diff", "a", "b", "--jsno"]] {
        let output = run(args);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{told}");
        assert!(told.starts_with("mapleaf-tree: ") && told.ends_with("; see --help\n"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn stat_tells_what_a_file_is_and_holds() {
    let folder = TempDir::new().unwrap();
    let path = Made::filled().write(&folder, "a.tree");
    let (status, text, errors) = on("stat", &path, &["--json"]);
    assert_eq!((status, errors.as_str()), (0, ""));
    let wanted = [
        ("tree_id", serde_json::json!("0000000000c0ffee")),
        ("name", "fleet".into()),
        ("role", "server".into()),
        ("life", 5.into()),
        ("clean", true.into()),
        ("watermark", 13.into()),
        ("leaves", 8.into()),
        ("parents", 3.into()),
        ("leaves_written", 3.into()),
        ("leaves_damaged", 0.into()),
        ("flags_set", 2.into()),
        ("data_bytes", (7 + 12 + 300).into()),
        ("newest_revision", 13.into()),
    ];
    for (key, value) in wanted {
        assert_eq!(json(&text)[0][key], value, "{key}");
    }
    let (_, text, _) = on("stat", &path, &[]);
    assert!(text.starts_with("format_version   1.0\n"), "{text}");
}

#[test]
fn stat_tells_what_a_redo_log_holds_for_the_next_server() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.tree");
    let told = || json(&on("stat", &path, &["--json"]).1)[0]["redo_log"].clone();
    let (role, tree_id) = (TreeRole::Server, TreeId(1));
    let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
    let mut tree = Tree::create(&path, Layout::plain(1, 3, 9).unwrap(), options).unwrap();
    tree.begin_life(1).unwrap();
    assert_eq!(told(), serde_json::Value::Null);
    let mut log = RedoLog::create(&mut tree, 8192).unwrap();
    for n in 0..2 {
        let mut batch = RedoBatch::with_capacity(100);
        tree.stage(DataLocId(n), b"data", &mut batch).unwrap();
        let _ = log.append(&mut batch).unwrap();
    }
    assert_eq!(told(), "its next server takes 2 batches over");
    tree.begin_life(1).unwrap();
    assert_eq!(told(), "everything in it is in the tree: its next server removes it");
    fs::write(redo_path(&path).unwrap(), "no log").unwrap();
    let wanted =
        "its next server refuses it: not a redo log, but in the place of one: move it away";
    assert_eq!(told(), wanted);
}

#[test]
fn the_newer_state_slot_counts_and_a_torn_one_does_not() {
    let folder = TempDir::new().unwrap();
    let mut tree = Made::filled();
    tree.put_state(1, 7, 1);
    let sequence = |tree: &Made| {
        let file = TreeFile::open(&tree.write(&folder, "a.tree")).unwrap();
        file.state().unwrap().map(|state| state.sequence.get())
    };
    assert_eq!(sequence(&tree), Some(7));
    tree.bytes[STATE_OFFSET as usize + 2048 + 9] ^= 1;
    assert_eq!(sequence(&tree), Some(1));
    tree.bytes[STATE_OFFSET as usize + 9] ^= 1;
    assert_eq!(sequence(&tree), None);
    let (status, text, _) = on("verify", &folder.path().join("a.tree"), &[]);
    let wanted = "state: wanted a slot with a right checksum, found none\n";
    assert_eq!((status, text.as_str()), (1, wanted));
}

#[test]
fn dump_json_has_the_keys_that_scripts_rely_on() {
    let folder = TempDir::new().unwrap();
    let path = Made::filled().write(&folder, "a.tree");
    let (status, text, _) = on("dump", &path, &["--json"]);
    let lines = json(&text);
    assert_eq!((status, lines.len()), (0, 3));
    let (head, _) = RecordHead::read_from_prefix(&record(1, 11, 1, &HOT, 64)).unwrap();
    let checksum = head.leaf.checksum.get();
    let wanted = serde_json::json!({
        "data_loc_id": 1, "path": "/site/rack1/port1", "change_flag": 1, "data_size": 7,
        "revision": 11, "checksum": format!("{checksum:08x}"), "data": "0000ac41686f74",
        "fields": {"temp": 21.5},
    });
    assert_eq!(lines[0], wanted, "a label that Data ends within is absent");
    assert_eq!(lines[1]["fields"]["label"], "\u{1b}[31m");
    assert_eq!(lines[2]["path"], "/wide/door");
    assert!(lines[2].get("fields").is_none(), "opaque Data has no fields");
}

#[test]
fn a_dump_rebuilds_the_same_tree() {
    let folder = TempDir::new().unwrap();
    let tree = Made::filled();
    let path = tree.write(&folder, "a.tree");
    let (status, text, errors) = on("dump", &path, &[]);
    assert_eq!((status, errors.as_str()), (0, ""));
    let mut reader = DumpReader::new(text.as_bytes()).unwrap();
    assert_eq!(reader.head().tree_id, TreeId(0xc0ffee));
    assert_eq!(reader.head().created_unix_s, 1_790_000_000);
    assert_eq!((reader.head().life.0, reader.head().watermark.0), (5, 13));
    let mut again = Made::new(reader.head().layout.clone());
    while let Some(leaf) = reader.next_leaf().unwrap() {
        again.set(leaf.data_loc_id.0, leaf.revision.0, leaf.change_flag, &leaf.data);
    }
    assert!(again.bytes == tree.bytes);
}

#[test]
fn get_finds_a_leaf_by_id_and_by_path() {
    let folder = TempDir::new().unwrap();
    let path = Made::filled().write(&folder, "a.tree");
    let (status, text, _) = on("get", &path, &["--path", "/site/rack1/port3"]);
    assert_eq!(status, 0);
    assert!(text.contains("field temp  0 C\nfield label  \\u{1b}[31m\n"), "{text}");
    let (_, text, _) = on("get", &path, &["--leaf", "5", "--json"]);
    assert_eq!(json(&text)[0]["data_size"], 300);
    for (args, wanted) in [
        (["--path", "/site/rack1"], "wanted a leaf, found a parent"),
        (["--path", "/site/rack9/port1"], "found nothing"),
        (["--leaf", "8"], "leaf: wanted 0 to 7, found 8"),
    ] {
        let (status, text, errors) = on("get", &path, &args);
        assert_eq!((status, text.as_str()), (2, ""));
        assert!(errors.contains(wanted) && errors.lines().count() == 1, "{errors}");
    }
    assert_eq!(on("get", &path, &[]).0, 2);
    assert_eq!(on("get", &path, &["--leaf", "1", "--path", "/wide/1"]).0, 2);
}

#[test]
fn verify_names_every_damaged_leaf_and_every_fault() {
    let folder = TempDir::new().unwrap();
    let whole = Made::filled();
    let (status, text, errors) = on("verify", &whole.write(&folder, "a.tree"), &[]);
    assert_eq!((status, text.as_str()), (0, ""), "{errors}");
    let mut tree = whole.clone();
    let flip = |tree: &mut Made, offset: u64| tree.bytes[offset as usize] ^= 0x40;
    flip(&mut tree, whole.offset(1) + 33);
    flip(&mut tree, whole.offset(3) + 60);
    flip(&mut tree, whole.offset(5) + 4);
    flip(&mut tree, whole.layout.parents_offset() + 65);
    flip(&mut tree, whole.layout.parents_offset() + 500);
    flip(&mut tree, UNDO_OFFSET + 20);
    let path = tree.write(&folder, "b.tree");
    let (status, text, errors) = on("verify", &path, &[]);
    assert_eq!(status, 1);
    let starts = [
        "parents table: row 1 does not follow",
        "undo slot: reserved: wanted at most 0, found 64",
        "behind the parents table: wanted zeros, found another byte",
        "leaf 1 /site/rack1/port1: checksum 0x",
        "leaf 3 /site/rack1/port3: bytes behind data_size are not zero",
        "leaf 5 /wide/door: change_flag 65, expected 0 or 1",
    ];
    for (line, start) in text.lines().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
    assert_eq!(text.lines().count(), starts.len());
    assert!(errors.ends_with("8 leaves, 3 damaged, 3 faults elsewhere\n"), "{errors}");
    let (status, text, _) = on("verify", &path, &["--json"]);
    let last = json(&text).pop().unwrap();
    assert_eq!((status, &last["damaged"], &last["faults"]), (1, &3.into(), &3.into()));
    let (status, text, errors) = on("dump", &path, &[]);
    assert_eq!(status, 1);
    assert!(text.contains("# leaf 1 /site/rack1/port1 is damaged: checksum"), "{text}");
    assert!(errors.contains("left out 3 damaged leaves"), "{errors}");
    assert_eq!(on("get", &path, &["--leaf", "1"]).0, 1);
    assert_eq!(on("get", &path, &["--leaf", "0"]).0, 0);
}

#[test]
fn a_record_that_a_crash_left_half_written_is_read_from_the_undo_slot() {
    let folder = TempDir::new().unwrap();
    let mut tree = Made::filled();
    let offset = tree.offset(1);
    let saved = record(1, 11, 1, b"as it was", 32 + 16);
    tree.put(UNDO_OFFSET, &[2, 0, 0, 0, saved.len() as u8, 0, 0, 0]);
    tree.put(UNDO_OFFSET + 64, &saved);
    // Seq odd, Data of the new value begun.
    tree.put(offset, &3_u32.to_le_bytes());
    tree.put(offset + 32, b"new v");
    let path = tree.write(&folder, "a.tree");
    let read =
        |path: &Path| TreeFile::open(path).unwrap().read_leaf(DataLocId(1)).unwrap().unwrap();
    let leaf = read(&path).unwrap();
    assert_eq!((leaf.data.as_slice(), leaf.origin), (&b"as it was"[..], Origin::Undo));
    let (status, _, errors) = on("verify", &path, &[]);
    assert!(status == 0 && errors.contains("1 half written"), "{status} {errors}");
    // The slot of another leaf does not help.
    tree.put(UNDO_OFFSET, &[3, 0, 0, 0]);
    assert_eq!(read(&tree.write(&folder, "a.tree")), Err(LeafDamage::Torn { seq: 3 }));
    // A whole record counts, whatever the slot says.
    tree.put(UNDO_OFFSET, &[2, 0, 0, 0]);
    tree.set(1, 14, 1, b"newest");
    let leaf = read(&tree.write(&folder, "a.tree")).unwrap();
    assert_eq!((leaf.data.as_slice(), leaf.origin), (&b"newest"[..], Origin::Record));
}

#[test]
fn diff_counts_data_and_revision_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let a = Made::filled();
    let path = a.write(&folder, "a.tree");
    let mut b = a.clone();
    b.put_state(1, 9, 0);
    b.set(1, 11, 0, &HOT);
    let other = b.write(&folder, "b.tree");
    let other = other.to_str().unwrap();
    let equal = "equal: 8 leaves\n".to_owned();
    assert_eq!(on("diff", &path, &[other]), (0, equal, String::new()));
    b.set(3, 14, 0, b"\0\0\0\0\x1b[31m\0\0\0");
    b.set(4, 15, 0, b"x");
    b.write(&folder, "b.tree");
    let (status, text, errors) = on("diff", &path, &[other]);
    assert_eq!((status, text.lines().count()), (1, 2), "{text}");
    let wanted = "/site/rack1/port4: revision 0 data - | revision 15 data 78\n";
    assert!(text.contains(wanted), "{text}");
    assert!(errors.contains("2 leaves differ"), "{errors}");
    let (_, text, _) = on("diff", &path, &[other, "--json"]);
    assert_eq!(json(&text)[0]["a"]["revision"], 12);
    assert_eq!(json(&text)[0]["b"]["revision"], 14);
}

#[test]
fn diff_mentions_other_tree_ids_and_does_not_count_them() {
    let folder = TempDir::new().unwrap();
    let a = Made::filled();
    let mut b = a.clone();
    b.put(0, b.layout.header(TreeId(1), 2).as_bytes());
    let other = b.write(&folder, "b.tree");
    let (status, text, errors) =
        on("diff", &a.write(&folder, "a.tree"), &[other.to_str().unwrap()]);
    assert_eq!((status, text.as_str()), (0, "equal: 8 leaves\n"));
    assert!(errors.contains("tree ids 0000000000c0ffee and 0000000000000001"), "{errors}");
}

#[test]
fn diff_of_different_layouts_goes_by_path() {
    let folder = TempDir::new().unwrap();
    let a = Made::filled();
    let path = a.write(&folder, "a.tree");
    let front = "[[parent]]\nname = \"front\"\nleaves = 1\ncapacity = 8\n";
    let schema = SCHEMA.replacen("[[parent]]", &format!("{front}[[parent]]"), 1);
    let mut b = Made::of(&schema);
    for (leaf, value) in read_all(&path).unwrap().into_iter().enumerate() {
        let (revision, data) = value.unwrap();
        b.set(leaf as u32 + 1, revision, 0, &data);
    }
    let other = b.write(&folder, "b.tree");
    let diff = || on("diff", &path, &[other.to_str().unwrap()]);
    let (status, text, _) = diff();
    assert_eq!((status, text.as_str()), (1, "/front/0: none | revision 0 data -\n"));
    b.set(2, 16, 0, b"y");
    b.write(&folder, "b.tree");
    let (_, text, _) = diff();
    let wanted = "/site/rack1/port1: revision 11 data 0000ac41686f74 | revision 16 data 79\n";
    assert!(text.starts_with(wanted), "{text}");
}

#[test]
fn a_pipe_that_closes_is_no_error() {
    let folder = TempDir::new().unwrap();
    let mut tree = Made::new(Layout::plain(4, 20_000, 64).unwrap());
    (0..20_000).for_each(|leaf| tree.set(leaf, 1, 0, &[1; 64]));
    let path = tree.write(&folder, "a.tree");
    for args in [&["dump"][..], &["dump", "--json"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mapleaf-tree"))
            .args(args)
            .arg(&path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    }
}

#[test]
fn trouble_is_one_line_and_status_2() {
    let folder = TempDir::new().unwrap();
    let whole = Made::filled();
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.bytes.clone();
        change(&mut bytes);
        put("changed", &bytes)
    };
    refused(&folder.path().join("missing"), "open: No such file");
    refused(folder.path(), "wanted a regular file");
    refused(&put("empty", b""), "found file_len 0");
    let wanted = "not a tree file: wanted magic \"mapleaf\\0\", found \"xxxxxxxx\"";
    refused(&put("text", &[b'x'; 5000]), wanted);
    refused(&changed(&|b| b[8] = 9), "format: wanted major version 1, found 9");
    refused(&changed(&|b| b[50] = 9), "header is damaged: wanted checksum");
    let len = whole.bytes.len();
    let wanted = format!("header: file_len: wanted {}, found {len}", len + 1);
    refused(&changed(&|b| b.push(0)), &wanted);
    let schema = whole.layout.schema_offset() as usize;
    let wanted = "schema text: wanted UTF-8, found another byte at 0";
    refused(&changed(&|b| b[schema] = 255), wanted);
    refused(&changed(&|b| b[schema + 8] ^= 1), "header: layout_hash: wanted");
    refused(&changed(&|b| b[schema] = b'!'), "schema line 1: ");
}

fn refused(path: &Path, wanted: &str) {
    for command in ["stat", "dump", "verify"] {
        let (status, text, errors) = on(command, path, &[]);
        assert_eq!((status, text.as_str()), (2, ""), "{errors}");
        assert!(errors.contains(wanted) && errors.lines().count() == 1, "{errors}\n{wanted}");
    }
}

/// Revision and Data of every leaf in turn.
type Values = Vec<Option<(u64, Vec<u8>)>>;

/// Revision and Data of every leaf, nothing for a damaged one; nothing at all for a
/// file that is refused. Reads everything else as well: it must not panic.
fn read_all(path: &Path) -> Option<Values> {
    let file = TreeFile::open(path).ok()?;
    let _ = file.faults().unwrap();
    let mut values = Vec::new();
    let mut cursor = file.leaves();
    while let Some(scanned) = cursor.next_leaf().unwrap() {
        values.push(match scanned {
            Scanned::Leaf(leaf) => Some((leaf.revision.0, leaf.data.to_vec())),
            Scanned::Damaged { .. } => None,
        });
    }
    write_dump(&file, &mut Vec::new()).unwrap();
    Some(values)
}

#[test]
fn every_prefix_of_a_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let tree = Made::filled();
    let path = folder.path().join("cut");
    let file = fs::File::create(&path).unwrap();
    for len in 0..tree.bytes.len() {
        assert!(TreeFile::open(&path).is_err(), "cut to {len}");
        file.write_all_at(&tree.bytes[len..=len], len as u64).unwrap();
    }
    assert!(TreeFile::open(&path).is_ok());
}

#[test]
fn one_flipped_byte_outside_the_records_never_changes_an_answer() {
    let folder = TempDir::new().unwrap();
    let tree = Made::filled();
    let path = tree.write(&folder, "a.tree");
    let whole = read_all(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let (schema, table) = (tree.layout.schema_offset(), tree.layout.parents_offset());
    let parts = [
        0..200,
        STATE_OFFSET..STATE_OFFSET + 64,
        UNDO_OFFSET..UNDO_OFFSET + 96,
        schema..schema + SCHEMA.len() as u64,
        table..table + 192,
    ];
    for place in parts.into_iter().flatten() {
        for flip in [0x01, 0x80] {
            file.write_all_at(&[tree.bytes[place as usize] ^ flip], place).unwrap();
            if let Some(values) = read_all(&path) {
                assert_eq!(values, whole, "byte {place}");
            }
        }
        file.write_all_at(&tree.bytes[place as usize..][..1], place).unwrap();
    }
}

#[test]
fn one_flipped_byte_in_a_record_is_damage_of_that_leaf_alone() {
    let folder = TempDir::new().unwrap();
    let tree = Made::filled();
    let path = tree.write(&folder, "a.tree");
    let whole = read_all(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let start = tree.offset(3);
    for place in start..start + tree.stride(3) as u64 {
        file.write_all_at(&[tree.bytes[place as usize] ^ 0x20], place).unwrap();
        let values = read_all(&path).unwrap();
        // Seq is the owner's: any even number is as good as another.
        let harmless = place < start + 4;
        assert_eq!(values[3].is_none(), !harmless, "byte {}", place - start);
        assert_eq!((&values[..3], &values[4..]), (&whole[..3], &whole[4..]));
        file.write_all_at(&tree.bytes[place as usize..][..1], place).unwrap();
    }
}

/// Rewrites a leaf without end, each value one byte repeated, by the rules of the
/// seqlock but in several writes, so that readers come between.
fn rewrite(file: &fs::File, offset: u64, stride: usize, stop: &AtomicBool) {
    let mut seq = 2_u32;
    for revision in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let bytes = record(7, revision, 1, &[revision as u8; 300], stride);
        file.write_all_at(&(seq + 1).to_le_bytes(), offset).unwrap();
        file.write_all_at(&bytes[4..100], offset + 4).unwrap();
        file.write_all_at(&bytes[100..], offset + 100).unwrap();
        seq = seq.wrapping_add(2);
        file.write_all_at(&seq.to_le_bytes(), offset).unwrap();
    }
}

#[test]
fn a_leaf_is_never_torn_while_another_thread_writes_it() {
    let folder = TempDir::new().unwrap();
    let mut tree = Made::new(Layout::plain(1, 64, 300).unwrap());
    tree.put_state(1, 2, 0);
    let path = tree.write(&folder, "a.tree");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let reader = TreeFile::open(&path).unwrap();
    let stop = AtomicBool::new(false);
    let mut newest = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| rewrite(&file, tree.offset(7), tree.stride(7), &stop));
        for _ in 0..2_000 {
            let mut cursor = reader.leaves_in(7..8);
            let Some(Scanned::Leaf(leaf)) = cursor.next_leaf().unwrap() else { continue };
            let whole = leaf.data.iter().all(|byte| *byte == leaf.revision.0 as u8);
            let forward = leaf.revision.0 >= newest;
            // The writer ends before a failure does.
            stop.store(!whole || !forward, Ordering::Relaxed);
            assert!(whole && forward, "{leaf:?} after {newest}");
            newest = leaf.revision.0;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(newest > 1, "the writer was never seen");
}

fn options(role: TreeRole) -> CreateOptions {
    CreateOptions { role, tree_id: TreeId(9), life: Life(0), unix_s: 1_790_000_000 }
}

#[test]
fn a_live_tree_is_inspected_while_its_owner_writes() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("live.tree");
    let layout = Layout::plain(2, 500, 200).unwrap();
    let mut tree = Tree::create(&path, layout, options(TreeRole::Server)).unwrap();
    tree.begin_life(1_790_000_000).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let inspector = scope.spawn(|| {
            let _stop = StopOnDrop(&stop);
            for _ in 0..40 {
                let file = TreeFile::open(&path).unwrap();
                assert_eq!(file.faults().unwrap(), []);
                let mut cursor = file.leaves();
                while let Some(scanned) = cursor.next_leaf().unwrap() {
                    let Scanned::Leaf(leaf) = scanned else { panic!("{scanned:?}") };
                    let first = leaf.data.first().copied().unwrap_or(0);
                    assert!(leaf.data.iter().all(|byte| *byte == first), "{leaf:?}");
                }
            }
        });
        for round in 0_u32.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            tree.write(DataLocId(round % 7), &[round as u8; 200][..(round % 201) as usize])
                .unwrap();
        }
        inspector.join().unwrap();
    });
    assert_eq!(on("verify", &path, &[]).0, 0);
    let (_, live, _) = on("stat", &path, &["--json"]);
    let digest = format!("{:016x}", tree.digest().0);
    tree.close().unwrap();
    let (_, closed, _) = on("stat", &path, &["--json"]);
    let (live, closed) = (&json(&live)[0], &json(&closed)[0]);
    assert_eq!(
        (&live["digest"], &closed["digest"]),
        (&digest.as_str().into(), &digest.as_str().into())
    );
    assert_eq!((&live["clean"], &closed["clean"]), (&false.into(), &true.into()));
}

/// Ends the writer however the inspector ends.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_engine_rebuilds_a_tree_from_its_dump() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.tree");
    let layout = Layout::from_toml(SCHEMA).unwrap();
    let mut tree = Tree::create(&path, layout, options(TreeRole::Server)).unwrap();
    tree.begin_life(1_790_000_000).unwrap();
    tree.write(DataLocId(1), &HOT).unwrap();
    tree.write(DataLocId(5), &[7; 300]).unwrap();
    tree.take_changes(&mut Vec::new());
    tree.write(DataLocId(2), b"changed").unwrap();
    tree.close().unwrap();
    let (status, text, _) = on("dump", &path, &[]);
    assert_eq!(status, 0);
    let mut reader = DumpReader::new(text.as_bytes()).unwrap();
    let head = reader.head().clone();
    let options = CreateOptions {
        // Leaves with revisions of their own are what a replica takes.
        role: TreeRole::Replica,
        tree_id: head.tree_id,
        life: head.life,
        unix_s: head.created_unix_s,
    };
    let again = folder.path().join("b.tree");
    let mut tree = Tree::create(&again, head.layout, options).unwrap();
    while let Some(leaf) = reader.next_leaf().unwrap() {
        let mark = if leaf.change_flag == 1 { Mark::Changed } else { Mark::Quiet };
        tree.apply(&leaf.head(), &leaf.data, mark).unwrap();
    }
    tree.close().unwrap();
    assert_eq!(on("diff", &path, &[again.to_str().unwrap()]).0, 0);
    let (_, copy, _) = on("dump", &again, &[]);
    let lines = |text: &str| -> Vec<String> {
        let differs = |line: &str| line.starts_with("watermark") || line.starts_with("role");
        text.lines().filter(|line| !differs(line)).map(str::to_owned).collect()
    };
    assert_eq!(lines(&copy), lines(&text));
}

#[test]
fn the_examples_are_schemas() {
    for name in ["fleet", "interfaces"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{name}.toml"));
        let layout = Layout::from_toml(&fs::read_to_string(path).unwrap()).unwrap();
        assert!(layout.leaf_count() > 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_in_a_file_are_an_error_or_an_answer(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        seal in any::<bool>(),
    ) {
        let folder = TempDir::new().unwrap();
        let mut tree = Made::filled();
        for (place, byte) in changes {
            // Half of them within the header, where they matter most.
            let len = if byte % 2 == 0 { 128 } else { tree.bytes.len() };
            let place = place.index(len);
            tree.bytes[place] = byte;
        }
        if seal {
            tree.put(0, b"mapleaf\0\x01\0");
            let checksum = header_checksum(tree.bytes.first_chunk().unwrap());
            tree.put(12, &checksum.to_le_bytes());
        }
        read_all(&tree.write(&folder, "a.tree"));
    }

    #[test]
    fn random_files_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("random");
        fs::write(&path, bytes).unwrap();
        prop_assert!(TreeFile::open(&path).is_err());
    }
}
