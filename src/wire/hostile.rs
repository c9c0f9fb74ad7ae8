//! Tests of decoding: each type comes back, and hostile bytes do no harm.

use proptest::prelude::*;
use zerocopy::FromBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::layout::limits::DATAGRAM_SIZE_MAX;
use crate::wire::ByeReason;
use crate::wire::DOOR_DATAGRAM_LEN;
use crate::wire::Datagram;
use crate::wire::DatagramType;
use crate::wire::DecodeError;
use crate::wire::Flags;
use crate::wire::Header;
use crate::wire::Hole;
use crate::wire::LeafError;
use crate::wire::PROTOCOL_VERSION;
use crate::wire::Question;
use crate::wire::RequestBody;
use crate::wire::decode;
use crate::wire::encode;
use crate::wire::samples;
use crate::wire::seal;

/// All that a receiver can learn from a datagram; `None` where it is an error.
fn meaning(bytes: &[u8]) -> Option<String> {
    let (header, datagram) = decode(bytes).ok()?;
    let mut said = format!("{:?} {header:?}", core::mem::discriminant(&datagram));
    let leaves = match datagram {
        Datagram::Event(leaves) | Datagram::Report(leaves) => leaves,
        Datagram::Response(response, leaves) => {
            said += &format!("{response:?}");
            leaves
        }
        other => return Some(format!("{said} {other:?}")),
    };
    for leaf in leaves {
        said += &format!("{:?}", leaf.ok()?);
    }
    Some(said)
}

/// The datagram with other bytes at an offset, its checksum made right again.
fn with(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    seal(&mut bytes);
    bytes
}

#[test]
fn every_type_comes_back_as_itself() {
    for expected in DatagramType::ALL {
        let bytes = samples::of(*expected);
        let (header, datagram) = decode(&bytes).expect("a sample is valid");
        let found = match datagram {
            Datagram::Hello => DatagramType::Hello,
            Datagram::Cookie => DatagramType::Cookie,
            Datagram::Init(_) => DatagramType::Init,
            Datagram::Welcome(..) => DatagramType::Welcome,
            Datagram::Ready => DatagramType::Ready,
            Datagram::LayoutRequest(_) => DatagramType::LayoutRequest,
            Datagram::Layout(..) => DatagramType::Layout,
            Datagram::Event(_) => DatagramType::Event,
            Datagram::Tick(_) => DatagramType::Tick,
            Datagram::Request(..) => DatagramType::Request,
            Datagram::Response(..) => DatagramType::Response,
            Datagram::Report(_) => DatagramType::Report,
            Datagram::Ack(_) => DatagramType::Ack,
            Datagram::Bye(_) => DatagramType::Bye,
        };
        assert_eq!(found, *expected);
        assert_eq!(header.channel, samples::header(*expected).channel);
        assert_eq!(header.event_num, samples::header(*expected).event_num);
    }
}

#[test]
fn bodies_come_back_with_their_fields() {
    let bytes = samples::of(DatagramType::Request);
    let Ok((_, Datagram::Request(request, Question::Checksums(checksums)))) = decode(&bytes) else {
        panic!("not a request with checksums")
    };
    assert_eq!((request.first_leaf.get(), request.credit.get()), (7, 16));
    assert_eq!(checksums.0, [U32::new(1), U32::new(2)]);

    let bytes = samples::of(DatagramType::Layout);
    let Ok((_, Datagram::Layout(layout, piece))) = decode(&bytes) else { panic!("no layout") };
    assert_eq!((layout.offset.get(), piece), (8, b"schema".as_slice()));

    let bytes = samples::of(DatagramType::Init);
    let Ok((_, Datagram::Init(init))) = decode(&bytes) else { panic!("not an init") };
    assert_eq!(init.filter_path(), Some("plant/hall-2"));

    let bytes = samples::of(DatagramType::Bye);
    let Ok((header, Datagram::Bye(reason))) = decode(&bytes) else { panic!("not a bye") };
    assert_eq!((reason, header.detail.get()), (Some(ByeReason::Version), 2));
}

