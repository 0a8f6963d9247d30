//! What does a newcomer see? Progress while the mesh starts, then pods, services, the gateway and what to try.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::services::is_ready;
use crate::up::Up;

/// A progress bar on a terminal, nothing elsewhere.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(crate) fn new(visible: bool) -> Self {
        if !visible {
            return Self(None);
        }
        let bar = ProgressBar::new(1);
        let style = ProgressStyle::with_template("{spinner:.cyan} {pos}/{len} pods ready  {wide_msg:.dim}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(80));
        bar.set_message("reading manifests");
        Self(Some(bar))
    }

    pub(crate) fn show(&self, status: &Value) {
        let Some(bar) = &self.0 else { return };
        let pods = status["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
        bar.set_length(pods.len() as u64);
        bar.set_position(pods.iter().filter(|pod| is_ready(pod)).count() as u64);
        let waiting = pods.iter().find(|pod| !is_ready(pod));
        bar.set_message(
            waiting.map(|pod| format!("{}: {}", text(&pod["metadata"]["name"]), why(pod))).unwrap_or_default(),
        );
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What a pod that is not ready waits for.
pub fn why(pod: &Value) -> String {
    if let Some(message) = pod["status"]["message"].as_str() {
        return message.to_owned();
    }
    for list in ["initContainerStatuses", "containerStatuses"] {
        for status in pod["status"][list].as_array().into_iter().flatten() {
            let name = text(&status["name"]);
            if let Some(message) = status["message"].as_str() {
                return format!("{name}: {message}");
            }
            let waiting = &status["state"]["waiting"];
            if let Some(reason) = waiting["message"].as_str().filter(|_| waiting["reason"] == "CrashLoopBackOff") {
                return format!("{name}: {reason}");
            }
        }
    }
    "starting".to_owned()
}

/// Ready and all containers of a pod, native sidecars included.
pub fn readiness(pod: &Value) -> (usize, usize) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let native: Vec<Value> = list(&pod["spec"]["initContainers"])
        .into_iter()
        .filter(|container| container["restartPolicy"] == "Always")
        .map(|container| container["name"].clone())
        .collect();
    let mut statuses = list(&pod["status"]["containerStatuses"]);
    let init = list(&pod["status"]["initContainerStatuses"]).into_iter();
    statuses.extend(init.filter(|status| native.contains(&status["name"])));
    let all = list(&pod["spec"]["containers"]).len() + native.len();
    (statuses.iter().filter(|status| status["ready"] == true).count(), all)
}

/// Restarts of all containers of a pod.
pub fn restarts(pod: &Value) -> u64 {
    let lists = ["containerStatuses", "initContainerStatuses"].into_iter();
    let statuses = lists.flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    statuses.filter_map(|status| status["restartCount"].as_u64()).sum()
}

/// Columns padded to their widest cell, three spaces apart, as kubectl does.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Rows of `proa ps`.
pub fn pod_rows(pods: &[Value]) -> Vec<Vec<String>> {
    let mut rows = vec![["NAMESPACE", "POD", "READY", "STATUS", "RESTARTS", "IP"].map(str::to_owned).to_vec()];
    for pod in pods {
        let (ready, all) = readiness(pod);
        let restarts = restarts(pod);
        let phase = text(&pod["status"]["phase"]);
        rows.push(vec![
            text(&pod["metadata"]["namespace"]).to_owned(),
            text(&pod["metadata"]["name"]).to_owned(),
            format!("{ready}/{all}"),
            phase.to_owned(),
            restarts.to_string(),
            text(&pod["status"]["podIP"]).to_owned(),
        ]);
    }
    rows
}

pub(crate) fn ready(status: &Value, took: Duration, options: &Up) -> String {
    let pods = status["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = String::new();
    if status["ready"] == true {
        out.push_str(&format!(
            "Mesh ready in {:.1} s: {} pods, data plane {}.\n\n",
            took.as_secs_f64(),
            pods.len(),
            text(&status["dataPlane"])
        ));
    } else {
        out.push_str("The mesh is not ready. Waiting for:\n");
        let done = |pod: &Value| is_ready(pod) || pod["status"]["phase"] == "Succeeded";
        for pod in pods.iter().filter(|pod| !done(pod)) {
            out.push_str(&format!("  {}: {}\n", text(&pod["metadata"]["name"]), why(pod)));
        }
        out.push('\n');
    }
    out.push_str(&table(&pod_rows(pods)));
    let services = status["services"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows = vec![["NAMESPACE", "SERVICE", "CLUSTER-IP", "PORTS"].map(str::to_owned).to_vec()];
    for service in services {
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        let ports: Vec<String> =
            ports.map(|port| format!("{}/{}", port["port"], port["protocol"].as_str().unwrap_or("TCP"))).collect();
        let address = service["spec"]["clusterIP"].as_str().unwrap_or("-");
        rows.push(vec![
            text(&service["metadata"]["namespace"]).to_owned(),
            text(&service["metadata"]["name"]).to_owned(),
            address.to_owned(),
            ports.join(","),
        ]);
    }
    out.push('\n');
    out.push_str(&table(&rows));
    let gateway = text(&status["gateway"]);
    out.push_str(&format!(
        "\nGateway    http://{gateway}\nManifests  {}  (watched)\n\nTry:\n",
        text(&status["manifests"])
    ));
    let name =
        if options.layout.name == "default" { String::new() } else { format!(" --mesh {}", options.layout.name) };
    let tries = commands(pods, gateway, &name);
    let width = tries.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    for (command, remark) in tries {
        out.push_str(&format!("  {command:<width$}   # {remark}\n"));
    }
    if !options.detach {
        out.push_str("\nCtrl-C ends the mesh; --detach leaves it running.\n");
    }
    out
}

fn commands(pods: &[Value], gateway: &str, name: &str) -> Vec<(String, &'static str)> {
    let nodebook = pods.iter().any(|pod| pod["metadata"]["labels"]["app"] == "nodebook");
    if nodebook {
        return vec![
            (format!("curl -i http://{gateway}/version"), "404: nothing is routed yet"),
            (format!("proa create{name} -f nodebook-rule.yaml -f nodebook-service.yaml"), "all to v3; then curl again"),
            (format!("proa replace{name} -f nodebook-service-v4.yaml"), "all to v4"),
            (format!("proa pc routes{name} -n istio-system deploy/istio-ingressgateway"), "what the gateway was told"),
            (format!("proa logs{name} -f deploy/nodebook-v3 -c istio-proxy"), "the sidecar's access log"),
        ];
    }
    let client = pods.iter().find(|pod| {
        pod["spec"]["containers"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["name"] != "istio-proxy" && one["name"] != "discovery"))
    });
    let pod = client.map_or("POD", |pod| text(&pod["metadata"]["name"]));
    let namespace = client.map_or("default", |pod| text(&pod["metadata"]["namespace"]));
    vec![
        (format!("proa ps{name}"), "pods and what they wait for"),
        (format!("curl -i http://{gateway}/"), "through the ingress gateway"),
        (format!("proa exec{name} -n {namespace} {pod} -- sh"), "a shell in a pod"),
        (format!("proa pc clusters{name} -n {namespace} {pod}"), "what its sidecar knows"),
        (format!("proa logs{name} -n {namespace} -f {pod} -c istio-proxy"), "its access log"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["A".to_owned(), "LONG".to_owned()], vec!["bbb".to_owned(), "c".to_owned()]];
        assert_eq!(table(&rows), "A     LONG\nbbb   c\n");
    }
}
