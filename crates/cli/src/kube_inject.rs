//! What do manifests look like with sidecars? `kube-inject`, by the injector that webhook and local mesh use.

use std::fs;
use std::io::Read;

use serde_json::Value;

use crate::args;
use crate::context::{Failure, print};

/// Where our images are.
const OWN_HUB: &str = "proa";
/// Which of them.
const OWN_TAG: &str = "latest";

fn yaml(file: &str) -> Result<Value, Failure> {
    let text = fs::read_to_string(file).map_err(Failure::io(file))?;
    serde_norway::from_str(&text).map_err(|error| Failure::Said(format!("{file}: {error}")))
}

/// Sets `a.b.c=value`; the value is read as YAML, so numbers and booleans are such. `image=NAME` is the image of proxy and
/// init container.
fn set(values: &mut Value, assignment: &str) -> Result<(), Failure> {
    let (path, value) = assignment
        .split_once('=')
        .ok_or_else(|| Failure::Said(format!("--set {assignment:?}: PATH=VALUE is needed")))?;
    if path == "image" {
        values["global"]["proxy"]["image"] = value.into();
        values["global"]["proxy_init"]["image"] = value.into();
        return Ok(());
    }
    let value = serde_norway::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    let pieces = path.rsplit('.').fold(value, |inner, key| serde_json::json!({ key: inner }));
    inject::config::lay_over(values, &pieces);
    Ok(())
}

fn injector(args: &args::KubeInject) -> Result<inject::Injector, Failure> {
    let mesh = match &args.mesh_config {
        None => api::MeshConfig::istio_default(),
        Some(file) => api::MeshConfig::overlay(&yaml(file)?).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::Said(format!("{file}: {}", problems.join("; ")))
        })?,
    };
    let mut values = inject::default_values();
    // Our own images; `--set image=` or `--set global.hub=` name others.
    values["global"]["hub"] = OWN_HUB.into();
    values["global"]["tag"] = OWN_TAG.into();
    values["revision"] = args.revision.as_str().into();
    if let Some(file) = &args.values {
        inject::config::lay_over(&mut values, &yaml(file)?);
    }
    if let Some(file) = &args.inject_config {
        inject::config::set(&mut values, &yaml(file)?);
    }
    for assignment in &args.set {
        set(&mut values, assignment.strip_prefix("values.").unwrap_or(assignment))?;
    }
    let mut injector = inject::Injector::new(mesh, values);
    // A manifest is for clusters of any age; native sidecars are for those who ask.
    injector.native_sidecar = std::env::var("ENABLE_NATIVE_SIDECARS").is_ok_and(|value| value == "true");
    Ok(injector)
}

pub(crate) fn run(args: &args::KubeInject) -> Result<u8, Failure> {
    let text = if args.file == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(Failure::io("standard input"))?;
        text
    } else {
        fs::read_to_string(&args.file).map_err(Failure::io(&args.file))?
    };
    let injected =
        injector(args)?.inject_manifest(&text).map_err(|error| Failure::Said(format!("{}: {error}", args.file)))?;
    match args.output.as_deref() {
        None | Some("-") => print(&injected)?,
        Some(file) => fs::write(file, injected).map_err(Failure::io(file))?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What the operators' notes show of an injected deployment: the rules' arguments and the proxy.
    #[test]
    fn a_deployment_gets_what_the_notes_show() {
        let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: nodebook-v3}\nspec:\n  selector: {matchLabels: {app: nodebook}}\n  template:\n    metadata: {labels: {app: nodebook}}\n    spec: {containers: [{name: nodebook, image: \"nodebook:v3\", ports: [{containerPort: 3000}]}]}\n";
        let inject = |set: &[&str]| {
            let args = args::KubeInject {
                file: String::new(),
                output: None,
                mesh_config: None,
                inject_config: None,
                values: None,
                revision: "default".into(),
                set: set.iter().map(|s| (*s).to_owned()).collect(),
            };
            let text = injector(&args).expect("an injector").inject_manifest(deployment).expect("an injected manifest");
            api::yaml::parse(text.trim_end().trim_end_matches("---")).expect("YAML")
        };
        let pod = &inject(&[])["spec"]["template"]["spec"];
        let init = &pod["initContainers"][0];
        assert_eq!(init["name"], "istio-init");
        let args: Vec<&str> = init["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (flag, value) in [("-p", "15001"), ("-u", "1337"), ("-m", "REDIRECT"), ("-i", "*"), ("-x", ""), ("-b", "*")]
        {
            let at = args.iter().position(|a| *a == flag);
            assert_eq!(at.and_then(|at| args.get(at + 1)), Some(&value), "{flag} in {args:?}");
        }
        let proxy = |pod: &Value| {
            let containers = pod["containers"].as_array().into_iter().flatten();
            containers.filter(|c| c["name"] == "istio-proxy").map(|c| c["image"].clone()).next()
        };
        assert_eq!(proxy(pod), Some(json!("proa/proxyv2:latest")));
        let stock = inject(&["image=docker.io/istio/proxyv2:1.32.0"]);
        let pod = &stock["spec"]["template"]["spec"];
        assert_eq!(proxy(pod), Some(json!("docker.io/istio/proxyv2:1.32.0")));
        assert_eq!(pod["initContainers"][0]["image"], "docker.io/istio/proxyv2:1.32.0");
    }

    #[test]
    fn values_are_set_by_path() {
        let mut values = json!({"global": {"hub": "a", "tag": "b"}});
        set(&mut values, "global.hub=c").expect("well formed");
        set(&mut values, "global.proxy.privileged=true").expect("well formed");
        assert_eq!(values, json!({"global": {"hub": "c", "tag": "b", "proxy": {"privileged": true}}}));
        assert!(set(&mut values, "nothing").is_err());
    }
}
