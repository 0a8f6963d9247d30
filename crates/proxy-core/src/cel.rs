//! What is the value of a CEL expression for these facts? A small evaluator over Envoy's attributes.
//!
//! Any error (unknown attribute, wrong type, overflow) makes the expression have no value; a condition without value
//! does not hold, as in Envoy.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxy_config::Name;
use proxy_config::cel::{Cel, CelFunction as F, Comprehension};
use proxy_config::common::Value;

use crate::facts::{Facts, TlsFacts};
use crate::matcher;

/// Steps of all comprehensions of one evaluation at most.
pub const STEPS_MAX: u32 = 10_000;

/// A CEL value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Val {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Arc<[Val]>),
    Map(Arc<[(Val, Val)]>),
    Duration(Duration),
    Timestamp(SystemTime),
    /// A group of attributes such as `request` or `request.headers`, resolved when something is selected from it.
    Attributes(&'static str),
}

/// There is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoValue;

type Res = Result<Val, NoValue>;

/// True when `e` evaluates to `true`.
pub fn is_true(e: &Cel, f: &Facts<'_>) -> bool {
    matches!(eval(e, f), Ok(Val::Bool(true)))
}

/// Evaluates `e`.
pub fn eval(e: &Cel, f: &Facts<'_>) -> Res {
    let mut env = Env { facts: f, vars: Vec::new(), steps: 0 };
    env.eval(e)
}

/// Prints a value as a format operator does; false for null.
pub fn write(v: &Val, out: &mut Vec<u8>) -> bool {
    use std::io::Write as _;
    match v {
        Val::Null | Val::Attributes(_) => false,
        Val::Bool(b) => write!(out, "{b}").is_ok(),
        Val::Int(n) => write!(out, "{n}").is_ok(),
        Val::Uint(n) => write!(out, "{n}").is_ok(),
        Val::Double(n) => write!(out, "{n}").is_ok(),
        Val::String(s) => out.write_all(s.as_bytes()).is_ok(),
        Val::Bytes(b) => out.write_all(b).is_ok(),
        Val::Duration(d) => write!(out, "{}s", d.as_secs_f64()).is_ok(),
        Val::Timestamp(t) => out.write_all(telemetry::time::rfc3339(*t).as_bytes()).is_ok(),
        Val::List(_) | Val::Map(_) => write!(out, "{v:?}").is_ok(),
    }
}

fn string(s: &str) -> Val {
    Val::String(s.into())
}

fn non_empty(s: &str) -> Res {
    if s.is_empty() { Err(NoValue) } else { Ok(string(s)) }
}

fn text(b: &[u8]) -> Val {
    Val::String(String::from_utf8_lossy(b).into())
}

fn from_value(v: &Value) -> Val {
    match v {
        Value::Null => Val::Null,
        Value::Bool(b) => Val::Bool(*b),
        Value::Number(n) => Val::Double(*n),
        Value::String(s) => Val::String(s.clone()),
        Value::List(l) => Val::List(l.iter().map(from_value).collect()),
        Value::Struct(m) => Val::Map(m.iter().map(|(k, v)| (Val::String(k.clone()), from_value(v))).collect()),
    }
}

struct Env<'f> {
    facts: &'f Facts<'f>,
    vars: Vec<(Name, Val)>,
    steps: u32,
}

