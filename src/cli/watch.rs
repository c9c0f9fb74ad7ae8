//! `mapleaf watch`: prints changes as they arrive.

use core::ops::ControlFlow;
use core::time::Duration;
use std::net::SocketAddr;
use std::time::Instant;
use std::time::SystemTime;

use anyhow::Context;
use clap::Args;
use clap::builder::BoolishValueParser;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Revision;
use mapleaf::runtime;
use mapleaf::runtime::Changes;
use mapleaf::runtime::Control;
use mapleaf::runtime::MirrorObserver;
use mapleaf::runtime::MirrorOptions;
use mapleaf::runtime::MirrorStatus;
use mapleaf::sync::Joined;
use mapleaf::tree::Tree;

use crate::cli::exit::Exit;
use crate::cli::output::Output;
use crate::cli::output::Paint;
use crate::cli::output::word;
use crate::cli::parse;
use crate::cli::parse::Address;
use crate::cli::show::Change;

/// Options of `mapleaf watch`.
#[derive(Debug, Args)]
#[command(
    after_help = "One line a change: UTC time, path, revision, and the fields of the schema \
    with their\nunits, or text or hex where there are none. What changed before the start is not \
    shown;\nseveral changes of a leaf within a period are one.\n\n\
    Example:\n  mapleaf watch 127.0.0.1:4720 --path /site/rack1 --count 10 --json"
)]
pub(crate) struct WatchArgs {
    /// Address of the server or relay
    addr: Address,
    /// Only the leaves below this parent, such as /site/rack1 [default: all]
    #[arg(long, env = "MAPLEAF_PATH", value_name = "PARENT")]
    path: Option<String>,
    /// End after so many changes [default: never]
    #[arg(long, env = "MAPLEAF_COUNT", value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// JSON Lines: time, data_loc_id, path, data_size, revision, checksum, data (hex), fields
    #[arg(long, env = "MAPLEAF_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    /// Time to be let in [default: for ever]
    #[arg(long, env = "MAPLEAF_TIMEOUT", value_name = "TIME",
        value_parser = parse::positive_duration)]
    timeout: Option<Duration>,
}

/// A lone change is shown at once, those of a burst at the latest with the next
/// call for progress: a write for each would slow the loop down.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);

/// How a change is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Text(Paint),
    Json,
}

/// Watches until so many changes were seen, or a signal comes.
pub(crate) fn watch(args: &WatchArgs) -> anyhow::Result<Exit> {
    let control =
        Control::new().and_then(Control::with_signals).context("cannot prepare for signals")?;
    let mut options = MirrorOptions::new(args.addr.resolve()?);
    options.filter = args.path.clone().unwrap_or_default();
    options.connect_timeout = args.timeout;
    let style = if args.json { Style::Json } else { Style::Text(Paint::of_stdout()) };
    let mut printer = Printer::new(options.server, style, args.count);
    runtime::mirror(options, control, &mut printer)?;
    printer.trouble.map_or(Ok(Exit::Done), Err)
}

/// Prints what changed after the start.
struct Printer {
    server: SocketAddr,
    output: Output,
    style: Style,
    left: Option<u64>,
    start: Option<Revision>,
    flushed: Instant,
    data: Vec<u8>,
    trouble: Option<anyhow::Error>,
}

impl Printer {
    fn new(server: SocketAddr, style: Style, left: Option<u64>) -> Printer {
        Printer {
            server,
            output: Output::stdout(),
            style,
            left,
            start: None,
            flushed: Instant::now(),
            data: Vec::new(),
            trouble: None,
        }
    }

    fn print(&mut self, tree: &Tree, leaf: DataLocId) -> anyhow::Result<()> {
        let mut data = core::mem::take(&mut self.data);
        if let Some(head) = tree.read(leaf, &mut data) {
            let time = SystemTime::now();
            let change = Change { time, layout: tree.layout(), head, data: &data };
            match self.style {
                Style::Text(paint) => self.output.line(change.text(paint))?,
                Style::Json => self.output.line(serde_json::to_string(&change.json())?)?,
            }
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
        self.data = data;
        match self.left == Some(0) || self.flushed.elapsed() >= FLUSH_INTERVAL {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.flushed = Instant::now();
        self.output.flush()
    }

    fn fail(&mut self, error: anyhow::Error) -> ControlFlow<()> {
        self.trouble = Some(error);
        ControlFlow::Break(())
    }
}

impl MirrorObserver for Printer {
    fn changes(&self) -> Changes {
        Changes::Wanted
    }

    fn joined(&mut self, joined: &Joined) {
        if self.start.is_none() {
            self.start = Some(joined.watermark);
            word(format_args!("watching {} from revision {}", self.server, joined.watermark));
        }
    }

    fn progress(&mut self, _status: &MirrorStatus, _tree: Option<&Tree>) {
        // A reader that went away is noticed at the next change.
        let _ = self.flush();
    }

    fn changed(&mut self, tree: &Tree, leaf: DataLocId) -> ControlFlow<()> {
        // The first copy brings what is older than the start.
        if self.start.is_some_and(|start| tree.revision(leaf) <= start) {
            return ControlFlow::Continue(());
        }
        match (self.print(tree, leaf), self.left) {
            (Err(error), _) => self.fail(error),
            (Ok(()), Some(0)) => ControlFlow::Break(()),
            (Ok(()), _) => ControlFlow::Continue(()),
        }
    }

    fn rejoining(&mut self) {
        word(format_args!("{} fell silent or ended the session: joining again", self.server));
    }
}
