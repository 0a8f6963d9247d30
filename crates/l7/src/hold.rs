//! How does a response wait for filters that ask somebody, or that want all of it?
//!
//! Entered only when a filter said so while it saw the response head. What a filter waits for is as on
//! the request side ([`Step`]); a collected body passes the filters before it at once, and those after it
//! when it is sent.

use std::rc::Rc;
use std::task::Poll;

use http1::{HeaderId, push_decimal};

use crate::connection::Conn;
use crate::down::Down;
use crate::exchange::Exchange;
use crate::filters::{self, Step, Wait};
use crate::reply::LocalReply;
use crate::side::Piece;
use crate::stream::{self, Found};
use crate::up::Up;

/// Where a response's body comes from.
pub enum Source<'a> {
    /// From upstream; read as needed.
    Upstream(&'a mut Up),
    /// Made here; all of it.
    Local(Vec<u8>),
}

/// A response as filters left it.
#[derive(Default)]
pub struct Held {
    /// The whole body, if a filter wanted it; else it is still where it was.
    pub body: Option<Vec<u8>>,
    /// The filters that have not seen that body: those below this number.
    pub seen_from: usize,
}

/// Runs the rest of the response side. `Err`: answer with this instead.
pub async fn respond(
    conn: &Rc<Conn>,
    down: &mut Down,
    found: Option<&Found>,
    ex: &mut Exchange,
    mut source: Source<'_>,
    ends: bool,
    first: Wait,
) -> Result<Held, LocalReply> {
    let mut held = Held { body: None, seen_from: 0 };
    let mut next = Some(first);
    while let Some(Wait { index, step }) = next {
        let mut step = step;
        loop {
            step = match step {
                Step::Continue | Step::Reroute => break,
                Step::Reply(reply) => {
                    return Err(LocalReply { direct: true, ..*reply });
                }
                Step::Delay(duration) => {
                    stream::wait_or_gone(conn, down, conn.worker.timers.sleep(duration)).await?;
                    Step::Continue
                }
                Step::Call(call) => {
                    let answer = stream::wait_or_gone(conn, down, call).await?;
                    answer(ex)
                }
                Step::Body(limit) | Step::Beginning(limit) => {
                    let mut body = match held.body.take() {
                        Some(mut body) => {
                            filters::pass_response_data(conn, found, ex, &mut body, true, index + 1..held.seen_from);
                            body
                        }
                        None if ends => Vec::new(),
                        None => collect(conn, down, found, ex, &mut source, index, limit).await?,
                    };
                    let step = conn.manager.filters[index].on_response_body(index, ex, &mut body);
                    held = Held { body: Some(body), seen_from: index };
                    step
                }
            };
            if let Some(body) = ex.new_body.take() {
                held = Held { body: Some(body), seen_from: index };
            }
        }
        next = filters::on_response_below(conn, found, ex, ends, index);
    }
    if let Some(body) = &held.body
        && !ex.unsized_response
    {
        let mut digits = Vec::new();
        push_decimal(&mut digits, body.len() as u64);
        ex.response.set_id(HeaderId::CONTENT_LENGTH, &digits);
    }
    Ok(held)
}

/// All of the body, as the filters after `index` (which see it first) leave it.
async fn collect(
    conn: &Conn,
    down: &mut Down,
    found: Option<&Found>,
    ex: &mut Exchange,
    source: &mut Source<'_>,
    index: usize,
    limit: usize,
) -> Result<Vec<u8>, LocalReply> {
    let all = conn.manager.filters.len();
    let up = match source {
        Source::Local(body) => {
            let mut body = std::mem::take(body);
            filters::pass_response_data(conn, found, ex, &mut body, true, index + 1..all);
            return Ok(body);
        }
        Source::Upstream(up) => up,
    };
    let worker = &conn.worker;
    let mut body = Vec::new();
    let mut piece = Vec::new();
    std::future::poll_fn(|cx| {
        loop {
            match up.side.poll_piece(cx, false, worker) {
                Poll::Ready(Ok(Piece::Bytes { at, .. })) => {
                    piece.clear();
                    piece.extend_from_slice(up.side.bytes(&at));
                    filters::pass_response_data(conn, found, ex, &mut piece, false, index + 1..all);
                    if body.len() + piece.len() > limit {
                        return Poll::Ready(Err(LocalReply {
                            direct: true,
                            ..LocalReply::text(500, "response payload too large", "response_payload_too_large")
                        }));
                    }
                    body.extend_from_slice(&piece);
                    continue;
                }
                Poll::Ready(Ok(Piece::End)) => {
                    up.side.take_trailers(&mut ex.response_trailers);
                    piece.clear();
                    filters::pass_response_data(conn, found, ex, &mut piece, true, index + 1..all);
                    body.extend_from_slice(&piece);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(_)) => {
                    let text = "upstream connect error or disconnect/reset before headers";
                    return Poll::Ready(Err(LocalReply {
                        direct: true,
                        ..LocalReply::text(502, text, "upstream_reset_after_response_started")
                    }));
                }
                Poll::Pending => {}
            }
            if down.side.received_all()
                && let Poll::Ready(lost) = down.side.poll_gone(cx, worker)
            {
                return Poll::Ready(Err(stream::gone(lost)));
            }
            return Poll::Pending;
        }
    })
    .await?;
    Ok(body)
}
