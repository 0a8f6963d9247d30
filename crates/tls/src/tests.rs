//! Do both ends understand each other? Handshakes, bulk data, half-close and rotation over a pipe.

use std::sync::Arc;

use proptest::prelude::*;
use proxy_config::matcher::StringMatcher;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::*;

struct Ca {
    params: rcgen::CertificateParams,
    key: rcgen::KeyPair,
    pem: String,
}

fn ca() -> Ca {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "test");
    let pem = params.self_signed(&key).unwrap().pem();
    Ca { params, key, pem }
}

impl Ca {
    fn issue(&self, who: &str) -> Arc<CertificateSecret> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names.push(rcgen::SanType::URI(who.try_into().unwrap()));
        let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
        let cert = params.signed_by(&key, &issuer).unwrap();
        CertificateSecret::from_pem(cert.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    fn rules(&self, peer: &str) -> PeerRules {
        PeerRules {
            roots: Some(TrustRoots::from_pem(self.pem.as_bytes(), b"").unwrap()),
            sans: vec![(SanKind::Uri, StringMatcher::Exact(peer.into()))],
            ..Default::default()
        }
    }
}

const CLIENT: &str = "spiffe://cluster.local/ns/samples/sa/sleep";
const SERVER: &str = "spiffe://cluster.local/ns/samples/sa/httpbin";
const SNI: &str = "outbound_.8000_._.httpbin.samples.svc.cluster.local";

fn spec(certificate: Option<Arc<CertificateSecret>>, rules: PeerRules, alpn: &[&str]) -> CommonSpec {
    CommonSpec {
        provider: default_provider().clone(),
        versions: vec![&rustls::version::TLS13, &rustls::version::TLS12],
        certificates: certificate.map(CertificateSource::Fixed).into_iter().collect(),
        validation: ValidationSource { fixed: Some(Arc::new(rules)), slot: None },
        alpn: alpn.iter().map(|a| a.as_bytes().to_vec()).collect(),
    }
}

struct World {
    server: CommonSpec,
    client: CommonSpec,
}

fn world() -> World {
    let ca = ca();
    World {
        server: spec(Some(ca.issue(SERVER)), ca.rules(CLIENT), &["h2", "http/1.1"]),
        client: spec(Some(ca.issue(CLIENT)), ca.rules(SERVER), &["http/1.1"]),
    }
}

async fn shake(
    server: &ServerContext,
    client: &ClientContext,
) -> (Result<TlsStream, HandshakeError>, Result<TlsStream, HandshakeError>) {
    let (a, b) = Pipe::pair();
    tokio::join!(server.accept(Socket::Pipe(a)), client.connect(Socket::Pipe(b), ConnectOptions::default()))
}

fn contexts(w: World) -> (ServerContext, ClientContext) {
    (ServerContext::new(w.server, true, true), ClientContext::new(w.client, Some(SNI.into()), 8))
}

fn block_on<F: Future>(f: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f)
}

#[test]
fn mutual_tls_with_facts() {
    block_on(async {
        let (server, client) = contexts(world());
        let (s, c) = shake(&server, &client).await;
        let (s, c) = (s.unwrap(), c.unwrap());
        let (si, ci) = (s.info(), c.info());
        assert_eq!((si.version, si.cipher), (ci.version, ci.cipher));
        assert_eq!(si.version, "TLSv1.3");
        assert_eq!(si.sni.as_deref(), Some(SNI));
        assert_eq!(si.alpn.as_deref(), Some(&b"http/1.1"[..]));
        assert_eq!(si.peer.as_ref().unwrap().principal(), Some(CLIENT));
        assert_eq!(ci.peer.as_ref().unwrap().principal(), Some(SERVER));
        assert_eq!(si.local.as_ref().unwrap().principal(), Some(SERVER));
        assert!(si.peer_validated && ci.peer_validated && !si.resumed);
    });
}

#[test]
fn names_must_match() {
    block_on(async {
        let mut w = world();
        let mut rules = PeerRules::clone(w.client.validation.fixed.as_ref().unwrap());
        rules.sans = vec![(SanKind::Uri, StringMatcher::Prefix("spiffe://other/".into()))];
        w.client.validation.fixed = Some(Arc::new(rules));
        let (server, client) = contexts(w);
        let (s, c) = shake(&server, &client).await;
        let (s, c) = (s.unwrap_err(), c.unwrap_err());
        assert_eq!(c.failure(), Failure::VerifySan);
        assert!(
            c.transport_failure_reason()
                .ends_with(&format!("verify cert failed: SAN matcher, certificate SANs are [{SERVER}]:TLS_error_end"))
        );
        assert!(matches!(s, HandshakeError::Tls(rustls::Error::AlertReceived(_))), "{s}");
    });
}

#[test]
fn foreign_roots_are_refused() {
    block_on(async {
        let (mut w, other) = (world(), ca());
        w.server.validation.fixed = Some(Arc::new(other.rules(CLIENT)));
        let (server, client) = contexts(w);
        let (s, _) = shake(&server, &client).await;
        assert_eq!(s.unwrap_err().failure(), Failure::VerifyError);
    });
}

#[test]
fn a_client_certificate_may_be_required() {
    block_on(async {
        let mut w = world();
        w.client.certificates.clear();
        let (server, client) = contexts(w);
        let (s, _) = shake(&server, &client).await;
        assert_eq!(s.unwrap_err().failure(), Failure::NoCert);

        let mut w = world();
        w.client.certificates.clear();
        let client = ClientContext::new(w.client, None, 1);
        let server = ServerContext::new(w.server, false, true);
        let (s, c) = shake(&server, &client).await;
        assert!(s.unwrap().info().peer.is_none());
        assert!(c.is_ok());
    });
}

