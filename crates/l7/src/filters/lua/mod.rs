//! What does a script make of this exchange? Envoy's `lua`, on LuaJIT.
//!
//! Each worker has a Lua state per script. A script runs as a coroutine; while it waits (for a body, for a
//! call) the exchange waits with it. It works on what it was given, taken out of the exchange and put back
//! when it pauses. Scripts are stopped after `STEPS_MAX` instructions; standard libraries that reach the
//! machine (`os.execute`, `io`, `package`) are not there.

mod handle;

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use mlua::thread::AsyncThread;
use mlua::{Function, HookTriggers, Lua as Vm, LuaOptions, StdLib, VmState};
use proxy_config::Name;
use proxy_config::common::DataSource;
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http::{self as config, LuaPerRoute};
use telemetry::stats::Block;
use telemetry::stats::envoy::lua as stat;

use self::handle::{Effect, Handle, Shared, Side};
use super::{FilterCx, FilterState, Step};
use crate::exchange::{Exchange, OverrideHost};
use crate::manager::Deps;
use crate::reply::{Body, LocalReply};

/// Bytes of a body that a script may have whole.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Instructions that one call of a script may run.
const STEPS_MAX: u64 = 50_000_000;
/// How often they are counted.
const STEPS_PER_LOOK: u32 = 100_000;
/// States kept per worker; the oldest script's goes when there are more.
const STATES_MAX: usize = 256;

/// The filter of one chain.
pub struct Lua {
    config: Arc<config::Lua>,
    /// The filter's name, under which routes hold metadata for it.
    name: Name,
    default: Option<Script>,
    named: Vec<(Name, Script)>,
    of_routes: std::sync::RwLock<Vec<(Arc<LuaPerRoute>, Option<Script>)>>,
    stats: Block<stat::Lua>,
}

/// A script, numbered so that workers find its state.
#[derive(Clone)]
struct Script {
    id: u64,
    code: Arc<[u8]>,
}

/// A worker's state for a script.
struct State {
    vm: Vm,
    on_request: Option<Function>,
    on_response: Option<Function>,
}

thread_local! {
    static STATES: RefCell<HashMap<u64, Rc<State>>> = RefCell::default();
}

/// A script that waits for a body.
pub struct Paused {
    script: Pin<Box<AsyncThread<()>>>,
    shared: Rc<RefCell<Shared>>,
}

impl Script {
    fn read(source: &DataSource) -> Result<Self, String> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let code = super::read_source(source)?;
        let script = Script { id: IDS.fetch_add(1, Ordering::Relaxed), code: code.into() };
        // A script that does not compile is refused with its configuration.
        State::new(&script).map_err(|e| format!("script load error: {e}"))?;
        Ok(script)
    }

    /// This worker's state.
    fn state(&self) -> Option<Rc<State>> {
        if let Some(state) = STATES.with_borrow(|s| s.get(&self.id).cloned()) {
            return Some(state);
        }
        let state = Rc::new(State::new(self).ok()?);
        STATES.with_borrow_mut(|all| {
            if all.len() >= STATES_MAX
                && let Some(oldest) = all.keys().min().copied()
            {
                all.remove(&oldest);
            }
            all.insert(self.id, state.clone());
        });
        Some(state)
    }
}

impl State {
    fn new(script: &Script) -> mlua::Result<Self> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::BIT | StdLib::JIT;
        let vm = Vm::new_with(libraries, LuaOptions::default())?;
        handle::install(&vm)?;
        vm.load(&*script.code).set_name("=script").exec()?;
        let function = |name: &str| vm.globals().get::<Option<Function>>(name);
        Ok(State { on_request: function("envoy_on_request")?, on_response: function("envoy_on_response")?, vm })
    }
}

