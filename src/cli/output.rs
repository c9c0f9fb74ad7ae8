//! Stdout for data, stderr for words.
//!
//! A reader that goes away (`| head`) is no error: the command ends with 0.

use core::fmt;
use std::io;
use std::io::BufWriter;
use std::io::IsTerminal;
use std::io::StdoutLock;
use std::io::Write;

/// The reader of stdout went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PipeClosed;

impl fmt::Display for PipeClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of stdout went away")
    }
}

impl std::error::Error for PipeClosed {}

/// Stdout, buffered.
pub(crate) struct Output {
    to: BufWriter<StdoutLock<'static>>,
}

impl Output {
    /// Stdout of this process.
    pub(crate) fn stdout() -> Output {
        Output { to: BufWriter::new(io::stdout().lock()) }
    }

    /// Writes a line; [`Output::flush`] shows it.
    ///
    /// # Errors
    ///
    /// [`PipeClosed`], or whatever else the system says.
    pub(crate) fn line(&mut self, line: impl fmt::Display) -> anyhow::Result<()> {
        writeln!(self.to, "{line}").map_err(explain)
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    ///
    /// As [`Output::line`].
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.to.write_all(bytes).map_err(explain)
    }

    /// Hands on what was written.
    ///
    /// # Errors
    ///
    /// As [`Output::line`].
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        self.to.flush().map_err(explain)
    }
}

/// Writes one line to stdout at once.
///
/// # Errors
///
/// As [`Output::line`].
pub(crate) fn say(line: impl fmt::Display) -> anyhow::Result<()> {
    let mut output = Output::stdout();
    output.line(line)?;
    output.flush()
}

fn explain(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => PipeClosed.into(),
        _ => anyhow::Error::new(error).context("cannot write to stdout"),
    }
}

/// Writes one line of words to stderr.
pub(crate) fn word(line: impl fmt::Display) {
    // Nobody is left to be told when stderr is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether something is painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// For a terminal.
    Colour,
    /// For everything else, and for those who set `NO_COLOR`.
    Plain,
}

impl Paint {
    /// How stdout is written.
    pub(crate) fn of_stdout() -> Paint {
        Paint::of(io::stdout().is_terminal())
    }

    /// How stderr is written.
    pub(crate) fn of_stderr() -> Paint {
        Paint::of(io::stderr().is_terminal())
    }

    fn of(terminal: bool) -> Paint {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match terminal && !unwanted {
            true => Paint::Colour,
            false => Paint::Plain,
        }
    }

    /// The text in an ANSI colour.
    pub(crate) fn with(self, colour: u8, text: &str) -> String {
        match self {
            Paint::Colour => format!("\x1b[{colour}m{text}\x1b[0m"),
            Paint::Plain => text.to_owned(),
        }
    }
}

/// ANSI colours.
pub(crate) mod colour {
    /// Names.
    pub(crate) const CYAN: u8 = 36;
    /// What matters less.
    pub(crate) const DIM: u8 = 2;
    /// Well.
    pub(crate) const GREEN: u8 = 32;
    /// Not well.
    pub(crate) const RED: u8 = 31;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_closed_pipe_is_no_error() {
        let closed = explain(io::ErrorKind::BrokenPipe.into());
        assert!(closed.is::<PipeClosed>());
        assert!(!explain(io::ErrorKind::StorageFull.into()).is::<PipeClosed>());
    }

    #[test]
    fn plain_text_has_no_escapes() {
        assert_eq!(Paint::Plain.with(colour::RED, "no"), "no");
        assert_eq!(Paint::Colour.with(colour::RED, "no"), "\x1b[31mno\x1b[0m");
    }
}
