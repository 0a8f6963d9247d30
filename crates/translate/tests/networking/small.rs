//! Names, addresses, stat prefixes, metadata: functions of a few words.

use api::destination_rule::TrafficPolicy;
use model::TargetPort;
use names::{ClusterName, Hostname};
use protos::envoy::config::core::v3 as core;
use serde_json::{Value, json};

use super::{Outcome, flag, inputs, mesh, number, port, router, service, sidecar, word};
use crate::common::literal::{self, message, object, same, text, texts};

fn optional<T: protos::prost::Message + protos::prost::Name + Default>(v: &Value) -> Result<Option<T>, String> {
    if v.is_null() { Ok(None) } else { message(v).map(Some) }
}

fn hosts(v: &Value) -> Vec<Hostname> {
    texts(v).iter().map(|h| Hostname::from(h.as_str())).collect()
}

fn domains(v: &Value) -> Result<(), String> {
    let mut s = service(&v["service"]);
    let mut proxy = sidecar("default");
    let ips = texts(&v["node"]["IPAddresses"]);
    if !ips.is_empty() {
        proxy.ips = ips;
    }
    let cluster = word(&v["node"]["Metadata"]["ClusterID"]);
    let vips = &v["service"]["ClusterVIPs"]["Addresses"][cluster];
    if vips.is_array() {
        s.addresses = texts(vips);
    }
    let (got, _) = translate::route::domains::names_of(&s, 0, word(&v["node"]["DNSDomain"]), proxy.reach());
    let sorted = |mut l: Vec<String>| {
        l.sort();
        l
    };
    same(sorted(got), sorted(texts(&v["want"])))
}

fn conditions(args: &Value, want: &Value) -> Result<(), String> {
    let of = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let mut got = of(&args["conditions"]);
    match &args["condition"] {
        Value::String(kind) => model::status::delete_condition(&mut got, kind),
        condition => model::status::update_condition(&mut got, condition.clone()),
    }
    same(got, of(want))
}

fn stat_prefix(v: &Value) -> Result<(), String> {
    let mut s = service(&json!({"Hostname": v["host"], "Attributes": v["attributes"]}));
    s.name = word(&v["attributes"]["Name"]).into();
    let mut p = port(&v["port"]);
    p.target = TargetPort::Number(number(&v["targetPort"]));
    let got = translate::cluster::stat_name(word(&v["statPattern"]), &s, word(&v["subsetName"]), &p);
    same(got.as_str(), word(&v["want"]))
}

fn inbound_stat_prefix(v: &Value) -> Result<(), String> {
    let tm = &v["tm"];
    let kubernetes = !word(&tm["KubernetesServiceName"]).is_empty();
    let registry = if kubernetes { "Kubernetes" } else { "External" };
    let attributes = json!({"Name": tm["KubernetesServiceName"], "Namespace": tm["KubernetesServiceNamespace"],
        "ServiceRegistry": registry});
    let mut s = service(&json!({"Hostname": tm["InstanceHostname"], "Attributes": attributes}));
    s.name = if kubernetes { word(&tm["KubernetesServiceName"]) } else { word(&tm["InstanceHostname"]) }.into();
    let p = port(&json!({"Name": v["portName"], "Port": v["port"], "Protocol": "GRPC"}));
    let got = translate::cluster::stat_name(word(&v["statPattern"]), &s, word(&v["subset"]), &p);
    same(got.as_str(), word(&v["want"]))
}

fn endpoint_metadata(v: &Value) -> Result<(), String> {
    let m = &v["metadata"];
    let workload = model::Workload {
        name: word(&m["WorkloadName"]).into(),
        namespace: word(&m["Namespace"]).into(),
        labels: literal::labels(&m["Labels"]),
        speaks_mtls: word(&m["TLSMode"]) == "istio",
        ..Default::default()
    };
    let mut got = translate::endpoint::metadata(&workload, word(&m["ClusterID"]));
    if !flag(&v["enableTelemetryLabel"])
        && let Some(got) = &mut got
    {
        // The label cannot be switched off here.
        got.filter_metadata.remove("istio");
    }
    same(got, optional(&v["want"])?)
}

fn locality(v: &Value) -> core::Locality {
    let part = |k: &str| word(&v[k]).to_owned();
    core::Locality { region: part("region"), zone: part("zone"), sub_zone: part("subZone") }
}

