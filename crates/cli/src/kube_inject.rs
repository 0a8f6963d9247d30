//! What do manifests look like with sidecars? `kube-inject`, by the injector that webhook and local mesh use.

use std::fs;
use std::io::Read;

use serde_json::Value;

use crate::args;
use crate::context::{Failure, print};

fn yaml(file: &str) -> Result<Value, Failure> {
    let text = fs::read_to_string(file).map_err(Failure::io(file))?;
    serde_norway::from_str(&text).map_err(|error| Failure::Said(format!("{file}: {error}")))
}

/// Lays `over` upon `base`, maps member by member.
fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                overlay(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Sets `a.b.c=value`; the value is read as YAML, so numbers and booleans are such.
fn set(values: &mut Value, assignment: &str) -> Result<(), Failure> {
    let (path, value) = assignment
        .split_once('=')
        .ok_or_else(|| Failure::Said(format!("--set {assignment:?}: PATH=VALUE is needed")))?;
    let value = serde_norway::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    let pieces = path.rsplit('.').fold(value, |inner, key| serde_json::json!({ key: inner }));
    overlay(values, &pieces);
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
    values["revision"] = args.revision.as_str().into();
    if let Some(file) = &args.values {
        overlay(&mut values, &yaml(file)?);
    }
    if let Some(file) = &args.inject_config {
        let config = yaml(file)?;
        for field in
            ["templates", "defaultTemplates", "neverInjectSelector", "alwaysInjectSelector", "injectedAnnotations"]
        {
            if !config[field].is_null() {
                values["sidecarInjectorWebhook"][field] = config[field].clone();
            }
        }
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

    #[test]
    fn values_are_set_by_path() {
        let mut values = json!({"global": {"hub": "a", "tag": "b"}});
        set(&mut values, "global.hub=c").expect("well formed");
        set(&mut values, "global.proxy.privileged=true").expect("well formed");
        assert_eq!(values, json!({"global": {"hub": "c", "tag": "b", "proxy": {"privileged": true}}}));
        assert!(set(&mut values, "nothing").is_err());
    }
}
