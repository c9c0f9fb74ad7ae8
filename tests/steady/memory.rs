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

fn listing(names: String) -> String {
    format!("{PARENT}a'\ncapacity=1\nnames=[{names}]\n")
}

/// A name of characters that messages write with six bytes for two.
fn long_name(len: usize) -> String {
    format!("'{}'", "\u{80}".repeat(len / 2))
}

/// Texts of which each makes most of one kind of thing, whole ones and such that are
/// refused.
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
            listing(filled(len - 100, |text, count| {
                let _ = write!(text, "'{count:x}',");
            }))
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
        ("one name many times", listing("'a',".repeat(len / 4 - 25))),
        ("names of nothing", listing("'',".repeat(len / 3 - 34))),
        ("a few long names", listing("'a\u{80}',".repeat(2) + &long_name(len - 120))),
        ("one key", format!("{PARENT}a'\n{}=1\n", "k".repeat(len - 100))),
        ("a long path", {
            let half = "/\u{80}".repeat(len / 6 - 20);
            format!("{PARENT}{half}'\nin='{half}'\nleaves=1\ncapacity=1\n")
        }),
        ("a long unit", {
            let unit = "\u{80}".repeat(len / 2 - 100);
            format!("{PARENT}a'\nleaves=1\n[[parent.field]]\nname='a'\ntype='u8'\nunit='{unit}'\n")
        }),
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

/// What the tools are asked for.
const COMMANDS: [&str; 5] =
    ["stat TREE", "verify TREE", "dump --json TREE", "get TREE --leaf 0", "diff TREE TREE"];

/// Runs a tool that is given so many KiB for all that it holds of its own: the system
/// refuses more, and a program that is refused memory aborts.
fn run_within(limit_kib: u64, command: &str, path: &Path) -> Result<(), String> {
    let tool = env!("CARGO_BIN_EXE_mapleaf-tree");
    let words = command.replace("TREE", &path.display().to_string());
    // A trace of a program that is refused memory would wait for ever for its own lock.
    let script =
        format!("export RUST_BACKTRACE=0; ulimit -d {limit_kib}; exec timeout 60 {tool} {words}");
    let ended = Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).output();
    let ended = ended.expect("a shell");
    let told = String::from_utf8_lossy(&ended.stderr);
    let ended_well = matches!(ended.status.code(), Some(0..=2));
    // The dynamic linker that finds no memory ends with a code of a tool.
    if ended_well && !told.contains("memory") && !told.contains("shared") {
        return Ok(());
    }
    Err(format!("{:?}: {}", ended.status, told.chars().take(200).collect::<String>()))
}

/// The tools, and what each takes without a file's doing.
struct Tools {
    needs_kib: [u64; COMMANDS.len()],
}

impl Tools {
    /// Finds what each takes for the smallest tree.
    fn new(site: &Site, sample: &[u8]) -> Tools {
        let path = site.path("smallest");
        fs::write(&path, sample).unwrap();
        let needs_kib = COMMANDS.map(|command| {
            let (mut enough, mut less) = (64 << 10, 0);
            run_within(enough, command, &path).unwrap();
            while enough - less > 4 {
                let between = (enough + less) / 2;
                match run_within(between, command, &path) {
                    Ok(()) => enough = between,
                    Err(_) => less = between,
                }
            }
            enough
        });
        println!("figure: without a file's doing the tools take {needs_kib:?} KiB");
        Tools { needs_kib }
    }

    /// Lets the tools do all that they can with a file, held to what they may take.
    fn check(&self, what: &str, path: &Path) {
        let allowed_kib = allowed(fs::metadata(path).unwrap().len() as usize) / 1_024;
        for (command, needs_kib) in COMMANDS.iter().zip(self.needs_kib) {
            // Of two trees each may take its part.
            let trees = command.matches("TREE").count() as u64;
            let outcome = run_within(needs_kib + trees * allowed_kib, command, path);
            assert_eq!(outcome, Ok(()), "{what}: {command}");
        }
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
    let tools = Tools::new(&site, &sample);
    for len in lens() {
        for (what, text) in texts(*len) {
            fs::write(&path, forged(&sample, &text)).unwrap();
            check_file(ledger, &format!("{what}, forged"), &path);
            tools.check(what, &path);
            let _ = fs::remove_file(&path);
            if let Some(layout) = check_blob(ledger, what, &text)
                && let Ok(tree) = Tree::create(&path, layout, options())
            {
                tree.close().unwrap();
                check_file(ledger, what, &path);
                tools.check(what, &path);
            }
        }
    }
}

#[test]
fn a_file_that_was_altered_takes_no_more_than_it_may() {
    let (ledger, site) = (Ledger::new(), Site::new());
    let (tools, path) = (Tools::new(&site, &sample(&site)), site.path("tree"));
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
                tools.check("an altered file", &path);
            }
        }
    }
    println!("figure: {} altered files take {most} bytes at most", 8 * inputs.len());
}