impl Env<'_> {
    fn eval(&mut self, e: &Cel) -> Res {
        Ok(match e {
            Cel::Null => Val::Null,
            Cel::Bool(b) => Val::Bool(*b),
            Cel::Int(n) => Val::Int(*n),
            Cel::Uint(n) => Val::Uint(*n),
            Cel::Double(n) => Val::Double(*n),
            Cel::String(s) => Val::String(s.clone()),
            Cel::Bytes(b) => Val::Bytes(b.clone()),
            Cel::Ident(name) => return self.ident(name),
            Cel::Select { operand, field, test_only } => {
                let operand = self.eval(operand)?;
                let found = self.select(&operand, field);
                if *test_only {
                    Val::Bool(found.is_ok())
                } else {
                    return found;
                }
            }
            Cel::List(items) => Val::List(items.iter().map(|i| self.eval(i)).collect::<Result<Vec<_>, _>>()?.into()),
            Cel::Map(entries) => {
                let mut out = Vec::with_capacity(entries.len());
                for (k, v) in entries {
                    out.push((self.eval(k)?, self.eval(v)?));
                }
                Val::Map(out.into())
            }
            Cel::Call { function, args } => return self.call(*function, args),
            Cel::Comprehension(c) => return self.comprehension(c),
        })
    }

    fn ident(&mut self, name: &str) -> Res {
        if let Some((_, v)) = self.vars.iter().rev().find(|(n, _)| &**n == name) {
            return Ok(v.clone());
        }
        const ROOTS: [&str; 12] = [
            "request",
            "response",
            "connection",
            "source",
            "destination",
            "upstream",
            "metadata",
            "filter_state",
            "xds",
            "node",
            "upstream_peer",
            "downstream_peer",
        ];
        ROOTS.iter().find(|r| **r == name).map(|r| Val::Attributes(r)).ok_or(NoValue)
    }

    fn select(&mut self, operand: &Val, field: &str) -> Res {
        match operand {
            Val::Attributes(group) => self.attribute(group, field),
            Val::Map(entries) => entries
                .iter()
                .find(|(k, _)| matches!(k, Val::String(s) if &**s == field))
                .map(|(_, v)| v.clone())
                .ok_or(NoValue),
            _ => Err(NoValue),
        }
    }

    fn attribute(&self, group: &'static str, field: &str) -> Res {
        let f = self.facts;
        match group {
            "request" => self.request(field),
            "response" => self.response(field),
            "connection" => self.connection(field),
            "upstream" => self.upstream(field),
            "request.headers" => {
                f.request.and_then(|h| h.joined(field.to_ascii_lowercase().as_bytes())).map(|v| text(&v)).ok_or(NoValue)
            }
            "response.headers" => f
                .response
                .and_then(|h| h.joined(field.to_ascii_lowercase().as_bytes()))
                .map(|v| text(&v))
                .ok_or(NoValue),
            "response.trailers" => f
                .trailers
                .and_then(|h| h.joined(field.to_ascii_lowercase().as_bytes()))
                .map(|v| text(&v))
                .ok_or(NoValue),
            "source" => endpoint(f.downstream_remote, field),
            "destination" => endpoint(f.downstream_local, field),
            "metadata" if field == "filter_metadata" => Ok(Val::Attributes("filter_metadata")),
            "metadata" | "filter_metadata" => f.metadata.metadata(field).map(from_value).ok_or(NoValue),
            "filter_state" => {
                // Peers have fields of their own; under their old names, too.
                let peer = field.strip_prefix("wasm.").unwrap_or(field);
                match f.metadata.metadata(peer) {
                    Some(v) if peer == "downstream_peer" || peer == "upstream_peer" => Ok(from_value(v)),
                    _ => f.metadata.filter_state(field).map(text).ok_or(NoValue),
                }
            }
            "upstream_peer" | "downstream_peer" => {
                let peer = f.metadata.metadata(group).ok_or(NoValue)?;
                peer.get(field).map(from_value).ok_or(NoValue)
            }
            "xds" => match field {
                "cluster_name" => non_empty(f.upstream_cluster_raw),
                "route_name" => non_empty(f.route_name),
                "virtual_host_name" => non_empty(f.virtual_host_name),
                "filter_chain_name" => non_empty(f.filter_chain_name),
                _ => Err(NoValue),
            },
            _ => Err(NoValue),
        }
    }

    fn request(&self, field: &str) -> Res {
        let f = self.facts;
        let h = f.request;
        let header = |name: &[u8]| h.and_then(|h| h.get(name)).map(text).ok_or(NoValue);
        match field {
            "headers" => Ok(Val::Attributes("request.headers")),
            "path" => header(b":path"),
            "url_path" => h.and_then(|h| h.get(b":path")).map(|p| text(matcher::path_only(p))).ok_or(NoValue),
            "query" => h.and_then(|h| h.get(b":path")).map(|p| text(matcher::query_of(p))).ok_or(NoValue),
            "host" => header(b":authority"),
            "scheme" => header(b":scheme"),
            "method" => header(b":method"),
            "referer" => header(b"referer"),
            "useragent" => header(b"user-agent"),
            "id" => header(b"x-request-id"),
            "protocol" => non_empty(f.protocol),
            "time" => Ok(Val::Timestamp(f.start)),
            "duration" => f.marks.total.map(Val::Duration).ok_or(NoValue),
            "size" => Ok(Val::Int(f.bytes.received as i64)),
            "total_size" => Ok(Val::Int((f.bytes.received + f.bytes.downstream_header_received) as i64)),
            _ => Err(NoValue),
        }
    }

    fn response(&self, field: &str) -> Res {
        let f = self.facts;
        match field {
            "headers" => Ok(Val::Attributes("response.headers")),
            "trailers" => Ok(Val::Attributes("response.trailers")),
            "code" if f.response_code != 0 => Ok(Val::Int(i64::from(f.response_code))),
            "code_details" => non_empty(f.response_code_details),
            "flags" => Ok(Val::Int(i64::from(f.flags.bits()))),
            "size" => Ok(Val::Int(f.bytes.sent as i64)),
            "total_size" => Ok(Val::Int((f.bytes.sent + f.bytes.downstream_header_sent) as i64)),
            "grpc_status" => {
                let get = |h: Option<&dyn crate::HeaderView>| {
                    std::str::from_utf8(h?.get(b"grpc-status")?).ok()?.parse::<i64>().ok()
                };
                get(f.trailers).or_else(|| get(f.response)).map(Val::Int).ok_or(NoValue)
            }
            "backend_latency" => {
                let m = &f.marks;
                let d = m.upstream_rx_begin.zip(m.upstream_tx_begin).and_then(|(a, b)| a.checked_sub(b));
                d.map(Val::Duration).ok_or(NoValue)
            }
            _ => Err(NoValue),
        }
    }

    fn connection(&self, field: &str) -> Res {
        let f = self.facts;
        match field {
            "id" => Ok(Val::Uint(f.connection_id)),
            "mtls" => Ok(Val::Bool(f.downstream_tls.is_some_and(|t| t.peer_presented))),
            "requested_server_name" => Ok(string(f.requested_server_name)),
            "termination_details" => non_empty(f.connection_termination_details),
            "transport_failure_reason" => non_empty(f.downstream_transport_failure),
            other => tls(f.downstream_tls.as_ref(), other),
        }
    }

    fn upstream(&self, field: &str) -> Res {
        let f = self.facts;
        match field {
            "address" => f.upstream_host.map(|a| string(&a.to_string())).ok_or(NoValue),
            "port" => f.upstream_host.map(|a| Val::Int(i64::from(a.port()))).ok_or(NoValue),
            "local_address" => f.upstream_local.map(|a| string(&a.to_string())).ok_or(NoValue),
            "transport_failure_reason" => non_empty(f.upstream_transport_failure),
            "request_attempt_count" => Ok(Val::Uint(u64::from(f.attempts))),
            "locality" => Err(NoValue),
            other => tls(f.upstream_tls.as_ref(), other),
        }
    }

    fn comprehension(&mut self, c: &Comprehension) -> Res {
        let items: Vec<Val> = match self.eval(&c.iter_range)? {
            Val::List(l) => l.to_vec(),
            Val::Map(m) => m.iter().map(|(k, _)| k.clone()).collect(),
            _ => return Err(NoValue),
        };
        let mut accu = self.eval(&c.accu_init)?;
        let base = self.vars.len();
        for item in items {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err(NoValue);
            }
            self.vars.push((c.accu_var.clone(), accu));
            self.vars.push((c.iter_var.clone(), item));
            let step = match self.eval(&c.loop_condition) {
                Ok(Val::Bool(false)) => None,
                Ok(_) => Some(self.eval(&c.loop_step)),
                Err(e) => Some(Err(e)),
            };
            let (_, old) = self.vars.swap_remove(base);
            self.vars.truncate(base);
            match step {
                None => {
                    accu = old;
                    break;
                }
                Some(next) => accu = next?,
            }
        }
        self.vars.push((c.accu_var.clone(), accu));
        let out = self.eval(&c.result);
        self.vars.truncate(base);
        out
    }

    fn call(&mut self, function: F, args: &[Cel]) -> Res {
        match (function, args) {
            (F::And | F::Or, [a, b]) => {
                // Commutative: one decisive side is enough, even if the other has no value.
                let decisive = function == F::Or;
                let (a, b) = (self.eval(a), self.eval(b));
                let is = |r: &Res, want: bool| matches!(r, Ok(Val::Bool(v)) if *v == want);
                if is(&a, decisive) || is(&b, decisive) {
                    Ok(Val::Bool(decisive))
                } else if is(&a, !decisive) && is(&b, !decisive) {
                    Ok(Val::Bool(!decisive))
                } else {
                    Err(NoValue)
                }
            }
            (F::Conditional, [c, yes, no]) => match self.eval(c)? {
                Val::Bool(true) => self.eval(yes),
                Val::Bool(false) => self.eval(no),
                _ => Err(NoValue),
            },
            (F::NotStrictlyFalse, [a]) => Ok(Val::Bool(!matches!(self.eval(a), Ok(Val::Bool(false))))),
            (F::Index, [a, i]) => {
                let (a, i) = (self.eval(a)?, self.eval(i)?);
                self.index(&a, &i)
            }
            (F::In, [a, list]) => {
                let (a, list) = (self.eval(a)?, self.eval(list)?);
                match &list {
                    Val::List(l) => Ok(Val::Bool(l.iter().any(|v| equal(v, &a)))),
                    Val::Map(m) => Ok(Val::Bool(m.iter().any(|(k, _)| equal(k, &a)))),
                    Val::Attributes(_) => match &a {
                        Val::String(s) => Ok(Val::Bool(self.select(&list, s).is_ok())),
                        _ => Err(NoValue),
                    },
                    _ => Err(NoValue),
                }
            }
            (f, [a]) => {
                let a = self.eval(a)?;
                unary(f, a)
            }
            (f, [a, b]) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                binary(f, &a, &b)
            }
            _ => Err(NoValue),
        }
    }

    fn index(&mut self, a: &Val, i: &Val) -> Res {
        match (a, i) {
            (Val::List(l), Val::Int(n)) => usize::try_from(*n).ok().and_then(|n| l.get(n)).cloned().ok_or(NoValue),
            (Val::Map(m), key) => m.iter().find(|(k, _)| equal(k, key)).map(|(_, v)| v.clone()).ok_or(NoValue),
            (Val::Attributes(_), Val::String(s)) => self.select(a, s),
            _ => Err(NoValue),
        }
    }
}

