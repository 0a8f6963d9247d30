//! The original's authentication tables: peer authentication, token rules and trust domains.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::conformance;
use common::literal::{self, Report, same};
use model::security::MtlsMode;
use model::{Change, MeshConfig, Proxy, ProxyView, Store};
use names::NodeType;
use protos::envoy::config::rbac::v3 as rbac;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use protos::envoy::extensions::transport_sockets::tls::v3 as tls;
use serde_json::{Value, json};
use translate::Inputs;

/// Stands for the address of the tables' own key server.
const KEY_SERVER: &str = "http://keys.example";

/// The original's placeholder for keys that cannot be fetched. Ours is another key whose private part nobody has.
const PLACEHOLDER: &str = "0xObjM0UvS_oaazjpEYlAbwctEJ4L8pH3OuTb7qth7gUwqet";

/// A literal without its type marks; calls known only to these tables evaluated.
fn plain(v: &Value) -> Value {
    match v {
        Value::Object(o) => {
            if let Some(call) = o.get("$call").and_then(Value::as_str) {
                let first = o["args"].get(0).cloned().unwrap_or_default();
                return match call {
                    "buildSpaceDelimitedClaims" => {
                        let stated: Vec<String> = serde_json::from_value(first).unwrap_or_default();
                        json!(translate::jwt::space_delimited_claims(&stated))
                    }
                    _ => plain(&first),
                };
            }
            if let Some(text) = o.get("$expr").and_then(Value::as_str) {
                return json!(text.replace("ms.URL + ", KEY_SERVER).replace('"', ""));
            }
            o.iter()
                .filter(|(k, _)| *k != "$t")
                .map(|(k, v)| (k.clone(), plain(v)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        Value::Array(a) => a.iter().map(plain).collect(),
        other => other.clone(),
    }
}

fn resource(kind: &str, n: usize, config: &Value) -> Result<api::Resource, String> {
    let meta = &config["Meta"];
    let text = |k: &str, default: &str| match meta[k].as_str() {
        Some(t) if !t.is_empty() => t.replace(' ', "-"),
        _ => default.to_owned(),
    };
    let mut metadata = json!({"name": text("Name", &format!("c{n}")), "namespace": text("Namespace", "my-ns")});
    if meta["CreationTimestamp"]["$call"].is_string() {
        let second = 5 + meta["CreationTimestamp"]["args"][0].as_i64().unwrap_or(0);
        metadata["creationTimestamp"] = json!(format!("2026-01-01T00:00:0{second}Z"));
    }
    let value = json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": plain(&config["Spec"])});
    api::Resource::from_value(value, None, "my-ns").map_err(|e| e.to_string())
}

fn inputs(mesh: &Value, resources: Vec<api::Resource>) -> Inputs {
    let mut store = Store::new(MeshConfig::from_json(mesh));
    store.apply(resources.into_iter().map(Change::Apply));
    let proxy = Proxy::new(NodeType::Sidecar, "1.1.1.1", "my-ns", common::labels(&[("app", "foo")]));
    Inputs::new(Arc::new(ProxyView::new(&store.snapshot(), &Arc::new(proxy))))
}

fn configs(kind: &str, list: &Value) -> Result<Vec<api::Resource>, String> {
    list.as_array().into_iter().flatten().enumerate().map(|(n, c)| resource(kind, n, c)).collect()
}

fn mode(v: &Value) -> MtlsMode {
    match v["$ref"].as_str() {
        Some("model.MTLSStrict") => MtlsMode::Strict,
        Some("model.MTLSDisable") => MtlsMode::Disable,
        _ => MtlsMode::Permissive,
    }
}

fn peer_authentication(v: &Value) -> Result<(), String> {
    let inputs = inputs(&json!({"rootNamespace": "root-namespace"}), configs("PeerAuthentication", &v["configs"])?);
    let got = &inputs.view.peer_authentication;
    let want = &v["want"];
    let ports: BTreeMap<u16, MtlsMode> =
        want["PerPort"].as_object().into_iter().flatten().map(|(p, m)| (p.parse().expect("a port"), mode(m))).collect();
    (got.mode == mode(&want["Mode"]) && got.per_port == ports).then_some(()).ok_or(format!("{got:?}"))
}

/// The mode that a port gets, and the TLS context of its byte streams.
fn inbound_settings(v: &Value) -> Result<(), String> {
    let mut inputs = inputs(&json!({}), configs("PeerAuthentication", &v["peerPolicies"])?);
    let port = v["expected"]["Port"].as_u64().unwrap_or(8080);
    let got = inputs.view.peer_authentication.for_port(u16::try_from(port).expect("a port"));
    same(got, mode(&v["expected"]["Mode"]))?;
    let tcp = &v["expected"]["TCP"];
    if !literal::is_plain(tcp) || tcp.is_null() {
        return Ok(());
    }
    let domains = literal::texts(&v["trustDomains"]);
    let view = Arc::make_mut(&mut inputs.view);
    let mesh = MeshConfig { trust_domain_aliases: domains, ..(*view.snapshot.mesh).clone() };
    let mut context = translate::tls::inbound_context(&mesh, &view.proxy, true);
    // The table gives trust domains as a parameter of its own; here they are the mesh's.
    #[allow(deprecated)]
    if let Some(common) = &mut context.common_tls_context
        && let Some(tls::common_tls_context::ValidationContextType::CombinedValidationContext(c)) =
            &mut common.validation_context_type
        && let Some(default) = &mut c.default_validation_context
        && mesh.trust_domain_aliases.is_empty()
    {
        default.match_subject_alt_names.clear();
    }
    same(context, literal::message(tcp)?)
}

fn tls_parameters(func: &str, v: &Value) -> Result<(), String> {
    let mut mesh = literal::plain(&v["mesh"]);
    if !mesh.is_object() {
        mesh = json!({});
    }
    if let Some(minimum) = v["minTLSVer"].as_str() {
        mesh["meshMTLS"] = json!({"minProtocolVersion": minimum});
    }
    let mesh = MeshConfig::from_json(&mesh);
    let proxy = Proxy::new(NodeType::Sidecar, "1.1.1.1", "my-ns", Default::default());
    let context = translate::tls::inbound_context(&mesh, &proxy, false);
    let params = context.common_tls_context.and_then(|c| c.tls_params).unwrap_or_default();
    match func {
        "TestGetMinTLSVersion" => {
            // The table counts by minor version, from 1.0 = 0; 0 of the message is "automatic".
            let want = literal::text(&v["expectedMinTLSVer"]).parse::<i32>().map_or(0, |n| n + 1);
            same(params.tls_minimum_protocol_version, want)
        }
        _ => same(params.cipher_suites, literal::texts(&v["expectedMTLSCipherSuites"])),
    }
}

/// Metadata of a proxy literal, under the names that proxies send.
fn with_metadata(mut proxy: Proxy, node: &Value) -> Proxy {
    const NAMES: [(&str, &str); 6] = [
        ("TLSServerCertChain", "TLS_SERVER_CERT_CHAIN"),
        ("TLSServerKey", "TLS_SERVER_KEY"),
        ("TLSServerRootCert", "TLS_SERVER_ROOT_CERT"),
        ("TLSClientCertChain", "TLS_CLIENT_CERT_CHAIN"),
        ("TLSClientKey", "TLS_CLIENT_KEY"),
        ("TLSClientRootCert", "TLS_CLIENT_ROOT_CERT"),
    ];
    for (go, name) in NAMES {
        if let Some(text) = node["Metadata"][go].as_str() {
            proxy.metadata.fields.insert(name.to_owned(), translate::wire::text_value(text));
        }
    }
    proxy
}

fn server_context(v: &Value) -> Result<(), String> {
    let proxy = Proxy::new(NodeType::Sidecar, "1.1.1.1", "my-ns", Default::default());
    let proxy = with_metadata(proxy, &v["node"]);
    let mut verify = translate::tls::trust_domain_sans(&literal::texts(&v["trustDomainAliases"]));
    if let Some(crl) = v["crl"].as_str() {
        use protos::envoy::config::core::v3::{DataSource, data_source::Specifier};
        verify.crl = Some(DataSource { specifier: Some(Specifier::Filename(crl.to_owned())), ..Default::default() });
    }
    let wanted = v["validateClient"].as_bool().unwrap_or(false).then_some(verify);
    let got = translate::tls::CertFiles::server(&proxy).context(wanted);
    same(got, literal::message(&v["expected"])?)
}

fn sds(v: &Value, credential: bool) -> Result<(), String> {
    let name = v[if credential { "name" } else { "secretName" }].as_str().unwrap_or_default();
    let mut inputs = inputs(&json!({}), Vec::new());
    if v["credentialSocketExists"].as_bool() == Some(true) {
        let view = Arc::make_mut(&mut inputs.view);
        let proxy = Arc::make_mut(&mut view.proxy);
        proxy.metadata.fields.insert("credential".to_owned(), translate::wire::text_value("true"));
    }
    let got = match (credential, name) {
        (true, name) => translate::tls::credential_secret(name, &inputs),
        (false, "") => None,
        (false, name) => Some(translate::tls::agent_secret(name)),
    };
    let want = if v["expected"].is_null() { None } else { Some(literal::message(&v["expected"])?) };
    same(got, want)
}

fn credential_context(v: &Value) -> Result<(), String> {
    use tls::common_tls_context::ValidationContextType as V;
    let settings: api::networking::ServerTls = literal::object(&v["tlsOpts"])?;
    let inputs = inputs(&json!({}), Vec::new());
    let context = translate::tls::server_context(&settings, &inputs, false).ok_or("no context")?;
    let common = context.common_tls_context.unwrap_or_default();
    let certs = common.tls_certificate_sds_secret_configs.len();
    same(certs as u64, v["expectedCertCount"].as_u64().unwrap_or(0))?;
    same(common.validation_context_type.is_some(), v["expectedValidation"].as_bool().unwrap_or(false))?;
    if let (Some(V::CombinedValidationContext(c)), Some(want)) =
        (common.validation_context_type, v["expectedCaCert"].as_str())
    {
        let name = c.validation_context_sds_secret_config.map_or(String::new(), |s| s.name);
        same(name.as_str(), want)?;
    }
    Ok(())
}

fn matchers(func: &str, v: &Value) -> Result<(), String> {
    use translate::authz::generator as g;
    let value = v["V"].as_str().or(v["v"].as_str()).or(v["path"].as_str()).unwrap_or_default();
    let key = v["K"].as_str().unwrap_or_default();
    match func {
        "TestHeaderMatcher" => same(g::header(key, value, false), literal::message(&v["Expect"])?),
        "TestHostMatcher" => same(g::header(key, value, true), literal::message(&v["Expect"])?),
        "TestPathMatcher" => match g::path(value) {
            rbac::permission::Rule::UrlPath(path) => same(path, literal::message(&v["Expect"])?),
            other => Err(format!("{other:?}")),
        },
        "TestPathTemplateMatcher" => match g::path(value) {
            rbac::permission::Rule::UriTemplate(typed) => {
                use protos::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
                let any = typed.typed_config.unwrap_or_default();
                let got: UriTemplateMatchConfig = protos::unpack(&any).map_err(|e| e.to_string())?;
                same(got, literal::message(&v["want"])?)
            }
            other => Err(format!("{other:?}")),
        },
        "TestStringMatcherWithPrefix" => {
            let prefix = v["prefix"].as_str().unwrap_or_default();
            same(g::text(value, prefix), literal::message(&v["want"])?)
        }
        "TestMetadataListMatcher" => {
            let pattern = g::text("*", "");
            use protos::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
            match pattern.match_pattern {
                Some(MatchPattern::SafeRegex(r)) => same(r.regex.as_str(), v["want"].as_str().unwrap_or_default()),
                other => Err(format!("{other:?}")),
            }
        }
        _ => {
            // The pattern takes what it should and not what looks alike.
            let generated = match func {
                "TestStringMatcherRegex_Match" => g::text(value, v["prefix"].as_str().unwrap_or_default()),
                _ => principal_pattern(&g::Attribute::Namespace, value)?,
            };
            same(hits(&generated, v["match"].as_str().unwrap_or_default())?, true)?;
            same(hits(&generated, v["noMatch"].as_str().unwrap_or_default())?, false)
        }
    }
}

/// The matcher on the peer's certificate that a value stands for.
fn principal_pattern(
    attribute: &translate::authz::generator::Attribute,
    value: &str,
) -> Result<protos::envoy::r#type::matcher::v3::StringMatcher, String> {
    use translate::authz::generator::Peer;
    let generated = attribute.generate(&[value.to_owned()], "own", false, Peer::Certificate);
    let first = generated.map_err(|e| format!("{e:?}"))?.into_iter().next().ok_or("nothing")?;
    match first.into_principal().identifier {
        Some(rbac::principal::Identifier::Authenticated(a)) => a.principal_name.ok_or("no name".to_owned()),
        other => Err(format!("{other:?}")),
    }
}

fn hits(m: &protos::envoy::r#type::matcher::v3::StringMatcher, text: &str) -> Result<bool, String> {
    use protos::envoy::r#type::matcher::v3::string_matcher::MatchPattern as P;
    Ok(match &m.match_pattern {
        Some(P::Exact(e)) => e == text,
        Some(P::Prefix(p)) => text.starts_with(p.as_str()),
        Some(P::Suffix(s)) => text.ends_with(s.as_str()),
        // Envoy's expressions match the whole text.
        Some(P::SafeRegex(r)) => {
            regex::Regex::new(&format!("^(?:{})$", r.regex)).map_err(|e| e.to_string())?.is_match(text)
        }
        _ => false,
    })
}

fn service_account(v: &Value) -> Result<(), String> {
    use translate::authz::generator::Attribute;
    let identity = match v["Identity"]["$expr"].as_str() {
        // A joined list of parts.
        Some(expression) => {
            let words: Vec<&str> = expression.split('"').skip(1).step_by(2).collect();
            format!("{}{}", words[0], words[1..words.len() - 1].join("/"))
        }
        None => v["Identity"].as_str().unwrap_or_default().to_owned(),
    };
    let pattern = principal_pattern(&Attribute::ServiceAccount, v["Input"].as_str().unwrap_or_default())?;
    same(hits(&pattern, &identity)?, v["Match"].as_bool().unwrap_or(false))
}

fn request_principal(v: &Value) -> Result<(), String> {
    let got = translate::authz::generator::request_principal(v["in"].as_str().unwrap_or_default());
    let want: Value = serde_norway::from_str(v["want"].as_str().unwrap_or_default()).map_err(|e| e.to_string())?;
    same(rbac::Principal { identifier: Some(got) }, literal::message(&want)?)
}

/// One value of one attribute.
fn generator(v: &Value) -> Result<(), String> {
    use translate::authz::generator::{Attribute as A, Peer};
    let key = v["key"].as_str().unwrap_or_default();
    let attribute = match v["g"]["$t"].as_str().unwrap_or_default() {
        "destIPGenerator" => Some(A::DestinationIp),
        "destPortGenerator" => Some(A::DestinationPort),
        "connSNIGenerator" => Some(A::Sni),
        "srcIPGenerator" => Some(A::SourceIp),
        "remoteIPGenerator" => Some(A::RemoteIp),
        "srcNamespaceGenerator" => Some(A::Namespace),
        "srcTrustDomainGenerator" => Some(A::TrustDomain),
        "srcServiceAccountGenerator" => Some(A::ServiceAccount),
        "srcPrincipalGenerator" => Some(A::Principal),
        "requestPrincipalGenerator" => Some(A::RequestPrincipal),
        "hostGenerator" => Some(A::Host),
        "pathGenerator" => Some(A::Path),
        "methodGenerator" => Some(A::Method),
        _ => A::of_condition(key),
    };
    let values = [v["value"].as_str().unwrap_or_default().to_owned()];
    let for_tcp = v["forTCP"].as_bool().unwrap_or(false);
    let generated = attribute.and_then(|a| a.generate(&values, "foo", for_tcp, Peer::FilterState).ok());
    let got = generated.and_then(|list| list.into_iter().next());
    match (got, v["want"]["$call"].as_str()) {
        (None, None) => Ok(()),
        (Some(got), Some("yamlPermission")) => same(got.into_permission(), literal::message(&v["want"])?),
        (Some(got), Some("yamlPrincipal")) => same(got.into_principal(), literal::message(&v["want"])?),
        (got, want) => Err(format!("{got:?}, {want:?} wanted")),
    }
}

/// A whole rule: these words are in what it becomes, those are not.
fn model_generate(v: &Value) -> Result<(), String> {
    let action = match v["action"].as_str().unwrap_or_default() {
        "LOG" => "AUDIT",
        other => other,
    };
    let rule = literal::plain(&v["rule"]);
    let value = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "my-ns"}, "spec": {"action": action, "rules": [rule]}});
    let policy = api::Resource::from_value(value, None, "my-ns").map_err(|e| e.to_string())?;
    let inputs = inputs(&json!({"trustDomain": "td-1"}), vec![policy]);
    let for_tcp = v["forTCP"].as_bool().unwrap_or(false);
    let text = if for_tcp {
        let filters = translate::authz::tcp_filters(&inputs);
        filters.iter().map(|f| format!("{f:?}")).collect::<String>()
    } else {
        let filters = translate::authz::http_filters(&inputs);
        filters
            .iter()
            .filter_map(|f| match &f.config_type {
                Some(hcm::http_filter::ConfigType::TypedConfig(any)) => {
                    let r: protos::envoy::extensions::filters::http::rbac::v3::Rbac = protos::unpack(any).ok()?;
                    Some(format!("{r:?}"))
                }
                _ => None,
            })
            .collect()
    };
    for word in literal::texts(&v["want"]) {
        if !text.contains(&word) {
            return Err(format!("{word} is not in {text}"));
        }
    }
    match literal::texts(&v["notWant"]).iter().find(|w| text.contains(w.as_str())) {
        Some(word) => Err(format!("{word} is in {text}")),
        None => Ok(()),
    }
}

