//! What does a container image run here? Images are not pulled: a table maps the well-known ones to programs on this
//! machine, and `command:` runs as given.

/// Built-in images, by the last path segment without tag or digest.
///
/// | image | runs |
/// |---|---|
/// | `…/proxyv2`, `…/proxy`, `…/proxy_init`, `…/agent` | `proa agent` |
/// | `…/pilot`, `…/discovery` | `proa discovery` |
/// | `…/nodebook:TAG` | `proa sample nodebook --version TAG` |
/// | `…/httpbin`, `…/go-httpbin` | `proa sample httpbin` |
/// | `…/echo`, `…/app` (Istio's test application) | `proa sample echo` |
/// | `…/sleep`, `…/curl`, `…/curl-ssl`, `…/pause` | `proa sample sleep` |
/// | any other | the program of that name on this machine's PATH, with `args:` |
///
/// Returns the entry point; the container's `args:` follow it.
pub fn entry_point(image: &str) -> Vec<String> {
    let without_digest = image.split('@').next().unwrap_or(image);
    let last = without_digest.rsplit('/').next().unwrap_or(without_digest);
    let (name, tag) = last.split_once(':').unwrap_or((last, ""));
    let words: &[&str] = match name {
        "proxyv2" | "proxy" | "proxy_init" | "agent" => &["proa", "agent"],
        "pilot" | "discovery" => &["proa", "discovery"],
        "httpbin" | "go-httpbin" => &["proa", "sample", "httpbin"],
        "echo" | "app" => &["proa", "sample", "echo"],
        "sleep" | "curl" | "curl-ssl" | "pause" => &["proa", "sample", "sleep"],
        "nodebook" if !tag.is_empty() => {
            return ["proa", "sample", "nodebook", "--version", tag].map(str::to_owned).to_vec();
        }
        "nodebook" => &["proa", "sample", "nodebook"],
        other => &[other],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The program and arguments of a container, by Kubernetes' rules for `command:` and `args:`.
pub(crate) fn command_line(image: &str, command: &[String], args: &[String]) -> Vec<String> {
    let head = if command.is_empty() { entry_point(image) } else { command.to_vec() };
    head.into_iter().chain(args.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(image: &str, expect: &str) {
        assert_eq!(entry_point(image).join(" "), expect, "{image}");
    }

    #[test]
    fn table() {
        check("docker.io/istio/proxyv2:1.32.0", "proa agent");
        check("proa/nodebook:v4", "proa sample nodebook --version v4");
        check("docker.io/kennethreitz/httpbin", "proa sample httpbin");
        check("governmentpaas/curl-ssl@sha256:00", "proa sample sleep");
        check("localhost:5000/proa/pilot:dev", "proa discovery");
        check("fortio/fortio:latest", "fortio");
    }

    #[test]
    fn command_replaces_the_entry_point() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(command_line("sleep", &words("/bin/sleep"), &words("infinity")).join(" "), "/bin/sleep infinity");
        assert_eq!(command_line("proxyv2", &[], &words("proxy sidecar")).join(" "), "proa agent proxy sidecar");
    }
}
