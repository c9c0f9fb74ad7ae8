//! `mapleaf-tree dump`: all leaves that were ever written.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use mapleaf::tree::Scanned;
use mapleaf::tree::TreeFile;
use mapleaf::tree::write_dump;

use crate::Answer;
use crate::ending::word;
use crate::file::open;
use crate::file::shown;
use crate::json::DamageLine;
use crate::json::LeafLine;
use crate::json::json_line;
use crate::words::counted;

/// Options of `mapleaf-tree dump`.
#[derive(Debug, Args)]
#[command(after_help = "Without --json the text is one that `mapleaf create --from-dump` turns \
    back into the same\ntree. Damaged leaves are left out, and the exit status is 1 then.\n\n\
    Examples:\n  mapleaf-tree dump fleet.mapleaf > fleet.dump\n  \
    mapleaf create copy.mapleaf --from-dump fleet.dump")]
pub(crate) struct DumpArgs {
    /// The tree file
    file: PathBuf,
    /// Print JSON Lines: data_loc_id, path, change_flag, data_size, revision, checksum,
    /// data (hex), fields
    #[arg(long)]
    json: bool,
}

/// Prints all leaves that were ever written; the answer is no if one is damaged.
pub(crate) fn dump(args: &DumpArgs, out: &mut impl Write) -> anyhow::Result<Answer> {
    let file = open(&args.file)?;
    let damaged = if args.json {
        dump_json(&file, out)
    } else {
        write_dump(&file, out).map(|summary| summary.damaged).map_err(anyhow::Error::from)
    };
    let damaged = damaged.with_context(|| shown(&args.file))?;
    if damaged > 0 {
        out.flush()?;
        let count = counted(damaged, "damaged leaf", "damaged leaves");
        word(&format!("mapleaf-tree: {}: left out {count}", shown(&args.file)));
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
