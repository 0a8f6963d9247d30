//! Which protocol does a port speak? Selection from `appProtocol`, port name and well-known numbers.
//! Follows `pkg/config/kube.ConvertProtocol` and `pkg/config/protocol`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The application protocol of a service, gateway or sidecar port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum PortProtocol {
    /// gRPC over HTTP/2.
    #[serde(rename = "GRPC")]
    Grpc,
    /// gRPC-Web over HTTP/1.1 or 2.
    #[serde(rename = "GRPC-Web")]
    GrpcWeb,
    /// HTTP/1.1.
    #[serde(rename = "HTTP")]
    Http,
    /// A forward HTTP proxy port.
    #[serde(rename = "HTTP_PROXY")]
    HttpProxy,
    /// HTTP/2 with prior knowledge.
    #[serde(rename = "HTTP2")]
    Http2,
    /// HTTP over TLS that the proxy does not terminate (sidecar) or does (gateway).
    #[serde(rename = "HTTPS")]
    Https,
    /// Opaque bytes.
    #[serde(rename = "TCP")]
    Tcp,
    /// TLS that the proxy routes by SNI.
    #[serde(rename = "TLS")]
    Tls,
    /// Datagrams; not proxied.
    #[serde(rename = "UDP")]
    Udp,
    /// MongoDB: TCP to the mesh.
    #[serde(rename = "Mongo")]
    Mongo,
    /// Redis.
    #[serde(rename = "Redis")]
    Redis,
    /// MySQL: server speaks first.
    #[serde(rename = "MySQL")]
    Mysql,
    /// HTTP-based overlay of ambient mode.
    #[serde(rename = "HBONE")]
    Hbone,
    /// Not stated: the proxy sniffs.
    #[default]
    #[serde(rename = "UnsupportedProtocol")]
    Unsupported,
}

/// Ports whose server speaks first, so sniffing would hang: SMTP, DNS, MySQL, MongoDB.
const SERVER_FIRST_PORTS: [u16; 4] = [25, 53, 3306, 27017];

impl PortProtocol {
    /// Reads the `protocol` field of Istio resources, case-insensitively. Unknown words are [`Self::Unsupported`].
    pub fn parse(s: &str) -> Self {
        match s.to_ascii_lowercase().as_str() {
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "http" => Self::Http,
            "http_proxy" => Self::HttpProxy,
            "http2" => Self::Http2,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "mysql" => Self::Mysql,
            "hbone" => Self::Hbone,
            _ => Self::Unsupported,
        }
    }

    /// Selects the protocol of a Kubernetes service port.
    ///
    /// UDP wins; then `appProtocol`, else the port name's prefix before the first `-`; then well-known
    /// server-first ports are TCP; else the port is sniffed ([`Self::Unsupported`]).
    pub fn of_service_port(port: u16, name: &str, transport: &str, app_protocol: Option<&str>) -> Self {
        if transport == "UDP" {
            return Self::Udp;
        }
        let word = match app_protocol {
            Some("kubernetes.io/h2c") => return Self::Http2,
            Some("kubernetes.io/ws") => return Self::Http,
            Some("kubernetes.io/wss") => return Self::Https,
            Some(word) => word,
            None => name,
        };
        const GRPC_WEB: &str = "grpc-web";
        if word.get(..GRPC_WEB.len()).is_some_and(|w| w.eq_ignore_ascii_case(GRPC_WEB)) {
            return Self::GrpcWeb;
        }
        let prefix = word.split('-').next().unwrap_or_default();
        match Self::parse(prefix) {
            Self::Unsupported if SERVER_FIRST_PORTS.contains(&port) => Self::Tcp,
            protocol => protocol,
        }
    }

    /// HTTP that the proxy parses: HTTP, HTTP/2, gRPC, gRPC-Web, forward proxy.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::HttpProxy | Self::Grpc | Self::GrpcWeb)
    }

    /// HTTP/2 towards the server: HTTP/2, gRPC, gRPC-Web.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Handled as a byte stream: TCP, TLS, HTTPS, Mongo, Redis, MySQL.
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::Https | Self::Tls | Self::Mongo | Self::Redis | Self::Mysql)
    }

    /// TLS on the wire: HTTPS, TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Not stated, to be sniffed.
    pub fn is_unsupported(self) -> bool {
        self == Self::Unsupported
    }

    /// Istio's spelling, as printed by its tools.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPC",
            Self::GrpcWeb => "GRPC-Web",
            Self::Http => "HTTP",
            Self::HttpProxy => "HTTP_PROXY",
            Self::Http2 => "HTTP2",
            Self::Https => "HTTPS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Udp => "UDP",
            Self::Mongo => "Mongo",
            Self::Redis => "Redis",
            Self::Mysql => "MySQL",
            Self::Hbone => "HBONE",
            Self::Unsupported => "UnsupportedProtocol",
        }
    }
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::PortProtocol as P;

    #[test]
    fn selection() {
        let check = |port, name: &str, transport: &str, app: Option<&str>, want| {
            assert_eq!(P::of_service_port(port, name, transport, app), want, "{port} {name} {transport} {app:?}");
        };
        check(8888, "", "TCP", None, P::Unsupported);
        check(25, "", "TCP", None, P::Tcp);
        check(53, "", "TCP", None, P::Tcp);
        check(3306, "", "TCP", None, P::Tcp);
        check(27017, "", "TCP", None, P::Tcp);
        check(8888, "http", "TCP", None, P::Http);
        check(8888, "http-test", "TCP", None, P::Http);
        check(8888, "httptest", "TCP", None, P::Unsupported);
        check(25, "httptest", "TCP", None, P::Tcp);
        check(8888, "HTTP2-x", "TCP", None, P::Http2);
        check(8888, "grpc-web-x", "TCP", None, P::GrpcWeb);
        check(8888, "gRPC-Web", "TCP", None, P::GrpcWeb);
        check(8888, "grpc-test", "TCP", None, P::Grpc);
        check(8888, "http", "UDP", None, P::Udp);
        check(8888, "tcp", "TCP", Some("http"), P::Http);
        check(8888, "tcp", "TCP", Some("kubernetes.io/h2c"), P::Http2);
        check(8888, "tcp", "TCP", Some("kubernetes.io/wss"), P::Https);
        check(8888, "http", "TCP", Some("foo"), P::Unsupported);
    }
}
