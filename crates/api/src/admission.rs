//! What does the Kubernetes API server ask an admission webhook, and how is it answered? `AdmissionReview` in v1 and
//! v1beta1, and the verdict of `/validate`. Pure; HTTP is the caller's. Follows `k8s.io/api/admission` and
//! `pkg/webhooks/validation/server`.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::resource::Resource;
use crate::validate::validate;

/// The versions that are spoken.
const VERSIONS: [&str; 2] = ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"];
/// Longest message of a refusal, in bytes; the API server passes it on to people.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// A request that is none, as HTTP says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// There is no body.
    NoBody,
    /// The body is not said to be JSON.
    NotJson,
}

impl Unusable {
    /// Status code and body of the HTTP response.
    pub fn response(self) -> (u16, &'static str) {
        match self {
            Unusable::NoBody => (400, "no body found\n"),
            Unusable::NotJson => (415, "invalid Content-Type, want `application/json`\n"),
        }
    }
}

/// What the API server asks about.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// The version in which to answer.
    pub api_version: String,
    /// Identifies the question.
    pub uid: String,
    /// `CREATE`, `UPDATE`, `DELETE`, `CONNECT`.
    pub operation: String,
    /// Kind of the object.
    pub kind: String,
    /// Namespace of the request; the object may not state its own.
    pub namespace: String,
    /// The object.
    pub object: Value,
}

impl Review {
    /// Reads the body of a request. The inner error is for an answer that denies.
    ///
    /// # Errors
    /// There is nothing that could be answered with a review.
    pub fn read(content_type: &str, body: &[u8]) -> Result<Result<Review, String>, Unusable> {
        if body.is_empty() {
            return Err(Unusable::NoBody);
        }
        if content_type != "application/json" {
            return Err(Unusable::NotJson);
        }
        Ok(Review::parse(body).map_err(|reason| format!("could not decode body: {reason}")))
    }

    fn parse(body: &[u8]) -> Result<Review, String> {
        let v: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let api_version = text(&v["apiVersion"]);
        if v["kind"] != "AdmissionReview" || !VERSIONS.contains(&api_version.as_str()) {
            return Err(format!("{} {api_version} is no AdmissionReview of v1 or v1beta1", text(&v["kind"])));
        }
        let request = &v["request"];
        if !request.is_object() {
            return Err("request: required".to_owned());
        }
        Ok(Review {
            api_version,
            uid: text(&request["uid"]),
            operation: text(&request["operation"]),
            kind: text(&request["kind"]["kind"]),
            namespace: text(&request["namespace"]),
            object: request["object"].clone(),
        })
    }
}

/// What a webhook says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Whether the object may be written.
    pub allowed: bool,
    /// Why not.
    pub message: String,
    /// What the user is to know beside.
    pub warnings: Vec<String>,
    /// Changes to the object, a JSON patch (RFC 6902).
    pub patch: Option<Value>,
}

impl Answer {
    /// Nothing to say.
    pub fn allow() -> Answer {
        Answer { allowed: true, ..Answer::default() }
    }

    /// A refusal.
    pub fn deny(message: impl Into<String>) -> Answer {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        Answer { message, ..Answer::default() }
    }

    /// The document that answers `review`; `None`: the question could not be read.
    pub fn to_json(&self, review: Option<&Review>) -> Value {
        let mut response = json!({"uid": review.map_or("", |r| &r.uid), "allowed": self.allowed});
        if !self.message.is_empty() {
            response["status"] = json!({"metadata": {}, "status": "Failure", "message": self.message});
        }
        if !self.warnings.is_empty() {
            response["warnings"] = json!(self.warnings);
        }
        if let Some(patch) = &self.patch {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = base64::engine::general_purpose::STANDARD.encode(patch.to_string()).into();
        }
        let version = review.map_or(VERSIONS[0], |r| &r.api_version);
        json!({"kind": "AdmissionReview", "apiVersion": version, "response": response})
    }
}

/// Why a resource does not pass, in the words of Istio's metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Neither creation nor update; it passes nevertheless.
    UnsupportedOperation,
    /// A kind that is not ours.
    UnknownType,
    /// Its fields cannot be read.
    ConversionError,
    /// What it says is wrong.
    InvalidConfig,
}

impl Reason {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::UnsupportedOperation => "unsupported_operation",
            Reason::UnknownType => "unknown_type",
            Reason::ConversionError => "crd_conversion_error",
            Reason::InvalidConfig => "invalid_resource",
        }
    }
}

