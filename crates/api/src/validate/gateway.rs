//! Does a `Gateway` make sense? Server TLS is shared with `Sidecar` ingress.

use std::collections::BTreeSet;

use names::PortProtocol;

use super::Check;
use super::common::{UNIX, ip_address, namespaced_host, partial_wildcard, port, unix_address};
use crate::networking::{Gateway, Port, Server, ServerTls, ServerTlsMode};

/// Cipher suites that the proxies know.
const CIPHERS: [&str; 26] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "AES256-SHA",
    "AES128-SHA",
    "DES-CBC3-SHA",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-PSK-CHACHA20-POLY1305",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-PSK-AES256-CBC-SHA",
    "PSK-AES128-CBC-SHA",
    "PSK-AES256-CBC-SHA",
    "ALL",
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA256",
];
const CURVES: [&str; 6] = ["X25519", "P-256", "P-384", "P-521", "X25519MLKEM768", "X25519Kyber768Draft00"];

/// Validates the whole resource.
pub fn gateway(c: &mut Check, gateway: &Gateway, _name: &str) {
    c.error_if(gateway.servers.is_empty(), "gateway must have at least one server");
    let mut names = BTreeSet::new();
    c.each("servers", &gateway.servers, |c, s| {
        server(c, s);
        let Some(port) = &s.port else { return };
        let protocol = PortProtocol::parse(&port.protocol);
        if !protocol.is_http() && s.tls.as_ref().is_some_and(|t| t.https_redirect) {
            c.field("tls", |c| c.warn("tls.httpsRedirect should only be used with http servers"));
        }
        c.error_if(
            !names.insert(&port.name),
            format!("port names in servers must be unique: duplicate name {}", port.name),
        );
    });
}

/// One server.
pub fn server(c: &mut Check, s: &Server) {
    c.error_if(s.hosts.is_empty(), "server config must contain at least one host");
    let protocol = s.port.as_ref().map(|p| PortProtocol::parse(&p.protocol)).unwrap_or_default();
    c.each("hosts", &s.hosts, |c, host| {
        c.result(namespaced_host(host, true));
        if protocol.is_tls() {
            c.result(partial_wildcard(host.rsplit('/').next().unwrap_or(host)));
        }
    });
    match &s.port {
        Some(p) => c.field("port", |c| server_port(c, p, &s.bind)),
        None => c.error("port is required"),
    }
    bind(c, s);
    c.field("tls", |c| server_tls(c, s.tls.as_ref()));
    if s.port.is_some() {
        match &s.tls {
            None => c.error_if(protocol.is_tls(), "server must have TLS settings for HTTPS/TLS protocols"),
            Some(tls) if !protocol.is_tls() && protocol.is_http() => {
                let pass = matches!(tls.mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough);
                let files = [&tls.ca_certificates, &tls.private_key, &tls.server_certificate];
                c.error_if(
                    !pass || files.iter().any(|f| !f.is_empty()),
                    "server cannot have TLS settings for plain text HTTP ports (only httpsRedirect)",
                );
            }
            Some(_) => c.error_if(!protocol.is_tls(), "server cannot have TLS settings for non HTTPS/TLS ports"),
        }
    }
    if !s.default_endpoint.is_empty() {
        c.field("defaultEndpoint", |c| c.warn("is accepted and has no effect"));
    }
}

/// A gateway's port.
pub fn server_port(c: &mut Check, p: &Port, bind: &str) {
    c.error_if(
        PortProtocol::parse(&p.protocol).is_unsupported(),
        format!(
            "invalid protocol {:?}, supported protocols are HTTP, HTTP2, HTTPS, GRPC, GRPC-WEB, TLS, TCP, MONGO, REDIS, MYSQL",
            p.protocol
        ),
    );
    if p.number > 0 || !bind.starts_with(UNIX) {
        c.check("number", port(p.number));
    }
    c.error_if(p.name.is_empty(), "port name must be set");
}

fn bind(c: &mut Check, s: &Server) {
    if s.bind.is_empty() {
        return;
    }
    c.field("bind", |c| match s.bind.strip_prefix(UNIX) {
        Some(path) => {
            c.result(unix_address(path));
            let number = s.port.as_ref().map_or(0, |p| p.number);
            c.error_if(number > 0, format!("port number must be 0 for unix domain socket: {}", s.bind));
        }
        None => c.result(ip_address(&s.bind)),
    });
}

