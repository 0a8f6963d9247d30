//! Either end of an HTTP/2 connection against any bytes, whole and in pieces, while its streams are used.

use std::task::{Context, Poll, Waker};

use http1::HeaderBlock;
use http2::{Connection, Fatal, Key, Options, Role};

fn connection(role: Role) -> Connection {
    Connection::new(Options {
        role,
        stream_window: 65_535,
        connection_window: 65_535,
        max_streams: 8,
        header_list_bytes_max: 4_096,
        connect_protocol: true,
    })
}

fn block(fields: &[(&str, &str)]) -> HeaderBlock {
    let mut b = HeaderBlock::new();
    fields.iter().for_each(|(n, v)| b.add(n.as_bytes(), v.as_bytes()));
    b
}

/// Takes what came for a stream; true when its message is complete or broken off.
fn take(c: &mut Connection, key: Key) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    let (mut head, mut body) = (HeaderBlock::new(), Vec::new());
    while let Poll::Ready(Ok(_)) = c.poll_head(&mut cx, key, &mut head) {}
    loop {
        match c.poll_body(&mut cx, key, &mut body) {
            Poll::Ready(Ok(true)) => assert!(!body.is_empty()),
            Poll::Ready(Ok(false)) => {
                c.take_trailers(key, &mut head);
                return true;
            }
            Poll::Ready(Err(_)) => return true,
            Poll::Pending => return false,
        }
    }
}

/// Feeds a connection and then uses its streams; yields the verdict and what was sent by then.
fn run(role: Role, pieces: &[&[u8]]) -> (Result<(), Fatal>, Vec<u8>) {
    let mut c = connection(role);
    let mut keys = Vec::new();
    if role == Role::Client {
        let get = block(&[(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")]);
        keys.extend([c.request(&get, true), c.request(&get, false)].into_iter().flatten());
    }
    let mut verdict = Ok(());
    for piece in pieces {
        verdict = c.receive(piece);
        if verdict.is_err() {
            break;
        }
    }
    let said = c.unsent().to_vec();
    keys.extend(std::iter::from_fn(|| c.accept()));
    for (i, key) in keys.into_iter().enumerate() {
        take(&mut c, key);
        if role == Role::Server && i % 2 == 0 {
            let _ = c.respond(key, &block(&[(":status", "200")]), false, false);
        }
        let _ = c.send(key, &[b'x'; 20_000]);
        if i % 3 == 0 {
            let _ = c.finish(key, None);
        }
        c.release(key);
    }
    let n = c.unsent().len();
    c.sent(n);
    let _ = c.receive(pieces.last().unwrap_or(&&[][..]));
    (verdict, said)
}

fn both(role: Role, data: &[u8]) {
    let (a, b) = data.split_at(data.len() / 3);
    assert_eq!(run(role, &[data]), run(role, &[a, b]), "the verdict may not depend on where the bytes were cut");
}

/// What a client may send.
pub fn server(data: &[u8]) {
    both(Role::Server, data);
}

/// What a server may send.
pub fn client(data: &[u8]) {
    both(Role::Client, data);
}
