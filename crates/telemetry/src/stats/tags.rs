//! Which labels hide in a stat's name? Envoy's tag extraction, for the Prometheus page and for sinks.
//!
//! The default tags are patterns over dot-separated tokens, as in Envoy's own tokenized extractors; tags from
//! the bootstrap are regular expressions, compiled when a page is rendered and forgotten afterwards.

use regex::Regex;

/// One entry of `envoy.config.metrics.v3.StatsConfig.stats_tags`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagSpec {
    /// Extracted by expression: the first group is removed from the name, the second (else the first) is the value.
    Regex {
        /// Tag name.
        name: String,
        /// RE2 expression.
        regex: String,
    },
    /// The same value on every stat.
    Fixed {
        /// Tag name.
        name: String,
        /// Tag value.
        value: String,
    },
    /// One of Envoy's default tags by name, for when the defaults as a whole are off.
    Default(String),
}

/// Default tags by token pattern, most specific first: `*` is any token, `$` the captured one, a final `**` any tokens.
const TOKENIZED: &[(&str, &str)] = &[
    ("envoy.cluster_ssl_ciphers", "cluster.*.ssl.ciphers.$"),
    ("envoy.virtual_cluster", "vhost.*.vcluster.$.**"),
    ("envoy.fault_downstream_cluster", "http.*.fault.$.**"),
    ("envoy.ssl_cipher", "listener.*.ssl.cipher.$"),
    ("envoy.http_user_agent", "http.*.user_agent.$.**"),
    ("envoy.mongo_callsite", "mongo.*.collection.*.callsite.$.query.**"),
    ("envoy.mongo_collection", "mongo.*.collection.$.**.query.*"),
    ("envoy.mongo_cmd", "mongo.*.cmd.$.**"),
    ("envoy.grpc_bridge_method", "cluster.*.grpc.*.$.**"),
    ("envoy.grpc_bridge_service", "cluster.*.grpc.$.**"),
    ("envoy.tcp_prefix", "tcp.$.**"),
    ("envoy.udp_prefix", "udp.$.**"),
    ("envoy.clientssl_prefix", "auth.clientssl.$.*"),
    ("envoy.ratelimit_prefix", "ratelimit.$.*"),
    ("envoy.cluster_name", "cluster.$.**"),
    ("envoy.http_conn_manager_prefix", "listener.*.http.$.**"),
    ("envoy.http_conn_manager_prefix", "http.$.**"),
    ("envoy.worker_id", "listener_manager.@worker_.**"),
    ("envoy.worker_id", "server.@worker_.**"),
    ("envoy.virtual_host", "vhost.$.**"),
    ("envoy.mongo_prefix", "mongo.$.**"),
    ("envoy.rds_route_config", "http.*.rds.$.**"),
    ("envoy.scoped_rds_config", "http.*.scoped_rds.$.**"),
    ("envoy.route", "vhost.*.route.$.**"),
    ("envoy.thrift_prefix", "thrift.$.**"),
    ("envoy.redis_prefix", "redis.$.**"),
    ("envoy.google_grpc_client_prefix", "grpc.$.**"),
    ("envoy.connection_limit_prefix", "connection_limit.$.**"),
    ("envoy.local_network_ratelimit_prefix", "local_rate_limit.$.**"),
    ("envoy.local_listener_ratelimit_prefix", "listener_local_ratelimit.$.**"),
    ("envoy.ext_authz_prefix", "http.*.ext_authz.$.**"),
    ("envoy.dns_filter_prefix", "dns_filter.$.**"),
    ("envoy.proxy_protocol_prefix", "proxy_proto.$.**"),
];

/// Extracts tags from names.
#[derive(Debug, Clone)]
pub struct TagExtractor {
    default_tags: bool,
    tags: Vec<TagSpec>,
}

/// A range of the name that a tag took out, and the tag.
type Hit<'a> = (std::ops::Range<usize>, &'a str);

impl TagExtractor {
    pub(crate) fn new(default_tags: bool, tags: Vec<TagSpec>) -> Self {
        Self { default_tags, tags }
    }