fn subset_policy(v: &Value) -> Result<(), String> {
    let given = |v: &Value| -> Result<Option<TrafficPolicy>, String> {
        if v.is_null() { Ok(None) } else { object(v).map(Some) }
    };
    let p = number(&v["port"]["Port"]);
    let base = given(&v["original"])?;
    let base = translate::cluster::policy::for_port(base.as_ref(), p);
    let got = translate::cluster::policy::for_subset(base, given(&v["subset"])?.as_ref(), p);
    let clean = |p: Option<TrafficPolicy>| {
        p.map(|mut p| {
            p.port_level_settings.clear();
            p
        })
    };
    same(clean(got), clean(given(&v["expected"])?))
}

fn config_metadata(v: &Value) -> Result<(), String> {
    let m = &v["in"];
    let kind = names::Kind::from_word(word(&m["GroupVersionKind"]["Kind"])).ok_or("no such kind")?;
    let mut got: Option<core::Metadata> = optional(&v["meta"])?;
    let path = translate::wire::config_path(&kind, word(&m["Namespace"]), word(&m["Name"]));
    translate::wire::istio_metadata(&mut got).insert("config".to_owned(), translate::wire::text_value(path));
    same(got, optional(&v["want"])?)
}

fn subset_key(func: &str, v: &Value) -> Result<(), String> {
    match func {
        "TestSubsetKey" => {
            let host = Hostname::from(word(&v["hostname"]));
            same(
                ClusterName::outbound(number(&v["port"]), word(&v["subset"]), &host).to_string().as_str(),
                word(&v["want"]),
            )
        }
        "TestIsValidSubsetKey" => {
            let valid = word(&v["subsetkey"]).matches('|').count() == 3;
            same(valid, !flag(&v["expectErr"]))
        }
        "TestParseSubsetKeyHostname" => {
            let input = word(&v["in"]);
            let name = input.parse::<ClusterName>().or_else(|_| ClusterName::from_sni(input));
            same(name.map(|n| n.host.to_string()).unwrap_or_default().as_str(), word(&v["out"]))
        }
        _ => {
            let input = word(&v["input"]);
            let parsed = input.parse::<ClusterName>().or_else(|_| ClusterName::from_sni(input));
            let got = parsed.map(|n| (n.direction.as_str().to_owned(), n.port, n.subset.clone(), n.host.to_string()));
            let want = (text(&v["direction"]), number(&v["port"]), text(&v["subsetName"]), text(&v["hostname"]));
            same(got.unwrap_or_default(), want)
        }
    }
}

fn credential_name(v: &Value) -> Result<(), String> {
    let parsed = translate::secret::CredentialName::parse(word(&v["resource"]), word(&v["defaultNamespace"]));
    if flag(&v["err"]) {
        return same(parsed.is_none(), true);
    }
    let got = parsed.ok_or("refused")?;
    let want = &v["expected"];
    same((got.namespace.as_str(), got.name.as_str()), (word(&want["Namespace"]), word(&want["Name"])))?;
    let kind = want["ResourceKind"]["$ref"].as_str().and_then(|k| k.rsplit('.').next()).unwrap_or_default();
    same(got.kind.name(), kind)
}

fn listener_tls(v: &Value) -> Result<(), String> {
    let settings: api::networking::ServerTls = object(&v["serverTLSSettings"])?;
    let tcp = flag(&v["gatewayTCPServerWithTLS"]);
    let inputs = inputs(&json!({}), router("istio-system"), Vec::new());
    let context = translate::tls::server_context(&settings, &inputs, tcp).ok_or("no context")?;
    let common = context.common_tls_context.unwrap_or_default();
    let got = (common.tls_certificate_sds_secret_configs.len() as u64, common.validation_context_type.is_some());
    same(got, (v["expectedCertCount"].as_u64().unwrap_or(0), flag(&v["expectedValidation"])))
}

