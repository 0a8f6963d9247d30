"""Cases for jwt_authn."""

from harness import *
import jwt as J
from cryptography.hazmat.primitives.asymmetric import rsa, ec, ed25519
from jwt.algorithms import RSAAlgorithm, ECAlgorithm, OKPAlgorithm

now = int(time.time())
rk = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ek = ec.generate_private_key(ec.SECP256R1())
ek3 = ec.generate_private_key(ec.SECP384R1())
ed = ed25519.Ed25519PrivateKey.generate()


def jwk(alg, k, kid):
    d = json.loads(alg.to_jwk(k.public_key()))
    d["kid"] = kid
    d.pop("key_ops", None)
    return d


keys = [
    jwk(RSAAlgorithm, rk, "r"),
    jwk(ECAlgorithm, ek, "e"),
    jwk(ECAlgorithm, ek3, "e3"),
    jwk(OKPAlgorithm, ed, "d"),
    {
        "kty": "oct",
        "kid": "h",
        "k": base64.urlsafe_b64encode(b"secretsecretsecretsecretsecretsecret").rstrip(b"=").decode(),
    },
]
JWKS = json.dumps({"keys": keys})


def tok(claims={}, alg="RS256", key=None, kid="r", **hd):
    c = {"iss": "https://i", "sub": "s", "aud": "a", "exp": now + 3600}
    c.update(claims)
    c = {k: v for k, v in c.items() if v is not None}
    k = key or {"R": rk, "P": rk, "E": ek, "H": b"secretsecretsecretsecretsecretsecret"}[alg[0]]
    h = dict(hd)
    if kid:
        h["kid"] = kid
    return J.encode(c, k, algorithm=alg, headers=h)


up = server("up", lambda h, b: (200, [], b"ok"))
jw = server(
    "jwks",
    lambda h, b: (
        (200, [("content-type", "application/json")], JWKS.encode()) if h.path == "/keys?x=1" else (404, [], b"no")
    ),
)
JW = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
PR = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig"
TO = [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]


def mk(c, routes=TO, logx="%DYNAMIC_METADATA(envoy.filters.http.jwt_authn)%", extra=[]):
    return lambda lp, ap, log: boot(
        [("envoy.filters.http.jwt_authn", JW, c)] + extra,
        routes,
        [cluster("up", up), cluster("jwks", jw)],
        lp,
        ap,
        log,
        logx=logx,
    )


local = {"local_jwks": {"inline_string": JWKS}}
p1 = dict(
    {
        "issuer": "https://i",
        "audiences": ["a", "https://b/"],
        "payload_in_metadata": "pl",
        "header_in_metadata": "hd",
        "forward_payload_header": "x-payload",
        "claim_to_headers": [
            {"header_name": "x-sub", "claim_name": "sub"},
            {"header_name": "x-n", "claim_name": "n.m"},
            {"header_name": "x-l", "claim_name": "l"},
        ],
    },
    **local
)
A = lambda t: "authorization: Bearer " + t
b = base64.urlsafe_b64encode


def raw_tok(h, p, s=b"x"):
    return ".".join(x.rstrip(b"=").decode() for x in (b(h), b(p), b(s)))


