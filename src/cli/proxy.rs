//! A UDP proxy with bad weather: it drops, doubles and reorders datagrams.
//!
//! One thread takes what comes from the clients, one more for each client what
//! the server answers, so that the server sees every client under an address of
//! its own. The weather is drawn from a seed, one stream a direction and client;
//! which datagram meets which draw is up to the scheduler.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest payload of UDP over IPv4.
const PAYLOAD_MAX: usize = 65_507;

/// How often a thread looks up from its socket: the longest that a datagram is
/// held back when none follows it, and that a proxy takes to end.
const LOOK_UP: Duration = Duration::from_millis(20);

/// Most clients of one proxy: each takes a socket and a thread.
const CLIENTS_MAX: usize = 64;

/// What happens to datagrams, each as a share from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weather {
    /// Dropped.
    pub(crate) loss: f64,
    /// Sent twice.
    pub(crate) duplicate: f64,
    /// Sent after the next one.
    pub(crate) reorder: f64,
    /// Where the draws come from.
    pub(crate) seed: u64,
}

/// What happened to the datagrams of a proxy, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Handed on, the second copies of doubled ones not counted.
    pub(crate) forwarded: u64,
    /// Dropped on purpose.
    pub(crate) dropped: u64,
    /// Sent twice.
    pub(crate) doubled: u64,
    /// Sent after the one that came behind it.
    pub(crate) reordered: u64,
}

