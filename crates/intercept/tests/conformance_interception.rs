//! Do the rules match the original's traces? Reads the conformance data beside the checkout (`../shared/conformance`)
//! or in `PROA_CONFORMANCE`; without it says so and passes. Prints one JSON line with the counts.

use std::fs;
use std::path::{Path, PathBuf};

use intercept::{Config, iptables, nftables};
use serde_json::Value;

fn data() -> Option<PathBuf> {
    let root = std::env::var_os("PROA_CONFORMANCE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"), PathBuf::from);
    let folder = root.join("interception");
    folder.is_dir().then_some(folder)
}

fn set(config: &mut Config, key: &str, value: &Value) -> Result<(), String> {
    let text = || value.as_str().unwrap_or_default().to_owned();
    let list = || value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let number = || text().parse().map_err(|_| format!("{key}: {value} is no number"));
    let flag = value.as_bool().unwrap_or_default();
    match key {
        "PROXY_PORT" => config.proxy_port = number()?,
        "INBOUND_CAPTURE_PORT" => config.inbound_capture_port = number()?,
        "INBOUND_TUNNEL_PORT" => config.inbound_tunnel_port = number()?,
        "PROXY_UID" => config.proxy_uid = text(),
        "PROXY_GID" => config.proxy_gid = text(),
        "INBOUND_INTERCEPTION_MODE" => config.mode = text().parse().map_err(|e| format!("{e}"))?,
        "INBOUND_TPROXY_MARK" => config.tproxy_mark = number()?.into(),
        "INBOUND_TPROXY_ROUTE_TABLE" => config.tproxy_route_table = number()?.into(),
        "INBOUND_PORTS_INCLUDE" => config.inbound_ports_include = text(),
        "INBOUND_PORTS_EXCLUDE" => config.inbound_ports_exclude = text(),
        "OUTBOUND_OWNER_GROUPS_INCLUDE" => config.owner_groups_include = text(),
        "OUTBOUND_OWNER_GROUPS_EXCLUDE" => config.owner_groups_exclude = text(),
        "OUTBOUND_PORTS_INCLUDE" => config.outbound_ports_include = text(),
        "OUTBOUND_PORTS_EXCLUDE" => config.outbound_ports_exclude = text(),
        "OUTBOUND_IPRANGES_INCLUDE" => config.outbound_ranges_include = text(),
        "OUTBOUND_IPRANGES_EXCLUDE" => config.outbound_ranges_exclude = text(),
        "KUBE_VIRT_INTERFACES" => config.reroute_interfaces = text(),
        "EXCLUDE_INTERFACES" => config.exclude_interfaces = text(),
        "REDIRECT_DNS" => config.redirect_dns = flag,
        "CAPTURE_ALL_DNS" => config.capture_all_dns = flag,
        "DNS_SERVERS_V4" => config.dns_servers_v4 = list(),
        "DNS_SERVERS_V6" => config.dns_servers_v6 = list(),
        "DROP_INVALID" => config.drop_invalid = flag,
        "ENABLE_INBOUND_IPV6" => config.ipv6 = flag,
        "HOST_IPV4_LOOPBACK_CIDR" => config.loopback_v4 = text(),
        // How a run is carried out, not which rules it makes.
        "DRY_RUN" | "FORCE_APPLY" | "RECONCILE" => {}
        other => return Err(format!("unknown setting {other}")),
    }
    Ok(())
}

fn case(folder: &Path, kind: &str, base: &Value, case: &Value) -> Result<bool, String> {
    let mut config = Config::default();
    for settings in [base, &case["set"]] {
        for (key, value) in settings.as_object().into_iter().flatten() {
            set(&mut config, key, value)?;
        }
    }
    config.validate().map_err(|error| error.to_string())?;
    let golden = case["golden"].as_str().and_then(|path| path.rsplit('/').next()).ok_or("case without golden")?;
    let path = folder.join(kind).join(golden);
    let expect = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let got = match kind {
        "iptables" => iptables::render(&config).trace(config.ipv6),
        _ => nftables::render(&config),
    };
    if got.trim() != expect.trim() {
        let (got, expect) = (got.trim().lines(), expect.trim().lines());
        let differ = got.clone().zip(expect.clone()).find(|(a, b)| a != b);
        eprintln!("{kind} {}: {differ:?}; {} lines, expected {}", case["name"], got.count(), expect.count());
        return Ok(false);
    }
    Ok(true)
}

#[test]
fn conformance_interception() {
    let Some(folder) = data() else {
        println!("interception: did not run, no conformance data (set PROA_CONFORMANCE)");
        return;
    };
    let (mut passed, mut failed, mut not_served) = (0, 0, 0);
    for kind in ["iptables", "nftables"] {
        let Ok(text) = fs::read_to_string(folder.join(format!("{kind}.json"))) else {
            continue;
        };
        let table: Value = serde_json::from_str(&text).expect("conformance data is JSON");
        for one in table["cases"].as_array().into_iter().flatten() {
            match case(&folder, kind, &table["base_config_for_all"], one) {
                Ok(true) => passed += 1,
                Ok(false) => failed += 1,
                Err(reason) => {
                    eprintln!("{kind} {}: not served: {reason}", one["name"]);
                    not_served += 1;
                }
            }
        }
    }
    println!(r#"{{"area":"interception","passed":{passed},"failed":{failed},"allowed":0,"not_served":{not_served}}}"#);
    assert_eq!(failed, 0, "traces differ");
}
