//! Do the commands of the operators' notes do here what they do there? Each line as it is typed there, under its names; only names
//! of pods, which are generated, are filled in.

use e2e::{DataPlane, Mesh, both_planes, eventually};

both_planes!(of_traffic_management, of_a_proxys_insides);

fn of_traffic_management(plane: DataPlane) {
    let mesh = Mesh::up("nodebook", plane);
    let get = |path: &str| mesh.get(path, &[]).map(|r| (r.status, r.text().trim().to_owned())).ok();

    // kube-inject: the init container's arguments and the proxy container are in what it writes, and that can be applied.
    let folder = mesh.folder().display().to_string();
    let deployment = format!("{folder}/notebook-istio-deployment.yaml");
    std::fs::write(
        &deployment,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: notebook}\nspec:\n  selector: {matchLabels: {app: notebook}}\n  template:\n    \
         metadata: {labels: {app: notebook}}\n    spec: {containers: [{name: notebook, image: proa/nodebook:v3, ports: [{containerPort: 3000}]}]}\n",
    )
    .expect("a temporary file");
    let injected = format!("{folder}/notebook-istio-deployment-injected.yaml");
    mesh.typed(&format!("istioctl kube-inject -f {deployment} -o {injected}"));
    let text = std::fs::read_to_string(&injected).expect("kube-inject wrote it");
    for part in ["name: istio-init", "- -p\n", "\"15001\"", "- -u\n", "\"1337\"", "- REDIRECT", "name: istio-proxy"] {
        assert!(text.contains(part) || text.contains(&part.replace('"', "'")), "{part} in {text}");
    }
    mesh.typed(&format!("kubectl apply -f {injected}"));
    let ready = "kubectl get pod -l app=notebook -o jsonpath={.items[0].status.initContainerStatuses[1].ready}";
    let names = "kubectl get pod -l app=notebook -o jsonpath={.items[0].status.initContainerStatuses[*].name}";
    eventually("the injected deployment runs", || mesh.typed(ready), |t| t == "true");
    assert_eq!(mesh.typed(names), "istio-init istio-proxy");
    mesh.typed(&format!("kubectl delete -f {injected}"));

    let services = mesh.typed("kubectl get services");
    assert!(services.contains("CLUSTER-IP") && services.contains("nodebook"), "{services}");
    assert_eq!(get("/version").map(|(status, _)| status), Some(404));
    let gateways = mesh.typed("kubectl get pod -n istio-system -l istio=ingressgateway");
    assert!(gateways.contains("istio-ingressgateway") && gateways.contains("1/1"), "{gateways}");
    assert!(mesh.typed("kubectl get gateway").contains("nodebook-gateway"));
    mesh.typed("istioctl create -f nodebook-rule.yaml");
    mesh.typed("istioctl create -f nodebook-service.yaml");
    assert!(mesh.typed("istioctl get virtualservices -o yaml").contains("kind: VirtualService"));
    assert!(mesh.typed("istioctl get destinationrules -o yaml").contains("subsets:"));
    eventually("v3 answers", || get("/version"), |seen| *seen == Some((200, "v3".into())));
    let pod = mesh.pod("default", "nodebook-v4");
    assert!(mesh.typed("kubectl get pod -l app=nodebook").contains(&pod));
    assert!(mesh.typed(&format!("istioctl proxy-config clusters {pod}")).contains("nodebook"));
    let routes = mesh.typed(&format!("istioctl proxy-config routes {pod} --name 3000 -o json"));
    assert!(routes.contains("nodebook.default.svc.cluster.local"), "{routes}");
    assert!(mesh.typed(&format!("istioctl proxy-config listeners {pod}")).contains("15006"));
    let listeners = mesh.typed(&format!("istioctl proxy-config listeners {pod} --address 0.0.0.0 --port 3000 -o json"));
    assert!(listeners.contains("0.0.0.0_3000"), "{listeners}");
    mesh.typed("istioctl replace -f nodebook-service-v4.yaml");
    eventually("v4 answers", || get("/version"), |seen| *seen == Some((200, "v4".into())));
    for step in ["header", "delay", "abort", "timeout", "mirror"] {
        mesh.typed(&format!("istioctl replace -f nodebook-service-{step}.yaml"));
    }
    mesh.typed("kubectl apply -f nodebook-rule-cb.yaml");
    mesh.typed("kubectl apply -f nodebook-rule.yaml");
    assert!(get("/total").is_some_and(|(status, _)| status == 200));
    mesh.typed("istioctl delete virtualservice nodebook");
    eventually("nothing is routed", || get("/version").map(|(status, _)| status), |seen| *seen == Some(404));
    mesh.typed("istioctl delete -f nodebook-rule.yaml");
    let status = mesh.typed("istioctl proxy-status");
    assert!(status.contains("(CDS,LDS,EDS,RDS"), "{status}");
    assert!(mesh.typed("istioctl proxy-status -v 1").contains("SYNCED"));
}

