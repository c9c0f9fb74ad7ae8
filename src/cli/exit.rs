//! How the command ends.

use std::process::ExitCode;

/// What the exit status says to a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The work is done, or a signal asked for the end.
    Done,
    /// The work is done and the answer is no: not in sync in time, or not equal.
    No,
    /// A usage that is not understood, or something went wrong.
    Trouble,
}

impl Exit {
    /// The status of the process.
    pub(crate) const fn status(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::No => 1,
            Exit::Trouble => 2,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_rely_on_these_numbers() {
        assert_eq!([Exit::Done, Exit::No, Exit::Trouble].map(Exit::status), [0, 1, 2]);
    }
}
