//! How are resources shown and changed? get, create, replace, apply, delete, edit, patch and label against a running mesh.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use mesh::object::{KINDS, Kind, Object, read_yaml};
use serde_json::{Value, json};

use crate::args;
use crate::context::{Failure, Global, print};
use crate::output::{Columns, fits, render};

/// Splits `type/name` and `type name…`.
fn targets(kind: &str, names: &[String]) -> Result<(Vec<&'static Kind>, Vec<String>), Failure> {
    let (word, name) = kind.split_once('/').map_or((kind, None), |(word, name)| (word, Some(name)));
    if word == "all" {
        let all = KINDS.iter().filter(|kind| matches!(kind.name, "Pod" | "Service" | "Deployment"));
        return Ok((all.collect(), Vec::new()));
    }
    let kinds = word.split(',').map(|one| {
        Kind::find(one).ok_or_else(|| {
            let near: Vec<&str> = KINDS
                .iter()
                .map(|kind| kind.plural)
                .filter(|plural| plural.starts_with(one.get(..2).unwrap_or(one)))
                .collect();
            let hint = if near.is_empty() {
                "try pods, services, virtualservices".to_owned()
            } else {
                format!("did you mean {}?", near.join(" or "))
            };
            Failure::Said(format!("unknown resource type {one:?}; {hint}"))
        })
    });
    let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
    Ok((kinds, name.map(str::to_owned).into_iter().chain(names.iter().cloned()).collect()))
}

pub(crate) fn get(context: &Global, args: &args::Get) -> Result<u8, Failure> {
    let (kinds, names) = targets(&args.kind, &args.names)?;
    let mut client = context.client()?;
    let namespace = if args.all_namespaces { Value::Null } else { context.namespace().into() };
    let columns = Columns { namespace: args.all_namespaces, labels: args.show_labels, headers: !args.no_headers };
    let mut printed = false;
    for kind in &kinds {
        let mut items: Vec<Value> = Vec::new();
        let asked: Vec<Value> =
            if names.is_empty() { vec![Value::Null] } else { names.iter().map(|name| name.as_str().into()).collect() };
        for name in asked {
            let answer = client.ask(&json!({"op": "get", "kind": kind.name, "namespace": namespace, "name": name}))?;
            items.extend(answer.as_array().cloned().unwrap_or_default());
        }
        if let Some(selector) = &args.selector {
            items.retain(|item| fits(selector, &item["metadata"]["labels"]));
        }
        if items.is_empty() && args.output.is_none() {
            continue;
        }
        if printed && kinds.len() > 1 {
            print("\n")?;
        }
        let single = names.len() == 1 && items.len() == 1;
        print(&render(kind, &items, args.output.as_deref(), single, &columns)?)?;
        printed = true;
    }
    if !printed {
        let place = if args.all_namespaces { String::new() } else { format!(" in {} namespace", context.namespace()) };
        eprintln!("No resources found{place}.");
    }
    Ok(0)
}

/// Reads `-f` arguments: files, folders, `-`, and bundled files by name.
pub(crate) fn read(files: &[String]) -> Result<Vec<(String, Object)>, Failure> {
    let mut objects = Vec::new();
    let mut take = |name: &str, text: &str| -> Result<(), Failure> {
        let read = read_yaml(text).map_err(|error| Failure::Said(format!("{name}: {error}")))?;
        objects.extend(read.into_iter().map(|object| (name.to_owned(), object)));
        Ok(())
    };
    for file in files {
        let path = Path::new(file);
        if file == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(Failure::io("standard input"))?;
            take("standard input", &text)?;
        } else if path.is_dir() {
            let entries = fs::read_dir(path).map_err(Failure::io(file))?;
            let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            paths.retain(|path| {
                path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json")
            });
            paths.sort();
            for path in paths {
                let name = path.display().to_string();
                take(&name, &fs::read_to_string(&path).map_err(Failure::io(&name))?)?;
            }
        } else if let Some(bundled) = mesh::examples::find(file).filter(|_| !path.exists()) {
            take(file, bundled)?;
        } else {
            take(file, &fs::read_to_string(path).map_err(Failure::io(file))?)?;
        }
    }
    if objects.is_empty() {
        return Err(Failure::Said(format!("{}: no resources in it", files.join(", "))));
    }
    Ok(objects)
}

fn say(answer: &Value) -> Result<(), Failure> {
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        eprintln!("Warning: {}", warning.as_str().unwrap_or_default());
    }
    print(&format!("{} {}\n", answer["key"].as_str().unwrap_or_default(), answer["done"].as_str().unwrap_or_default()))
}

