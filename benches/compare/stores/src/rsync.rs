//! rsync between two files of the table, values one behind the other.
//!
//! The receiving rsync starts the sending one by what it takes for a remote shell: a script
//! that drops the host and becomes the rest. Between them are pipes.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use anyhow::Context as _;

use crate::deltas::Copies;
use crate::deltas::Table;
use crate::deltas::Took;
use crate::store::VALUE;

pub struct Rsync {
    server: PathBuf,
    replica: PathBuf,
    shell: PathBuf,
    table: Table,
    block: Option<usize>,
}

impl Rsync {
    pub fn start(folder: &Path, table: Table, block: Option<usize>) -> anyhow::Result<Rsync> {
        let [server, replica, shell] = ["server", "replica", "shell"].map(|name| folder.join(name));
        fs::write(&server, table.values())?;
        fs::write(&replica, table.values())?;
        fs::write(&shell, "shift\nexec \"$@\"\n")?;
        Ok(Rsync { server, replica, shell, table, block })
    }
}

impl Copies for Rsync {
    fn change(&mut self, leaves: &[u32]) -> anyhow::Result<()> {
        let file = File::options().write(true).open(&self.server)?;
        for leaf in leaves {
            self.table.change(*leaf);
            file.write_all_at(self.table.value(*leaf), u64::from(*leaf) * VALUE as u64)?;
        }
        Ok(())
    }

    fn repair(&mut self) -> anyhow::Result<Took> {
        let mut command = Command::new("rsync");
        command.args(["--inplace", "--no-whole-file", "--ignore-times", "--stats"]);
        // Numbers without separators; what a user has set is nobody's business here.
        command.arg("--no-human-readable").env_remove("RSYNC_RSH").env("LC_ALL", "C");
        command.args(self.block.map(|block| format!("--block-size={block}")));
        command.args(["--rsh", &format!("sh {}", self.shell.display())]);
        command.arg(format!("localhost:{}", self.server.display())).arg(&self.replica);
        let begun = Instant::now();
        let output = command.stdin(Stdio::null()).output().context("cannot start rsync")?;
        let whole = begun.elapsed();
        let told = String::from_utf8_lossy(&output.stdout);
        let words = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "rsync: {}: {}", output.status, words.trim());
        let bytes = |name: &str| stated(&told, name).with_context(|| format!("no {name}"));
        let (up, down) = (bytes("Total bytes sent")?, bytes("Total bytes received")?);
        Ok(Took { whole, linked: None, up, down })
    }

    fn verify(&mut self) -> anyhow::Result<()> {
        let found = fs::read(&self.replica)?;
        anyhow::ensure!(found == self.table.values(), "the files differ");
        Ok(())
    }
}

/// A number of `--stats`.
fn stated(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.replace(',', "").parse().ok()
}

/// The installed one's.
pub fn version() -> anyhow::Result<String> {
    let output = Command::new("rsync").arg("--version").output();
    let output = output.context("rsync is not installed")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace().skip_while(|word| *word != "version").skip(1);
    Ok(words.next().context("rsync does not say its version")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read() {
        let text = "Number of files: 1\nTotal bytes sent: 60,115\nTotal bytes received: 2057\n";
        assert_eq!(stated(text, "Total bytes sent"), Some(60_115));
        assert_eq!(stated(text, "Total bytes received"), Some(2_057));
        assert_eq!(stated(text, "Total bytes"), None);
    }
}
