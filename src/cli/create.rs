//! `mapleaf create`: makes a tree file.

use std::fs;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use anyhow::anyhow;
use anyhow::bail;
use clap::ArgGroup;
use clap::Args;

use mapleaf::layout::LeafHead;
use mapleaf::layout::Life;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::layout::limits::DATAGRAM_HEADER_LEN;
use mapleaf::layout::limits::DATAGRAM_SIZE_DEFAULT;
use mapleaf::layout::limits::LEAF_ALIGN;
use mapleaf::layout::limits::RESPONSE_BODY_LEN;
use mapleaf::layout::limits::SCHEMA_LEN_MAX;
use mapleaf::tree::CreateError;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::DumpReader;
use mapleaf::tree::Layout;
use mapleaf::tree::Mark;
use mapleaf::tree::Tree;

use crate::cli::exit::Exit;
use crate::cli::output::word;
use crate::cli::parse;
use crate::cli::progress::Progress;
use crate::cli::progress::Spinner;
use crate::cli::words::counted;
use crate::cli::words::leaves;

/// Options of `mapleaf create`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["schema", "leaves", "from_dump"]))]
#[command(after_help = "The tree has parents, leaves and fields as the schema says, or N leaves \
    spread over\nparents p0, p1, ..., or is the one that was dumped by mapleaf-tree. Its space is \
    reserved\nat once, and a file that exists is never overwritten.\n\n\
    Examples:\n  mapleaf create fleet.mapleaf --schema fleet.toml\n  \
    mapleaf create plain.mapleaf --parents 4 --leaves 10000 --capacity 200")]
pub(crate) struct CreateArgs {
    /// The tree file to make
    file: PathBuf,
    /// Schema in TOML: parents, leaves, capacities, names, fields
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Number of leaves, without a schema
    #[arg(long, value_name = "N", requires = "capacity")]
    leaves: Option<u32>,
    /// Number of parents that the leaves are spread over
    #[arg(long, value_name = "P", default_value = "1", requires = "leaves")]
    parents: u32,
    /// Most bytes of Data that a leaf holds
    #[arg(long, value_name = "SIZE", requires = "leaves", value_parser = parse::size_u32)]
    capacity: Option<u32>,
    /// Text of `mapleaf-tree dump`; - is stdin
    #[arg(long, value_name = "DUMP")]
    from_dump: Option<PathBuf>,
}

/// Creates a tree.
pub(crate) fn create(args: &CreateArgs) -> anyhow::Result<Exit> {
    let tree = match (&args.schema, args.leaves, &args.from_dump) {
        (Some(schema), _, _) => new_tree(&args.file, schema_layout(schema)?)?,
        (_, Some(leaves), _) => {
            let capacity = args.capacity.context("--leaves needs --capacity")?;
            let layout = Layout::plain(args.parents, leaves, capacity).context("--leaves")?;
            new_tree(&args.file, layout)?
        }
        (_, _, Some(dump)) => return restore(&args.file, dump),
        (None, None, None) => {
            bail!("name what to make: --schema, --leaves with --capacity, or --from-dump")
        }
    };
    finish(tree, &args.file)
}

fn schema_layout(path: &Path) -> anyhow::Result<Layout> {
    let mut text = String::new();
    // One byte more than a schema may have shows that it is too long.
    File::open(path)
        .and_then(|file| file.take(SCHEMA_LEN_MAX as u64 + 1).read_to_string(&mut text))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Layout::from_toml(&text).with_context(|| path.display().to_string())
}

fn new_tree(path: &Path, layout: Layout) -> anyhow::Result<Tree> {
    let options = CreateOptions {
        role: TreeRole::Server,
        tree_id: new_tree_id()?,
        life: Life(0),
        unix_s: unix_s(),
    };
    let _spinner = Spinner::new("reserving space");
    Ok(Tree::create(path, layout, options)?)
}

/// A random id; zero means "no tree" on the wire.
pub(crate) fn new_tree_id() -> anyhow::Result<TreeId> {
    Ok(TreeId(draw()?.max(1)))
}

/// 64 bits that nobody can guess.
pub(crate) fn draw() -> anyhow::Result<u64> {
    getrandom::u64().map_err(|error| anyhow!("cannot draw a random number: {error}"))
}

