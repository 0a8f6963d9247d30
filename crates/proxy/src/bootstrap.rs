//! What does the bootstrap file say? JSON or YAML in Envoy's schema, merged with `--config-yaml`, validated.
//!
//! Called before anything starts, and by `--mode validate`.

use prost::Message;
use prost_types::value::Kind;
use protos::envoy::config::bootstrap::v3 as proto;
use protos::envoy::config::core::v3 as core;
use serde_json::Value;

use crate::options::Options;
use crate::packed::Packed;

/// Largest bootstrap file read: far above any real one, far below what would hurt.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A bootstrap in both forms: as written (for `/config_dump` and the node) and compiled.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// The message, with the node completed from the command line; its static resources only until they are loaded.
    pub message: proto::Bootstrap,
    /// All of the message, for `/config_dump`.
    encoded: Packed,
    /// Its compiled form.
    pub config: proxy_config::bootstrap::Bootstrap,
}

/// Why a bootstrap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Neither a file nor inline text.
    #[error("At least one of --config-path or --config-yaml or Options::configProto() should be non-empty")]
    Nothing,
    /// The file cannot be read.
    #[error("Invalid path: {path}: {error}")]
    Read {
        /// Its path.
        path: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// The text is neither YAML nor JSON.
    #[error("Unable to parse {origin}: {reason}")]
    Syntax {
        /// File or `--config-yaml`.
        origin: String,
        /// The parser's words, with the place.
        reason: String,
    },
    /// The text is no bootstrap.
    #[error("Protobuf message (type envoy.config.bootstrap.v3.Bootstrap) reason INVALID_ARGUMENT: {0}")]
    Schema(protos::json::JsonError),
    /// A field's value is not accepted.
    #[error("{0}")]
    Config(proxy_config::ConfigError),
    /// The identity needed by dynamic resources is missing.
    #[error(
        "node 'id' and 'cluster' are required. Set it either in 'node' config or via --service-node and --service-cluster options."
    )]
    Node,
}

/// Reads JSON or YAML text.
pub(crate) fn read(origin: &str, text: &str) -> Result<Value, BootstrapError> {
    let syntax = |reason: String| BootstrapError::Syntax { origin: origin.into(), reason };
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    let value: serde_norway::Value = serde_norway::from_str(text).map_err(|e| syntax(e.to_string()))?;
    to_json(value).map_err(syntax)
}

/// YAML as JSON: keys become strings, tags and merge keys are refused or applied.
fn to_json(mut value: serde_norway::Value) -> Result<Value, String> {
    value.apply_merge().map_err(|e| e.to_string())?;
    fn convert(value: serde_norway::Value) -> Result<Value, String> {
        use serde_norway::Value as Yaml;
        Ok(match value {
            Yaml::Null => Value::Null,
            Yaml::Bool(b) => b.into(),
            Yaml::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), ..) => n.into(),
                (_, Some(n), _) => n.into(),
                (.., Some(n)) => serde_json::Number::from_f64(n).map_or(Value::Null, Value::Number),
                _ => Value::Null,
            },
            Yaml::String(s) => s.into(),
            Yaml::Sequence(list) => list.into_iter().map(convert).collect::<Result<Vec<_>, _>>()?.into(),
            Yaml::Mapping(map) => {
                let mut object = serde_json::Map::new();
                for (key, value) in map {
                    let key = match convert(key)? {
                        Value::String(s) => s,
                        other @ (Value::Bool(_) | Value::Number(_)) => other.to_string(),
                        _ => return Err("a mapping key must be a scalar".into()),
                    };
                    object.insert(key, convert(value)?);
                }
                object.into()
            }
            Yaml::Tagged(tagged) => return Err(format!("tag {} is not supported", tagged.tag)),
        })
    }
    convert(value)
}

/// Protobuf's merge on JSON: objects merge, lists append, the rest is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in b {
                match a.get_mut(&key) {
                    Some(old) => merge(old, value),
                    None => {
                        a.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => a.extend(b),
        (into, from) => *into = from,
    }
}

/// Loads what the options name.
pub fn load(options: &Options) -> Result<Bootstrap, BootstrapError> {
    let mut value = Value::Null;
    if !options.config_path.is_empty() {
        let path = options.config_path.clone();
        let text = std::fs::metadata(&path)
            .and_then(|m| {
                if m.len() > FILE_BYTES_MAX {
                    Err(std::io::ErrorKind::FileTooLarge.into())
                } else {
                    std::fs::read_to_string(&path)
                }
            })
            .map_err(|error| BootstrapError::Read { path, error })?;
        value = if options.config_path.ends_with(".pb") || options.config_path.ends_with(".proto_text") {
            return Err(BootstrapError::Syntax {
                origin: options.config_path.clone(),
                reason: "only JSON and YAML are read".into(),
            });
        } else {
            read(&options.config_path, &text)?
        };
    }
    if !options.config_yaml.is_empty() {
        merge(&mut value, read("--config-yaml", &options.config_yaml)?);
    }
    if options.config_path.is_empty() && options.config_yaml.is_empty() {
        return Err(BootstrapError::Nothing);
    }
    from_json(&value, options)
}

