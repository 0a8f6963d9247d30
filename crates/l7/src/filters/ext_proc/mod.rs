//! What does an external processor make of this exchange? Envoy's `ext_proc` over gRPC.
//!
//! Heads are sent and their answers waited for; bodies are sent whole (`BUFFERED`), piece by piece with an
//! answer each (`STREAMED`), or both ways independently (`FULL_DUPLEX_STREAMED`); see `pipe.rs`. A request body
//! under full duplex is collected first: a processor that answers only when it has seen some of it then can.

mod message;
mod pipe;
mod session;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use http1::HeaderId;
use protos::envoy::config::core::v3 as core;
use protos::envoy::service::ext_proc::v3 as pb;
use protos::prost_types::Struct;
use proxy_config::Name;
use proxy_config::cel::Cel;
use proxy_config::common::Value;
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http::{self as config, BodyMode, ProcessingMode};
use telemetry::stats::Block;
use telemetry::stats::envoy::ext_proc as stat;

use self::message::{ProcessingResponse, Request, Response};
pub use self::pipe::Pipe;
use self::session::{Failure, Session};
use super::{FilterCx, FilterState, Step};
use crate::callout::wire::{self, HeaderEdit};
use crate::exchange::Exchange;
use crate::facts::facts;
use crate::manager::Deps;
use crate::reply::{Body, LocalReply};

/// Namespace of the filter's dynamic metadata and attributes.
const NAMESPACE: &str = "envoy.filters.http.ext_proc";
/// Bytes of a body that is sent whole.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The filter of one chain.
pub struct ExtProc {
    config: Arc<config::ExtProc>,
    stats: Block<stat::ExtProc>,
    request_attributes: Box<[(Name, Cel)]>,
}

/// The conversation about one exchange.
pub struct Active {
    session: Rc<RefCell<Option<Session>>>,
    context: Context,
    /// A body that the processor sends in pieces, as far as it has come.
    body: Vec<u8>,
}

/// What goes with every message.
#[derive(Clone, Default)]
pub struct Context {
    /// Attributes by namespace.
    pub attributes: BTreeMap<String, Struct>,
    /// Dynamic metadata.
    pub metadata: Option<core::Metadata>,
}

/// Which message was sent, and so what answer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
}

impl ExtProc {
    /// Compiles the filter.
    pub fn new(config: Arc<config::ExtProc>, stat_prefix: &Name, deps: &Deps<'_>) -> Arc<Self> {
        let own = config.stat_prefix.as_ref().map_or(String::new(), |p| format!("{p}."));
        let stats = deps.store.block(&format!("http.{stat_prefix}.ext_proc.{own}"));
        let attributes = config.request_attributes.iter();
        let request_attributes =
            attributes.filter_map(|n| Some((n.clone(), proxy_config::cel::parse(n).ok()?))).collect();
        Arc::new(ExtProc { config, stats, request_attributes })
    }

    /// Opens the conversation with the request head.
    pub fn on_request(self: &Arc<Self>, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let (mode, _, _) = self.settings(over);
        let duplex = mode.request_body == BodyMode::FullDuplexStreamed && !ex.request_ends_with_head;
        if duplex && !ex.body_collected && !ex.upgrade {
            return Step::Body(BODY_BYTES_MAX);
        }
        self.begin(cx, ex, over)
    }

    /// The body that was asked for is here: the whole conversation, or its next message.
    pub fn on_body(self: &Arc<Self>, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        if find(ex).is_none() {
            return self.begin(cx, ex, over);
        }
        self.send_request_body(ex)
    }

    fn settings(&self, over: Option<&FilterOverride>) -> (ProcessingMode, bool, proxy_config::common::GrpcService) {
        let c = &self.config;
        match over {
            Some(FilterOverride::ExtProc(o)) => (
                o.mode.unwrap_or(c.mode),
                o.failure_mode_allow.unwrap_or(c.failure_mode_allow),
                o.service.clone().unwrap_or_else(|| c.service.clone()),
            ),
            _ => (c.mode, c.failure_mode_allow, c.service.clone()),
        }
    }

