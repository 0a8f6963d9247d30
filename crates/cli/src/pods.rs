//! What happens in a pod? logs, exec and port-forward.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::args;
use crate::context::{Failure, Global, print};
use crate::output::fits;

/// How often `logs -f` looks for more.
const LOOK: Duration = Duration::from_millis(50);

/// Log files of the pods meant, with the container chosen.
fn log_files(context: &Global, args: &args::Logs) -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut client = context.client()?;
    let mut pods: Vec<(String, String)> = Vec::new();
    match (&args.pod, &args.selector) {
        (Some(pod), _) => {
            let (pod, namespace) = context.pod(pod);
            pods.push((pod.to_owned(), namespace.to_owned()));
        }
        (None, selector) => {
            let selector = selector.as_deref().unwrap_or_default();
            let answer = client.ask(&json!({"op": "get", "kind": "Pod", "namespace": context.namespace()}))?;
            for pod in answer.as_array().into_iter().flatten().filter(|pod| fits(selector, &pod["metadata"]["labels"]))
            {
                pods.push((
                    pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                    context.namespace().to_owned(),
                ));
            }
            if pods.is_empty() {
                return Err(Failure::Said(format!(
                    "no pod in namespace {} has the labels {selector}",
                    context.namespace()
                )));
            }
        }
    }
    let wanted = args.container.as_ref().or(args.container_name.as_ref());
    let mut files = Vec::new();
    for (pod, namespace) in pods {
        let answer = client.ask(&json!({"op": "logs", "pod": pod, "namespace": namespace}))?;
        let all = answer["containers"].as_array().cloned().unwrap_or_default();
        let name = |one: &Value| one["container"].as_str().unwrap_or_default().to_owned();
        let path = |one: &Value| PathBuf::from(one["path"].as_str().unwrap_or_default());
        if args.all_containers {
            files.extend(all.iter().map(|one| (name(one), path(one))));
            continue;
        }
        let chosen = match wanted {
            Some(wanted) => all.iter().find(|one| name(one) == *wanted),
            None => all.iter().find(|one| name(one) != "istio-proxy").or(all.first()),
        };
        let chosen = chosen.ok_or_else(|| {
            let names: Vec<String> = all.iter().map(name).collect();
            Failure::Said(format!(
                "{pod} has no container {:?}; it has {}",
                wanted.map_or("", String::as_str),
                names.join(", ")
            ))
        })?;
        files.push((name(chosen), path(chosen)));
    }
    Ok(files)
}

pub(crate) fn logs(context: &Global, args: &args::Logs) -> Result<u8, Failure> {
    let files = log_files(context, args)?;
    let mut open = Vec::new();
    for (container, path) in files {
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !args.follow => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                while !path.exists() {
                    std::thread::sleep(LOOK);
                }
                File::open(&path).map_err(|_| Failure::Said(format!("{}: {error}", path.display())))?
            }
            Err(error) => return Err(Failure::io(&path.display().to_string())(error)),
        };
        if let Some(lines) = args.tail.and_then(|lines| usize::try_from(lines).ok()) {
            let start = tail_start(&mut file, lines).map_err(Failure::io(&container))?;
            file.seek(SeekFrom::Start(start)).map_err(Failure::io(&container))?;
        }
        open.push(BufReader::new(file));
    }
    loop {
        for file in &mut open {
            let mut chunk = Vec::new();
            while file.read_until(b'\n', &mut chunk).map_err(Failure::io("log"))? > 0 {
                if chunk.len() > 1 << 16 {
                    print(&String::from_utf8_lossy(&chunk))?;
                    chunk.clear();
                }
            }
            if !chunk.is_empty() {
                print(&String::from_utf8_lossy(&chunk))?;
            }
        }
        if !args.follow {
            return Ok(0);
        }
        std::thread::sleep(LOOK);
    }
}

/// Where the last `lines` lines begin.
fn tail_start(file: &mut File, lines: usize) -> io::Result<u64> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let body = text.strip_suffix(b"\n").unwrap_or(&text);
    if lines == 0 {
        return Ok(text.len() as u64);
    }
    let start = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').nth(lines - 1);
    Ok(start.map_or(0, |(at, _)| at as u64 + 1))
}

pub(crate) fn exec(context: &Global, args: &args::Exec) -> Result<u8, Failure> {
    let (pod, namespace) = context.pod(&args.pod);
    let request =
        json!({"op": "exec", "pod": pod, "namespace": namespace, "container": args.container, "command": args.command});
    let null = File::open("/dev/null").map_err(Failure::io("/dev/null"))?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let input = if args.stdin || args.tty { stdin.as_fd() } else { null.as_fd() };
    let (answer, _) = context.client()?.call(&request, &[input, stdout.as_fd(), stderr.as_fd()])?;
    Ok(answer["code"].as_u64().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

pub(crate) fn port_forward(context: &Global, args: &args::PortForward) -> Result<u8, Failure> {
    let mut listeners = Vec::new();
    for pair in &args.ports {
        let (local, remote) = pair.split_once(':').unwrap_or((pair, pair));
        let number = |text: &str| {
            text.parse::<u16>().map_err(|_| Failure::Said(format!("{pair:?} is neither PORT nor LOCAL:PORT")))
        };
        let (local, remote) = (if local.is_empty() { 0 } else { number(local)? }, number(remote)?);
        let listener = TcpListener::bind((args.address, local)).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                Failure::Said(format!("port {local} on this machine is taken; choose another: LOCAL:{remote}"))
            }
            _ => Failure::io(&format!("{}:{local}", args.address))(error),
        })?;
        let address = listener.local_addr().map_err(Failure::io("address"))?;
        // Asked once now, so that a pod or port that is not there is said before anybody connects.
        context
            .client()?
            .ask(&json!({"op": "logs", "pod": context.pod(&args.pod).0, "namespace": context.pod(&args.pod).1}))?;
        print(&format!("Forwarding from {address} -> {remote}\n"))?;
        listeners.push((listener, remote));
    }
    let threads: Vec<_> = listeners
        .into_iter()
        .map(|(listener, remote)| {
            let (context, pod) = (context.clone(), args.pod.clone());
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    match context.dial(&pod, remote) {
                        Ok(server) => relay(client, server),
                        Err(error) => eprintln!("Error: {error}"),
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
    Ok(0)
}

/// Passes bytes both ways in threads of their own.
fn relay(client: TcpStream, server: TcpStream) {
    let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    for (mut from, mut to) in [(client, server_too), (server, client_too)] {
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.flush();
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails() {
        let path = std::env::temp_dir().join(format!("proa-tail-{}", std::process::id()));
        std::fs::write(&path, "a\nbb\nccc\n").expect("writable");
        for (lines, expect) in [(0, 9), (1, 5), (2, 2), (3, 0), (9, 0)] {
            let mut file = File::open(&path).expect("there");
            assert_eq!(tail_start(&mut file, lines).expect("readable"), expect, "{lines}");
        }
        std::fs::remove_file(&path).expect("ours");
    }
}
