//! Which principals does a policy mean when the mesh has several trust domains? Follows `pilot/pkg/security/trustdomain`.

use model::MeshConfig;

/// The trust domain and its aliases, each once, own first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    domains: Vec<String>,
}

fn prefix_match(text: &str, pattern: &str) -> bool {
    pattern.strip_suffix('*').is_some_and(|p| text.starts_with(p))
}

fn suffix_match(text: &str, pattern: &str) -> bool {
    pattern.strip_prefix('*').is_some_and(|p| text.ends_with(p))
}

fn matches(a: &str, b: &str) -> bool {
    a == b || a == "*" || prefix_match(a, b) || prefix_match(b, a) || suffix_match(a, b) || suffix_match(b, a)
}

/// The trust domain of a principal `TD/ns/NS/sa/SA`; `None` for other forms.
pub fn domain_of(principal: &str) -> Option<&str> {
    let mut parts = principal.split('/');
    let domain = parts.next()?;
    (parts.count() == 4).then_some(domain)
}

/// The principal in another trust domain; `None` when it names none.
pub fn in_domain(principal: &str, domain: &str) -> Option<String> {
    let own = domain_of(principal)?;
    Some(format!("{domain}{}", &principal[own.len()..]))
}

/// Whether a principal asks for a trust domain.
pub fn is_enforced(principal: &str) -> bool {
    domain_of(principal) != Some("*")
}

/// Whether a name or a pattern with one wildcard meets one of a list of such.
pub fn meets(name: &str, list: &[String]) -> bool {
    list.iter().any(|l| matches(name, l))
}

impl Bundle {
    /// The bundle of a mesh.
    pub fn new(mesh: &MeshConfig) -> Self {
        let mut domains = vec![mesh.trust_domain.clone()];
        domains.extend(mesh.trust_domain_aliases.iter().filter(|a| **a != mesh.trust_domain).cloned());
        Bundle { domains }
    }

    /// Principals with each of the trust domains they stand for.
    ///
    /// Only principals of the full form `TD/ns/NS/sa/SA` name a trust domain; `cluster.local` means the own one.
    pub fn expand(&self, principals: &[String]) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for principal in principals {
            let ours = |d: &&str| meets(d, &self.domains) || *d == names::well_known::CLUSTER_LOCAL;
            let Some(domain) = domain_of(principal).filter(ours) else {
                out.push(principal.clone());
                continue;
            };
            let mut expanded: Vec<String> = Vec::new();
            for d in &self.domains {
                // A wildcard that covers the domain already says it.
                let text = if suffix_match(d, domain) {
                    principal.clone()
                } else {
                    format!("{d}{}", &principal[domain.len()..])
                };
                if !expanded.contains(&text) {
                    expanded.push(text);
                }
            }
            out.extend(expanded);
        }
        out
    }
}
