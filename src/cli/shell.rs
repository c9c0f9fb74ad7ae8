//! Shell completions and man pages, made from the table of flags.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::exit::Exit;
use crate::cli::output::Output;
use crate::cli::output::word;

/// Options of `mapleaf completions`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mapleaf completions bash \
    > ~/.local/share/bash-completion/completions/mapleaf")]
pub(crate) struct CompletionsArgs {
    /// The shell that completes
    shell: Shell,
}

/// Options of `mapleaf man`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mapleaf man ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Folder to write the pages to; it is made if it is missing
    dir: PathBuf,
}

/// Prints the completions of a shell.
pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "mapleaf", &mut script);
    let mut output = Output::stdout();
    output.bytes(&script)?;
    output.flush()?;
    Ok(Exit::Done)
}

/// Writes a page for `mapleaf` and one for each command.
pub(crate) fn man(args: &ManArgs, mut command: Command) -> anyhow::Result<Exit> {
    let dir = &args.dir;
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    command.build();
    let pages = core::iter::once(&command).chain(command.get_subcommands());
    let mut count = 0;
    for page in pages.filter(|page| page.get_name() != "help") {
        let man = Man::new(page.clone().disable_help_subcommand(true));
        let path = dir.join(man.get_filename());
        let mut text = Vec::new();
        man.render(&mut text).context("cannot make a man page")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        count += 1;
    }
    word(format_args!("wrote {count} pages to {}", dir.display()));
    Ok(Exit::Done)
}
