use std::task::Waker;

use loona_hpack::Encoder;
use proptest::prelude::*;
use tokio::io::AsyncReadExt;

use super::*;

const PREFACE: &[u8; PREFACE_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 0x4;
const END_STREAM: u8 = 0x1;
const STREAM: [u8; 4] = [0, 0, 0, 1];

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn request(authority: &[u8], more: &Fields) -> Fields {
    let pseudo = [(&b":method"[..], &b"POST"[..]), (b":scheme", b"http"), (b":path", b"/api.KV/Get")];
    let pseudo = pseudo.map(|(name, value)| (name.to_vec(), value.to_vec()));
    let mut fields = pseudo.to_vec();
    fields.push((b":authority".to_vec(), authority.to_vec()));
    fields.extend(more.iter().cloned());
    fields
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(kind, flags, STREAM, payload, &mut bytes);
    bytes
}

/// A header block in frames of so many bytes.
fn headers(encoder: &mut Encoder<'_>, fields: &Fields, frame_bytes: usize) -> Vec<u8> {
    let block = encoder.encode(fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
    let mut fragments = block.chunks(frame_bytes.max(block.len().div_ceil(MAX_BLOCK_FRAMES))).peekable();
    let mut bytes = Vec::new();
    let mut kind = HEADERS;
    while let Some(fragment) = fragments.next() {
        let end = if fragments.peek().is_none() { END_HEADERS } else { 0 };
        let flags = if kind == HEADERS { END_STREAM | end } else { end };
        bytes.extend(frame(kind, flags, fragment));
        kind = CONTINUATION;
    }
    bytes
}

/// What HTTP/2 reads, of a connection that brings so many bytes at a time.
fn filtered(bytes: &[u8], at_a_time: usize) -> io::Result<Vec<u8>> {
    let mut filter = AuthorityFilter::new(tokio::io::empty());
    for piece in bytes.chunks(at_a_time) {
        filter.receive(piece)?;
    }
    filter.receive(&[])?;
    Ok(filter.ready)
}

/// The frames of a connection, header blocks put together: kind, flags, payload.
fn frames(bytes: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
    let mut rest = bytes.strip_prefix(PREFACE).expect("the preface comes first");
    let mut all: Vec<(u8, u8, Vec<u8>)> = Vec::new();
    while let Some(length) = Frame::length(rest) {
        assert!(length <= MAX_FRAME_BYTES);
        let (whole, after) = rest.split_at(FRAME_HEADER_BYTES + length);
        let frame = Frame::whole(whole).unwrap();
        match all.last_mut() {
            Some((_, flags, block)) if frame.kind == CONTINUATION => {
                *flags |= frame.flags;
                block.extend_from_slice(frame.payload);
            }
            _ => all.push((frame.kind, frame.flags, frame.payload.to_vec())),
        }
        rest = after;
    }
    all
}

/// The same, with header blocks decoded as h2 would.
fn decoded(bytes: &[u8]) -> Vec<(u8, u8, Fields)> {
    let mut decoder = Decoder::new();
    let decode = |(kind, flags, payload): (u8, u8, Vec<u8>)| {
        let fields = match kind {
            HEADERS => decoder.decode(&payload).unwrap(),
            _ => vec![(Vec::new(), payload)],
        };
        (kind, flags, fields)
    };
    frames(bytes).into_iter().map(decode).collect()
}

static ODD: [&[u8]; 6] =
    [b"", b"%2Ftmp%2Fx.sock", b"#initially=[http://a:2379;http://b:2379]", b"a b", b"/tmp/x.sock", b"\xff"];

#[test]
fn an_authority_that_h2_refuses_is_replaced_and_nothing_else() {
    for authority in ODD {
        assert!(is_refused(authority), "{authority:?}");
        let more = vec![(b"te".to_vec(), b"trailers".to_vec()), (b"x".to_vec(), vec![b'v'; 300])];
        let (mut encoder, mut bytes) = (Encoder::new(), PREFACE.to_vec());
        bytes.extend(frame(SETTINGS, 0, &[]));
        bytes.extend(headers(&mut encoder, &request(authority, &more), 10));
        bytes.extend(frame(0, 0, b"data"));
        // By now the authority is an index into the dynamic table.
        bytes.extend(headers(&mut encoder, &request(authority, &more), MAX_FRAME_BYTES));
        let wanted = request(REPLACEMENT, &more);
        let data = |kind, payload: &[u8]| (kind, 0, vec![(Vec::new(), payload.to_vec())]);
        let request = || (HEADERS, END_STREAM | END_HEADERS, wanted.clone());
        let expected = [data(SETTINGS, b""), request(), data(0, b"data"), request()];
        for at_a_time in [1, 7, 1 << 20] {
            assert_eq!(decoded(&filtered(&bytes, at_a_time).unwrap()), expected);
        }
    }
}

#[test]
fn padding_goes_and_priority_stays() {
    let block = Encoder::new().encode([(&b":authority"[..], &b""[..])]);
    let priority = [0, 0, 0, 0, 7];
    let payload = [&[3], &priority[..], &block, &[0; 3]].concat();
    let bytes = [PREFACE, &frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &payload)[..]].concat();
    let frames = frames(&filtered(&bytes, 5).unwrap());
    let [(HEADERS, flags, payload)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(*flags, END_HEADERS | PRIORITY);
    assert_eq!(payload[..PRIORITY_BYTES], priority);
    let fields = Decoder::new().decode(&payload[PRIORITY_BYTES..]).unwrap();
    assert_eq!(fields, [(b":authority".to_vec(), REPLACEMENT.to_vec())]);
}

#[test]
fn frames_before_the_first_request_pass_at_once() {
    let mut filter = AuthorityFilter::new(tokio::io::empty());
    let ping = frame(6, 0, b"pingpong");
    let bytes = [PREFACE, &frame(SETTINGS, 0, &[])[..], &ping[..]].concat();
    filter.receive(&bytes).unwrap();
    assert_eq!(filter.ready, bytes);
}

#[test]
fn a_header_bomb_is_cut_off_just_beyond_the_bound() {
    // 4,000 bytes in the dynamic table, and then again and again by one byte each.
    let mut encoder = Encoder::new();
    let mut block = encoder.encode([(&b":authority"[..], &b""[..]), (b"bomb", &[b'b'; 3000])]);
    block.extend(std::iter::repeat_n(0x80 | 62, 10_000));
    let bytes = [PREFACE, &frame(HEADERS, END_HEADERS, &block)[..]].concat();
    let written = filtered(&bytes, 1 << 20).unwrap();
    assert!((MAX_LIST_BYTES..2 * MAX_LIST_BYTES).contains(&written.len()), "{}", written.len());
}

#[test]
fn a_block_of_too_many_frames_ends_a_connection_that_is_translated() {
    let mut encoder = Encoder::new();
    let mut bytes = PREFACE.to_vec();
    bytes.extend(headers(&mut encoder, &request(b"", &Vec::new()), MAX_FRAME_BYTES));
    bytes.extend(frame(HEADERS, 0, &[]));
    for _ in 0..MAX_BLOCK_FRAMES {
        bytes.extend(frame(CONTINUATION, 0, &[]));
    }
    assert_eq!(filtered(&bytes, 100).unwrap_err().kind(), io::ErrorKind::InvalidData);
    // As the first block it is h2's to judge.
    let first = [PREFACE, &bytes[bytes.len() - FRAME_HEADER_BYTES * (MAX_BLOCK_FRAMES + 1)..]].concat();
    assert_eq!(filtered(&first, 100).unwrap(), first);
}

fn fields() -> impl Strategy<Value = Fields> {
    let name = "[a-z][a-z0-9-]{0,12}".prop_map(String::into_bytes);
    let value = prop_oneof![Just(b"same".to_vec()), prop::collection::vec(any::<u8>(), 0..80)];
    prop::collection::vec((name, value), 0..12)
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(HEADERS), Just(CONTINUATION), 0u8..12];
    let block = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        fields().prop_map(|fields| {
            let fields = request(b"", &fields);
            Encoder::new().encode(fields.iter().map(|(name, value)| (&name[..], &value[..])))
        }),
    ];
    (kind, any::<u8>(), block).prop_map(|(kind, flags, payload)| frame(kind, flags, &payload))
}

