//! What the socket costs above the system calls that it makes.
//!
//! A period of 54 datagrams of 1,200 bytes goes to 1, 16, 256 and 4,096
//! destinations on loopback, by `send_segments` and by a bare loop of the same
//! `sendmmsg` calls whose headers were written once, before the clock started.
//! Then a period is received, by `receive` with every datagram visited, and by a
//! bare `recvmmsg`, with GRO and without. Then two threads send through handles of one
//! socket, as a server's senders do, and through a socket each. Passes of both
//! alternate, so that a machine that changes its speed changes it for both; the ratio
//! is that of neighbours.
//!
//! What one thread does is timed by its processor time: other work on the machine makes the
//! figures of a clock too wide to see a tenth in.
//!
//! The receivers of the first part do not read: once their queues are full, the
//! kernel does everything but queue. Both sides see the same.
//!
//! With the right to make a network namespace (root), all that is sent is sent to a
//! device as well that takes segments unsplit and drops them: what is measured there
//! is the way to a network card, without the card. There the memory is lent, too
//! (`MSG_ZEROCOPY`, large pages), beside a bare loop that lends, and beside copying.
//!
//! `cargo bench --features net --bench transport`, with `-- WORD` only the rows whose names
//! have the word in them; with `--test`, or when run by `cargo test`, every part runs once
//! and nothing is measured.

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("skipped: the bare loop is made of Linux's sendmmsg and recvmmsg");
}

