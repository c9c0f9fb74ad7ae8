//! How the commands of this folder end: with a status, and one line if something went
//! wrong. Each is built from this file, as from `words`.

use std::io;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::words::causes;
use crate::words::usage_line;

/// Exit status of usage errors and of trouble.
const TROUBLE: u8 = 2;

/// Says what went wrong, in one line that begins with the name of the tool.
pub(crate) fn explain(tool: &str, error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<clap::Error>() {
        Some(error) => explain_usage(tool, error),
        None => {
            word(&format!("{tool}: {}", causes(error)));
            ExitCode::from(TROUBLE)
        }
    }
}

/// Help and version are data; everything else that clap says is one line.
fn explain_usage(tool: &str, error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(TROUBLE),
            _ => ExitCode::SUCCESS,
        };
    }
    match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => word(&error.render().to_string()),
        _ => word(&format!("{tool}: {}", usage_line(error))),
    }
    ExitCode::from(TROUBLE)
}

/// Writes one line of words to stderr.
pub(crate) fn word(line: &str) {
    // Nobody is left to be told when stderr is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

/// What the table of flags of each tool promises: it is sound, each command that is
/// shown has an example, and each of its options a sentence.
#[cfg(test)]
pub(crate) fn assert_explained(table: clap::Command) {
    table.clone().debug_assert();
    let tool = table.get_name();
    for command in table.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(example.contains(&format!("{tool} {name}")), "{name} has no example");
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{name}: {} has no help", arg.get_id());
        }
    }
}
