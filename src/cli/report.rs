//! `mapleaf report`: one device's reports.

use core::fmt;
use core::time::Duration;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::Context;
use anyhow::bail;
use clap::ArgGroup;
use clap::Args;

use mapleaf::layout::DataLocId;
use mapleaf::layout::limits::CAPACITY_MAX;
use mapleaf::runtime::Control;
use mapleaf::runtime::LayoutPull;
use mapleaf::runtime::Refusal;
use mapleaf::runtime::Reporter;
use mapleaf::runtime::ReporterError;
use mapleaf::runtime::ReporterOptions;
use mapleaf::tree::Field;
use mapleaf::tree::Layout;
use mapleaf::tree::encode_fields;
use mapleaf::tree::printable;

use crate::cli::exit::Exit;
use crate::cli::lines::Lines;
use crate::cli::lines::assigned;
use crate::cli::lines::check_size;
use crate::cli::lines::leaf_at;
use crate::cli::lines::read_line;
use crate::cli::lines::whole;
use crate::cli::output::word;
use crate::cli::parse;
use crate::cli::parse::Address;

/// Options of `mapleaf report`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("place").args(["leaf", "path"]))]
#[command(group = ArgGroup::new("content").args(["data", "hex", "file", "field"]))]
#[command(override_usage = "mapleaf report [OPTIONS] <ADDR> (--leaf <ID> | --path <PATH>) \
    (--data <TEXT> | --hex <HEX> | --file <FILE> | --field <NAME=VALUE>...)\n       \
    mapleaf report [OPTIONS] <ADDR> --json-lines")]
#[command(
    after_help = "Ends when every report is acknowledged. JSON Lines name a leaf by leaf or \
    path, and its\nData by data (text), hex or fields:\n  \
    {\"leaf\":12,\"hex\":\"00ff\"}\n  {\"path\":\"/a/b\",\"data\":\"text\"}\n  \
    {\"path\":\"/a/b\",\"fields\":{\"temp\":21.5}}\n\
    Fields are set on top of what this process last sent for the leaf, zeros at first. A line\n\
    that is not understood is named, the others go on, and the exit status is 2.\n\n\
    Examples:\n  \
    mapleaf report 127.0.0.1:4720 --path /site/rack1/port7 --field up=true --field speed=1000\n  \
    mapleaf report 127.0.0.1:4720 --leaf 12 --hex 00ff"
)]
pub(crate) struct ReportArgs {
    /// Address of the server
    addr: Address,
    /// DataLocID of the leaf, counted from 0
    #[arg(long, value_name = "ID", requires = "content")]
    leaf: Option<u32>,
    /// Path of the leaf, such as /site/rack1/port7
    #[arg(long, value_name = "PATH", requires = "content")]
    path: Option<String>,
    /// Data as text
    #[arg(long, value_name = "TEXT", requires = "place", allow_hyphen_values = true)]
    data: Option<String>,
    /// Data as hex digits, such as 00ff
    #[arg(long, value_name = "HEX", requires = "place", value_parser = Bytes::parse)]
    hex: Option<Bytes>,
    /// Data is what this file holds
    #[arg(long, value_name = "FILE", requires = "place")]
    file: Option<PathBuf>,
    /// One field of the leaf, such as temp=21.5; may be repeated. Fields that are not
    /// named are zeros
    #[arg(long, value_name = "NAME=VALUE", requires = "place", allow_hyphen_values = true)]
    field: Vec<String>,
    /// Read reports from stdin, one JSON object a line
    #[arg(long, conflicts_with_all = ["place", "content"])]
    json_lines: bool,
    /// Time to be let in, and for each wait for an acknowledgement
    #[arg(long, env = "MAPLEAF_TIMEOUT", value_name = "TIME", default_value = "5s",
        value_parser = parse::positive_duration)]
    timeout: Duration,
}

/// Bytes of one option.
#[derive(Clone, Debug)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn parse(text: &str) -> Result<Bytes, String> {
        parse::hex(text).map(Bytes)
    }
}

/// Lines that wait for the network: a few, so that a fast writer is slowed down.
const LINES_WAITING: usize = 64;

