//! What can a script do? The objects of Envoy's Lua API: handle, headers, body, metadata, stream info.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use http1::{HeaderBlock, HeaderId, push_decimal};
use mlua::{Error, Lua as Vm, MetaMethod, Result, Table, UserData, UserDataMethods, Value as LuaValue};
use proxy_config::Name;
use proxy_config::common::Value;

use crate::callout::wire::{Action, HeaderEdit};
use crate::callout::{self, Request};
use crate::exchange::Exchange;
use crate::filters::FilterCx;
use crate::worker::Worker;

/// What the error says that ends a script after `respond`.
pub const RESPONDED: &str = "proa: responded";

/// Which message a script is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The request.
    Request,
    /// The response.
    Response,
}

/// What a script did besides changing its message.
pub enum Effect {
    /// Dynamic metadata: namespace, key, value.
    Metadata(Name, Name, Value),
    /// The route is to be found anew.
    ClearRoute,
    /// This host is preferred.
    OverrideHost(String, bool),
}

/// The message and all that a script can reach, while it runs.
pub struct Shared {
    /// Which message.
    pub side: Side,
    /// Its head.
    block: HeaderBlock,
    trailers: HeaderBlock,
    /// Its body, once asked for.
    pub body: Option<Vec<u8>>,
    has_body: bool,
    /// The script waits for the body.
    pub wants_body: bool,
    /// The head was changed.
    pub changed: bool,
    /// What the script answers with.
    pub reply: Option<(u16, Vec<HeaderEdit>, Vec<u8>)>,
    /// The script ended by answering.
    pub replied: bool,
    /// What else it did.
    pub effects: Vec<Effect>,
    route_metadata: Value,
    dynamic: Vec<(Name, Value)>,
    info: Info,
    worker: Rc<Worker>,
}

#[derive(Clone, Default)]
struct Info {
    protocol: &'static str,
    route: String,
    virtual_cluster: String,
    downstream_local: String,
    downstream_direct_local: String,
    downstream_remote: String,
    downstream_direct_remote: String,
    upstream_host: Option<String>,
    upstream_cluster: Option<String>,
    server_name: String,
    tls: Option<Tls>,
    state: Vec<(String, String)>,
}

#[derive(Clone, Default)]
struct Tls {
    presented: bool,
    validated: bool,
    uri_sans: Vec<String>,
    dns_sans: Vec<String>,
    subject: String,
    local_uri_sans: Vec<String>,
    sha256: String,
}

impl Shared {
    /// What a script that starts now may see.
    pub fn new(cx: &FilterCx<'_>, ex: &Exchange, side: Side, has_body: bool, filter: &str) -> Self {
        let facts = &cx.conn.facts;
        let tls = crate::facts::downstream_tls(cx.conn).map(|t| Tls {
            presented: t.peer_presented,
            validated: t.peer_validated,
            uri_sans: t.peer_uri_sans.to_vec(),
            dns_sans: t.peer_dns_sans.to_vec(),
            subject: t.peer_subject.to_owned(),
            local_uri_sans: t.local_uri_sans.to_vec(),
            sha256: t.peer_fingerprint_256.to_owned(),
        });
        let route_metadata = cx.found.and_then(|f| f.route().metadata.filter(filter)).cloned();
        Shared {
            side,
            block: HeaderBlock::new(),
            trailers: HeaderBlock::new(),
            body: None,
            has_body,
            wants_body: false,
            changed: false,
            reply: None,
            replied: false,
            effects: Vec::new(),
            route_metadata: route_metadata.unwrap_or(Value::Null),
            dynamic: ex.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            info: Info {
                protocol: ex.protocol.as_str(),
                route: ex.route_name.as_deref().unwrap_or("").to_owned(),
                virtual_cluster: String::new(),
                downstream_local: facts.local.to_string(),
                downstream_direct_local: facts.direct_local.to_string(),
                downstream_remote: ex.remote.unwrap_or(facts.remote).to_string(),
                downstream_direct_remote: facts.direct_remote.to_string(),
                upstream_host: ex.upstream.remote.map(|a| a.to_string()),
                upstream_cluster: ex.upstream.cluster.as_ref().map(|c| c.to_string()),
                server_name: facts.server_name.as_deref().unwrap_or("").to_owned(),
                tls,
                state: ex.state.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            },
            worker: cx.conn.worker.clone(),
        }
    }