    /// Compiles the bootstrap's expressions for one rendering; an expression that does not compile extracts nothing
    /// (the bootstrap loader has already refused it).
    pub fn compile(&self) -> Extraction<'_> {
        let custom = self
            .tags
            .iter()
            .filter_map(|t| match t {
                TagSpec::Regex { name, regex } => Regex::new(regex).ok().map(|r| (name.as_str(), r)),
                _ => None,
            })
            .collect();
        Extraction { extractor: self, custom }
    }

    fn wants_default(&self, tag: &str) -> bool {
        self.default_tags || self.tags.iter().any(|t| matches!(t, TagSpec::Default(name) if name == tag))
    }
}

/// Tag extraction with its expressions compiled.
#[derive(Debug)]
pub struct Extraction<'a> {
    extractor: &'a TagExtractor,
    custom: Vec<(&'a str, Regex)>,
}

impl<'a> Extraction<'a> {
    /// Writes the name without its tags into `bare` and calls `tag` for each tag in Envoy's order.
    pub fn extract(&self, name: &str, bare: &mut String, mut tag: impl FnMut(&str, &str)) {
        for spec in &self.extractor.tags {
            if let TagSpec::Fixed { name, value } = spec {
                tag(name, value);
            }
        }
        let mut removed: Vec<std::ops::Range<usize>> = Vec::new();
        let mut take = |key: &str, (range, value): Hit<'_>| {
            removed.push(range);
            tag(key, value);
        };
        if let Some(hit) = response_code(name).filter(|_| self.extractor.wants_default("envoy.response_code")) {
            take("envoy.response_code", hit);
        }
        if let Some(hit) =
            response_code_class(name).filter(|_| self.extractor.wants_default("envoy.response_code_class"))
        {
            take("envoy.response_code_class", hit);
        }
        if let Some(hit) = tls_certificate(name).filter(|_| self.extractor.wants_default("envoy.tls_certificate")) {
            take("envoy.tls_certificate", hit);
        }
        let mut done: Vec<&str> = Vec::new();
        for (key, pattern) in TOKENIZED {
            if done.contains(key) || !self.extractor.wants_default(key) {
                continue;
            }
            if let Some(hit) = tokenized(name, pattern) {
                done.push(key);
                take(key, hit);
            }
        }
        if let Some(rest) = name.strip_prefix("listener.") {
            if let Some(hit) = listener_worker(name).filter(|_| self.extractor.wants_default("envoy.worker_id")) {
                take("envoy.worker_id", hit);
            }
            if let Some(len) = listener_address(rest).filter(|_| self.extractor.wants_default("envoy.listener_address"))
            {
                take("envoy.listener_address", (9..9 + len + 1, &rest[..len]));
            }
        }
        if let Some(hit) = rbac_prefix(name).filter(|_| self.extractor.wants_default("envoy.rbac_prefix")) {
            take("envoy.rbac_prefix", hit);
        }
        if let Some(hit) =
            http_local_rate_limit(name).filter(|_| self.extractor.wants_default("envoy.local_http_ratelimit_prefix"))
        {
            take("envoy.local_http_ratelimit_prefix", hit);
        }
        for (key, regex) in &self.custom {
            let Some(groups) = regex.captures(name) else {
                continue;
            };
            let Some(cut) = groups.get(1).filter(|g| !g.is_empty()) else {
                continue;
            };
            let value = groups.get(2).unwrap_or(cut);
            take(key, (cut.range(), value.as_str()));
        }
        cut(name, removed, bare);
    }
}

/// `*.ssl.certificate.$.expiration_unix_time_seconds`, where the name may hold dots.
fn tls_certificate(name: &str) -> Option<Hit<'_>> {
    let whole = name.strip_suffix(".expiration_unix_time_seconds")?;
    let at = whole.find(".ssl.certificate.")? + ".ssl.certificate.".len();
    Some((at..whole.len() + 1, &whole[at..]))
}

/// Copies `name` without the given, possibly overlapping, ranges.
fn cut(name: &str, mut removed: Vec<std::ops::Range<usize>>, bare: &mut String) {
    removed.sort_by_key(|r| r.start);
    bare.clear();
    let mut at = 0;
    for range in removed {
        if range.start > at {
            bare.push_str(&name[at..range.start]);
        }
        at = at.max(range.end);
    }
    bare.push_str(name.get(at..).unwrap_or_default());
}