/// Longest wait for a line, so that the session is kept alive between lines.
const LINE_WAIT: Duration = Duration::from_millis(50);

/// Wait for an acknowledgement between two looks at the lines.
const ACK_WAIT: Duration = Duration::from_millis(2);

impl ReportArgs {
    fn options(&self, layout: LayoutPull) -> anyhow::Result<ReporterOptions> {
        let mut options = ReporterOptions::new(self.addr.resolve()?);
        options.layout = layout;
        options.connect_timeout = self.timeout;
        options.report_timeout = self.timeout;
        Ok(options)
    }

    /// What `--data`, `--hex`, `--file` or `--field` say. A file is read no further
    /// than a leaf could hold.
    fn content(&self) -> anyhow::Result<Content<'_>> {
        Ok(match (&self.data, &self.hex, &self.file) {
            (Some(text), _, _) => Content::Text(text),
            (_, Some(bytes), _) => Content::Bytes(bytes.0.clone()),
            (_, _, Some(path)) => {
                let bytes = read_file(path);
                let failed = || format!("--file: cannot read {}", path.display());
                Content::Bytes(bytes.with_context(failed)?)
            }
            (None, None, None) => Content::Fields(&self.field),
        })
    }

    /// Paths and fields are the layout's; a DataLocID needs none.
    fn pull(&self) -> LayoutPull {
        match self.path.is_some() || !self.field.is_empty() {
            true => LayoutPull::Pull,
            false => LayoutPull::Skip,
        }
    }
}

/// What a report from flags is to hold.
enum Content<'a> {
    Text(&'a str),
    Bytes(Vec<u8>),
    /// `NAME=VALUE` each.
    Fields(&'a [String]),
}

impl Content<'_> {
    fn data(&self, fields: &[Field]) -> anyhow::Result<Vec<u8>> {
        match self {
            Content::Bytes(bytes) => Ok(bytes.clone()),
            Content::Text(text) => Ok(text.as_bytes().to_vec()),
            Content::Fields(texts) => {
                let values = texts.iter().map(|text| assigned(fields, text));
                let values = values.collect::<anyhow::Result<Vec<_>>>().context("--field")?;
                Ok(encode_fields(fields, &whole(fields, &[]), values)?)
            }
        }
    }

    /// Says that text is seldom what a leaf with fields is to hold.
    fn warn(&self, leaf: DataLocId, fields: &[Field]) {
        if !matches!(self, Content::Text(_)) || fields.is_empty() {
            return;
        }
        let names: Vec<&str> = fields.iter().map(|field| &*field.name).collect();
        let names = printable(names.join(", ").as_bytes());
        word(format_args!(
            "mapleaf: leaf {leaf} has fields, and --data was written over them byte by byte; \
             --field sets one of {names}"
        ));
    }
}

fn read_file(path: &PathBuf) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    // One byte more than fits shows that it does not fit.
    fs::File::open(path)?.take(CAPACITY_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reports, and ends when everything is acknowledged.
pub(crate) fn report(args: &ReportArgs) -> anyhow::Result<Exit> {
    let control =
        Control::new().and_then(Control::with_signals).context("cannot prepare for signals")?;
    let sent = match args.json_lines {
        true => report_lines(args, control),
        false => report_one(args, control),
    };
    match sent {
        Err(error) if is_stop(&error) => Ok(Exit::Done),
        other => other,
    }
}

/// Whether a signal asked for the end.
pub(crate) fn is_stop(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ReporterError::Stopped))
}

fn report_one(args: &ReportArgs, control: Control) -> anyhow::Result<Exit> {
    if args.leaf.is_none() && args.path.is_none() {
        bail!("name the leaf by --leaf ID or --path PATH, or send reports by --json-lines");
    }
    let content = args.content()?;
    let mut reporter = Reporter::connect_with(args.options(args.pull())?, control)?;
    let leaf = match (args.leaf, &args.path) {
        (Some(leaf), _) => DataLocId(leaf),
        (None, Some(path)) => leaf_at(layout_of(&reporter)?, path)?,
        (None, None) => bail!("wanted a leaf"),
    };
    let fields = reporter.layout().map_or(&[][..], |layout| layout.fields_of(leaf)).to_vec();
    let data = content.data(&fields)?;
    if let Some(layout) = reporter.layout() {
        check_size(leaf, data.len(), layout)?;
    }
    reporter.report(leaf, &data)?;
    reporter.flush(args.timeout)?;
    let exit = told(&mut reporter);
    if exit == Exit::Done {
        content.warn(leaf, &fields);
    }
    reporter.close();
    Ok(exit)
}

