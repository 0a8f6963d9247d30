//! Which parsers take bytes from a peer or a person? One function each.

use crate::Target;
use protos::json::{self, Options};

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "json_to_wire",
        run: json_to_wire,
    },
    Target {
        name: "wire_to_json",
        run: wire_to_json,
    },
];

/// What an xDS server or a bootstrap may send.
const RESOURCES: &[&str] = &[
    "envoy.config.listener.v3.Listener",
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.config.bootstrap.v3.Bootstrap",
];

fn json_to_wire(data: &[u8]) {
    let Ok(value) = serde_json::from_slice(data) else {
        return;
    };
    for name in RESOURCES {
        if let Ok(bytes) = json::from_json(name, &value) {
            json::to_json(name, &bytes, Options::default()).expect("what we wrote we can read");
        }
    }
}

fn wire_to_json(data: &[u8]) {
    for name in RESOURCES {
        let _ = json::to_json(name, data, Options::default());
    }
}
