//! `mapleaf agent`: a device that reports this machine's network interfaces.

use core::ops::Range;
use core::time::Duration;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use clap::Args;
use clap::builder::BoolishValueParser;

use mapleaf::layout::DataLocId;
use mapleaf::layout::LayoutHash;
use mapleaf::layout::ParentId;
use mapleaf::runtime;
use mapleaf::runtime::Control;
use mapleaf::runtime::LayoutPull;
use mapleaf::runtime::MirrorEnd;
use mapleaf::runtime::MirrorObserver;
use mapleaf::runtime::MirrorOptions;
use mapleaf::runtime::MirrorUntil;
use mapleaf::runtime::Reporter;
use mapleaf::runtime::ReporterOptions;
use mapleaf::tree::Layout;
use mapleaf::tree::Tree;

use crate::cli::exit::Exit;
use crate::cli::interfaces::Interface;
use crate::cli::interfaces::SYS_CLASS_NET;
use crate::cli::interfaces::read_interfaces;
use crate::cli::output::Output;
use crate::cli::output::word;
use crate::cli::parse;
use crate::cli::parse::Address;
use crate::cli::report::is_stop;
use crate::cli::report::layout_of;
use crate::cli::report::told;

/// A schema that fits what is reported.
pub(crate) const EXAMPLE_SCHEMA: &str = include_str!("../../examples/interfaces.toml");

