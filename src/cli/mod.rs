//! What the `mapleaf` command does with its arguments.

mod agent;
mod config;
mod create;
mod demo;
mod demo_compare;
mod demo_devices;
mod demo_outcome;
mod demo_parts;
mod demo_world;
mod exit;
mod interfaces;
mod lines;
mod logging;
mod mirror;
mod output;
mod parse;
mod progress;
mod proxy;
mod report;
mod serve;
mod serving;
mod shell;
mod show;
mod watch;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use clap::CommandFactory;
use clap::FromArgMatches;
use clap::Parser;
use clap::Subcommand;
use clap::builder::BoolishValueParser;

use crate::cli::exit::Exit;
use crate::cli::logging::LogFormat;
use crate::cli::output::PipeClosed;
use crate::cli::output::word;
use crate::cli::words::causes;
use crate::cli::words::usage_line;

/// Keep many replicas of one live state table equal to it, over UDP
#[derive(Debug, Parser)]
#[command(name = "mapleaf", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Settings come from flags, then MAPLEAF_* variables, then --config FILE.\n\
    Durations: 100ms, 5s, 2m. Sizes: 1200, 64KiB. Addresses: host:port, [v6]:port.\n\
    Exit status: 0 done, 1 the answer is no, 2 usage or trouble.\n\n\
    Example:\n  mapleaf demo --loss 0.1")]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
struct Common {
    /// TOML file with settings, one table a command, keys named like its options
    #[arg(long, global = true, env = "MAPLEAF_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Logs on stderr, such as debug or mapleaf=debug [default: warn; serve: info]
    #[arg(long, global = true, env = "MAPLEAF_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// Logs are JSON, one object a line
    #[arg(long, global = true, env = "MAPLEAF_LOG_JSON", value_parser = BoolishValueParser::new())]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a tree file
    Create(create::CreateArgs),
    /// Serve a tree
    Serve(serve::ServeArgs),
    /// Report changes of leaves, as a device does
    Report(report::ReportArgs),
    /// Keep a file a replica of a served tree, and maybe serve it on
    Mirror(mirror::MirrorArgs),
    /// Print changes as they arrive
    Watch(watch::WatchArgs),
    /// Report this machine's network interfaces
    Agent(agent::AgentArgs),
    /// Show it all on this machine: a server, lossy paths, replicas, devices
    Demo(demo::DemoArgs),
    /// Print the completions of a shell
    Completions(shell::CompletionsArgs),
    /// Write the man pages into a folder
    Man(shell::ManArgs),
}

/// Reads the arguments, does what they say, and says how it went.
pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let args: Vec<OsString> = args.into_iter().collect();
    match perform(&args) {
        Ok(exit) => exit,
        Err(error) if error.is::<PipeClosed>() => Exit::Done,
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(error) => explain_usage(&error),
            Err(error) => {
                word(format_args!("mapleaf: {}", causes(&error)));
                Exit::Trouble
            }
        },
    }
}

fn perform(args: &[OsString]) -> anyhow::Result<Exit> {
    let cli = parse(args)?;
    start_logging(&cli)?;
    survive_file_size_limits()?;
    dispatch(cli.command, args)
}

/// The table of commands and flags that help, completions and man pages are made
/// from.
fn table() -> clap::Command {
    // Values of variables are the reader's own, and may be long.
    let quiet = |command: clap::Command| command.mut_args(|arg| arg.hide_env_values(true));
    quiet(Cli::command()).mut_subcommands(quiet)
}

/// A file that would grow beyond `ulimit -f` is an error of the call that is told
/// like any other, not a death by signal.
fn survive_file_size_limits() -> anyhow::Result<()> {
    // A handler of any kind keeps the signal from killing; nobody reads the flag.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default())
        .context("cannot prepare for signals")?;
    Ok(())
}

/// Reads flags, variables and the settings file.
fn parse(args: &[OsString]) -> anyhow::Result<Cli> {
    let mut command = table();
    if let Some(path) = config::path_of(&command, args) {
        command = config::apply(command, &path)?;
    }
    let matches = command.try_get_matches_from_mut(args)?;
    Ok(Cli::from_arg_matches(&matches)?)
}

fn start_logging(cli: &Cli) -> anyhow::Result<()> {
    let usual = match cli.command {
        Command::Serve(_) => "info",
        _ => "warn",
    };
    let format = match cli.common.log_json {
        true => LogFormat::Json,
        false => LogFormat::Text,
    };
    logging::start(cli.common.log.as_deref().unwrap_or(usual), format)
}

fn dispatch(command: Command, args: &[OsString]) -> anyhow::Result<Exit> {
    match command {
        Command::Create(args) => create::create(&args),
        Command::Serve(serve) => serve::serve(&serve, rereading(args)),
        Command::Report(args) => report::report(&args),
        Command::Mirror(args) => mirror::mirror(&args),
        Command::Watch(args) => watch::watch(&args),
        Command::Agent(args) => agent::agent(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Completions(args) => shell::completions(&args, table()),
        Command::Man(args) => shell::man(&args, table()),
    }
}

/// What the settings of `serve` are when they are read again.
fn rereading(args: &[OsString]) -> impl Fn() -> anyhow::Result<serve::ServeArgs> + Send + 'static {
    let args = args.to_owned();
    move || match parse(&args)?.command {
        Command::Serve(serve) => Ok(serve),
        _ => anyhow::bail!("the arguments do not name serve any more"),
    }
}

/// Help and version are data; everything else that clap says is one line.
fn explain_usage(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => Exit::Done,
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done,
            Err(_) => Exit::Trouble,
        };
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        word(error.render());
        return Exit::Trouble;
    }
    word(format_args!("mapleaf: {}", usage_line(error)));
    Exit::Trouble
}

#[cfg(test)]
mod tests {
    use clap::Command as ClapCommand;

    use super::*;

    fn usage(args: &[&str]) -> String {
        let error = table().try_get_matches_from(args).unwrap_err();
        assert!(error.use_stderr());
        usage_line(&error)
    }

    #[test]
    fn the_table_of_flags_is_sound() {
        table().debug_assert();
    }

    #[test]
    fn each_command_has_an_example_and_each_option_a_sentence() {
        for command in table().get_subcommands() {
            let name = command.get_name();
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(example.contains(&format!("mapleaf {name}")), "{name} has no example");
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{name}: {} has no help", arg.get_id());
            }
        }
    }

    #[test]
    fn variables_are_named_like_their_options() {
        let command = table();
        let all = command.get_subcommands().flat_map(ClapCommand::get_arguments);
        for arg in all.chain(command.get_arguments()) {
            let Some(variable) = arg.get_env() else { continue };
            let long = arg.get_long().unwrap().to_uppercase().replace('-', "_");
            assert_eq!(variable.to_str().unwrap(), format!("MAPLEAF_{long}"));
        }
    }

    #[test]
    fn a_usage_that_is_not_understood_is_one_line() {
        for args in [&["mapleaf", "sevre"][..], &["mapleaf", "man"], &["mapleaf", "man", "--x"]] {
            let line = usage(args);
            assert!(!line.contains('\n') && !line.contains("Usage:"), "{line}");
            assert!(line.ends_with("see --help"), "{line}");
        }
        assert!(usage(&["mapleaf", "sevre"]).contains("sevre"));
    }
}
