//! Is this a CORS request, and what does the browser get to know?

use proxy_config::route::CorsPolicy;

use crate::{HeaderEdit, HeaderView};

/// What the CORS filter does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    /// Not a CORS request, or CORS is off: nothing.
    Pass,
    /// The origin is not allowed: count `origin_invalid`, pass on.
    OriginInvalid,
    /// The origin is allowed: count `origin_valid`, pass on, and call [`response`] on the way back.
    Valid,
    /// Only counted (`shadow_enabled`): count `origin_valid`, pass on.
    Shadow,
    /// Answer the preflight with 200 and these headers.
    Preflight(Vec<(&'static str, Vec<u8>)>),
}

/// Decides about a request. `random` is the stream's draw.
pub fn request<H: HeaderView + ?Sized>(policy: &CorsPolicy, headers: &H, random: u64) -> Cors {
    let Some(origin) = headers.get(b"origin").filter(|o| !o.is_empty()) else {
        return Cors::Pass;
    };
    let enabled = policy.enabled.hit(random);
    let shadow = policy.shadow_enabled.hit(random);
    if !enabled && !shadow {
        return Cors::Pass;
    }
    let preflight =
        headers.method() == b"OPTIONS" && headers.get(b"access-control-request-method").is_some_and(|m| !m.is_empty());
    if !policy.allow_origin.iter().any(|m| m.matches(origin)) {
        return if enabled && preflight && !policy.forward_not_matching_preflights {
            Cors::Preflight(Vec::new())
        } else {
            Cors::OriginInvalid
        };
    }
    if !enabled {
        return Cors::Shadow;
    }
    if !preflight {
        return Cors::Valid;
    }
    let mut out = vec![("access-control-allow-origin", origin.to_vec())];
    if policy.allow_credentials {
        out.push(("access-control-allow-credentials", b"true".to_vec()));
    }
    for (name, value) in [
        ("access-control-allow-methods", &policy.allow_methods),
        ("access-control-allow-headers", &policy.allow_headers),
        ("access-control-max-age", &policy.max_age),
    ] {
        if !value.is_empty() {
            out.push((name, value.as_bytes().to_vec()));
        }
    }
    if policy.allow_private_network_access
        && headers.get(b"access-control-request-private-network").is_some_and(|v| v == b"true")
    {
        out.push(("access-control-allow-private-network", b"true".to_vec()));
    }
    Cors::Preflight(out)
}

/// Adds the CORS headers to the response of a [`Cors::Valid`] request.
pub fn response<H: HeaderEdit>(policy: &CorsPolicy, origin: &[u8], headers: &mut H) {
    headers.set(b"access-control-allow-origin", origin);
    if policy.allow_credentials {
        headers.set(b"access-control-allow-credentials", b"true");
    }
    if !policy.expose_headers.is_empty() {
        headers.set(b"access-control-expose-headers", policy.expose_headers.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proxy_config::common::Fraction;
    use proxy_config::matcher::StringMatcher;

    use super::*;
    use crate::header_view::HeaderList;

    #[test]
    fn decisions() {
        let policy = CorsPolicy {
            allow_origin: Box::new([StringMatcher::Exact("https://a".into())]),
            allow_methods: "GET".into(),
            allow_headers: "".into(),
            expose_headers: "x".into(),
            max_age: "1".into(),
            allow_credentials: true,
            allow_private_network_access: false,
            forward_not_matching_preflights: true,
            enabled: Fraction::ALWAYS,
            shadow_enabled: Fraction::NEVER,
        };
        let h = |p: &[(&str, &str)]| HeaderList::of(p);
        assert_eq!(request(&policy, &h(&[(":method", "GET")]), 0), Cors::Pass);
        assert_eq!(request(&policy, &h(&[(":method", "GET"), ("origin", "https://b")]), 0), Cors::OriginInvalid);
        assert_eq!(request(&policy, &h(&[(":method", "GET"), ("origin", "https://a")]), 0), Cors::Valid);
        assert_eq!(request(&policy, &h(&[(":method", "OPTIONS"), ("origin", "https://a")]), 0), Cors::Valid);
        let pre = [(":method", "OPTIONS"), ("origin", "https://a"), ("access-control-request-method", "GET")];
        let Cors::Preflight(list) = request(&policy, &h(&pre), 0) else { panic!("a preflight") };
        let names: Vec<&str> = list.iter().map(|(n, _)| *n).collect();
        assert_eq!(
            names,
            [
                "access-control-allow-origin",
                "access-control-allow-credentials",
                "access-control-allow-methods",
                "access-control-max-age"
            ]
        );
    }
}