/// `util.StringToExactMatch([...])` in TLS contexts.
pub fn with_exact_matches(v: &Value) -> Value {
    match v {
        Value::Object(o) => {
            if o.get("$call").and_then(Value::as_str) == Some("util.StringToExactMatch") {
                return texts(&o["args"][0]).iter().map(|t| json!({"exact": t})).collect();
            }
            o.iter().map(|(k, v)| (k.clone(), with_exact_matches(v))).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(a) => a.iter().map(with_exact_matches).collect(),
        other => other.clone(),
    }
}

fn gateway_tls(v: &Value) -> Result<(), String> {
    let server: api::networking::Server = object(&v["server"])?;
    let inputs = inputs(&mesh(&v["mesh"]), router("istio-system"), Vec::new());
    let settings = server.tls.clone().unwrap_or_default();
    let tcp = !model::gateway::is_https_terminated(&server);
    let got = translate::tls::server_context(&settings, &inputs, tcp);
    same(got, optional(&with_exact_matches(&v["result"]))?)
}

fn upstream_tls(v: &Value) -> Result<(), String> {
    let settings: api::destination_rule::Tls = object(&v["tls"])?;
    let proxy = if flag(&v["router"]) { router("istio-system") } else { sidecar("default") };
    let inputs = inputs(&mesh(&v["opts"]["mesh"]), proxy, Vec::new());
    let got = if settings.mode == api::destination_rule::TlsMode::IstioMutual {
        Some(translate::tls::outbound_mtls(&settings.subject_alt_names, &settings.sni, flag(&v["h2"]), true))
    } else {
        let facts = translate::tls::UpstreamFacts {
            inputs: &inputs,
            service_sans: &[],
            http2: flag(&v["h2"]),
            rule_has_selector: flag(&v["opts"]["isDrWithSelector"]),
        };
        translate::tls::originate(&settings, facts)
    };
    same(got, optional(&with_exact_matches(&v["result"]["tlsContext"]))?)
}

fn tls_defaults(v: &Value) -> Result<(), String> {
    let inputs = inputs(&json!({"tlsDefaults": literal::plain(&v["tlsDefaults"])}), router("istio-system"), Vec::new());
    let settings: api::networking::ServerTls = object(&json!({"mode": "SIMPLE"}))?;
    let context = translate::tls::server_context(&settings, &inputs, false);
    let params = context.and_then(|c| c.common_tls_context).and_then(|c| c.tls_params);
    same(params, optional(&v["expected"])?)
}

fn traffic_distribution(v: &Value) -> Result<(), String> {
    use model::service::TrafficDistribution as D;
    const KEY: &str = "networking.istio.io/traffic-distribution";
    let got = model::registry::distribution(
        v["specValue"].as_str(),
        v["svcAnnotation"][KEY].as_str(),
        v["nsAnnotation"][KEY].as_str(),
    );
    let want = match v["want"]["$ident"].as_str() {
        Some("TrafficDistributionPreferSameZone") => D::PreferSameZone,
        Some("TrafficDistributionPreferSameNode") => D::PreferSameNode,
        _ => D::Any,
    };
    same(got, want)
}

fn most_specific(v: &Value) -> Result<(), String> {
    let mut index: model::config::HostIndex<String> = Default::default();
    for h in hosts(&v["in"]) {
        *index.entry(&h) = h.to_string();
    }
    let got = index.most_specific(&Hostname::from(word(&v["needle"]))).cloned().unwrap_or_default();
    same(got.as_str(), word(&v["want"]))
}

fn proxy_matches(v: &Value) -> Result<(), String> {
    for (version, want) in v["matches"].as_object().into_iter().flatten() {
        let filter: api::envoy_filter::EnvoyFilter = object(&v["config"])?;
        let mut proxy = sidecar("default");
        proxy.metadata.fields.insert("ISTIO_VERSION".to_owned(), translate::wire::text_value(version.as_str()));
        let m = filter.config_patches.first().and_then(|p| p.matches.as_ref()).and_then(|m| m.proxy.as_ref());
        let got = translate::patch::proxy_matches(m, &proxy);
        if got != flag(want) {
            return Err(format!("{version}: {got}, {want} wanted"));
        }
    }
    Ok(())
}

/// The addresses that a proxy of one family uses of a service.
fn reached(v: &Value) -> Result<(), String> {
    let mode = v["ipMode"]["$ref"].as_str().or(v["proxy"]["ipMode"]["$ref"].as_str()).unwrap_or_default();
    let mut s = service(&v["service"]);
    // Addresses in other clusters are not this one's.
    let clusters = v["service"]["ClusterVIPs"]["Addresses"].as_object();
    let own = |c: &String| c != "other-cluster";
    if clusters.is_some_and(|c| !c.keys().any(own)) {
        s.addresses = vec![word(&v["service"]["DefaultAddress"]).to_owned()];
    }
    s.addresses.retain(|a| !a.is_empty() && a != "0.0.0.0");
    for key in ["AutoAllocatedIPv4Address", "AutoAllocatedIPv6Address"] {
        s.auto_addresses.extend(v["service"][key].as_str().map(str::to_owned));
    }
    let dns_capture = flag(&v["autoAllocationEnabled"]) || flag(&v["proxy"]["Metadata"]["DNSCapture"]);
    let reach = model::Reach { dns_capture, ipv6: mode.ends_with("IPv6") };
    let got = s.addresses_for(reach).to_vec();
    if let Some(want) = v["expectedAddress"].as_str() {
        return same(got.first().map(String::as_str), Some(want));
    }
    same(got, texts(&v["expectedAddresses"]))
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    Some(match func {
        "TestGenerateVirtualHostDomains" => domains(v),
        "TestBuildStatPrefix" => stat_prefix(v),
        "TestBuildInboundStatPrefix" => inbound_stat_prefix(v),
        "TestEndpointMetadata" => endpoint_metadata(v),
        "TestConvertAddressToCidr" => {
            optional(&v["want"]).and_then(|want| same(translate::wire::cidr(word(&v["addr"])), want))
        }
        "TestConvertLocality" => message(&v["want"])
            .and_then(|want: core::Locality| same(translate::cluster::locality(word(&v["locality"])), want)),
        "TestLocalityMatch" => {
            let l = locality(&v["locality"]);
            let parts: Vec<&str> =
                [&l.region, &l.zone, &l.sub_zone].into_iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
            same(translate::locality::covers(word(&v["rule"]), &parts.join("/")), flag(&v["match"]))
        }
        "TestAddConfigInfoMetadata" => config_metadata(v),
        "Test_updateCondition" | "Test_deleteCondition" => conditions(&v["args"], &v["want"]),
        "TestBuildAddress" => message(&v["expected"]).and_then(|want: core::Address| {
            same(translate::wire::address(word(&v["addr"]), number(&v["port"]).into()), want)
        }),
        "TestIPv6Compliant" => same(translate::wire::bracketed(word(&v["host"])).as_str(), word(&v["match"])),
        "TestDomainName" => {
            same(translate::wire::host_port(word(&v["host"]), number(&v["port"]).into()).as_str(), word(&v["match"]))
        }
        "TestGetAllAddresses" | "TestGetAddressForProxy" => reached(v),
        "TestTraceOperation" => same(
            format!("{}/*", translate::wire::host_port(word(&v["host"]), number(&v["port"]).into())).as_str(),
            word(&v["match"]),
        ),
        "TestMergeSubsetTrafficPolicy" => subset_policy(v),
        "TestSelectDNSLookupFamily" => {
            let mut proxy = sidecar("default");
            proxy.ips = texts(&v["ips"]);
            let got = if proxy.is_ipv6_only() { "V6_ONLY" } else { "V4_ONLY" };
            same(got, word(&v["want"]))
        }
        "TestTrustDomainsForValidation" => {
            let mesh = model::MeshConfig::from_json(&mesh(&v["meshConfig"]));
            same(translate::tls::trust_domains(&mesh), texts(&v["want"]))
        }
        "TestResolveShortnameToFQDN" => {
            let got = Hostname::resolve(word(&v["name"]), word(&v["meta"]["Namespace"]), word(&v["meta"]["Domain"]));
            same(got.as_str(), word(&v["out"]))
        }
        "TestMostSpecificHostMatch" => most_specific(v),
        "TestSubsetKey" | "TestParseSubsetKey" | "TestIsValidSubsetKey" | "TestParseSubsetKeyHostname" => {
            subset_key(func, v)
        }
        "TestParseResourceName" => credential_name(v),
        "TestToResourceName" => same(translate::tls::resource_name(word(&v["name"])).as_str(), word(&v["want"])),
        "TestBuildListenerTLSContext" => listener_tls(v),
        "TestBuildGatewayListenerTlsContext" => gateway_tls(v),
        "TestBuildUpstreamClusterTLSContext" => upstream_tls(v),
        "TestApplyDownstreamTLSDefaults" => tls_defaults(v),
        "TestGetTrafficDistribution" => traffic_distribution(v),
        "TestEnvoyFilterMatch" => proxy_matches(v),
        "TestLabelsEquals" => same(literal::labels(&v["a"]) == literal::labels(&v["b"]), flag(&v["want"])),
        "TestGetActualWildcardAndLocalHost" => {
            let mut proxy = sidecar("default");
            proxy.ips = texts(&v["proxy"]["IPAddresses"]);
            same(vec![proxy.wildcard().to_owned(), proxy.localhost().to_owned()], texts(&v["expected"]))
        }
        "TestGlobalUnicastIP" => {
            let got = model::proxy::global_unicast(&texts(&v["in"]));
            same(got.unwrap_or_default().as_str(), word(&v["expect"]))
        }
        _ => return None,
    })
}
