//! What is read cannot blow memory up: at most twice its length and 16 MiB.
//!
//! Schemas are the dear part: each byte of text may become a parent, a name or a field.
//! So every way to make much of little text is tried at the largest length, beside the
//! kept inputs and mutants of a tree file. The library is measured by its allocator,
//! the tools by a limit that the system holds them to.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use zerocopy::FromBytes;
use zerocopy::IntoBytes;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Header;
use mapleaf::layout::Life;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::layout::limits::PAGE_SIZE;
use mapleaf::layout::limits::PARENTS_MAX;
use mapleaf::layout::limits::SCHEMA_LEN_MAX;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Damaged;
use mapleaf::tree::Layout;
use mapleaf::tree::OpenOptions;
use mapleaf::tree::Tree;
use mapleaf::tree::TreeFile;
use mapleaf::tree::header_checksum;
use mapleaf::tree::write_dump;

use super::allocator::Ledger;
use super::bodies;
use super::support::trees::Site;

/// What may be taken beside twice what was read.
const BESIDE: u64 = 16 << 20;

fn allowed(len: usize) -> u64 {
    2 * len as u64 + BESIDE
}

/// What a tool's address space may be beyond: the program itself, what its allocator
/// rounds up to, and room in lists that is not filled.
const OF_A_PROGRAM: u64 = 8 << 20;

fn options() -> CreateOptions {
    CreateOptions { role: TreeRole::Server, tree_id: TreeId(7), life: Life(0), unix_s: 0 }
}

/// Lengths of schemas: short ones, or with `MAPLEAF_MEMORY` those that show what a byte
/// of text costs.
fn lens() -> &'static [usize] {
    match std::env::var_os("MAPLEAF_MEMORY") {
        None => &[64 << 10],
        Some(_) => &[SCHEMA_LEN_MAX - 200],
    }
}

/// Repeats what `write` writes until the text is so long, or has as many parents as may
/// be (but one).
fn filled(len: usize, mut write: impl FnMut(&mut String, usize)) -> String {
    let mut text = String::with_capacity(len + 4_096);
    let (mut count, mut end, mut parents) = (0, 0, 0);
    loop {
        write(&mut text, count);
        parents += u32::from(text[end..].starts_with("[[parent]]"));
        if text.len() > len || parents > PARENTS_MAX - 1 {
            text.truncate(end);
            return text;
        }
        (count, end) = (count + 1, text.len());
    }
}

const PARENT: &str = "[[parent]]\nname='";

fn field(text: &mut String, name: usize) {
    let _ = write!(text, "[[parent.field]]\nname='{name:x}'\ntype='u8'\n");
}

/// Texts of which each makes most of one kind of thing.
fn texts(len: usize) -> Vec<(&'static str, String)> {
    let fields_a_parent = |most: usize| {
        filled(len, move |text, count| {
            if count.is_multiple_of(most) {
                let _ = write!(text, "{PARENT}{count:x}'\nleaves=1\n");
            }
            field(text, count % most);
        })
    };
    vec![
        ("one field a parent", fields_a_parent(1)),
        ("a few fields a parent", fields_a_parent(16)),
        ("1,000 fields a parent", fields_a_parent(1_000)),
        ("4,096 fields a parent", fields_a_parent(4_096)),
        ("65,000 fields a parent", fields_a_parent(65_000)),
        (
            "parents",
            filled(len, |text, count| {
                let _ = write!(text, "{PARENT}{count:x}'\nleaves=1\ncapacity=1\n");
            }),
        ),
        (
            "empty parents",
            filled(len, |text, count| {
                let _ = writeln!(text, "{PARENT}{count:x}'");
            }) + "[[parent]]\nname='z'\nleaves=1\ncapacity=1\n",
        ),
        ("names", {
            let names = filled(len - 100, |text, count| {
                let _ = write!(text, "'{count:x}',");
            });
            format!("{PARENT}a'\ncapacity=1\nnames=[{names}]\n")
        }),
        ("a name a parent", {
            filled(len, |text, count| {
                let _ = write!(text, "{PARENT}{count:x}'\ncapacity=1\nnames=['a']\n");
            })
        }),
        ("leaf_name a parent", {
            filled(len, |text, count| {
                let _ =
                    write!(text, "{PARENT}{count:x}'\nleaves=1\ncapacity=1\nleaf_name='{{n}}'\n");
            })
        }),
        ("units", {
            filled(len, |text, count| {
                if count.is_multiple_of(1_000) {
                    let _ = write!(text, "{PARENT}{count:x}'\nleaves=1\n");
                }
                field(text, count % 1_000);
                text.push_str("unit='m'\n");
            })
        }),
        ("one long text", format!("{PARENT}{}", "a".repeat(len - 100))),
        ("one long comment", format!("#{}", "a".repeat(len - 100))),
        ("unfinished heads", "[[parent]]\n".repeat(len / 11)),
    ]
}