// The bare loop cannot be had without system calls of its own.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod linux {
    use std::env;
    use std::hint::black_box;
    use std::net::Ipv4Addr;
    use std::net::SocketAddr;
    use std::net::SocketAddrV4;
    use std::os::fd::AsRawFd;
    use std::process::Command;
    use std::ptr;
    use std::sync::Barrier;
    use std::thread;
    use std::time::Duration;
    use std::time::Instant;

    use mapleaf::net::Destinations;
    use mapleaf::net::Offload;
    use mapleaf::net::RecvBatch;
    use mapleaf::net::ReusePort;
    use mapleaf::net::Segments;
    use mapleaf::net::SocketOptions;
    use mapleaf::net::Support;
    use mapleaf::net::UdpSocket;

    const SEGMENT: usize = 1_200;
    const DATAGRAMS: usize = 54;
    const PERIOD: usize = DATAGRAMS * SEGMENT;
    const HOME: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    /// Address of the device that drops all, in a namespace where there is nothing else.
    const SINK: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 0));
    /// Most messages of one `sendmmsg`.
    const MESSAGES_MAX: usize = 1_024;

    /// How much is run.
    struct Effort {
        pairs: usize,
        pass: Duration,
        destinations: &'static [usize],
    }

    const MEASURE: Effort =
        Effort { pairs: 21, pass: Duration::from_millis(60), destinations: &[1, 16, 256, 4_096] };
    const TEST: Effort = Effort { pairs: 1, pass: Duration::ZERO, destinations: &[1, 16] };

    pub(super) fn main() {
        let measured = env::args().any(|argument| argument == "--bench")
            && !env::args().any(|argument| argument == "--test");
        let effort = if measured { MEASURE } else { TEST };
        let found = socket(Offload::Detect).capabilities();
        println!("{DATAGRAMS} datagrams of {SEGMENT} B a period, loopback; {found:?}");
        send_all(HOME, &effort);
        receive(Offload::Detect, &effort);
        receive(Offload::Off, &effort);
        two_threads(HOME, &effort);
        // A thread of its own goes to the namespace, and takes it along when it ends.
        thread::scope(|scope| {
            scope.spawn(|| match sink() {
                Err(reason) => println!("skipped: no device that drops all: {reason}"),
                Ok(device) => {
                    println!("the same to a device that drops all ({device})");
                    send_all(SINK, &effort);
                    effort.destinations.iter().for_each(|count| lend(*count, &effort));
                    two_threads(SINK, &effort);
                }
            });
        });
    }

    fn send_all(home: SocketAddr, effort: &Effort) {
        for count in effort.destinations {
            send(home, *count, Offload::Detect, effort);
            send(home, *count, Offload::Off, effort);
        }
    }

    /// Goes to a new namespace with a device that drops what it is given, at the address
    /// `SINK`.
    fn sink() -> Result<&'static str, String> {
        // SAFETY: the call takes flags alone and changes what this thread sees of the
        // network; the sockets of other threads stay theirs.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(std::io::Error::last_os_error().to_string());
        }
        let ip = |arguments: &str| {
            let status = Command::new("ip").args(arguments.split(' ')).output();
            status.is_ok_and(|output| output.status.success())
        };
        let kinds = ["dummy", "ifb"];
        let made = |kind: &&str| ip(&format!("link add sink type {kind}"));
        let kind = kinds.into_iter().find(made).ok_or("neither dummy nor ifb is to be had")?;
        let is_up = ip("addr add 10.77.0.1/16 dev sink") && ip("link set sink up");
        is_up.then_some(kind).ok_or_else(|| "the device cannot be set up".to_owned())
    }

    fn socket(gso: Offload) -> UdpSocket {
        socket_with(HOME, SocketOptions { gso, ..SocketOptions::default() })
    }

    fn socket_with(home: SocketAddr, options: SocketOptions) -> UdpSocket {
        let buffers = 4 << 20;
        let options = SocketOptions { receive_buffer: buffers, send_buffer: buffers, ..options };
        UdpSocket::bind(home, &options).expect("an address of this machine")
    }

    /// As many addresses as asked for, and who listens there.
    fn destinations(home: SocketAddr, count: usize) -> (Vec<UdpSocket>, Vec<SocketAddr>) {
        if home == HOME {
            return receivers(count);
        }
        let host = |number: usize| Ipv4Addr::new(10, 77, 1 + (number >> 8) as u8, number as u8);
        (Vec::new(), (0..count).map(|number| (host(number), 4_720).into()).collect())
    }

    /// As many addresses as asked for. Beyond 256 they repeat: open files are
    /// limited, and what a destination costs the sender does not depend on it.
    fn receivers(count: usize) -> (Vec<UdpSocket>, Vec<SocketAddr>) {
        let options = SocketOptions::default();
        let bind = |_| UdpSocket::bind(HOME, &options).expect("a socket on loopback");
        let sockets: Vec<UdpSocket> = (0..count.min(256)).map(bind).collect();
        let own = sockets.iter().map(|socket| socket.local_addr().expect("it is bound"));
        let addresses: Vec<SocketAddr> = own.collect();
        (sockets, addresses.into_iter().cycle().take(count).collect())
    }

    fn send(home: SocketAddr, count: usize, gso: Offload, effort: &Effort) {
        let of = |gso| socket_with(home, SocketOptions { gso, ..SocketOptions::default() });
        let mut ours = of(gso);
        let (_receivers, to) = destinations(home, count);
        let memory = vec![0x5a; PERIOD];
        let joined = ours.capabilities().gso == Support::Available;
        let mut bare = BareSend::new(&to, &memory, joined);
        let bare_socket = of(Offload::Off);
        let name = if joined { "GSO" } else { "single" };
        compare(
            &format!("send to {count:>4}, {name}"),
            count * DATAGRAMS,
            effort,
            || {
                let segments = Segments::new(&memory, SEGMENT);
                let clock = Stopwatch::start();
                let report = ours.send_segments(Destinations::Each(&to), segments);
                let took = clock.elapsed();
                assert_eq!(report.datagrams_sent, (count * DATAGRAMS) as u64, "{report:?}");
                took
            },
            || {
                let clock = Stopwatch::start();
                bare.send(&bare_socket);
                clock.elapsed()
            },
        );
    }

    /// Lent memory, as a server's ring is: beside a bare loop that lends, then beside our
    /// own sends that copy. What is over is asked for after every 16 periods, and by
    /// both where the kernel finds no room for more.
    fn lend(count: usize, effort: &Effort) {
        let of = || {
            let zerocopy = Offload::Detect;
            socket_with(SINK, SocketOptions { zerocopy, ..SocketOptions::default() })
        };
        let (mut ours, mut copying, bare_socket) = (of(), of(), of());
        let (_, to) = destinations(SINK, count);
        let mut memory = LargePages::new();
        let memory = memory.period();
        let mut bare = BareSend::new(&to, memory, true);
        let whole = (count * DATAGRAMS) as u64;
        let mut turn = 0;
        let mut lend_ours = || {
            let clock = Stopwatch::start();
            let segments = Segments::new(memory, SEGMENT);
            let (report, _) = ours.lend_segments(Destinations::Each(&to), segments);
            turn += 1;
            if turn % 16 == 0 {
                ours.reclaim();
            }
            let took = clock.elapsed();
            assert_eq!(report.datagrams_sent, whole, "{report:?}");
            took
        };
        let mut lend_bare = || {
            let clock = Stopwatch::start();
            bare.lend(&bare_socket);
            clock.elapsed()
        };
        let datagrams = count * DATAGRAMS;
        compare(&format!("lend to {count:>4}"), datagrams, effort, &mut lend_ours, &mut lend_bare);
        compare(&format!("lend, copy to {count:>4}"), datagrams, effort, &mut lend_ours, || {
            let clock = Stopwatch::start();
            copying.send_segments(Destinations::Each(&to), Segments::new(memory, SEGMENT));
            clock.elapsed()
        });
        let counters = ours.counters();
        assert_eq!(counters.lent_copied, 0, "{counters:?}");
    }

    /// Memory of large pages, if the system has them.
    struct LargePages(Vec<u8>);

    impl LargePages {
        const PAGE: usize = 2 << 20;

        fn new() -> LargePages {
            LargePages(Vec::with_capacity(2 * LargePages::PAGE))
        }

        fn period(&mut self) -> &[u8] {
            let start = self.0.as_ptr().align_offset(LargePages::PAGE);
            let first = self.0.as_mut_ptr().wrapping_add(start);
            // SAFETY: the page lies within memory that the vector owns and has not touched;
            // the advice changes none of its bytes.
            unsafe { libc::madvise(first.cast(), LargePages::PAGE, libc::MADV_HUGEPAGE) };
            self.0.resize(2 * LargePages::PAGE, 0x5a);
            &self.0[start..start + PERIOD]
        }
    }

    /// Two threads, each to 32 destinations of its own: handles of one socket (ours),
    /// and two sockets on one port.
    fn two_threads(home: SocketAddr, effort: &Effort) {
        let (_receivers, to) = destinations(home, 64);
        let memory = vec![0x5a; PERIOD];
        let first = socket_with(home, SocketOptions::default());
        let mut handles = [first.try_clone().expect("a descriptor is left"), first];
        let shared = SocketOptions { reuse_port: ReusePort::Shared, ..SocketOptions::default() };
        let first = socket_with(home, shared);
        let address = first.local_addr().expect("it is bound");
        let mut own = [socket_with(address, shared), first];
        compare(
            "2 threads, one socket",
            ROUNDS * 64 * DATAGRAMS,
            effort,
            || in_two_threads(&mut handles, &to, &memory),
            || in_two_threads(&mut own, &to, &memory),
        );
    }

    /// Periods that each of two threads sends in a pass, so that their start is little.
    const ROUNDS: usize = 16;

    fn in_two_threads(sockets: &mut [UdpSocket], to: &[SocketAddr], memory: &[u8]) -> Duration {
        let begin = Barrier::new(sockets.len() + 1);
        let mut clock = Instant::now();
        thread::scope(|scope| {
            for (socket, to) in sockets.iter_mut().zip(to.chunks(to.len() / 2)) {
                let begin = &begin;
                scope.spawn(move || {
                    begin.wait();
                    for _ in 0..ROUNDS {
                        let segments = Segments::new(memory, SEGMENT);
                        socket.send_segments(Destinations::Each(to), segments);
                    }
                });
            }
            begin.wait();
            clock = Instant::now();
        });
        clock.elapsed()
    }

    fn receive(gro: Offload, effort: &Effort) {
        let of = || socket_with(HOME, SocketOptions { gro, ..SocketOptions::default() });
        let mut sender = socket(Offload::Detect);
        let mut ours = of();
        let other = of();
        let [to, to_other] = [&ours, &other].map(|socket| [socket.local_addr().expect("bound")]);
        let memory = vec![0x5a; PERIOD];
        let mut feed = |to: &[SocketAddr]| {
            for _ in 0..8 {
                sender.send_segments(Destinations::Each(to), Segments::new(&memory, SEGMENT));
            }
        };
        let mut feed_other = {
            let mut sender = socket(Offload::Detect);
            let memory = memory.clone();
            move || {
                for _ in 0..8 {
                    let segments = Segments::new(&memory, SEGMENT);
                    sender.send_segments(Destinations::Each(&to_other), segments);
                }
            }
        };
        let mut batch = RecvBatch::default();
        let mut bare = BareReceive::new(if gro == Offload::Detect { 16 } else { 64 });
        compare(
            if gro == Offload::Detect { "receive 8 periods, GRO" } else { "receive, recvmmsg" },
            8 * DATAGRAMS,
            effort,
            || {
                feed(&to);
                let clock = Stopwatch::start();
                let mut bytes = 0;
                while bytes < 8 * PERIOD {
                    ours.receive(&mut batch).expect("nothing fails");
                    bytes +=
                        batch.iter().map(|(_, datagram)| black_box(datagram).len()).sum::<usize>();
                }
                clock.elapsed()
            },
            || {
                feed_other();
                let clock = Stopwatch::start();
                let mut bytes = 0;
                while bytes < 8 * PERIOD {
                    bytes += bare.receive(&other);
                }
                clock.elapsed()
            },
        );
    }

    /// Processor time of this thread.
    struct Stopwatch(Duration);

    impl Stopwatch {
        fn start() -> Stopwatch {
            Stopwatch(Stopwatch::time())
        }

        fn elapsed(&self) -> Duration {
            Stopwatch::time() - self.0
        }

        fn time() -> Duration {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the clock is one that every thread has, and the kernel writes to `time`
            // alone, which lives through the call.
            unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
            Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        }
    }

    /// Whether a row is asked for: all are, unless a word is given.
    fn is_wanted(name: &str) -> bool {
        let mut words = env::args().skip(1).filter(|argument| !argument.starts_with("--"));
        let word = words.next();
        word.is_none_or(|word| name.contains(&word))
    }

    /// Runs both in turn and prints the median rates, and the median, the lower and
    /// the upper quartile of the ratio of neighbours.
    fn compare(
        name: &str,
        datagrams: usize,
        effort: &Effort,
        mut ours: impl FnMut() -> Duration,
        mut bare: impl FnMut() -> Duration,
    ) {
        if !is_wanted(name) {
            return;
        }
        let mut rows: Vec<(f64, f64)> = Vec::new();
        for pair in 0..effort.pairs {
            // Whoever comes first alternates as well.
            let (our, their) = if pair % 2 == 0 {
                let our = rate(&mut ours, datagrams, effort.pass);
                (our, rate(&mut bare, datagrams, effort.pass))
            } else {
                let their = rate(&mut bare, datagrams, effort.pass);
                (rate(&mut ours, datagrams, effort.pass), their)
            };
            rows.push((our, their));
        }
        if effort.pass.is_zero() {
            println!("{name:24} ran");
            return;
        }
        let ratios = sorted(rows.iter().map(|(our, their)| our / their));
        let at = |values: &[f64], quarter: usize| values[(values.len() - 1) * quarter / 4];
        println!(
            "{name:24} ours {:5.2} M/s, bare {:5.2} M/s, ratio {:.3} ({:.3} to {:.3})",
            at(&sorted(rows.iter().map(|row| row.0)), 2) / 1e6,
            at(&sorted(rows.iter().map(|row| row.1)), 2) / 1e6,
            at(&ratios, 2),
            at(&ratios, 1),
            at(&ratios, 3),
        );
    }

    fn rate(run: &mut impl FnMut() -> Duration, datagrams: usize, pass: Duration) -> f64 {
        let (mut spent, mut runs) = (Duration::ZERO, 0);
        while runs == 0 || spent < pass {
            spent += run();
            runs += 1;
        }
        (runs * datagrams) as f64 / spent.as_secs_f64()
    }

    fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// Room for one `UDP_SEGMENT`, aligned as control messages are.
    #[repr(C, align(8))]
    struct Control([u8; 24]);

    /// Headers written once, for a loop of system calls and nothing else. What they
    /// point to is held beside them and does not move.
    struct BareSend<'m> {
        turn: u32,
        headers: Vec<libc::mmsghdr>,
        _addresses: Vec<libc::sockaddr_in>,
        _parts: Vec<libc::iovec>,
        _control: Box<Control>,
        _memory: &'m [u8],
    }

    impl<'m> BareSend<'m> {
        fn new(to: &[SocketAddr], memory: &'m [u8], joined: bool) -> BareSend<'m> {
            let mut addresses: Vec<libc::sockaddr_in> = to.iter().map(sockaddr).collect();
            let part_len = if joined { PERIOD } else { SEGMENT };
            let mut parts: Vec<libc::iovec> = memory.chunks(part_len).map(iovec).collect();
            let mut control = Box::new(segment_control());
            let mut headers = Vec::new();
            for address in &mut addresses {
                for part in &mut parts {
                    let mut header = empty_header();
                    header.msg_hdr.msg_name = ptr::from_mut(address).cast();
                    header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
                    header.msg_hdr.msg_iov = part;
                    header.msg_hdr.msg_iovlen = 1;
                    if joined {
                        header.msg_hdr.msg_control = ptr::from_mut(&mut *control).cast();
                        header.msg_hdr.msg_controllen = size_of::<Control>() as _;
                    }
                    headers.push(header);
                }
            }
            let (_addresses, _parts, _control) = (addresses, parts, control);
            BareSend { turn: 0, headers, _addresses, _parts, _control, _memory: memory }
        }

        fn send(&mut self, socket: &UdpSocket) {
            let descriptor = socket.as_raw_fd();
            let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _;
            for headers in self.headers.chunks_mut(MESSAGES_MAX) {
                let (first, count) = (headers.as_mut_ptr(), headers.len());
                // SAFETY: `first` points to `count` headers; what they point to is
                // owned or borrowed by `self` and was not touched since `new`.
                let sent = unsafe { libc::sendmmsg(descriptor, first, count as u32, flags) };
                assert_eq!(sent, count as i32, "the bare loop sends everything");
            }
        }
    }

    impl BareSend<'_> {
        /// The same calls with `MSG_ZEROCOPY`.
        fn lend(&mut self, socket: &UdpSocket) {
            let descriptor = socket.as_raw_fd();
            let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_ZEROCOPY) as _;
            for headers in self.headers.chunks_mut(MESSAGES_MAX) {
                let mut done = 0;
                while done < headers.len() {
                    let (first, count) = (headers[done..].as_mut_ptr(), headers.len() - done);
                    // SAFETY: as in `send`; the kernel reads memory that nobody writes.
                    let sent = unsafe { libc::sendmmsg(descriptor, first, count as u32, flags) };
                    done += usize::try_from(sent).unwrap_or(0);
                    if done < headers.len() {
                        forget_notes(socket);
                    }
                }
            }
            self.turn += 1;
            if self.turn.is_multiple_of(16) {
                forget_notes(socket);
            }
        }
    }

    /// Empties the error queue.
    fn forget_notes(socket: &UdpSocket) {
        let mut control = [0_u64; 32];
        let mut header = empty_header().msg_hdr;
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        let mut came = 0;
        while came >= 0 {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = size_of_val(&control) as _;
            // SAFETY: the header points at room of its own with its length, and at
            // nothing else.
            came = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        }
    }

    /// Places for `recvmmsg`, written anew before every call as the kernel asks.
    struct BareReceive {
        storage: Vec<u8>,
        addresses: Vec<libc::sockaddr_in>,
        controls: Vec<[u64; 8]>,
        parts: Vec<libc::iovec>,
        headers: Vec<libc::mmsghdr>,
    }

    impl BareReceive {
        /// Room for as many messages as the socket offers: with GRO twice the eight that
        /// come, without it all of its 64.
        fn new(count: usize) -> BareReceive {
            let place = sockaddr(&HOME);
            BareReceive {
                storage: vec![0; count * 65_536],
                addresses: vec![place; count],
                controls: vec![[0; 8]; count],
                parts: Vec::with_capacity(count),
                headers: Vec::with_capacity(count),
            }
        }

        fn receive(&mut self, socket: &UdpSocket) -> usize {
            self.parts.clear();
            self.headers.clear();
            self.parts.extend(self.storage.chunks_mut(65_536).map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            }));
            let places = self.addresses.iter_mut().zip(&mut self.controls);
            for (part, (address, control)) in self.parts.iter_mut().zip(places) {
                let mut header = empty_header();
                header.msg_hdr.msg_name = ptr::from_mut(address).cast();
                header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
                header.msg_hdr.msg_iov = part;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = control.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = size_of_val(control) as _;
                self.headers.push(header);
            }
            let (first, descriptor) = (self.headers.as_mut_ptr(), socket.as_raw_fd());
            let (count, flags) = (self.headers.len() as u32, libc::MSG_DONTWAIT as _);
            // SAFETY: `first` points to `count` headers, each pointed just now at a
            // buffer, an address and a control room of its own, all owned by `self`.
            let came = unsafe { libc::recvmmsg(descriptor, first, count, flags, ptr::null_mut()) };
            let came = self.headers.iter().take(usize::try_from(came).unwrap_or(0));
            came.map(|header| header.msg_len as usize).sum()
        }
    }

    fn empty_header() -> libc::mmsghdr {
        // SAFETY: integers and raw pointers alone, valid with all bytes zero.
        unsafe { std::mem::zeroed() }
    }

    fn sockaddr(address: &SocketAddr) -> libc::sockaddr_in {
        let SocketAddr::V4(v4) = address else { panic!("the bench speaks IPv4") };
        libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: v4.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
            sin_zero: [0; 8],
        }
    }

    fn iovec(bytes: &[u8]) -> libc::iovec {
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
    }

    /// Length, level and type of the control message, then the segment.
    fn segment_control() -> Control {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&18_u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        bytes[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        bytes[16..18].copy_from_slice(&(SEGMENT as u16).to_ne_bytes());
        Control(bytes)
    }
}
