//! What moved between two views of the same kind of proxy, as far as routes care? Services, rules for them and virtual
//! services, found by comparing allocations; and from these, the ports whose route configurations may differ.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use model::snapshot::ServicesByHost;
use model::{ResolvedVirtualService, Service, SidecarScope};
use names::Hostname;

/// Entries of `old` that `new` lacks and the other way round, by identity.
pub(super) fn exchanged<T>(old: &[Arc<T>], new: &[Arc<T>]) -> (Vec<Arc<T>>, Vec<Arc<T>>) {
    let same = |(a, b): &(&Arc<T>, &Arc<T>)| Arc::ptr_eq(a, b);
    let front = old.iter().zip(new).take_while(same).count();
    let (old, new) = (&old[front..], &new[front..]);
    let back = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    let (old, new) = (&old[..old.len() - back], &new[..new.len() - back]);
    let pointers = |list: &[Arc<T>]| -> HashSet<*const T> { list.iter().map(Arc::as_ptr).collect() };
    let (before, after) = (pointers(old), pointers(new));
    let gone = old.iter().filter(|x| !after.contains(&Arc::as_ptr(x))).cloned().collect();
    let come = new.iter().filter(|x| !before.contains(&Arc::as_ptr(x))).cloned().collect();
    (gone, come)
}

/// How the service of a host moved.
#[derive(Default)]
pub(super) struct Change {
    /// Ports that it had before or has now and that differ in anything but their neighbours.
    ports: BTreeSet<u16>,
    /// Only other ports than these differ, so that destinations that state their port are as they were.
    only_ports: bool,
    /// The rule for its clients moved.
    rule: bool,
}

/// Services by host.
pub(super) struct Services(BTreeMap<Hostname, Change>);

