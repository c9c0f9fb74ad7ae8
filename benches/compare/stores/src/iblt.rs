//! Reconciliation by a rateless invertible Bloom lookup table (the crate riblt), over TCP.
//!
//! The method of Yang, Gilad and Alizadeh (SIGCOMM 2024). The replica streams coded symbols
//! of its items, leaf and checksum; the server takes its own away, and what is left tells
//! which items only one of them has, as soon as some 1.4 symbols have come for each. Then
//! the server sends the leaves. Symbols go in batches that are answered by a byte, so that
//! no more than an eighth is sent in vain.
//!
//! The crate's own peeling begins at the first symbol again for every item that it finds;
//! here a queue does it, over the crate's symbols and mapping.

use std::io::BufWriter;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use anyhow::Context as _;
use mapleaf::kernel::crc32c;
use riblt::CodedSymbol;
use riblt::RandomMapping;
use riblt::RatelessIBLT;
use riblt::Symbol;

use crate::deltas::Copies;
use crate::deltas::Table;
use crate::deltas::Took;
use crate::deltas::mix;
use crate::store::VALUE;

/// Fewest symbols of a batch.
const BATCH_MIN: usize = 16;

/// More symbols than this tell any difference of tables of this size.
const SYMBOLS_MAX: usize = 1_000_000;

/// What the server answers to a batch.
const MORE: u8 = 0;
const LEAVES: u8 = 1;

/// Leaf and checksum: 8 bytes with a CRC32C, 16 with 64 bits of each.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item<const N: usize>([u8; N]);

impl<const N: usize> Item<N> {
    fn new(leaf: u32, value: &[u8]) -> Item<N> {
        let mut bytes = [0; N];
        let (id, checksum) = bytes.split_at_mut(N / 2);
        id[..4].copy_from_slice(&leaf.to_le_bytes());
        match checksum.len() {
            4 => checksum.copy_from_slice(&crc32c(value).to_le_bytes()),
            _ => {
                let words = value.chunks_exact(8).map(|word| word.try_into().expect("8 bytes"));
                let fold = |sum: u64, word| mix(sum.rotate_left(5) ^ u64::from_le_bytes(word));
                checksum.copy_from_slice(&words.fold(0, fold).to_le_bytes());
            }
        }
        Item(bytes)
    }

    fn leaf(&self) -> u32 {
        self.0.first_chunk().map_or(0, |leaf| u32::from_le_bytes(*leaf))
    }
}

impl<const N: usize> Symbol for Item<N> {
    const BYTE_ARRAY_LENGTH: usize = N;

    fn encode_to_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn decode_from_bytes(bytes: &Vec<u8>) -> Item<N> {
        Item(bytes.as_slice().try_into().expect("sums have the length of items"))
    }

    /// Faster than the one that the crate would take.
    fn hash_(&self) -> u64 {
        let words = self.0.chunks_exact(8).map(|word| word.try_into().expect("8 bytes"));
        words.fold(1, |hash, word| mix(hash ^ u64::from_le_bytes(word)))
    }
}

pub struct Iblt<const N: usize> {
    server: Side<N>,
    replica: Side<N>,
}

/// A copy with the items of its leaves, which it keeps as our tables keep checksums.
struct Side<const N: usize> {
    table: Table,
    items: Vec<Item<N>>,
}

impl<const N: usize> Side<N> {
    fn new(leaves: u32) -> Side<N> {
        let table = Table::new(leaves);
        let items = (0..leaves).map(|leaf| Item::new(leaf, table.value(leaf))).collect();
        Side { table, items }
    }
}

impl<const N: usize> Iblt<N> {
    pub fn start(table: Table) -> Iblt<N> {
        let leaves = table.leaves();
        Iblt { server: Side::new(leaves), replica: Side::new(leaves) }
    }
}

impl<const N: usize> Copies for Iblt<N> {
    fn change(&mut self, leaves: &[u32]) -> anyhow::Result<()> {
        for leaf in leaves {
            self.server.table.change(*leaf);
            self.server.items[*leaf as usize] = Item::new(*leaf, self.server.table.value(*leaf));
        }
        Ok(())
    }