    /// Takes the message out of the exchange.
    pub fn enter(&mut self, ex: &mut Exchange) {
        self.swap(ex);
    }

    /// Gives it back.
    pub fn leave(&mut self, ex: &mut Exchange) {
        self.swap(ex);
    }

    fn swap(&mut self, ex: &mut Exchange) {
        let (block, trailers) = match self.side {
            Side::Request => (&mut ex.request, &mut ex.request_trailers),
            Side::Response => (&mut ex.response, &mut ex.response_trailers),
        };
        std::mem::swap(&mut self.block, block);
        std::mem::swap(&mut self.trailers, trailers);
    }
}

type Rcs = Rc<RefCell<Shared>>;

/// What the script's function is called with.
pub struct Handle(pub Rcs);

struct Headers {
    shared: Rcs,
    trailers: bool,
}

struct Buffer(Rcs);
struct Metadata(Value);
struct StreamInfo(Rcs);
struct Dynamic(Rcs);
struct Connection(Rcs);
struct Ssl(Tls);
struct FilterStates(Rcs);

/// Makes a state safe, and gives it what Envoy's has besides the standard libraries.
pub fn install(vm: &Vm) -> Result<()> {
    // Compiled code would not be interrupted.
    vm.load("jit.off() jit = nil load = nil loadfile = nil dofile = nil collectgarbage = nil").exec()?;
    let globals = vm.globals();
    let log = vm.create_function(|_, args: mlua::Variadic<LuaValue>| {
        let texts: Vec<String> = args.iter().map(|v| v.to_string().unwrap_or_default()).collect();
        telemetry::info!(lua, "script log: {}", texts.join("\t"));
        Ok(())
    })?;
    globals.set("print", log)?;
    let resolution = vm.create_table()?;
    resolution.set("MILLISECOND", 0)?;
    resolution.set("MICROSECOND", 1)?;
    globals.set("EnvoyTimestampResolution", resolution)
}

impl UserData for Handle {
    fn add_methods<M: UserDataMethods<Self>>(m: &mut M) {
        m.add_method("headers", |_, this, ()| Ok(Headers { shared: this.0.clone(), trailers: false }));
        m.add_method("trailers", |_, this, ()| {
            let none = this.0.borrow().trailers.is_empty();
            Ok((!none).then(|| Headers { shared: this.0.clone(), trailers: true }))
        });
        m.add_async_method("body", |_, this, always: Option<bool>| async move {
            let shared = this.0.clone();
            if !body(&shared).await && !always.unwrap_or(false) {
                return Ok(None);
            }
            shared.borrow_mut().body.get_or_insert_default();
            Ok(Some(Buffer(shared)))
        });
        // The body comes as one chunk.
        m.add_async_method("bodyChunks", |vm, this, ()| async move {
            let shared = this.0.clone();
            let some = body(&shared).await;
            let once = std::cell::Cell::new(some);
            vm.create_function(move |_, ()| Ok(once.take().then(|| Buffer(shared.clone()))))
        });
        m.add_async_method("httpCall", |vm, this, args: mlua::Variadic<LuaValue>| async move {
            http_call(&vm, this.0.clone(), args).await
        });
        m.add_method("respond", |_, this, (headers, body): (Table, Option<mlua::LuaString>)| {
            respond(&mut this.0.borrow_mut(), &headers, body)?;
            Err::<(), _>(Error::runtime(RESPONDED))
        });
        m.add_method("metadata", |_, this, ()| Ok(Metadata(this.0.borrow().route_metadata.clone())));
        m.add_method("streamInfo", |_, this, ()| Ok(StreamInfo(this.0.clone())));
        m.add_method("connectionStreamInfo", |_, this, ()| Ok(StreamInfo(this.0.clone())));
        m.add_method("connection", |_, this, ()| Ok(Connection(this.0.clone())));
        m.add_method("clearRouteCache", |_, this, ()| {
            this.0.borrow_mut().effects.push(Effect::ClearRoute);
            Ok(())
        });
        m.add_method("setUpstreamOverrideHost", |_, this, (host, strict): (String, Option<bool>)| {
            this.0.borrow_mut().effects.push(Effect::OverrideHost(host, strict.unwrap_or(false)));
            Ok(())
        });
        m.add_method("base64Escape", |_, _, text: mlua::LuaString| {
            Ok(base64::engine::general_purpose::STANDARD.encode(&*text.as_bytes()))
        });
        m.add_method("timestamp", |_, this, resolution: Option<i64>| {
            let since = now(&this.0);
            Ok(if resolution == Some(1) { since.as_micros() as f64 } else { since.as_millis() as f64 })
        });
        m.add_method("timestampString", |_, this, resolution: Option<i64>| {
            let since = now(&this.0);
            Ok(if resolution == Some(1) { since.as_micros() } else { since.as_millis() }.to_string())
        });
        macro_rules! logs {
            ($($name:literal $level:ident),*) => {$(
                m.add_method($name, |_, _, text: mlua::LuaString| {
                    telemetry::$level!(lua, "script log: {}", text.to_string_lossy());
                    Ok(())
                });
            )*};
        }
        logs!("logTrace" trace, "logDebug" debug, "logInfo" info, "logWarn" warn, "logErr" error, "logCritical" error);
    }
}