impl Lua {
    /// Compiles the filter. `Err`: a script that cannot be read or compiled.
    pub fn new(
        config: Arc<config::Lua>,
        name: &Name,
        stat_prefix: &Name,
        deps: &Deps<'_>,
    ) -> Result<Arc<Self>, String> {
        let default = config.default_source.as_ref().map(Script::read).transpose()?;
        let named = config.sources.iter().map(|(n, s)| Ok((n.clone(), Script::read(s)?)));
        let own = if config.stat_prefix.is_empty() { String::new() } else { format!("{}.", config.stat_prefix) };
        Ok(Arc::new(Lua {
            default,
            named: named.collect::<Result<_, String>>()?,
            of_routes: Default::default(),
            stats: deps.store.block(&format!("http.{stat_prefix}.lua.{own}")),
            name: name.clone(),
            config,
        }))
    }

    fn script(&self, over: Option<&FilterOverride>) -> Option<Script> {
        let Some(FilterOverride::Lua(o)) = over else { return self.default.clone() };
        match &**o {
            LuaPerRoute::Name(name) => self.named.iter().find(|(n, _)| n == name).map(|(_, s)| s.clone()),
            LuaPerRoute::Source(source) => {
                let known = |all: &Vec<(Arc<LuaPerRoute>, Option<Script>)>| {
                    all.iter().find(|(c, _)| Arc::ptr_eq(c, o)).map(|(_, s)| s.clone())
                };
                if let Some(script) = known(&self.of_routes.read().unwrap_or_else(|e| e.into_inner())) {
                    return script;
                }
                let script = match Script::read(source) {
                    Ok(script) => Some(script),
                    Err(e) => {
                        telemetry::error!(lua, "a route's script: {e}");
                        None
                    }
                };
                let mut all = self.of_routes.write().unwrap_or_else(|e| e.into_inner());
                // Those that only this list holds belong to replaced route tables.
                all.retain(|(c, _)| Arc::strong_count(c) > 1);
                all.push((o.clone(), script.clone()));
                script
            }
        }
    }

    /// Runs `envoy_on_request`.
    pub fn on_request(self: &Arc<Self>, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        self.start(cx, ex, over, Side::Request, !ex.request_ends_with_head)
    }

    /// Runs `envoy_on_response`.
    pub fn on_response(
        self: &Arc<Self>,
        cx: &FilterCx<'_>,
        ex: &mut Exchange,
        over: Option<&FilterOverride>,
        end: bool,
    ) -> Step {
        self.start(cx, ex, over, Side::Response, !end)
    }

    fn start(
        self: &Arc<Self>,
        cx: &FilterCx<'_>,
        ex: &mut Exchange,
        over: Option<&FilterOverride>,
        side: Side,
        has_body: bool,
    ) -> Step {
        let Some(state) = self.script(over).and_then(|s| s.state()) else { return Step::Continue };
        let function = match side {
            Side::Request => &state.on_request,
            Side::Response => &state.on_response,
        };
        let Some(function) = function else { return Step::Continue };
        self.stats.inc(stat::EXECUTIONS);
        let shared = Rc::new(RefCell::new(Shared::new(cx, ex, side, has_body, &self.name)));
        if side == Side::Request && ex.body_collected {
            shared.borrow_mut().body = Some(std::mem::take(&mut ex.buffered));
        }
        let thread = state.vm.create_thread(function.clone()).and_then(|thread| {
            limit(&thread)?;
            thread.into_async::<()>(Handle(shared.clone()))
        });
        match thread {
            Ok(thread) => self.go_on(ex, Paused { script: Box::pin(thread), shared }),
            Err(e) => {
                self.error(&e);
                Step::Continue
            }
        }
    }

    /// The body that the script waits for is here.
    pub fn on_body(self: &Arc<Self>, ex: &mut Exchange) -> Step {
        let Some(paused) = take(ex) else { return Step::Continue };
        paused.shared.borrow_mut().body = Some(std::mem::take(&mut ex.buffered));
        self.go_on(ex, paused)
    }

    /// The same for a response.
    pub fn on_response_body(self: &Arc<Self>, ex: &mut Exchange, body: &mut Vec<u8>) -> Step {
        let Some(paused) = take(ex) else { return Step::Continue };
        paused.shared.borrow_mut().body = Some(std::mem::take(body));
        self.go_on(ex, paused)
    }