fn endpoint(a: Option<std::net::SocketAddr>, field: &str) -> Res {
    match (a, field) {
        (Some(a), "address") => Ok(string(&a.to_string())),
        (Some(a), "port") => Ok(Val::Int(i64::from(a.port()))),
        _ => Err(NoValue),
    }
}

fn tls(t: Option<&TlsFacts<'_>>, field: &str) -> Res {
    let t = t.ok_or(NoValue)?;
    let first = |l: &[String]| l.first().map(|s| string(s)).ok_or(NoValue);
    match field {
        "tls_version" => non_empty(t.version),
        "subject_local_certificate" => non_empty(t.local_subject),
        "subject_peer_certificate" => non_empty(t.peer_subject),
        "dns_san_local_certificate" => first(t.local_dns_sans),
        "dns_san_peer_certificate" => first(t.peer_dns_sans),
        "uri_san_local_certificate" => first(t.local_uri_sans),
        "uri_san_peer_certificate" => first(t.peer_uri_sans),
        "sha256_peer_certificate_digest" => non_empty(t.peer_fingerprint_256),
        _ => Err(NoValue),
    }
}

/// Equality across number types, as CEL defines it.
fn equal(a: &Val, b: &Val) -> bool {
    match compare(a, b) {
        Some(o) => o.is_eq(),
        None => a == b,
    }
}