/// The answer of `/validate`: the same verdict as for files, with the field paths of all errors.
pub fn judge(review: &Review) -> (Answer, Option<Reason>) {
    if !matches!(review.operation.as_str(), "CREATE" | "UPDATE") {
        return (Answer::allow(), Some(Reason::UnsupportedOperation));
    }
    let object = review.object.as_object();
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    if let Some(field) = object.into_iter().flat_map(|o| o.keys()).find(|k| !known.contains(&k.as_str())) {
        let name = review.object["metadata"]["name"].as_str().unwrap_or_default();
        let message = format!("unknown field {field:?} on {} resource {}/{name}", review.kind, review.namespace);
        return (Answer::deny(message), Some(Reason::InvalidConfig));
    }
    let joined = |list: &[crate::shape::Problem]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let resource = match Resource::from_value(review.object.clone(), None, &review.namespace) {
        Ok(resource) => resource,
        Err(rejected) => {
            let message = format!("error decoding configuration: {}", joined(&rejected.problems));
            return (Answer::deny(message), Some(Reason::ConversionError));
        }
    };
    if !resource.key().kind.is_istio() {
        return (Answer::deny(format!("unrecognized type {}", resource.key().kind)), Some(Reason::UnknownType));
    }
    let verdict = validate(&resource);
    if !verdict.is_valid() {
        let message = format!("configuration is invalid: {}", joined(&verdict.errors));
        return (Answer::deny(message), Some(Reason::InvalidConfig));
    }
    let warnings = verdict.warnings.iter().map(ToString::to_string).collect();
    (Answer { warnings, ..Answer::allow() }, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(operation: &str, object: Value) -> Review {
        let body = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"uid": "u-1",
            "operation": operation, "kind": {"kind": object["kind"]}, "namespace": "a", "object": object}});
        Review::read("application/json", body.to_string().as_bytes()).expect("usable").expect("a review")
    }

    fn rule(spec: Value) -> Value {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "r"},
            "spec": spec})
    }

    #[test]
    fn verdicts_name_the_field() {
        let check = |operation: &str, object: Value, message: &str, reason: Option<Reason>| {
            let (answer, why) = judge(&review(operation, object));
            assert!(answer.message.contains(message), "{answer:?}");
            assert_eq!((answer.allowed, why), (message.is_empty(), reason), "{answer:?}");
        };
        check("CREATE", rule(json!({"host": "web"})), "", None);
        check("UPDATE", rule(json!({"host": ""})), "configuration is invalid: spec", Some(Reason::InvalidConfig));
        check(
            "CREATE",
            rule(json!({"host": 7})),
            "error decoding configuration: spec.host",
            Some(Reason::ConversionError),
        );
        check("DELETE", rule(json!({"host": ""})), "", Some(Reason::UnsupportedOperation));
        let mut odd = rule(json!({"host": "web"}));
        odd["specs"] = json!({});
        check("CREATE", odd, "unknown field \"specs\" on DestinationRule resource a/r", Some(Reason::InvalidConfig));
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}});
        check("CREATE", pod, "unrecognized type Pod", Some(Reason::UnknownType));
    }

    #[test]
    fn answers_are_in_the_version_of_the_question() {
        let mut asked = review("CREATE", rule(json!({"host": "web"})));
        asked.api_version = "admission.k8s.io/v1beta1".to_owned();
        let answer = Answer { patch: Some(json!([])), ..Answer::allow() };
        assert_eq!(
            answer.to_json(Some(&asked)),
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1",
                "response": {"uid": "u-1", "allowed": true, "patchType": "JSONPatch", "patch": "W10="}})
        );
        let denied = Answer::deny("no").to_json(None);
        assert_eq!(denied["response"]["status"]["message"], "no");
        assert_eq!(denied["apiVersion"], "admission.k8s.io/v1");
    }

    #[test]
    fn what_is_no_review_is_denied_or_unusable() {
        assert_eq!(Review::read("application/json", b""), Err(Unusable::NoBody));
        assert_eq!(Review::read("application/yaml", b"{}"), Err(Unusable::NotJson));
        for body in ["\u{1}", "{}", r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}"#] {
            let read = Review::read("application/json", body.as_bytes()).expect("usable");
            assert!(read.expect_err("no review").starts_with("could not decode body: "), "{body}");
        }
    }
}
