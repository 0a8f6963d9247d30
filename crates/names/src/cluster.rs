//! How does a cluster's name spell direction, port, subset and host? Written by translation, read by stats,
//! `explain` and operators. Follows `pilot/pkg/model.BuildSubsetKey` and `BuildDNSSrvSubsetKey`.

use std::fmt;
use std::str::FromStr;

use crate::Hostname;

/// Which way the traffic of a cluster or listener flows, seen from the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TrafficDirection {
    /// To the workload.
    Inbound,
    /// From the workload.
    Outbound,
    /// To the workload, through its service address (waypoints).
    InboundVip,
}

impl TrafficDirection {
    /// `inbound`, `outbound`, `inbound-vip`.
    pub fn as_str(self) -> &'static str {
        match self {
            TrafficDirection::Inbound => "inbound",
            TrafficDirection::Outbound => "outbound",
            TrafficDirection::InboundVip => "inbound-vip",
        }
    }

    fn parse(s: &str) -> Option<Self> {
        [TrafficDirection::Inbound, TrafficDirection::Outbound, TrafficDirection::InboundVip]
            .into_iter()
            .find(|d| d.as_str() == s)
    }
}

/// `outbound|8000|v1|httpbin.samples.svc.cluster.local`; inbound clusters have neither subset nor host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterName {
    /// The direction.
    pub direction: TrafficDirection,
    /// The service port.
    pub port: u16,
    /// The destination rule's subset, or empty.
    pub subset: String,
    /// The service's host, or empty for `inbound|8080||`.
    pub host: Hostname,
}

impl ClusterName {
    /// An outbound cluster.
    pub fn outbound(port: u16, subset: &str, host: &Hostname) -> Self {
        ClusterName { direction: TrafficDirection::Outbound, port, subset: subset.to_owned(), host: host.clone() }
    }

    /// `inbound|PORT||`.
    pub fn inbound(port: u16) -> Self {
        ClusterName { direction: TrafficDirection::Inbound, port, subset: String::new(), host: Hostname::default() }
    }

    /// The form used as SNI between meshes and as default SNI of mTLS: `outbound_.8080_.v1_.host`.
    pub fn to_sni(&self) -> String {
        format!("{}_.{}_.{}_.{}", self.direction.as_str(), self.port, self.subset, self.host)
    }

    /// Reads the SNI form.
    ///
    /// # Errors
    /// The text has not four parts, an unknown direction or no port number.
    pub fn from_sni(text: &str) -> Result<Self, InvalidClusterName> {
        Self::from_parts(text.splitn(4, "_."), text)
    }

    fn from_parts<'a>(mut parts: impl Iterator<Item = &'a str>, text: &str) -> Result<Self, InvalidClusterName> {
        let err = || InvalidClusterName(text.to_owned());
        let mut next = || parts.next().ok_or_else(err);
        let (direction, port, subset, host) = (next()?, next()?, next()?, next()?);
        Ok(ClusterName {
            direction: TrafficDirection::parse(direction).ok_or_else(err)?,
            port: port.parse().map_err(|_| err())?,
            subset: subset.to_owned(),
            host: host.into(),
        })
    }
}

/// The text is not a cluster name in Istio's form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form direction|port|subset|host")]
pub struct InvalidClusterName(pub String);

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|{}|{}|{}", self.direction.as_str(), self.port, self.subset, self.host)
    }
}

impl FromStr for ClusterName {
    type Err = InvalidClusterName;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::from_parts(s.splitn(4, '|'), s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let check = |name: &str, sni: &str| {
            let parsed: ClusterName = name.parse().unwrap();
            assert_eq!(parsed.to_string(), name);
            assert_eq!(parsed.to_sni(), sni);
            assert_eq!(ClusterName::from_sni(sni).unwrap(), parsed);
        };
        check(
            "outbound|8000|v1|httpbin.samples.svc.cluster.local",
            "outbound_.8000_.v1_.httpbin.samples.svc.cluster.local",
        );
        check("outbound|80||a.b", "outbound_.80_._.a.b");
        check("inbound|8080||", "inbound_.8080_._.");
        for bad in ["", "outbound", "outbound|x||h", "sideways|1||h", "outbound|99999||h", "BlackHoleCluster"] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
    }
}
