//! What files does a pod see? Its volumes as folders below the mesh's state, its environment, and the few files of
//! `/etc` that every pod has.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::entry::Mount;
use crate::identity::Identity;
use crate::netns::{DNS_ADDRESS, NODE_ADDRESS};
use crate::object::{Key, Object, strings};
use crate::podspec::{Container, PodSpec};
use crate::store::Store;

/// Name of the ConfigMap with the mesh's root certificate, present in every namespace.
const ROOT_CERT: &str = "istio-ca-root-cert";
const SERVICE_ACCOUNT_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A pod and what is needed to make its files.
pub(crate) struct PodFiles<'a> {
    pub(crate) store: &'a Store,
    pub(crate) identity: &'a Identity,
    pub(crate) pod: &'a Object,
    pub(crate) spec: &'a PodSpec,
    pub(crate) address: Ipv4Addr,
    /// This pod's own folder.
    pub(crate) folder: &'a Path,
}

/// Writes `name` below `folder`, refusing to leave it.
fn write(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let relative = Path::new(name);
    let plain = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !plain {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a relative path")));
    }
    let path = folder.join(relative);
    path.parent().map(fs::create_dir_all).transpose()?;
    fs::write(&path, content)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
}

fn open_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    };
    let mut out = Vec::new();
    let (mut bits, mut held) = (0_u32, 0);
    for value in text.bytes().filter_map(digit) {
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}

