//! Which loggers are there? Envoy 1.40's, in the order of its `/logging` page.

use super::Scope;

/// The loggers, one static each, named as in Envoy.
#[allow(non_upper_case_globals)]
pub mod scope {
    use super::Scope;
    #[doc = "`a2a`"]
    pub static a2a: Scope = Scope::new("a2a");
    #[doc = "`admin`"]
    pub static admin: Scope = Scope::new("admin");
    #[doc = "`ai_protocol_manager`"]
    pub static ai_protocol_manager: Scope = Scope::new("ai_protocol_manager");
    #[doc = "`alternate_protocols_cache`"]
    pub static alternate_protocols_cache: Scope = Scope::new("alternate_protocols_cache");
    #[doc = "`aws`"]
    pub static aws: Scope = Scope::new("aws");
    #[doc = "`assert`"]
    pub static assert: Scope = Scope::new("assert");
    #[doc = "`backtrace`"]
    pub static backtrace: Scope = Scope::new("backtrace");
    #[doc = "`basic_auth`"]
    pub static basic_auth: Scope = Scope::new("basic_auth");
    #[doc = "`cache_filter`"]
    pub static cache_filter: Scope = Scope::new("cache_filter");
    #[doc = "`client`"]
    pub static client: Scope = Scope::new("client");
    #[doc = "`config`"]
    pub static config: Scope = Scope::new("config");
    #[doc = "`connection`"]
    pub static connection: Scope = Scope::new("connection");
    #[doc = "`conn_handler`"]
    pub static conn_handler: Scope = Scope::new("conn_handler");
    #[doc = "`compression`"]
    pub static compression: Scope = Scope::new("compression");
    #[doc = "`credential_injector`"]
    pub static credential_injector: Scope = Scope::new("credential_injector");
    #[doc = "`decompression`"]
    pub static decompression: Scope = Scope::new("decompression");
    #[doc = "`dns`"]
    pub static dns: Scope = Scope::new("dns");
    #[doc = "`dubbo`"]
    pub static dubbo: Scope = Scope::new("dubbo");
    #[doc = "`envoy_bug`"]
    pub static envoy_bug: Scope = Scope::new("envoy_bug");
    #[doc = "`ext_authz`"]
    pub static ext_authz: Scope = Scope::new("ext_authz");
    #[doc = "`ext_proc`"]
    pub static ext_proc: Scope = Scope::new("ext_proc");
    #[doc = "`rocketmq`"]
    pub static rocketmq: Scope = Scope::new("rocketmq");
    #[doc = "`file`"]
    pub static file: Scope = Scope::new("file");
    #[doc = "`filter`"]
    pub static filter: Scope = Scope::new("filter");
    #[doc = "`forward_proxy`"]
    pub static forward_proxy: Scope = Scope::new("forward_proxy");
    #[doc = "`geolocation`"]
    pub static geolocation: Scope = Scope::new("geolocation");
    #[doc = "`grpc`"]
    pub static grpc: Scope = Scope::new("grpc");
    #[doc = "`happy_eyeballs`"]
    pub static happy_eyeballs: Scope = Scope::new("happy_eyeballs");
    #[doc = "`hc`"]
    pub static hc: Scope = Scope::new("hc");
    #[doc = "`health_checker`"]
    pub static health_checker: Scope = Scope::new("health_checker");
    #[doc = "`http`"]
    pub static http: Scope = Scope::new("http");
    #[doc = "`http2`"]
    pub static http2: Scope = Scope::new("http2");
    #[doc = "`hystrix`"]
    pub static hystrix: Scope = Scope::new("hystrix");
    #[doc = "`init`"]
    pub static init: Scope = Scope::new("init");
    #[doc = "`io`"]
    pub static io: Scope = Scope::new("io");
    #[doc = "`jwt`"]
    pub static jwt: Scope = Scope::new("jwt");
    #[doc = "`json_rpc`"]
    pub static json_rpc: Scope = Scope::new("json_rpc");
    #[doc = "`kafka`"]
    pub static kafka: Scope = Scope::new("kafka");
    #[doc = "`key_value_store`"]
    pub static key_value_store: Scope = Scope::new("key_value_store");
    #[doc = "`lua`"]
    pub static lua: Scope = Scope::new("lua");
    #[doc = "`local_rate_limit`"]
    pub static local_rate_limit: Scope = Scope::new("local_rate_limit");
    #[doc = "`main`"]
    pub static main: Scope = Scope::new("main");
    #[doc = "`matcher`"]
    pub static matcher: Scope = Scope::new("matcher");
    #[doc = "`mcp`"]
    pub static mcp: Scope = Scope::new("mcp");
    #[doc = "`misc`"]
    pub static misc: Scope = Scope::new("misc");
    #[doc = "`mongo`"]
    pub static mongo: Scope = Scope::new("mongo");
    #[doc = "`multi_connection`"]
    pub static multi_connection: Scope = Scope::new("multi_connection");
    #[doc = "`notification`"]
    pub static notification: Scope = Scope::new("notification");
    #[doc = "`oauth2`"]
    pub static oauth2: Scope = Scope::new("oauth2");
    #[doc = "`quic`"]
    pub static quic: Scope = Scope::new("quic");
    #[doc = "`quic_stream`"]
    pub static quic_stream: Scope = Scope::new("quic_stream");
    #[doc = "`pool`"]
    pub static pool: Scope = Scope::new("pool");
    #[doc = "`rate_limit_quota`"]
    pub static rate_limit_quota: Scope = Scope::new("rate_limit_quota");
    #[doc = "`rbac`"]
    pub static rbac: Scope = Scope::new("rbac");
    #[doc = "`rds`"]
    pub static rds: Scope = Scope::new("rds");
    #[doc = "`redis`"]
    pub static redis: Scope = Scope::new("redis");
    #[doc = "`router`"]
    pub static router: Scope = Scope::new("router");
    #[doc = "`runtime`"]
    pub static runtime: Scope = Scope::new("runtime");
    #[doc = "`stats`"]
    pub static stats: Scope = Scope::new("stats");
    #[doc = "`secret`"]
    pub static secret: Scope = Scope::new("secret");
    #[doc = "`sse`"]
    pub static sse: Scope = Scope::new("sse");
    #[doc = "`tap`"]
    pub static tap: Scope = Scope::new("tap");
    #[doc = "`testing`"]
    pub static testing: Scope = Scope::new("testing");
    #[doc = "`thrift`"]
    pub static thrift: Scope = Scope::new("thrift");
    #[doc = "`tracing`"]
    pub static tracing: Scope = Scope::new("tracing");
    #[doc = "`upstream`"]
    pub static upstream: Scope = Scope::new("upstream");
    #[doc = "`udp`"]
    pub static udp: Scope = Scope::new("udp");
    #[doc = "`wasm`"]
    pub static wasm: Scope = Scope::new("wasm");
    #[doc = "`websocket`"]
    pub static websocket: Scope = Scope::new("websocket");
    #[doc = "`golang`"]
    pub static golang: Scope = Scope::new("golang");
    #[doc = "`stats_sinks`"]
    pub static stats_sinks: Scope = Scope::new("stats_sinks");
    #[doc = "`dynamic_modules`"]
    pub static dynamic_modules: Scope = Scope::new("dynamic_modules");
    #[doc = "`ip_tagging`"]
    pub static ip_tagging: Scope = Scope::new("ip_tagging");
}

