//! How does a test put one proxy between a client and a server? A listener, a cluster, nothing else.

use crate::batch::{free_ports, ours};
use crate::proxy::Proxy;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A proxy that forwards everything from one port to another.
pub struct Stand {
    /// The process.
    pub proxy: Proxy,
    /// Where clients connect.
    pub port: u16,
    dir: PathBuf,
}

/// What is special about a stand.
#[derive(Clone, Copy, Default)]
pub struct Options {
    /// The listener speaks HTTP/2 with prior knowledge, else what the first bytes say.
    pub h2: bool,
    /// The upstream is spoken to in HTTP/2.
    pub h2_upstream: bool,
    /// WebSocket and CONNECT may pass.
    pub upgrades: bool,
    /// CONNECT ends here, and its payload goes on as TCP.
    pub terminate_connect: bool,
}

impl Stand {
    /// Starts `program` in front of the server at `upstream`.
    pub fn start(program: &Path, name: &str, upstream: u16, options: Options) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("proa-stand-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let ports = free_ports(2)?;
        let (port, admin) = (ports[0], ports[1]);
        let command = ours(program);
        let bootstrap = bootstrap(port, admin, upstream, options);
        let proxy = Proxy::start(&command, name, &dir, admin, &bootstrap).with_context(|| name.to_owned())?;
        Ok(Self { proxy, port, dir })
    }

    /// The value of a counter or gauge; zero when there is none.
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.proxy.admin("/stats").unwrap_or_default();
        let found = stats.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")?.parse().ok());
        found.unwrap_or_default()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn bootstrap(port: u16, admin: u16, upstream: u16, options: Options) -> Value {
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let ty = "type.googleapis.com/envoy.extensions";
    let mut connect = json!({"cluster": "c"});
    if options.terminate_connect {
        connect["upgrade_configs"] = json!([{"upgrade_type": "CONNECT", "connect_config": {}}]);
    }
    let mut hcm = json!({
        "@type": format!("{ty}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "h", "codec_type": if options.h2 { "HTTP2" } else { "AUTO" },
        "http2_protocol_options": {"allow_connect": options.upgrades},
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
            {"match": {"connect_matcher": {}}, "route": connect},
            {"match": {"prefix": "/"}, "route": {"cluster": "c", "timeout": "0s"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router",
            "typed_config": {"@type": format!("{ty}.filters.http.router.v3.Router")}}]});
    if options.upgrades {
        hcm["upgrade_configs"] = json!([{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}]);
    }
    let mut cluster = json!({"name": "c", "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{"max_connections": 5000, "max_requests": 5000, "max_pending_requests": 5000}]},
        "load_assignment": {"cluster_name": "c", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}]}});
    if options.h2_upstream {
        cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{ty}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": {"http2_protocol_options": {"allow_connect": true}}}});
    }
    json!({"admin": {"address": address(admin)}, "static_resources": {"clusters": [cluster], "listeners": [
        {"name": "l", "address": address(port), "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm}]}]}]}})
}
