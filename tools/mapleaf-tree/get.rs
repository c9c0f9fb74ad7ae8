//! `mapleaf-tree get`: one leaf.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::anyhow;
use clap::Args;

use mapleaf::layout::DataLocId;
use mapleaf::tree::LeafView;
use mapleaf::tree::Place;
use mapleaf::tree::TreeFile;
use mapleaf::tree::printable;

use crate::Answer;
use crate::ending::word;
use crate::file::open;
use crate::file::shown;
use crate::file::shown_path;
use crate::json::LeafLine;
use crate::json::json_line;

/// Options of `mapleaf-tree get`.
#[derive(Debug, Args)]
#[command(after_help = "The exit status is 1 when the leaf is damaged.\n\n\
    Examples:\n  mapleaf-tree get fleet.mapleaf --path /site/rack1/port7\n  \
    mapleaf-tree get fleet.mapleaf --leaf 12 --json")]
pub(crate) struct GetArgs {
    /// The tree file
    file: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// DataLocID of the leaf, counted from 0
    #[arg(long, value_name = "ID")]
    leaf: Option<u32>,
    /// Path of the leaf, such as /site/rack1/port7
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
}

/// Prints one leaf; the answer is no if it is damaged.
pub(crate) fn get(args: &GetArgs, out: &mut impl Write) -> anyhow::Result<Answer> {
    let file = open(&args.file)?;
    let leaf = find(&file, &args.which).with_context(|| shown(&args.file))?;
    let read = file.read_leaf(leaf).with_context(|| shown(&args.file))?;
    match read.ok_or_else(|| anyhow!("leaf {leaf}: wanted one of the tree"))? {
        Ok(state) if args.json => json_line(out, &LeafLine::new(&file, &state.view())?)?,
        Ok(state) => print_leaf(&file, &state.view(), out)?,
        Err(damage) => {
            let (name, path) = (shown(&args.file), shown_path(&file, leaf));
            word(&format!("mapleaf-tree: {name}: leaf {leaf} {path} is damaged: {damage}"));
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