    fn repair(&mut self) -> anyhow::Result<Took> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let begun = Instant::now();
        let (server, replica) = (&self.server, &mut self.replica);
        let (up, down) = thread::scope(|scope| {
            let served = scope.spawn(move || {
                let (stream, _) = listener.accept()?;
                answer(server, stream)
            });
            let asked = TcpStream::connect(address)
                .map_err(anyhow::Error::from)
                .and_then(|stream| ask(replica, stream));
            let served = served.join().map_err(|_| anyhow::anyhow!("the server panicked"))?;
            served.and(asked)
        })?;
        let whole = begun.elapsed();
        Ok(Took { whole, linked: Some(whole), up, down })
    }

    fn verify(&mut self) -> anyhow::Result<()> {
        let (server, replica) = (&self.server, &self.replica);
        anyhow::ensure!(server.table.values() == replica.table.values(), "values differ");
        anyhow::ensure!(server.items == replica.items, "items differ");
        Ok(())
    }
}

/// Symbols of the next batch.
fn batch_after(sent: usize) -> usize {
    (sent / 8).max(BATCH_MIN)
}

/// The replica's part: bytes sent and received.
fn ask<const N: usize>(replica: &mut Side<N>, mut stream: TcpStream) -> anyhow::Result<(u64, u64)> {
    stream.set_nodelay(true)?;
    let mut symbols = RatelessIBLT::new(replica.items.iter().cloned());
    let (mut sent, mut up, mut down) = (0, 0, 0);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let end = sent + batch_after(sent);
        anyhow::ensure!(end <= SYMBOLS_MAX, "{sent} symbols did not tell the difference");
        for index in sent..end {
            put_symbol(&symbols.get_coded_symbol(index), index, replica.items.len(), &mut bytes);
        }
        stream.write_all(&(bytes.len() as u32).to_le_bytes())?;
        stream.write_all(&bytes)?;
        (sent, up) = (end, up + 4 + bytes.len() as u64);
        let mut said = [0];
        stream.read_exact(&mut said)?;
        down += 1;
        if said == [LEAVES] {
            break;
        }
    }
    bytes.clear();
    down += stream.read_to_end(&mut bytes)? as u64;
    drop(symbols);
    for leaf in bytes.chunks_exact(4 + VALUE) {
        let (id, value) = leaf.split_at(4);
        let leaf = u32::from_le_bytes(id.try_into().expect("four bytes"));
        replica.table.take(leaf, value).context("a leaf that there is not")?;
        replica.items[leaf as usize] = Item::new(leaf, value);
    }
    Ok((up, down))
}

/// The server's part.
fn answer<const N: usize>(server: &Side<N>, mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut symbols = RatelessIBLT::new(server.items.iter().cloned());
    let mut peeler = Peeler::default();
    let mut bytes = Vec::new();
    loop {
        let mut len = [0; 4];
        stream.read_exact(&mut len)?;
        bytes.resize(u32::from_le_bytes(len) as usize, 0);
        stream.read_exact(&mut bytes)?;
        let mut rest = bytes.as_slice();
        let begin = peeler.left.len();
        while !rest.is_empty() {
            let index = peeler.left.len();
            let theirs = take_symbol(&mut rest, index, server.items.len());
            let theirs = theirs.context("a symbol was cut")?;
            peeler.left.push(symbols.get_coded_symbol(index).collapse(&theirs));
        }
        peeler.peel(begin);
        if peeler.left.first().is_some_and(CodedSymbol::is_empty) {
            break;
        }
        stream.write_all(&[MORE])?;
    }
    let mut out = BufWriter::with_capacity(64 << 10, stream);
    out.write_all(&[LEAVES])?;
    for (item, _) in peeler.found.iter().filter(|(_, is_ours)| *is_ours) {
        out.write_all(&item.leaf().to_le_bytes())?;
        out.write_all(server.table.value(item.leaf()))?;
    }
    Ok(out.flush()?)
}

/// What is left of symbols when the items that were found are taken away.
struct Peeler<T: Symbol> {
    left: Vec<CodedSymbol<T>>,
    /// Items, and whether they are the server's.
    found: Vec<(T, bool)>,
}