proptest! {
    #[test]
    fn translated_requests_are_the_same_but_for_the_authority(
        requests in prop::collection::vec((prop::sample::select(&ODD[..]), fields(), 1usize..400), 1..8),
        at_a_time in 1usize..300,
    ) {
        let (mut encoder, mut bytes) = (Encoder::new(), PREFACE.to_vec());
        for (authority, more, frame_bytes) in &requests {
            bytes.extend(headers(&mut encoder, &request(authority, more), *frame_bytes));
        }
        let expected: Vec<_> = requests
            .iter()
            .map(|(_, more, _)| (HEADERS, END_STREAM | END_HEADERS, request(REPLACEMENT, more)))
            .collect();
        prop_assert_eq!(decoded(&filtered(&bytes, at_a_time)?), expected);
    }

    #[test]
    fn a_connection_with_a_good_authority_passes_byte_by_byte(
        more in fields(),
        after in prop::collection::vec(any::<u8>(), 0..200),
        at_a_time in 1usize..300,
    ) {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(headers(&mut Encoder::new(), &request(b"node-1:8400", &more), 50));
        bytes.extend(after);
        prop_assert_eq!(filtered(&bytes, at_a_time)?, bytes);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), at_a_time in 1usize..50) {
        let _ = filtered(&bytes, at_a_time);
        let _ = filtered(&[PREFACE, &bytes[..]].concat(), at_a_time);
    }

    #[test]
    fn odd_frames_never_panic_and_never_take_more_than_their_bound(
        frames in prop::collection::vec(any_frame(), 0..30),
        at_a_time in 1usize..300,
    ) {
        let bytes = [PREFACE, &frames.concat()[..]].concat();
        let mut filter = AuthorityFilter::new(tokio::io::empty());
        for piece in bytes.chunks(at_a_time) {
            if filter.receive(piece).is_err() {
                break;
            }
            if let State::Watching(watch) = &filter.state {
                prop_assert!(watch.block.bytes.len() <= MAX_BLOCK_BYTES);
                prop_assert!(watch.held_back.len() <= MAX_BLOCK_BYTES + MAX_BLOCK_FRAMES * (FRAME_HEADER_BYTES + 256));
            }
        }
    }

    #[test]
    fn reading_through_the_filter_gives_what_it_makes_ready(
        more in fields(),
        odd in any::<bool>(),
        room in 1usize..100,
    ) {
        let authority = if odd { &b""[..] } else { b"node" };
        let mut bytes = PREFACE.to_vec();
        bytes.extend(headers(&mut Encoder::new(), &request(authority, &more), 50));
        let mut filter = AuthorityFilter::new(&bytes[..]);
        let mut read = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let mut piece = vec![0; room];
            let mut future = std::pin::pin!(filter.read(&mut piece));
            let Poll::Ready(count) = future.as_mut().poll(&mut cx) else { panic!("a slice is always ready") };
            let count = count?;
            if count == 0 {
                break;
            }
            read.extend_from_slice(&piece[..count]);
        }
        prop_assert_eq!(read, filtered(&bytes, bytes.len())?);
    }
}
