//! The `mapleaf-tree` command: looks at tree files and never changes one.
//!
//! It reads by pread, opens no socket, takes no lock, and works on live files.
//! Data goes to stdout, words to stderr. Exit status: 0 done, 1 the answer is no
//! (trees differ, damage found), 2 usage or trouble.

mod diff;
mod dump;
#[path = "../ending.rs"]
mod ending;
mod file;
mod get;
mod json;
mod stat;
mod verify;
// Errors are told as `mapleaf` tells them.
#[path = "../../src/cli/words.rs"]
mod words;

use std::ffi::OsString;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

use mapleaf::tree::DumpError;

use crate::ending::explain;

/// Look at mapleaf tree files, live ones included, and never change one
#[derive(Debug, Parser)]
#[command(name = "mapleaf-tree", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit status: 0 done, 1 the answer is no (trees differ, damage found), \
    2 usage or trouble.\n\nExample:\n  mapleaf-tree stat fleet.mapleaf")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what a tree file is and how much it holds
    Stat(stat::StatArgs),
    /// Print all leaves that were ever written
    Dump(dump::DumpArgs),
    /// Print one leaf
    Get(get::GetArgs),
    /// Check every part of a tree file, and name every leaf that is damaged
    Verify(verify::VerifyArgs),
    /// Compare two trees, leaf by leaf, by path
    Diff(diff::DiffArgs),
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

fn main() -> ExitCode {
    match run(std::env::args_os()) {
        Ok(answer) => ExitCode::from(answer as u8),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => explain("mapleaf-tree", &error),
    }
}

fn run(args: impl Iterator<Item = OsString>) -> anyhow::Result<Answer> {
    let cli = Cli::try_parse_from(args)?;
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let answer = perform(cli.command, &mut out)?;
    out.flush()?;
    Ok(answer)
}

fn perform(command: Command, out: &mut impl Write) -> anyhow::Result<Answer> {
    match command {
        Command::Stat(args) => stat::stat(&args, out),
        Command::Dump(args) => dump::dump(&args, out),
        Command::Get(args) => get::get(&args, out),
        Command::Verify(args) => verify::verify(&args, out),
        Command::Diff(args) => diff::diff(&args, out),
    }
}

/// Who closed the pipe has seen enough.
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_table_of_flags_is_sound_and_explained() {
        ending::assert_explained(Cli::command());
    }
}