good = tok({"n": {"m": 5}, "l": ["x", 1], "scope": "a b"})
reqs = [
    req(),
    req(headers=A(good)),
    req(headers=A(good) + "\nx-sub: evil\nx-payload: evil"),
    req("/?a=1&access_token=" + good + "&b=2"),
    req(headers=A("abc")),
    req(headers=A("a.b.c")),
    req(headers=A(tok({"exp": now - 100}))),
    req(headers=A(tok({"exp": now - 30}))),
    req(headers=A(tok({"nbf": now + 10000}))),
    req(headers=A(tok({"aud": "z"}))),
    req(headers=A(tok({"aud": ["z", "http://b"]}))),
    req(headers=A(tok({"iss": "other"}))),
    req(headers=A(tok({"iss": None}))),
    req(headers=A(tok({"exp": None}))),
    req(headers=A(tok(alg="ES256", kid="e"))),
    req(headers=A(tok(alg="ES384", key=ek3, kid="e3"))),
    req(headers=A(tok(alg="PS256"))),
    req(headers=A(tok(alg="RS512"))),
    req(headers=A(tok(alg="HS256", kid="h"))),
    req(headers=A(tok(alg="EdDSA", key=ed, kid="d"))),
    req(headers=A(tok(kid="zz"))),
    req(headers=A(tok(kid=None))),
    req(headers=A(tok(kid=None, alg="ES256"))),
    req(headers=A(good[:-3] + "AAA")),
    req(headers=A(raw_tok(b'{"alg":"none"}', b"{}"))),
    req(headers=A(raw_tok(b'{"alg":1}', b"{}"))),
    req(headers=A(raw_tok(b"{", b"{}"))),
    req(headers=A(raw_tok(b'{"alg":"RS256"}', b"x"))),
    req(headers=A(raw_tok(b'{"alg":"RS256"}', b'{"exp":"x"}'))),
    req(headers=A(raw_tok(b'{"alg":"RS256"}', b'{"exp":-1}'))),
    req(headers=A(raw_tok(b'{"alg":"RS256"}', b'{"aud":1}'))),
    req(headers=A(raw_tok(b'{"alg":"RS256","kid":1}', b"{}"))),
    req(headers="authorization: bearer " + good),
    req(headers="authorization: Bearer "),
    req(headers="authorization: Bearer"),
    req(headers='authorization: Bearer "' + good),
    req(headers=A(good) + "\n" + A(tok({"aud": "z"}))),
    req(headers=A(good) + "\nx-a: b", path="/?access_token=bad"),
    req(method="OPTIONS", headers="origin: o\naccess-control-request-method: GET"),
    req("/" + "x" * 300),
    req(headers="content-type: application/grpc", method="POST", body="x"),
    req(headers=A(tok({"n": {"m": 1.5}, "sub": "", "l": {"q": True}}))),
    req(headers=A(tok({"n": {"m": True}}))),
]
W = sys.argv[1:]


def t(n):
    return not W or n in W


if t("basic"):
    run(
        "basic",
        mk(
            {
                "providers": {"p": p1},
                "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}],
                "bypass_cors_preflight": True,
            }
        ),
        reqs,
    )
if t("fwd"):
    run(
        "fwd",
        mk(
            {
                "providers": {
                    "p": dict(
                        p1,
                        forward=True,
                        pad_forward_payload_header=True,
                        failed_status_in_metadata="fail",
                        normalize_payload_in_metadata={"space_delimited_claims": ["scope"]},
                        require_expiration=True,
                        max_lifetime="7200s",
                        subjects={"prefix": "s"},
                    )
                },
                "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}],
                "strip_failure_response": True,
            }
        ),
        reqs + [req(headers=A(tok({"exp": now + 9000}))), req(headers=A(tok({"sub": "q"})))],
    )
if t("locs"):
    run(
        "locs",
        mk(
            {
                "providers": {
                    "p": dict(
                        local,
                        issuer="https://i",
                        from_headers=[{"name": "X-T", "value_prefix": "tok="}, {"name": "x-u"}],
                        from_params=["q", "p"],
                        from_cookies=["c"],
                    )
                },
                "rules": [{"match": {"path": "/free"}}, {"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}],
            }
        ),
        [
            req("/free"),
            req(headers="x-t: tok=" + good),
            req(headers="x-t: a tok= " + good),
            req(headers="x-u: " + good),
            req("/?q=" + good),
            req("/?q=" + good + "&p=bad"),
            req(headers="cookie: a=b; c=" + good),
            req(headers=A(good)),
            req("/?z=%20x&q=" + good + "&a=%26"),
        ],
    )
p2 = dict(local, issuer="https://j")
jt = tok({"iss": "https://j"})
many = [
    req(),
    req(headers=A(good)),
    req(headers=A(jt)),
    req(headers=A(tok({"iss": "k"}))),
    req(headers=A("x.y")),
    req(headers=A(tok({"exp": 1}))),
    req(headers=A(jt[:-3] + "AAA")),
]
P = {"p": p1, "j": p2}
R = lambda r: {"providers": P, "rules": [{"match": {"prefix": "/"}, "requires": r}]}
for n, r in {
    "any": {"requires_any": {"requirements": [{"provider_name": "p"}, {"provider_name": "j"}]}},
    "anymiss": {
        "requires_any": {"requirements": [{"provider_name": "p"}, {"provider_name": "j"}, {"allow_missing": {}}]}
    },
    "anyfail": {"requires_any": {"requirements": [{"provider_name": "p"}, {"allow_missing_or_failed": {}}]}},
    "all": {"requires_all": {"requirements": [{"provider_name": "p"}, {"provider_name": "j"}]}},
    "miss": {"allow_missing": {}},
    "fail": {"allow_missing_or_failed": {}},
    "aud": {"provider_and_audiences": {"provider_name": "p", "audiences": ["z"]}},
    "none": {},
    "istio": {
        "requires_any": {
            "requirements": [
                {"provider_name": "p"},
                {"provider_name": "j"},
                {
                    "requires_all": {
                        "requirements": [
                            {"requires_any": {"requirements": [{"provider_name": "p"}, {"allow_missing": {}}]}},
                            {"requires_any": {"requirements": [{"provider_name": "j"}, {"allow_missing": {}}]}},
                        ]
                    }
                },
            ]
        }
    },
}.items():
    if t("req") or t(n):
        run("req " + n, mk(R(r)), many + [req(headers=A(tok({"aud": "z"})))])
rem = {
    "remote_jwks": {
        "http_uri": {"uri": "http://jwks.host/keys?x=1", "cluster": "jwks", "timeout": "1s"},
        "cache_duration": "300s",
    }
}
if t("remote"):
    run(
        "remote",
        mk(
            dict(
                providers={"p": dict(rem, issuer="https://i", jwt_cache_config={"jwt_cache_size": 10})},
                rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}],
            )
        ),
        [req(headers=A(good)), req(headers=A(good)), req(headers=A(tok(kid="zz")))],
    )