#[test]
fn a_datagram_cut_anywhere_is_an_error() {
    for bytes in samples::all() {
        for len in 0..bytes.len() {
            let error = decode(&bytes[..len]).expect_err("cut").to_string();
            assert!(error.contains(&format!("found {len}")), "{error}");
        }
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_nothing() {
    for bytes in samples::all() {
        let meant = meaning(&bytes).expect("a sample is valid");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Some(found) = meaning(&flipped) {
                assert_eq!(found, meant, "bit {bit} of {:?}", samples::type_of(&bytes));
            }
        }
    }
}

#[test]
fn filling_behind_a_datagram_is_not_part_of_it() {
    for bytes in samples::all() {
        let mut padded = bytes.clone();
        padded.extend_from_slice(&[0xa5; 77]);
        assert_eq!(meaning(&padded), meaning(&bytes));
    }
}

#[test]
fn a_datagram_size_below_what_the_type_needs_is_an_error() {
    for bytes in samples::all() {
        let needed = match samples::type_of(&bytes) {
            DatagramType::Hello | DatagramType::Init => DOOR_DATAGRAM_LEN,
            DatagramType::Response => 96,
            _ => DATAGRAM_HEADER_LEN,
        };
        for size in (0..needed).step_by(3) {
            let mut short = bytes.clone();
            short[..2].copy_from_slice(&(size as u16).to_le_bytes());
            assert!(decode(&short).is_err(), "{size}");
        }
    }
}

#[test]
fn a_door_datagram_without_its_padding_is_refused() {
    for datagram_type in [DatagramType::Hello, DatagramType::Init] {
        let mut bytes = samples::of(datagram_type);
        bytes.truncate(DOOR_DATAGRAM_LEN - 1);
        seal(&mut bytes);
        assert_eq!(decode(&bytes).unwrap_err(), DecodeError::Unpadded { found: 1_199 });
    }
}

#[test]
fn only_a_whole_hello_of_another_version_is_answered() {
    let hello = with(samples::of(DatagramType::Hello), 3, &[2]);
    let version = |hello| DecodeError::Version { found: 2, hello };
    assert_eq!(decode(&hello).unwrap_err(), version(true));
    assert_eq!(decode(&hello[..1_199]).unwrap_err(), version(false), "cut");
    let mut damaged = samples::of(DatagramType::Hello);
    damaged[3] = 2;
    assert_eq!(decode(&damaged).unwrap_err(), version(false), "flipped bits of our version");
    let mut short = hello.clone();
    short.truncate(64);
    seal(&mut short);
    assert_eq!(decode(&short).unwrap_err(), version(false), "not padded");
    let init = with(samples::of(DatagramType::Init), 3, &[2]);
    assert_eq!(decode(&init).unwrap_err(), version(false), "not a HELLO");
}

#[test]
fn an_unknown_type_is_named() {
    for code in [0, 15, 255] {
        let bytes = with(samples::of(DatagramType::Ready), 2, &[code]);
        assert_eq!(decode(&bytes).unwrap_err(), DecodeError::Type { found: code });
    }
}

#[test]
fn a_request_whose_counts_disagree_is_an_error() {
    let request = || samples::of(DatagramType::Request);
    let count = |expected, found| DecodeError::Count { expected, found };
    // Header and body say three, two checksums came.
    let both = with(with(request(), 56, &[3, 0]), 68, &[3, 0, 0, 0]);
    assert_eq!(decode(&both).unwrap_err(), count(3, 2));
    assert_eq!(decode(&with(request(), 56, &[1, 0])).unwrap_err(), count(2, 1));
    let huge = with(request(), 68, &[0xff; 4]);
    assert!(matches!(decode(&huge).unwrap_err(), DecodeError::Range { .. }));
}

/// A REQUEST for leaves 7 to 9 with holes of a leaf that begin at these.
fn with_holes(at: &[u32]) -> Vec<u8> {
    let header = Header {
        count: U16::new(at.len() as u16),
        flags: U16::new(Flags::HOLES),
        ..samples::header(DatagramType::Request)
    };
    let body = RequestBody {
        first_leaf: U32::new(7),
        leaf_count: U32::new(3),
        request_id: U32::new(8),
        credit: U16::new(16),
        reserved: U16::ZERO,
    };
    let hole = |first: &u32| Hole {
        first_leaf: U32::new(*first),
        leaf_count: U32::new(1),
        since: U64::new(5),
        up_to: U64::new(6),
    };
    let holes: Vec<Hole> = at.iter().map(hole).collect();
    let mut bytes = Vec::new();
    encode(&mut bytes, &header, &body, zerocopy::IntoBytes::as_bytes(&holes[..]), 0);
    bytes
}

#[test]
fn holes_lie_apart_ascending_and_within_their_request() {
    let bytes = with_holes(&[7, 9]);
    let Ok((_, Datagram::Request(_, Question::Holes([one, other])))) = decode(&bytes) else {
        panic!("not a request with two holes")
    };
    assert_eq!((one.first_leaf.get(), other.first_leaf.get()), (7, 9));
    assert_eq!((one.since.get(), one.up_to.get()), (5, 6));
    assert!(decode(&with_holes(&[7, 8, 9])).is_ok(), "they may touch");
    assert!(decode(&with_holes(&[])).is_ok());
    for wrong in [&[6_u32][..], &[10], &[9, 7], &[8, 8], &[u32::MAX]] {
        let found = decode(&with_holes(wrong)).map(drop);
        assert!(matches!(found, Err(DecodeError::Range { .. })), "{wrong:?}: {found:?}");
    }
    let more = with(with_holes(&[7, 9]), 56, &[3, 0]);
    let expected = DecodeError::Count { expected: 3, found: 2 };
    assert_eq!(decode(&more).unwrap_err(), expected);
}

#[test]
fn a_number_that_nothing_can_follow_is_an_error() {
    for bytes in samples::all() {
        let last = with(bytes, 32, &[0xff; 8]);
        assert_eq!(decode(&last).unwrap_err(), DecodeError::Exhausted);
    }
}

#[test]
fn an_ack_that_claims_more_refusals_than_it_carries_is_an_error() {
    let bytes = with(samples::of(DatagramType::Ack), 56, &[0xff; 2]);
    let expected = DecodeError::Count { expected: 65_535, found: 1 };
    assert_eq!(decode(&bytes).unwrap_err(), expected);
}

#[test]
fn ranges_that_run_backwards_or_beyond_their_end_are_errors() {
    let reversed = with(samples::of(DatagramType::Response), 68, &[11, 0, 0, 0]);
    let range = |start, end, limit| DecodeError::Range { start, end, limit };
    assert_eq!(decode(&reversed).unwrap_err(), range(11, 10, u64::from(u32::MAX)));
    let beyond = with(samples::of(DatagramType::Layout), 64, &[9, 0, 0, 0]);
    assert_eq!(decode(&beyond).unwrap_err(), range(9, 15, 14));
    let wraps = with(samples::of(DatagramType::Request), 64, &[0xff; 4]);
    assert_eq!(
        decode(&wraps).unwrap_err().to_string(),
        "range is wrong: expected at most 4294967295, found 4294967295..4294967297"
    );
}

#[test]
fn a_count_beyond_the_leaves_shows_as_a_cut_leaf() {
    for datagram_type in [DatagramType::Event, DatagramType::Response, DatagramType::Report] {
        let bytes = with(samples::of(datagram_type), 56, &[3, 0]);
        let (_, datagram) = decode(&bytes).expect("the header does not know");
        let (Datagram::Event(leaves) | Datagram::Report(leaves) | Datagram::Response(_, leaves)) =
            datagram
        else {
            panic!("no leaves")
        };
        let last = leaves.last().expect("two leaves and an error");
        assert_eq!(last, Err(LeafError::Cut { expected: 24, found: 0 }));
    }
}

#[test]
fn an_init_with_a_filter_that_is_too_long_or_no_text_has_none() {
    let long = with(samples::of(DatagramType::Init), 106, &513_u16.to_le_bytes());
    let Ok((_, Datagram::Init(init))) = decode(&long) else { panic!("not an init") };
    assert_eq!(init.filter_path(), None);
    let no_text = with(samples::of(DatagramType::Init), 112, &[0xff]);
    let Ok((_, Datagram::Init(init))) = decode(&no_text) else { panic!("not an init") };
    assert_eq!(init.filter_path(), None);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = meaning(&bytes);
        let _ = crate::wire::Pretty(&bytes).to_string();
    }

    #[test]
    fn random_bytes_under_a_right_header_checksum_never_panic(
        code in 1_u8..15,
        fields in any::<[u8; 60]>(),
        body in prop::collection::vec(any::<u8>(), 32..1_400),
    ) {
        let mut bytes = vec![0, 0, code, PROTOCOL_VERSION];
        bytes.extend_from_slice(&fields);
        bytes.extend_from_slice(&body);
        seal(&mut bytes);
        let _ = meaning(&bytes);
        let _ = crate::wire::Pretty(&bytes).to_string();
    }

    #[test]
    fn damaged_samples_never_panic_and_never_read_more_than_came(
        which in 0_usize..14,
        at in any::<prop::sample::Index>(),
        new in any::<u8>(),
        len in any::<prop::sample::Index>(),
    ) {
        let mut bytes = samples::of(DatagramType::ALL[which]);
        let at = at.index(bytes.len());
        bytes[at] = new;
        bytes.truncate(len.index(bytes.len()) + 1);
        let _ = meaning(&bytes);
    }

    #[test]
    fn any_header_of_any_size_comes_back(
        fields in any::<[u8; 56]>(),
        tail in prop::collection::vec(any::<u8>(), 0..3_000),
    ) {
        let mut raw = [0; DATAGRAM_HEADER_LEN];
        raw[8..].copy_from_slice(&fields);
        raw[2] = DatagramType::Ready.code();
        raw[3] = PROTOCOL_VERSION;
        raw[39] &= 0x7f;
        let header = Header::read_from_bytes(&raw).expect("64 bytes");
        let mut out = vec![0xee; 5];
        let place = encode(&mut out, &header, &(), &tail, 0);
        prop_assert_eq!(place.clone(), 5..5 + DATAGRAM_HEADER_LEN + tail.len());
        prop_assert!(place.len() <= DATAGRAM_SIZE_MAX);
        let (found, _) = decode(&out[place]).expect("just encoded");
        let fixed = |header: &Header| Header {
            datagram_size: Default::default(),
            header_checksum: U32::ZERO,
            ..*header
        };
        prop_assert_eq!(fixed(found), fixed(&header));
    }
}
