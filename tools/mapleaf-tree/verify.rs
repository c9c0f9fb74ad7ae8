//! `mapleaf-tree verify`: what is damaged in a tree file.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use mapleaf::layout::DataLocId;
use mapleaf::tree::Fault;
use mapleaf::tree::LeafDamage;
use mapleaf::tree::Origin;
use mapleaf::tree::Scanned;
use mapleaf::tree::TreeFile;

use crate::Answer;
use crate::ending::word;
use crate::file::open;
use crate::file::scan_in_pieces;
use crate::file::shown;
use crate::file::shown_path;
use crate::json::DamageLine;
use crate::json::json_line;
use crate::words;
use crate::words::counted;

/// Options of `mapleaf-tree verify`.
#[derive(Debug, Args)]
#[command(after_help = "The exit status is 1 when anything is damaged.\n\n\
    Example:\n  mapleaf-tree verify fleet.mapleaf && echo whole")]
pub(crate) struct VerifyArgs {
    /// The tree file
    file: PathBuf,
    /// Print JSON Lines: one for each fault and damaged leaf, one with the sums
    #[arg(long)]
    json: bool,
}

/// What is wrong outside of the leaves, as a line of JSON.
#[derive(Serialize)]
struct FaultLine {
    fault: String,
}

/// What was looked at, and what of it is not as it should be.
#[derive(Default, Serialize)]
struct VerifyLine {
    leaves: u64,
    damaged: u64,
    recovered: u64,
    faults: u64,
}

/// What was found in a piece of the tree.
#[derive(Default)]
struct Piece {
    leaves: u64,
    recovered: u64,
    damaged: Vec<(DataLocId, LeafDamage)>,
}

impl Piece {
    fn add(&mut self, scanned: Scanned<'_>) {
        self.leaves += 1;
        match scanned {
            Scanned::Leaf(leaf) => self.recovered += u64::from(leaf.origin == Origin::Undo),
            Scanned::Damaged { leaf, damage } => self.damaged.push((leaf, damage)),
        }
    }
}

/// Checks a tree file; the answer is no if anything is damaged.
pub(crate) fn verify(args: &VerifyArgs, out: &mut impl Write) -> anyhow::Result<Answer> {
    let file = open(&args.file)?;
    let mut sums = VerifyLine::default();
    for fault in file.faults().with_context(|| shown(&args.file))? {
        sums.faults += 1;
        print_fault(&fault, args.json, out)?;
    }
    scan_in_pieces(&file, Piece::add, |piece: Piece| {
        sums.leaves += piece.leaves;
        sums.recovered += piece.recovered;
        sums.damaged += piece.damaged.len() as u64;
        let mut damaged = piece.damaged.into_iter();
        damaged.try_for_each(|(leaf, damage)| print_damage(&file, leaf, damage, args.json, out))
    })
    .with_context(|| shown(&args.file))?;
    file.check_length().with_context(|| shown(&args.file))?;
    if args.json {
        json_line(out, &sums)?;
    }
    out.flush()?;
    word(&format!("{}: {sums}", shown(&args.file)));
    Ok(Answer::yes_if(sums.damaged == 0 && sums.faults == 0))
}

impl fmt::Display for VerifyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VerifyLine { leaves, damaged, recovered, faults } = self;
        let (leaves, faults) = (words::leaves(*leaves), counted(*faults, "fault", "faults"));
        write!(f, "{leaves}, {damaged} damaged, {faults} elsewhere")?;
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
