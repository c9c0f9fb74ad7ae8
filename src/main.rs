//! The `mapleaf` command.
//!
//! Data goes to stdout, words to stderr; the exit status is 0 (done), 1 (the
//! answer is no) or 2 (usage or trouble).

mod cli;

fn main() -> std::process::ExitCode {
    cli::run(std::env::args_os()).into()
}
