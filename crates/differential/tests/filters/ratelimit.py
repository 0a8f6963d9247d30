"""Cases for ratelimit."""

from harness import *
import harness as H

# Seconds left of an hour depend on the moment.
plain = H.blank
H.blank = lambda t: re.sub(rb"x-ratelimit-reset: [1-9]\d+", b"x-ratelimit-reset: ~", plain(t))
import grpc
from envoy.service.ratelimit.v3 import rls_pb2 as R
from envoy.config.core.v3 import base_pb2 as C
from google.protobuf import json_format as JF


def should(req, ctx):
    d = JF.MessageToDict(req, preserving_proto_field_name=True)
    seen.append(("rls", json.dumps(d, sort_keys=True)))
    v = {e.key: e.value for x in req.descriptors for e in x.entries}
    k = v.get("generic_key", "")
    if k == "err":
        ctx.abort(grpc.StatusCode.INTERNAL, "x")
    if k == "slow":
        time.sleep(0.5)
    r = R.RateLimitResponse(overall_code=2 if k == "over" else 1)
    for i, _ in enumerate(req.descriptors):
        s = r.statuses.add(code=r.overall_code, limit_remaining=3 - i)
        s.current_limit.requests_per_unit = 10
        s.current_limit.unit = 2
        s.duration_until_reset.seconds = 7
        if i == 0:
            s.current_limit.name = "nm"
    r.response_headers_to_add.add(key="x-rl", value="a")
    r.request_headers_to_add.add(key="x-rq", value="b")
    if k == "over":
        r.raw_body = b"slow down"
    r.dynamic_metadata.update({"q": "w"})
    return r


s = grpc.server(futures.ThreadPoolExecutor(8))
s.add_generic_rpc_handlers(
    (
        grpc.method_handlers_generic_handler(
            "envoy.service.ratelimit.v3.RateLimitService",
            {
                "ShouldRateLimit": grpc.unary_unary_rpc_method_handler(
                    should,
                    request_deserializer=R.RateLimitRequest.FromString,
                    response_serializer=R.RateLimitResponse.SerializeToString,
                )
            },
        ),
    )
)
gp = s.add_insecure_port("127.0.0.1:0")
s.start()
up = server("up", lambda h, b: (200, [], b"ok"))
RL = "envoy.extensions.filters.http.ratelimit.v3.RateLimit"
PR = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"
gk = lambda v: {"actions": [{"generic_key": {"descriptor_value": v}}]}


def rt(p, lim, **x):
    return dict({"match": {"prefix": p}, "route": {"cluster": "up", "rate_limits": lim}}, **x)


routes = [
    rt("/over", [gk("over")]),
    rt("/err", [gk("err")]),
    rt("/slow", [gk("slow")]),
    rt(
        "/two",
        [
            gk("a"),
            {
                "actions": [
                    {"source_cluster": {}},
                    {"destination_cluster": {}},
                    {"remote_address": {}},
                    {"request_headers": {"header_name": "x-k", "descriptor_key": "hk"}},
                    {"generic_key": {"descriptor_key": "kk", "descriptor_value": "vv"}},
                ]
            },
        ],
    ),
    rt(
        "/act",
        [
            {
                "actions": [
                    {
                        "header_value_match": {
                            "descriptor_value": "m",
                            "headers": [{"name": "x-k", "present_match": True}],
                        }
                    }
                ]
            },
            {"actions": [{"masked_remote_address": {"v4_prefix_mask_len": 8}}]},
            {"actions": [{"query_parameters": {"query_parameter_name": "q", "descriptor_key": "qk"}}]},
            {
                "actions": [
                    {
                        "query_parameter_value_match": {
                            "descriptor_value": "qm",
                            "query_parameters": [{"name": "q", "string_match": {"exact": "1"}}],
                        }
                    }
                ]
            },
            {
                "actions": [
                    {"request_headers": {"header_name": "x-k", "descriptor_key": "hk", "skip_if_absent": True}},
                    {"generic_key": {"descriptor_value": "g"}},
                ]
            },
            {
                "actions": [
                    {
                        "metadata": {
                            "descriptor_key": "mk",
                            "metadata_key": {"key": "z", "path": [{"key": "y"}]},
                            "default_value": "dv",
                        }
                    }
                ]
            },
        ],
    ),
    rt("/stage", [dict(gk("s1"), stage=1)]),
    rt("/vh", []),
    rt(
        "/inc",
        [gk("r")],
    ),
    {
        "match": {"prefix": "/ign"},
        "route": {"cluster": "up"},
        "typed_per_filter_config": {"envoy.filters.http.ratelimit": {"@type": PR, "vh_rate_limits": "IGNORE"}},
    },
    {
        "match": {"prefix": "/incl"},
        "route": {"cluster": "up", "rate_limits": [gk("r")]},
        "typed_per_filter_config": {
            "envoy.filters.http.ratelimit": {"@type": PR, "vh_rate_limits": "INCLUDE", "domain": "dd"}
        },
    },
    {
        "match": {"prefix": "/own"},
        "route": {"cluster": "up", "rate_limits": [gk("r")]},
        "typed_per_filter_config": {"envoy.filters.http.ratelimit": {"@type": PR, "rate_limits": [gk("own")]}},
    },
]
routes.insert(0, routes.pop(9))
routes.insert(
    0,
    {"match": {"prefix": "/ivh"}, "route": {"cluster": "up", "include_vh_rate_limits": True, "rate_limits": [gk("r")]}},
)