    fn begin(self: &Arc<Self>, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let (mode, allow, service) = self.settings(over);
        let silent = ex.request_ends_with_head || ex.upgrade || mode.request_body == BodyMode::None;
        let response = mode.response_headers || mode.response_trailers || mode.response_body != BodyMode::None;
        if !mode.request_headers && silent && !response {
            return Step::Continue;
        }
        let context = self.context(cx, ex);
        let (this, worker) = (self.clone(), cx.conn.worker.clone());
        let head = mode.request_headers.then(|| {
            let ends = ex.request_ends_with_head && !ex.upgrade;
            Request::RequestHeaders(message::headers(&self.config, &ex.request, ends))
        });
        Step::Call(Box::pin(async move {
            let opened = Session::open(&worker, &service, this.config.clone(), mode, allow, this.stats.clone()).await;
            let answer: super::Answer = match opened {
                Err(failure) => Box::new(move |_| this.failed(failure, allow)),
                Ok(session) => Box::new(move |ex| {
                    let session = Rc::new(RefCell::new(Some(session)));
                    ex.filters.push(FilterState::ExtProc(Box::new(Active { session, context, body: Vec::new() })));
                    match head {
                        Some(head) => this.ask(ex, head, Asked::RequestHeaders),
                        None => this.after_request_head(ex),
                    }
                }),
            };
            answer
        }))
    }

    fn context(&self, cx: &FilterCx<'_>, ex: &Exchange) -> Context {
        let facts = facts(cx.conn, ex, cx.found);
        let given = self.request_attributes.iter().filter_map(|(name, expression)| {
            let mut text = Vec::new();
            let value = proxy_core::cel::eval(expression, &facts).ok()?;
            proxy_core::cel::write(&value, &mut text);
            Some((name.to_string(), wire::to_proto(&Value::String(String::from_utf8_lossy(&text).into()))))
        });
        let given: BTreeMap<_, _> = given.collect();
        let attributes = if given.is_empty() {
            BTreeMap::new()
        } else {
            BTreeMap::from([(NAMESPACE.to_owned(), Struct { fields: given })])
        };
        let namespaces = self.config.forwarding_namespaces.iter();
        let fields: BTreeMap<String, Struct> =
            namespaces.filter_map(|n| Some((n.to_string(), wire::to_struct(ex.metadata.get(n)?)))).collect();
        let metadata = (!fields.is_empty()).then(|| core::Metadata { filter_metadata: fields, ..Default::default() });
        Context { attributes, metadata }
    }

    /// Sends a message and waits for its answer.
    fn ask(self: &Arc<Self>, ex: &mut Exchange, request: Request, asked: Asked) -> Step {
        let Some(active) = find(ex) else { return Step::Continue };
        let (shared, context) = (active.session.clone(), active.context.clone());
        let Some(mut session) = shared.borrow_mut().take() else { return Step::Continue };
        let this = self.clone();
        if let Err(failure) = session.send(request, &context) {
            return this.failed(failure, session.failure_mode_allow);
        }
        if session.config.observability_mode {
            *shared.borrow_mut() = Some(session);
            return this.after(ex, asked);
        }
        let duplex = match asked {
            Asked::RequestHeaders | Asked::RequestBody => session.mode.request_body == BodyMode::FullDuplexStreamed,
            _ => session.mode.response_body == BodyMode::FullDuplexStreamed,
        };
        if duplex && asked == Asked::RequestHeaders && ex.body_collected {
            // The processor may want to see the body before it answers.
            let body = message::body(ex.buffered.clone(), true);
            if let Err(failure) = session.send(Request::RequestBody(body), &context) {
                return this.failed(failure, session.failure_mode_allow);
            }
        }
        Step::Call(Box::pin(async move {
            let answered = session.answer(!duplex).await;
            let allow = session.failure_mode_allow;
            let open = session.is_open();
            *shared.borrow_mut() = Some(session);
            let answer: super::Answer = match answered {
                Ok(answer) => Box::new(move |ex| this.answered(ex, answer, asked)),
                Err(Failure::Closed) if !open => Box::new(move |ex| this.after(ex, asked)),
                Err(failure) => Box::new(move |ex| match this.failed(failure, allow) {
                    Step::Continue => this.after(ex, asked),
                    other => other,
                }),
            };
            answer
        }))
    }