pub(crate) fn put(context: &Global, verb: &str, args: &args::Files) -> Result<u8, Failure> {
    let objects = read(&args.files)?;
    let mut client = context.client()?;
    let mut failed = false;
    for (file, object) in objects {
        let request = json!({"op": verb, "namespace": context.namespace(), "object": object});
        match client.ask(&request) {
            Ok(answer) => say(&answer)?,
            Err(mesh::ApiError::Refused(reason)) => {
                eprintln!("Error: {file}: {reason}");
                failed = true;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(u8::from(failed))
}

pub(crate) fn delete(context: &Global, args: &args::Delete) -> Result<u8, Failure> {
    let mut wanted: Vec<(String, String, String)> = Vec::new();
    for (file, object) in if args.files.is_empty() { Vec::new() } else { read(&args.files)? } {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(context.namespace()).to_owned();
        let kind = text(&object["kind"]);
        if kind.is_empty() {
            return Err(Failure::Said(format!("{file}: kind: required field is missing")));
        }
        wanted.push((kind, namespace, text(&object["metadata"]["name"])));
    }
    if let Some(kind) = &args.kind {
        let (kinds, names) = targets(kind, &args.names)?;
        if names.is_empty() {
            return Err(Failure::Said(format!(
                "which {}? Say: delete {} NAME (see: get {})",
                kinds[0].plural, kinds[0].plural, kinds[0].plural
            )));
        }
        for kind in kinds {
            wanted
                .extend(names.iter().map(|name| (kind.name.to_owned(), context.namespace().to_owned(), name.clone())));
        }
    }
    let mut client = context.client()?;
    let mut failed = false;
    for (kind, namespace, name) in wanted {
        match client.ask(&json!({"op": "delete", "kind": kind, "namespace": namespace, "name": name})) {
            Ok(answer) => say(&answer)?,
            Err(mesh::ApiError::Refused(_)) if args.ignore_not_found => {}
            Err(mesh::ApiError::Refused(reason)) => {
                eprintln!("Error: {reason}");
                failed = true;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(u8::from(failed))
}

fn one(kind: &str, name: Option<&String>) -> Result<(&'static Kind, String), Failure> {
    let (kinds, names) = targets(kind, name.map(std::slice::from_ref).unwrap_or_default())?;
    match (&kinds[..], &names[..]) {
        ([kind], [name]) => Ok((kind, name.clone())),
        _ => Err(Failure::Said(format!(
            "{kind}: one type and one name are needed, as in: {}/NAME",
            kinds[0].name.to_ascii_lowercase()
        ))),
    }
}

pub(crate) fn patch(context: &Global, args: &args::Patch) -> Result<u8, Failure> {
    let (kind, name) = one(&args.kind, args.name.as_ref())?;
    if args.patch_type == "json" {
        return Err(Failure::Said(
            "JSON patches (RFC 6902) are not taken; give a merge patch, as in: -p '{\"spec\":{\"replicas\":2}}'"
                .to_owned(),
        ));
    }
    let patch: Value =
        serde_norway::from_str(&args.patch).map_err(|error| Failure::Said(format!("--patch: {error}")))?;
    let request =
        json!({"op": "patch", "kind": kind.name, "namespace": context.namespace(), "name": name, "patch": patch});
    say(&context.ask(&request)?)?;
    Ok(0)
}

pub(crate) fn label(context: &Global, args: &args::Label) -> Result<u8, Failure> {
    let has_name = args.kind.contains('/');
    let (name, labels) = if has_name { (None, &args.rest[..]) } else { (args.rest.first(), &args.rest[1..]) };
    let (kind, name) = one(&args.kind, name)?;
    let mut map = serde_json::Map::new();
    for label in labels {
        match (label.split_once('='), label.strip_suffix('-')) {
            (Some((key, value)), _) => map.insert(key.to_owned(), value.into()),
            (None, Some(key)) => map.insert(key.to_owned(), Value::Null),
            (None, None) => {
                return Err(Failure::Said(format!("{label:?} is neither KEY=VALUE nor KEY-")));
            }
        };
    }
    let patch = json!({"metadata": {"labels": map}});
    let request =
        json!({"op": "patch", "kind": kind.name, "namespace": context.namespace(), "name": name, "patch": patch});
    let answer = context.ask(&request)?;
    print(&format!("{} labeled\n", answer["key"].as_str().unwrap_or_default()))?;
    Ok(0)
}

pub(crate) fn edit(context: &Global, args: &args::Named) -> Result<u8, Failure> {
    let (kind, name) = one(&args.kind, args.name.as_ref())?;
    let mut client = context.client()?;
    let answer =
        client.ask(&json!({"op": "get", "kind": kind.name, "namespace": context.namespace(), "name": name}))?;
    let before = serde_norway::to_string(&answer[0]).map_err(|error| Failure::Said(error.to_string()))?;
    let path = std::env::temp_dir().join(format!("proa-edit-{}-{name}.yaml", std::process::id()));
    let shown = path.display().to_string();
    fs::write(&path, &before).map_err(Failure::io(&shown))?;
    let editor = std::env::var("KUBE_EDITOR").or_else(|_| std::env::var("EDITOR")).unwrap_or_else(|_| "vi".to_owned());
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("edit").arg(&path).status();
    let after = fs::read_to_string(&path).map_err(Failure::io(&shown))?;
    let status = status.map_err(Failure::io(&editor))?;
    if !status.success() {
        return Err(Failure::Said(format!("{editor} ended with {status}; nothing was changed")));
    }
    if after == before {
        let _ = fs::remove_file(&path);
        print("Edit cancelled, no changes made.\n")?;
        return Ok(0);
    }
    let objects =
        read_yaml(&after).map_err(|error| Failure::Said(format!("{shown}: {error} (your text is kept there)")))?;
    for object in objects {
        let request = json!({"op": "replace", "namespace": context.namespace(), "object": object});
        match client.ask(&request) {
            Ok(answer) => say(&answer)?,
            Err(error) => {
                return Err(Failure::Said(format!("{error} (your text is kept in {shown})")));
            }
        }
    }
    let _ = fs::remove_file(&path);
    Ok(0)
}
