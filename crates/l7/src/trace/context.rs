//! How does a trace travel from one process to the next? B3 in both forms, and W3C trace context.

use std::fmt::Write;

use http1::{HeaderBlock, HeaderId};
use proxy_config::tracing::Zipkin;

/// Bytes of `tracestate` that are passed on at most.
const STATE_BYTES_MAX: usize = 512;

/// A span's place in its trace.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Context {
    /// Upper half of the trace id, 0 when ids are short.
    pub(super) high: u64,
    /// Lower half.
    pub(super) low: u64,
    /// The span.
    pub(super) span: u64,
    /// Its parent.
    pub(super) parent: Option<u64>,
    /// Is reported.
    pub(super) sampled: bool,
    /// The other end reports under the same id.
    pub(super) shared: bool,
    /// `tracestate`
    pub(super) state: Box<str>,
}

impl Context {
    /// A new span below this one.
    pub(super) fn child(&self, id: u64) -> Context {
        Context { span: id, parent: Some(self.span), shared: false, ..self.clone() }
    }

    pub(super) fn trace_hex(&self) -> String {
        if self.high == 0 { format!("{:016x}", self.low) } else { format!("{:016x}{:016x}", self.high, self.low) }
    }

    pub(super) fn span_hex(&self) -> String {
        format!("{:016x}", self.span)
    }
}

fn hex(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|t| !t.is_empty() && t.len() <= 16)?;
    text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// A trace id of 16 or 32 digits.
fn trace_id(text: &[u8]) -> Option<(u64, u64)> {
    match text.len() {
        32 => Some((hex(&text[..16])?, hex(&text[16..])?)),
        _ => Some((0, hex(text)?)),
    }
}

/// `b3: trace-span[-sampled[-parent]]`, or the decision alone.
fn b3_single(value: &[u8]) -> (Option<Context>, Option<bool>) {
    let decision = |v: &[u8]| match v {
        b"1" | b"d" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    };
    if value.len() == 1 {
        return (None, decision(value));
    }
    let mut parts = value.split(|b| *b == b'-');
    let context = (|| {
        let (high, low) = trace_id(parts.next()?)?;
        let span = hex(parts.next()?)?;
        Some(Context { high, low, span, ..Context::default() })
    })();
    let sampled = parts.next().and_then(decision);
    let parent = parts.next().and_then(hex);
    (context.map(|c| Context { parent, ..c }), sampled)
}

fn b3_many(headers: &HeaderBlock) -> (Option<Context>, Option<bool>) {
    let sampled = match (headers.get_id(HeaderId::X_B3_SAMPLED), headers.get_id(HeaderId::X_B3_FLAGS)) {
        (Some(v), _) => Some(v == b"1" || v == b"true"),
        (None, Some(b"1")) => Some(true),
        _ => None,
    };
    let context = (|| {
        let (high, low) = trace_id(headers.get_id(HeaderId::X_B3_TRACEID)?)?;
        let span = hex(headers.get_id(HeaderId::X_B3_SPANID)?)?;
        let parent = headers.get_id(HeaderId::X_B3_PARENTSPANID).and_then(hex).filter(|p| *p != 0);
        Some(Context { high, low, span, parent, ..Context::default() })
    })();
    (context, sampled)
}

/// `traceparent: 00-<trace>-<span>-<flags>`
fn traceparent(headers: &HeaderBlock) -> Option<Context> {
    let value = headers.get_id(HeaderId::TRACEPARENT)?;
    let mut parts = value.split(|b| *b == b'-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version.len() != 2 || version == b"ff" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
        return None;
    }
    hex(version)?;
    let (high, low) = trace_id(trace)?;
    let span = hex(span)?;
    if (high, low) == (0, 0) || span == 0 {
        return None;
    }
    let state = headers.get_id(HeaderId::TRACESTATE).and_then(|s| std::str::from_utf8(s).ok()).unwrap_or_default();
    Some(Context {
        high,
        low,
        span,
        sampled: hex(flags)? & 1 == 1,
        state: if state.len() <= STATE_BYTES_MAX { state.into() } else { Box::default() },
        ..Context::default()
    })
}

/// The span of a request under Zipkin's rules: a server shares its client's span unless told otherwise.
pub(super) fn zipkin(
    config: &Zipkin,
    client: bool,
    headers: &HeaderBlock,
    decided: bool,
    random: &mut dyn FnMut() -> u64,
) -> Context {
    let (mut told, mut sampled) = match headers.get_id(HeaderId::B3) {
        Some(value) => b3_single(value),
        None => b3_many(headers),
    };
    if told.is_none()
        && config.w3c
        && let Some(parent) = traceparent(headers)
    {
        sampled = sampled.or(Some(parent.sampled));
        told = Some(parent);
    }
    let sampled = sampled.unwrap_or(decided);
    match told {
        None => {
            let id = random();
            let high = if config.trace_id_128bit { random() } else { 0 };
            Context { high, low: id, span: id, sampled, ..Context::default() }
        }
        Some(told) if client || !config.shared_span_context || config.split_spans_for_request => {
            Context { sampled, ..told.child(random()) }
        }
        Some(told) => Context { sampled, shared: true, ..told },
    }
}