fn compare(a: &Val, b: &Val) -> Option<std::cmp::Ordering> {
    use Val as V;
    let number = |v: &Val| match v {
        V::Int(n) => Some(*n as f64),
        V::Uint(n) => Some(*n as f64),
        V::Double(n) => Some(*n),
        _ => None,
    };
    match (a, b) {
        (V::Int(x), V::Int(y)) => Some(x.cmp(y)),
        (V::Uint(x), V::Uint(y)) => Some(x.cmp(y)),
        (V::String(x), V::String(y)) => Some(x.cmp(y)),
        (V::Bytes(x), V::Bytes(y)) => Some(x.cmp(y)),
        (V::Bool(x), V::Bool(y)) => Some(x.cmp(y)),
        (V::Duration(x), V::Duration(y)) => Some(x.cmp(y)),
        (V::Timestamp(x), V::Timestamp(y)) => Some(x.cmp(y)),
        _ => number(a)?.partial_cmp(&number(b)?),
    }
}

fn unary(f: F, a: Val) -> Res {
    use Val as V;
    let parse = |s: &str| s.trim().to_owned();
    Ok(match (f, a) {
        (F::Not, V::Bool(b)) => V::Bool(!b),
        (F::Negate, V::Int(n)) => V::Int(n.checked_neg().ok_or(NoValue)?),
        (F::Negate, V::Double(n)) => V::Double(-n),
        (F::Size, V::String(s)) => V::Int(s.chars().count() as i64),
        (F::Size, V::Bytes(b)) => V::Int(b.len() as i64),
        (F::Size, V::List(l)) => V::Int(l.len() as i64),
        (F::Size, V::Map(m)) => V::Int(m.len() as i64),
        (F::Int, V::Int(n)) => V::Int(n),
        (F::Int, V::Uint(n)) => V::Int(i64::try_from(n).map_err(|_| NoValue)?),
        (F::Int, V::Double(n)) if n.abs() < 9.2e18 => V::Int(n as i64),
        (F::Int, V::String(s)) => V::Int(parse(&s).parse().map_err(|_| NoValue)?),
        (F::Uint, V::Int(n)) => V::Uint(u64::try_from(n).map_err(|_| NoValue)?),
        (F::Uint, V::Uint(n)) => V::Uint(n),
        (F::Uint, V::String(s)) => V::Uint(parse(&s).parse().map_err(|_| NoValue)?),
        (F::Double, V::Int(n)) => V::Double(n as f64),
        (F::Double, V::Uint(n)) => V::Double(n as f64),
        (F::Double, V::Double(n)) => V::Double(n),
        (F::Double, V::String(s)) => V::Double(parse(&s).parse().map_err(|_| NoValue)?),
        (F::Bytes, V::String(s)) => V::Bytes(s.as_bytes().into()),
        (F::LowerAscii, V::String(s)) => string(&s.to_ascii_lowercase()),
        (F::UpperAscii, V::String(s)) => string(&s.to_ascii_uppercase()),
        (F::Duration, V::String(s)) => V::Duration(duration(&s).ok_or(NoValue)?),
        (F::String, v) => {
            let mut out = Vec::new();
            if !write(&v, &mut out) {
                return Err(NoValue);
            }
            text(&out)
        }
        _ => return Err(NoValue),
    })
}