    fn answered(self: &Arc<Self>, ex: &mut Exchange, answer: ProcessingResponse, asked: Asked) -> Step {
        self.take_metadata(ex, &answer);
        if let (Some(new), true, Some(active)) = (&answer.mode_override, self.config.allow_mode_override, find(ex))
            && matches!(asked, Asked::RequestHeaders | Asked::ResponseHeaders)
            && let Some(session) = &mut *active.session.borrow_mut()
        {
            session.mode = message::overridden(session.mode, new);
        }
        if follows(asked, answer.response.as_ref()) {
            self.stats.inc(stat::STREAM_MSGS_RECEIVED);
        }
        match (asked, answer.response) {
            (_, Some(Response::ImmediateResponse(r))) if !self.config.disable_immediate_response => {
                self.stats.inc(stat::IMMEDIATE_RESPONSES_SENT);
                return immediate(ex, r);
            }
            (Asked::RequestHeaders, Some(Response::RequestHeaders(r)))
            | (Asked::ResponseHeaders, Some(Response::ResponseHeaders(r))) => {
                return self.head_answered(ex, r.response.unwrap_or_default(), asked);
            }
            (Asked::RequestBody, Some(Response::RequestBody(r)))
            | (Asked::ResponseBody, Some(Response::ResponseBody(r))) => {
                return self.body_answered(ex, r.response.unwrap_or_default(), asked);
            }
            (Asked::RequestTrailers, Some(Response::RequestTrailers(r))) => {
                self.mutate(r.header_mutation.as_ref(), &mut ex.request_trailers, false);
            }
            (Asked::ResponseTrailers, Some(Response::ResponseTrailers(r))) => {
                self.mutate(r.header_mutation.as_ref(), &mut ex.response_trailers, false);
            }
            _ => {
                self.stats.inc(stat::SPURIOUS_MSGS_RECEIVED);
                return self.misled(ex, "spurious_message", asked);
            }
        }
        self.after(ex, asked)
    }

    fn mutate(&self, m: Option<&pb::HeaderMutation>, block: &mut http1::HeaderBlock, head: bool) {
        self.stats.add(stat::REJECTED_HEADER_MUTATIONS, message::apply(m, block, head));
    }

    fn head_answered(self: &Arc<Self>, ex: &mut Exchange, r: pb::CommonResponse, asked: Asked) -> Step {
        let request = asked == Asked::RequestHeaders;
        let mut block = std::mem::take(if request { &mut ex.request } else { &mut ex.response });
        self.mutate(r.header_mutation.as_ref(), &mut block, true);
        *(if request { &mut ex.request } else { &mut ex.response }) = block;
        if r.clear_route_cache && request {
            ex.route_cleared = true;
        }
        if r.status == pb::common_response::ResponseStatus::ContinueAndReplace as i32 {
            // The answer holds the whole body: what the peer sends is not asked for any more.
            let body = message::new_body(r.body_mutation.as_ref()).unwrap_or_default();
            if let Some(active) = find(ex)
                && let Some(session) = &mut *active.session.borrow_mut()
            {
                let mode = &mut session.mode;
                *(if request { &mut mode.request_body } else { &mut mode.response_body }) = BodyMode::None;
            }
            if request {
                self.replace_request_body(ex, body);
            } else {
                ex.response.remove_id(HeaderId::TRANSFER_ENCODING);
                ex.response.remove_id(HeaderId::CONTENT_LENGTH);
                ex.unsized_response = true;
                ex.new_body = Some(body);
            }
            return Step::Continue;
        }
        self.after(ex, asked)
    }

