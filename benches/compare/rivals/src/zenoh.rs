//! Zenoh: peer to peer, without a router.

use ::zenoh::Config;
use ::zenoh::Session;
use ::zenoh::Wait as _;
use ::zenoh::pubsub::Publisher;
use ::zenoh::qos::CongestionControl;

use crate::Seat;
use crate::job::Replica;
use crate::job::Sender;

struct Zenoh {
    publisher: Publisher<'static>,
    _session: Session,
}

fn fail(error: ::zenoh::Error) -> anyhow::Error {
    anyhow::anyhow!("zenoh: {error}")
}

fn open(settings: &[(&str, String)]) -> anyhow::Result<Session> {
    let mut config = Config::default();
    let fixed =
        [("mode", "\"peer\"".to_owned()), ("scouting/multicast/enabled", "false".to_owned())];
    for (name, value) in fixed.iter().chain(settings) {
        config.insert_json5(name, value).map_err(fail)?;
    }
    ::zenoh::open(config).wait().map_err(fail)
}

/// TCP: over its UDP link nothing is repaired, and a message larger than a datagram is
/// lost as soon as one of its fragments is.
fn endpoint(host: &str, seat: &Seat) -> String {
    format!("[\"tcp/{host}:{}\"]", seat.port)
}

pub fn sender(seat: &Seat) -> anyhow::Result<Box<dyn Sender>> {
    let session = open(&[("listen/endpoints", endpoint(seat.near(), seat))])?;
    let publisher = session
        .declare_publisher("m")
        // Waits for room instead of dropping.
        .congestion_control(CongestionControl::Block)
        // Values are put into larger pieces, unless each has to leave at once.
        .express(seat.hurry)
        .wait()
        .map_err(fail)?;
    Ok(Box::new(Zenoh { publisher, _session: session }))
}

impl Sender for Zenoh {
    fn send(&mut self, _: u32, message: &[u8]) -> anyhow::Result<()> {
        self.publisher.put(message).wait().map_err(fail)
    }
}

pub fn subscribe(seat: &Seat, replica: Replica) -> anyhow::Result<()> {
    replica.begin();
    let session = open(&[
        ("connect/endpoints", endpoint(seat.near(), seat)),
        ("listen/endpoints", "[]".to_owned()),
    ])?;
    // A callback on the thread that receives: there is no queue between.
    let replica = std::sync::Arc::new(std::sync::Mutex::new(replica));
    let taking = std::sync::Arc::clone(&replica);
    let subscriber = session
        .declare_subscriber("m")
        .callback(move |sample| {
            let mut replica = taking.lock().expect("nobody panicked with the replica");
            replica.take(&sample.payload().to_bytes());
        })
        .wait()
        .map_err(fail)?;
    replica.lock().expect("nobody panicked with the replica").ready(1);
    loop {
        std::thread::park();
        let _ = &subscriber;
    }
}
