//! How is a processor talked to during one exchange? The stream, its timeouts, what comes of failures.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use protos::envoy::service::ext_proc::v3 as pb;
use proxy_config::common::GrpcService;
use proxy_config::filters::http::{self as config, ProcessingMode};
use telemetry::stats::Block;
use telemetry::stats::envoy::ext_proc as stat;

use super::message::{self, ProcessingResponse, Request};
use crate::callout::grpc::{self, Stream};
use crate::timers::Timer;
use crate::worker::Worker;

/// The method of a processor.
const METHOD: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// One exchange's conversation with its processor.
pub struct Session {
    /// The filter's options.
    pub config: Arc<config::ExtProc>,
    /// What is sent; the processor may change it.
    pub mode: ProcessingMode,
    /// Failures do not matter.
    pub failure_mode_allow: bool,
    /// Counters of the filter.
    pub stats: Block<stat::ExtProc>,
    /// Makes attributes and metadata of a message.
    stream: Option<Stream>,
    worker: Rc<Worker>,
    timer: Timer,
    deadline: u64,
    told_modes: bool,
}

/// Why a processor's answer is missing.
#[derive(Debug)]
pub enum Failure {
    /// It took too long.
    Timeout,
    /// The call failed.
    Grpc(grpc::Status),
    /// The processor ended the stream: it has no more to say.
    Closed,
}

impl Session {
    /// Opens the stream.
    pub async fn open(
        worker: &Rc<Worker>,
        service: &GrpcService,
        config: Arc<config::ExtProc>,
        mode: ProcessingMode,
        failure_mode_allow: bool,
        stats: Block<stat::ExtProc>,
    ) -> Result<Session, Failure> {
        let timeout = service.timeout.unwrap_or(Duration::ZERO);
        let stream = Stream::open(worker, service, METHOD, timeout, &[]).await;
        let stream = stream.map_err(|e| Failure::Grpc(e.into()));
        if stream.is_err() {
            stats.inc(stat::STREAMS_FAILED);
        }
        let stream = stream?;
        stats.inc(stat::STREAMS_STARTED);
        Ok(Session {
            config,
            mode,
            failure_mode_allow,
            stats,
            stream: Some(stream),
            worker: worker.clone(),
            timer: worker.timers.timer(),
            deadline: u64::MAX,
            told_modes: false,
        })
    }

    /// Whether the processor still listens.
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Queues a message, and starts the clock for its answer.
    pub fn send(&mut self, request: Request, context: &super::Context) -> Result<(), Failure> {
        let Some(stream) = &mut self.stream else { return Err(Failure::Closed) };
        let message = pb::ProcessingRequest {
            request: Some(request),
            protocol_config: (!self.told_modes).then(|| message::first(&self.mode)),
            // Attributes of the request are told once.
            attributes: if self.told_modes { Default::default() } else { context.attributes.clone() },
            metadata_context: context.metadata.clone(),
            observability_mode: self.config.observability_mode,
            ..Default::default()
        };
        self.told_modes = true;
        self.stats.inc(stat::STREAM_MSGS_SENT);
        if let Err(e) = stream.send(&message) {
            return Err(self.fail(Failure::Grpc(e.into())));
        }
        self.deadline = self.worker.timers.now() + self.config.message_timeout.as_millis() as u64;
        Ok(())
    }

    /// The next answer. `timed`: within the message timeout.
    pub fn poll_answer(&mut self, cx: &mut Context<'_>, timed: bool) -> Poll<Result<ProcessingResponse, Failure>> {
        loop {
            let Some(stream) = &mut self.stream else { return Poll::Ready(Err(Failure::Closed)) };
            match stream.poll_message::<ProcessingResponse>(cx) {
                Poll::Ready(Ok(Some(answer))) => {
                    if answer.response.is_none()
                        && let Some(longer) = &answer.override_message_timeout
                    {
                        self.extend(longer);
                        continue;
                    }
                    return Poll::Ready(Ok(answer));
                }
                Poll::Ready(Ok(None)) => {
                    self.stats.inc(stat::SERVER_HALF_CLOSED);
                    self.stats.inc(stat::STREAMS_CLOSED);
                    self.stream = None;
                    return Poll::Ready(Err(Failure::Closed));
                }
                Poll::Ready(Err(status)) => {
                    if status.told {
                        self.stats.inc(stat::SERVER_HALF_CLOSED);
                    }
                    return Poll::Ready(Err(self.fail(Failure::Grpc(status))));
                }
                Poll::Pending => {}
            }
            if timed && !self.config.message_timeout.is_zero() {
                if self.worker.timers.now() >= self.deadline {
                    self.stats.inc(stat::MESSAGE_TIMEOUTS);
                    return Poll::Ready(Err(self.fail(Failure::Timeout)));
                }
                self.timer.arm(self.deadline, cx.waker());
            }
            return Poll::Pending;
        }
    }

    /// The next answer.
    pub async fn answer(&mut self, timed: bool) -> Result<ProcessingResponse, Failure> {
        std::future::poll_fn(|cx| self.poll_answer(cx, timed)).await
    }

    fn extend(&mut self, longer: &protos::prost_types::Duration) {
        self.stats.inc(stat::OVERRIDE_MESSAGE_TIMEOUT_RECEIVED);
        let asked = Duration::new(longer.seconds.max(0) as u64, longer.nanos.max(0) as u32);
        let most = self.config.max_message_timeout;
        if asked < Duration::from_millis(1) || asked > most {
            self.stats.inc(stat::OVERRIDE_MESSAGE_TIMEOUT_IGNORED);
            return;
        }
        self.deadline = self.worker.timers.now() + asked.as_millis() as u64;
    }

    /// Drops the stream after a failure.
    fn fail(&mut self, failure: Failure) -> Failure {
        self.stream = None;
        match &failure {
            Failure::Timeout => self.stats.inc(stat::STREAMS_CLOSED),
            _ => self.stats.inc(stat::STREAMS_FAILED),
        }
        failure
    }

    /// Ends the stream: nothing more is asked.
    pub fn close(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            // Whether the processor still hears it changes nothing.
            let _ = stream.finish();
            self.stats.inc(stat::STREAMS_CLOSED);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}