/// `*_rq(_<code>)`
fn response_code(name: &str) -> Option<Hit<'_>> {
    let at = name.len().checked_sub(4)?;
    let code = name.get(at + 1..)?;
    (name.as_bytes()[at] == b'_' && code.bytes().all(|b| b.is_ascii_digit()) && name[..at].ends_with("_rq"))
        .then_some((at..name.len(), code))
}

/// `*_rq_(<class>)xx`
fn response_code_class(name: &str) -> Option<Hit<'_>> {
    let stem = name.strip_suffix("xx")?;
    let at = stem.len().checked_sub(1)?;
    (stem.as_bytes()[at].is_ascii_digit() && stem[..at].ends_with("_rq_")).then(|| (at..at + 1, &stem[at..]))
}

/// Where the tokens of `pattern` match `name`. The captured token goes with the dot after it, or before it at the end.
fn tokenized<'n>(name: &'n str, pattern: &str) -> Option<Hit<'n>> {
    let mut at = 0;
    let mut hit = None;
    let mut tokens = pattern.split('.').peekable();
    while let Some(want) = tokens.next() {
        if want == "**" {
            // Any tokens, at least one, up to the rest of the pattern (only ever one literal and one wild token).
            return match tokens.next() {
                None => (at < name.len()).then_some(hit).flatten(),
                Some(literal) => {
                    name.get(at..)?.split('.').rev().nth(1).is_some_and(|t| t == literal).then_some(hit).flatten()
                }
            };
        }
        let rest = name.get(at..)?;
        let len = rest.find('.').unwrap_or(rest.len());
        let token = &rest[..len];
        match want {
            // An address has dots of its own: skip to the token that the pattern wants next.
            "*" if pattern.starts_with("listener.") => {
                let next = format!(".{}.", tokens.peek()?);
                at += rest.find(&next)? + 1;
                continue;
            }
            "*" => {}
            "$" => {
                let range = if at + len < name.len() { at..at + len + 1 } else { at.saturating_sub(1)..at + len };
                hit = Some((range, token));
            }
            _ if want.starts_with('@') => {
                // `@worker_`: the number after the literal, taken with its underscore: `worker_0.` leaves `worker.`.
                let number = token.strip_prefix(&want[1..])?;
                if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                let start = at + want.len() - 2;
                hit = Some((start..at + len, number));
            }
            _ if want == token => {}
            _ => return None,
        }
        at += len;
        if at < name.len() {
            at += 1;
            tokens.peek()?;
        } else if tokens.peek().is_some() {
            return None;
        }
    }
    hit
}

/// Length of the address in `<address>.<stat>`: digits, `.`, `_`, `[`, `]`, hexadecimal letters.
fn listener_address(rest: &str) -> Option<usize> {
    let v4 = |b: u8| b.is_ascii_digit() || b == b'_' || b == b'.';
    let v6 = |b: u8| b.is_ascii_hexdigit() || matches!(b, b'_' | b'[' | b']');
    let end = if rest.starts_with('[') {
        rest.bytes().position(|b| !v6(b))?
    } else {
        // Greedy over dots: the last dot before the first foreign byte.
        let foreign = rest.bytes().position(|b| !v4(b))?;
        rest[..foreign].rfind('.')?
    };
    (end > 0 && rest.as_bytes()[end] == b'.').then_some(end)
}

/// `listener.<address>.worker_(<n>).*`
fn listener_worker(name: &str) -> Option<Hit<'_>> {
    let at = name.find(".worker_")?;
    let start = at + ".worker".len();
    let rest = &name[start + 1..];
    let len = rest.find('.')?;
    (len > 0 && rest[..len].bytes().all(|b| b.is_ascii_digit())).then(|| (start..start + 1 + len, &rest[..len]))
}

/// `(<prefix>.)rbac.*` of the network filter.
fn rbac_prefix(name: &str) -> Option<Hit<'_>> {
    let at = name.find(".rbac.")?;
    let prefix = &name[..at];
    (!prefix.starts_with("http.") && !prefix.contains('.')).then_some((0..at + 1, prefix))
}

