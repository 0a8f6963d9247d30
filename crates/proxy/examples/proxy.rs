//! The proxy alone, with Envoy's command line; `proa proxy` is the same.

fn main() -> std::process::ExitCode {
    proxy::main(std::env::args_os().skip(1).collect())
}
