//! Does the request carry the tokens that are required of it? Envoy's `jwt_authn`.
//!
//! The story: which requirement applies → which tokens are there → are they in force and signed → what
//! of them the upstream and later filters get to see. Verification is synchronous; only missing remote
//! keys make a request wait, and then it is judged anew with what came.

mod extract;
pub(crate) mod jwks;
mod remote;
mod status;
pub(crate) mod token;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use http1::{HeaderBlock, HeaderId};
use proxy_config::Name;
use proxy_config::common::Value;
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http::{self as config, JwtProvider, JwtRequirement};
use proxy_core::route::RouteInput;
use telemetry::stats::Block;
use telemetry::stats::envoy::jwt_authn as stat;

use self::extract::{Extractor, Token};
use self::jwks::Jwks;
use self::remote::Remote;
use self::status::Status;
use self::token::{Jwt, audience};
use super::{FilterCx, Step};
use crate::exchange::Exchange;
use crate::manager::Deps;
use crate::reply::{Body, LocalReply};
use crate::worker::Worker;

/// Namespace of the filter's dynamic metadata.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";
/// Bytes of path that the realm of a refusal shows.
const REALM_PATH_BYTES_MAX: usize = 256;
/// Bytes of a token that may be cached.
const CACHED_TOKEN_BYTES_MAX: usize = 4096;

/// The filter of one chain.
pub struct JwtAuthn {
    config: Arc<config::JwtAuthn>,
    providers: Box<[Provider]>,
    all: Extractor,
    stats: Block<stat::JwtAuthn>,
}

struct Provider {
    /// Tells caches of different configurations apart.
    id: u64,
    extractor: Extractor,
    keys: Keys,
}

enum Keys {
    /// As configured; `None`: no key of them is usable.
    Local(Option<Arc<Jwks>>),
    Remote(Arc<Remote>),
}

/// Which requirement applies to a request.
#[derive(Clone, Copy)]
enum Required {
    Rule(usize),
    Named(usize),
    ByState(usize),
}

/// Keys of this provider must be fetched first.
struct Need(usize);

