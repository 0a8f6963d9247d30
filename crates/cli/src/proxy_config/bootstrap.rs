//! `proxy-config bootstrap`: with what did the proxy start, and which versions is it?

use serde_json::Value;

use super::text;

/// The versions that the bootstrap's node names.
pub(super) fn version(bootstrap: &Value) -> String {
    let node = &bootstrap["bootstrap"]["node"];
    let build = &node["user_agent_build_version"];
    let parts =
        ["major_number", "minor_number", "patch"].map(|part| build["version"][part].as_u64().unwrap_or(0).to_string());
    let meta = |key: &str| text(&build["metadata"][key]).to_owned();
    format!(
        "Istio Version:       {}\nIstio Proxy Version: {}\nEnvoy Version:       {}/{}/{}/{}\n",
        text(&node["metadata"]["ISTIO_VERSION"]),
        meta("revision.sha"),
        parts.join("."),
        meta("revision.status"),
        meta("build.type"),
        meta("ssl.version"),
    )
}
