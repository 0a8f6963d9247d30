//! How do files get out of a pod and into one? `cp`, as kubectl has it: files by `cat`, folders by `tar`, both run in the
//! container.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::args;
use crate::context::{Failure, Global};

/// A file in a pod: `[NAMESPACE/]POD:PATH`.
#[derive(Debug, PartialEq, Eq)]
struct Remote<'a> {
    namespace: Option<&'a str>,
    pod: &'a str,
    path: &'a str,
}

fn remote(text: &str) -> Option<Remote<'_>> {
    let (pod, path) = text.split_once(':')?;
    // `./a:b` and `/a:b` are files of this machine.
    if pod.is_empty() || pod.starts_with(['.', '/']) {
        return None;
    }
    let (namespace, pod) = pod.split_once('/').map_or((None, pod), |(namespace, pod)| (Some(namespace), pod));
    Some(Remote { namespace, pod, path })
}

fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// Runs a command in the pod; its exit code.
fn run(
    context: &Global,
    there: &Remote<'_>,
    container: Option<&str>,
    command: &[&str],
    io: [BorrowedFd<'_>; 3],
) -> Result<u64, Failure> {
    let (pod, namespace) = context.pod(there.pod);
    let namespace = there.namespace.unwrap_or(namespace);
    let request = json!({"op": "exec", "pod": pod, "namespace": namespace, "container": container, "command": command});
    let (answer, _) = context.client()?.call(&request, &io)?;
    Ok(answer["code"].as_u64().unwrap_or(1))
}

fn must(code: u64, what: &str) -> Result<u8, Failure> {
    if code == 0 { Ok(0) } else { Err(Failure::Said(format!("{what} failed with exit code {code}"))) }
}

/// A `tar` of this machine whose one end is the pod's.
fn tar(arguments: &[&str], folder: &Path) -> Result<std::process::Child, Failure> {
    let extract = arguments.contains(&"xf");
    let mut command = Command::new("tar");
    command.args(arguments).arg("-C").arg(folder);
    if extract {
        command.stdin(Stdio::piped());
    } else {
        command.arg(".").stdout(Stdio::piped());
    }
    command.spawn().map_err(Failure::io("tar"))
}

fn finished(mut tar: std::process::Child) -> Result<(), Failure> {
    let status = tar.wait().map_err(Failure::io("tar"))?;
    if status.success() { Ok(()) } else { Err(Failure::Said(format!("tar: {status}"))) }
}

fn download(context: &Global, from: &Remote<'_>, to: &Path, container: Option<&str>) -> Result<u8, Failure> {
    let null = File::options().read(true).write(true).open("/dev/null").map_err(Failure::io("/dev/null"))?;
    let errors = std::io::stderr();
    let quiet = [null.as_fd(), null.as_fd(), null.as_fd()];
    let inside = |name: &str| if to.is_dir() { to.join(name) } else { to.to_path_buf() };
    let place = inside(base_name(from.path));
    let shown = place.display().to_string();
    if run(context, from, container, &["test", "-d", from.path], quiet)? == 0 {
        std::fs::create_dir_all(&place).map_err(Failure::io(&shown))?;
        let mut local = tar(&["xf", "-"], &place)?;
        let pipe = local.stdin.take().ok_or_else(|| Failure::Said("tar has no input".to_owned()))?;
        let command = ["tar", "cf", "-", "-C", from.path, "."];
        let code = run(context, from, container, &command, [null.as_fd(), pipe.as_fd(), errors.as_fd()])?;
        drop(pipe);
        finished(local)?;
        return must(code, "tar in the pod");
    }
    let file = File::create(&place).map_err(Failure::io(&shown))?;
    let code = run(context, from, container, &["cat", from.path], [null.as_fd(), file.as_fd(), errors.as_fd()])?;
    if code != 0 {
        // Nothing came, so nothing is left.
        let _ = std::fs::remove_file(&place);
    }
    must(code, &format!("cat {}", from.path))
}

fn upload(context: &Global, from: &Path, to: &Remote<'_>, container: Option<&str>) -> Result<u8, Failure> {
    let null = File::options().read(true).write(true).open("/dev/null").map_err(Failure::io("/dev/null"))?;
    let errors = std::io::stderr();
    let quiet = [null.as_fd(), null.as_fd(), null.as_fd()];
    let shown = from.display().to_string();
    let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_folder = run(context, to, container, &["test", "-d", to.path], quiet)? == 0;
    let place = if is_folder { format!("{}/{name}", to.path.trim_end_matches('/')) } else { to.path.to_owned() };
    if from.is_dir() {
        let mut local = tar(&["cf", "-"], from)?;
        let pipe = local.stdout.take().ok_or_else(|| Failure::Said("tar has no output".to_owned()))?;
        let command = ["sh", "-c", "mkdir -p \"$0\" && tar xf - -C \"$0\"", &place];
        let code = run(context, to, container, &command, [pipe.as_fd(), null.as_fd(), errors.as_fd()])?;
        drop(pipe);
        finished(local)?;
        return must(code, "tar in the pod");
    }
    let file = File::open(from).map_err(Failure::io(&shown))?;
    let command = ["sh", "-c", "cat > \"$0\"", &place];
    must(
        run(context, to, container, &command, [file.as_fd(), null.as_fd(), errors.as_fd()])?,
        &format!("writing {place}"),
    )
}

pub(crate) fn cp(context: &Global, args: &args::Cp) -> Result<u8, Failure> {
    let container = args.container.as_deref();
    match (remote(&args.from), remote(&args.to)) {
        (Some(from), None) => download(context, &from, &PathBuf::from(&args.to), container),
        (None, Some(to)) => upload(context, &PathBuf::from(&args.from), &to, container),
        _ => Err(Failure::Said("one of the two must be in a pod: [NAMESPACE/]POD:PATH".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let there = |namespace, pod, path| Some(Remote { namespace, pod, path });
        assert_eq!(remote("istio-system/p-1:etc/a"), there(Some("istio-system"), "p-1", "etc/a"));
        assert_eq!(remote("p:/a"), there(None, "p", "/a"));
        assert_eq!(remote("./a:b"), None);
        assert_eq!(remote("/tmp/a"), None);
        assert_eq!((base_name("/etc/a/"), base_name("a")), ("a", "a"));
    }
}