    /// Lets the script run until it ends or waits.
    fn go_on(self: &Arc<Self>, ex: &mut Exchange, mut paused: Paused) -> Step {
        paused.shared.borrow_mut().enter(ex);
        let polled = poll(&mut paused, &mut Context::from_waker(Waker::noop()));
        paused.shared.borrow_mut().leave(ex);
        match polled {
            Poll::Ready(ended) => self.stopped(ex, paused, ended),
            Poll::Pending => {
                let this = self.clone();
                paused.shared.borrow_mut().enter(ex);
                Step::Call(Box::pin(async move {
                    let ended = std::future::poll_fn(|cx| poll(&mut paused, cx)).await;
                    let answer: super::Answer = Box::new(move |ex| {
                        paused.shared.borrow_mut().leave(ex);
                        this.stopped(ex, paused, ended)
                    });
                    answer
                }))
            }
        }
    }

    fn stopped(self: &Arc<Self>, ex: &mut Exchange, paused: Paused, ended: Option<mlua::Result<()>>) -> Step {
        let Some(ended) = ended else {
            ex.filters.push(FilterState::Lua(Box::new(paused)));
            return Step::Body(BODY_BYTES_MAX);
        };
        if let Err(e) = &ended {
            self.error(e);
        }
        let mut shared = paused.shared.borrow_mut();
        if let Some(body) = shared.body.take() {
            match shared.side {
                Side::Request => ex.buffered = body,
                Side::Response => ex.new_body = Some(body),
            }
        }
        for effect in std::mem::take(&mut shared.effects) {
            match effect {
                Effect::Metadata(namespace, key, value) => {
                    super::merge_metadata_named(ex, namespace, [(key, value)].into());
                }
                Effect::ClearRoute => ex.route_cleared = true,
                Effect::OverrideHost(host, strict) => {
                    ex.override_host = Some(Box::new(OverrideHost { host: host.into(), strict }));
                }
            }
        }
        if shared.changed && shared.side == Side::Request && self.config.clear_route_cache {
            ex.route_cleared = true;
        }
        match shared.reply.take() {
            Some((status, headers, body)) if ended.is_ok() || shared.replied => {
                let mut reply = LocalReply { status, details: "lua_response".into(), ..Default::default() };
                reply.body = Body::Owned(body);
                reply.edits = headers;
                reply.after_wait = true;
                Step::reply(reply)
            }
            _ => Step::Continue,
        }
    }

    fn error(&self, e: &mlua::Error) {
        if !matches!(e, mlua::Error::CallbackError { cause, .. } if cause.to_string().contains(handle::RESPONDED))
            && !e.to_string().contains(handle::RESPONDED)
        {
            self.stats.inc(stat::ERRORS);
            telemetry::error!(lua, "script log: {e}");
        }
    }
}

/// `Some`: the script has ended; `None`: it wants the body.
fn poll(paused: &mut Paused, cx: &mut Context<'_>) -> Poll<Option<mlua::Result<()>>> {
    match paused.script.as_mut().poll(cx) {
        Poll::Ready(r) => Poll::Ready(Some(r)),
        Poll::Pending if std::mem::take(&mut paused.shared.borrow_mut().wants_body) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    }
}

fn take(ex: &mut Exchange) -> Option<Paused> {
    let index = ex.filters.iter().rposition(|s| matches!(s, FilterState::Lua(_)))?;
    match ex.filters.remove(index) {
        FilterState::Lua(paused) => Some(*paused),
        _ => None,
    }
}

/// Stops a coroutine that runs for too long.
fn limit(thread: &mlua::Thread) -> mlua::Result<()> {
    let steps = std::cell::Cell::new(0);
    thread.set_hook(HookTriggers::new().every_nth_instruction(STEPS_PER_LOOK), move |_, _| {
        steps.set(steps.get() + u64::from(STEPS_PER_LOOK));
        if steps.get() > STEPS_MAX {
            return Err(mlua::Error::runtime("the script runs for too long"));
        }
        Ok(VmState::Continue)
    })
}
