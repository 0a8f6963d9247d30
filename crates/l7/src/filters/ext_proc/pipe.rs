//! How does a body pass through a processor piece by piece? Polled by the relay between its two sides.
//!
//! Pieces go through after all other filters' taps of that direction have seen them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context as Waiting, Poll};

use protos::envoy::service::ext_proc::v3 as pb;
use proxy_config::filters::http::BodyMode;
use telemetry::stats::envoy::ext_proc as stat;

use super::message::{self, Request, Response};
use super::session::{Failure, Session};
use super::{Active, Context, refusal};
use crate::reply::LocalReply;

/// Bytes with the processor before more is taken from the source.
const IN_FLIGHT_BYTES_MAX: usize = 256 << 10;

/// One direction of one exchange.
pub struct Pipe {
    session: Rc<RefCell<Option<Session>>>,
    context: Context,
    request: bool,
    /// Pieces that were sent and not answered, as they were.
    in_flight: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Answers are not one per piece.
    duplex: bool,
    /// The source has no more.
    ended: bool,
    /// The processor is out of the way.
    open: bool,
    failed: Option<Box<LocalReply>>,
}

impl Pipe {
    /// A pipe through the exchange's processor.
    pub fn new(active: &Active, request: bool) -> Self {
        let session = active.session.clone();
        let mode = session.borrow().as_ref().map(|s| s.mode);
        let mode = mode.map(|m| if request { m.request_body } else { m.response_body });
        Pipe {
            session,
            context: active.context.clone(),
            request,
            in_flight: VecDeque::new(),
            bytes: 0,
            duplex: mode == Some(BodyMode::FullDuplexStreamed),
            ended: false,
            open: false,
            failed: None,
        }
    }

    /// Whether more may be pushed.
    pub fn has_room(&self) -> bool {
        !self.ended && self.bytes < IN_FLIGHT_BYTES_MAX
    }

    /// Takes a piece from the source; `end`: there is no more.
    pub fn push(&mut self, data: &[u8], end: bool) {
        if data.is_empty() && !end {
            return;
        }
        self.ended |= end;
        self.bytes += data.len();
        self.in_flight.push_back(data.to_vec());
        if self.open {
            return;
        }
        let body = message::body(data.to_vec(), end);
        let request = if self.request { Request::RequestBody(body) } else { Request::ResponseBody(body) };
        let sent = match &mut *self.session.borrow_mut() {
            Some(session) => session.send(request, &self.context),
            None => Err(Failure::Closed),
        };
        if let Err(failure) = sent {
            self.fail(&failure);
        }
    }

    /// The next piece for the sink, in `out`: whether it is the last. `None`: nothing is on its way.
    pub fn poll(&mut self, cx: &mut Waiting<'_>, out: &mut Vec<u8>) -> Poll<Result<Option<bool>, Box<LocalReply>>> {
        out.clear();
        loop {
            if let Some(reply) = self.failed.take() {
                return Poll::Ready(Err(reply));
            }
            if self.open {
                return Poll::Ready(Ok(self.rest(out)));
            }
            if self.in_flight.is_empty() && !self.duplex {
                return Poll::Ready(Ok(None));
            }
            let answer = match &mut *self.session.borrow_mut() {
                Some(session) => session.poll_answer(cx, !self.duplex),
                None => Poll::Ready(Err(Failure::Closed)),
            };
            match answer {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(failure)) => self.fail(&failure),
                Poll::Ready(Ok(answer)) => match (self.request, self.noted(answer.response)) {
                    (true, Some(Response::RequestBody(r))) | (false, Some(Response::ResponseBody(r))) => {
                        return Poll::Ready(Ok(Some(self.answered(r, out))));
                    }
                    (_, Some(Response::ImmediateResponse(r))) => {
                        let status = r.status.and_then(|s| u16::try_from(s.code).ok()).unwrap_or(500);
                        let mut reply = LocalReply { status, details: "ext_proc".into(), ..Default::default() };
                        reply.body = crate::reply::Body::Owned(r.body);
                        return Poll::Ready(Err(Box::new(reply)));
                    }
                    // Answers to trailers, or to what was not asked.
                    _ => {}
                },
            }
        }
    }

    /// Counts an answer.
    fn noted(&self, response: Option<Response>) -> Option<Response> {
        if let Some(session) = &*self.session.borrow() {
            session.stats.inc(stat::STREAM_MSGS_RECEIVED);
        }
        response
    }

    fn answered(&mut self, r: pb::BodyResponse, out: &mut Vec<u8>) -> bool {
        let common = r.response.unwrap_or_default();
        // The head is gone: what would change it is left out, and counted as such.
        if let (Some(m), Some(session)) = (&common.header_mutation, &*self.session.borrow()) {
            let mut gone = http1::HeaderBlock::new();
            session.stats.add(stat::REJECTED_HEADER_MUTATIONS, message::apply(Some(m), &mut gone, true));
        }
        if let Some((piece, end)) = message::streamed(common.body_mutation.as_ref()) {
            out.extend_from_slice(piece);
            self.bytes = 0;
            return end;
        }
        let original = self.in_flight.pop_front().unwrap_or_default();
        self.bytes = self.bytes.saturating_sub(original.len());
        match message::new_body(common.body_mutation.as_ref()) {
            Some(body) => out.extend_from_slice(&body),
            None => out.extend_from_slice(&original),
        }
        self.ended && self.in_flight.is_empty()
    }

    /// What is left passes as it is.
    fn rest(&mut self, out: &mut Vec<u8>) -> Option<bool> {
        if self.in_flight.is_empty() && !self.ended {
            return None;
        }
        for piece in self.in_flight.drain(..) {
            out.extend_from_slice(&piece);
        }
        self.bytes = 0;
        Some(self.ended)
    }

    fn fail(&mut self, failure: &Failure) {
        let allow = self.session.borrow().as_ref().is_none_or(|s| s.failure_mode_allow);
        self.open = true;
        if !allow && !matches!(failure, Failure::Closed) {
            self.failed = Some(Box::new(refusal(failure)));
        }
    }
}
