//! The `mapleaf-tree` command: looks at tree files and never changes one.
//!
//! It reads by pread, opens no socket, takes no lock, and works on live files.
//! Data goes to stdout, words to stderr. Exit status: 0 done, 1 the answer is no
//! (trees differ, damage found), 2 usage or trouble.

use std::fmt;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use anyhow::anyhow;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use indicatif::ProgressBar;
use serde::Serialize;
use serde::Serializer;
use serde::ser::SerializeMap;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Digest;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeRole;
use mapleaf::tree::DumpError;
use mapleaf::tree::Fault;
use mapleaf::tree::Field;
use mapleaf::tree::LeafDamage;
use mapleaf::tree::LeafView;
use mapleaf::tree::Origin;
use mapleaf::tree::Place;
use mapleaf::tree::Scanned;
use mapleaf::tree::TreeFile;
use mapleaf::tree::Value;
use mapleaf::tree::printable;
use mapleaf::tree::role_name;
use mapleaf::tree::write_dump;
use mapleaf::tree::write_hex;

/// Looks at mapleaf tree files, live ones included, and never changes one.
#[derive(Parser)]
#[command(
    name = "mapleaf-tree",
    version,
    after_help = "Exit status: 0 done, 1 the answer is no \
    (trees differ, damage found), 2 usage or trouble."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints what a tree file is and how much it holds.
    #[command(after_help = "Example:\n  mapleaf-tree stat fleet.tree --json | jq .digest")]
    Stat(OneFile),
    /// Prints all leaves that were ever written.
    ///
    /// Without --json the text is one that `mapleaf create --from-dump` turns back
    /// into the same tree.
    #[command(after_help = "Example:\n  mapleaf-tree dump fleet.tree > fleet.dump\n  \
        mapleaf create copy.tree --from-dump fleet.dump")]
    Dump(OneFile),
    /// Prints one leaf.
    #[command(after_help = "Example:\n  mapleaf-tree get fleet.tree --path /site/rack1/port7\n  \
        mapleaf-tree get fleet.tree --leaf 12 --json")]
    Get(Get),
    /// Checks every part of a tree file, and names every leaf that is damaged.
    #[command(after_help = "Example:\n  mapleaf-tree verify fleet.tree && echo whole")]
    Verify(OneFile),
    /// Compares two trees, leaf by leaf, by path.
    ///
    /// Leaves are equal if Data, DataSize and revision are. ChangeFlags, life, role
    /// and tree id do not count.
    #[command(after_help = "Example:\n  mapleaf-tree diff fleet.tree replica.tree && echo in sync")]
    Diff(Diff),
}

#[derive(Args)]
struct OneFile {
    /// The tree file.
    file: PathBuf,
    /// Print JSON Lines.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Get {
    /// The tree file.
    file: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Print JSON Lines.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The leaf with this DataLocID.
    #[arg(long, value_name = "ID")]
    leaf: Option<u32>,
    /// The leaf with this path.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
}

#[derive(Args)]
struct Diff {
    /// The first tree file.
    a: PathBuf,
    /// The second tree file.
    b: PathBuf,
    /// Print JSON Lines.
    #[arg(long)]
    json: bool,
}

/// What a command found, as its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Yes = 0,
    No = 1,
}

impl Answer {
    fn yes_if(good: bool) -> Answer {
        if good { Answer::Yes } else { Answer::No }
    }
}

/// Exit status of usage errors (clap's own) and of trouble.
const TROUBLE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let result = run(cli.command, &mut out)
        .and_then(|answer| out.flush().map(|()| answer).map_err(anyhow::Error::from));
    match result {
        Ok(answer) => ExitCode::from(answer as u8),
        // Who closed the pipe has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mapleaf-tree: {error:#}");
            ExitCode::from(TROUBLE)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| match cause.downcast_ref::<DumpError>() {
        Some(DumpError::Io(error)) => is(error),
        _ => {
            cause.downcast_ref::<io::Error>().is_some_and(is)
                || cause
                    .downcast_ref::<serde_json::Error>()
                    .is_some_and(|error| error.io_error_kind() == Some(io::ErrorKind::BrokenPipe))
        }
    })
}

fn run(command: Command, out: &mut impl Write) -> anyhow::Result<Answer> {
    match command {
        Command::Stat(args) => stat(&args, out),
        Command::Dump(args) => dump(&args, out),
        Command::Get(args) => get(&args, out),
        Command::Verify(args) => verify(&args, out),
        Command::Diff(args) => diff(&args, out),
    }
}