/// Seconds since 1970; a clock before that counts as 1970.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Closes a tree and says what it is.
fn finish(tree: Tree, path: &Path) -> anyhow::Result<Exit> {
    let layout = tree.shared_layout();
    tree.close().with_context(|| path.display().to_string())?;
    word(format_args!(
        "created {}: {} over {}, {} bytes",
        path.display(),
        leaves(layout.leaf_count()),
        counted(layout.parent_count(), "parent", "parents"),
        layout.file_len(),
    ));
    if let Some(needed) = larger_datagram(&layout) {
        word(format_args!(
            "mapleaf: a leaf of {} bytes does not fit a datagram of {DATAGRAM_SIZE_DEFAULT}, \
             which takes {} at most: serve it with --datagram-size {needed}",
            layout.capacity_max(),
            leaf_max(DATAGRAM_SIZE_DEFAULT),
        ));
    }
    Ok(Exit::Done)
}

/// Largest Data that a datagram of this size takes.
const fn leaf_max(datagram_size: usize) -> usize {
    let heads = DATAGRAM_HEADER_LEN + RESPONSE_BODY_LEN + size_of::<LeafHead>();
    (datagram_size - heads) / LEAF_ALIGN * LEAF_ALIGN
}

/// The datagram size that the largest leaf needs, if it is more than the default.
fn larger_datagram(layout: &Layout) -> Option<usize> {
    let capacity = layout.capacity_max() as usize;
    let heads = DATAGRAM_HEADER_LEN + RESPONSE_BODY_LEN + size_of::<LeafHead>();
    let needed = heads + capacity.next_multiple_of(LEAF_ALIGN);
    (needed > DATAGRAM_SIZE_DEFAULT).then_some(needed)
}

/// Makes the tree of a dump. It gets its name when it is whole.
fn restore(path: &Path, dump: &Path) -> anyhow::Result<Exit> {
    if path.symlink_metadata().is_ok() {
        return Err(CreateError::Exists { path: path.to_owned() }.into());
    }
    let mut name = path.file_name().context("the tree file needs a name")?.to_owned();
    name.push(format!(".restoring-{}", std::process::id()));
    let part = path.with_file_name(name);
    let tree = match dump.as_os_str() == "-" {
        true => fill(&part, io::stdin().lock()).context("stdin"),
        false => File::open(dump)
            .map_err(anyhow::Error::from)
            .and_then(|file| fill(&part, BufReader::new(file)))
            .with_context(|| dump.display().to_string()),
    };
    // Unlike a rename, a link never replaces what came meanwhile.
    let named = tree.and_then(|tree| {
        let exit = finish(tree, path)?;
        fs::hard_link(&part, path)
            .with_context(|| format!("cannot name the tree {}", path.display()))?;
        Ok(exit)
    });
    // It is not there if nothing was made.
    let _ = fs::remove_file(&part);
    named
}

/// Creates the tree of a dump and restores its leaves.
fn fill(path: &Path, input: impl BufRead) -> anyhow::Result<Tree> {
    let mut dump = DumpReader::new(input)?;
    let head = dump.head();
    let options = CreateOptions {
        role: head.role,
        tree_id: head.tree_id,
        life: head.life,
        unix_s: head.created_unix_s,
    };
    let watermark = head.watermark;
    let layout = head.layout.clone();
    let leaf_count = u64::from(layout.leaf_count());
    let mut progress = Progress::new("restoring", "leaves");
    let mut tree = Tree::create(path, layout, options)?;
    while let Some(leaf) = dump.next_leaf()? {
        let mark = if leaf.change_flag == 0 { Mark::Quiet } else { Mark::Changed };
        tree.restore(leaf.data_loc_id, leaf.revision, &leaf.data, mark)?;
        progress.at(u64::from(leaf.data_loc_id.0) + 1, leaf_count);
    }
    tree.restore_watermark(watermark);
    progress.clear();
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_that_needs_larger_datagrams_is_told() {
        let needed = |capacity| larger_datagram(&Layout::plain(1, 1, capacity).unwrap());
        assert_eq!(leaf_max(DATAGRAM_SIZE_DEFAULT), 1_096);
        assert_eq!(needed(1_096), None);
        assert_eq!(needed(1_097), Some(1_208));
    }
}