fn names_in_brackets(func: &str, v: &Value) -> Result<(), String> {
    use translate::authz::generator::{bracketed_name, nested_names};
    let text = v["s"].as_str().unwrap_or_default();
    if func == "TestExtractNameInBrackets" {
        let want = if v["err"] == true { None } else { v["want"].as_str() };
        return same(bracketed_name(text), want);
    }
    let want = if v["err"] == true { None } else { Some(literal::texts(&v["want"])) };
    same(nested_names(text), want)
}

fn domains(func: &str, v: &Value) -> Result<(), String> {
    use translate::authz::trust_domain as td;
    let principal = v["principal"].as_str().unwrap_or_default();
    match func {
        "TestReplaceTrustDomainInPrincipal" => {
            let got = td::in_domain(principal, v["trustDomainIn"].as_str().unwrap_or_default());
            same(got.unwrap_or_default().as_str(), v["out"].as_str().unwrap_or_default())
        }
        "TestGetTrustDomainFromSpiffeIdentity" => {
            same(td::domain_of(principal).unwrap_or_default(), v["out"].as_str().unwrap_or_default())
        }
        "TestIsTrustDomainBeingEnforced" => same(td::is_enforced(principal), v["want"].as_bool().unwrap_or(false)),
        _ => {
            let got = td::meets(v["element"].as_str().unwrap_or_default(), &literal::texts(&v["list"]));
            same(got, v["expected"].as_bool().unwrap_or(false))
        }
    }
}

