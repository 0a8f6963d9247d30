//! How are two encoded messages joined? As protobuf says (scalars replaced, messages joined, lists appended), except
//! that a duration is replaced whole. Works on bytes with the schema, so that it serves every type, packed ones too.

use protos::schema::{Kind, MessageType};
use serde_json::Value;

const DURATION: &str = "google.protobuf.Duration";
/// Deeper messages are appended as they are.
const DEPTH_MAX: usize = 64;

/// A field as written.
struct Piece<'a> {
    number: u32,
    /// Tag and value.
    whole: &'a [u8],
    /// What a length-delimited field holds.
    inner: Option<&'a [u8]>,
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut out = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        out |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(out);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(taken)
}

fn pieces(mut bytes: &[u8]) -> Option<Vec<Piece<'_>>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let start = bytes;
        let tag = varint(&mut bytes)?;
        let mut inner = None;
        match tag & 7 {
            0 => {
                varint(&mut bytes)?;
            }
            1 => {
                take(&mut bytes, 8)?;
            }
            2 => {
                let n = usize::try_from(varint(&mut bytes)?).ok()?;
                inner = Some(take(&mut bytes, n)?);
            }
            5 => {
                take(&mut bytes, 4)?;
            }
            _ => return None,
        }
        out.push(Piece { number: u32::try_from(tag >> 3).ok()?, whole: &start[..start.len() - bytes.len()], inner });
    }
    Some(out)
}

fn write_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// `from` merged into `into`, both messages of this type. `replace_lists`: a list in `from` takes the place of one in
/// `into`. Unknown types and broken bytes are appended, which is protobuf's own merge.
pub(super) fn merge(type_name: &str, into: &[u8], from: &[u8], replace_lists: bool) -> Vec<u8> {
    match MessageType::find(type_name) {
        Some(t) => join(t, into, from, replace_lists, DEPTH_MAX),
        None => [into, from].concat(),
    }
}

fn join(t: MessageType, into: &[u8], from: &[u8], replace_lists: bool, depth: usize) -> Vec<u8> {
    let (Some(old), Some(new), 1..) = (pieces(into), pieces(from), depth) else {
        return [into, from].concat();
    };
    // What of the old goes: fields that the new piece replaces or takes up.
    let mut gone: Vec<u32> = Vec::new();
    let mut tail = Vec::new();
    for piece in &new {
        let field = t.field_by_number(piece.number);
        match (field, piece.inner) {
            (Some(f), _) if f.is_repeated() => {
                if replace_lists && !f.is_map() {
                    gone.push(piece.number);
                }
                tail.extend_from_slice(piece.whole);
            }
            (Some(f), Some(inner)) => match f.kind() {
                Kind::Message(m) if m.full_name() != DURATION => {
                    gone.push(piece.number);
                    let before: Vec<u8> = old
                        .iter()
                        .filter(|o| o.number == piece.number)
                        .flat_map(|o| o.inner.unwrap_or_default())
                        .copied()
                        .collect();
                    let joined = join(m, &before, inner, replace_lists, depth - 1);
                    write_varint(u64::from(piece.number) << 3 | 2, &mut tail);
                    write_varint(joined.len() as u64, &mut tail);
                    tail.extend(joined);
                }
                _ => {
                    gone.push(piece.number);
                    tail.extend_from_slice(piece.whole);
                }
            },
            _ => tail.extend_from_slice(piece.whole),
        }
    }
    let mut out: Vec<u8> = old.iter().filter(|o| !gone.contains(&o.number)).flat_map(|o| o.whole).copied().collect();
    out.extend(tail);
    out
}

/// A patch's JSON as the message. Go's spelling of durations (`500ms`) is accepted where Envoy wants `0.5s`.
pub(super) fn read(type_name: &str, value: &Value) -> Option<Vec<u8>> {
    let mut value = value.clone();
    durations(type_name, &mut value, DEPTH_MAX);
    protos::json::from_json(type_name, &value).ok()
}

fn durations(type_name: &str, value: &mut Value, depth: usize) {
    if depth == 0 {
        return;
    }
    if type_name == DURATION {
        // Negative ones stay for the reader to refuse.
        if let Value::String(text) = value
            && !text.starts_with('-')
            && let Some(d) = api::Duration::parse(text)
        {
            let d = d.to_std();
            *text = format!("{}.{:09}s", d.as_secs(), d.subsec_nanos());
        }
        return;
    }
    let Value::Object(object) = value else { return };
    // A packed message says itself what it is.
    let stated = object.get("@type").and_then(Value::as_str).map(|url| protos::type_name(url).to_owned());
    let Some(t) = MessageType::find(stated.as_deref().unwrap_or(type_name)) else {
        return;
    };
    for (key, value) in object.iter_mut() {
        let Some(field) = t.field_by_name(key) else {
            continue;
        };
        let Kind::Message(m) = field.kind() else {
            continue;
        };
        if field.is_map() {
            if let (Some(Kind::Message(of)), Value::Object(entries)) = (m.field_by_number(2).map(|f| f.kind()), value) {
                entries.values_mut().for_each(|v| durations(of.full_name(), v, depth - 1));
            }
        } else if let Value::Array(list) = value {
            list.iter_mut().for_each(|v| durations(m.full_name(), v, depth - 1));
        } else {
            durations(m.full_name(), value, depth - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protos::envoy::config::cluster::v3::Cluster;
    use protos::prost::Message as _;
    use serde_json::json;

    fn merged(into: Value, from: Value, replace_lists: bool) -> Value {
        let name = "envoy.config.cluster.v3.Cluster";
        let read = |v| read(name, &v).expect("a cluster");
        let out = merge(name, &read(into), &read(from), replace_lists);
        protos::json::encode_json(&Cluster::decode(&*out).expect("a cluster"))
    }

    #[test]
    fn scalars_replaced_messages_joined_durations_whole() {
        let into =
            json!({"name": "a", "connectTimeout": "1.5s", "commonLbConfig": {"healthyPanicThreshold": {"value": 1}}});
        let from = json!({"connect_timeout": "2s", "commonLbConfig": {"closeConnectionsOnHostSetChange": true}});
        assert_eq!(
            merged(into, from, false),
            json!({"name": "a", "connect_timeout": "2s", "common_lb_config":
                {"healthy_panic_threshold": {"value": 1}, "close_connections_on_host_set_change": true}})
        );
    }

    #[test]
    fn go_durations_are_read() {
        let got = merged(json!({"name": "a"}), json!({"dns_refresh_rate": "500ms"}), false);
        assert_eq!(got["dns_refresh_rate"], "0.500s");
    }

    #[test]
    fn lists_append_or_replace() {
        let list = |n: &str| json!({"dns_resolvers": [{"socketAddress": {"address": n, "portValue": 53}}]});
        let count = |v: Value| v["dns_resolvers"].as_array().map_or(0, Vec::len);
        assert_eq!(count(merged(list("1.1.1.1"), list("2.2.2.2"), false)), 2);
        assert_eq!(count(merged(list("1.1.1.1"), list("2.2.2.2"), true)), 1);
    }

    #[test]
    fn a_oneof_takes_the_new_member() {
        let got = merged(json!({"type": "EDS", "name": "a"}), json!({"clusterType": {"name": "x"}}), false);
        assert_eq!(got["cluster_type"]["name"], "x");
        assert!(got.get("type").is_none());
    }
}