fn open(path: &Path) -> anyhow::Result<TreeFile> {
    TreeFile::open(path).with_context(|| shown(path))
}

/// A file name as a terminal may see it.
fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

fn shown_path(file: &TreeFile, leaf: DataLocId) -> String {
    printable(file.layout().path_of(leaf).unwrap_or_default().as_bytes())
}

/// Leaves between two moves of a progress bar.
const BAR_STEP: u32 = 1 << 16;

/// Hands every leaf to `take`, with a progress bar on a terminal.
fn scan(
    file: &TreeFile,
    mut take: impl FnMut(Scanned<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let bar = ProgressBar::new(file.layout().leaf_count().into());
    let mut leaves = file.leaves();
    let mut count = 0_u32;
    while let Some(scanned) = leaves.next_leaf()? {
        take(scanned)?;
        count += 1;
        if count.is_multiple_of(BAR_STEP) {
            bar.set_position(count.into());
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn json_line(out: &mut impl Write, line: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")?;
    Ok(())
}

// ---- stat

/// What the leaves of a tree amount to.
#[derive(Default)]
struct Totals {
    written: u64,
    flags_set: u64,
    damaged: u64,
    data_bytes: u64,
    newest: Revision,
    digest: Digest,
}

impl Totals {
    fn add(&mut self, scanned: &Scanned<'_>) {
        let Scanned::Leaf(leaf) = scanned else {
            self.damaged += 1;
            return;
        };
        self.written += u64::from(leaf.revision != Revision::ZERO);
        self.flags_set += u64::from(leaf.change_flag != 0);
        self.data_bytes += leaf.data.len() as u64;
        self.newest = self.newest.max(leaf.revision);
        let part = Digest::of_leaf(leaf.data_loc_id, leaf.revision, leaf.checksum);
        self.digest = self.digest.plus(part);
    }
}

/// Keys and values in the order in which they are shown.
struct Entries(Vec<(&'static str, serde_json::Value)>);

impl Entries {
    fn push(&mut self, key: &'static str, value: impl Into<serde_json::Value>) {
        self.0.push((key, value.into()));
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let width = self.0.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        for (key, value) in &self.0 {
            match value {
                serde_json::Value::String(text) => {
                    writeln!(out, "{key:width$}  {}", printable(text.as_bytes()))?;
                }
                value => writeln!(out, "{key:width$}  {value}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

fn stat(args: &OneFile, out: &mut impl Write) -> anyhow::Result<Answer> {
    let file = open(&args.file)?;
    let mut totals = Totals::default();
    scan(&file, |scanned| {
        totals.add(&scanned);
        Ok(())
    })
    .with_context(|| shown(&args.file))?;
    let entries = stat_entries(&file, &totals).with_context(|| shown(&args.file))?;
    if args.json {
        json_line(out, &entries)?;
    } else {
        entries.print(out)?;
    }
    Ok(Answer::yes_if(totals.damaged == 0))
}

fn stat_entries(file: &TreeFile, totals: &Totals) -> anyhow::Result<Entries> {
    let (header, layout) = (file.header(), file.layout());
    let mut entries = Entries(Vec::new());
    let version = format!("{}.{}", header.format_major, header.format_minor);
    entries.push("format_version", version);
    entries.push("tree_id", format!("{:016x}", header.tree_id.get()));
    if let Some(name) = layout.name() {
        entries.push("name", name);
    }
    match file.state()? {
        Some(state) => {
            let role = TreeRole::from_code(state.role.get()).map_or("unknown", role_name);
            entries.push("role", role);
            entries.push("life", state.life.get());
            entries.push("clean", state.clean.get() == 1);
            entries.push("watermark", state.watermark.get());
        }
        None => entries.push("role", "unknown: no state slot has a right checksum"),
    }
    entries.push("created_unix_s", header.created_unix_s.get());
    entries.push("parents", layout.parent_count());
    entries.push("leaves", layout.leaf_count());
    entries.push("capacity_max", layout.capacity_max());
    entries.push("stride_max", layout.stride_max());
    entries.push("schema_len", layout.schema_text().len());
    entries.push("records_len", layout.records_len());
    entries.push("file_len", layout.file_len());
    entries.push("layout_hash", format!("{:08x}", layout.layout_hash().0));
    entries.push("leaves_written", totals.written);
    entries.push("leaves_damaged", totals.damaged);
    entries.push("flags_set", totals.flags_set);
    entries.push("data_bytes", totals.data_bytes);
    entries.push("newest_revision", totals.newest.0);
    entries.push("digest", format!("{:016x}", totals.digest.0));
    Ok(entries)
}

// ---- dump, get

/// A leaf as a line of JSON.
#[derive(Serialize)]
struct LeafLine<'a> {
    data_loc_id: u32,
    path: String,
    change_flag: u32,
    data_size: usize,
    revision: u64,
    checksum: String,
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<FieldsLine<'a>>,
}

impl<'a> LeafLine<'a> {
    fn new(file: &'a TreeFile, leaf: &LeafView<'a>) -> anyhow::Result<LeafLine<'a>> {
        let fields = file.layout().fields_of(leaf.data_loc_id);
        Ok(LeafLine {
            data_loc_id: leaf.data_loc_id.0,
            path: file.layout().path_of(leaf.data_loc_id).unwrap_or_default(),
            change_flag: leaf.change_flag,
            data_size: leaf.data.len(),
            revision: leaf.revision.0,
            checksum: format!("{:08x}", leaf.checksum),
            data: hex(leaf.data)?,
            fields: (!fields.is_empty()).then_some(FieldsLine { fields, data: leaf.data }),
        })
    }
}

fn hex(data: &[u8]) -> anyhow::Result<String> {
    let mut digits = Vec::with_capacity(2 * data.len());
    write_hex(&mut digits, data)?;
    Ok(String::from_utf8(digits)?)
}

/// The fields that Data holds, in the order of the schema.
struct FieldsLine<'a> {
    fields: &'a [Field],
    data: &'a [u8],
}

impl Serialize for FieldsLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for field in self.fields {
            match field.decode(self.data) {
                None => {}
                Some(Value::Bool(value)) => map.serialize_entry(&field.name, &value)?,
                Some(Value::Unsigned(value)) => map.serialize_entry(&field.name, &value)?,
                Some(Value::Signed(value)) => map.serialize_entry(&field.name, &value)?,
                Some(Value::Float32(value)) => map.serialize_entry(&field.name, &value)?,
                Some(Value::Float(value)) => map.serialize_entry(&field.name, &value)?,
                Some(Value::Text(value)) => map.serialize_entry(&field.name, &value)?,
                Some(bytes @ Value::Bytes(_)) => {
                    map.serialize_entry(&field.name, &bytes.to_string())?;
                }
            }
        }
        map.end()
    }
}

/// A leaf that is damaged, as a line of JSON.
#[derive(Serialize)]
struct DamageLine {
    data_loc_id: u32,
    path: String,
    damage: String,
}

impl DamageLine {
    fn new(file: &TreeFile, leaf: DataLocId, damage: LeafDamage) -> DamageLine {
        DamageLine {
            data_loc_id: leaf.0,
            path: file.layout().path_of(leaf).unwrap_or_default(),
            damage: damage.to_string(),
        }
    }
}

fn dump(args: &OneFile, out: &mut impl Write) -> anyhow::Result<Answer> {
    let file = open(&args.file)?;
    let damaged = if args.json {
        dump_json(&file, out)
    } else {
        write_dump(&file, out).map(|summary| summary.damaged).map_err(anyhow::Error::from)
    };
    let damaged = damaged.with_context(|| shown(&args.file))?;
    if damaged > 0 {
        out.flush()?;
        eprintln!("mapleaf-tree: {}: left out {damaged} damaged leaves", shown(&args.file));
    }
    Ok(Answer::yes_if(damaged == 0))
}

fn dump_json(file: &TreeFile, out: &mut impl Write) -> anyhow::Result<u64> {
    let mut damaged = 0;
    let mut leaves = file.leaves();
    while let Some(scanned) = leaves.next_leaf()? {
        match scanned {
            Scanned::Leaf(leaf) if leaf.is_empty() => {}
            Scanned::Leaf(leaf) => json_line(out, &LeafLine::new(file, &leaf)?)?,
            Scanned::Damaged { leaf, damage } => {
                damaged += 1;
                json_line(out, &DamageLine::new(file, leaf, damage))?;
            }
        }
    }
    Ok(damaged)
}

fn get(args: &Get, out: &mut impl Write) -> anyhow::Result<Answer> {
    let file = open(&args.file)?;
    let leaf = find(&file, &args.which).with_context(|| shown(&args.file))?;
    let read = file.read_leaf(leaf).with_context(|| shown(&args.file))?;
    match read.ok_or_else(|| anyhow!("leaf {leaf}: wanted one of the tree"))? {
        Ok(state) if args.json => json_line(out, &LeafLine::new(&file, &state.view())?)?,
        Ok(state) => print_leaf(&file, &state.view(), out)?,
        Err(damage) => {
            let (name, path) = (shown(&args.file), shown_path(&file, leaf));
            eprintln!("mapleaf-tree: {name}: leaf {leaf} {path} is damaged: {damage}");
            return Ok(Answer::No);
        }
    }
    Ok(Answer::Yes)
}

fn find(file: &TreeFile, which: &Which) -> anyhow::Result<DataLocId> {
    let layout = file.layout();
    if let Some(id) = which.leaf {
        let last = layout.leaf_count().saturating_sub(1);
        let known = (id <= last).then_some(DataLocId(id));
        return known.ok_or_else(|| anyhow!("leaf: wanted 0 to {last}, found {id}"));
    }
    let path = which.path.as_deref().unwrap_or_default();
    match layout.place_at(path) {
        Some(Place::Leaf(leaf)) => Ok(leaf),
        Some(_) => {
            Err(anyhow!("path {}: wanted a leaf, found a parent", printable(path.as_bytes())))
        }
        None => Err(anyhow!(
            "path {}: wanted a leaf as in {}, found nothing",
            printable(path.as_bytes()),
            shown_path(file, DataLocId(0)),
        )),
    }
}

fn print_leaf(file: &TreeFile, leaf: &LeafView<'_>, out: &mut impl Write) -> anyhow::Result<()> {
    let line = LeafLine::new(file, leaf)?;
    writeln!(out, "data_loc_id  {}", line.data_loc_id)?;
    writeln!(out, "path         {}", printable(line.path.as_bytes()))?;
    writeln!(out, "change_flag  {}", line.change_flag)?;
    writeln!(out, "data_size    {}", line.data_size)?;
    writeln!(out, "revision     {}", line.revision)?;
    writeln!(out, "checksum     {}", line.checksum)?;
    writeln!(out, "data         {}", line.data)?;
    for field in file.layout().fields_of(leaf.data_loc_id) {
        if let Some(value) = field.display(leaf.data) {
            writeln!(out, "field {}  {value}", printable(field.name.as_bytes()))?;
        }
    }
    Ok(())
}

// ---- verify

#[derive(Serialize)]
struct FaultLine {
    fault: String,
}

#[derive(Default, Serialize)]
struct VerifyLine {
    leaves: u64,
    damaged: u64,
    recovered: u64,
    faults: u64,
}

fn verify(args: &OneFile, out: &mut impl Write) -> anyhow::Result<Answer> {
    let file = open(&args.file)?;
    let mut sums = VerifyLine::default();
    for fault in file.faults().with_context(|| shown(&args.file))? {
        sums.faults += 1;
        print_fault(&fault, args.json, out)?;
    }
    scan(&file, |scanned| {
        sums.leaves += 1;
        match scanned {
            Scanned::Leaf(leaf) => sums.recovered += u64::from(leaf.origin == Origin::Undo),
            Scanned::Damaged { leaf, damage } => {
                sums.damaged += 1;
                print_damage(&file, leaf, damage, args.json, out)?;
            }
        }
        Ok(())
    })
    .with_context(|| shown(&args.file))?;
    file.check_length().with_context(|| shown(&args.file))?;
    if args.json {
        json_line(out, &sums)?;
    }
    out.flush()?;
    eprintln!("{}: {sums}", shown(&args.file));
    Ok(Answer::yes_if(sums.damaged == 0 && sums.faults == 0))
}

impl fmt::Display for VerifyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VerifyLine { leaves, damaged, recovered, faults } = self;
        write!(f, "{leaves} leaves, {damaged} damaged, {faults} faults elsewhere")?;
        if *recovered > 0 {
            write!(f, ", {recovered} half written (the undo slot has it as it was)")?;
        }
        Ok(())
    }
}

fn print_fault(fault: &Fault, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    if json {
        return json_line(out, &FaultLine { fault: fault.to_string() });
    }
    Ok(writeln!(out, "{fault}")?)
}

fn print_damage(
    file: &TreeFile,
    leaf: DataLocId,
    damage: LeafDamage,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if json {
        return json_line(out, &DamageLine::new(file, leaf, damage));
    }
    Ok(writeln!(out, "leaf {leaf} {}: {damage}", shown_path(file, leaf))?)
}

// ---- diff

/// One side of a leaf that differs.
#[derive(Serialize)]
struct Side {
    data_loc_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
}

/// A leaf that differs; a side that is missing has no such leaf.
#[derive(Serialize)]
struct DiffLine {
    path: String,
    a: Option<Side>,
    b: Option<Side>,
}

impl Side {
    fn new(scanned: &Scanned<'_>) -> anyhow::Result<Side> {
        Ok(match scanned {
            Scanned::Leaf(leaf) => Side {
                data_loc_id: leaf.data_loc_id.0,
                revision: Some(leaf.revision.0),
                data_size: Some(leaf.data.len()),
                data: Some(hex(leaf.data)?),
                damage: None,
            },
            Scanned::Damaged { leaf, damage } => Side {
                data_loc_id: leaf.0,
                revision: None,
                data_size: None,
                data: None,
                damage: Some(damage.to_string()),
            },
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(damage) = &self.damage {
            return write!(f, "damaged ({damage})");
        }
        let revision = self.revision.unwrap_or(0);
        let data = self.data.as_deref().filter(|data| !data.is_empty()).unwrap_or("-");
        write!(f, "revision {revision} data {data}")
    }
}

impl DiffLine {
    fn print(&self, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
        if json {
            return json_line(out, self);
        }
        let side = |side: &Option<Side>| side.as_ref().map_or("none".to_owned(), Side::to_string);
        let path = printable(self.path.as_bytes());
        Ok(writeln!(out, "{path}: {} | {}", side(&self.a), side(&self.b))?)
    }
}

fn diff(args: &Diff, out: &mut impl Write) -> anyhow::Result<Answer> {
    let (a, b) = (open(&args.a)?, open(&args.b)?);
    if a.header().tree_id != b.header().tree_id {
        let (a, b) = (a.header().tree_id.get(), b.header().tree_id.get());
        eprintln!("mapleaf-tree: tree ids {a:016x} and {b:016x}: not a tree and its replica");
    }
    let mut differ = 0_u64;
    let mut found = |line: DiffLine| {
        differ += 1;
        line.print(args.json, out)
    };
    if a.layout().parents() == b.layout().parents() && a.layout() == b.layout() {
        diff_alike(&a, &b, &mut found)?;
    } else {
        diff_by_path(&a, &b, &mut found)?;
    }
    if differ > 0 {
        out.flush()?;
        eprintln!("{differ} leaves differ");
    } else if !args.json {
        writeln!(out, "equal: {} leaves", a.layout().leaf_count())?;
    }
    Ok(Answer::yes_if(differ == 0))
}

/// Whether two leaves are equal. A damaged one equals nothing.
fn same(a: &Scanned<'_>, b: &Scanned<'_>) -> bool {
    match (a, b) {
        (Scanned::Leaf(a), Scanned::Leaf(b)) => a.revision == b.revision && a.data == b.data,
        _ => false,
    }
}

/// Compares trees of one layout, in step.
fn diff_alike(
    a: &TreeFile,
    b: &TreeFile,
    found: &mut impl FnMut(DiffLine) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut others = b.leaves();
    scan(a, |left| {
        // One layout: there are as many.
        let right = others.next_leaf()?.context("the trees changed while they were read")?;
        if same(&left, &right) {
            return Ok(());
        }
        let (a_side, b_side) = (Side::new(&left)?, Side::new(&right)?);
        let path = a.layout().path_of(DataLocId(a_side.data_loc_id)).unwrap_or_default();
        found(DiffLine { path, a: Some(a_side), b: Some(b_side) })
    })
}

/// Compares trees of different layouts, leaf by leaf by their paths.
fn diff_by_path(
    a: &TreeFile,
    b: &TreeFile,
    found: &mut impl FnMut(DiffLine) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    scan(a, |left| {
        let id = match &left {
            Scanned::Leaf(leaf) => leaf.data_loc_id,
            Scanned::Damaged { leaf, .. } => *leaf,
        };
        let path = a.layout().path_of(id).unwrap_or_default();
        let Some(other) = b.layout().leaf_at(&path) else {
            return found(DiffLine { path, a: Some(Side::new(&left)?), b: None });
        };
        let mut one = b.leaves_in(other.0..other.0.saturating_add(1));
        let right = one.next_leaf()?.context("the trees changed while they were read")?;
        if same(&left, &right) {
            return Ok(());
        }
        let (a, b) = (Side::new(&left)?, Side::new(&right)?);
        found(DiffLine { path, a: Some(a), b: Some(b) })
    })?;
    for id in (0..b.layout().leaf_count()).map(DataLocId) {
        let path = b.layout().path_of(id).unwrap_or_default();
        if a.layout().leaf_at(&path).is_none() {
            let mut one = b.leaves_in(id.0..id.0.saturating_add(1));
            let right = one.next_leaf()?.map(|right| Side::new(&right)).transpose()?;
            found(DiffLine { path, a: None, b: right })?;
        }
    }
    Ok(())
}
