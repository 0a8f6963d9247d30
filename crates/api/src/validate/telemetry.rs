//! Do `Telemetry`, `WasmPlugin` and `TrafficExtension` make sense?

use std::collections::BTreeSet;

use serde_json::Value;

use super::Check;
use super::common::{optional_duration, percent, port, selector_or_targets};
use crate::envoy_filter::{EnvValueSource, EnvVar, TrafficExtension, TrafficSelector, VmConfig, WasmPlugin};
use crate::security::{CustomTag, MetricsOverrides, ProviderRef, TagOperation, Telemetry};

mod cel;

pub use cel::check as cel_expression;

/// CRD bound on Lua source.
const LUA_BYTES_MAX: usize = 65_536;

/// Validates the whole resource.
pub fn telemetry(c: &mut Check, t: &Telemetry, raw: &Value) {
    selector_or_targets(c, t.selector.as_ref(), t.target_ref.as_ref(), &t.target_refs);
    if t.metrics.len() > 1 {
        c.field("metrics", |c| c.warn("multiple metrics is not currently supported"));
    }
    if t.tracing.len() > 1 {
        c.field("tracing", |c| c.warn("multiple tracing is not currently supported"));
    }
    c.each("metrics", &t.metrics, |c, m| {
        providers(c, &m.providers);
        c.check("reportingInterval", optional_duration(m.reporting_interval));
        c.each("overrides", &m.overrides, overrides);
    });
    c.each("tracing", &t.tracing, |c, tracing| {
        if tracing.providers.len() > 1 {
            c.field("providers", |c| c.warn("multiple providers is not currently supported"));
        }
        providers(c, &tracing.providers);
        if let Some(p) = tracing.random_sampling_percentage {
            let range =
                percent(p).map_err(|_| format!("randomSamplingPercentage must be in range [0.0, 100.0] (it is {p})"));
            c.check("randomSamplingPercentage", range);
        }
        for (name, tag) in &tracing.custom_tags {
            c.field(&format!("customTags.{name}"), |c| custom_tag(c, name, tag));
        }
    });
    c.each("accessLogging", &t.access_logging, |c, a| {
        providers(c, &a.providers);
        if let Some(filter) = &a.filter {
            c.check("filter.expression", cel::check(&filter.expression));
        }
    });
    let _ = raw;
}

fn providers(c: &mut Check, providers: &[ProviderRef]) {
    c.each("providers", providers, |c, p| {
        c.field("name", |c| {
            c.error_if(p.name.is_empty(), "name in body should be at least 1 chars long: name must not be empty")
        });
    });
}

fn overrides(c: &mut Check, o: &MetricsOverrides) {
    let custom = o.matches.as_ref().and_then(|m| m.custom_metric.as_deref());
    c.field("match.customMetric", |c| {
        c.error_if(custom == Some(""), "customMetric in body should be at least 1 chars long");
    });
    for (name, tag) in &o.tag_overrides {
        c.field(&format!("tagOverrides.{name}"), |c| match tag.operation {
            TagOperation::Upsert => {
                c.error_if(tag.value.is_empty(), format!("{name:?}: value must be set when operation is UPSERT: tagOverrides.value must be set when operation is UPSERT"));
                if !tag.value.is_empty() && let Err(e) = cel::check(&tag.value) {
                    c.field("value", |c| c.warn(e));
                }
            }
            TagOperation::Remove => {
                c.error_if(!tag.value.is_empty(), format!("{name:?}: value must not be set when operation is REMOVE"));
            }
        });
    }
}

fn custom_tag(c: &mut Check, name: &str, tag: &CustomTag) {
    c.error_if(name.is_empty(), "tag name may not be empty");
    if let Some(l) = &tag.literal {
        c.error_if(l.value.is_empty(), "literal tag value may not be empty");
    }
    if let Some(e) = &tag.environment {
        c.error_if(e.name.is_empty(), "environment tag name may not be empty");
    }
    if let Some(h) = &tag.header {
        c.error_if(h.name.is_empty(), "header tag name may not be empty");
    }
    if let Some(f) = &tag.formatter {
        c.error_if(f.value.is_empty(), "formatter tag value may not be empty");
    }
}

/// Validates the whole resource.
pub fn wasm_plugin(c: &mut Check, p: &WasmPlugin) {
    selector_or_targets(c, p.selector.as_ref(), p.target_ref.as_ref(), &p.target_refs);
    module(c, &p.url, &p.sha256, p.vm_config.as_ref());
    if !p.verification_key.is_empty() {
        c.field("verificationKey", |c| c.warn("is accepted and has no effect; pin the module by sha256"));
    }
    traffic(c, &p.matches);
}

/// Validates the whole resource.
pub fn traffic_extension(c: &mut Check, e: &TrafficExtension) {
    selector_or_targets(c, e.selector.as_ref(), None, &e.target_refs);
    c.error_if(e.wasm.is_none() && e.lua.is_none(), "one of wasm or lua must be set");
    if let Some(wasm) = &e.wasm {
        module(c, &wasm.url, &wasm.sha256, wasm.vm_config.as_ref());
        if !wasm.verification_key.is_empty() {
            c.field("wasm.verificationKey", |c| c.warn("is accepted and has no effect; pin the module by sha256"));
        }
    }
    if let Some(lua) = &e.lua {
        c.field("lua.inlineCode", |c| {
            c.error_if(lua.inline_code.is_empty(), "lua.inlineCode field must be set");
            let len = lua.inline_code.len();
            c.error_if(
                len > LUA_BYTES_MAX,
                format!("lua.inlineCode exceeds maximum size of 64KB (it has {len} bytes)"),
            );
        });
    }
    traffic(c, &e.matches);
}

fn module(c: &mut Check, url: &str, sha256: &str, vm: Option<&VmConfig>) {
    if url.is_empty() {
        c.field("url", |c| c.error("url field needs to be set"));
    } else if let Some((scheme, _)) = url.split_once("://") {
        let known = matches!(scheme, "http" | "https" | "oci" | "file");
        c.field("url", |c| {
            c.error_if(!known, format!("url contains an unsupported scheme: {scheme} (http, https, oci, file)"))
        });
    }
    if !sha256.is_empty() {
        c.field("sha256", |c| {
            let hex = sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if sha256.len() != 64 {
                c.error("sha256 field must be 64 characters long");
            } else if !hex {
                c.error("sha256 field must match [a-f0-9]{64} pattern");
            }
        });
    }
    let mut seen = BTreeSet::new();
    let env: &[EnvVar] = vm.map_or(&[], |vm| &vm.env);
    c.each("vmConfig.env", env, |c, e| {
        c.error_if(e.name.is_empty(), "spec.vmConfig.env invalid: name must not be empty");
        c.error_if(!e.name.is_empty() && !seen.insert(e.name.as_str()), format!("duplicate env: {}", e.name));
        c.error_if(
            e.value_from == EnvValueSource::Host && !e.value.is_empty(),
            "spec.vmConfig.env invalid: value may only be set when valueFrom is INLINE",
        );
    });
}

fn traffic(c: &mut Check, matches: &[TrafficSelector]) {
    for (i, m) in matches.iter().enumerate() {
        for (j, p) in m.ports.iter().enumerate() {
            c.error_if(port(p.number).is_err(), format!("spec.Match[{i}].Ports[{j}] is out of range: {}", p.number));
        }
    }
}
