//! How do many scenes run at once? One process of each proxy serves them all, and both are asked at the same time.

use crate::client::Client;
use crate::compare::{self, Facts};
use crate::proxy::Proxy;
use crate::request::{self, Case};
use crate::scene::{self, Scene, Surroundings};
use crate::{Options, Report};
use anyhow::{Context, Result, anyhow, bail};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Time for counters and logs to settle after the last answer.
const SETTLE: Duration = Duration::from_millis(150);

/// Longest wait for what a case left behind, in the background.
const BACKGROUND_MAX: Duration = Duration::from_secs(5);

/// A batch to be run.
pub struct Batch<'a> {
    /// What to run.
    pub options: &'a Options,
    /// Servers and certificates.
    pub around: &'a Surroundings<'a>,
    /// For configurations and logs.
    pub dir: &'a Path,
}

/// One proxy with all scenes of a batch.
struct Side {
    letter: char,
    proxy: Proxy,
    ports: Vec<u16>,
    logs: Vec<PathBuf>,
    /// What each scene does in the background.
    background: Vec<Background>,
}

/// What one side showed of one scene.
struct Seen {
    /// Per case.
    cases: Vec<Facts>,
    log: Facts,
    counters: Facts,
}

impl Batch<'_> {
    /// Runs the scenes and adds to the report.
    pub fn run(&self, scenes: &[Scene], report: &mut Report) -> Result<()> {
        let (envoy, proa) = std::thread::scope(|s| {
            let envoy = s.spawn(|| self.start('e', scenes));
            let proa = self.start('p', scenes);
            (envoy.join().unwrap_or_else(|_| Err(anyhow!("the starter died"))), proa)
        });
        if scenes.len() > 1 && (envoy.is_err() || proa.is_err()) {
            // One of them is refused: which, and by whom?
            drop((envoy, proa));
            return scenes.iter().try_for_each(|scene| self.run(std::slice::from_ref(scene), report));
        }
        let seeds = || scenes.first().map_or(0, |s| s.seed);
        report.scenes += scenes.len() as u64;
        report.cases += self.options.cases_per_scene * scenes.len() as u64;
        let (mut envoy, mut proa) = match (envoy, proa) {
            (Ok(envoy), Ok(proa)) => (envoy, proa),
            (Err(why), Err(_)) => {
                report.refused.push(format!("seed {}: {why:#}", seeds()));
                return Ok(());
            }
            (Ok(_), Err(why)) => {
                report.differences.push(format!("seed {}: Envoy accepts, we do not: {why:#}", seeds()));
                return Ok(());
            }
            (Err(why), Ok(_)) => {
                report.differences.push(format!("seed {}: we accept, Envoy does not: {why:#}", seeds()));
                return Ok(());
            }
        };
        let cases: Vec<Vec<Case>> = scenes.iter().map(|s| request::generate(s, self.options.cases_per_scene)).collect();
        let (theirs, ours) = std::thread::scope(|s| {
            let theirs = s.spawn(|| self.ask(&mut envoy, scenes, &cases));
            let ours = self.ask(&mut proa, scenes, &cases);
            (theirs.join().unwrap_or_else(|_| Err(anyhow!("the asker died"))), ours)
        });
        let (theirs, ours) = (theirs.context("Envoy")?, ours);
        if !proa.proxy.lives() {
            report.differences.push(format!("seeds from {}: our proxy died", seeds()));
        }
        for (((scene, cases), theirs), ours) in scenes.iter().zip(&cases).zip(&theirs).zip(&ours?) {
            self.judge(scene, cases, theirs, ours, report);
        }
        Ok(())
    }

    fn start(&self, letter: char, scenes: &[Scene]) -> Result<Side> {
        let mut ports = free_ports(scenes.len() + 1)?;
        let admin = ports.pop().context("a port for the admin server")?;
        let (name, command) = match letter {
            'e' => ("envoy", vec![self.options.envoy.display().to_string()]),
            _ => ("proa", ours(&self.options.proa)),
        };
        let (mut listeners, mut clusters, mut logs) = (Vec::new(), Vec::new(), Vec::new());
        let mut background = Vec::new();
        for (scene, port) in scenes.iter().zip(&ports) {
            let log = self.dir.join(format!("{name}-{}.log", scene.seed));
            std::fs::write(&log, "")?;
            let (listener, more) = scene.resources(*port, &log.display().to_string(), self.around);
            if self.options.verbose && letter == 'e' {
                println!("{listener:#}");
            }
            background.push(Background::of(&listener));
            listeners.push(listener);
            clusters.extend(more);
            logs.push(log);
        }
        let bootstrap = scene::bootstrap(admin, listeners, clusters);
        let proxy = Proxy::start(&command, name, self.dir, admin, &bootstrap)?;
        Ok(Side { letter, proxy, ports, logs, background })
    }

    fn ask(&self, side: &mut Side, scenes: &[Scene], cases: &[Vec<Case>]) -> Result<Vec<Seen>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut seen = Vec::new();
        for (((scene, cases), port), background) in scenes.iter().zip(cases).zip(&side.ports).zip(&side.background) {
            let mut client = Client::default();
            let mut all = Vec::new();
            for case in cases {
                let key = case.key(side.letter, scene.seed);
                let to = ([127, 0, 0, 1], *port).into();
                let (mut facts, answer) = runtime.block_on(client.ask(to, case, &key, self.around.certificates));
                facts.extend(compare::answer(&answer));
                background.settle(&side.proxy, &scene.prefix);
                all.push(facts.iter().map(|f| plain(f, side.letter, scene, *port)).collect());
            }
            seen.push(Seen { cases: all, log: Facts::new(), counters: Facts::new() });
        }
        std::thread::sleep(SETTLE);
        let stats = side.proxy.admin("/stats?usedonly").unwrap_or_default();
        for (i, scene) in scenes.iter().enumerate() {
            let log = std::fs::read_to_string(&side.logs[i])?;
            seen[i].log = log.lines().map(|l| plain(l, side.letter, scene, side.ports[i])).collect();
            seen[i].counters = compare::counters(&stats, &scene.prefix);
            let _ = std::fs::remove_file(&side.logs[i]);
        }
        Ok(seen)
    }

    fn judge(&self, scene: &Scene, cases: &[Case], theirs: &Seen, ours: &Seen, report: &mut Report) {
        let seed = scene.seed;
        let raced = compare::Raced::of(&theirs.log, &ours.log, &ours.counters);
        for ((case, theirs), ours) in cases.iter().zip(&theirs.cases).zip(&ours.cases) {
            let sent = || {
                let sent = case.wire("CASE").escape_ascii().to_string();
                let how = if matches!(case.kind, request::Kind::Http2) { "over HTTP/2 " } else { "" };
                format!("{how}{}", &sent[..sent.len().min(600)])
            };
            if self.options.verbose {
                println!("case {}: {}\n  {}\n", case.number, sent(), theirs.join("\n  "));
            }
            let difference = compare::difference(theirs, ours);
            if !difference.is_empty() && !raced.has(case.number) {
                let number = case.number;
                let difference = difference.join("\n  ");
                report.differences.push(format!("seed {seed} case {number}\n  sent {}\n  {difference}", sent()));
            }
        }
        if self.options.verbose {
            println!("{}\n{}", theirs.log.join("\n"), theirs.counters.join("\n"));
        }
        let early = compare::Early::of(scene.protocol, &theirs.cases, &ours.log);
        let logs = (raced.log(early.log(&theirs.log)), raced.log(early.log(&ours.log)));
        let counters = raced.counters((early.counters(&theirs.counters), early.counters(&ours.counters)));
        for (what, (theirs, ours)) in [("access log", logs), ("counters", counters)] {
            let difference = compare::difference(&theirs, &ours);
            if !difference.is_empty() {
                report.differences.push(format!("seed {seed}, {what}\n  {}", difference.join("\n  ")));
            }
        }
    }
}