fn now(shared: &Rcs) -> Duration {
    let worker = shared.borrow().worker.clone();
    worker.wall(tokio::time::Instant::now()).duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Waits until the body is here; false if there is none.
async fn body(shared: &Rcs) -> bool {
    std::future::poll_fn(|_| {
        let mut s = shared.borrow_mut();
        if s.body.is_some() || !s.has_body {
            return Poll::Ready(s.body.is_some());
        }
        s.wants_body = true;
        Poll::Pending
    })
    .await
}

fn edits(headers: &Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut out = Vec::new();
    for pair in headers.pairs::<mlua::LuaString, LuaValue>() {
        let (name, value) = pair?;
        let name = name.as_bytes().to_ascii_lowercase();
        match value {
            LuaValue::Table(list) => {
                for v in list.sequence_values::<mlua::LuaString>() {
                    out.push((name.clone(), v?.as_bytes().to_vec()));
                }
            }
            other => out.push((name, other.to_string()?.into_bytes())),
        }
    }
    Ok(out)
}

fn respond(s: &mut Shared, headers: &Table, body: Option<mlua::LuaString>) -> Result<()> {
    if s.side == Side::Response {
        return Err(Error::runtime("respond not currently supported in the response path"));
    }
    let mut status = None;
    let mut out = Vec::new();
    for (name, value) in edits(headers)? {
        if name == b":status" {
            status = std::str::from_utf8(&value).ok().and_then(|v| v.parse::<u16>().ok());
        } else {
            out.push(HeaderEdit { name, value, action: Action::Set });
        }
    }
    let status = status.filter(|s| (200..600).contains(s));
    let status = status.ok_or_else(|| Error::runtime(":status must be between 200-599"))?;
    s.reply = Some((status, out, body.map(|b| b.as_bytes().to_vec()).unwrap_or_default()));
    s.replied = true;
    Ok(())
}

async fn http_call(vm: &Vm, shared: Rcs, args: mlua::Variadic<LuaValue>) -> Result<(LuaValue, LuaValue)> {
    let mut args = args.into_iter();
    let (cluster, headers, body, timeout, options) = (args.next(), args.next(), args.next(), args.next(), args.next());
    let Some(LuaValue::String(cluster)) = cluster else { return Err(Error::runtime("bad cluster")) };
    let Some(LuaValue::Table(headers)) = headers else { return Err(Error::runtime("bad headers")) };
    let timeout = match timeout {
        Some(LuaValue::Integer(ms)) if ms >= 0 => Duration::from_millis(ms as u64),
        Some(LuaValue::Number(ms)) if ms >= 0.0 => Duration::from_millis(ms as u64),
        None | Some(LuaValue::Nil) => Duration::ZERO,
        _ => return Err(Error::runtime("http call timeout must be >= 0")),
    };
    let fire_and_forget = match options {
        Some(LuaValue::Boolean(b)) => b,
        Some(LuaValue::Table(t)) => t.get::<Option<bool>>("asynchronous")?.unwrap_or(false),
        _ => false,
    };
    let mut request = Request { timeout, ..Default::default() };
    let given = edits(&headers)?;
    for (name, value) in given.iter().filter(|(n, _)| n.starts_with(b":")) {
        request.head.add(name, value);
    }
    for (name, value) in given.iter().filter(|(n, _)| !n.starts_with(b":")) {
        request.head.add(name, value);
    }
    let complete = [HeaderId::PATH, HeaderId::METHOD, HeaderId::AUTHORITY].iter().all(|id| request.head.has(*id));
    if !complete {
        return Err(Error::runtime("http call headers must include ':path', ':method', and ':authority'"));
    }
    if let Some(LuaValue::String(body)) = body {
        request.body = body.as_bytes().to_vec();
        let mut digits = Vec::new();
        push_decimal(&mut digits, request.body.len() as u64);
        request.head.set_id(HeaderId::CONTENT_LENGTH, &digits);
    }
    let worker = shared.borrow().worker.clone();
    let cluster = cluster.to_string_lossy();
    if crate::pool::cluster(&worker, &cluster).is_none() {
        return Err(Error::runtime("http call cluster invalid. Must be configured"));
    }
    if fire_and_forget {
        tokio::task::spawn_local(async move {
            // Nobody waits for the answer.
            let _ = callout::call(&worker, &cluster, request).await;
        });
        return Ok((LuaValue::Nil, LuaValue::Nil));
    }
    let answer = callout::call(&worker, &cluster, request).await;
    let table = vm.create_table()?;
    let body = match answer {
        Ok(answer) => {
            for (name, value) in answer.head.iter() {
                let key = vm.create_string(name)?;
                if !table.contains_key(&key)? {
                    table.set(key, vm.create_string(value)?)?;
                }
            }
            answer.body
        }
        Err(e) => {
            telemetry::debug!(lua, "httpCall failed: {e:?}");
            table.set(":status", "503")?;
            b"upstream failure".to_vec()
        }
    };
    let body = if body.is_empty() { LuaValue::Nil } else { LuaValue::String(vm.create_string(&body)?) };
    Ok((LuaValue::Table(table), body))
}

impl Headers {
    fn with<T>(&self, look: impl FnOnce(&mut HeaderBlock) -> T) -> T {
        let mut s = self.shared.borrow_mut();
        look(if self.trailers { &mut s.trailers } else { &mut s.block })
    }

    fn change(&self, change: impl FnOnce(&mut HeaderBlock)) {
        self.shared.borrow_mut().changed = true;
        self.with(change);
    }
}

fn name(n: &mlua::LuaString) -> Vec<u8> {
    n.as_bytes().to_ascii_lowercase()
}

impl UserData for Headers {
    fn add_methods<M: UserDataMethods<Self>>(m: &mut M) {
        m.add_method("get", |vm, this, n: mlua::LuaString| {
            let values = this.with(|b| {
                let all: Vec<Vec<u8>> = b.get_all(&name(&n)).map(<[u8]>::to_vec).collect();
                all
            });
            if values.is_empty() { Ok(None) } else { vm.create_string(values.join(&b","[..])).map(Some) }
        });
        m.add_method("getAtIndex", |vm, this, (n, i): (mlua::LuaString, usize)| {
            let value = this.with(|b| b.get_all(&name(&n)).nth(i).map(<[u8]>::to_vec));
            value.map(|v| vm.create_string(v)).transpose()
        });
        m.add_method("getNumValues", |_, this, n: mlua::LuaString| Ok(this.with(|b| b.get_all(&name(&n)).count())));
        m.add_method("add", |_, this, (n, v): (mlua::LuaString, mlua::LuaString)| {
            this.change(|b| b.add(&name(&n), &v.as_bytes()));
            Ok(())
        });
        m.add_method("replace", |_, this, (n, v): (mlua::LuaString, mlua::LuaString)| {
            this.change(|b| b.set(&name(&n), &v.as_bytes()));
            Ok(())
        });
        m.add_method("remove", |_, this, n: mlua::LuaString| {
            this.change(|b| {
                b.remove(&name(&n));
            });
            Ok(())
        });
        m.add_method("setHttp1ReasonPhrase", |_, _, _: mlua::LuaString| Ok(()));
        m.add_meta_method(MetaMethod::Pairs, |vm, this, ()| {
            let all: Vec<(Vec<u8>, Vec<u8>)> = this.with(|b| b.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect());
            let all = RefCell::new(all.into_iter());
            vm.create_function(move |vm, _: mlua::MultiValue| match all.borrow_mut().next() {
                Some((n, v)) => Ok((Some(vm.create_string(n)?), Some(vm.create_string(v)?))),
                None => Ok((None, None)),
            })
        });
    }
}

impl UserData for Buffer {
    fn add_methods<M: UserDataMethods<Self>>(m: &mut M) {
        m.add_method("length", |_, this, ()| Ok(this.0.borrow().body.as_ref().map_or(0, Vec::len)));
        m.add_method("getBytes", |vm, this, (at, n): (usize, usize)| {
            let s = this.0.borrow();
            let body = s.body.as_deref().unwrap_or_default();
            let range = at.checked_add(n).filter(|end| *end <= body.len()).map(|end| at..end);
            let range = range.ok_or_else(|| {
                Error::runtime("index/length must be >= 0 and (index + length) must be <= buffer size")
            })?;
            vm.create_string(&body[range])
        });
        m.add_method("setBytes", |_, this, text: mlua::LuaString| {
            let mut s = this.0.borrow_mut();
            let bytes = text.as_bytes().to_vec();
            let mut digits = Vec::new();
            push_decimal(&mut digits, bytes.len() as u64);
            s.block.set_id(HeaderId::CONTENT_LENGTH, &digits);
            let n = bytes.len();
            s.body = Some(bytes);
            Ok(n)
        });
    }
}

/// A value as a script sees it.
fn to_lua(vm: &Vm, value: &Value) -> Result<LuaValue> {
    Ok(match value {
        Value::Null => LuaValue::Nil,
        Value::Bool(b) => LuaValue::Boolean(*b),
        Value::Number(n) => LuaValue::Number(*n),
        Value::String(s) => LuaValue::String(vm.create_string(&**s)?),
        Value::List(l) => {
            let table = vm.create_table()?;
            for v in l.iter() {
                table.push(to_lua(vm, v)?)?;
            }
            LuaValue::Table(table)
        }
        Value::Struct(m) => {
            let table = vm.create_table()?;
            for (k, v) in m.iter() {
                table.set(&**k, to_lua(vm, v)?)?;
            }
            LuaValue::Table(table)
        }
    })
}

/// A script's value as metadata. Deep tables are refused.
fn of_lua(value: &LuaValue, depth: usize) -> Result<Value> {
    /// Tables within tables.
    const DEPTH_MAX: usize = 32;
    if depth > DEPTH_MAX {
        return Err(Error::runtime("the table is nested too deeply"));
    }
    Ok(match value {
        LuaValue::Boolean(b) => Value::Bool(*b),
        LuaValue::Integer(n) => Value::Number(*n as f64),
        LuaValue::Number(n) => Value::Number(*n),
        LuaValue::String(s) => Value::String(s.to_string_lossy().as_str().into()),
        LuaValue::Table(t) if t.raw_len() > 0 => {
            let all: Result<Vec<Value>> = t.sequence_values::<LuaValue>().map(|v| of_lua(&v?, depth + 1)).collect();
            Value::List(all?.into())
        }
        LuaValue::Table(t) => {
            let mut map = std::collections::BTreeMap::new();
            for pair in t.pairs::<String, LuaValue>() {
                let (k, v) = pair?;
                map.insert(Name::from(k.as_str()), of_lua(&v, depth + 1)?);
            }
            Value::Struct(std::sync::Arc::new(map))
        }
        LuaValue::Nil => Value::Null,
        _ => return Err(Error::runtime("the value cannot be metadata")),
    })
}

impl UserData for Metadata {
    fn add_methods<M: UserDataMethods<Self>>(m: &mut M) {
        m.add_method("get", |vm, this, key: String| match this.0.get(&key) {
            Some(v) => to_lua(vm, v),
            None => Ok(LuaValue::Nil),
        });
        m.add_meta_method(MetaMethod::Pairs, |vm, this, ()| pairs(vm, &this.0));
    }
}

/// An iterator over the fields of a struct.
fn pairs(vm: &Vm, value: &Value) -> Result<mlua::Function> {
    let all: Vec<(Name, Value)> = match value {
        Value::Struct(m) => m.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        _ => Vec::new(),
    };
    let all = RefCell::new(all.into_iter());
    vm.create_function(move |vm, _: mlua::MultiValue| match all.borrow_mut().next() {
        Some((k, v)) => Ok((LuaValue::String(vm.create_string(&*k)?), to_lua(vm, &v)?)),
        None => Ok((LuaValue::Nil, LuaValue::Nil)),
    })
}

impl UserData for StreamInfo {
    fn add_methods<M: UserDataMethods<Self>>(m: &mut M) {
        macro_rules! texts {
            ($($name:literal $field:ident),*) => {$(
                m.add_method($name, |_, this, ()| Ok(this.0.borrow().info.$field.clone()));
            )*};
        }
        texts!("routeName" route, "virtualClusterName" virtual_cluster, "downstreamLocalAddress" downstream_local,
            "downstreamDirectLocalAddress" downstream_direct_local, "downstreamRemoteAddress" downstream_remote,
            "downstreamDirectRemoteAddress" downstream_direct_remote, "requestedServerName" server_name,
            "upstreamRemoteAddress" upstream_host, "upstreamCluster" upstream_cluster);
        m.add_method("protocol", |_, this, ()| Ok(this.0.borrow().info.protocol));
        m.add_method("dynamicMetadata", |_, this, ()| Ok(Dynamic(this.0.clone())));
        m.add_method("downstreamSslConnection", |_, this, ()| Ok(this.0.borrow().info.tls.clone().map(Ssl)));
        m.add_method("filterState", |_, this, ()| Ok(FilterStates(this.0.clone())));
    }
}

impl UserData for Dynamic {
    fn add_methods<M: UserDataMethods<Self>>(m: &mut M) {
        m.add_method("get", |vm, this, key: String| {
            let s = this.0.borrow();
            match s.dynamic.iter().find(|(n, _)| **n == *key) {
                Some((_, v)) => to_lua(vm, v),
                None => Ok(LuaValue::Nil),
            }
        });
        m.add_method("set", |_, this, (namespace, key, value): (String, String, LuaValue)| {
            let value = of_lua(&value, 0)?;
            let (namespace, key) = (Name::from(namespace.as_str()), Name::from(key.as_str()));
            let mut s = this.0.borrow_mut();
            let mut map = match s.dynamic.iter().position(|(n, _)| *n == namespace) {
                Some(i) => match s.dynamic.swap_remove(i).1 {
                    Value::Struct(m) => (*m).clone(),
                    _ => Default::default(),
                },
                None => Default::default(),
            };
            map.insert(key.clone(), value.clone());
            s.dynamic.push((namespace.clone(), Value::Struct(std::sync::Arc::new(map))));
            s.effects.push(Effect::Metadata(namespace, key, value));
            Ok(())
        });
        m.add_meta_method(MetaMethod::Pairs, |vm, this, ()| {
            let all = this.0.borrow().dynamic.iter().cloned().collect();
            pairs(vm, &Value::Struct(std::sync::Arc::new(all)))
        });
    }
}

impl UserData for Connection {
    fn add_methods<M: UserDataMethods<Self>>(m: &mut M) {
        m.add_method("ssl", |_, this, ()| Ok(this.0.borrow().info.tls.clone().map(Ssl)));
    }
}

impl UserData for Ssl {
    fn add_methods<M: UserDataMethods<Self>>(m: &mut M) {
        m.add_method("peerCertificatePresented", |_, this, ()| Ok(this.0.presented));
        m.add_method("peerCertificateValidated", |_, this, ()| Ok(this.0.validated));
        m.add_method("uriSanPeerCertificate", |_, this, ()| Ok(this.0.uri_sans.clone()));
        m.add_method("uriSanLocalCertificate", |_, this, ()| Ok(this.0.local_uri_sans.clone()));
        m.add_method("dnsSansPeerCertificate", |_, this, ()| Ok(this.0.dns_sans.clone()));
        m.add_method("subjectPeerCertificate", |_, this, ()| Ok(this.0.subject.clone()));
        m.add_method("sha256PeerCertificateDigest", |_, this, ()| Ok(this.0.sha256.clone()));
    }
}

impl UserData for FilterStates {
    fn add_methods<M: UserDataMethods<Self>>(m: &mut M) {
        m.add_method("get", |_, this, key: String| {
            let s = this.0.borrow();
            Ok(s.info.state.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone()))
        });
    }
}
