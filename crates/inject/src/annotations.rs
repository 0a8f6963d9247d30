//! Can the annotations that steer injection be used? Checked before anything is rendered.

use std::collections::BTreeMap;

use crate::InjectError;

/// Checks every annotation whose value has a form.
///
/// # Errors
/// The first annotation that is malformed.
pub fn validate(annotations: &BTreeMap<String, String>) -> Result<(), InjectError> {
    for (name, value) in annotations {
        let result = match name.as_str() {
            "traffic.sidecar.istio.io/includeOutboundIPRanges" => ranges("includeIPRanges", value, true),
            "traffic.sidecar.istio.io/excludeOutboundIPRanges" => ranges("excludeIPRanges", value, false),
            "traffic.sidecar.istio.io/includeInboundPorts" => ports("includeInboundPorts", value, true),
            "traffic.sidecar.istio.io/excludeInboundPorts" => ports("excludeInboundPorts", value, false),
            "traffic.sidecar.istio.io/includeOutboundPorts" => ports("includeOutboundPorts", value, true),
            "traffic.sidecar.istio.io/excludeOutboundPorts" => ports("excludeOutboundPorts", value, false),
            "status.sidecar.istio.io/port" => port(value),
            "readiness.status.sidecar.istio.io/initialDelaySeconds"
            | "readiness.status.sidecar.istio.io/periodSeconds"
            | "readiness.status.sidecar.istio.io/failureThreshold" => {
                value.parse::<u32>().map(|_| ()).map_err(|_| format!("{value:?} is not a whole number"))
            }
            "sidecar.istio.io/interceptionMode" => match value.as_str() {
                "REDIRECT" | "TPROXY" | "NONE" => Ok(()),
                _ => Err(format!("interceptionMode invalid: {value:?} is not one of REDIRECT, TPROXY, NONE")),
            },
            "prometheus.istio.io/merge-metrics" => match truth(value) {
                Some(_) => Ok(()),
                None => Err(format!("{value:?} is not true or false")),
            },
            "prometheus.istio.io/scrape-targets" => scrape_targets(value).map(|_| ()),
            "sidecar.istio.io/proxyCPU"
            | "sidecar.istio.io/proxyCPULimit"
            | "sidecar.istio.io/proxyMemory"
            | "sidecar.istio.io/proxyMemoryLimit" => quantity(value),
            _ => Ok(()),
        };
        result.map_err(|reason| InjectError::Annotation { name: name.clone(), reason })?;
    }
    Ok(())
}

/// Ports that the proxy and the agent of a pod use themselves: metrics of the application are not there.
const RESERVED: [u16; 9] = [15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090];

/// `8080:/metrics,9100:/custom`: ports with paths (`/metrics` when none is given).
///
/// # Errors
/// A port is none, or one that the proxy and its agent use.
pub fn scrape_targets(text: &str) -> Result<Vec<(String, String)>, String> {
    let targets = text.split(',').map(str::trim).filter(|t| !t.is_empty());
    let target = |target: &str| {
        let (port, path) = target.split_once(':').unwrap_or((target, ""));
        let (port, path) = (port.trim(), Some(path.trim()).filter(|p| !p.is_empty()).unwrap_or("/metrics"));
        match port.parse::<u16>() {
            Ok(number) if RESERVED.contains(&number) => Err(format!("port {number} is used by the proxy")),
            Ok(number) if number > 0 => Ok((port.to_owned(), path.to_owned())),
            _ => Err(format!("{port:?} is not a port number")),
        }
    };
    targets.map(target).collect()
}

/// A boolean in the spellings that Go's `strconv.ParseBool` takes.
pub fn truth(word: &str) -> Option<bool> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn ranges(what: &str, value: &str, star: bool) -> Result<(), String> {
    if value.is_empty() || (star && value == "*") {
        return Ok(());
    }
    let bad = value.split(',').find(|range| {
        let (address, prefix) = range.split_once('/').unwrap_or((range, ""));
        let max = if address.contains(':') { 128 } else { 32 };
        let mask = prefix.parse::<u8>().is_ok_and(|p| p <= max);
        !names::is_ip(address) || !mask
    });
    bad.map_or(Ok(()), |range| Err(format!("{what} invalid: {range:?} is not of the form address/prefix")))
}

fn ports(what: &str, value: &str, star: bool) -> Result<(), String> {
    if value.is_empty() || (star && value == "*") {
        return Ok(());
    }
    let bad = value.split(',').find(|p| p.trim().parse::<u16>().is_err());
    bad.map_or(Ok(()), |p| Err(format!("{what} invalid: {p:?} is not a port number")))
}

fn port(value: &str) -> Result<(), String> {
    value.parse::<u16>().map(|_| ()).map_err(|_| format!("{value:?} is not a port number"))
}

/// A Kubernetes quantity: a number with an optional unit.
pub fn quantity(value: &str) -> Result<(), String> {
    let number_len =
        value.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-' && c != '+').unwrap_or(value.len());
    let (number, unit) = value.split_at(number_len);
    let known = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].contains(&unit);
    let exponent = unit.strip_prefix(['e', 'E']).is_some_and(|e| e.parse::<i32>().is_ok());
    if number.parse::<f64>().is_ok() && (known || exponent) {
        Ok(())
    } else {
        Err(format!("{value:?} is not a quantity (write for example 100m or 128Mi)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let check = |name: &str, value: &str, ok: bool| {
            let result = validate(&[(name.to_owned(), value.to_owned())].into());
            assert_eq!(result.is_ok(), ok, "{name} {value}: {result:?}");
        };
        check("traffic.sidecar.istio.io/includeOutboundIPRanges", "*", true);
        check("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.0.0.0/8,10.1.0.0/16", true);
        check("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.0.0.0", false);
        check("traffic.sidecar.istio.io/excludeOutboundIPRanges", "*", false);
        check("traffic.sidecar.istio.io/includeInboundPorts", "80,443", true);
        check("traffic.sidecar.istio.io/excludeInboundPorts", "80,bad", false);
        check("status.sidecar.istio.io/port", "0", true);
        check("sidecar.istio.io/proxyCPU", "100m", true);
        check("sidecar.istio.io/proxyMemory", "1Gb", false);
        check("prometheus.istio.io/merge-metrics", "True", true);
        check("prometheus.istio.io/merge-metrics", "maybe", false);
        check("prometheus.istio.io/scrape-targets", "8080:/metrics, 9100", true);
        check("prometheus.istio.io/scrape-targets", "15020:/metrics", false);
        check("prometheus.istio.io/scrape-targets", "web:/metrics", false);
        check("sidecar.istio.io/rewriteAppHTTPProbers", "maybe", true);
        check("unrelated", "x", true);
    }
}
