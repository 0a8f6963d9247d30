//! How do encoded items become one message? Protobuf's nesting is put around them without decoding them again.

use protos::envoy::config::core::v3::Node;
use protos::envoy::service::accesslog::v3::stream_access_logs_message::Identifier;
use protos::prost::Message as _;

/// Appends field `tag` of length-delimited type.
fn field(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    protos::prost::encoding::encode_key(tag, protos::prost::encoding::WireType::LengthDelimited, out);
    protos::prost::encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn repeated(tag: u32, items: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.iter().map(|i| i.len() + 6).sum());
    items.iter().for_each(|i| field(&mut out, tag, i));
    out
}

/// `StreamAccessLogsMessage`; the first of a stream says who speaks.
pub fn access_logs(identity: Option<(&Node, &str)>, tcp: bool, items: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some((node, log_name)) = identity {
        let identifier = Identifier { node: Some(node.clone()), log_name: log_name.to_owned() };
        field(&mut out, 1, &identifier.encode_to_vec());
    }
    field(&mut out, if tcp { 3 } else { 2 }, &repeated(1, items));
    out
}

/// `ExportLogsServiceRequest` or `ExportTraceServiceRequest`: they are built alike.
pub fn otel(resource: &[u8], items: &[Vec<u8>]) -> Vec<u8> {
    let mut of_resource = Vec::new();
    field(&mut of_resource, 1, resource);
    field(&mut of_resource, 2, &repeated(2, items));
    let mut out = Vec::new();
    field(&mut out, 1, &of_resource);
    out
}

/// A JSON list of spans.
pub fn zipkin(items: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![b'['];
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
    out.push(b']');
    out
}

#[cfg(test)]
mod tests {
    use protos::envoy::data::accesslog::v3::HttpAccessLogEntry;
    use protos::envoy::service::accesslog::v3::{StreamAccessLogsMessage, stream_access_logs_message::LogEntries};
    use protos::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
    use protos::opentelemetry::proto::resource::v1::Resource;
    use protos::opentelemetry::proto::trace::v1::Span;

    use super::*;

    #[test]
    fn messages_decode() {
        let entry = HttpAccessLogEntry { protocol_version: 2, ..Default::default() }.encode_to_vec();
        let node = Node { id: "n".into(), ..Node::default() };
        let bytes = access_logs(Some((&node, "log")), false, &[entry.clone(), entry]);
        let message = StreamAccessLogsMessage::decode(&*bytes).expect("decodes");
        assert_eq!(message.identifier.expect("first").log_name, "log");
        let Some(LogEntries::HttpLogs(logs)) = message.log_entries else { panic!("HTTP entries") };
        assert_eq!((logs.log_entry.len(), logs.log_entry[1].protocol_version), (2, 2));

        let span = Span { name: "s".into(), ..Span::default() }.encode_to_vec();
        let bytes = otel(&Resource::default().encode_to_vec(), &[span]);
        let request = ExportTraceServiceRequest::decode(&*bytes).expect("decodes");
        assert_eq!(request.resource_spans[0].scope_spans[0].spans[0].name, "s");
        assert!(request.resource_spans[0].resource.is_some());
        assert_eq!(zipkin(&[b"{}".to_vec(), b"{}".to_vec()]), b"[{},{}]");
    }
}