    fn replace_request_body(&self, ex: &mut Exchange, body: Vec<u8>) {
        ex.request.remove_id(HeaderId::CONTENT_LENGTH);
        ex.drop_request_body = !ex.body_collected && !ex.request_ends_with_head;
        ex.request_ends_with_head = body.is_empty();
        ex.body_collected = true;
        ex.buffered = body;
    }

    fn body_answered(self: &Arc<Self>, ex: &mut Exchange, r: pb::CommonResponse, asked: Asked) -> Step {
        let request = asked == Asked::RequestBody;
        if request {
            let mut block = std::mem::take(&mut ex.request);
            self.mutate(r.header_mutation.as_ref(), &mut block, true);
            ex.request = block;
            if r.clear_route_cache {
                ex.route_cleared = true;
            }
        } else {
            let mut block = std::mem::take(&mut ex.response);
            self.mutate(r.header_mutation.as_ref(), &mut block, true);
            ex.response = block;
        }
        let mutation = r.body_mutation.as_ref();
        let block = if request { &ex.request } else { &ex.response };
        if message::streamed(mutation).is_none() && message::contradicts_length(mutation, block) {
            return self.misled(ex, "mismatch_between_content_length_and_the_length_of_the_mutated_body", asked);
        }
        let streamed = message::streamed(r.body_mutation.as_ref()).map(|(b, end)| (b.to_vec(), end));
        if let Some((piece, end)) = streamed {
            // Full duplex: pieces until the processor says that it was the last.
            let Some(active) = find(ex) else { return Step::Continue };
            active.body.extend_from_slice(&piece);
            if active.body.len() > BODY_BYTES_MAX {
                return self.drop_session(ex);
            }
            if !end {
                return self.wait(ex, asked);
            }
            let body = std::mem::take(&mut active.body);
            self.replace_request_body(ex, body);
        } else if let Some(body) = message::new_body(r.body_mutation.as_ref()) {
            if request {
                ex.buffered = body;
            } else {
                ex.unsized_response = !ex.response.has(HeaderId::CONTENT_LENGTH);
                ex.new_body = Some(body);
            }
        }
        self.after(ex, asked)
    }

    /// Waits for another answer without sending anything.
    fn wait(self: &Arc<Self>, ex: &mut Exchange, asked: Asked) -> Step {
        let Some(active) = find(ex) else { return Step::Continue };
        let shared = active.session.clone();
        let Some(mut session) = shared.borrow_mut().take() else { return Step::Continue };
        let this = self.clone();
        Step::Call(Box::pin(async move {
            let answered = session.answer(false).await;
            let allow = session.failure_mode_allow;
            *shared.borrow_mut() = Some(session);
            let answer: super::Answer = match answered {
                Ok(answer) => Box::new(move |ex| this.answered(ex, answer, asked)),
                Err(Failure::Closed) => Box::new(move |ex| this.after(ex, asked)),
                Err(failure) => Box::new(move |_| this.failed(failure, allow)),
            };
            answer
        }))
    }

    /// What follows a message that is dealt with.
    fn after(self: &Arc<Self>, ex: &mut Exchange, asked: Asked) -> Step {
        match asked {
            Asked::RequestHeaders => self.after_request_head(ex),
            Asked::RequestBody => {
                let trailers = !ex.request_trailers.is_empty();
                match mode(ex) {
                    Some(m) if m.request_trailers && trailers => {
                        let message = message::trailers(&self.config, &ex.request_trailers);
                        self.ask(ex, Request::RequestTrailers(message), Asked::RequestTrailers)
                    }
                    _ => Step::Continue,
                }
            }
            Asked::ResponseHeaders => self.after_response_head(ex),
            Asked::ResponseBody => match mode(ex) {
                Some(m) if m.response_trailers && !ex.response_trailers.is_empty() => {
                    let message = message::trailers(&self.config, &ex.response_trailers);
                    self.ask(ex, Request::ResponseTrailers(message), Asked::ResponseTrailers)
                }
                _ => self.done(ex),
            },
            Asked::RequestTrailers => Step::Continue,
            Asked::ResponseTrailers => self.done(ex),
        }
    }