/// What a scene does beside answering: the next case begins when it is over, so that what it finds does not depend on time.
enum Background {
    /// Nothing.
    Idle,
    /// Hosts may be ejected: Envoy's main thread does that, which also serves the admin pages, in turn.
    Ejections,
    /// Requests are mirrored.
    Mirrors,
}

impl Background {
    fn of(listener: &serde_json::Value) -> Self {
        let text = listener.to_string();
        match (text.contains("request_mirror_policies"), text.contains("-eject\"")) {
            (true, _) => Background::Mirrors,
            (false, true) => Background::Ejections,
            (false, false) => Background::Idle,
        }
    }

    /// Waits until it is over. Twice nothing, as a mirrored request is not there at once.
    fn settle(&self, proxy: &Proxy, prefix: &str) {
        let page = match self {
            Background::Idle => return,
            Background::Ejections => "/ready",
            // A page of all statistics takes Envoy much longer.
            Background::Mirrors => "/clusters",
        };
        let mirror = format!("{prefix}shadow::");
        let busy = |line: &str| line.starts_with(&mirror) && line.contains("::rq_active::") && !line.ends_with("::0");
        let begun = std::time::Instant::now();
        let mut quiet = 0;
        while quiet < 2 && begun.elapsed() < BACKGROUND_MAX {
            let any = proxy.admin(page).unwrap_or_default().lines().any(busy);
            quiet = if any { 0 } else { quiet + 1 };
        }
    }
}

/// A fact without what differs between the sides on purpose.
fn plain(fact: &str, side: char, scene: &Scene, port: u16) -> String {
    let fact = fact.replace(&format!("{side}-{}-", scene.seed), "case ").replace(&scene.prefix, "");
    // Not as a part of a longer number, such as the code of a TLS error.
    let (port, digit) = (port.to_string(), |b: Option<&u8>| b.is_some_and(u8::is_ascii_digit));
    let mut out = String::new();
    let mut rest = 0;
    for (at, _) in fact.match_indices(&port) {
        let bytes = fact.as_bytes();
        if !digit(bytes[..at].last()) && !digit(bytes.get(at + port.len())) {
            out.push_str(&fact[rest..at]);
            out.push_str("PORT");
            rest = at + port.len();
        }
    }
    out + &fact[rest..]
}

/// The command that starts our proxy: the program itself, or its role.
pub fn ours(program: &Path) -> Vec<String> {
    let mut command = vec![program.display().to_string()];
    if program.file_name().is_some_and(|n| n == "proa") {
        command.push("proxy".into());
    }
    command
}

/// Below the ports that the system gives to clients: one of those could take a port between its choice and its use.
const PORTS: std::ops::Range<u32> = 11_000..32_000;
/// Where the next choice goes on; processes begin at different places.
static CHOSEN: AtomicU32 = AtomicU32::new(0);

/// Ports that were free a moment ago, no two the same within this process.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let begin = std::process::id().wrapping_mul(997);
    let mut ports = Vec::new();
    for _ in PORTS {
        if ports.len() == count {
            return Ok(ports);
        }
        let step = begin.wrapping_add(CHOSEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(PORTS.start + step % (PORTS.end - PORTS.start))?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    bail!("fewer than {count} ports are free")
}