/// All loggers in Envoy's order.
pub static SCOPES: [&Scope; 73] = [
    &scope::a2a,
    &scope::admin,
    &scope::ai_protocol_manager,
    &scope::alternate_protocols_cache,
    &scope::aws,
    &scope::assert,
    &scope::backtrace,
    &scope::basic_auth,
    &scope::cache_filter,
    &scope::client,
    &scope::config,
    &scope::connection,
    &scope::conn_handler,
    &scope::compression,
    &scope::credential_injector,
    &scope::decompression,
    &scope::dns,
    &scope::dubbo,
    &scope::envoy_bug,
    &scope::ext_authz,
    &scope::ext_proc,
    &scope::rocketmq,
    &scope::file,
    &scope::filter,
    &scope::forward_proxy,
    &scope::geolocation,
    &scope::grpc,
    &scope::happy_eyeballs,
    &scope::hc,
    &scope::health_checker,
    &scope::http,
    &scope::http2,
    &scope::hystrix,
    &scope::init,
    &scope::io,
    &scope::jwt,
    &scope::json_rpc,
    &scope::kafka,
    &scope::key_value_store,
    &scope::lua,
    &scope::local_rate_limit,
    &scope::main,
    &scope::matcher,
    &scope::mcp,
    &scope::misc,
    &scope::mongo,
    &scope::multi_connection,
    &scope::notification,
    &scope::oauth2,
    &scope::quic,
    &scope::quic_stream,
    &scope::pool,
    &scope::rate_limit_quota,
    &scope::rbac,
    &scope::rds,
    &scope::redis,
    &scope::router,
    &scope::runtime,
    &scope::stats,
    &scope::secret,
    &scope::sse,
    &scope::tap,
    &scope::testing,
    &scope::thrift,
    &scope::tracing,
    &scope::upstream,
    &scope::udp,
    &scope::wasm,
    &scope::websocket,
    &scope::golang,
    &scope::stats_sinks,
    &scope::dynamic_modules,
    &scope::ip_tagging,
];
