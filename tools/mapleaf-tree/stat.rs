//! `mapleaf-tree stat`: what a tree file is and how much it holds.

use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use serde::Serializer;

use mapleaf::layout::Digest;
use mapleaf::layout::Life;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeRole;
use mapleaf::tree::RedoSummary;
use mapleaf::tree::Scanned;
use mapleaf::tree::TreeFile;
use mapleaf::tree::printable;
use mapleaf::tree::role_name;

use crate::Answer;
use crate::file::open;
use crate::file::scan_in_pieces;
use crate::file::shown;
use crate::json::json_line;

/// Options of `mapleaf-tree stat`.
#[derive(Debug, Args)]
#[command(after_help = "The exit status is 1 when a leaf is damaged.\n\n\
    Example:\n  mapleaf-tree stat fleet.mapleaf --json | jq .digest")]
pub(crate) struct StatArgs {
    /// The tree file
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

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
    fn add(&mut self, scanned: Scanned<'_>) {
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

    /// Adds what other leaves amount to.
    fn merge(&mut self, other: &Totals) {
        let Totals { written, flags_set, damaged, data_bytes, newest, digest } = other;
        self.written += written;
        self.flags_set += flags_set;
        self.damaged += damaged;
        self.data_bytes += data_bytes;
        self.newest = self.newest.max(*newest);
        self.digest = self.digest.plus(*digest);
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

/// Sums a tree up; the answer is no if a leaf is damaged.
pub(crate) fn stat(args: &StatArgs, out: &mut impl Write) -> anyhow::Result<Answer> {
    let file = open(&args.file)?;
    let mut totals = Totals::default();
    scan_in_pieces(&file, Totals::add, |piece: Totals| {
        totals.merge(&piece);
        Ok(())
    })
    .with_context(|| shown(&args.file))?;
    let mut entries = stat_entries(&file, &totals).with_context(|| shown(&args.file))?;
    if let Some(told) = redo_log(&args.file, &file)? {
        entries.push("redo_log", told);
    }
    if args.json {
        json_line(out, &entries)?;
    } else {
        entries.print(out)?;
    }
    Ok(Answer::yes_if(totals.damaged == 0))
}

/// What the log beside the file means for the next server, if there is one.
fn redo_log(path: &Path, file: &TreeFile) -> anyhow::Result<Option<String>> {
    let log = match RedoSummary::beside(path) {
        Ok(None) => return Ok(None),
        Ok(Some(log)) => log,
        Err(fault) => return Ok(Some(format!("its next server refuses it: {fault}"))),
    };
    let (header, state) = (file.header(), file.state()?);
    let life = state.map(|state| Life(state.life.get()));
    let is_own = log.tree_id.0 == header.tree_id.get();
    let told = if is_own && life.is_some_and(|life| log.life < life) {
        "everything in it is in the tree: its next server removes it".to_owned()
    } else if is_own && life == Some(log.life) && log.layout_hash == file.layout().layout_hash() {
        format!("its next server takes {} batches over", log.batches)
    } else {
        "of another tree, life or layout: its next server may refuse it".to_owned()
    };
    Ok(Some(told))
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