/// `1h2m3.5s`, `250ms`.
fn duration(s: &str) -> Option<Duration> {
    let mut rest = s;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let n: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += n * match &rest[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(total).ok()
}

fn binary(f: F, a: &Val, b: &Val) -> Res {
    use Val as V;
    let ordered = |want: fn(std::cmp::Ordering) -> bool| compare(a, b).map(|o| V::Bool(want(o))).ok_or(NoValue);
    match f {
        F::Eq => return Ok(V::Bool(equal(a, b))),
        F::Ne => return Ok(V::Bool(!equal(a, b))),
        F::Lt => return ordered(std::cmp::Ordering::is_lt),
        F::Le => return ordered(std::cmp::Ordering::is_le),
        F::Gt => return ordered(std::cmp::Ordering::is_gt),
        F::Ge => return ordered(std::cmp::Ordering::is_ge),
        _ => {}
    }
    Ok(match (f, a, b) {
        (F::Contains, V::String(a), V::String(b)) => V::Bool(a.contains(&**b)),
        (F::StartsWith, V::String(a), V::String(b)) => V::Bool(a.starts_with(&**b)),
        (F::EndsWith, V::String(a), V::String(b)) => V::Bool(a.ends_with(&**b)),
        (F::Matches, V::String(a), V::String(b)) => {
            // A partial match, as CEL's `matches`.
            let any: Cow<'_, str> = Cow::Owned(format!("(?s:.*)(?:{b})(?s:.*)"));
            V::Bool(proxy_config::matcher::FullRegex::new(&any).map_err(|_| NoValue)?.matches(a.as_bytes()))
        }
        (F::Add, V::String(a), V::String(b)) => string(&format!("{a}{b}")),
        (F::Add, V::List(a), V::List(b)) => V::List(a.iter().chain(b.iter()).cloned().collect()),
        (F::Add, V::Duration(a), V::Duration(b)) => V::Duration(a.checked_add(*b).ok_or(NoValue)?),
        (f, V::Int(a), V::Int(b)) => V::Int(
            match f {
                F::Add => a.checked_add(*b),
                F::Subtract => a.checked_sub(*b),
                F::Multiply => a.checked_mul(*b),
                F::Divide => a.checked_div(*b),
                F::Modulo => a.checked_rem(*b),
                _ => None,
            }
            .ok_or(NoValue)?,
        ),
        (f, V::Uint(a), V::Uint(b)) => V::Uint(
            match f {
                F::Add => a.checked_add(*b),
                F::Subtract => a.checked_sub(*b),
                F::Multiply => a.checked_mul(*b),
                F::Divide => a.checked_div(*b),
                F::Modulo => a.checked_rem(*b),
                _ => None,
            }
            .ok_or(NoValue)?,
        ),
        (f, V::Double(a), V::Double(b)) => V::Double(match f {
            F::Add => a + b,
            F::Subtract => a - b,
            F::Multiply => a * b,
            F::Divide => a / b,
            _ => return Err(NoValue),
        }),
        _ => return Err(NoValue),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header_view::HeaderList;

    fn check(text: &str, expect: Option<bool>) {
        let h = HeaderList::of(&[(":path", "/a/b?x=1"), (":method", "GET"), ("x-a", "1")]);
        let f = Facts { request: Some(&h), response_code: 503, ..Default::default() };
        let e = proxy_config::cel::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let got = match eval(&e, &f) {
            Ok(Val::Bool(b)) => Some(b),
            Ok(other) => panic!("{text}: {other:?}"),
            Err(NoValue) => None,
        };
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn expressions() {
        check("response.code >= 400", Some(true));
        check("request.url_path == '/a/b' && request.query.contains('x')", Some(true));
        check("request.headers['x-a'] == '1'", Some(true));
        check("request.headers['x-b'] == '1'", None);
        check("'x-b' in request.headers", Some(false));
        check("has(request.headers.nope) || true", Some(true));
        check("nope.field == 1 || response.code == 503", Some(true));
        check("nope.field == 1 && response.code == 503", None);
        check("[1, 2, 3].exists(x, x > 2)", Some(true));
        check("[1, 2, 3].all(x, x > 2)", Some(false));
        check("[1, 2, 3].filter(x, x > 1).size() == 2", Some(true));
        check("size([1, 2].map(x, x * 2)) == 2 && [1].map(x, x * 2)[0] == 2", Some(true));
        check("1 / 0 == 1", None);
        check("1 == 1.0 && 2u > 1", Some(true));
        check("request.method.matches('^G')", Some(true));
        check("connection.mtls", Some(false));
        check("(1 < 2 ? 'a' : 'b') == 'a'", Some(true));
        check("duration('1m30s') == duration('90s')", Some(true));
    }
}
