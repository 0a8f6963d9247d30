//! A client and a server connection talk to each other, and a server to bytes that no client should send.

use std::task::{Context, Poll, Waker};

use http1::HeaderBlock;
use http2::frame::{Head, PREFACE, code, flag, kind, put_number};
use http2::hpack::Encoder;
use http2::{Connection, Failure, Fatal, Key, Options, Role};

fn options(role: Role) -> Options {
    Options {
        role,
        stream_window: 65_535,
        connection_window: 65_535,
        max_streams: 10,
        header_list_bytes_max: 8_192,
        connect_protocol: true,
    }
}

fn block(fields: &[(&str, &str)]) -> HeaderBlock {
    let mut b = HeaderBlock::new();
    fields.iter().for_each(|(n, v)| b.add(n.as_bytes(), v.as_bytes()));
    b
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")];

/// Carries bytes both ways, in pieces of `step`, until nothing is left.
fn exchange(a: &mut Connection, b: &mut Connection, step: usize) {
    loop {
        let mut moved = false;
        for flip in [false, true] {
            let (from, to) = if flip { (&mut *b, &mut *a) } else { (&mut *a, &mut *b) };
            let bytes = from.unsent().to_vec();
            from.sent(bytes.len());
            for piece in bytes.chunks(step) {
                moved = true;
                to.receive(piece).unwrap();
            }
        }
        if !moved {
            return;
        }
    }
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// All of a body that is there; the flag says whether it is complete.
fn body(c: &mut Connection, key: Key) -> (Vec<u8>, bool) {
    let (mut all, mut piece) = (Vec::new(), Vec::new());
    loop {
        match c.poll_body(&mut cx(), key, &mut piece) {
            Poll::Ready(Ok(true)) => all.extend_from_slice(&piece),
            Poll::Ready(Ok(false)) => return (all, true),
            Poll::Ready(Err(e)) => panic!("{e:?}"),
            Poll::Pending => return (all, false),
        }
    }
}

#[test]
fn requests_and_responses_with_bodies_and_trailers() {
    for step in [1, 7, 100_000] {
        let (mut client, mut server) = (Connection::new(options(Role::Client)), Connection::new(options(Role::Server)));
        for round in 0..20 {
            let up = vec![b'u'; round * 10_000];
            let down = vec![b'd'; round * 7_000];
            let key = client.request(&block(&GET), up.is_empty()).unwrap();
            if !up.is_empty() {
                client.send(key, &up).unwrap();
                client.finish(key, (round % 2 == 0).then(|| block(&[("t", "up")])).as_ref()).unwrap();
            }
            exchange(&mut client, &mut server, step);
            let theirs = server.accept().unwrap();
            let mut head = HeaderBlock::new();
            let Poll::Ready(Ok(h)) = server.poll_head(&mut cx(), theirs, &mut head) else { panic!() };
            assert_eq!((h.ends, head.path(), head.authority()), (up.is_empty(), &b"/"[..], &b"a"[..]));
            let mut got = Vec::new();
            loop {
                let (more, complete) = body(&mut server, theirs);
                got.extend_from_slice(&more);
                if complete {
                    break;
                }
                exchange(&mut client, &mut server, step);
            }
            assert!(got == up, "{} of {}", got.len(), up.len());
            assert_eq!(server.take_trailers(theirs, &mut head), round % 2 == 0 && round > 0);
            server.respond(theirs, &block(&[(":status", "103"), ("link", "x")]), false, true).unwrap();
            server.respond(theirs, &block(&[(":status", "200"), ("x", "y")]), false, false).unwrap();
            server.send(theirs, &down).unwrap();
            server.finish(theirs, (round % 3 == 0).then(|| block(&[("t", "down")])).as_ref()).unwrap();
            server.release(theirs);
            exchange(&mut client, &mut server, step);
            for status in [103, 200] {
                assert!(
                    matches!(client.poll_head(&mut cx(), key, &mut head), Poll::Ready(Ok(h)) if !h.ends || down.is_empty())
                );
                assert_eq!(head.status(), Some(status));
            }
            let mut got = Vec::new();
            loop {
                let (more, complete) = body(&mut client, key);
                got.extend_from_slice(&more);
                if complete {
                    break;
                }
                exchange(&mut client, &mut server, step);
            }
            assert_eq!(got, down);
            assert_eq!(client.take_trailers(key, &mut head), round % 3 == 0);
            client.release(key);
            exchange(&mut client, &mut server, step);
            assert_eq!((client.active(), server.active()), (0, 0));
        }
    }
}

#[test]
fn giving_up_resets_and_the_other_side_hears_of_it() {
    let (mut client, mut server) = (Connection::new(options(Role::Client)), Connection::new(options(Role::Server)));
    let key = client.request(&block(&GET), false).unwrap();
    exchange(&mut client, &mut server, 1000);
    let theirs = server.accept().unwrap();
    client.release(key);
    exchange(&mut client, &mut server, 1000);
    assert_eq!(server.poll_failed(&mut cx(), theirs), Poll::Ready(Failure::Reset(code::CANCEL)));
    server.release(theirs);
    assert_eq!((client.active(), server.active()), (0, 0));
}

#[test]
fn drains_without_losing_requests() {
    let (mut client, mut server) = (Connection::new(options(Role::Client)), Connection::new(options(Role::Server)));
    exchange(&mut client, &mut server, 1000);
    let under_way = client.request(&block(&GET), true).unwrap();
    server.drain();
    exchange(&mut client, &mut server, 1000);
    assert!(client.request(&block(&GET), true).is_none());
    let theirs = server.accept().unwrap();
    assert!(!server.is_done());
    server.respond(theirs, &block(&[(":status", "200")]), true, false).unwrap();
    server.release(theirs);
    exchange(&mut client, &mut server, 1000);
    let mut head = HeaderBlock::new();
    assert!(matches!(client.poll_head(&mut cx(), under_way, &mut head), Poll::Ready(Ok(h)) if h.ends));
    client.release(under_way);
    assert!(server.is_done() && client.is_done());
}

/// Frames after a correct beginning, and what the server makes of them: a connection error or a stream's.
fn check(frames: &[Vec<u8>], expect: Result<Option<u32>, u32>) {
    let mut server = Connection::new(options(Role::Server));
    let mut input = PREFACE.to_vec();
    input.extend(frame(kind::SETTINGS, 0, 0, &[]));
    frames.iter().for_each(|f| input.extend_from_slice(f));
    let result = server.receive(&input);
    let out = server.unsent();
    let mut reset = None;
    let mut at = 0;
    while at < out.len() {
        let head = Head::read(out[at..at + 9].try_into().unwrap());
        if head.kind == kind::RST_STREAM {
            reset = Some(u32::from_be_bytes(out[at + 9..at + 13].try_into().unwrap()));
        }
        at += 9 + head.len;
    }
    match expect {
        Err(code) => assert_eq!(result, Err(Fatal(code)), "{frames:?}"),
        Ok(code) => assert_eq!((result, reset), (Ok(()), code), "{frames:?}"),
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Head { len: payload.len(), kind, flags, id }.put(&mut out);
    out.extend_from_slice(payload);
    out
}

fn headers(flags: u8, id: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut e = Encoder::default();
    for (n, v) in fields {
        e.field(&mut payload, http1::HeaderId::of(n.as_bytes()), n.as_bytes(), v.as_bytes());
    }
    // Each call begins with an empty table: literal fields only would be needed to reuse one.
    frame(kind::HEADERS, flags, id, &payload)
}

fn number(kind: u8, id: u32, n: u32) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, kind, id, n);
    out
}

#[test]
fn connection_errors() {
    let get = headers(flag::END_HEADERS, 1, &GET);
    let whole = headers(flag::END_HEADERS | flag::END_STREAM, 1, &GET);
    let (protocol, size, flow) =
        (Err(code::PROTOCOL_ERROR), Err(code::FRAME_SIZE_ERROR), Err(code::FLOW_CONTROL_ERROR));
    check(&[frame(kind::DATA, 0, 0, b"x")], protocol);
    check(&[frame(kind::DATA, 0, 1, b"x")], protocol);
    check(&[frame(kind::DATA, 0, 1, &[0; 16_385])], size);
    check(&[get.clone(), frame(kind::DATA, flag::PADDED, 1, &[9, 1, 2])], protocol);
    check(&[headers(flag::END_HEADERS, 2, &GET)], protocol);
    check(&[headers(flag::END_HEADERS, 3, &GET), get.clone()], Err(code::STREAM_CLOSED));
    check(&[headers(0, 1, &GET), frame(kind::PING, 0, 0, &[0; 8])], protocol);
    check(&[frame(kind::CONTINUATION, 0, 1, b"x")], protocol);
    check(&[frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xff; 4])], Err(code::COMPRESSION_ERROR));
    check(&[number(kind::RST_STREAM, 1, 8)], protocol);
    check(&[frame(kind::RST_STREAM, 0, 1, &[0; 3])], size);
    check(&[frame(kind::SETTINGS, flag::ACK, 0, &[0; 6])], size);
    check(&[frame(kind::SETTINGS, 0, 0, &[0; 5])], size);
    check(&[frame(kind::SETTINGS, 0, 1, &[])], protocol);
    check(&[frame(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])], protocol);
    check(&[frame(kind::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])], flow);
    check(&[frame(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])], protocol);
    check(&[frame(kind::PUSH_PROMISE, 0, 1, &[0; 8])], protocol);
    check(&[frame(kind::PING, 0, 0, &[0; 7])], size);
    check(&[frame(kind::PING, 0, 1, &[0; 8])], protocol);
    check(&[number(kind::WINDOW_UPDATE, 0, 0)], protocol);
    check(&[number(kind::WINDOW_UPDATE, 0, 0x7fff_ffff)], flow);
    check(&[number(kind::WINDOW_UPDATE, 1, 1)], protocol);
    check(&[whole.clone(), vec![0; 9]], protocol);
    let flood: Vec<_> = (0..1100).map(|_| frame(kind::PING, 0, 0, &[0; 8])).collect();
    check(&flood, Err(code::ENHANCE_YOUR_CALM));
    let empty: Vec<_> = std::iter::once(get.clone()).chain((0..100).map(|_| frame(kind::DATA, 0, 1, &[]))).collect();
    check(&empty, Err(code::ENHANCE_YOUR_CALM));
    let reset: Vec<_> = (0..600u32)
        .flat_map(|i| {
            let mut h = whole.clone();
            h[5..9].copy_from_slice(&(2 * i + 1).to_be_bytes());
            // The table already has the authority after the first request.
            [frame(kind::HEADERS, h[4], 2 * i + 1, &[0x82, 0x84, 0x86]), number(kind::RST_STREAM, 2 * i + 1, 8)]
        })
        .collect();
    check(&reset, Err(code::ENHANCE_YOUR_CALM));
}