/// Validates a bootstrap given as JSON.
pub fn from_json(value: &Value, options: &Options) -> Result<Bootstrap, BootstrapError> {
    let mut value = value.clone();
    let message = loop {
        match protos::json::decode_json::<proto::Bootstrap>(&value) {
            Ok(message) => break message,
            // The offending field is named by the error: drop it and try again.
            Err(e) if options.allow_unknown_static_fields && drop_unknown(&mut value, &e) => {}
            Err(e) => return Err(BootstrapError::Schema(e)),
        }
    };
    compile(message, options)
}

/// Removes the unknown field that an error names; false if it names none.
fn drop_unknown(value: &mut Value, error: &protos::json::JsonError) -> bool {
    if !error.reason.contains("unknown field") && !error.reason.contains("no such field") {
        return false;
    }
    let path = error.path.replace('[', ".").replace(']', "");
    let mut segments: Vec<&str> = path.split('.').filter(|s| !s.is_empty()).collect();
    let Some(last) = segments.pop() else {
        return false;
    };
    let mut at = value;
    for segment in segments {
        let next = match at {
            Value::Object(o) => o.get_mut(segment),
            Value::Array(a) => segment.parse::<usize>().ok().and_then(|i| a.get_mut(i)),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return false,
        }
    }
    at.as_object_mut().is_some_and(|o| o.remove(last).is_some())
}

/// Validates a bootstrap message, completing the node from the command line.
pub fn compile(mut message: proto::Bootstrap, options: &Options) -> Result<Bootstrap, BootstrapError> {
    let node = message.node.get_or_insert_default();
    if !options.service_node.is_empty() {
        node.id = options.service_node.clone();
    }
    if !options.service_cluster.is_empty() {
        node.cluster = options.service_cluster.clone();
    }
    if !options.service_zone.is_empty() {
        node.locality.get_or_insert_default().zone = options.service_zone.clone();
    }
    identify(node);
    let config = proxy_config::parse::bootstrap(&message).map_err(BootstrapError::Config)?;
    let dynamic = config.dynamic.lds.is_some() || config.dynamic.cds.is_some() || config.dynamic.ads.is_some();
    if dynamic && message.node.as_ref().is_some_and(|n| n.id.is_empty() || n.cluster.is_empty()) {
        return Err(BootstrapError::Node);
    }
    let encoded = Packed::new(&message.encode_to_vec());
    Ok(Bootstrap { message, encoded, config })
}

impl Bootstrap {
    /// The message as it was loaded.
    pub fn whole(&self) -> Option<proto::Bootstrap> {
        proto::Bootstrap::decode(&*self.encoded.to_vec()).ok()
    }
}

/// Says who we are, in the fields by which Envoy does.
fn identify(node: &mut core::Node) {
    node.user_agent_name = "proa".into();
    let mut number = env!("CARGO_PKG_VERSION").split('.').map(|n| n.parse().unwrap_or(0));
    let mut next = || number.next().unwrap_or(0);
    let text = |s: &str| prost_types::Value { kind: Some(Kind::StringValue(s.into())) };
    node.user_agent_version_type = Some(core::node::UserAgentVersionType::UserAgentBuildVersion(core::BuildVersion {
        version: Some(protos::envoy::r#type::v3::SemanticVersion {
            major_number: next(),
            minor_number: next(),
            patch: next(),
        }),
        metadata: Some(prost_types::Struct {
            fields: [
                ("build.type".to_owned(), text(if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" })),
                ("revision.status".to_owned(), text("Clean")),
                ("ssl.version".to_owned(), text("AWS-LC")),
            ]
            .into(),
        }),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, allow: bool) -> Result<Bootstrap, String> {
        let options = Options { config_yaml: yaml.into(), allow_unknown_static_fields: allow, ..Options::default() };
        load(&options).map_err(|e| e.to_string())
    }

    #[test]
    fn errors_name_the_field() {
        assert!(check("a: b", false).expect_err("unknown").contains('a'));
        assert!(check("a: b\nadmin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}", true).is_ok());
        assert!(check("{", false).expect_err("syntax").starts_with("Unable to parse --config-yaml"));
        let error =
            check("static_resources: {clusters: [{name: a, connect_timeout: x}]}", false).expect_err("duration");
        assert!(error.contains("clusters[0]") && error.contains("connect_timeout"), "{error}");
        assert_eq!(load(&Options::default()).expect_err("nothing").to_string(), BootstrapError::Nothing.to_string());
        let dynamic = "dynamic_resources: {ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: x}}]}, cds_config: {ads: {}}}";
        assert!(check(dynamic, false).expect_err("no node").starts_with("node 'id' and 'cluster' are required"));
    }

    #[test]
    fn inline_yaml_is_merged_as_messages_are() {
        let mut a = serde_json::json!({"x": {"a": 1, "l": [1]}, "y": 1});
        merge(&mut a, serde_json::json!({"x": {"b": 2, "l": [2]}, "y": 2}));
        assert_eq!(a, serde_json::json!({"x": {"a": 1, "l": [1, 2], "b": 2}, "y": 2}));
    }
}
