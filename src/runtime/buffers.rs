//! Whether a socket has the buffers that were asked for, and a word to the operator
//! where it has not.
//!
//! What does not fit a buffer is lost and repaired, so a loop goes on with what it
//! got; but whoever wonders about losses should not have to guess.

use tracing::warn;

use crate::net::UdpSocket;

/// Bytes that were asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) receive: usize,
    pub(super) send: usize,
}

/// Says in one line what the system gave, where that is less than was asked for.
/// `whose` names the socket.
pub(super) fn check(whose: &str, socket: &UdpSocket, asked: Asked) {
    if let Some(short) = shortfall(socket, asked) {
        warn!("{whose}: {short}; what does not fit is lost and repaired");
    }
}

/// What is missing, with the setting that allows it. Nothing where the system does not
/// tell.
fn shortfall(socket: &UdpSocket, asked: Asked) -> Option<String> {
    let of = |booked: std::io::Result<usize>, asked: usize, what: &str, setting: &str| {
        let found = booked.ok()? / BOOKED;
        let part = || format!("{what} buffer of {found} bytes, wanted {asked} (raise {setting})");
        (found < asked).then(part)
    };
    let receive = of(socket.receive_buffer_len(), asked.receive, "receive", RECEIVE_SETTING);
    let send = of(socket.send_buffer_len(), asked.send, "send", SEND_SETTING);
    let parts: Vec<_> = receive.into_iter().chain(send).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Linux books, and tells, twice what it gives.
#[cfg(target_os = "linux")]
const BOOKED: usize = 2;
#[cfg(not(target_os = "linux"))]
const BOOKED: usize = 1;

#[cfg(target_os = "linux")]
const RECEIVE_SETTING: &str = "net.core.rmem_max";
#[cfg(target_os = "linux")]
const SEND_SETTING: &str = "net.core.wmem_max";
#[cfg(not(target_os = "linux"))]
const RECEIVE_SETTING: &str = "kern.ipc.maxsockbuf";
#[cfg(not(target_os = "linux"))]
const SEND_SETTING: &str = "kern.ipc.maxsockbuf";

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Arc;
    use std::sync::Mutex;

    use tracing::Event;
    use tracing::Metadata;
    use tracing::Subscriber;
    use tracing::field::Field;
    use tracing::field::Visit;
    use tracing::span;
    use tracing::subscriber::with_default;

    use super::*;
    use crate::net::Offload;
    use crate::net::SocketOptions;
    use crate::runtime::options::ReloadableConfig;
    use crate::runtime::options::Transport;
    use crate::runtime::server_loop::Listen;

    /// More than the system gives anybody: it counts bytes in an int, doubled.
    const TOO_MUCH: usize = 2 << 30;

    /// The lines that one thread logs.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    impl Visit for Log {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() == "message" {
                self.0.lock().unwrap().push(format!("{value:?}"));
            }
        }
    }

    impl Subscriber for Log {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= tracing::Level::WARN
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn what_was_given_is_no_shortfall() {
        let options =
            SocketOptions { receive_buffer: 1 << 16, send_buffer: 1 << 16, ..Default::default() };
        let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let asked = |receive, send| shortfall(&socket, Asked { receive, send });
        assert_eq!(asked(1 << 16, 1 << 16), None);
        let told = asked((1 << 16) + 1, 1 << 16).unwrap();
        assert!(told.starts_with("receive buffer of 65536 bytes, wanted 65537"), "{told}");
        let told = asked(1 << 16, (1 << 16) + 1).unwrap();
        assert!(told.starts_with("send buffer of 65536 bytes, wanted 65537"), "{told}");
        assert_eq!(asked(TOO_MUCH, TOO_MUCH).unwrap().matches("wanted").count(), 2);
    }

    #[test]
    fn a_server_says_once_and_in_one_line_that_its_buffer_is_smaller() {
        let listen = |receive_buffer| Listen {
            address: "127.0.0.1:0".parse().unwrap(),
            datagram_size: 1_200,
            transport: Transport::Udp,
            ring_size: 0,
            burst: 0,
            receive_buffer,
            multicast: None,
            zerocopy: Offload::Off,
        };
        let log = Log::default();
        with_default(log.clone(), || {
            listen(TOO_MUCH).bind(&ReloadableConfig::default()).unwrap();
        });
        let lines = log.0.lock().unwrap();
        let about = lines.iter().filter(|line| line.contains("receive buffer of"));
        assert_eq!(about.count(), 1, "{lines:?}");
    }
}