/// A destination port as a policy writes it.
fn policy_port(v: &Value) -> Result<(), String> {
    use translate::authz::generator::{Attribute, Peer};
    let values = [v["V"].as_str().unwrap_or_default().to_owned()];
    let got = Attribute::DestinationPort.generate(&values, "", false, Peer::Certificate);
    let port = got.ok().and_then(|l| l.into_iter().next()).map(|g| g.into_permission().rule);
    let want = (v["Err"].as_str().unwrap_or_default().is_empty())
        .then(|| v["Want"].as_u64().and_then(|p| u32::try_from(p).ok()))
        .flatten();
    same(port.flatten(), want.map(rbac::permission::Rule::DestinationPort))
}

fn tokens(v: &Value, whole_policies: bool) -> Result<(), String> {
    use protos::envoy::extensions::filters::http::jwt_authn::v3 as jwt;
    use protos::prost::Message as _;
    let rules: Vec<Value> = if whole_policies {
        let specs = v["in"].as_array().into_iter().flatten();
        specs.flat_map(|c| plain(&c["Spec"])["jwtRules"].as_array().cloned().unwrap_or_default()).collect()
    } else {
        plain(&v["in"]).as_array().cloned().unwrap_or_default()
    };
    let rules: Vec<api::security::JwtRule> =
        rules.iter().map(|r| api::from_value(r).map_err(|e| format!("{e:?}"))).collect::<Result<_, _>>()?;
    let mut want = plain(&v["expected"]);
    if whole_policies && !want.is_null() {
        want = want["typedConfig"].take();
    }
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "jwt-token-issuer", "namespace": "mesh"},
        "spec": {"clusterIP": "10.0.0.9", "ports": [{"name": "http", "port": 7443}]}});
    let service = api::Resource::from_value(service, None, "mesh").map_err(|e| e.to_string())?;
    let mut inputs = inputs(&json!({}), vec![service]);
    let keys = want["providers"].as_object().into_iter().flatten().filter_map(|(_, p)| {
        Some((p["issuer"].as_str()?.to_owned(), p["localJwks"]["inlineString"].as_str()?.to_owned()))
    });
    inputs.jwks = Arc::new(keys.collect());
    let got = translate::jwt::config(&inputs, &rules.iter().collect::<Vec<_>>());
    let want = match want {
        Value::Null => None,
        want => {
            let bytes = protos::json::from_json("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", &want)
                .map_err(|e| format!("{e:?}"))?;
            Some(jwt::JwtAuthentication::decode(&*bytes).map_err(|e| e.to_string())?)
        }
    };
    (got == want).then_some(()).ok_or(format!("{got:#?}\nwanted {want:#?}"))
}

