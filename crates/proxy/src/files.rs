//! How do endpoints come from a file? `eds_config.path_config_source`: a `DiscoveryResponse` as JSON or YAML, read when it changes.
//!
//! One task on the config thread looks at the files' stamps; a file that is replaced by renaming is seen as changed. A
//! document that cannot be read is reported and leaves the endpoints as they are. Deliberately absent: inotify; other resources
//! than endpoints (secrets from files are `subscriptions`' business).

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::time::Duration;

use protos::envoy::config::endpoint::v3::ClusterLoadAssignment;
use protos::envoy::service::discovery::v3::DiscoveryResponse;

use crate::bootstrap;
use crate::server::Server;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What tells one state of a file from another.
type Stamp = (u64, i64, i64, u64);

fn stamp(path: &str) -> Option<Stamp> {
    let m = std::fs::metadata(path).ok()?;
    Some((m.ino(), m.mtime(), m.mtime_nsec(), m.len()))
}

/// Watches the files that clusters name, for as long as the server lives.
pub async fn watch(server: Rc<Server>) {
    let mut seen: HashMap<String, Stamp> = HashMap::new();
    let clusters_changed = server.config.borrow().clusters.changed();
    loop {
        let paths = server.config.borrow().clusters.endpoint_files();
        if paths.is_empty() {
            seen.clear();
            clusters_changed.notified().await;
            continue;
        }
        seen.retain(|path, _| paths.contains(path));
        let mut changed = false;
        for path in &paths {
            let Some(now) = stamp(path) else { continue };
            if seen.insert(path.clone(), now) != Some(now) {
                changed |= take(&server, path, now.3);
            }
        }
        if changed {
            server.registry.wake();
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Applies a file's assignments. True if there were any.
fn take(server: &Server, path: &str, bytes: u64) -> bool {
    let refuse = |reason: String| {
        telemetry::warn!(config, "Filesystem config update rejected: {path}: {reason}");
        false
    };
    if bytes > FILE_BYTES_MAX {
        return refuse(format!("more than {FILE_BYTES_MAX} bytes"));
    }
    let parsed = std::fs::read_to_string(path)
        .map_err(|e| e.to_string())
        .and_then(|text| bootstrap::read(path, &text).map_err(|e| e.to_string()))
        .and_then(|value| protos::json::decode_json::<DiscoveryResponse>(&value).map_err(|e| e.to_string()));
    let response = match parsed {
        Ok(response) => response,
        Err(reason) => return refuse(reason),
    };
    let mut applied = false;
    for any in &response.resources {
        let verdict = protos::unpack::<ClusterLoadAssignment>(any)
            .map_err(|e| e.to_string())
            .and_then(|a| server.config.borrow_mut().clusters.assign(&a.cluster_name, &response.version_info, any));
        match verdict {
            Ok(()) => applied = true,
            Err(reason) => drop(refuse(reason)),
        }
    }
    applied
}
