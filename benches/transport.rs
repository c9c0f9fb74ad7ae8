//! What the socket costs above the system calls that it makes.
//!
//! A period of 54 datagrams of 1,200 bytes goes to 1, 16, 256 and 4,096
//! destinations on loopback, by `send_segments` and by a bare loop of the same
//! `sendmmsg` calls whose headers were written once, before the clock started.
//! Then a period is received, by `receive` with every datagram visited, and by a
//! bare `recvmmsg` with GRO. Passes of both alternate, so that a machine that
//! changes its speed changes it for both; the ratio is that of neighbours.
//!
//! The receivers of the first part do not read: once their queues are full, the
//! kernel does everything but queue. Both sides see the same.
//!
//! `cargo bench --features net --bench transport`; with `--test`, or when run by
//! `cargo test`, every part runs once and nothing is measured.

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
    use std::ptr;
    use std::time::Duration;
    use std::time::Instant;

    use mapleaf::net::Destinations;
    use mapleaf::net::Offload;
    use mapleaf::net::RecvBatch;
    use mapleaf::net::Segments;
    use mapleaf::net::SocketOptions;
    use mapleaf::net::Support;
    use mapleaf::net::UdpSocket;

    const SEGMENT: usize = 1_200;
    const DATAGRAMS: usize = 54;
    const PERIOD: usize = DATAGRAMS * SEGMENT;
    const HOME: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
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
        for count in effort.destinations {
            send(*count, Offload::Detect, &effort);
            send(*count, Offload::Off, &effort);
        }
        receive(&effort);
    }

    fn socket(gso: Offload) -> UdpSocket {
        let buffers = 4 << 20;
        let options = SocketOptions {
            receive_buffer: buffers,
            send_buffer: buffers,
            gso,
            ..SocketOptions::default()
        };
        UdpSocket::bind(HOME, &options).expect("a socket on loopback")
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

    fn send(count: usize, gso: Offload, effort: &Effort) {
        let mut ours = socket(gso);
        let (_receivers, to) = receivers(count);
        let memory = vec![0x5a; PERIOD];
        let joined = ours.capabilities().gso == Support::Available;
        let mut bare = BareSend::new(&to, &memory, joined);
        let bare_socket = socket(Offload::Off);
        let name = if joined { "GSO" } else { "single" };
        compare(
            &format!("send to {count:>4}, {name}"),
            count * DATAGRAMS,
            effort,
            || {
                let segments = Segments::new(&memory, SEGMENT);
                let clock = Instant::now();
                let report = ours.send_segments(Destinations::Each(&to), segments);
                let took = clock.elapsed();
                assert_eq!(report.datagrams_sent, (count * DATAGRAMS) as u64, "{report:?}");
                took
            },
            || {
                let clock = Instant::now();
                bare.send(&bare_socket);
                clock.elapsed()
            },
        );
    }

    fn receive(effort: &Effort) {
        let mut sender = socket(Offload::Detect);
        let mut ours = socket(Offload::Detect);
        let other = socket(Offload::Detect);
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
        let mut bare = BareReceive::new();
        compare(
            "receive 8 periods, GRO",
            8 * DATAGRAMS,
            effort,
            || {
                feed(&to);
                let clock = Instant::now();
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
                let clock = Instant::now();
                let mut bytes = 0;
                while bytes < 8 * PERIOD {
                    bytes += bare.receive(&other);
                }
                clock.elapsed()
            },
        );
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
            BareSend { headers, _addresses, _parts, _control, _memory: memory }
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

    /// Places for `recvmmsg`, written anew before every call as the kernel asks.
    struct BareReceive {
        storage: Vec<u8>,
        addresses: Vec<libc::sockaddr_in>,
        controls: Vec<[u64; 8]>,
        parts: Vec<libc::iovec>,
        headers: Vec<libc::mmsghdr>,
    }

    impl BareReceive {
        /// As the socket has it after a period: twice the eight messages.
        const COUNT: usize = 16;

        fn new() -> BareReceive {
            let place = sockaddr(&HOME);
            BareReceive {
                storage: vec![0; Self::COUNT * 65_536],
                addresses: vec![place; Self::COUNT],
                controls: vec![[0; 8]; Self::COUNT],
                parts: Vec::with_capacity(Self::COUNT),
                headers: Vec::with_capacity(Self::COUNT),
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
            let (count, flags) = (Self::COUNT as u32, libc::MSG_DONTWAIT as _);
            // SAFETY: `first` points to COUNT headers, each pointed just now at a
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
