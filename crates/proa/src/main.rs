//! Which role does this invocation play? Dispatches on `argv[0]` and the first word; holds no logic of its own.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let program = args.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    let word = args.get(1).and_then(|word| word.to_str()).unwrap_or_default();
    match (program.unwrap_or("proa"), word) {
        ("istio-iptables" | "istio-clean-iptables", _) => intercept::main(args),
        ("pilot-agent", "istio-iptables") => intercept::main(skip(args, "pilot-agent istio-iptables")),
        ("istioctl" | "kubectl", _) => cli::main(args),
        ("pilot-discovery", _) => controlplane::main(args),
        (_, "discovery") => controlplane::main(skip(args, "proa discovery")),
        (_, "agent") if args.get(2).is_some_and(|word| word == "istio-iptables") => {
            intercept::main(skip(skip(args, "agent"), "proa agent istio-iptables"))
        }
        ("pilot-agent", _) => agent::main(args),
        (_, "agent") => agent::main(skip(args, "proa agent")),
        ("envoy", _) => proxy::main(args.into_iter().skip(1).collect()),
        (_, "proxy") => proxy::main(args.into_iter().skip(2).collect()),
        (_, "sample") => mesh::samples::main(skip(args, "proa sample")),
        (_, mesh::POD_ENTRY) => mesh::pod_entry(skip(args, "proa")),
        _ => cli::main(args),
    }
}

/// Drops `argv[0]`; the word after it becomes the program's name, shown as `name` in help and errors.
fn skip(mut args: Vec<OsString>, name: &str) -> Vec<OsString> {
    args.remove(0);
    if let Some(first) = args.first_mut() {
        *first = name.into();
    }
    args
}