/// `(<prefix>.)http_local_rate_limit.*`
fn http_local_rate_limit(name: &str) -> Option<Hit<'_>> {
    let at = name.find(".http_local_rate_limit.")?;
    (!name[..at].contains('.')).then(|| (0..at + 1, &name[..at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_with(extractor: &TagExtractor, name: &str, bare: &str, tags: &str) {
        let (mut got, mut got_tags) = (String::new(), Vec::new());
        extractor.compile().extract(name, &mut got, |k, v| got_tags.push(format!("{k}={v}")));
        assert_eq!((got.as_str(), got_tags.join(",").as_str()), (bare, tags), "{name}");
    }

    #[test]
    fn defaults_as_stock_envoy_prints_them() {
        let check = |name, bare, tags| check_with(&TagExtractor::new(true, vec![]), name, bare, tags);
        check("cluster.c1.upstream_rq_200", "cluster.upstream_rq", "envoy.response_code=200,envoy.cluster_name=c1");
        check(
            "cluster.c1.external.upstream_rq_2xx",
            "cluster.external.upstream_rq_xx",
            "envoy.response_code_class=2,envoy.cluster_name=c1",
        );
        check("cluster.outbound|80||a.b.svc.x", "cluster.b.svc.x", "envoy.cluster_name=outbound|80||a");
        check("http.ingress.downstream_rq_total", "http.downstream_rq_total", "envoy.http_conn_manager_prefix=ingress");
        check(
            "listener.127.0.0.1_19910.http.ingress.downstream_rq_2xx",
            "listener.http.downstream_rq_xx",
            "envoy.response_code_class=2,envoy.http_conn_manager_prefix=ingress,envoy.listener_address=127.0.0.1_19910",
        );
        check(
            "listener.127.0.0.1_19910.worker_0.downstream_cx_total",
            "listener.worker.downstream_cx_total",
            "envoy.worker_id=0,envoy.listener_address=127.0.0.1_19910",
        );
        check("listener.[__]_80.downstream_cx_total", "listener.downstream_cx_total", "envoy.listener_address=[__]_80");
        check("listener.admin.downstream_cx_total", "listener.admin.downstream_cx_total", "");
        check("server.worker_0.watchdog_miss", "server.worker.watchdog_miss", "envoy.worker_id=0");
        check(
            "http.a.rds.80.config_reload",
            "http.rds.config_reload",
            "envoy.http_conn_manager_prefix=a,envoy.rds_route_config=80",
        );
        check(
            "vhost.v.vcluster.c.upstream_rq_total",
            "vhost.vcluster.upstream_rq_total",
            "envoy.virtual_cluster=c,envoy.virtual_host=v",
        );
        check("cluster.c.ssl.ciphers.AES", "cluster.ssl.ciphers", "envoy.cluster_ssl_ciphers=AES,envoy.cluster_name=c");
        check(
            "listener.0.0.0.0_443.ssl.certificate.a.b.expiration_unix_time_seconds",
            "listener.ssl.certificate.expiration_unix_time_seconds",
            "envoy.tls_certificate=a.b,envoy.listener_address=0.0.0.0_443",
        );
        check("tcp.p.downstream_cx_total", "tcp.downstream_cx_total", "envoy.tcp_prefix=p");
        check("runtime.load_success", "runtime.load_success", "");
        check("", "", "");
    }

    #[test]
    fn bootstrap_tags() {
        let extractor = TagExtractor::new(
            false,
            vec![
                TagSpec::Regex {
                    name: "cluster_name".into(),
                    regex: r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)".into(),
                },
                TagSpec::Regex {
                    name: "response_code".into(),
                    regex: r"(response_code=\.=(.+?);\.;)|_rq(_(\d{3}))$".into(),
                },
                TagSpec::Fixed { name: "zone".into(), value: "z1".into() },
                TagSpec::Default("envoy.tcp_prefix".into()),
            ],
        );
        check_with(
            &extractor,
            "cluster.outbound|80||a.ns.svc.cluster.local.upstream_rq_total",
            "cluster.upstream_rq_total",
            "zone=z1,cluster_name=outbound|80||a.ns.svc.cluster.local",
        );
        check_with(&extractor, "tcp.x.y", "tcp.y", "zone=z1,envoy.tcp_prefix=x");
        check_with(&extractor, "http.a.downstream_rq_2xx", "http.a.downstream_rq_2xx", "zone=z1");
    }
}
