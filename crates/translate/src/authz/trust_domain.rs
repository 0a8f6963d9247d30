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
            let parts: Vec<&str> = principal.split('/').collect();
            let named = parts.len() == 5;
            let domain = parts[0];
            let ours = self.domains.iter().any(|d| matches(domain, d)) || domain == names::well_known::CLUSTER_LOCAL;
            if !named || !ours {
                out.push(principal.clone());
                continue;
            }
            let mut expanded: Vec<String> = Vec::new();
            for d in &self.domains {
                // A wildcard that covers the domain already says it.
                let text =
                    if suffix_match(d, domain) { principal.clone() } else { format!("{d}/{}", parts[1..].join("/")) };
                if !expanded.contains(&text) {
                    expanded.push(text);
                }
            }
            out.extend(expanded);
        }
        out
    }
}
