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
            "sidecar.istio.io/rewriteAppHTTPProbers"
            | "prometheus.istio.io/merge-metrics"
            | "sidecar.istio.io/nativeSidecar" => match value.as_str() {
                "true" | "false" => Ok(()),
                _ => Err(format!("{value:?} is not true or false")),
            },
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
        check("unrelated", "x", true);
    }
}
