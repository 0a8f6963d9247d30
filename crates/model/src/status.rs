//! What is written into a resource's `status`? Istio's form: conditions, validation messages, the generation that was
//! looked at. Pure: who knows the facts makes a [`Status`]; debug pages show it, and a writer puts [`Status::over`]
//! what the resource has. Follows `meta/v1alpha1/status.proto` and `pilot/pkg/model/status`.

use serde_json::{Map, Value, json};

/// Where messages are explained.
const DOCUMENTATION: &str = "https://istio.io/latest/docs/reference/config/analysis/";

/// One condition; a status has at most one of each type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The type, such as `Reconciled`.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// One word for machines; may be empty.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// The condition that says whether proxies have what the resource says.
pub const RECONCILED: &str = "Reconciled";
/// The condition that says whether the resource as last written is in force.
pub const PASSED_VALIDATION: &str = "PassedValidation";
/// The condition that says that patches of an `EnvoyFilter` change nothing.
pub const NOT_APPLIED: &str = "NotApplied";

/// Types that are ours to set and to take away.
const OWN: [&str; 6] = [RECONCILED, PASSED_VALIDATION, NOT_APPLIED, "Shadowed", "Merged", "ReferenceNotFound"];

/// How bad a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It does not work as written.
    Error,
    /// It works, and probably not as meant.
    Warning,
}

impl Level {
    /// Istio's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Error => "ERROR",
            Level::Warning => "WARNING",
        }
    }
}

/// What kind of message: one of the analyzers' codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// Something it refers to does not exist.
    ReferencedResourceNotFound,
    /// The resource is refused.
    SchemaValidationError,
    /// Two virtual services of the mesh have one host.
    ConflictingMeshGatewayVirtualServiceHosts,
    /// The resource is accepted and probably not meant.
    SchemaWarning,
}

impl Code {
    /// Name, code and level.
    pub fn facts(self) -> (&'static str, &'static str, Level) {
        match self {
            Code::ReferencedResourceNotFound => ("ReferencedResourceNotFound", "IST0101", Level::Error),
            Code::SchemaValidationError => ("SchemaValidationError", "IST0106", Level::Error),
            Code::ConflictingMeshGatewayVirtualServiceHosts => {
                ("ConflictingMeshGatewayVirtualServiceHosts", "IST0109", Level::Error)
            }
            Code::SchemaWarning => ("SchemaWarning", "IST0133", Level::Warning),
        }
    }
}

/// What a resource says about itself, before it meets what is written already.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Conditions, at most one of a type.
    pub conditions: Vec<Condition>,
    /// Messages, with their text.
    pub messages: Vec<(Code, String)>,
    /// The generation of the resource that was looked at; 0 when its source does not count.
    pub generation: i64,
}

impl Status {
    /// Sets a condition. One that is there is made longer by the message.
    pub fn add(&mut self, condition: Condition) {
        match self.conditions.iter_mut().find(|c| c.kind == condition.kind) {
            Some(known) => {
                known.message = format!("{}; {}", known.message, condition.message);
                known.holds &= condition.holds;
            }
            None => self.conditions.push(condition),
        }
    }

    /// The status as JSON, over the one that is `written`. What others wrote stays; a condition that is as it was keeps
    /// its time of transition, others get `now` (RFC 3339).
    pub fn over(&self, written: &Value, now: &str) -> Value {
        let mut out = written.as_object().cloned().unwrap_or_default();
        let mut conditions = written["conditions"].as_array().cloned().unwrap_or_default();
        for own in OWN.iter().filter(|kind| !self.conditions.iter().any(|c| c.kind == **kind)) {
            delete_condition(&mut conditions, own);
        }
        for c in &self.conditions {
            let condition = self.condition(c, &conditions, now);
            update_condition(&mut conditions, condition);
        }
        out.insert("conditions".into(), Value::Array(conditions));
        let messages: Vec<Value> = self.messages.iter().map(message).collect();
        if messages.is_empty() {
            out.remove("validationMessages");
        } else {
            out.insert("validationMessages".into(), Value::Array(messages));
        }
        if self.generation != 0 {
            out.insert("observedGeneration".into(), self.generation.into());
        }
        Value::Object(out)
    }