    fn after_request_head(self: &Arc<Self>, ex: &mut Exchange) -> Step {
        let Some(m) = mode(ex) else { return Step::Continue };
        if ex.request_ends_with_head || ex.upgrade {
            return Step::Continue;
        }
        // The processor may change the body when the head is gone.
        if !matches!(m.request_body, BodyMode::None) && (m.request_body != BodyMode::Buffered || !m.request_headers) {
            ex.request.remove_id(HeaderId::CONTENT_LENGTH);
        }
        match m.request_body {
            BodyMode::None => Step::Continue,
            BodyMode::FullDuplexStreamed if ex.body_collected => self.wait(ex, Asked::RequestBody),
            _ if ex.body_collected => self.send_request_body(ex),
            BodyMode::Buffered => Step::Body(BODY_BYTES_MAX),
            BodyMode::BufferedPartial => Step::Beginning(BODY_BYTES_MAX),
            BodyMode::Streamed | BodyMode::FullDuplexStreamed => {
                ex.request_pipe = find(ex).map(|a| Box::new(Pipe::new(a, true)));
                ex.taps_request = true;
                Step::Continue
            }
        }
    }

    fn send_request_body(self: &Arc<Self>, ex: &mut Exchange) -> Step {
        let end = ex.body_collected && ex.request_trailers.is_empty();
        let body = message::body(ex.buffered.clone(), end);
        self.ask(ex, Request::RequestBody(body), Asked::RequestBody)
    }

    /// The response head is here.
    pub fn on_response(self: &Arc<Self>, ex: &mut Exchange, end: bool) -> Step {
        let Some(m) = mode(ex) else { return Step::Continue };
        ex.response_ends_with_head = end;
        if !m.response_headers {
            return self.after_response_head(ex);
        }
        let head = message::headers(&self.config, &ex.response, end);
        self.ask(ex, Request::ResponseHeaders(head), Asked::ResponseHeaders)
    }

    fn after_response_head(self: &Arc<Self>, ex: &mut Exchange) -> Step {
        let Some(m) = mode(ex) else { return Step::Continue };
        if ex.response_ends_with_head {
            return self.done(ex);
        }
        match m.response_body {
            BodyMode::None => self.done(ex),
            BodyMode::Buffered | BodyMode::BufferedPartial => Step::Body(BODY_BYTES_MAX),
            BodyMode::Streamed | BodyMode::FullDuplexStreamed => {
                ex.response.remove_id(HeaderId::CONTENT_LENGTH);
                ex.response_pipe = find(ex).map(|a| Box::new(Pipe::new(a, false)));
                ex.taps_response = true;
                Step::Continue
            }
        }
    }

    /// The whole response body is here.
    pub fn on_response_body(self: &Arc<Self>, ex: &mut Exchange, body: &[u8]) -> Step {
        let end = ex.response_trailers.is_empty();
        let message = message::body(body.to_vec(), end);
        self.ask(ex, Request::ResponseBody(message), Asked::ResponseBody)
    }

    fn done(&self, ex: &mut Exchange) -> Step {
        if let Some(active) = find(ex)
            && let Some(session) = &mut *active.session.borrow_mut()
        {
            session.close();
        }
        Step::Continue
    }

    fn drop_session(&self, ex: &mut Exchange) -> Step {
        self.done(ex)
    }

    fn take_metadata(&self, ex: &mut Exchange, answer: &ProcessingResponse) {
        let Some(given) = &answer.dynamic_metadata else { return };
        for (namespace, value) in wire::fields(given) {
            let wanted = self.config.receiving_namespaces.contains(&namespace);
            if let (true, Value::Struct(fields)) = (wanted, value) {
                super::merge_metadata_named(ex, namespace, (*fields).clone());
            }
        }
    }

