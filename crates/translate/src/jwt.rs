//! Which tokens are accepted? Request authentications as one `jwt_authn` filter: a missing token passes, a bad one is
//! refused. Follows `pilot/pkg/security/authn`. Keys of issuers outside of the mesh are fetched by the control plane
//! and come in through [`Inputs::jwks`](crate::Inputs), as translation has no network.

use std::collections::BTreeSet;

use api::security::JwtRule;
use names::{ClusterName, Hostname};
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::filters::http::jwt_authn::v3 as jwt;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use crate::Inputs;
use crate::wire::{any, api_duration, duration, http_filter};

/// Name of the filter, and namespace of its metadata.
pub(crate) const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";
/// Key of the verified payload in that metadata.
pub(crate) const PAYLOAD: &str = "payload";
/// Claims that hold several words in one text.
const SPACE_DELIMITED: [&str; 2] = ["permission", "scope"];
/// How long Envoy keeps keys it fetched.
const CACHE_S: u64 = 300;
/// How long fetching keys may take.
const TIMEOUT_S: u64 = 5;

/// Keys used while an issuer's are unknown: the private half was never kept, so no token verifies.
const UNKNOWN_KEYS: &str = r#"{"keys":[{"kty":"RSA","e":"AQAB","n":"qNGZAoYuh7Bqe-tfo1dsApqNPrT0aAv-NRAdWeyWoOdkwzF2ZXESFORkdn7_YAE0JJNnuEMZlRuODNpHJKMzr67vlFht--h5UfmN_Qg33Ah3EleJJ5sCKqeWitxUvMkRGn7C6vmEOJTLDLCu_q6wtgpPW-zswuYJee04pIqx5Y3gmV1JiCXRxBRGP1znJDxb_zl7QYeUlC0P3V4WW7WH5lfplaSTLhZcImQwe8Svv5YimCJNxMSQNiDRwUlS8vuo5Gvfrri8Fe2olfguE2sHe7tc9O6RKhwzKVDATzPukzcWcth7frjv6-sHiKdYeuxh5KIESpVqimLS4PdmW2o3UQ"}]}"#;

/// The filter for the proxy's request authentications; `None` without any.
pub(crate) fn filter(inputs: &Inputs) -> Option<hcm::HttpFilter> {
    let rules: Vec<&JwtRule> = inputs.view.request_authentication.iter().flat_map(|p| &p.spec.jwt_rules).collect();
    config(inputs, &rules).map(|c| http_filter(JWT_AUTHN, any(&c)))
}

/// One provider per rule, ordered by issuer.
///
/// A single issuer: its token, or none. Several: a valid token of any, or (for none or tokens in different places)
/// each place holds a valid token or none.
pub fn config(inputs: &Inputs, rules: &[&JwtRule]) -> Option<jwt::JwtAuthentication> {
    use jwt::jwt_requirement::RequiresType as R;
    if rules.is_empty() {
        return None;
    }
    let mut sorted: Vec<&JwtRule> = rules.to_vec();
    sorted.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    let requirement = |r| jwt::JwtRequirement { requires_type: Some(r) };
    let any_of = |requirements| requirement(R::RequiresAny(jwt::JwtRequirementOrList { requirements }));
    let mut out = jwt::JwtAuthentication { bypass_cors_preflight: true, ..Default::default() };
    let (mut each, mut whole) = (Vec::new(), Vec::new());
    for (i, rule) in sorted.iter().enumerate() {
        let name = format!("origins-{i}");
        out.providers.insert(name.clone(), provider(inputs, rule));
        let by_name = || requirement(R::ProviderName(name.clone()));
        each.push(any_of(vec![by_name(), requirement(R::AllowMissing(()))]));
        whole.push(by_name());
    }
    let requires = if each.len() == 1 {
        each.remove(0)
    } else {
        whole.push(requirement(R::RequiresAll(jwt::JwtRequirementAndList { requirements: each })));
        any_of(whole)
    };
    out.rules = vec![jwt::RequirementRule {
        r#match: Some(crate::route::action::any_path()),
        requirement_type: Some(jwt::requirement_rule::RequirementType::Requires(requires)),
    }];
    Some(out)
}

/// The claims read as lists: those stated and the usual two, sorted.
pub fn space_delimited_claims(stated: &[String]) -> Vec<String> {
    let mut all: BTreeSet<String> = SPACE_DELIMITED.iter().map(|s| (*s).to_owned()).collect();
    all.extend(stated.iter().cloned());
    all.into_iter().collect()
}

fn provider(inputs: &Inputs, rule: &JwtRule) -> jwt::JwtProvider {
    let headers = rule.from_headers.iter();
    let claims = rule.output_claim_to_headers.iter();
    jwt::JwtProvider {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        forward: rule.forward_original_token,
        forward_payload_header: rule.output_payload_to_header.clone(),
        payload_in_metadata: PAYLOAD.to_owned(),
        normalize_payload_in_metadata: Some(jwt::jwt_provider::NormalizePayload {
            space_delimited_claims: space_delimited_claims(&rule.space_delimited_claims),
        }),
        from_headers: headers
            .map(|h| jwt::JwtHeader { name: h.name.clone(), value_prefix: h.prefix.clone() })
            .collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        claim_to_headers: claims
            .map(|c| jwt::JwtClaimToHeader {
                header_name: c.header.clone(),
                claim_name: c.claim.clone(),
                ..Default::default()
            })
            .collect(),
        jwks_source_specifier: Some(keys(inputs, rule)),
        ..Default::default()
    }
}

fn keys(inputs: &Inputs, rule: &JwtRule) -> jwt::jwt_provider::JwksSourceSpecifier {
    use jwt::jwt_provider::JwksSourceSpecifier as S;
    let local = |text: &str| {
        S::LocalJwks(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
            ..Default::default()
        })
    };
    if !rule.jwks.is_empty() {
        return local(&rule.jwks);
    }
    if let Some(cluster) = mesh_cluster(inputs.snapshot(), &rule.jwks_uri) {
        return S::RemoteJwks(jwt::RemoteJwks {
            http_uri: Some(core::HttpUri {
                uri: rule.jwks_uri.clone(),
                timeout: Some(
                    rule.timeout.map_or_else(|| duration(std::time::Duration::from_secs(TIMEOUT_S)), api_duration),
                ),
                http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster)),
            }),
            cache_duration: Some(duration(std::time::Duration::from_secs(CACHE_S))),
            ..Default::default()
        });
    }
    let by_uri = inputs.jwks.get(&rule.jwks_uri).or_else(|| inputs.jwks.get(&rule.issuer));
    local(by_uri.map_or(UNKNOWN_KEYS, String::as_str))
}

/// Whether a key server is a service of the mesh; then proxies ask it themselves.
pub fn is_mesh_service(snapshot: &model::Snapshot, uri: &str) -> bool {
    mesh_cluster(snapshot, uri).is_some()
}

/// The cluster of a key server that is a service of the mesh, by full or short name.
fn mesh_cluster(snapshot: &model::Snapshot, uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?']).next()?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, if scheme == "https" { 443 } else { 80 }),
    };
    let candidates = [host.to_owned(), format!("{host}.svc.{}", snapshot.mesh.domain)];
    let host = candidates.into_iter().map(Hostname::from).find(|h| snapshot.by_host.contains_key(h))?;
    Some(ClusterName::outbound(port, "", &host).to_string())
}
