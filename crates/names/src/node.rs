//! What does a proxy call itself? The node id of xDS, written by the agent and read by the control plane.

use std::fmt;
use std::str::FromStr;

/// What a proxy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeType {
    /// Beside an application.
    Sidecar,
    /// A gateway.
    Router,
    /// A layer-7 proxy for a namespace or service in ambient mode.
    Waypoint,
    /// The node proxy of ambient mode.
    Ztunnel,
}

impl NodeType {
    /// The word in the node id and on the agent's command line.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeType::Sidecar => "sidecar",
            NodeType::Router => "router",
            NodeType::Waypoint => "waypoint",
            NodeType::Ztunnel => "ztunnel",
        }
    }
}

impl FromStr for NodeType {
    type Err = InvalidNodeId;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        [NodeType::Sidecar, NodeType::Router, NodeType::Waypoint, NodeType::Ztunnel]
            .into_iter()
            .find(|t| t.as_str() == s)
            .ok_or_else(|| InvalidNodeId(s.to_owned()))
    }
}

impl fmt::Display for NodeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `sidecar~10.0.0.1~pod.namespace~namespace.svc.cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeId {
    /// The kind of proxy.
    pub node_type: NodeType,
    /// The proxy's address as text (kept as written: the control plane prefers metadata).
    pub ip: String,
    /// `pod.namespace`.
    pub id: String,
    /// The DNS domain, `namespace.svc.cluster.local`.
    pub domain: String,
}

impl NodeId {
    /// The name of the pod: the part of `id` before the last dot.
    pub fn pod(&self) -> &str {
        self.id.rsplit_once('.').map_or(self.id.as_str(), |(pod, _)| pod)
    }

    /// The namespace: the part of `id` after the last dot, else the first label of the domain.
    pub fn namespace(&self) -> &str {
        match self.id.rsplit_once('.') {
            Some((_, ns)) => ns,
            None => self.domain.split('.').next().unwrap_or_default(),
        }
    }
}

/// The text is not a node id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form sidecar~IP~POD.NAMESPACE~DOMAIN (types: sidecar, router, waypoint, ztunnel)")]
pub struct InvalidNodeId(pub String);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}~{}~{}", self.node_type, self.ip, self.id, self.domain)
    }
}

impl FromStr for NodeId {
    type Err = InvalidNodeId;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = s.split('~').collect();
        let [node_type, ip, id, domain] = parts[..] else {
            return Err(InvalidNodeId(s.to_owned()));
        };
        Ok(NodeId {
            node_type: node_type.parse().map_err(|_| InvalidNodeId(s.to_owned()))?,
            ip: ip.to_owned(),
            id: id.to_owned(),
            domain: domain.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let text = "sidecar~10.0.0.1~web-v1-abc.shop~shop.svc.cluster.local";
        let node: NodeId = text.parse().unwrap();
        assert_eq!((node.node_type, node.pod(), node.namespace()), (NodeType::Sidecar, "web-v1-abc", "shop"));
        assert_eq!(node.to_string(), text);
        for bad in ["", "sidecar~1~2", "car~1~2~3", "sidecar~1~2~3~4"] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }
}
