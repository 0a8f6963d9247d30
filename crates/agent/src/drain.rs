//! When may a proxy that was asked to go really go? By what it sees: the application's sockets and the connections that are
//! still open. [`decide`] is pure; [`drain`] looks and waits.
//!
//! Follows pilot-agent's settings (`terminationDrainDuration`, `EXIT_ON_ZERO_ACTIVE_CONNECTIONS`, `MINIMUM_DRAIN_DURATION`) and
//! goes beyond them where they lose requests: a sidecar stays while its application is there, because the application may
//! still call others (the kubelet's grace period ends both), and leaves as soon as it has gone.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::request;
use crate::status::Status;

/// How often connections and sockets are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the proxy's admin port may take.
const ADMIN_MAX: Duration = Duration::from_secs(2);
/// After the application has gone its last answers are still on their way through the proxy.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

/// What was asked of the end.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// `terminationDrainDuration`
    pub duration: Duration,
    /// `EXIT_ON_ZERO_ACTIVE_CONNECTIONS`
    pub on_zero: bool,
    /// `MINIMUM_DRAIN_DURATION`
    pub minimum: Duration,
    /// A sidecar has an application beside it.
    pub sidecar: bool,
}

/// What is seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Open connections of the workload; `None`: the proxy does not say.
    pub active: Option<u64>,
    /// How the application stands.
    pub application: Application,
}

/// How the application stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Application {
    /// It has sockets: it listens, answers or calls.
    Here,
    /// It listened, and has had no sockets for this long.
    Gone(Duration),
    /// It has had none for this long, but never listened: a client between two calls looks the same.
    Silent(Duration),
    /// There is none, or the kernel does not say.
    Unknown,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet.
    Stay,
    /// Nobody needs the proxy any more; why.
    Go(&'static str),
}

/// Decides by what is seen `elapsed` after the request to end.
pub fn decide(options: &Options, elapsed: Duration, seen: Seen) -> Verdict {
    let Some(active) = seen.active else {
        return Verdict::Go("the proxy's admin port does not answer");
    };
    // Nothing left to serve: whoever waited for a time would only delay the pod's end.
    if let Application::Gone(since) = seen.application
        && (active == 0 || since >= LAST_ANSWERS)
    {
        return Verdict::Go("the application has gone");
    }
    if options.on_zero {
        return match active {
            0 if elapsed >= options.minimum => Verdict::Go("there are no more active connections"),
            _ => Verdict::Stay,
        };
    }
    match seen.application {
        Application::Silent(since) if since >= options.duration => {
            Verdict::Go("the application makes no calls any more")
        }
        Application::Unknown if elapsed >= options.duration => Verdict::Go("the graceful termination period is over"),
        _ => Verdict::Stay,
    }
}