impl JwtAuthn {
    /// Compiles the filter. `Err`: local keys that cannot be read.
    pub fn new(config: Arc<config::JwtAuthn>, stat_prefix: &Name, deps: &Deps<'_>) -> Result<Arc<Self>, String> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let provider = |p: &JwtProvider| -> Result<Provider, String> {
            let keys = match (&p.jwks, Remote::new(&p.jwks)) {
                (_, Some(remote)) => Keys::Remote(remote),
                (config::Jwks::Local(source), None) => {
                    let keys =
                        Jwks::parse(&super::read_source(source).map_err(|e| format!("provider {}: {e}", p.name))?);
                    if let Err(status) = &keys {
                        telemetry::warn!(jwt, "provider {}: invalid local keys: {}", p.name, status.text());
                    }
                    Keys::Local(keys.ok().map(Arc::new))
                }
                (config::Jwks::Remote { .. }, None) => Keys::Local(None),
            };
            let id = IDS.fetch_add(1, Ordering::Relaxed);
            Ok(Provider { id, extractor: Extractor::new([p]), keys })
        };
        Ok(Arc::new(JwtAuthn {
            providers: config.providers.iter().map(provider).collect::<Result<_, _>>()?,
            all: Extractor::new(&*config.providers),
            stats: deps.store.block(&format!("http.{stat_prefix}.jwt_authn.")),
            config,
        }))
    }

    /// Starts what works ahead of requests.
    pub fn start(&self, worker: &Rc<Worker>) {
        for p in &self.providers {
            if let Keys::Remote(remote) = &p.keys {
                remote.start(worker, &self.stats);
            }
        }
    }

    /// The route wants no judgement.
    pub fn on_disabled(&self) {
        self.stats.inc(stat::ALLOWED);
    }

    /// Judges the request.
    pub fn on_request(self: &Arc<Self>, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        if self.config.bypass_cors_preflight && is_preflight(&ex.request) {
            self.stats.inc(stat::CORS_PREFLIGHT_BYPASSED);
            self.stats.inc(stat::ALLOWED);
            return Step::Continue;
        }
        let required = match over {
            Some(FilterOverride::JwtRequirement(name)) => {
                match self.config.requirements.iter().position(|(n, _)| n == name) {
                    Some(i) => Some(Required::Named(i)),
                    None => return self.no_such_requirement(name),
                }
            }
            _ => self.rule(cx, ex),
        };
        let Some(required) = required else {
            self.stats.inc(stat::ALLOWED);
            return Step::Continue;
        };
        self.judge(&cx.conn.worker, ex, required, HashMap::new())
    }

    fn rule(&self, cx: &FilterCx<'_>, ex: &Exchange) -> Option<Required> {
        let input = RouteInput { random: cx.conn.worker.random(), tls: None, metadata: ex };
        let rule = self.config.rules.iter().position(|r| proxy_core::route::matches(&r.matcher, &ex.request, &input));
        if let Some(i) = rule {
            return self.config.rules[i].requirement.as_ref().map(|_| Required::Rule(i));
        }
        let by_state = self.config.filter_state_rules.as_ref()?;
        let state = ex.state.get(&by_state.name)?;
        by_state.requires.iter().position(|(value, _)| **value == **state).map(Required::ByState)
    }

    fn requirement(&self, required: Required) -> Option<&JwtRequirement> {
        match required {
            Required::Rule(i) => self.config.rules.get(i)?.requirement.as_ref(),
            Required::Named(i) => self.config.requirements.get(i).map(|(_, r)| r),
            Required::ByState(i) => self.config.filter_state_rules.as_ref()?.requires.get(i).map(|(_, r)| r),
        }
    }

    fn judge(
        self: &Arc<Self>,
        worker: &Rc<Worker>,
        ex: &mut Exchange,
        required: Required,
        mut fetched: HashMap<usize, Option<Arc<Jwks>>>,
    ) -> Step {
        let Some(requirement) = self.requirement(required) else { return Step::Continue };
        let realm = realm(ex);
        let waited = !fetched.is_empty();
        let mut work = Work::of(self, ex, &fetched);
        match work.verify(requirement, now(worker)) {
            Err(Need(index)) => {
                let Keys::Remote(remote) = &self.providers[index].keys else { return Step::Continue };
                let (this, remote, worker) = (self.clone(), remote.clone(), worker.clone());
                Step::Call(Box::pin(async move {
                    let keys = remote.fetch(&worker, &this.stats).await;
                    fetched.insert(index, keys);
                    let answer: super::Answer = Box::new(move |ex| this.judge(&worker, ex, required, fetched));
                    answer
                }))
            }
            Ok(status) => {
                let Done { request, metadata, clear_route } = work.done();
                if let Some(request) = request {
                    ex.request = request;
                }
                if !metadata.is_empty() {
                    super::merge_metadata(ex, NAMESPACE, metadata);
                }
                ex.route_cleared |= clear_route;
                self.finish(status, realm, waited)
            }
        }
    }

    fn finish(&self, status: Status, realm: Vec<u8>, waited: bool) -> Step {
        if status == Status::Ok {
            self.stats.inc(stat::ALLOWED);
            return Step::Continue;
        }
        self.stats.inc(stat::DENIED);
        let code = if status == Status::AudienceNotAllowed { 403 } else { 401 };
        let details = details(status.text());
        let mut reply = LocalReply { status: code, details: details.into(), after_wait: waited, ..Default::default() };
        if !self.config.strip_failure_response {
            reply.body = Body::Static(status.text());
            let mut value = b"Bearer realm=\"".to_vec();
            value.extend_from_slice(&realm);
            value.push(b'"');
            if status != Status::Missed {
                value.extend_from_slice(b", error=\"invalid_token\"");
            }
            reply.headers.push(("www-authenticate".into(), value));
        }
        Step::reply(reply)
    }

    fn no_such_requirement(&self, name: &str) -> Step {
        self.stats.inc(stat::DENIED);
        let names: Vec<&str> = self.config.requirements.iter().map(|(n, _)| &**n).collect();
        let why = format!("Wrong requirement_name: {name}. It should be one of [{}]", names.join(","));
        let mut reply = LocalReply { status: 403, details: details(&why).into(), ..Default::default() };
        if !self.config.strip_failure_response {
            reply.body = Body::Owned(format!("Failed JWT authentication: {why}").into_bytes());
        }
        Step::reply(reply)
    }
}