#[test]
fn stream_errors() {
    let get = headers(flag::END_HEADERS, 1, &GET);
    let whole = headers(flag::END_HEADERS | flag::END_STREAM, 1, &GET);
    let protocol = Ok(Some(code::PROTOCOL_ERROR));
    check(std::slice::from_ref(&get), Ok(None));
    check(&[whole.clone(), frame(kind::DATA, 0, 1, b"x")], Ok(Some(code::STREAM_CLOSED)));
    check(&[get.clone(), number(kind::WINDOW_UPDATE, 1, 0)], protocol);
    check(&[get.clone(), number(kind::WINDOW_UPDATE, 1, 0x7fff_ffff)], Ok(Some(code::FLOW_CONTROL_ERROR)));
    check(&[get.clone(), frame(kind::HEADERS, flag::END_HEADERS, 1, &[])], protocol);
    check(&[headers(flag::END_HEADERS, 1, &[GET[0], GET[1]])], protocol);
    check(&[headers(flag::END_HEADERS, 1, &[GET[0], GET[1], GET[2], ("connection", "close")])], protocol);
    let sized = headers(flag::END_HEADERS, 1, &[GET[0], GET[1], GET[2], ("content-length", "3")]);
    check(&[sized.clone(), frame(kind::DATA, flag::END_STREAM, 1, b"abc")], Ok(None));
    check(&[sized.clone(), frame(kind::DATA, flag::END_STREAM, 1, b"ab")], protocol);
    check(&[sized, frame(kind::DATA, 0, 1, b"abcd")], protocol);
    check(&[frame(kind::PRIORITY, 0, 1, &[0; 4])], Ok(Some(code::FRAME_SIZE_ERROR)));
    let big = "x".repeat(9_000);
    check(&[headers(flag::END_HEADERS, 1, &[GET[0], GET[1], GET[2], ("big", &big)])], Ok(Some(code::NO_ERROR)));
    let many: Vec<_> =
        (0..11).map(|i| frame(kind::HEADERS, flag::END_HEADERS, 2 * i + 1, &[0x82, 0x84, 0x86])).collect();
    check(&many, Ok(Some(code::REFUSED_STREAM)));
}