impl Passed {
    /// Both together.
    pub(crate) fn plus(self, other: Passed) -> Passed {
        Passed {
            forwarded: self.forwarded + other.forwarded,
            dropped: self.dropped + other.dropped,
            doubled: self.doubled + other.doubled,
            reordered: self.reordered + other.reordered,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    forwarded: AtomicU64,
    dropped: AtomicU64,
    doubled: AtomicU64,
    reordered: AtomicU64,
}

/// A running proxy. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    counts: Arc<Counts>,
    end: Arc<AtomicBool>,
    front: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy in front of `server`, on a port of its own on loopback.
    ///
    /// # Errors
    ///
    /// What the system says about the socket or the thread.
    pub(crate) fn start(server: SocketAddr, weather: Weather) -> io::Result<Proxy> {
        let socket = bind_beside(server)?;
        let address = socket.local_addr()?;
        let counts = Arc::new(Counts::default());
        let end = Arc::new(AtomicBool::new(false));
        let front = Front {
            socket: Arc::new(socket),
            server,
            weather,
            counts: Arc::clone(&counts),
            end: Arc::clone(&end),
            clients: HashMap::new(),
        };
        let front = thread::Builder::new().name("proxy".to_owned()).spawn(move || front.run())?;
        Ok(Proxy { address, counts, end, front: Some(front) })
    }

    /// Where clients send to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happened so far.
    pub(crate) fn passed(&self) -> Passed {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Passed {
            forwarded: read(&self.counts.forwarded),
            dropped: read(&self.counts.dropped),
            doubled: read(&self.counts.doubled),
            reordered: read(&self.counts.reordered),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(front) = self.front.take() {
            // A panic in the thread was printed by the thread.
            let _ = front.join();
        }
    }
}

/// A socket on loopback that reaches the address.
fn bind_beside(server: SocketAddr) -> io::Result<UdpSocket> {
    let host = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let socket = UdpSocket::bind((host, 0))?;
    socket.set_read_timeout(Some(LOOK_UP))?;
    Ok(socket)
}

/// The side that clients see.
struct Front {
    socket: Arc<UdpSocket>,
    server: SocketAddr,
    weather: Weather,
    counts: Arc<Counts>,
    end: Arc<AtomicBool>,
    clients: HashMap<SocketAddr, Back>,
}

/// What one client has of its own.
struct Back {
    socket: Arc<UdpSocket>,
    path: Path,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    fn run(mut self) {
        let mut buffer = vec![0; PAYLOAD_MAX];
        while !self.end.load(Ordering::Relaxed) {
            // Refusals by ICMP come as errors of the next call: no datagram is
            // lost by them that would not have been lost anyway.
            match self.socket.recv_from(&mut buffer) {
                Ok((len, from)) => self.pass(from, buffer.get(..len).unwrap_or_default()),
                Err(_) => self.clients.values_mut().for_each(|back| {
                    back.path.release(|bytes| send(&back.socket, bytes));
                }),
            }
        }
        for back in self.clients.values_mut() {
            let _ = back.thread.take().map(JoinHandle::join);
        }
    }

    fn pass(&mut self, from: SocketAddr, bytes: &[u8]) {
        if !self.clients.contains_key(&from) {
            // Without room or a socket the client is lost like a datagram.
            let Some(back) = self.open(from) else { return };
            self.clients.insert(from, back);
        }
        if let Some(back) = self.clients.get_mut(&from) {
            back.path.pass(bytes, |bytes| send(&back.socket, bytes));
        }
    }

    fn open(&self, client: SocketAddr) -> Option<Back> {
        if self.clients.len() >= CLIENTS_MAX {
            return None;
        }
        let socket = bind_beside(self.server).and_then(|socket| {
            socket.connect(self.server)?;
            Ok(Arc::new(socket))
        });
        let socket = socket.ok()?;
        let stream = self.weather.seed.wrapping_add(2 * self.clients.len() as u64);
        let mut path = Path::new(self.weather, stream.wrapping_add(1), &self.counts);
        let (from, to) = (Arc::clone(&socket), Arc::clone(&self.socket));
        let end = Arc::clone(&self.end);
        let thread = thread::Builder::new().name("proxy back".to_owned()).spawn(move || {
            let mut buffer = vec![0; PAYLOAD_MAX];
            let send = |bytes: &[u8]| {
                let _ = to.send_to(bytes, client);
            };
            while !end.load(Ordering::Relaxed) {
                match from.recv(&mut buffer) {
                    Ok(len) => path.pass(buffer.get(..len).unwrap_or_default(), send),
                    Err(_) => path.release(send),
                }
            }
        });
        let path = Path::new(self.weather, stream, &self.counts);
        Some(Back { socket, path, thread: Some(thread.ok()?) })
    }
}

fn send(socket: &UdpSocket, bytes: &[u8]) {
    // A datagram that cannot be sent is lost, as on any path.
    let _ = socket.send(bytes);
}

/// One direction of one client.
struct Path {
    weather: Weather,
    random: SplitMix,
    held: Option<Vec<u8>>,
    counts: Arc<Counts>,
}

impl Path {
    fn new(weather: Weather, stream: u64, counts: &Arc<Counts>) -> Path {
        Path { weather, random: SplitMix(stream), held: None, counts: Arc::clone(counts) }
    }

    fn pass(&mut self, bytes: &[u8], send: impl Fn(&[u8])) {
        let counts = &self.counts;
        if self.random.happens(self.weather.loss) {
            counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        counts.forwarded.fetch_add(1, Ordering::Relaxed);
        if self.held.is_none() && self.random.happens(self.weather.reorder) {
            self.held = Some(bytes.to_vec());
            return;
        }
        send(bytes);
        if self.random.happens(self.weather.duplicate) {
            counts.doubled.fetch_add(1, Ordering::Relaxed);
            send(bytes);
        }
        if let Some(held) = self.held.take() {
            counts.reordered.fetch_add(1, Ordering::Relaxed);
            send(&held);
        }
    }

    /// Nothing follows: what was held back goes on.
    fn release(&mut self, send: impl Fn(&[u8])) {
        if let Some(held) = self.held.take() {
            send(&held);
        }
    }
}

/// SplitMix64: small, and the same everywhere for a seed.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    /// 64 bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Whether something happens that does so this often.
    pub(crate) fn happens(&mut self, share: f64) -> bool {
        // 53 bits are what an f64 holds.
        ((self.next_u64() >> 11) as f64) < share * (1_u64 << 53) as f64
    }

    /// A number below `end`, 0 if that is 0.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        let wide = u128::from(self.next_u64()) * u128::from(end);
        // The product is below 2^64 * 2^32.
        (wide >> 64) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Weather = Weather { loss: 0.0, duplicate: 0.0, reorder: 0.0, seed: 7 };

    /// Sends numbers through one direction and says what came out.
    fn through(weather: Weather, count: u8) -> (Vec<u8>, Arc<Counts>) {
        let counts = Arc::default();
        let mut path = Path::new(weather, weather.seed, &counts);
        let out = std::cell::RefCell::new(Vec::new());
        let send = |bytes: &[u8]| out.borrow_mut().extend_from_slice(bytes);
        (0..count).for_each(|number| path.pass(&[number], send));
        path.release(send);
        (out.into_inner(), counts)
    }

    #[test]
    fn calm_weather_changes_nothing() {
        assert_eq!(through(CALM, 200).0, (0..200).collect::<Vec<u8>>());
    }

    #[test]
    fn each_kind_of_weather_does_its_own_harm_at_its_rate() {
        let (lost, counts) = through(Weather { loss: 0.3, ..CALM }, 200);
        let dropped = counts.dropped.load(Ordering::Relaxed);
        assert_eq!(lost.len() as u64 + dropped, 200);
        assert!((30..90).contains(&dropped), "{dropped} of 200 at 30 %");
        assert!(lost.is_sorted());
        let (doubled, counts) = through(Weather { duplicate: 0.5, ..CALM }, 200);
        assert_eq!(doubled.len() as u64, 200 + counts.doubled.load(Ordering::Relaxed));
        assert!(doubled.len() > 250 && doubled.is_sorted());
        let (mut mixed, _) = through(Weather { reorder: 0.2, ..CALM }, 200);
        assert!(!mixed.is_sorted());
        mixed.sort_unstable();
        assert_eq!(mixed, (0..200).collect::<Vec<u8>>(), "nothing is lost by waiting");
    }

    #[test]
    fn a_seed_gives_the_same_weather_again() {
        let weather = Weather { loss: 0.2, duplicate: 0.1, reorder: 0.1, seed: 1 };
        assert_eq!(through(weather, 100).0, through(weather, 100).0);
        assert_ne!(through(weather, 100).0, through(Weather { seed: 2, ..weather }, 100).0);
    }

    #[test]
    fn clients_get_their_own_answers() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap(), CALM).unwrap();
        let clients = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for (number, client) in clients.iter().enumerate() {
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            client.send_to(&[number as u8], proxy.address()).unwrap();
        }
        let mut buffer = [0; 8];
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            seen.push(from);
            server.send_to(&[buffer[len - 1] + 10], from).unwrap();
        }
        assert_ne!(seen[0], seen[1]);
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(client.recv(&mut buffer).unwrap(), 1);
            assert_eq!(buffer[0], number as u8 + 10);
        }
        assert_eq!(proxy.passed(), Passed { forwarded: 4, ..Passed::default() });
    }
}