/// What a client may take that pulls a layout: its content, a copy of the text, and
/// some 430 bytes for a parent that has 132 in the content at least.
fn allowed_of_layout(len: usize) -> u64 {
    4 * len as u64 + BESIDE
}

/// Reads a schema as LAYOUT datagrams bring it to a replica or a device.
fn check_blob(ledger: &'static Ledger, what: &str, text: &str) -> Option<Layout> {
    let layout = Layout::from_toml(text).ok();
    let rows = text.matches("[[parent]]").count();
    let blob = match &layout {
        Some(layout) => layout.to_blob(),
        None => {
            let counts = [rows as u32, text.len() as u32].map(u32::to_le_bytes).concat();
            [&counts[..], &vec![0; 64 * rows], text.as_bytes()].concat()
        }
    };
    // And as somebody would send it who wants to do harm: without a table.
    let bare = [&[0; 4][..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    for blob in [&blob, &bare] {
        let (_, peak) = ledger.peak_of(|| Layout::from_blob(blob).is_ok());
        let peak = peak + blob.len() as u64;
        assert!(peak <= allowed_of_layout(blob.len()), "{what}: {peak} of {}", blob.len());
    }
    layout
}

/// A file that says that it holds this text, and has no table and no records.
fn forged(sample: &[u8], text: &str) -> Vec<u8> {
    let (mut header, _) = Header::read_from_prefix(sample).unwrap();
    let mut file = sample[..header.schema_offset.get() as usize].to_vec();
    file.extend_from_slice(text.as_bytes());
    file.resize(file.len().next_multiple_of(PAGE_SIZE) + PAGE_SIZE, 0);
    header.schema_len = (text.len() as u64).into();
    header.file_len = (file.len() as u64).into();
    header.parent_count = (text.matches("[[parent]]").count() as u32).into();
    file[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    let checksum = header_checksum(file.first_chunk().unwrap());
    let at = offset_of!(Header, header_checksum);
    file[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
    file
}

/// Does with a file all that the library can, and gives the most bytes that it took
/// for it. An owner's mapping is the file itself.
fn use_of(ledger: &'static Ledger, path: &Path) -> u64 {
    let (_, looking) = ledger.peak_of(|| {
        let Ok(file) = TreeFile::open(path) else { return };
        let _ = file.faults().unwrap();
        let mut leaves = file.leaves();
        while leaves.next_leaf().unwrap().is_some() {}
        let _ = file.read_leaf(DataLocId(0)).unwrap();
        let _ = write_dump(&file, &mut io::sink());
    });
    let how = OpenOptions { role: TreeRole::Server, damaged: Damaged::Reset, unix_s: 0 };
    let (_, owning) = ledger.peak_of(|| {
        if let Ok((mut tree, _)) = Tree::open(path, how) {
            let _ = tree.begin_life(0).map(|_| tree.write(DataLocId(0), b""));
            tree.close().unwrap();
        }
    });
    looking.max(owning)
}

fn check_file(ledger: &'static Ledger, what: &str, path: &Path) {
    let len = fs::metadata(path).unwrap().len() as usize;
    let used = use_of(ledger, path);
    println!("figure: {what}: a file of {len} bytes takes {used} bytes, {} allowed", allowed(len));
    assert!(used <= allowed(len), "{what}: {used} bytes of a file of {len}");
}

/// Lets the tools do all that they can with a file, held to what they may take: the
/// system refuses more, and a program that is refused memory aborts.
fn check_tools(what: &str, path: &Path) {
    let len = fs::metadata(path).unwrap().len() as usize;
    let limit = (allowed(len) + OF_A_PROGRAM) / 1_024;
    for words in ["stat", "verify", "dump --json", "get TREE --leaf 0", "diff TREE"] {
        let (tool, tree) = (env!("CARGO_BIN_EXE_mapleaf-tree"), path.display());
        let words = words.replace("TREE", &tree.to_string());
        let words = match words.split_once(' ') {
            Some((command, rest)) if command == "get" => format!("{command} {rest}"),
            Some((command, rest)) => format!("{command} {rest} {tree}"),
            None => format!("{words} {tree}"),
        };
        // Of two trees each may take its part.
        let limit = if words.starts_with("diff") { 2 * limit } else { limit };
        let script = format!("ulimit -d {limit}; exec {tool} {words}");
        let ended = Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).output();
        let ended = ended.expect("a shell");
        let told = String::from_utf8_lossy(&ended.stderr);
        let code = ended.status.code();
        assert!(matches!(code, Some(0..=2)), "{what}: {words}: {:?}: {told}", ended.status);
        assert!(!told.contains("memory"), "{what}: {words}: {told}");
    }
}

fn sample(site: &Site) -> Vec<u8> {
    let path = site.path("sample");
    Tree::create(&path, Layout::plain(1, 1, 8).unwrap(), options()).unwrap().close().unwrap();
    fs::read(&path).unwrap()
}

#[test]
fn a_file_with_any_schema_takes_twice_its_length_and_a_little_at_most() {
    let (ledger, site) = (Ledger::new(), Site::new());
    let (sample, path) = (sample(&site), site.path("tree"));
    for len in lens() {
        for (what, text) in texts(*len) {
            fs::write(&path, forged(&sample, &text)).unwrap();
            check_file(ledger, &format!("{what}, forged"), &path);
            check_tools(what, &path);
            let _ = fs::remove_file(&path);
            if let Some(layout) = check_blob(ledger, what, &text)
                && let Ok(tree) = Tree::create(&path, layout, options())
            {
                tree.close().unwrap();
                check_file(ledger, what, &path);
                check_tools(what, &path);
            }
        }
    }
}

#[test]
fn a_file_that_was_altered_takes_no_more_than_it_may() {
    let (ledger, site) = (Ledger::new(), Site::new());
    let path = site.path("tree");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/data/inspect");
    let read = |entry: io::Result<fs::DirEntry>| fs::read(entry.unwrap().path()).unwrap();
    let inputs: Vec<_> = fs::read_dir(kept).unwrap().map(read).collect();
    let (mut random, mut most) = (1_u64, 0);
    for round in 0..8 {
        for (index, input) in inputs.iter().enumerate() {
            let mut input = input.clone();
            for _ in 0..3 * round.min(1) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (random >> 33) as usize % input.len().max(1);
                if let Some(byte) = input.get_mut(at) {
                    *byte = (random >> 24) as u8;
                }
            }
            let file = bodies::tree::file::file_of_input(&input);
            fs::write(&path, &file).unwrap();
            let used = use_of(ledger, &path);
            assert!(used <= allowed(file.len()), "{index}, {round}: {used} of {}", file.len());
            most = used.max(most);
            if round < 2 && index % 32 == 0 {
                check_tools("an altered file", &path);
            }
        }
    }
    println!("figure: {} altered files take {most} bytes at most", 8 * inputs.len());
}
