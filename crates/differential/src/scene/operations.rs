//! Which headers are added and removed?

use crate::rng::Rng;
use serde_json::{Map, Value, json};

/// Header operations on one in `n` occasions.
pub fn some(rng: &mut Rng, n: usize) -> Value {
    let mut out = Map::new();
    let mut add = |rng: &mut Rng, field: &str| {
        let value = rng.pick(&[
            "plain",
            "%PROTOCOL%",
            "%REQ(x-a)%",
            "%REQ(x-none?x-b)%",
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
            "a%%b",
            "%REQ(x-b):1%",
            "%RESPONSE_CODE%",
            "%REQ(:path)%",
            "%ROUTE_NAME%",
            "%HOSTNAME_NOT%",
        ]);
        let value = if value == "%HOSTNAME_NOT%" { "%REQUESTED_SERVER_NAME%" } else { value };
        let action = rng.pick(&[
            "APPEND_IF_EXISTS_OR_ADD",
            "ADD_IF_ABSENT",
            "OVERWRITE_IF_EXISTS_OR_ADD",
            "OVERWRITE_IF_EXISTS",
        ]);
        let key = rng.pick(&["x-a", "x-new", "X-Upper", "server", "x-b"]);
        let keep = rng.one_in(5);
        out.insert(
            field.into(),
            json!([{"header": {"key": key, "value": value}, "append_action": action, "keep_empty_value": keep}]),
        );
    };
    if rng.one_in(n) {
        add(rng, "request_headers_to_add");
    }
    if rng.one_in(n) {
        add(rng, "response_headers_to_add");
    }
    if rng.one_in(n + 2) {
        out.insert("request_headers_to_remove".into(), json!(["x-b", "user-agent"]));
    }
    if rng.one_in(n + 2) {
        out.insert("response_headers_to_remove".into(), json!(["x-reply", "server"]));
    }
    Value::Object(out)
}
