"""Cases for ext_authz."""

from harness import *
import grpc
from envoy.service.auth.v3 import external_auth_pb2 as A, attribute_context_pb2 as AC
from envoy.config.core.v3 import base_pb2 as C
from google.protobuf import json_format as JF, struct_pb2, wrappers_pb2

checks = []


def HV(k, v, append=None, action=None):
    o = C.HeaderValueOption(header=C.HeaderValue(key=k, value=v))
    if append is not None:
        o.append.value = append
    if action is not None:
        o.append_action = action
    return o


def check(req, ctx):
    d = JF.MessageToDict(req, preserving_proto_field_name=True)
    a = d["attributes"]
    a["request"].pop("time", None) if "request" in a else 0
    if "request" in a:
        a["request"]["http"].pop("id", None)
        a["request"]["http"].get("headers", {}).pop("x-forwarded-for", None)
    for k in ("source", "destination"):
        a[k]["address"]["socket_address"].pop("port_value", None)
    # The order of distinct headers says nothing.
    for h in [d.get("attributes", {}).get("request", {}).get("http", {}).get("header_map", {})]:
        h.get("headers", []).sort(key=lambda v: v["key"])
    seen.append(("authz", json.dumps(d, sort_keys=True)))
    p = req.attributes.request.http.path if req.attributes.HasField("request") else "tcp"
    r = A.CheckResponse()
    if p.startswith("/err"):
        ctx.abort(grpc.StatusCode.INTERNAL, "boo")
    if p.startswith("/slow"):
        time.sleep(1)
    if p.startswith("/deny"):
        r.status.code = 7
        if "plain" in p:
            return r
        r.denied_response.status.code = 0 if "nostatus" in p else 418
        r.denied_response.body = "no tea"
        r.denied_response.headers.extend(
            [
                HV("x-d", "1"),
                HV("set-cookie", "a"),
                HV("set-cookie", "b"),
                HV("content-type", "text/x"),
                HV("X-Up", "q", append=True),
            ]
        )
    elif p.startswith("/ok"):
        r.ok_response.headers.extend(
            [
                HV("x-a", "new"),
                HV("x-b", "set", append=False),
                HV("x-c", "app", append=True),
                HV("x-none", "app", append=True),
                HV("x-e", "e", action=1),
                HV("x-f", "f", action=2),
                HV("x-g", "g", action=3),
            ]
        )
        r.ok_response.headers_to_remove.extend(["x-rm", ":path", "host"])
        r.ok_response.response_headers_to_add.extend(
            [
                HV("x-r", "1"),
                HV("x-r", "2"),
                HV("server", "me", append=False),
                HV("x-ra", "q", action=1),
                HV("x-up", "o", action=2),
                HV("x-no", "o", action=3),
            ]
        )
        r.ok_response.query_parameters_to_set.extend(
            [C.QueryParameter(key="z", value="1"), C.QueryParameter(key="b", value="9")]
        )
        r.ok_response.query_parameters_to_remove.append("c")
        r.dynamic_metadata.update({"k": "v", "n": 1})
    elif p.startswith("/to"):
        r.ok_response.headers.extend([HV(":path", "/elsewhere")])
    elif p.startswith("/herr"):
        r.status.code = 2
        r.error_response.status.code = 503
        r.error_response.body = "eb"
    return r


s = grpc.server(futures.ThreadPoolExecutor(8))
s.add_generic_rpc_handlers(
    (
        grpc.method_handlers_generic_handler(
            "envoy.service.auth.v3.Authorization",
            {
                "Check": grpc.unary_unary_rpc_method_handler(
                    check,
                    request_deserializer=A.CheckRequest.FromString,
                    response_serializer=A.CheckResponse.SerializeToString,
                )
            },
        ),
    )
)
gp = s.add_insecure_port("127.0.0.1:0")
s.start()
up = server("up", lambda h, b: (200, [("x-up", "u")], b"ok"))


def ha(h, b):
    if "deny" in h.path:
        return (
            401,
            [("x-d", "1"), ("x-secret", "s"), ("www-authenticate", "W"), ("location", "L"), ("content-type", "text/q")],
            b"denied",
        )
    if "e500" in h.path:
        return (503, [], b"")
    if "redir" in h.path:
        return (302, [("location", "/login")], b"")
    return (
        200,
        [("x-a", "1"), ("x-app", "2"), ("x-c", "3"), ("x-m", "m"), ("x-envoy-auth-headers-to-remove", "x-rm, x-q")],
        b"body",
    )


