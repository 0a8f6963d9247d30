//! Which example comes with the program? `examples/nodebook` and `examples/httpbin`, so that `proa up` needs no checkout.

macro_rules! files {
    ($($name:literal)*) => {
        /// Path below `examples/` and content of each file.
        pub const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../../examples/", $name)))),*];
    };
}

files! {
    "nodebook/nodebook.yaml"
    "nodebook/nodebook-gateway.yaml"
    "nodebook/variants/nodebook-rule.yaml"
    "nodebook/variants/nodebook-rule-cb.yaml"
    "nodebook/variants/nodebook-service.yaml"
    "nodebook/variants/nodebook-service-v4.yaml"
    "nodebook/variants/nodebook-service-header.yaml"
    "nodebook/variants/nodebook-service-delay.yaml"
    "nodebook/variants/nodebook-service-abort.yaml"
    "nodebook/variants/nodebook-service-timeout.yaml"
    "nodebook/variants/nodebook-service-mirror.yaml"
    "httpbin/httpbin.yaml"
    "httpbin/sleep.yaml"
    "httpbin/variants/httpbin-private.yaml"
    "httpbin/variants/sidecar-default.yaml"
    "httpbin/variants/sidecar-registry-only.yaml"
}

/// The content of a bundled file by its name without folders, such as `nodebook-service.yaml`.
pub fn find(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(path, _)| path.rsplit('/').next() == Some(name)).map(|(_, text)| *text)
}