impl<T: Symbol> Default for Peeler<T> {
    fn default() -> Peeler<T> {
        Peeler { left: Vec::new(), found: Vec::new() }
    }
}

impl<T: Symbol> Peeler<T> {
    /// Finds what symbols from `begin` on have added.
    fn peel(&mut self, begin: usize) {
        let end = self.left.len();
        for (item, is_ours) in &self.found {
            let places = RandomMapping::new(item).take_while(|place| *place < end);
            for place in places.filter(|place| *place >= begin) {
                take_away(&mut self.left[place], item, *is_ours);
            }
        }
        let mut due: Vec<usize> = (begin..end).collect();
        while let Some(place) = due.pop() {
            let symbol = &self.left[place];
            if !symbol.is_peelable() {
                continue;
            }
            // What the server has and the replica has not counts upwards.
            let (item, is_ours) = (T::decode_from_bytes(&symbol.sum), symbol.count > 0);
            for place in RandomMapping::new(&item).take_while(|place| *place < end) {
                take_away(&mut self.left[place], &item, is_ours);
                due.push(place);
            }
            self.found.push((item, is_ours));
        }
    }
}

fn take_away<T: Symbol>(symbol: &mut CodedSymbol<T>, item: &T, is_ours: bool) {
    for (sum, byte) in symbol.sum.iter_mut().zip(item.encode_to_bytes()) {
        *sum ^= byte;
    }
    symbol.hash ^= item.hash_();
    symbol.count += if is_ours { -1 } else { 1 };
}

/// How many of so many items a symbol has: the paper's probability, 1 in 1 + index / 2.
fn expected(index: usize, items: usize) -> i64 {
    (items as f64 / (1.0 + index as f64 / 2.0)) as i64
}

/// Sum and hash as they are, of the count what differs from what is expected: a byte or two.
fn put_symbol<T: Symbol>(symbol: &CodedSymbol<T>, index: usize, items: usize, to: &mut Vec<u8>) {
    to.extend_from_slice(&symbol.sum);
    to.extend_from_slice(&symbol.hash.to_le_bytes());
    let differs = symbol.count - expected(index, items);
    // Small numbers of either sign become small ones, seven bits a byte.
    let mut word = ((differs << 1) ^ (differs >> 63)) as u64;
    while word >= 0x80 {
        to.push(word as u8 | 0x80);
        word >>= 7;
    }
    to.push(word as u8);
}

fn take_symbol<T: Symbol>(bytes: &mut &[u8], index: usize, items: usize) -> Option<CodedSymbol<T>> {
    let mut symbol = CodedSymbol::new();
    let (sum, rest) = bytes.split_at_checked(T::BYTE_ARRAY_LENGTH)?;
    let (hash, mut rest) = rest.split_first_chunk()?;
    let (mut word, mut shift) = (0_u64, 0);
    loop {
        let (byte, behind) = rest.split_first()?;
        word |= u64::from(byte & 0x7f).checked_shl(shift)?;
        (rest, shift) = (behind, shift + 7);
        if byte & 0x80 == 0 {
            break;
        }
    }
    *bytes = rest;
    symbol.sum = sum.to_vec();
    symbol.hash = u64::from_le_bytes(*hash);
    symbol.count = expected(index, items) + ((word >> 1) as i64 ^ -((word & 1) as i64));
    Some(symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_come_as_they_went() {
        for count in [-70_000, -1, 0, 63, 64, 10_000, 1 << 40] {
            let mut symbol = CodedSymbol::<Item<8>>::new();
            (symbol.sum, symbol.hash, symbol.count) = (vec![7; 8], 99, count);
            let mut bytes = Vec::new();
            put_symbol(&symbol, 3, 10_000, &mut bytes);
            let mut rest = bytes.as_slice();
            let found: CodedSymbol<Item<8>> = take_symbol(&mut rest, 3, 10_000).unwrap();
            assert_eq!((found.sum, found.hash, found.count), (vec![7; 8], 99, count));
            assert!(rest.is_empty());
            let mut cut = &bytes[..bytes.len() - 1];
            assert!(take_symbol::<Item<8>>(&mut cut, 3, 10_000).is_none());
        }
    }
}