/// Tells the proxy to take no new inbound connections and waits until it may go; outbound stays up meanwhile.
pub async fn drain(status: &Arc<Status>, options: Options) {
    status.draining.store(true, Ordering::Release);
    let ask = |method: &'static str, path: &'static str| {
        let admin = status.options.admin.clone();
        tokio::task::spawn_blocking(move || request::http(&admin, method, path, "", ADMIN_MAX))
    };
    tracing::info!(target: "default", "Agent draining Proxy for termination");
    if !matches!(ask("POST", "/drain_listeners?inboundonly&graceful").await, Ok(Ok(_))) {
        tracing::warn!(target: "default", "the proxy's admin port does not answer, no graceful drain");
        return;
    }
    tracing::info!(target: "default", "Graceful termination period is {:?}, starting...", options.duration);
    let begun = Instant::now();
    let (mut gone, mut listened) = (None, false);
    let mut ended = HashSet::new();
    loop {
        let active = match ask("GET", "/stats?filter=downstream_cx_active$").await {
            Ok(Ok(answer)) => Some(connections(&String::from_utf8_lossy(&answer.body))),
            _ => None,
        };
        let application = match application_is_here().filter(|_| options.sidecar) {
            Some(sockets) if sockets.any || !listened && sockets.ended.iter().any(|e| !ended.contains(e)) => {
                gone = None;
                listened |= sockets.listening;
                ended = sockets.ended;
                Application::Here
            }
            Some(_) => {
                let since = gone.get_or_insert_with(Instant::now).elapsed();
                if listened { Application::Gone(since) } else { Application::Silent(since) }
            }
            None => Application::Unknown,
        };
        let seen = Seen { active, application };
        if let Verdict::Go(why) = decide(&options, begun.elapsed(), seen) {
            tracing::info!(target: "default", "Graceful termination after {:?}: {why}. terminating proxy...", begun.elapsed());
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Connections of the workload's listeners; the admin port, Prometheus, readiness and `worker_` duplicates do not count.
fn connections(stats: &str) -> u64 {
    let counted = |line: &&str| {
        line.starts_with("listener.")
            && !["admin", "15090", "15021", ".worker_"].iter().any(|other| line.contains(other))
    };
    let value = |line: &str| line.rsplit_once(": ")?.1.trim().parse::<u64>().ok();
    stats.lines().filter(counted).filter_map(value).sum()
}

/// What TCP sockets processes of other users than the proxy's own hold in this network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sockets {
    any: bool,
    listening: bool,
    /// Connections to elsewhere that are over, whosever they were; the kernel remembers them for a minute (TIME_WAIT). A look
    /// at the sockets misses calls that are shorter than the pause between two looks; here they are seen.
    ended: HashSet<(String, String)>,
}

fn application_is_here() -> Option<Sockets> {
    let own = own_user();
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    if tables.iter().all(Result::is_err) {
        return None;
    }
    Some(tables.iter().flatten().fold(Sockets::default(), |all, table| {
        let mut found = sockets(table, own);
        found.any |= all.any;
        found.listening |= all.listening;
        found.ended.extend(all.ended);
        found
    }))
}

#[allow(unsafe_code)] // geteuid(2) has no arguments and cannot fail; std has no call for it.
fn own_user() -> u32 {
    // SAFETY: no memory is involved.
    unsafe { libc::geteuid() }
}

/// Sockets of other users in one of the kernel's tables. One without an inode belongs to nobody any more: the kernel only says
/// good-bye to the peer.
fn sockets(table: &str, own: u32) -> Sockets {
    /// `TCP_LISTEN`
    const LISTEN: &str = "0A";
    /// `TCP_TIME_WAIT`
    const TIME_WAIT: &str = "06";
    let mut found = Sockets::default();
    for line in table.lines().skip(1) {
        let mut fields = line.split_whitespace().skip(1);
        let (Some(local), Some(remote), Some(state)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if state == TIME_WAIT && !is_loopback(remote) && !is_own_port(local) {
            found.ended.insert((local.to_owned(), remote.to_owned()));
        }
        let user = fields.nth(3).and_then(|user| user.parse::<u32>().ok());
        let inode = fields.nth(1);
        if user.is_some_and(|user| user != own) && inode.is_some_and(|inode| inode != "0") {
            found.any = true;
            found.listening |= state == LISTEN;
        }
    }
    found
}

/// Whether a local address is a port of the agent or the proxy that others come to (inbound capture, HBONE, status, readiness,
/// metrics): the kubelet's probes and a scrape are not the application's calls. 15001 is where those are captured.
fn is_own_port(address: &str) -> bool {
    let port = address.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
    port.is_some_and(|port| (15002..=15099).contains(&port))
}

/// Whether an address of the kernel's table is loopback's: agent and proxy talk to each other there.
fn is_loopback(address: &str) -> bool {
    let ip = address.split(':').next().unwrap_or_default();
    match ip.len() {
        8 => ip.ends_with("7F"),
        _ => {
            ip == "00000000000000000000000001000000" || ip.starts_with("0000000000000000FFFF0000") && ip.ends_with("7F")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Application::{Gone, Here, Silent, Unknown};
    use super::*;

    const SIDECAR: Options =
        Options { duration: Duration::from_secs(5), on_zero: false, minimum: Duration::from_secs(2), sidecar: true };

    fn check(options: &Options, seconds: u64, active: u64, application: Application, go: bool) {
        let seen = Seen { active: Some(active), application };
        let verdict = decide(options, Duration::from_secs(seconds), seen);
        assert_eq!(verdict != Verdict::Stay, go, "{seconds} s {seen:?}: {verdict:?}");
    }

    #[test]
    fn a_sidecar_outlives_its_application_and_not_by_much() {
        check(&SIDECAR, 0, 3, Here, false);
        check(&SIDECAR, 60, 0, Here, false);
        check(&SIDECAR, 0, 0, Gone(Duration::ZERO), true);
        // Its last answer may still be on its way.
        check(&SIDECAR, 0, 1, Gone(Duration::ZERO), false);
        check(&SIDECAR, 0, 1, Gone(LAST_ANSWERS), true);
    }

    #[test]
    fn a_client_between_two_calls_has_not_gone() {
        check(&SIDECAR, 60, 0, Silent(Duration::from_millis(4900)), false);
        check(&SIDECAR, 60, 0, Silent(Duration::from_secs(5)), true);
        check(&Options { on_zero: true, ..SIDECAR }, 2, 0, Silent(Duration::ZERO), true);
    }

    #[test]
    fn connections_and_times_decide_where_nothing_else_does() {
        let on_zero = Options { on_zero: true, ..SIDECAR };
        check(&on_zero, 1, 0, Here, false);
        check(&on_zero, 2, 0, Here, true);
        check(&on_zero, 60, 1, Here, false);
        let gateway = Options { sidecar: false, ..SIDECAR };
        check(&gateway, 4, 0, Unknown, false);
        check(&gateway, 5, 9, Unknown, true);
        let silent = Seen { active: None, application: Here };
        assert_ne!(decide(&SIDECAR, Duration::ZERO, silent), Verdict::Stay);
    }

    #[test]
    fn only_the_workloads_connections_count() {
        let stats = "listener.0.0.0.0_15006.downstream_cx_active: 3\nlistener.0.0.0.0_15006.worker_0.downstream_cx_active: 3\n\
                     listener.0.0.0.0_15090.downstream_cx_active: 1\nlistener.admin.downstream_cx_active: 1\nlistener.0.0.0.0_15001.downstream_cx_active: 2\n";
        assert_eq!(connections(stats), 5);
    }

    #[test]
    fn sockets_of_others_are_found() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let entry = |state: &str, user: u32, inode: u32| {
            format!(
                "{head}   0: 0100007F:1F90 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {user:>5}        0 {inode} 1\n"
            )
        };
        assert_eq!(sockets(&entry("01", 0, 1), 1337), Sockets { any: true, ..Sockets::default() });
        assert_eq!(sockets(&entry("0A", 0, 1), 1337), Sockets { any: true, listening: true, ..Sockets::default() });
        for nobody in [&entry("0A", 1337, 1), &entry("01", 0, 0), head] {
            assert_eq!(sockets(nobody, 1337), Sockets::default());
        }
    }

    #[test]
    fn calls_that_are_over_are_seen() {
        let between = |local: &str, remote: &str| {
            let line =
                format!("   1: {local} {remote} 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0\n");
            sockets(&format!("head\n{line}"), 1337).ended.len()
        };
        let ended = |remote: &str| between("0D00F40A:BC66", remote);
        // The status port (15020) as the kubelet leaves it, and outbound capture (15001) as a server that closes does.
        assert_eq!(between("0D00F40A:3AAC", "0100F40A:BC66"), 0);
        assert_eq!(between("0100007F:3A99", "0D00F40A:BC66"), 1);
        assert_eq!(ended("10000A0A:1F40"), 1);
        assert_eq!(ended("0100007F:3A98"), 0);
        assert_eq!(ended("00000000000000000000000001000000:3A98"), 0);
        assert_eq!(ended("0000000000000000FFFF00000100007F:3A98"), 0);
        assert_eq!(ended("0000000000000000FFFF000010000A0A:1F40"), 1);
    }
}