hp = server("http-authz", ha)
EA = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
PR = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
TO = [
    {"match": {"prefix": "/elsewhere"}, "direct_response": {"status": 200, "body": {"inline_string": "else"}}},
    {
        "match": {"prefix": "/off"},
        "route": {"cluster": "up"},
        "typed_per_filter_config": {"envoy.filters.http.ext_authz": {"@type": PR, "disabled": True}},
    },
    {
        "match": {"prefix": "/ctx"},
        "route": {"cluster": "up"},
        "typed_per_filter_config": {
            "envoy.filters.http.ext_authz": {
                "@type": PR,
                "check_settings": {"context_extensions": {"a": "b"}, "disable_request_body_buffering": True},
            }
        },
    },
    {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
]


def mk(c, routes=TO, pre=[], gh2=True, logx="%DYNAMIC_METADATA(envoy.filters.http.ext_authz:k)%"):
    c = dict({"transport_api_version": "V3"}, **c)
    return lambda lp, ap, log: boot(
        pre + [("envoy.filters.http.ext_authz", EA, c)],
        routes,
        [cluster("up", up), cluster("az", gp, True), cluster("haz", hp)],
        lp,
        ap,
        log,
        logx=logx,
        vhost={"typed_per_filter_config": {}},
    )


G = {"grpc_service": {"envoy_grpc": {"cluster_name": "az"}, "timeout": "0.4s"}}
reqs = [
    req("/plainok"),
    req("/ok?a=1&c=2&b=3", headers="x-a: old\nx-b: old\nx-c: old\nx-e: old\nx-g: old\nx-rm: 1"),
    req("/ok"),
    req("/deny"),
    req("/deny-plain"),
    req("/deny-nostatus"),
    req("/deny", method="HEAD"),
    req("/deny", method="POST", headers="content-type: application/grpc", body="abcde"),
    req("/err"),
    req("/slow"),
    req("/off"),
    req("/ctx"),
    req("/to"),
    req("/herr"),
    req("/x", headers="a: 1\nA: 2\nx-envoy-downstream-service-cluster: sc"),
    req("/deny", method="POST", body="hello"),
]
W = sys.argv[1:]


def t(n):
    return not W or n in W


if t("grpc"):
    run("grpc", mk(G), reqs)
if t("grpc2"):
    run(
        "grpc2",
        mk(
            dict(
                G,
                failure_mode_allow=True,
                failure_mode_allow_header_add=True,
                clear_route_cache=True,
                stat_prefix="sp",
                validate_mutations=True,
                include_tls_session=True,
                status_on_error={"code": "ServiceUnavailable"},
                allowed_headers={"patterns": [{"prefix": "x-"}, {"exact": ":path"}]},
                disallowed_headers={"patterns": [{"exact": "x-b"}]},
            )
        ),
        reqs,
    )
if t("grpc3"):
    run(
        "grpc3",
        mk(
            dict(
                G,
                status_on_error={"code": "ServiceUnavailable"},
                encode_raw_headers=True,
                filter_enabled={"default_value": {"numerator": 100}},
            )
        ),
        reqs,
    )
if t("body"):
    run(
        "body",
        mk(dict(G, with_request_body={"max_request_bytes": 10})),
        [
            req("/x", method="POST", body="short"),
            req("/x", method="POST", body="x" * 11),
            req("/x", method="POST", body="0123456789"),
            req("/x"),
            req("/ctx", method="POST", body="ccc"),
            req("/deny", method="POST", body="short"),
            "POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        ],
    )
if t("partial"):
    run(
        "partial",
        mk(dict(G, with_request_body={"max_request_bytes": 10, "allow_partial_message": True, "pack_as_bytes": True})),
        [
            req("/x", method="POST", body="short"),
            req("/x", method="POST", body="x" * 11),
            req("/x", method="POST", body="y" * 100000),
            req("/deny", method="POST", body="y" * 1000),
        ],
    )
RB = (
    "envoy.filters.http.rbac",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    {
        "shadow_rules": {
            "action": "DENY",
            "policies": {
                "istio-ext-authz-x": {
                    "permissions": [{"url_path": {"path": {"prefix": "/deny"}}}],
                    "principals": [{"any": True}],
                }
            },
        },
        "shadow_rules_stat_prefix": "istio_ext_authz_",
    },
)
if t("gate"):
    run(
        "gate",
        mk(
            dict(
                G,
                filter_enabled_metadata={
                    "filter": "envoy.filters.http.rbac",
                    "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
                    "value": {"string_match": {"prefix": "istio-ext-authz"}},
                },
            ),
            pre=[RB],
        ),
        [req("/deny"), req("/free"), req("/ok")],
    )
if t("dis"):
    run(
        "dis",
        mk(
            dict(
                G,
                filter_enabled={"default_value": {"numerator": 0}},
                deny_at_disable={"default_value": True, "runtime_key": "k"},
            )
        ),
        [req("/x")],
    )
H = {
    "http_service": {"server_uri": {"uri": "http://haz:80", "cluster": "haz", "timeout": "0.5s"}, "path_prefix": "/pre"}
}
hreq = [
    req("/ok?x=1", headers="authorization: a\nx-a: old\nx-app: old\nx-rm: 1\nfoo: bar\ncookie: c"),
    req("/deny"),
    req("/e500"),
    req("/redir"),
    req("/ok", method="POST", body="hello"),
    req("/deny", method="HEAD"),
]
if t("http"):
    run("http", mk(H), hreq)
H2 = json.loads(json.dumps(H))
H2["http_service"].update(
    {
        "authorization_request": {"headers_to_add": [{"key": "x-add", "value": "v"}]},
        "authorization_response": {
            "allowed_upstream_headers": {"patterns": [{"exact": "x-a"}, {"exact": "x-new"}]},
            "allowed_upstream_headers_to_append": {"patterns": [{"exact": "x-app"}]},
            "allowed_client_headers": {"patterns": [{"exact": "x-d"}]},
            "allowed_client_headers_on_success": {"patterns": [{"exact": "x-c"}]},
            "dynamic_metadata_from_headers": {"patterns": [{"prefix": "x-m"}]},
        },
    }
)
if t("http2"):
    run(
        "http2",
        mk(dict(H2, allowed_headers={"patterns": [{"exact": "foo"}]}, with_request_body={"max_request_bytes": 100})),
        hreq,
    )
if t("nocl"):
    run(
        "nocl",
        mk({"http_service": {"server_uri": {"uri": "http://haz:80", "cluster": "up", "timeout": "0.5s"}}}),
        hreq[:2],
    )