    /// The processor failed: on without it, or not at all.
    fn failed(&self, failure: Failure, allow: bool) -> Step {
        telemetry::debug!(ext_proc, "the processor failed: {failure:?}");
        if allow || matches!(failure, Failure::Closed) {
            if allow && !matches!(failure, Failure::Closed) {
                self.stats.inc(stat::FAILURE_MODE_ALLOWED);
                if matches!(failure, Failure::Grpc(_)) {
                    // Envoy sees such an end twice when it goes on.
                    self.stats.inc(stat::SERVER_HALF_CLOSED);
                    self.stats.inc(stat::STREAMS_CLOSED);
                }
            }
            return Step::Continue;
        }
        self.stats.inc(stat::IMMEDIATE_RESPONSES_SENT);
        Step::reply(refusal(&failure))
    }

    /// The processor said what cannot be followed.
    fn misled(self: &Arc<Self>, ex: &mut Exchange, details: &'static str, asked: Asked) -> Step {
        let allow = find(ex).is_some_and(|a| a.session.borrow().as_ref().is_some_and(|s| s.failure_mode_allow));
        let _ = self.done(ex);
        if allow {
            self.stats.inc(stat::FAILURE_MODE_ALLOWED);
            return self.after(ex, asked);
        }
        self.stats.inc(stat::IMMEDIATE_RESPONSES_SENT);
        Step::reply(LocalReply { status: 500, details: details.into(), after_wait: true, ..Default::default() })
    }
}

/// Whether this is an answer to what was asked.
fn follows(asked: Asked, response: Option<&Response>) -> bool {
    matches!(
        (asked, response),
        (_, Some(Response::ImmediateResponse(_)))
            | (Asked::RequestHeaders, Some(Response::RequestHeaders(_)))
            | (Asked::ResponseHeaders, Some(Response::ResponseHeaders(_)))
            | (Asked::RequestBody, Some(Response::RequestBody(_)))
            | (Asked::ResponseBody, Some(Response::ResponseBody(_)))
            | (Asked::RequestTrailers, Some(Response::RequestTrailers(_)))
            | (Asked::ResponseTrailers, Some(Response::ResponseTrailers(_)))
    )
}

/// The answer when the processor failed.
fn refusal(failure: &Failure) -> LocalReply {
    let (status, details) = match failure {
        Failure::Timeout => (504, "ext_proc_error_per-message_timeout_exceeded".to_owned()),
        Failure::Grpc(s) => {
            let whose = if s.told { "{via_upstream}" } else { "" };
            (500, format!("ext_proc_error_gRPC_error_{}{{{}{whose}}}", s.code, s.message.replace(' ', "_")))
        }
        Failure::Closed => (500, "ext_proc_error".to_owned()),
    };
    LocalReply { status, details: details.into(), after_wait: true, ..Default::default() }
}

fn immediate(ex: &mut Exchange, r: pb::ImmediateResponse) -> Step {
    if let Some(active) = find(ex)
        && let Some(session) = &mut *active.session.borrow_mut()
    {
        session.close();
    }
    let status = r.status.and_then(|s| u16::try_from(s.code).ok()).filter(|s| (200..600).contains(s)).unwrap_or(200);
    let details = if r.details.is_empty() { "ext_proc".to_owned() } else { r.details.replace(' ', "_") };
    let mut reply = LocalReply { status, details: details.into(), after_wait: true, ..Default::default() };
    reply.body = Body::Owned(r.body);
    reply.grpc_status = r.grpc_status.map(|g| g.status);
    if let Some(m) = &r.headers {
        reply.edits = m.set_headers.iter().filter_map(|o| HeaderEdit::read(o, false)).collect();
    }
    Step::reply(reply)
}

fn find(ex: &mut Exchange) -> Option<&mut Active> {
    ex.filters.iter_mut().find_map(|s| match s {
        FilterState::ExtProc(a) => Some(&mut **a),
        _ => None,
    })
}

/// The mode in force while the processor listens.
fn mode(ex: &mut Exchange) -> Option<ProcessingMode> {
    let active = find(ex)?;
    let session = active.session.borrow();
    session.as_ref().filter(|s| s.is_open()).map(|s| s.mode)
}