    fn condition(&self, c: &Condition, written: &[Value], now: &str) -> Value {
        let status = if c.holds { "True" } else { "False" };
        let before = written.iter().find(|w| w["type"] == c.kind && w["status"] == status);
        let since = before.and_then(|w| w["lastTransitionTime"].as_str()).unwrap_or(now);
        let mut out = Map::new();
        out.insert("type".into(), c.kind.into());
        out.insert("status".into(), status.into());
        out.insert("lastTransitionTime".into(), since.into());
        if !c.reason.is_empty() {
            out.insert("reason".into(), c.reason.into());
        }
        out.insert("message".into(), c.message.as_str().into());
        if self.generation != 0 {
            out.insert("observedGeneration".into(), self.generation.into());
        }
        Value::Object(out)
    }
}

/// A message in the form of `AnalysisMessageBase`, and its text, which people look for.
fn message((code, text): &(Code, String)) -> Value {
    let (name, code, level) = code.facts();
    json!({"type": {"name": name, "code": code}, "level": level.as_str(),
        "documentationUrl": format!("{DOCUMENTATION}{}/", code.to_lowercase()), "message": text})
}

/// Puts a condition in the place of the one of its type, or at the end.
pub fn update_condition(conditions: &mut Vec<Value>, condition: Value) {
    match conditions.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(place) => *place = condition,
        None => conditions.push(condition),
    }
}

/// Takes every condition of a type away.
pub fn delete_condition(conditions: &mut Vec<Value>, kind: &str) {
    conditions.retain(|c| c["type"] != kind);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(kind: &'static str, holds: bool, message: &str) -> Condition {
        Condition { kind, holds, reason: "", message: message.to_owned() }
    }

    #[test]
    fn what_others_wrote_stays_and_what_is_over_goes() {
        let written = json!({"addresses": ["240.240.0.1"], "conditions": [
            {"type": "Theirs", "status": "True"},
            {"type": "Shadowed", "status": "True", "message": "by an older one"},
            {"type": "Reconciled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
                "message": "1/1 proxies up to date."}]});
        let mut status = Status { generation: 3, ..Status::default() };
        status.add(condition(RECONCILED, true, "2/2 proxies up to date."));
        status.messages.push((Code::SchemaWarning, "spec.hosts: odd".to_owned()));
        let now = "2026-02-02T00:00:00Z";
        assert_eq!(
            status.over(&written, now),
            json!({"addresses": ["240.240.0.1"], "observedGeneration": 3,
                "conditions": [{"type": "Theirs", "status": "True"}, {"type": "Reconciled", "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z", "message": "2/2 proxies up to date.",
                    "observedGeneration": 3}],
                "validationMessages": [{"type": {"name": "SchemaWarning", "code": "IST0133"}, "level": "WARNING",
                    "documentationUrl": "https://istio.io/latest/docs/reference/config/analysis/ist0133/",
                    "message": "spec.hosts: odd"}]})
        );
    }

    #[test]
    fn a_turn_has_its_time() {
        let written = json!({"validationMessages": [{}], "conditions": [{"type": "Reconciled", "status": "True",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        let mut status = Status::default();
        status.add(condition(RECONCILED, false, "0/1 proxies up to date."));
        let now = "2026-02-02T00:00:00Z";
        let out = status.over(&written, now);
        assert_eq!(
            (&out["conditions"][0]["lastTransitionTime"], &out["conditions"][0]["status"]),
            (&json!(now), &json!("False"))
        );
        assert_eq!(out.get("validationMessages"), None);
    }

    #[test]
    fn messages_of_one_condition_are_joined() {
        let mut status = Status::default();
        status.add(condition(NOT_APPLIED, true, "a"));
        status.add(condition(NOT_APPLIED, true, "b"));
        assert_eq!(status.conditions, [condition(NOT_APPLIED, true, "a; b")]);
    }
}