fn details(why: &str) -> String {
    format!("jwt_authn_access_denied{{{}}}", why.replace(' ', "_"))
}

fn now(worker: &Worker) -> u64 {
    let now = worker.wall(tokio::time::Instant::now());
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn is_preflight(request: &HeaderBlock) -> bool {
    let said = |id| request.get_id(id).is_some_and(|v| !v.is_empty());
    request.method() == b"OPTIONS" && said(HeaderId::ORIGIN) && said(HeaderId::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The URI that a refusal names.
fn realm(ex: &Exchange) -> Vec<u8> {
    let request = &ex.request;
    let path = request.get_id(HeaderId::X_ENVOY_ORIGINAL_PATH).unwrap_or(request.path());
    let path = &path[..path.len().min(REALM_PATH_BYTES_MAX)];
    [request.scheme(), b"://", request.authority(), path].concat()
}

/// A request under verification: changed only when something changes it.
struct Work<'a> {
    filter: &'a JwtAuthn,
    request: Cow<'a>,
    fetched: &'a HashMap<usize, Option<Arc<Jwks>>>,
    metadata: BTreeMap<Name, Value>,
    clear_route: bool,
    hits: u64,
    misses: u64,
}

enum Cow<'a> {
    Same(&'a HeaderBlock),
    Changed(Box<HeaderBlock>),
}

impl Cow<'_> {
    fn get(&self) -> &HeaderBlock {
        match self {
            Cow::Same(r) => r,
            Cow::Changed(r) => r,
        }
    }

    fn change(&mut self) -> &mut HeaderBlock {
        if let Cow::Same(r) = self {
            *self = Cow::Changed(Box::new((*r).clone()));
        }
        match self {
            Cow::Changed(r) => r,
            Cow::Same(_) => unreachable!("just changed"),
        }
    }
}

struct Done {
    request: Option<HeaderBlock>,
    metadata: BTreeMap<Name, Value>,
    clear_route: bool,
}

/// How tolerant a verification is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode<'a> {
    /// Tokens of this provider are required, for these audiences instead of its own unless empty.
    Provider(usize, &'a [Name]),
    /// None is required; what is there must be good.
    AllowMissing,
    /// None is required, bad ones do not matter.
    AllowFailed,
}

impl<'a> Work<'a> {
    fn of(filter: &'a JwtAuthn, ex: &'a Exchange, fetched: &'a HashMap<usize, Option<Arc<Jwks>>>) -> Self {
        Work {
            filter,
            request: Cow::Same(&ex.request),
            fetched,
            metadata: BTreeMap::new(),
            clear_route: false,
            hits: 0,
            misses: 0,
        }
    }

    fn done(self) -> Done {
        self.filter.stats.add(stat::JWT_CACHE_HIT, self.hits);
        self.filter.stats.add(stat::JWT_CACHE_MISS, self.misses);
        let request = match self.request {
            Cow::Same(_) => None,
            Cow::Changed(r) => Some(*r),
        };
        Done { request, metadata: self.metadata, clear_route: self.clear_route }
    }

    fn verify(&mut self, requirement: &'a JwtRequirement, now: u64) -> Result<Status, Need> {
        match requirement {
            JwtRequirement::Provider(index, audiences) => self.tokens(Mode::Provider(*index, audiences), now),
            JwtRequirement::AllowMissing => self.tokens(Mode::AllowMissing, now),
            JwtRequirement::AllowMissingOrFailed => self.tokens(Mode::AllowFailed, now),
            JwtRequirement::All(list) => {
                for r in list {
                    let status = self.verify(r, now)?;
                    if status != Status::Ok {
                        return Ok(status);
                    }
                }
                Ok(Status::Ok)
            }
            JwtRequirement::Any(list) => self.any(list, now),
            JwtRequirement::Nothing => Ok(Status::Ok),
        }
    }

    /// One of several must hold; if none does, the most telling reason is given.
    fn any(&mut self, list: &'a [JwtRequirement], now: u64) -> Result<Status, Need> {
        let failed_ok = list.iter().any(|r| matches!(r, JwtRequirement::AllowMissingOrFailed));
        let missing_ok = list.iter().any(|r| matches!(r, JwtRequirement::AllowMissing));
        let mut last = Status::Missed;
        let mut some = false;
        for r in list {
            if matches!(r, JwtRequirement::AllowMissing | JwtRequirement::AllowMissingOrFailed) {
                continue;
            }
            some = true;
            let status = self.verify(r, now)?;
            if status == Status::Ok {
                return Ok(status);
            }
            if !matches!(status, Status::Missed | Status::UnknownIssuer) || last == Status::Missed {
                last = status;
            }
        }
        if !some {
            return self.tokens(if failed_ok { Mode::AllowFailed } else { Mode::AllowMissing }, now);
        }
        let pass = failed_ok || missing_ok && last == Status::Missed;
        Ok(if pass { Status::Ok } else { last })
    }

    /// All tokens of the locations in question, last first.
    fn tokens(&mut self, mode: Mode<'a>, now: u64) -> Result<Status, Need> {
        let filter = self.filter;
        let extractor = match mode {
            Mode::Provider(index, _) => &filter.providers[index].extractor,
            _ => &filter.all,
        };
        for name in extractor.sanitize(self.request.get()) {
            self.request.change().remove(name.as_bytes());
        }
        let mut tokens = extractor.extract(self.request.get());
        let mut status = Status::Missed;
        let none = tokens.is_empty();
        while let Some(token) = tokens.pop() {
            status = self.token(&token, mode, now)?;
            if status != Status::Ok && matches!(mode, Mode::Provider(..)) {
                break;
            }
        }
        if status != Status::Ok
            && let Mode::Provider(index, _) = mode
        {
            self.note_failure(index, status);
        }
        Ok(match mode {
            Mode::AllowFailed => Status::Ok,
            Mode::AllowMissing if none => Status::Ok,
            _ => status,
        })
    }

    fn token(&mut self, token: &Token<'_>, mode: Mode<'_>, now: u64) -> Result<Status, Need> {
        match self.try_token(token, mode, now) {
            Ok(()) => Ok(Status::Ok),
            Err(Failed::Status(status)) => Ok(status),
            Err(Failed::Need(need)) => Err(need),
        }
    }

    fn try_token(&mut self, token: &Token<'_>, mode: Mode<'_>, now: u64) -> Result<(), Failed> {
        let mut cached = None;
        if let Mode::Provider(index, _) = mode {
            cached = cache::get(self.filter.providers[index].id, &token.text);
            *(if cached.is_some() { &mut self.hits } else { &mut self.misses }) += 1;
        }
        let known = cached.is_some();
        let jwt = match cached {
            Some(jwt) => jwt,
            None => Rc::new(Jwt::parse(&token.text)?),
        };
        if !token.allows_issuer(&jwt.iss) {
            return Err(Status::UnknownIssuer.into());
        }
        let index = match mode {
            Mode::Provider(index, _) => index,
            _ => self.provider_of(&jwt.iss).ok_or(Status::UnknownIssuer)?,
        };
        let provider = &self.filter.config.providers[index];
        if let Some(subjects) = &provider.subjects
            && !subjects.matches(jwt.sub.as_bytes())
        {
            return Err(Status::VerificationFail.into());
        }
        if !lives_as_allowed(provider, &jwt, now) {
            return Err(Status::VerificationFail.into());
        }
        jwt.in_time(now, provider.clock_skew_seconds.into())?;
        let audiences = match mode {
            Mode::Provider(_, own) if !own.is_empty() => own,
            _ => &provider.audiences,
        };
        let heard = |a: &Name| jwt.audiences.iter().any(|b| audience(b) == audience(a));
        if !audiences.is_empty() && !audiences.iter().any(heard) {
            return Err(Status::AudienceNotAllowed.into());
        }
        if !known {
            self.keys(index)?.verify(&jwt)?;
        }
        self.good(provider, token, &jwt);
        if !known && matches!(mode, Mode::Provider(..)) && token.text.len() <= CACHED_TOKEN_BYTES_MAX {
            cache::put(self.filter.providers[index].id, &token.text, jwt, provider.cache_size as usize);
        }
        Ok(())
    }

    fn provider_of(&self, issuer: &str) -> Option<usize> {
        let providers = &self.filter.config.providers;
        providers
            .iter()
            .position(|p| &*p.issuer == issuer)
            .or_else(|| providers.iter().position(|p| p.issuer.is_empty()))
    }

    fn keys(&self, index: usize) -> Result<Arc<Jwks>, Failed> {
        match &self.filter.providers[index].keys {
            Keys::Local(keys) => keys.clone().ok_or(Status::JwksNoValidKeys.into()),
            Keys::Remote(remote) => match (self.fetched.get(&index), remote.keys()) {
                (Some(Some(keys)), _) => Ok(keys.clone()),
                (None, Some(keys)) => Ok(keys),
                (Some(None), _) => Err(Status::JwksFetchFail.into()),
                (None, None) => Err(Failed::Need(Need(index))),
            },
        }
    }

    /// A token is verified: shows it as configured.
    fn good(&mut self, provider: &JwtProvider, token: &Token<'_>, jwt: &Jwt) {
        if let Some(name) = &provider.forward_payload_header {
            let mut value = jwt.payload_base64.to_string();
            while provider.pad_forward_payload_header && !value.len().is_multiple_of(4) {
                value.push('=');
            }
            self.request.change().add(name.as_str().as_bytes(), value.as_bytes());
        }
        for (name, path) in &provider.claim_to_headers {
            if let Some(text) = jwt.payload.path(path).and_then(claim_text) {
                self.request.change().add(name.as_str().as_bytes(), text.as_bytes());
            }
        }
        self.clear_route |= provider.clear_route_cache;
        if !provider.forward {
            token.remove(self.request.change());
        }
        if let Some(key) = &provider.header_in_metadata {
            self.metadata.insert(key.clone(), jwt.header.clone());
        }
        if let Some(key) = &provider.payload_in_metadata {
            self.metadata.insert(key.clone(), normalized(&jwt.payload, &provider.normalize_payload));
        }
    }

    fn note_failure(&mut self, index: usize, status: Status) {
        let Some(key) = &self.filter.config.providers[index].failed_status_in_metadata else { return };
        let fields = [
            ("code".into(), Value::Number(status as u8 as f64)),
            ("message".into(), Value::String(status.text().into())),
        ];
        self.metadata.insert(key.clone(), Value::Struct(Arc::new(BTreeMap::from(fields))));
    }
}

/// Why a token is not accepted now.
enum Failed {
    Status(Status),
    Need(Need),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Failed::Status(status)
    }
}