def mk(c):
    c = dict(
        {
            "domain": "d",
            "rate_limit_service": {
                "grpc_service": {"envoy_grpc": {"cluster_name": "rls"}},
                "transport_api_version": "V3",
            },
            "timeout": "0.2s",
        },
        **c
    )
    return lambda lp, ap, log: boot(
        [("envoy.filters.http.ratelimit", RL, c)],
        routes,
        [cluster("up", up), cluster("rls", gp, True)],
        lp,
        ap,
        log,
        logx="%DYNAMIC_METADATA(envoy.filters.http.ratelimit:q)%",
        vhost={"rate_limits": [gk("vhost")]},
    )


reqs = [
    req(p)
    for p in (
        "/over",
        "/err",
        "/slow",
        "/two",
        "/act",
        "/act?q=1",
        "/stage",
        "/vh",
        "/inc",
        "/ign",
        "/incl",
        "/own",
        "/ivh",
    )
] + [
    req("/two", headers="x-k: v"),
    req("/act?q=%20x", headers="x-k: v"),
    req("/over", method="POST", headers="content-type: application/grpc", body="aaaaa"),
    req("/over", method="POST", body="aaaaa"),
]
W = sys.argv[1:]


def t(n):
    return not W or n in W


if t("a"):
    run("rls a", mk({}), reqs)
if t("b"):
    run(
        "rls b",
        mk(
            {
                "failure_mode_deny": True,
                "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
                "disable_x_envoy_ratelimited_header": True,
                "rate_limited_status": {"code": "ServiceUnavailable"},
                "response_headers_to_add": [{"header": {"key": "x-add", "value": "v"}}],
                "rate_limited_as_resource_exhausted": True,
                "request_type": "external",
            }
        ),
        reqs,
    )
LR = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
full = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def ml(c, pr=[]):
    c = dict(
        {
            "stat_prefix": "lrl",
            "token_bucket": {"max_tokens": 2, "tokens_per_fill": 1, "fill_interval": "3600s"},
            "filter_enabled": full,
            "filter_enforced": full,
        },
        **c
    )
    return lambda lp, ap, log: boot(
        [("envoy.filters.http.local_ratelimit", LR, c)],
        [rt("/a", [gk("a")]), rt("/b", [gk("b")]), rt("/", [])],
        [cluster("up", up)],
        lp,
        ap,
        log,
    )


ka = "GET / HTTP/1.1\r\nhost: h\r\n\r\n" * 2 + req()
if t("l1"):
    run("local 1", ml({}), [req()] * 4)
if t("l2"):
    run(
        "local 2",
        ml(
            {
                "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
                "descriptors": [
                    {
                        "entries": [{"key": "generic_key", "value": "a"}],
                        "token_bucket": {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"},
                    },
                    {
                        "entries": [{"key": "generic_key", "value": ""}],
                        "token_bucket": {"max_tokens": 5, "tokens_per_fill": 1, "fill_interval": "3600s"},
                    },
                ],
                "token_bucket": {"max_tokens": 6, "tokens_per_fill": 6, "fill_interval": "3600s"},
            }
        ),
        [req("/a"), req("/a"), req("/b"), req("/b"), req("/c"), req("/c"), req("/c"), req("/c"), req("/a")],
    )
if t("l3"):
    run("local 3", ml({"local_rate_limit_per_downstream_connection": True}), [ka, ka])
if t("l4"):
    run(
        "local 4",
        ml(
            {
                "always_consume_default_token_bucket": False,
                "descriptors": [
                    {
                        "entries": [{"key": "generic_key", "value": "a"}],
                        "token_bucket": {"max_tokens": 3, "tokens_per_fill": 1, "fill_interval": "3600s"},
                    }
                ],
                "status": {"code": "ServiceUnavailable"},
                "response_headers_to_add": [{"header": {"key": "x-l", "value": "1"}}],
            }
        ),
        [req("/a")] * 4 + [req("/b")] * 3,
    )