/// The layout, which was asked for.
pub(crate) fn layout_of(reporter: &Reporter) -> anyhow::Result<&Layout> {
    reporter.layout().context("the server sent no layout")
}

/// Says which leaves were refused.
pub(crate) fn told(reporter: &mut Reporter) -> Exit {
    let refusals = reporter.refusals();
    for refusal in &refusals {
        word(format_args!("mapleaf: {}", Shown(refusal)));
    }
    if refusals.is_empty() { Exit::Done } else { Exit::Trouble }
}

/// A refusal as one line.
struct Shown<'a>(&'a Refusal);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use mapleaf::wire::RefusalReason;
        let Refusal { leaf, reason, detail } = self.0;
        write!(f, "leaf {leaf} was refused: ")?;
        match reason {
            RefusalReason::UnknownLeaf => write!(f, "no such leaf; the tree has {detail}"),
            RefusalReason::TooLarge => write!(f, "it holds at most {detail} bytes"),
            reason => write!(f, "{reason:?} ({detail})"),
        }
    }
}

fn report_lines(args: &ReportArgs, control: Control) -> anyhow::Result<Exit> {
    let mut reporter = Reporter::connect_with(args.options(LayoutPull::Pull)?, control)?;
    let input = read_stdin()?;
    let mut lines = Lines::default();
    let mut exit = Exit::Done;
    let mut number = 0_u64;
    while let Some(line) = next_line(&input, &mut reporter)? {
        number += 1;
        let line = line?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if let Err(error) = report_line(&mut reporter, &mut lines, &line) {
            if error.is::<ReporterError>() && !is_too_large(&error) {
                return Err(error);
            }
            word(format_args!("mapleaf: line {number}: {error:#}"));
            exit = Exit::Trouble;
        }
        if told(&mut reporter) != Exit::Done {
            exit = Exit::Trouble;
        }
    }
    reporter.flush(args.timeout)?;
    let refused = told(&mut reporter);
    reporter.close();
    Ok(if refused == Exit::Done { exit } else { refused })
}

/// Whether it is the line that is at fault, not the way to the server.
fn is_too_large(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ReporterError::TooLarge { .. }))
}

fn report_line(reporter: &mut Reporter, lines: &mut Lines, line: &[u8]) -> anyhow::Result<()> {
    let (leaf, data) = lines.read(line, layout_of(reporter)?)?;
    Ok(reporter.report(leaf, &data)?)
}

/// Reads stdin in a thread of its own: a writer may pause for longer than the
/// session would live.
fn read_stdin() -> anyhow::Result<Receiver<anyhow::Result<Vec<u8>>>> {
    let (sender, receiver) = sync_channel(LINES_WAITING);
    let read = move || {
        let mut input = io::stdin().lock();
        let mut line = Vec::new();
        loop {
            let item = match read_line(&mut input, &mut line) {
                Ok(true) => Ok(line.clone()),
                Ok(false) => return,
                Err(error) => Err(error),
            };
            let failed = item.is_err();
            if sender.send(item).is_err() || failed {
                return;
            }
        }
    };
    thread::Builder::new().name("stdin".to_owned()).spawn(read).context("cannot read stdin")?;
    Ok(receiver)
}

/// The next line, while the session is kept alive; nothing at the end.
fn next_line(
    input: &Receiver<anyhow::Result<Vec<u8>>>,
    reporter: &mut Reporter,
) -> anyhow::Result<Option<anyhow::Result<Vec<u8>>>> {
    loop {
        let wait = if reporter.is_idle() { LINE_WAIT } else { Duration::ZERO };
        match input.recv_timeout(wait) {
            Ok(line) => return Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                let wait = if reporter.is_idle() { Duration::ZERO } else { ACK_WAIT };
                reporter.poll(wait)?;
            }
        }
    }
}
