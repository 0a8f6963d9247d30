//! The small endpoints: state, memory, runtime, health, drain, exit.

use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use super::query::Query;
use super::reply::Reply;
use super::{ENDPOINTS, json as print};
use crate::memory as figures;
use crate::options::{DrainStrategy, HOT_RESTART_VERSION, Mode, version};
use crate::server::{Server, State};

pub fn home() -> Reply {
    let mut rows = String::new();
    for e in ENDPOINTS {
        let name = &e.path[1..];
        let link = if e.post {
            format!(
                "<form action='{name}' method='post' class='home-form'><button class='button-as-link'>{name}</button></form>"
            )
        } else {
            format!("<a href='{name}'>{name}</a>")
        };
        rows.push_str(&format!(
            "<tr class='home-row'><td class='home-data'>{link}</td><td class='home-data'>{}</td></tr>\n",
            e.help
        ));
    }
    Reply::html(format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n  <title>Envoy Admin</title>\n<style>\n\
         .home-table {{ font-family: sans-serif; font-size: medium; border-collapse: collapse; }}\n\
         .home-row:nth-child(even) {{ background-color: #dddddd; }}\n.home-data {{ text-align: left; padding: 4px; }}\n.home-form {{ margin-bottom: 0; }}\n\
         .button-as-link {{ background: none; border: none; padding: 0; font-size: medium; color: #069; text-decoration: underline; cursor: pointer; }}\n\
         </style>\n</head>\n<body>\n<table class='home-table'>\n<thead><tr><th class='home-data'>Command</th><th class='home-data'>Description</th></tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table>\n</body>\n</html>\n"
    ))
}

pub fn ready(server: &Rc<Server>, _: &Query) -> Reply {
    let state = server.state();
    Reply::text(if state == State::Live { 200 } else { 503 }, format!("{}\n", state.as_str()))
}

pub fn memory() -> Reply {
    let f = figures::figures();
    // 64-bit integers are strings in canonical JSON.
    Reply::json(print::pretty(&json!({
        "allocated": f.allocated.to_string(),
        "heap_size": f.heap_size.to_string(),
        "pageheap_unmapped": f.pageheap_unmapped.to_string(),
        "pageheap_free": f.pageheap_free.to_string(),
        "total_thread_cache": f.total_thread_cache.to_string(),
        "total_physical_bytes": f.total_physical_bytes.to_string(),
    })))
}

pub fn allocator() -> Reply {
    let f = figures::figures();
    Reply::text(
        200,
        format!(
            "glibc malloc (not tcmalloc)\nin use by application: {}\nheap: {}\nfree in heap: {}\nfast bins: {}\nresident: {}\n",
            f.allocated, f.heap_size, f.pageheap_free, f.total_thread_cache, f.total_physical_bytes
        ),
    )
}

fn seconds(d: Duration) -> String {
    if d.subsec_nanos() == 0 { format!("{}s", d.as_secs()) } else { format!("{:.3}s", d.as_secs_f64()) }
}

pub fn server_info(server: &Rc<Server>, _: &Query) -> Reply {
    let o = &server.options;
    let uptime = format!("{}s", server.started.elapsed().as_secs());
    let mut node = server.bootstrap.message.node.as_ref().map_or(json!({}), print::of);
    let defaults = json!({"id": "", "cluster": "", "dynamic_parameters": {}, "user_agent_name": "", "extensions": [], "client_features": [], "listening_addresses": []});
    if let (Some(node), Value::Object(defaults)) = (node.as_object_mut(), defaults) {
        for (key, value) in defaults {
            node.entry(key).or_insert(value);
        }
    }
    let inert = |flag: &str| o.inert.contains(&flag);
    let tags: Vec<String> = o.stats_tags.iter().map(|(k, v)| format!("{k}:{v}")).collect();
    let flags = [
        ("base_id", json!(o.base_id.to_string())),
        ("concurrency", json!(o.concurrency)),
        ("config_path", json!(o.config_path)),
        ("config_yaml", json!(o.config_yaml)),
        ("allow_unknown_static_fields", json!(o.allow_unknown_static_fields)),
        ("admin_address_path", json!(o.admin_address_path)),
        ("local_address_ip_version", json!(if o.local_address_v6 { "v6" } else { "v4" })),
        ("log_level", json!(o.log_level.as_str())),
        ("component_log_level", json!(o.component_log_level)),
        ("log_format", json!(o.log_format)),
        ("log_path", json!(o.log_path)),
        ("service_cluster", json!(o.service_cluster)),
        ("service_node", json!(o.service_node)),
        ("service_zone", json!(o.service_zone)),
        ("file_flush_interval", json!(seconds(o.file_flush_interval))),
        ("drain_time", json!(seconds(o.drain_time))),
        ("parent_shutdown_time", json!(seconds(o.parent_shutdown_time))),
        (
            "mode",
            json!(match o.mode {
                Mode::Serve => "Serve",
                Mode::Validate => "Validate",
                Mode::InitOnly => "InitOnly",
            }),
        ),
        ("disable_hot_restart", json!(o.disable_hot_restart)),
        ("enable_mutex_tracing", json!(inert("enable-mutex-tracing"))),
        ("restart_epoch", json!(o.restart_epoch)),
        ("cpuset_threads", json!(inert("cpuset-threads"))),
        ("reject_unknown_dynamic_fields", json!(o.reject_unknown_dynamic_fields)),
        ("log_format_escaped", json!(inert("log-format-escaped"))),
        ("disabled_extensions", json!([])),
        ("ignore_unknown_dynamic_fields", json!(o.ignore_unknown_dynamic_fields)),
        ("use_dynamic_base_id", json!(o.use_dynamic_base_id)),
        ("base_id_path", json!(o.base_id_path)),
        (
            "drain_strategy",
            json!(match o.drain_strategy {
                DrainStrategy::Gradual => "Gradual",
                DrainStrategy::Immediate => "Immediate",
            }),
        ),
        ("enable_fine_grain_logging", json!(inert("enable-fine-grain-logging"))),
        ("socket_path", json!(o.socket_path)),
        ("socket_mode", json!(0)),
        ("enable_core_dump", json!(inert("enable-core-dump"))),
        ("stats_tag", json!(tags)),
        ("skip_hot_restart_on_no_parent", json!(o.skip_hot_restart_on_no_parent)),
        ("skip_hot_restart_parent_stats", json!(o.skip_hot_restart_parent_stats)),
        ("skip_deprecated_logs", json!(inert("skip-deprecated-logs"))),
        ("file_flush_min_size", json!(o.file_flush_min_size)),
        ("log_stacktrace_single_entry", json!(inert("log-stacktrace-single-entry"))),
    ];
    let flags: serde_json::Map<String, Value> = flags.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let info = json!({
        "version": version(),
        "state": server.state().as_str(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": if o.disable_hot_restart { "disabled" } else { HOT_RESTART_VERSION },
        "command_line_options": flags,
        "node": node,
        "hot_restart_initializing": false,
    });
    Reply::json(print::pretty(&info))
}

pub fn hot_restart_version(server: &Rc<Server>) -> Reply {
    Reply::text(200, if server.options.disable_hot_restart { "disabled" } else { HOT_RESTART_VERSION })
}

pub fn health(server: &Rc<Server>, failing: bool) -> Reply {
    server.set_failing(failing);
    Reply::ok()
}

pub fn drain(server: &Rc<Server>, query: &Query) -> Reply {
    let (graceful, skip_exit) = (query.has("graceful"), query.has("skip_exit"));
    if skip_exit && !graceful {
        return Reply::text(400, "skip_exit requires graceful\n");
    }
    server.drain(graceful, query.has("inboundonly"), skip_exit);
    Reply::ok()
}

pub fn quit(server: &Rc<Server>, _: &Query) -> Reply {
    let shared = server.shared.clone();
    // After the answer has left.
    tokio::task::spawn_local(async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        crate::Handle(shared).shutdown();
    });
    Reply::ok()
}

pub fn reopen(server: &Rc<Server>, _: &Query) -> Reply {
    server.reopen_logs();
    Reply::ok()
}

pub fn reset_counters(server: &Rc<Server>, _: &Query) -> Reply {
    server.store.reset_counters();
    Reply::ok()
}

/// Static layers of the bootstrap first, overrides of the admin interface last, as Envoy layers them.
pub fn runtime(server: &Rc<Server>, _: &Query) -> Reply {
    let layers = server.bootstrap.message.layered_runtime.as_ref().map_or(&[][..], |r| &r.layers[..]);
    let names: Vec<&str> = layers.iter().map(|l| l.name.as_str()).collect();
    let statics = &server.bootstrap.config.runtime;
    let overrides = server.runtime.borrow();
    let mut entries = serde_json::Map::new();
    let mut keys: Vec<&str> = statics.iter().map(|(k, _)| &**k).chain(overrides.keys().map(String::as_str)).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let fixed = statics.iter().find(|(k, _)| **k == *key).map(|(_, v)| plain(v));
        let value = overrides.get(key).cloned().or(fixed.clone()).unwrap_or_default();
        let values: Vec<String> = layers
            .iter()
            .map(|l| {
                use protos::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier as Layer;
                match l.layer_specifier {
                    Some(Layer::StaticLayer(_)) => fixed.clone().unwrap_or_default(),
                    Some(Layer::AdminLayer(_)) => overrides.get(key).cloned().unwrap_or_default(),
                    _ => String::new(),
                }
            })
            .collect();
        entries.insert(key.into(), json!({"final_value": value, "layer_values": values}));
    }
    Reply::json(print::pretty(&json!({"layers": names, "entries": entries})))
}

fn plain(value: &proxy_config::common::Value) -> String {
    use proxy_config::common::Value as V;
    match value {
        V::Bool(b) => b.to_string(),
        V::Number(n) => n.to_string(),
        V::String(s) => s.to_string(),
        other => format!("{other:?}"),
    }
}

pub fn runtime_modify(server: &Rc<Server>, query: &Query) -> Reply {
    if query.iter().len() == 0 {
        return Reply::text(
            400,
            "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form values\nuse an empty value to remove a previously added override",
        );
    }
    use protos::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier as Layer;
    let layers = server.bootstrap.message.layered_runtime.as_ref().map_or(&[][..], |r| &r.layers[..]);
    if !layers.iter().any(|l| matches!(l.layer_specifier, Some(Layer::AdminLayer(_)))) {
        return Reply::text(503, "No admin layer specified");
    }
    /// Overrides kept; an operator sets a few.
    const OVERRIDES_MAX: usize = 1024;
    let mut overrides = server.runtime.borrow_mut();
    for (key, value) in query.iter() {
        if value.is_empty() {
            overrides.remove(key);
        } else if overrides.len() < OVERRIDES_MAX || overrides.contains_key(key) {
            overrides.insert(key.into(), value.into());
        } else {
            return Reply::text(503, "too many overrides");
        }
    }
    Reply::ok()
}

pub fn contention() -> Reply {
    Reply::text(200, "Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing.")
}

pub fn profiler(query: &Query, what: &str) -> Reply {
    match query.get("enable") {
        Some("y") => Reply::text(501, format!("The current build does not support {what} profiler")),
        Some("n") => Reply::ok(),
        _ => Reply::text(400, "?enable=<y|n>\n"),
    }
}

pub fn unsupported(what: &str) -> Reply {
    Reply::text(501, format!("The current build does not support {what}"))
}

pub fn recent_lookups() -> Reply {
    Reply::text(200, "Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n")
}