fn lives_as_allowed(p: &JwtProvider, jwt: &Jwt, now: u64) -> bool {
    if jwt.exp == 0 {
        return !p.require_expiration && p.max_lifetime.is_none();
    }
    p.max_lifetime.is_none_or(|most| jwt.exp.saturating_sub(now) <= most.as_secs())
}

/// A claim as a header value: text, numbers and booleans plain, lists and objects as base64 of their JSON.
fn claim_text(claim: &Value) -> Option<String> {
    let text = match claim {
        Value::String(s) => s.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) if *n >= 0.0 && *n < u64::MAX as f64 && n.fract() == 0.0 => (*n as u64).to_string(),
        Value::Number(n) => format!("{n:.6}"),
        Value::List(_) | Value::Struct(_) => {
            base64::engine::general_purpose::STANDARD.encode(token::json(claim).to_string())
        }
        Value::Null => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// Claims whose blank-separated values become lists.
fn normalized(payload: &Value, claims: &[Name]) -> Value {
    let Value::Struct(fields) = payload else { return payload.clone() };
    if !claims.iter().any(|c| matches!(fields.get(c), Some(Value::String(_)))) {
        return payload.clone();
    }
    let mut fields = (**fields).clone();
    for claim in claims {
        if let Some(Value::String(text)) = fields.get(claim) {
            let list = text.split(' ').filter(|w| !w.is_empty()).map(|w| Value::String(w.into())).collect();
            fields.insert(claim.clone(), Value::List(list));
        }
    }
    Value::Struct(Arc::new(fields))
}

/// Verified tokens of this worker, per provider; the oldest goes when there are more than configured.
mod cache {
    use super::*;

    /// Providers with cached tokens per worker.
    const PROVIDERS_MAX: usize = 64;

    #[derive(Default)]
    struct Tokens {
        by_text: HashMap<Box<str>, Rc<Jwt>>,
        order: VecDeque<Box<str>>,
    }

    thread_local! {
        static CACHE: RefCell<HashMap<u64, Tokens>> = RefCell::default();
    }

    pub fn get(provider: u64, text: &str) -> Option<Rc<Jwt>> {
        CACHE.with_borrow(|c| c.get(&provider)?.by_text.get(text).cloned())
    }

    pub fn put(provider: u64, text: &str, jwt: Rc<Jwt>, most: usize) {
        if most == 0 {
            return;
        }
        CACHE.with_borrow_mut(|c| {
            if c.len() >= PROVIDERS_MAX
                && !c.contains_key(&provider)
                && let Some(oldest) = c.keys().min().copied()
            {
                // Providers are numbered in the order of their making: the lowest belongs to the oldest configuration.
                c.remove(&oldest);
            }
            let tokens = c.entry(provider).or_default();
            if tokens.by_text.insert(text.into(), jwt).is_none() {
                tokens.order.push_back(text.into());
            }
            while tokens.order.len() > most
                && let Some(oldest) = tokens.order.pop_front()
            {
                tokens.by_text.remove(&oldest);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::token::BASE64URL;
    use super::*;

    #[test]
    fn claims_as_text() {
        let check = |json: &str, expect: Option<&str>| {
            let value = token::value(&serde_json::from_str(json).unwrap());
            assert_eq!(claim_text(&value).as_deref(), expect, "{json}");
        };
        check("\"a\"", Some("a"));
        check("true", Some("true"));
        check("1700000000", Some("1700000000"));
        check("1.5", Some("1.500000"));
        check("-1", Some("-1.000000"));
        check("[1]", Some("WzFd"));
        check("null", None);
        check("\"\"", None);
    }

    #[test]
    fn scopes_become_lists() {
        let payload = token::object(br#"{"scope":"a b","x":"c d"}"#).unwrap();
        let out = normalized(&payload, &["scope".into()]);
        assert_eq!(token::json(&out).to_string(), r#"{"scope":["a","b"],"x":"c d"}"#);
    }

    #[test]
    fn base64url_needs_no_padding() {
        assert_eq!(BASE64URL.decode("YQ").unwrap(), BASE64URL.decode("YQ==").unwrap());
    }
}
