//! What the `mapleaf` command does with its arguments.

mod config;
mod exit;
mod logging;
mod output;
mod parse;
mod shell;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap::Command as ClapCommand;
use clap::CommandFactory;
use clap::FromArgMatches;
use clap::Parser;
use clap::Subcommand;
use clap::builder::BoolishValueParser;

use crate::cli::exit::Exit;
use crate::cli::logging::LogFormat;
use crate::cli::output::PipeClosed;
use crate::cli::output::word;

/// Keeps many replicas of one live state table equal to it, over UDP.
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
                word(format_args!("mapleaf: {}", one_line(&format!("{error:#}"))));
                Exit::Trouble
            }
        },
    }
}

fn perform(args: &[OsString]) -> anyhow::Result<Exit> {
    let mut command = Cli::command();
    if let Some(path) = config::path_of(&command, args) {
        command = config::apply(command, &path)?;
    }
    let matches = command.try_get_matches_from_mut(args)?;
    let cli = Cli::from_arg_matches(&matches)?;
    start_logging(&cli)?;
    dispatch(cli.command)
}

fn start_logging(cli: &Cli) -> anyhow::Result<()> {
    let usual = "warn";
    let format = match cli.common.log_json {
        true => LogFormat::Json,
        false => LogFormat::Text,
    };
    logging::start(cli.common.log.as_deref().unwrap_or(usual), format)
}

fn dispatch(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Completions(args) => shell::completions(&args, Cli::command()),
        Command::Man(args) => shell::man(&args, Cli::command()),
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
    word(format_args!("mapleaf: {}", usage_line(&error.render().to_string())));
    Exit::Trouble
}

/// clap's paragraphs as one line, without the usage that `--help` shows better.
fn usage_line(rendered: &str) -> String {
    let told = rendered.split("\n\n").filter(|part| {
        !part.starts_with("Usage:") && !part.starts_with("For more information")
    });
    let told: Vec<String> = told.map(one_line).collect();
    let line = told.join("; ");
    format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(&line))
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(args: &[&str]) -> String {
        let error = Cli::command().try_get_matches_from(args).unwrap_err();
        assert!(error.use_stderr());
        usage_line(&error.render().to_string())
    }

    #[test]
    fn the_table_of_flags_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_command_has_an_example_and_each_option_a_sentence() {
        for command in Cli::command().get_subcommands() {
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
        let command = Cli::command();
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