impl PodFiles<'_> {
    fn meta(&self, field: &str) -> String {
        self.pod["metadata"][field].as_str().unwrap_or_default().to_owned()
    }

    fn keyed(&self, kind: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let namespace = self.meta("namespace");
        if kind == "ConfigMap" && name == ROOT_CERT {
            return Some([("root-cert.pem".to_owned(), self.identity.root_pem().into_bytes())].into());
        }
        if kind == "Secret" && name == "cacerts" && namespace == "istio-system" {
            return Some(self.identity.cacerts());
        }
        let object = self.store.get(&Key::new(kind, &namespace, name))?;
        let mut data: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let decode = |field: &str| kind == "Secret" && field == "data" || field == "binaryData";
        for field in ["data", "binaryData", "stringData"] {
            for (key, value) in strings(&object[field]) {
                data.insert(key, if decode(field) { base64(&value) } else { value.into_bytes() });
            }
        }
        Some(data)
    }

    /// Writes a ConfigMap or Secret, all keys or the `items` asked for.
    fn keys(&self, folder: &Path, kind: &str, source: &Value) -> io::Result<()> {
        let name = source["name"].as_str().or_else(|| source["secretName"].as_str()).unwrap_or_default();
        let Some(data) = self.keyed(kind, name) else {
            if source["optional"] == true {
                return Ok(());
            }
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{kind} {name:?} not found")));
        };
        match source["items"].as_array() {
            None => data.iter().try_for_each(|(key, content)| write(folder, key, content)),
            Some(items) => items.iter().try_for_each(|item| {
                let key = item["key"].as_str().unwrap_or_default();
                let content = data.get(key).map(Vec::as_slice).unwrap_or_default();
                write(folder, item["path"].as_str().unwrap_or(key), content)
            }),
        }
    }

    fn downward(&self, folder: &Path, source: &Value) -> io::Result<()> {
        for item in source["items"].as_array().into_iter().flatten() {
            let path = item["path"].as_str().unwrap_or_default();
            let field = item["fieldRef"]["fieldPath"].as_str().unwrap_or_default();
            let content = match field {
                "metadata.labels" | "metadata.annotations" => {
                    let pairs = strings(&self.pod["metadata"][&field["metadata.".len()..]]);
                    let lines: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
                    lines.join("\n")
                }
                _ => self.field(field).or_else(|| resource(item)).unwrap_or_default(),
            };
            write(folder, path, content.as_bytes())?;
        }
        Ok(())
    }

    fn projected(&self, folder: &Path, source: &Value) -> io::Result<()> {
        for source in source["sources"].as_array().into_iter().flatten() {
            if let Some(token) = source.get("serviceAccountToken") {
                write(folder, token["path"].as_str().unwrap_or("token"), self.token().as_bytes())?;
            }
            if let Some(map) = source.get("configMap") {
                self.keys(folder, "ConfigMap", map)?;
            }
            if let Some(secret) = source.get("secret") {
                self.keys(folder, "Secret", secret)?;
            }
            if let Some(items) = source.get("downwardAPI") {
                self.downward(folder, items)?;
            }
        }
        Ok(())
    }

    fn token(&self) -> String {
        self.identity.token(
            &self.meta("namespace"),
            self.spec.service_account(),
            (&self.meta("name"), &self.meta("uid")),
        )
    }

    /// Makes every volume; returns where each is.
    pub(crate) fn volumes(&self) -> io::Result<BTreeMap<String, PathBuf>> {
        let mut places = BTreeMap::new();
        for volume in &self.spec.volumes {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("volume {:?}: {error}", volume.name));
            if let Some(path) = volume.host_path.as_ref().and_then(|host| host["path"].as_str()) {
                places.insert(volume.name.clone(), PathBuf::from(path));
                continue;
            }
            let folder = self.folder.join("volumes").join(volume.name.replace('/', "_"));
            open_folder(&folder).map_err(named)?;
            if let Some(source) = &volume.config_map {
                self.keys(&folder, "ConfigMap", source).map_err(named)?;
            } else if let Some(source) = &volume.secret {
                self.keys(&folder, "Secret", source).map_err(named)?;
            } else if let Some(source) = &volume.projected {
                self.projected(&folder, source).map_err(named)?;
            } else if let Some(source) = &volume.downward_api {
                self.downward(&folder, source).map_err(named)?;
            }
            places.insert(volume.name.clone(), folder);
        }
        self.fixed()?;
        Ok(places)
    }

    /// `/etc/resolv.conf`, `/etc/hosts`, `/etc/hostname` and the service account's folder.
    fn fixed(&self) -> io::Result<()> {
        let (name, namespace) = (self.meta("name"), self.meta("namespace"));
        let etc = self.folder.join("etc");
        let search = format!("{namespace}.svc.cluster.local svc.cluster.local cluster.local");
        write(&etc, "resolv.conf", format!("search {search}\nnameserver {DNS_ADDRESS}\noptions ndots:5\n").as_bytes())?;
        let hosts =
            format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{}\t{name}\n", self.address);
        write(&etc, "hosts", hosts.as_bytes())?;
        write(&etc, "hostname", format!("{name}\n").as_bytes())?;
        let account = self.folder.join("serviceaccount");
        open_folder(&account)?;
        write(&account, "token", self.token().as_bytes())?;
        write(&account, "namespace", namespace.as_bytes())?;
        write(&account, "ca.crt", self.identity.root_pem().as_bytes())
    }

    /// What is mounted into `container`.
    pub(crate) fn mounts(
        &self,
        container: &Container,
        volumes: &BTreeMap<String, PathBuf>,
        program: &Path,
    ) -> Vec<Mount> {
        let mut mounts =
            vec![Mount { source: program.to_path_buf(), target: "/usr/local/bin/proa".into(), read_only: true }];
        for name in ["resolv.conf", "hosts", "hostname"] {
            let target = Path::new("/etc").join(name);
            mounts.push(Mount { source: self.folder.join("etc").join(name), target, read_only: false });
        }
        let own_account = container.volume_mounts.iter().any(|mount| mount.mount_path == SERVICE_ACCOUNT_FOLDER);
        if !own_account {
            let source = self.folder.join("serviceaccount");
            mounts.push(Mount { source, target: SERVICE_ACCOUNT_FOLDER.into(), read_only: true });
        }
        for mount in &container.volume_mounts {
            let Some(source) = volumes.get(&mount.name) else {
                continue;
            };
            let source = mount.sub_path.as_ref().map_or_else(|| source.clone(), |sub| source.join(sub));
            mounts.push(Mount { source, target: PathBuf::from(&mount.mount_path), read_only: mount.read_only });
        }
        mounts
    }

    /// The environment of `container`, references resolved, later names winning.
    pub(crate) fn environment(&self, container: &Container) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> =
            vec![("PATH".into(), PATH.into()), ("HOME".into(), "/".into()), ("HOSTNAME".into(), self.meta("name"))];
        if let Some(port) = container.ports.first() {
            // Built-in samples listen where the manifest says, whatever the image's own default.
            all.push(("PORT".into(), port.container_port.to_string()));
        }
        for source in &container.env_from {
            let prefix = source["prefix"].as_str().unwrap_or_default();
            for (field, kind) in [("configMapRef", "ConfigMap"), ("secretRef", "Secret")] {
                let name = source[field]["name"].as_str();
                for (key, value) in name.and_then(|name| self.keyed(kind, name)).unwrap_or_default() {
                    all.push((format!("{prefix}{key}"), String::from_utf8_lossy(&value).into_owned()));
                }
            }
        }
        for variable in &container.env {
            let value = match (&variable.value, &variable.value_from) {
                (Some(value), _) => expand(value, &all),
                (None, Some(source)) => self.reference(container, source).unwrap_or_default(),
                (None, None) => String::new(),
            };
            all.retain(|(name, _)| *name != variable.name);
            all.push((variable.name.clone(), value));
        }
        all
    }

    fn reference(&self, container: &Container, source: &Value) -> Option<String> {
        if let Some(path) = source["fieldRef"]["fieldPath"].as_str() {
            return self.field(path);
        }
        for (field, kind) in [("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")] {
            if let Some(reference) = source.get(field) {
                let data = self.keyed(kind, reference["name"].as_str()?)?;
                return data.get(reference["key"].as_str()?).map(|value| String::from_utf8_lossy(value).into_owned());
            }
        }
        let limits = &container.resources;
        let asked = source["resourceFieldRef"]["resource"].as_str()?;
        let (group, name) = asked.split_once('.')?;
        quantity(name, limits[group][name].as_str()).or_else(|| resource(source))
    }

    fn field(&self, path: &str) -> Option<String> {
        let text = match path {
            "metadata.name" | "metadata.namespace" | "metadata.uid" => self.meta(&path["metadata.".len()..]),
            "status.podIP" | "status.podIPs" => self.address.to_string(),
            "status.hostIP" | "status.hostIPs" => NODE_ADDRESS.to_string(),
            "spec.nodeName" => "proa".to_owned(),
            "spec.serviceAccountName" => self.spec.service_account().to_owned(),
            _ => {
                let (map, key) = path.strip_prefix("metadata.")?.split_once("['")?;
                return self.pod["metadata"][map][key.strip_suffix("']")?].as_str().map(str::to_owned);
            }
        };
        Some(text)
    }
}

