//! `mapleaf-tree diff`: the leaves in which two trees differ.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use mapleaf::layout::DataLocId;
use mapleaf::tree::Scanned;
use mapleaf::tree::TreeFile;
use mapleaf::tree::printable;

use crate::Answer;
use crate::ending::word;
use crate::file::open;
use crate::file::scan;
use crate::json::hex;
use crate::json::json_line;
use crate::words::counted;
use crate::words::leaves;

/// Options of `mapleaf-tree diff`.
#[derive(Debug, Args)]
#[command(after_help = "Leaves are equal if Data, DataSize and revision are. ChangeFlags, life, \
    role and tree id do\nnot count. The exit status is 1 when a leaf differs.\n\n\
    Example:\n  mapleaf-tree diff fleet.mapleaf copy.mapleaf && echo in sync")]
pub(crate) struct DiffArgs {
    /// The first tree file
    a: PathBuf,
    /// The second tree file
    b: PathBuf,
    /// Print JSON Lines, one for each leaf that differs
    #[arg(long)]
    json: bool,
}

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

/// Compares two trees; the answer is no if a leaf differs.
pub(crate) fn diff(args: &DiffArgs, out: &mut impl Write) -> anyhow::Result<Answer> {
    let (a, b) = (open(&args.a)?, open(&args.b)?);
    if a.header().tree_id != b.header().tree_id {
        let (a, b) = (a.header().tree_id.get(), b.header().tree_id.get());
        let ids = format!("tree ids {a:016x} and {b:016x}: not a tree and its replica");
        word(&format!("mapleaf-tree: {ids}"));
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
        word(&counted(differ, "leaf differs", "leaves differ"));
    } else if !args.json {
        writeln!(out, "equal: {}", leaves(a.layout().leaf_count()))?;
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
