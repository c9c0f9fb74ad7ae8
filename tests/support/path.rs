//! A path that loses nothing until it is cut, and counts what the server sends.

use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use mapleaf::wire::Datagram;
use mapleaf::wire::Flags;
use mapleaf::wire::decode;

/// How often a thread looks up from its socket.
const LOOK_UP: Duration = Duration::from_millis(20);

/// Longest payload of UDP over IPv4.
const PAYLOAD_MAX: usize = 65_507;

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    /// RESPONSE datagrams that may still pass.
    credit: AtomicU64,
    periods: AtomicU64,
    events: AtomicU64,
    client: Mutex<Option<SocketAddr>>,
}

/// A path between one client and a server. It ends when it is dropped.
pub(crate) struct Path {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Path {
    /// A path that is never cut.
    pub(crate) fn to(server: SocketAddr) -> Path {
        Path::cut_after(server, u64::MAX)
    }

    /// A path on which nothing comes back any more behind so many RESPONSEs.
    pub(crate) fn cut_after(server: SocketAddr, responses: u64) -> Path {
        let front = Arc::new(bind().unwrap());
        let back = Arc::new(bind().unwrap());
        back.connect(server).unwrap();
        let address = front.local_addr().unwrap();
        let shared = Arc::new(Shared { credit: responses.into(), ..Shared::default() });
        let threads = vec![
            start(&shared, {
                let (front, back) = (Arc::clone(&front), Arc::clone(&back));
                move |shared, buffer| forth(shared, &front, &back, buffer)
            }),
            start(&shared, move |shared, buffer| back_home(shared, &front, &back, buffer)),
        ];
        Path { address, shared, threads }
    }

    /// Where the client sends to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether nothing comes back any more.
    pub(crate) fn is_cut(&self) -> bool {
        self.shared.credit.load(Ordering::Relaxed) == 0
    }

    /// Periods that the server closed: by its last EVENT, or by a TICK.
    pub(crate) fn periods(&self) -> u64 {
        self.shared.periods.load(Ordering::Relaxed)
    }

    /// EVENTs that the server sent.
    pub(crate) fn events(&self) -> u64 {
        self.shared.events.load(Ordering::Relaxed)
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in the thread was printed by the thread.
            let _ = thread.join();
        }
    }
}

fn bind() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(LOOK_UP))?;
    Ok(socket)
}

fn start(
    shared: &Arc<Shared>,
    step: impl Fn(&Shared, &mut [u8]) + Send + 'static,
) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let mut buffer = vec![0; PAYLOAD_MAX];
        while !shared.end.load(Ordering::Relaxed) {
            step(&shared, &mut buffer);
        }
    })
}

fn forth(shared: &Shared, front: &UdpSocket, back: &UdpSocket, buffer: &mut [u8]) {
    // Nothing came, or nobody listens at the server's address: lost, as on any path.
    let Ok((len, from)) = front.recv_from(buffer) else { return };
    *shared.client.lock().unwrap() = Some(from);
    let _ = back.send(&buffer[..len]);
}

fn back_home(shared: &Shared, front: &UdpSocket, back: &UdpSocket, buffer: &mut [u8]) {
    let Ok(len) = back.recv(buffer) else { return };
    let (Ok((header, datagram)), Some(client)) =
        (decode(&buffer[..len]), *shared.client.lock().unwrap())
    else {
        return;
    };
    if matches!(datagram, Datagram::Event(..)) {
        shared.events.fetch_add(1, Ordering::Relaxed);
    }
    let closes = Flags(header.flags.get()).has(Flags::CLOSES_PERIOD);
    if closes && matches!(datagram, Datagram::Event(..) | Datagram::Tick(..)) {
        shared.periods.fetch_add(1, Ordering::Relaxed);
    }
    let credit = shared.credit.load(Ordering::Relaxed);
    if credit > 0 {
        if matches!(datagram, Datagram::Response(..)) && credit != u64::MAX {
            shared.credit.store(credit - 1, Ordering::Relaxed);
        }
        let _ = front.send_to(&buffer[..len], client);
    }
}