/// `limits.cpu` without a limit is the machine's.
fn resource(source: &Value) -> Option<String> {
    match source["resourceFieldRef"]["resource"].as_str()? {
        "limits.cpu" | "requests.cpu" => std::thread::available_parallelism().ok().map(|count| count.to_string()),
        _ => None,
    }
}

/// A quantity as `resourceFieldRef` shows it: whole CPUs rounded up, bytes.
fn quantity(name: &str, value: Option<&str>) -> Option<String> {
    let value = value?;
    let digits = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let number: f64 = value[..digits].parse().ok()?;
    let unit = match &value[digits..] {
        "" => 1.0,
        "m" => 0.001,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        _ => return None,
    };
    let _ = name;
    Some(format!("{:.0}", (number * unit).ceil()))
}

/// `$(NAME)` as Kubernetes expands it; unknown names stay, `$$` escapes.
pub(crate) fn expand(text: &str, environment: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')')) {
            match environment.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&rest[..name.len() + 3]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand() {
        let environment = [("A".to_owned(), "1".to_owned())];
        for (text, expect) in [("x$(A)y", "x1y"), ("$(B)", "$(B)"), ("$$(A)", "$(A)"), ("$A$", "$A$"), ("$(A", "$(A")] {
            assert_eq!(expand(text, &environment), expect);
        }
    }

    #[test]
    fn quantities() {
        assert_eq!(quantity("cpu", Some("1500m")).as_deref(), Some("2"));
        assert_eq!(quantity("memory", Some("1Gi")).as_deref(), Some("1073741824"));
        assert_eq!(base64("aGVsbG8="), b"hello");
    }

    #[test]
    fn volume_paths_stay_inside() {
        assert!(write(Path::new("/nonexistent"), "../x", b"").is_err());
        assert!(write(Path::new("/nonexistent"), "/x", b"").is_err());
    }
}