bad = {"remote_jwks": {"http_uri": {"uri": "https://jwks.host/no", "cluster": "jwks", "timeout": "1s"}}}
if t("badremote"):
    run(
        "badremote",
        mk(
            dict(
                providers={"p": dict(bad, issuer="https://i")},
                rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}],
            )
        ),
        [req(headers=A(good)), req(headers=A(good)), req(), req(method="POST", headers=A(good), body="hello")],
    )
if t("async"):
    run(
        "async",
        mk(
            dict(
                providers={"p": dict(issuer="https://i", remote_jwks=dict(rem["remote_jwks"], async_fetch={}))},
                rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}],
            )
        ),
        [req(headers=A(good)), req(headers=A(good))],
        wait=0.3,
    )
routes = [
    {
        "match": {"prefix": "/n"},
        "route": {"cluster": "up"},
        "typed_per_filter_config": {"envoy.filters.http.jwt_authn": {"@type": PR, "requirement_name": "q"}},
    },
    {
        "match": {"prefix": "/bad"},
        "route": {"cluster": "up"},
        "typed_per_filter_config": {"envoy.filters.http.jwt_authn": {"@type": PR, "requirement_name": "zz"}},
    },
    {
        "match": {"prefix": "/off"},
        "route": {"cluster": "up"},
        "typed_per_filter_config": {"envoy.filters.http.jwt_authn": {"@type": PR, "disabled": True}},
    },
    {
        "match": {
            "prefix": "/claim",
            "dynamic_metadata": [
                {
                    "filter": "envoy.filters.http.jwt_authn",
                    "path": [{"key": "pl"}, {"key": "sub"}],
                    "value": {"string_match": {"exact": "s"}},
                }
            ],
        },
        "direct_response": {"status": 200, "body": {"inline_string": "claimed"}},
    },
] + TO
RB = (
    "envoy.filters.http.rbac",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    {
        "rules": {
            "action": "DENY",
            "policies": {
                "p q": {
                    "permissions": [{"url_path": {"path": {"prefix": "/rb"}}}],
                    "principals": [
                        {
                            "metadata": {
                                "filter": "envoy.filters.http.jwt_authn",
                                "path": [{"key": "pl"}, {"key": "l"}],
                                "value": {"list_match": {"one_of": {"string_match": {"exact": "x"}}}},
                            }
                        }
                    ],
                }
            },
        },
        "shadow_rules": {
            "action": "ALLOW",
            "policies": {"s": {"permissions": [{"any": True}], "principals": [{"not_id": {"any": True}}]}},
        },
        "shadow_rules_stat_prefix": "pre_",
    },
)
if t("route"):
    run(
        "route",
        mk(
            {
                "providers": {"p": dict(p1, clear_route_cache=True)},
                "requirement_map": {"q": {"provider_name": "p"}, "r": {"allow_missing": {}}},
                "rules": [
                    {"match": {"prefix": "/claim"}, "requires": {"provider_name": "p"}},
                    {"match": {"prefix": "/rb"}, "requirement_name": "q"},
                ],
            },
            routes,
            extra=[RB],
            logx="%DYNAMIC_METADATA(envoy.filters.http.rbac)%",
        ),
        [
            req("/n"),
            req("/n", headers=A(good)),
            req("/bad", headers=A(good)),
            req("/off"),
            req("/x"),
            req("/claim", headers=A(good)),
            req("/claim", headers=A(tok({"sub": "z"}))),
            req("/rb", headers=A(good)),
            req("/rb", headers=A(tok({"l": ["y"]}))),
        ],
    )