fn of_a_proxys_insides(plane: DataPlane) {
    let mesh = Mesh::up("httpbin", plane);
    let httpbin = mesh.typed("kubectl -n samples get pod -l app=httpbin -o jsonpath={.items..metadata.name}");
    let pod = httpbin.trim();
    assert!(pod.starts_with("httpbin-"), "{pod:?}");
    assert!(!mesh.typed(&format!("kubectl -n samples logs {pod} istio-proxy")).is_empty());
    let admin = |page: &str| {
        mesh.typed(&format!("kubectl -n samples exec -it {pod} -c istio-proxy -- curl localhost:15000/{page} -s"))
    };
    assert!(admin("config_dump?include_eds").contains("type.googleapis.com/envoy.admin.v3.ClustersConfigDump"));
    for field in ["allocated", "heap_size", "pageheap_unmapped", "pageheap_free", "total_thread_cache"] {
        assert!(admin("memory").contains(field), "{field}");
    }
    let cluster = "outbound|8000||httpbin.samples.svc.cluster.local";
    let endpoints = || mesh.typed(&format!("istioctl -n samples proxy-config endpoints {pod} --cluster {cluster}"));
    eventually("the endpoint is known", endpoints, |t| t.contains("HEALTHY"));
    for kind in ["listeners", "clusters", "endpoints"] {
        let lines = mesh.typed(&format!("istioctl -n samples proxy-config {kind} {pod}")).lines().count();
        assert!(lines > 3, "{kind}: {lines} lines");
    }
    for component in ["http", "rbac"] {
        let post = format!(
            "kubectl -n samples exec {pod} -c istio-proxy -- curl -X POST localhost:15000/logging?{component}=debug -s"
        );
        assert!(mesh.typed(&post).contains(&format!("{component}: debug")), "{component}");
    }
    mesh.typed(&format!(
        "kubectl exec -n samples {pod} -c istio-proxy -- curl -s -XPOST http://localhost:15000/logging?level=info"
    ));
    let listing = mesh.typed(&format!("kubectl exec -n samples {pod} -c istio-proxy -- ls /etc/istio/proxy"));
    assert!(listing.contains("envoy-rev0.json"), "{listing}");
    let processes = mesh.typed(&format!("kubectl exec -n samples {pod} -c istio-proxy -- ps fax"));
    assert!(processes.contains("agent proxy sidecar"), "{processes}");
    if plane == DataPlane::Envoy {
        for part in [
            "--restart-epoch 0",
            "--drain-time-s",
            "--parent-shutdown-time-s",
            "--service-cluster httpbin.samples",
            "--service-node sidecar~",
        ] {
            assert!(processes.contains(part), "{part} in {processes}");
        }
    }
    // Files come out, and are what the container has.
    let copied = mesh.folder().join("copied.json");
    mesh.typed(&format!(
        "kubectl cp samples/{pod}:etc/istio/proxy/envoy-rev0.json {} -c istio-proxy",
        copied.display()
    ));
    let copied = std::fs::read_to_string(copied).expect("cp wrote it");
    assert_eq!(
        copied,
        mesh.typed(&format!("kubectl exec -n samples {pod} -c istio-proxy -- cat /etc/istio/proxy/envoy-rev0.json"))
    );
    assert!(copied.contains("\"static_resources\""), "{copied}");
    // Visibility, as annotations and a Sidecar say.
    let export = |to: &str| {
        let patch = format!("{{\"metadata\":{{\"annotations\":{{\"networking.istio.io/exportTo\":\"{to}\"}}}}}}");
        let output = mesh.run_as("kubectl", &["-n", "samples-1", "patch", "svc", "sleep", "-p", &patch]);
        assert!(output.status.success());
    };
    let sees = || mesh.typed(&format!("istioctl -n samples proxy-config clusters {pod}")).contains("sleep.samples-1");
    export(".");
    eventually("sleep is hidden", sees, |seen| !seen);
    export("*");
    eventually("sleep is seen", sees, |seen| *seen);
    // The control plane's own pages, and the gateway's.
    assert!(
        mesh.typed("kubectl exec -it deploy/istiod -n istio-system -- curl -s localhost:15014/metrics")
            .contains("# TYPE")
    );
    for kind in ["secret", "routes", "listeners"] {
        mesh.typed(&format!("istioctl pc {kind} deploy/istio-ingressgateway -n istio-system"));
    }
    assert!(!mesh.typed("kubectl logs -n istio-system -l app=istiod --tail=10000").is_empty());
    mesh.typed("kubectl label ns samples istio-injection=enabled --overwrite");
    assert!(mesh.typed("kubectl get deployments -n istio-system -o json").contains("\"istiod\""));
    assert!(mesh.typed(&format!("kubectl get pod {pod} -n samples -owide")).contains("10.244."));
}
