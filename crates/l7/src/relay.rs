//! How do the two bodies of an exchange move at the same time?
//!
//! Poll functions, one per direction, driven together by the router's one wait. Filters that look at
//! or change body data are called in between (`Taps`); without them bytes go from buffer to socket.

use std::task::{Context, Poll, ready};

use crate::exchange::Exchange;
use crate::side::{Lost, Piece, Side};
use crate::worker::Worker;

/// Which side failed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client's side.
    Down(Lost),
    /// The upstream side.
    Up(Lost),
    /// Neither: a filter answers instead (`exchange.refusal`).
    Filter,
}

/// What filters do to body data on its way.
pub trait Taps {
    /// Request data; may be changed in place. `end`: nothing follows.
    fn request(&mut self, exchange: &mut Exchange, data: &mut Vec<u8>, end: bool);
    /// Response data; may be changed in place.
    fn response(&mut self, exchange: &mut Exchange, data: &mut Vec<u8>, end: bool);
    /// Request data is wanted.
    fn wants_request(&self) -> bool;
    /// Response data is wanted.
    fn wants_response(&self) -> bool;
}

/// Progress of one try.
#[derive(Default)]
pub struct Relay {
    /// Chunk framing of the request is passed on.
    pub raw_request: bool,
    /// Chunk framing of the response is passed on.
    pub raw_response: bool,
    /// Request data is kept in `exchange.buffered` up to this many bytes, for another try.
    pub replay_bytes_max: usize,
    /// More was sent than is kept: no other try is possible.
    pub replay_lost: bool,
    /// The request was sent completely.
    pub request_done: bool,
    /// The response was sent completely.
    pub response_done: bool,
    /// Request trailers may be sent on.
    pub request_trailers: bool,
    /// Response trailers may be sent on.
    pub response_trailers: bool,
    scratch: Vec<u8>,
    /// Something moved since the last look (stream idle timeout).
    pub moved: bool,
}

