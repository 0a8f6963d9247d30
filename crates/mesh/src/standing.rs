//! Where does one container of a pod stand? Its state while the pod runs, and how Kubernetes' status says it.

use serde_json::{Value, json};

use crate::podspec::Container;
use crate::process::{ExitStatus, Process};

/// Where one container stands.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) process: Option<Process>,
    pub(crate) started: Option<String>,
    pub(crate) ready: bool,
    pub(crate) restarts: u32,
    pub(crate) exit: Option<ExitStatus>,
    /// Will not be started again.
    pub(crate) finished: bool,
    pub(crate) reason: Option<String>,
}

/// One entry of `containerStatuses`.
pub(crate) fn status(container: &Container, state: &State) -> Value {
    let stands = match (&state.process, state.exit, &state.started) {
        (Some(_), _, started) => json!({"running": {"startedAt": started}}),
        (None, Some(code), _) if state.finished => {
            json!({"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }}})
        }
        (None, Some(code), _) => {
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": format!("exit code {code}")}})
        }
        (None, None, _) => json!({"waiting": {"reason": "PodInitializing"}}),
    };
    let mut status = json!({
        "name": container.name,
        "image": container.image,
        "ready": state.ready,
        "started": state.process.is_some(),
        "restartCount": state.restarts,
        "state": stands,
    });
    if let Some(reason) = &state.reason {
        status["message"] = reason.as_str().into();
    }
    status
}