impl Services {
    /// `gone` and `come` are the services before and after, `rules` the hosts whose rule moved.
    pub(super) fn new(gone: &[Arc<Service>], come: &[Arc<Service>], rules: Vec<Hostname>) -> Self {
        let mut out: BTreeMap<Hostname, Change> = BTreeMap::new();
        for s in gone.iter().chain(come) {
            if out.contains_key(&s.hostname) {
                continue;
            }
            let of = |list: &[Arc<Service>]| -> Vec<Arc<Service>> {
                list.iter().filter(|o| o.hostname == s.hostname).cloned().collect()
            };
            let change = match (of(gone).as_slice(), of(come).as_slice()) {
                ([old], [new]) if old.is_same_but_for_ports(new) => {
                    let all = old.ports.iter().chain(&new.ports).map(|p| p.number);
                    let ports = all.filter(|n| old.port(*n) != new.port(*n)).collect();
                    Change { ports, only_ports: true, rule: false }
                }
                (old, new) => {
                    let ports = old.iter().chain(new).flat_map(|s| &s.ports).map(|p| p.number).collect();
                    Change { ports, ..Default::default() }
                }
            };
            out.insert(s.hostname.clone(), change);
        }
        for host in rules {
            out.entry(host).or_insert_with(|| Change { only_ports: true, ..Default::default() }).rule = true;
        }
        Services(out)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the service of this host or the rule for its clients moved.
    pub(super) fn contains(&self, host: &Hostname) -> bool {
        self.0.contains_key(host)
    }

    /// Whether routes of a virtual service can differ.
    pub(super) fn concern(&self, v: &ResolvedVirtualService) -> bool {
        let moved = |h: &Hostname| match self.0.get(h) {
            None => false,
            Some(change) => change.rule || !change.only_ports || !v.states_ports,
        };
        !self.0.is_empty() && v.http_destinations.iter().any(moved)
    }
}

/// Virtual services in place of others, by the address of those.
#[derive(Default)]
pub(super) struct Exchanged(HashMap<usize, Arc<ResolvedVirtualService>>);

impl Exchanged {
    /// `None`: some came or went, or are no more where they were.
    pub(super) fn new(lost: &[Arc<ResolvedVirtualService>], won: &[Arc<ResolvedVirtualService>]) -> Option<Self> {
        let in_place = lost.len() == won.len() && lost.iter().zip(won).all(|(a, b)| is_in_place_of(a, b));
        in_place.then(|| Exchanged(lost.iter().map(|v| Arc::as_ptr(v) as usize).zip(won.iter().cloned()).collect()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one in place of this one.
    pub(super) fn get(&self, v: &Arc<ResolvedVirtualService>) -> Option<Arc<ResolvedVirtualService>> {
        if self.0.is_empty() { None } else { self.0.get(&(Arc::as_ptr(v) as usize)).cloned() }
    }
}

/// Whether `b` is in every list where `a` was, at the same place, for the same hosts.
fn is_in_place_of(a: &ResolvedVirtualService, b: &ResolvedVirtualService) -> bool {
    a.config.age_order(&b.config).is_eq()
        && a.config.qualified() == b.config.qualified()
        && a.hosts == b.hosts
        && a.visibility == b.visibility
        && a.config.spec.gateways == b.config.spec.gateways
}

/// What moved for sidecars of a namespace without `Sidecar`.
pub(super) struct InScope {
    ports: Ports,
    pub(super) services: Services,
    /// What stayed in its place; `None`: something came or went.
    in_place: Option<InPlace>,
}

/// Services and virtual services that moved and are where they were.
struct InPlace {
    pairs: Vec<(Arc<Service>, Arc<Service>)>,
    exchanged: Exchanged,
}

impl InScope {
    /// What moved between two scopes. `hosts`: services by host, before and after.
    pub(super) fn between(old: &SidecarScope, new: &SidecarScope, hosts: [&ServicesByHost; 2]) -> InScope {
        let all = || InScope { ports: Ports::All, services: Services(BTreeMap::new()), in_place: None };
        let ([before], [after]) = (old.egress.as_slice(), new.egress.as_slice()) else {
            return all();
        };
        if old.config.is_some() || new.config.is_some() || before.port.is_some() || after.port.is_some() {
            return all();
        }
        let (gone, come) = exchanged(&before.services, &after.services);
        let same = |a: &Vec<_>, b: &Vec<_>| super::facts::all_same(a, b);
        let services = Services::new(&gone, &come, new.rules.changed_keys(&old.rules, same));
        let (lost, won) = exchanged(&before.virtual_services, &after.virtual_services);
        let only = |s: &Arc<Service>| hosts.iter().all(|t| t.get(&s.hostname).is_some_and(|m| m.len() == 1));
        let stays = |(a, b): (&Arc<Service>, &Arc<Service>)| {
            a.age_order(b).is_eq() && a.hostname == b.hostname && a.visibility == b.visibility && only(a)
        };
        let in_place = gone.len() == come.len() && gone.iter().zip(&come).all(stays);
        let exchanged = Exchanged::new(&lost, &won).filter(|_| in_place);
        let ports = Ports::of(&services, &lost, &won, [&before.services, &after.services], &after.virtual_services);
        let pairs = gone.into_iter().zip(come).collect();
        InScope { ports, services, in_place: exchanged.map(|exchanged| InPlace { pairs, exchanged }) }
    }

    /// Whether the route configuration of this name may differ.
    pub(super) fn concern(&self, name: &str) -> bool {
        self.ports.concern(name)
    }

    /// Virtual services in place of others, if all that moved is where it was; `keeps` says so of each service.
    pub(super) fn in_place(&self, keeps: impl Fn(&Service, &Service) -> bool) -> Option<&Exchanged> {
        let in_place = self.in_place.as_ref()?;
        in_place.pairs.iter().all(|(a, b)| keeps(a, b)).then_some(&in_place.exchanged)
    }
}

/// Ports of a sidecar's route configurations.
enum Ports {
    /// All of them.
    All,
    /// These.
    Some(BTreeSet<u16>),
}

impl Ports {
    /// Ports whose routes can differ. `listed`: services before and after; `rules`: virtual services after.
    fn of(
        services: &Services,
        lost: &[Arc<ResolvedVirtualService>],
        won: &[Arc<ResolvedVirtualService>],
        listed: [&[Arc<Service>]; 2],
        rules: &[Arc<ResolvedVirtualService>],
    ) -> Ports {
        if services.is_empty() && lost.is_empty() && won.is_empty() {
            return Ports::Some(BTreeSet::new());
        }
        let mut out = BTreeSet::new();
        for (host, change) in &services.0 {
            out.extend(&change.ports);
            if change.rule {
                let of_host = listed.iter().copied().flatten().filter(|s| s.hostname == *host);
                out.extend(of_host.flat_map(|s| &s.ports).map(|p| p.number));
            }
        }
        let concerned = rules.iter().filter(|v| services.concern(v));
        for v in lost.iter().chain(won).chain(concerned) {
            // Port 80 carries hosts that are no services as well.
            out.insert(80);
            for host in &v.hosts {
                let covered = |s: &&Arc<Service>| s.hostname.matches(host) || host.matches(&s.hostname);
                for s in listed.iter().copied().flatten().filter(covered) {
                    out.extend(s.ports.iter().map(|p| p.number));
                }
            }
        }
        Ports::Some(out)
    }

    /// Whether the route configuration of this name is among them. Names without a port depend on everything.
    fn concern(&self, name: &str) -> bool {
        match self {
            Ports::All => true,
            Ports::Some(ports) if ports.is_empty() => false,
            Ports::Some(ports) => {
                let port = name.rsplit_once(':').map_or(name, |(_, port)| port);
                port.parse::<u16>().map_or(true, |port| port == 0 || ports.contains(&port))
            }
        }
    }
}