impl Relay {
    /// Moves request data upstream until it is done or must wait.
    pub fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Side,
        up: &mut Side,
        exchange: &mut Exchange,
        taps: &mut impl Taps,
        worker: &Worker,
    ) -> Poll<Result<(), Fault>> {
        loop {
            if self.request_done {
                return up.poll_flush(cx, worker).map_err(Fault::Up);
            }
            if up.poll_room(cx, worker).map_err(Fault::Up)?.is_pending() {
                return Poll::Pending;
            }
            if exchange.request_pipe.is_some() {
                match self.poll_request_pipe(cx, up, exchange, worker)? {
                    Piped::Moved => continue,
                    Piped::Full => {
                        ready!(up.poll_flush(cx, worker)).map_err(Fault::Up)?;
                        return Poll::Pending;
                    }
                    Piped::Hungry => {}
                }
            }
            let piece = match down.poll_piece(cx, self.raw_request, worker) {
                Poll::Ready(p) => p.map_err(Fault::Down)?,
                Poll::Pending => {
                    ready!(up.poll_flush(cx, worker)).map_err(Fault::Up)?;
                    return Poll::Pending;
                }
            };
            self.moved = true;
            match piece {
                Piece::Bytes { at, data } => {
                    exchange.bytes_received += data as u64;
                    let mut bytes = down.bytes(&at);
                    if taps.wants_request() {
                        self.scratch.clear();
                        self.scratch.extend_from_slice(bytes);
                        taps.request(exchange, &mut self.scratch, false);
                        bytes = &self.scratch;
                    }
                    if let Some(pipe) = &mut exchange.request_pipe {
                        pipe.push(bytes, false);
                        continue;
                    }
                    if self.replay_bytes_max > 0 && !self.replay_lost {
                        if exchange.buffered.len() + bytes.len() > self.replay_bytes_max {
                            self.replay_lost = true;
                            exchange.buffered = Vec::new();
                        } else {
                            exchange.buffered.extend_from_slice(bytes);
                        }
                    }
                    up.send(bytes, worker).map_err(Fault::Up)?;
                }
                Piece::End => {
                    let trailers = down.take_trailers(&mut exchange.request_trailers);
                    if taps.wants_request() {
                        self.scratch.clear();
                        taps.request(exchange, &mut self.scratch, true);
                        if let Some(pipe) = &mut exchange.request_pipe {
                            pipe.push(&self.scratch, true);
                            continue;
                        }
                        up.send(&self.scratch, worker).map_err(Fault::Up)?;
                    }
                    let send = trailers && self.request_trailers;
                    up.finish(send.then_some(&exchange.request_trailers), worker).map_err(Fault::Up)?;
                    self.request_done = true;
                }
            }
        }
    }

    /// Moves response data downstream until it is done or must wait.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Side,
        up: &mut Side,
        exchange: &mut Exchange,
        taps: &mut impl Taps,
        worker: &Worker,
    ) -> Poll<Result<(), Fault>> {
        loop {
            if self.response_done {
                return down.poll_flush(cx, worker).map_err(Fault::Down);
            }
            if down.poll_room(cx, worker).map_err(Fault::Down)?.is_pending() {
                return Poll::Pending;
            }
            if exchange.response_pipe.is_some() {
                match self.poll_response_pipe(cx, down, exchange, worker)? {
                    Piped::Moved => continue,
                    Piped::Full => {
                        ready!(down.poll_flush(cx, worker)).map_err(Fault::Down)?;
                        return Poll::Pending;
                    }
                    Piped::Hungry => {}
                }
            }
            let piece = match up.poll_piece(cx, self.raw_response, worker) {
                Poll::Ready(p) => p.map_err(Fault::Up)?,
                Poll::Pending => {
                    ready!(down.poll_flush(cx, worker)).map_err(Fault::Down)?;
                    return Poll::Pending;
                }
            };
            self.moved = true;
            match piece {
                Piece::Bytes { at, data } => {
                    if taps.wants_response() {
                        self.scratch.clear();
                        self.scratch.extend_from_slice(up.bytes(&at));
                        taps.response(exchange, &mut self.scratch, false);
                        if let Some(pipe) = &mut exchange.response_pipe {
                            pipe.push(&self.scratch, false);
                            continue;
                        }
                        exchange.bytes_sent += self.scratch.len() as u64;
                        down.send(&self.scratch, worker).map_err(Fault::Down)?;
                    } else {
                        exchange.bytes_sent += data as u64;
                        down.send(up.bytes(&at), worker).map_err(Fault::Down)?;
                    }
                }
                Piece::End => {
                    let mut trailers = up.take_trailers(&mut exchange.response_trailers);
                    if taps.wants_response() {
                        self.scratch.clear();
                        taps.response(exchange, &mut self.scratch, true);
                        if let Some(pipe) = &mut exchange.response_pipe {
                            pipe.push(&self.scratch, true);
                            continue;
                        }
                        exchange.bytes_sent += self.scratch.len() as u64;
                        down.send(&self.scratch, worker).map_err(Fault::Down)?;
                        trailers = !exchange.response_trailers.is_empty();
                    }
                    let send = trailers && self.response_trailers;
                    down.finish(send.then_some(&exchange.response_trailers), worker).map_err(Fault::Down)?;
                    self.response_done = true;
                }
            }
        }
    }

    /// Moves what a request body's pipe has ready.
    fn poll_request_pipe(
        &mut self,
        cx: &mut Context<'_>,
        up: &mut Side,
        exchange: &mut Exchange,
        worker: &Worker,
    ) -> Result<Piped, Fault> {
        let Some(pipe) = &mut exchange.request_pipe else { return Ok(Piped::Hungry) };
        let polled = pipe.poll(cx, &mut self.scratch);
        match polled {
            Poll::Ready(Ok(Some(end))) => {
                self.moved = true;
                // What went through the pipe is not kept for another try.
                self.replay_lost = true;
                up.send(&self.scratch, worker).map_err(Fault::Up)?;
                if end {
                    exchange.request_pipe = None;
                    let send = self.request_trailers && !exchange.request_trailers.is_empty();
                    up.finish(send.then_some(&exchange.request_trailers), worker).map_err(Fault::Up)?;
                    self.request_done = true;
                }
                Ok(Piped::Moved)
            }
            Poll::Ready(Err(reply)) => {
                exchange.refusal = Some(reply);
                Err(Fault::Filter)
            }
            Poll::Pending | Poll::Ready(Ok(None)) => Ok(if pipe.has_room() { Piped::Hungry } else { Piped::Full }),
        }
    }

    /// Moves what a response body's pipe has ready.
    fn poll_response_pipe(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Side,
        exchange: &mut Exchange,
        worker: &Worker,
    ) -> Result<Piped, Fault> {
        let Some(pipe) = &mut exchange.response_pipe else { return Ok(Piped::Hungry) };
        match pipe.poll(cx, &mut self.scratch) {
            Poll::Ready(Ok(Some(end))) => {
                self.moved = true;
                exchange.bytes_sent += self.scratch.len() as u64;
                down.send(&self.scratch, worker).map_err(Fault::Down)?;
                if end {
                    exchange.response_pipe = None;
                    let send = self.response_trailers && !exchange.response_trailers.is_empty();
                    down.finish(send.then_some(&exchange.response_trailers), worker).map_err(Fault::Down)?;
                    self.response_done = true;
                }
                Ok(Piped::Moved)
            }
            Poll::Ready(Err(reply)) => {
                exchange.refusal = Some(reply);
                Err(Fault::Filter)
            }
            Poll::Pending | Poll::Ready(Ok(None)) => Ok(if pipe.has_room() { Piped::Hungry } else { Piped::Full }),
        }
    }
}

/// How a pipe stands.
enum Piped {
    /// Something came out.
    Moved,
    /// More may go in.
    Hungry,
    /// It must be waited for.
    Full,
}