/// Options of `mapleaf agent`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each interface has a leaf of the parent: the one of its name, or else the \
    next free one.\nFields are filled by their names: name, index, state, mtu, speed_mbps, mac, \
    carrier, type,\nflags, and those of /sys/class/net/*/statistics, such as rx_bytes. Fields \
    that the parent\nlacks are skipped, other fields are not touched, and only leaves that \
    changed are reported.\n\n\
    Examples:\n  mapleaf agent --print-schema > interfaces.toml\n  \
    mapleaf agent 127.0.0.1:4720 --parent /host/interfaces --interval 5s"
)]
pub(crate) struct AgentArgs {
    /// Address of the server
    #[arg(required_unless_present = "print_schema")]
    addr: Option<Address>,
    /// Parent whose leaves are the interfaces: its name, or its path
    #[arg(long, env = "MAPLEAF_PARENT", value_name = "NAME")]
    parent: Option<String>,
    /// Time between two looks at the interfaces
    #[arg(long, env = "MAPLEAF_INTERVAL", value_name = "TIME", default_value = "1s",
        value_parser = parse::positive_duration)]
    interval: Duration,
    /// End after so many looks [default: never]
    #[arg(long, env = "MAPLEAF_COUNT", value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Time to be let in, and for each wait for an acknowledgement
    #[arg(long, env = "MAPLEAF_TIMEOUT", value_name = "TIME", default_value = "5s",
        value_parser = parse::positive_duration)]
    timeout: Duration,
    /// Print a schema that fits, and end
    #[arg(long, value_parser = BoolishValueParser::new())]
    print_schema: bool,
}

/// Reports until so many looks were taken, or a signal comes.
pub(crate) fn agent(args: &AgentArgs) -> anyhow::Result<Exit> {
    if args.print_schema {
        let mut output = Output::stdout();
        output.bytes(EXAMPLE_SCHEMA.as_bytes())?;
        output.flush()?;
        return Ok(Exit::Done);
    }
    match run(args) {
        Err(error) if is_stop(&error) => Ok(Exit::Done),
        other => other,
    }
}

fn run(args: &AgentArgs) -> anyhow::Result<Exit> {
    let server = args.addr.as_ref().context("name the server's address")?.resolve()?;
    let parent = args.parent.as_deref().context("name the parent: --parent NAME")?;
    let mut options = ReporterOptions::new(server);
    options.layout = LayoutPull::Pull;
    options.connect_timeout = args.timeout;
    options.report_timeout = args.timeout;
    let mut reporter = Reporter::connect_with(options, control()?)?;
    let path = parent_path(layout_of(&reporter)?, parent)?;
    let Some(held) = held_leaves(server, &path, args.timeout)? else { return Ok(Exit::Done) };
    let mut agent = Agent { path, held, places: Places::default() };
    agent.run(args, &mut reporter)?;
    let exit = told(&mut reporter);
    reporter.close();
    Ok(exit)
}

fn control() -> anyhow::Result<Control> {
    Control::new().and_then(Control::with_signals).context("cannot prepare for signals")
}

/// What the leaves of a parent hold at the server, by their names; nothing if a
/// signal came meanwhile.
fn held_leaves(
    server: SocketAddr,
    path: &str,
    timeout: Duration,
) -> anyhow::Result<Option<BTreeMap<String, Vec<u8>>>> {
    let mut held = Held { path: path.to_owned(), leaves: BTreeMap::new() };
    let mut options = MirrorOptions::new(server);
    options.filter = path.to_owned();
    options.until = MirrorUntil::InSync;
    options.connect_timeout = Some(timeout);
    options.run_for = Some(timeout);
    match runtime::mirror(options, control()?, &mut held)?.end {
        MirrorEnd::Stopped => Ok(None),
        MirrorEnd::InSync => Ok(Some(held.leaves)),
        _ => bail!("cannot read what {path} holds: not in sync in {timeout:?}"),
    }
}

/// The path of the parent with this path or, if there is one alone, this name.
fn parent_path(layout: &Layout, parent: &str) -> anyhow::Result<String> {
    if layout.parent_at(parent).is_some() && parent.starts_with('/') {
        return Ok(parent.to_owned());
    }
    let rows = layout.parents().iter().filter(|row| row.name() == Some(parent));
    let paths: Vec<String> =
        rows.filter_map(|row| layout.parent_path(ParentId(row.parent_id.get()))).collect();
    match paths.as_slice() {
        [path] => Ok(path.clone()),
        [] => bail!("--parent: the tree has no parent {parent:?}"),
        several => bail!("--parent: {parent:?} may be any of {}", several.join(", ")),
    }
}

/// Learns what the leaves hold, so that fields of others stay as they are.
struct Held {
    path: String,
    leaves: BTreeMap<String, Vec<u8>>,
}

impl MirrorObserver for Held {
    fn in_sync(&mut self, tree: &Tree) {
        let layout = tree.layout();
        let mut data = Vec::new();
        for leaf in own_leaves(layout, &self.path).map(DataLocId) {
            if let (Some(name), Some(_)) = (layout.leaf_name(leaf), tree.read(leaf, &mut data)) {
                self.leaves.insert(name, data.clone());
            }
        }
    }
}

/// The leaves that a parent owns itself.
fn own_leaves(layout: &Layout, path: &str) -> Range<u32> {
    let row = layout.parent_at(path).and_then(|id| layout.parent(id));
    row.map_or(0..0, |row| row.leaves())
}

struct Agent {
    path: String,
    /// Data by the name of the leaf: names last, DataLocIDs move when a tree grows.
    held: BTreeMap<String, Vec<u8>>,
    places: Places,
}

impl Agent {
    fn run(&mut self, args: &AgentArgs, reporter: &mut Reporter) -> anyhow::Result<()> {
        let mut looks = 0;
        loop {
            let next = Instant::now() + args.interval;
            self.look(reporter)?;
            told(reporter);
            looks += 1;
            if args.count.is_some_and(|count| looks >= count) {
                return Ok(reporter.flush(args.timeout)?);
            }
            while let Some(wait) = next.checked_duration_since(Instant::now()) {
                reporter.poll(wait)?;
            }
        }
    }

    /// Reports what changed since the last look.
    fn look(&mut self, reporter: &mut Reporter) -> anyhow::Result<()> {
        let interfaces = read_interfaces(Path::new(SYS_CLASS_NET))
            .with_context(|| format!("cannot read {SYS_CLASS_NET}"))?;
        let layout = layout_of(reporter)?;
        self.places.follow(layout, &self.path);
        self.places.assign(layout, &self.path, &interfaces);
        let mut changed = Vec::new();
        for interface in &interfaces {
            let Some(leaf) = self.places.of.get(&interface.name).copied() else { continue };
            let name = layout.leaf_name(leaf).unwrap_or_default();
            let held = self.held.get(&name).map_or(&[][..], Vec::as_slice);
            let data = filled(layout, leaf, interface, held)?;
            if data != held {
                changed.push((leaf, name, data));
            }
        }
        let known = layout.layout_hash();
        for (leaf, name, data) in changed {
            // The tree grew while a report waited: the next look finds the leaves anew.
            if layout_of(reporter)?.layout_hash() != known {
                break;
            }
            reporter.report(leaf, &data)?;
            self.held.insert(name, data);
        }
        Ok(())
    }
}

/// The Data of a leaf with the fields that the interface has.
fn filled(
    layout: &Layout,
    leaf: DataLocId,
    interface: &Interface,
    held: &[u8],
) -> anyhow::Result<Vec<u8>> {
    let mut data = held.to_vec();
    for field in layout.fields_of(leaf) {
        if let Some(value) = interface.value(field) {
            field.encode(&value, &mut data)?;
        }
    }
    Ok(data)
}

/// Which interface has which leaf.
#[derive(Debug, Default)]
struct Places {
    of: HashMap<String, DataLocId>,
    taken: BTreeSet<DataLocId>,
    leaves: Range<u32>,
    layout: Option<LayoutHash>,
    full: bool,
}

impl Places {
    /// Begins anew when the layout is another one.
    fn follow(&mut self, layout: &Layout, path: &str) {
        if self.layout != Some(layout.layout_hash()) {
            let leaves = own_leaves(layout, path);
            *self = Places { leaves, layout: Some(layout.layout_hash()), ..Places::default() };
        }
    }

    /// Gives every interface a leaf for as long as this process runs: first those
    /// that a leaf is named after, then the others the next free ones.
    fn assign(&mut self, layout: &Layout, path: &str, interfaces: &[Interface]) {
        let mut unnamed = Vec::new();
        for Interface { name, .. } in interfaces {
            if self.of.contains_key(name) {
                continue;
            }
            let named = layout.leaf_at(&format!("{path}/{name}"));
            match named.filter(|leaf| self.is_free(*leaf)) {
                Some(leaf) => self.give(name, leaf),
                None => unnamed.push(name),
            }
        }
        for name in unnamed {
            match self.leaves.clone().map(DataLocId).find(|leaf| self.is_free(*leaf)) {
                Some(leaf) => self.give(name, leaf),
                None => return self.warn(path, name),
            }
        }
    }

    fn is_free(&self, leaf: DataLocId) -> bool {
        !self.taken.contains(&leaf)
    }

    fn give(&mut self, name: &str, leaf: DataLocId) {
        self.taken.insert(leaf);
        self.of.insert(name.to_owned(), leaf);
    }

    /// Says once that there are not leaves enough.
    fn warn(&mut self, path: &str, name: &str) {
        if !self.full {
            self.full = true;
            word(format_args!(
                "mapleaf: more interfaces than the {} leaves of {path}: {name:?} is not reported",
                self.leaves.len(),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces(names: &[&str]) -> Vec<Interface> {
        names.iter().map(|name| Interface::named(name)).collect()
    }

    fn assigned(layout: &Layout, places: &mut Places, names: &[&str]) -> Vec<Option<u32>> {
        places.follow(layout, "/if");
        places.assign(layout, "/if", &interfaces(names));
        names.iter().map(|name| places.of.get(*name).map(|leaf| leaf.0)).collect()
    }

    #[test]
    fn interfaces_get_the_leaf_of_their_name_or_the_next_free_one_and_keep_it() {
        let text = "[[parent]]\nname = \"if\"\nnames = [\"a\", \"eth0\", \"b\"]\n\
                    leaves = 3\ncapacity = 8\n";
        let layout = Layout::from_toml(text).unwrap();
        let mut places = Places::default();
        let first = assigned(&layout, &mut places, &["dummy", "eth0"]);
        assert_eq!(first, [Some(0), Some(1)]);
        let second = assigned(&layout, &mut places, &["another", "b", "dummy", "eth0"]);
        assert_eq!(second, [None, Some(2), Some(0), Some(1)]);
        assert!(places.full);
    }

    #[test]
    fn a_parent_is_found_by_its_path_or_a_name_of_its_own() {
        let layout = Layout::from_toml(
            "[[parent]]\nname = \"a\"\n[[parent]]\nname = \"x\"\nin = \"/a\"\nleaves = 1\n\
             capacity = 8\n[[parent]]\nname = \"b\"\n[[parent]]\nname = \"x\"\nin = \"/b\"\n\
             leaves = 1\ncapacity = 8\n",
        )
        .unwrap();
        assert_eq!(parent_path(&layout, "/b/x").unwrap(), "/b/x");
        assert_eq!(parent_path(&layout, "a").unwrap(), "/a");
        let error = parent_path(&layout, "x").unwrap_err().to_string();
        assert!(error.contains("/a/x, /b/x"), "{error}");
        assert!(parent_path(&layout, "y").is_err());
    }

    #[test]
    fn fields_of_others_are_not_touched() {
        let layout = Layout::from_toml(
            "[[parent]]\nname = \"if\"\nleaves = 1\n[[parent.field]]\nname = \"owner\"\n\
             type = \"u8\"\n[[parent.field]]\nname = \"name\"\ntype = \"text\"\nsize = 2\n",
        )
        .unwrap();
        let interface = Interface::named("lo");
        let data = filled(&layout, DataLocId(0), &interface, &[7]).unwrap();
        assert_eq!(data, [7, b'l', b'o']);
    }
}
