//! What does a gRPC application that speaks xDS itself start with? The file that `GRPC_XDS_BOOTSTRAP` names: the agent as xDS
//! server, the node, and where the agent puts certificates. Made for pods of the template `grpc-agent`.

use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::node::Node;

/// Its name beside the other configuration.
pub const FILE: &str = "grpc-bootstrap.json";
/// What a gRPC server asks for: the listener of the address it binds.
const SERVER_LISTENERS: &str = "xds.istio.io/grpc/lds/inbound/%s";
/// How often the application looks for a new certificate.
const REFRESH: &str = "900s";

/// The bootstrap. `certificates`: the directory of `OUTPUT_CERTS`, where key, chain and root are; without one the
/// application has none.
///
/// Follows: gRFC A27 and A29, Istio's `grpcxds.GenerateBootstrap`.
pub fn bootstrap(node: &Node, xds_socket: &Path, certificates: Option<&str>) -> Value {
    let mut about = json!({"id": node.id, "metadata": node.metadata});
    let mut locality = Map::new();
    for (name, value) in ["region", "zone", "sub_zone"].into_iter().zip(&node.locality).filter(|(_, v)| !v.is_empty()) {
        locality.insert(name.to_owned(), value.as_str().into());
    }
    if !locality.is_empty() {
        about["locality"] = locality.into();
    }
    let mut out = json!({
        "xds_servers": [{
            "server_uri": format!("unix:///{}", xds_socket.display()),
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": about,
        "server_listener_resource_name_template": SERVER_LISTENERS,
    });
    if let Some(directory) = certificates {
        let file = |name: &str| Path::new(directory).join(name).display().to_string();
        out["certificate_providers"] = json!({"default": {
            "plugin_name": "file_watcher",
            "config": {
                "certificate_file": file("cert-chain.pem"),
                "private_key_file": file("key.pem"),
                "ca_certificate_file": file("root-cert.pem"),
                "refresh_interval": REFRESH,
            },
        }});
    }
    out
}

/// Writes the file whole or not at all: the application may look at any time.
///
/// # Errors
/// The directory cannot be written to.
pub fn write(path: &Path, bootstrap: &Value) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let fresh = path.with_extension("json.new");
    std::fs::write(&fresh, format!("{bootstrap:#}\n"))?;
    std::fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProxyConfig;
    use crate::node::{self, Facts};

    #[test]
    fn names_the_agent_and_its_certificates() {
        let facts = Facts {
            env: [("ISTIO_META_GENERATOR".to_owned(), "grpc".to_owned())].into(),
            labels: [("istio-locality".to_owned(), "r.z".to_owned())].into(),
            ..Facts::default()
        };
        let node = node::node("sidecar~10.0.0.1~a.b~b.svc.cluster.local", &facts, &ProxyConfig::defaults());
        let made = bootstrap(&node, Path::new("etc/istio/proxy/XDS"), Some("/var/lib/istio/data"));
        assert_eq!(made["xds_servers"][0]["server_uri"], "unix:///etc/istio/proxy/XDS");
        assert_eq!(made["node"]["metadata"]["GENERATOR"], "grpc");
        assert_eq!(made["node"]["locality"], json!({"region": "r", "zone": "z"}));
        let provider = &made["certificate_providers"]["default"];
        assert_eq!(provider["config"]["private_key_file"], "/var/lib/istio/data/key.pem");
        assert!(bootstrap(&node, Path::new("XDS"), None).get("certificate_providers").is_none());

        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("proxy").join(FILE);
        write(&file, &made).expect("written");
        let read: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("there")).expect("JSON");
        assert_eq!(read, made);
    }
}
