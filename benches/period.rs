//! A period in the memory of a server: leaves written, flags taken, EVENTs laid out.
//!
//! The limit beside the layout is one copy of the same bytes: a leaf is copied once
//! a period, and nothing else is done to it. `-- --test` runs each part once.

use std::hint::black_box;
use std::path::Path;
use std::time::SystemTime;

use criterion::BatchSize;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Life;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::layout::leaf_wire_len;
use mapleaf::layout::limits::DATAGRAM_HEADER_LEN;
use mapleaf::layout::limits::DATAGRAM_SIZE_DEFAULT;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Layout;
use mapleaf::tree::Tree;
use mapleaf::wire;
use mapleaf::wire::DatagramType;
use mapleaf::wire::Header;
use mapleaf::wire::LeafSource;
use mapleaf::wire::PROTOCOL_VERSION;
use mapleaf::wire::Packet;

const LEAVES: u32 = 10_000;
const DATA_SIZE: usize = 200;

/// Leaves in one EVENT.
const PER_EVENT: usize = (DATAGRAM_SIZE_DEFAULT - DATAGRAM_HEADER_LEN) / leaf_wire_len(DATA_SIZE);

struct Source(Tree);

impl LeafSource for Source {
    fn copy_wire(&self, leaf: DataLocId, to: &mut [u8]) -> Option<usize> {
        self.0.copy_wire(leaf, to)
    }
}

fn tree(path: &Path) -> Tree {
    let unix_s = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let options =
        CreateOptions { role: TreeRole::Server, tree_id: TreeId(1), life: Life(0), unix_s };
    let layout = Layout::plain(16, LEAVES, DATA_SIZE as u32).expect("a small layout");
    let mut tree = Tree::create(path, layout, options).expect("a folder of our own");
    tree.begin_life(unix_s).expect("a new tree");
    tree
}

fn write_all(tree: &mut Tree, data: &[u8]) {
    for leaf in (0..LEAVES).map(DataLocId) {
        tree.write(leaf, data).expect("a leaf of the tree");
    }
}

/// The EVENTs of a period in which every leaf changed.
fn events(changed: &[DataLocId]) -> Vec<Packet> {
    let starts = (0..changed.len()).step_by(PER_EVENT);
    let packet = |start: usize| Packet {
        header: Header {
            datagram_type: DatagramType::Event.code(),
            version: PROTOCOL_VERSION,
            ..Header::default()
        },
        response: None,
        leaves: start..changed.len().min(start + PER_EVENT),
    };
    starts.map(packet).collect()
}

fn period(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut tree = tree(&folder.path().join("period.tree"));
    let data = [7_u8; DATA_SIZE];
    let mut group = c.benchmark_group("period");

    group.throughput(Throughput::Elements(u64::from(LEAVES)));
    group
        .bench_function("write 10,000 leaves of 200 B", |b| b.iter(|| write_all(&mut tree, &data)));

    let mut changed = Vec::new();
    group.bench_function("the same, and take the flags", |b| {
        b.iter_batched(
            || (),
            |()| {
                write_all(&mut tree, &data);
                changed.clear();
                tree.take_changes(&mut changed);
            },
            BatchSize::PerIteration,
        );
    });

    write_all(&mut tree, &data);
    changed.clear();
    tree.take_changes(&mut changed);
    let packets = events(&changed);
    let source = Source(tree);
    let mut ring = vec![0_u8; packets.len() * DATAGRAM_SIZE_DEFAULT];
    group.throughput(Throughput::Bytes(ring.len() as u64));
    group.bench_function("lay out 10,000 leaves", |b| {
        b.iter(|| {
            for (packet, segment) in packets.iter().zip(ring.chunks_mut(DATAGRAM_SIZE_DEFAULT)) {
                let size = wire::lay_out(packet, &changed, &source, segment);
                segment[size..].fill(0);
            }
            black_box(&ring);
        });
    });
    let from = vec![1_u8; ring.len()];
    group.bench_function("limit: one copy of the same bytes", |b| {
        b.iter(|| {
            ring.copy_from_slice(black_box(&from));
            black_box(&ring);
        });
    });
    group.finish();
}

criterion_group!(benches, period);
criterion_main!(benches);