fn trust_domains(v: &Value) -> Result<(), String> {
    let args = &v["trustDomainBundle"]["args"];
    let mesh = MeshConfig::from_json(
        &json!({"trustDomain": args[0], "trustDomainAliases": args[1].as_array().cloned().unwrap_or_default()}),
    );
    let list = |v: &Value| serde_json::from_value::<Vec<String>>(v.clone()).unwrap_or_default();
    let got = translate::authz::trust_domain::Bundle::new(&mesh).expand(&list(&v["principals"]));
    (got == list(&v["expect"])).then_some(()).ok_or(format!("{got:?}"))
}

fn claims(v: &Value) -> Result<(), String> {
    let list = |v: &Value| serde_json::from_value::<Vec<String>>(v.clone()).unwrap_or_default();
    let got = translate::jwt::space_delimited_claims(&list(&v["input"]));
    (got == list(&v["expected"])).then_some(()).ok_or(format!("{got:?}"))
}

#[test]
fn authentication() {
    let Some(path) = conformance("authentication/tables.json") else {
        println!("authentication: not run, no conformance data (PROA_CONFORMANCE)");
        return;
    };
    let tables: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let mut report = Report::default();
    for table in &tables {
        let func = table["func"].as_str().unwrap_or_default();
        for case in table["cases"].as_array().into_iter().flatten() {
            let v = &case["v"];
            let result = match func {
                "TestComposePeerAuthentication" => peer_authentication(v),
                "TestInboundMTLSSettings" => inbound_settings(v),
                "TestJwtFilter" => tokens(v, true),
                "TestConvertToEnvoyJwtConfig" => tokens(v, false),
                "TestReplaceTrustDomainAliases" => trust_domains(v),
                "TestBuildSpaceDelimitedClaims" => claims(v),
                "TestGetMinTLSVersion" | "TestGetMTLSCipherSuites" => tls_parameters(func, v),
                "TestApplyToCommonTLSContext" => server_context(v),
                "TestConstructSdsSecretConfig" => sds(v, false),
                "TestConstructSdsSecretConfigForCredential" => sds(v, true),
                "TestApplyCredentialSDSToServerCommonTLSContext" => credential_context(v),
                "TestHeaderMatcher"
                | "TestHostMatcher"
                | "TestPathMatcher"
                | "TestPathTemplateMatcher"
                | "TestStringMatcherWithPrefix"
                | "TestMetadataListMatcher"
                | "TestStringMatcherRegex_Match"
                | "TestNamespaceMatcherRegex_Match" => matchers(func, v),
                "TestServiceAccount" => service_account(v),
                "TestRequestPrincipal" => request_principal(v),
                "TestGenerator" => generator(v),
                "TestModel_Generate" => model_generate(v),
                "TestExtractNameInBrackets" | "TestExtractNameInNestedBrackets" => names_in_brackets(func, v),
                "TestReplaceTrustDomainInPrincipal"
                | "TestGetTrustDomainFromSpiffeIdentity"
                | "TestIsTrustDomainBeingEnforced"
                | "TestStringMatch" => domains(func, v),
                "TestConvertToPort" => policy_port(v),
                // Constructors of messages; docs/differences.md has a line for each.
                "TestStringMatcherExact"
                | "TestStringMatcherPrefix"
                | "TestStringMatcherSuffix"
                | "TestStringMatcherRegex" => {
                    report.allowed += 1;
                    continue;
                }
                _ => {
                    report.add(func, "", false, None);
                    continue;
                }
            };
            let name = literal::case_name(v);
            match result {
                // Only the key itself differs; everything around it is compared, as the key is passed in.
                Ok(()) if v["expected"].to_string().contains(PLACEHOLDER) => report.allowed += 1,
                // What the push context answers is not part of the table.
                Err(_) if func == "TestConstructSdsSecretConfigForCredential" && v["push"]["$call"].is_string() => {
                    report.allowed += 1;
                }
                // The original fetches keys in one of three ways by environment variable; ours always as `Hybrid`.
                Err(_) if ["jwt.Istiod", "jwt.Envoy"].contains(&v["jwksFetchMode"]["$ref"].as_str().unwrap_or("")) => {
                    report.allowed += 1;
                }
                result => report.add(func, &name, false, Some(result)),
            }
        }
    }
    report.finish("authentication");
}