#[test]
fn alpn_without_common_protocol_goes_on_without() {
    block_on(async {
        let mut w = world();
        w.client.alpn = vec![b"istio".to_vec()];
        let (server, client) = contexts(w);
        let (s, c) = shake(&server, &client).await;
        assert_eq!(s.unwrap().info().alpn, None);
        assert_eq!(c.unwrap().info().alpn, None);
    });
}

#[test]
fn secrets_may_come_late_and_change() {
    block_on(async {
        let ca = ca();
        let store = SecretStore::default();
        let mut server = spec(None, PeerRules::default(), &[]);
        server.certificates = vec![CertificateSource::Slot(store.slot("default"))];
        server.validation = ValidationSource { fixed: None, slot: Some(store.slot("ROOTCA")) };
        let server = ServerContext::new(server, true, true);
        let client = ClientContext::new(spec(Some(ca.issue(CLIENT)), ca.rules(SERVER), &[]), None, 1);
        let (s, _) = shake(&server, &client).await;
        assert_eq!(s.unwrap_err().failure(), Failure::SecretsNotReady);
        store.update("default", Secret::Certificate(ca.issue(SERVER)));
        assert!(!server.is_ready());
        store.update("ROOTCA", Secret::Validation(Arc::new(ca.rules(CLIENT))));
        let (s, c) = shake(&server, &client).await;
        let (mut old_s, mut old_c) = (Stream::from(s.unwrap()), Stream::from(c.unwrap()));

        // Rotation: the old connection lives on, the new handshake shows the new certificate.
        let before = old_c.tls().unwrap().peer.as_ref().unwrap().sha256_hex();
        store.update("default", Secret::Certificate(ca.issue(SERVER)));
        let (_, c) = shake(&server, &client).await;
        let c = c.unwrap();
        assert!(!c.info().resumed, "a rotated context must not resume old sessions");
        assert_ne!(c.info().peer.as_ref().unwrap().sha256_hex(), before);
        old_c.write_all(b"still here").await.unwrap();
        let mut buf = [0; 10];
        old_s.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"still here");
    });
}

#[test]
fn sessions_resume() {
    block_on(async {
        let (server, client) = contexts(world());
        let (s, c) = shake(&server, &client).await;
        let (mut s, mut c) = (Stream::from(s.unwrap()), Stream::from(c.unwrap()));
        // The tickets come with the first data.
        s.write_all(b"x").await.unwrap();
        c.read_exact(&mut [0; 1]).await.unwrap();
        let (s, c) = shake(&server, &client).await;
        let (s, c) = (s.unwrap(), c.unwrap());
        assert!(s.info().resumed && c.info().resumed);
        assert_eq!(s.info().peer.as_ref().unwrap().principal(), Some(CLIENT));
    });
}

#[test]
fn half_close_is_exact() {
    block_on(async {
        let (server, client) = contexts(world());
        let (s, c) = shake(&server, &client).await;
        let (mut s, mut c) = (Stream::from(s.unwrap()), Stream::from(c.unwrap()));
        c.write_all(b"request").await.unwrap();
        c.shutdown().await.unwrap();
        let mut got = Vec::new();
        s.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"request");
        s.write_all(b"response").await.unwrap();
        s.shutdown().await.unwrap();
        got.clear();
        c.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"response");
    });
}

#[test]
fn garbage_after_the_handshake_is_an_error() {
    block_on(async {
        let (server, client) = contexts(world());
        let (a, b) = Pipe::pair();
        let (s, c) =
            tokio::join!(server.accept(Socket::Pipe(a)), client.connect(Socket::Pipe(b), ConnectOptions::default()));
        let (mut s, c) = (s.unwrap(), c.unwrap());
        let mut raw = c.into_socket();
        assert_eq!(raw.try_write(b"GET / HTTP/1.1\r\n\r\n").unwrap(), 18);
        let e = s.try_read(&mut [0; 100]).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::InvalidData);
    });
}

fn bulk(tls12: bool, writes: Vec<usize>, read_size: usize) {
    block_on(async {
        let mut w = world();
        if tls12 {
            w.client.versions = vec![&rustls::version::TLS12];
        }
        let (server, client) = contexts(w);
        let (s, c) = shake(&server, &client).await;
        let (mut s, mut c) = (Stream::from(s.unwrap()), Stream::from(c.unwrap()));
        let total: usize = writes.iter().sum();
        let data: Vec<u8> = (0..total).map(|i| (i * 7 + i / 251) as u8).collect();
        let send = async {
            let mut at = 0;
            for n in &writes {
                let part = &data[at..at + n];
                let (head, tail) = part.split_at(part.len() / 3);
                let mut sent = 0;
                while sent < part.len() {
                    let bufs = [&head[sent.min(head.len())..], &tail[sent.saturating_sub(head.len())..]];
                    let slices = bufs.map(std::io::IoSlice::new);
                    sent += c.write_vectored(&slices).await.unwrap();
                }
                at += n;
            }
            c.shutdown().await.unwrap();
        };
        let receive = async {
            let mut got = Vec::new();
            let mut buf = vec![0; read_size];
            loop {
                match s.read(&mut buf).await.unwrap() {
                    0 => break got,
                    n => got.extend_from_slice(&buf[..n]),
                }
            }
        };
        let ((), got) = tokio::join!(send, receive);
        assert!(got == data, "{} of {total} bytes, or other bytes", got.len());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn bytes_arrive_as_sent(
        tls12 in any::<bool>(),
        writes in proptest::collection::vec(1usize..200_000, 1..5),
        read_size in prop_oneof![1usize..100, 1000usize..100_000],
    ) {
        let writes = if read_size < 100 { writes.iter().map(|w| w / 20 + 1).collect() } else { writes };
        bulk(tls12, writes, read_size);
    }
}