/// TLS of a server.
pub fn server_tls(c: &mut Check, tls: Option<&ServerTls>) {
    let Some(t) = tls else { return };
    ciphers_and_curves(c, t);
    match t.mode {
        ServerTlsMode::IstioMutual => {
            // Certificates are the workload's own.
            for (value, what) in [
                (&t.server_certificate, "server certificate"),
                (&t.private_key, "private key"),
                (&t.ca_certificates, "CA bundle"),
                (&t.credential_name, "credentialName"),
                (&t.ca_crl, "CRL"),
            ] {
                c.error_if(!value.is_empty(), format!("ISTIO_MUTUAL TLS cannot have associated {what}"));
            }
            c.error_if(!t.credential_names.is_empty(), "ISTIO_MUTUAL TLS cannot have associated credentialNames");
            c.error_if(!t.tls_certificates.is_empty(), "ISTIO_MUTUAL TLS cannot have associated tlsCertificates");
        }
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            let any = [&t.server_certificate, &t.private_key, &t.ca_certificates, &t.ca_crl, &t.credential_name]
                .iter()
                .any(|f| !f.is_empty())
                || !t.credential_names.is_empty()
                || !t.tls_certificates.is_empty();
            if any {
                c.warn(format!("{} mode does not use certificates, they will be ignored", t.mode));
            }
        }
        _ => terminating(c, t),
    }
}

fn terminating(c: &mut Check, t: &ServerTls) {
    let mode = t.mode;
    let pair = !t.server_certificate.is_empty() && !t.private_key.is_empty();
    let sources = [!t.credential_name.is_empty(), !t.credential_names.is_empty(), !t.tls_certificates.is_empty(), pair];
    c.error_if(
        sources.iter().filter(|s| **s).count() > 1,
        "only one of credential_name, credential_names, tls_certificates or server_certificate and private_key can be set",
    );
    c.error_if(mode == ServerTlsMode::Simple && !t.ca_crl.is_empty(), "CRL is not supported with SIMPLE TLS");
    if t.credential_names.len() > 2 || t.tls_certificates.len() > 2 {
        c.warn(format!("{mode} TLS can support up to 2 server certificates, the rest will be ignored"));
    }
    if !t.credential_name.is_empty() || !t.credential_names.is_empty() {
        return;
    }
    let mutual = mode != ServerTlsMode::Simple;
    if t.tls_certificates.is_empty() {
        c.error_if(t.server_certificate.is_empty(), format!("{mode} TLS requires a server certificate"));
        c.error_if(t.private_key.is_empty(), format!("{mode} TLS requires a private key"));
    }
    let mut bundle = !t.ca_certificates.is_empty();
    c.each("tlsCertificates", &t.tls_certificates, |c, cert| {
        c.error_if(cert.server_certificate.is_empty(), format!("{mode} TLS requires a server certificate"));
        c.error_if(cert.private_key.is_empty(), format!("{mode} TLS requires a private key"));
        bundle |= !cert.ca_certificates.is_empty();
    });
    c.error_if(
        mutual && !bundle && t.ca_cert_credential_name.is_empty(),
        format!("{mode} TLS requires a client CA bundle"),
    );
}

fn ciphers_and_curves(c: &mut Check, t: &ServerTls) {
    for (field, list, known) in
        [("cipherSuites", &t.cipher_suites, &CIPHERS[..]), ("ecdhCurves", &t.ecdh_curves, &CURVES[..])]
    {
        let mut seen = BTreeSet::new();
        let what = if field == "cipherSuites" { "cipher suites" } else { "ecdh curves" };
        c.field(field, |c| {
            for value in list {
                // Operators such as -SUITE are the TLS library's own language.
                let operator = !value.starts_with(|ch: char| ch.is_ascii_alphanumeric());
                if !operator && !known.contains(&value.as_str()) {
                    c.warn(format!("ignoring invalid {what}: [{value}]"));
                }
                if !seen.insert(value) {
                    c.warn(format!("ignoring duplicate {what}: [{value}]"));
                }
            }
        });
    }
}