/// The span of a request under W3C's rules.
pub(super) fn w3c(headers: &HeaderBlock, decided: bool, random: &mut dyn FnMut() -> u64) -> Context {
    match traceparent(headers) {
        Some(parent) => parent.child(random()),
        None => Context { high: random(), low: random(), span: random(), sampled: decided, ..Context::default() },
    }
}

/// Writes B3 headers, and W3C's beside them if wanted.
pub(super) fn write_b3(context: &Context, w3c_too: bool, headers: &mut HeaderBlock) {
    headers.set_id(HeaderId::X_B3_TRACEID, context.trace_hex().as_bytes());
    headers.set_id(HeaderId::X_B3_SPANID, context.span_hex().as_bytes());
    match context.parent {
        Some(parent) => headers.set_id(HeaderId::X_B3_PARENTSPANID, format!("{parent:016x}").as_bytes()),
        None => {
            headers.remove_id(HeaderId::X_B3_PARENTSPANID);
        }
    }
    headers.set_id(HeaderId::X_B3_SAMPLED, if context.sampled { b"1" } else { b"0" });
    if w3c_too {
        write_w3c(context, headers);
    }
}

/// Writes `traceparent` and `tracestate`.
pub(super) fn write_w3c(context: &Context, headers: &mut HeaderBlock) {
    let mut text = String::with_capacity(55);
    let flags = u8::from(context.sampled);
    // Writing to a String cannot fail.
    let _ = write!(text, "00-{:016x}{:016x}-{:016x}-{flags:02x}", context.high, context.low, context.span);
    headers.set_id(HeaderId::TRACEPARENT, text.as_bytes());
    if !context.state.is_empty() {
        headers.set_id(HeaderId::TRACESTATE, context.state.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(headers: &[(&str, &str)]) -> HeaderBlock {
        let mut block = HeaderBlock::new();
        headers.iter().for_each(|(k, v)| block.add(k.as_bytes(), v.as_bytes()));
        block
    }

    fn config(shared: bool, long: bool, w3c: bool) -> Zipkin {
        Zipkin {
            collector_cluster: "z".into(),
            collector_endpoint: "/".into(),
            collector_hostname: None,
            trace_id_128bit: long,
            shared_span_context: shared,
            split_spans_for_request: false,
            w3c,
        }
    }

    fn counter() -> impl FnMut() -> u64 {
        let mut n = 0;
        move || {
            n += 1;
            n
        }
    }

    #[test]
    fn b3_in_both_forms() {
        let many = [
            ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"),
            ("x-b3-spanid", "a2fb4a1d1a96d312"),
            ("x-b3-sampled", "1"),
        ];
        let single = [("b3", "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1")];
        for headers in [&many[..], &single[..]] {
            let shared = zipkin(&config(true, false, false), false, &block(headers), false, &mut counter());
            assert!(shared.sampled && shared.shared);
            assert_eq!(
                (shared.trace_hex().as_str(), shared.span_hex().as_str()),
                ("463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312")
            );
            let child = zipkin(&config(true, false, false), true, &block(headers), false, &mut counter());
            assert_eq!((child.span, child.parent), (1, Some(0xa2fb_4a1d_1a96_d312)));
        }
        let off = zipkin(&config(true, true, false), false, &block(&[("b3", "0")]), true, &mut counter());
        assert_eq!((off.sampled, off.low, off.high, off.span), (false, 1, 2, 1));
        let broken = zipkin(
            &config(true, false, false),
            false,
            &block(&[("x-b3-traceid", "zz"), ("x-b3-spanid", "1")]),
            true,
            &mut counter(),
        );
        assert_eq!((broken.low, broken.sampled, broken.parent), (1, true, None));
    }

    #[test]
    fn w3c_round_trip() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let span = w3c(&block(&[("traceparent", parent), ("tracestate", "a=1")]), false, &mut counter());
        assert_eq!((span.sampled, span.span, span.parent), (true, 1, Some(0xb7ad_6b71_6920_3331)));
        let mut out = HeaderBlock::new();
        write_w3c(&span, &mut out);
        assert_eq!(out.get(b"traceparent"), Some(&b"00-0af7651916cd43dd8448eb211c80319c-0000000000000001-01"[..]));
        assert_eq!(out.get(b"tracestate"), Some(&b"a=1"[..]));
        for bad in [
            "00-0-1-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            let root = w3c(&block(&[("traceparent", bad)]), false, &mut counter());
            assert_eq!((root.parent, root.sampled), (None, false), "{bad}");
        }
        let both = zipkin(&config(true, true, true), false, &block(&[("traceparent", parent)]), false, &mut counter());
        assert!(both.sampled && both.shared);
    }
}
