"""Cases for the filters that need no service of their own: csrf, cors, buffer, decompressor, gRPC, metadata and state, sessions, local limits."""

import harness
from harness import *
import base64
import gzip

harness.STAT = re.compile(
    r"csrf|cors|decompressor|grpc|local_rate_limit|rate_limit|lrl|http\.t\.downstream_rq_[0-9]|cluster\.\w+\.upstream_rq_(\d|completed|total)"
)
V = "envoy.extensions.filters.http."
T = "type.googleapis.com/"


def frame(message, flags=0):
    return bytes([flags]) + len(message).to_bytes(4, "big") + message


def answer(h, body):
    path = h.path
    if "gzip" in path:
        return (200, [("content-type", "text/plain"), ("content-encoding", "gzip")], gzip.compress(b"plain text " * 20, mtime=0))
    if "broken" in path:
        return (200, [("content-encoding", "gzip")], b"not gzip at all")
    if "web" in path:
        return (200, [("content-type", "application/grpc"), ("grpc-status", "0"), ("grpc-message", "fine")], b"")
    if "bridge" in path:
        return (200, [("content-type", "application/grpc"), ("grpc-status", "5"), ("grpc-message", "no such")], b"")
    if "meta" in path:
        return (200, [("x-to", "value"), ("x-num", "17")], b"m")
    return (200, [("x-up", "u")], b"up:" + body)


up = server("up", answer)
two = server("two", answer)


def route(prefix, per=None, **more):
    r = {"match": {"prefix": prefix}, "route": dict({"cluster": "up"}, **more)}
    if per:
        r["typed_per_filter_config"] = {n: dict({"@type": T + t}, **c) for n, (t, c) in per.items()}
    return r


def mk(filters, routes=None, logx="", vhost={}, clusters=None, hcm={}, net=[]):
    return lambda lp, ap, log: boot(
        filters, routes or [route("/")], clusters or [cluster("up", up)], lp, ap, log, vhost=vhost, logx=logx, hcm=hcm, net=net
    )


W = sys.argv[1:]


def t(n):
    return not W or n in W


full = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
none = {"default_value": {"numerator": 0, "denominator": "HUNDRED"}}

if t("csrf"):
    c = {"filter_enabled": full, "additional_origins": [{"exact": "friend"}, {"suffix": ".ok"}]}
    shadow = {"filter_enabled": none, "shadow_enabled": full}
    routes = [route("/shadow", {"csrf": (V + "csrf.v3.CsrfPolicy", shadow)}), route("/")]
    requests = [
        req("/", method=m, headers=h, body=b)
        for m, b in (("GET", ""), ("POST", "x"), ("PUT", "x"), ("DELETE", ""), ("PATCH", "x"), ("OPTIONS", ""))
        for h in ("", "origin: http://h", "origin: http://evil", "origin: http://friend", "referer: http://h/x")
    ]
    requests += [
        req("/", method="POST", headers=h)
        for h in (
            "origin: null\nreferer: http://h/",
            "origin: http://x.ok",
            "origin: http://h:80",
            "origin: h",
            "origin: ",
            "origin: https://h/path",
            "origin: http://H",
        )
    ]
    requests += [req("/shadow", method="POST", headers="origin: http://evil"), req("/shadow", method="POST")]
    run("csrf", mk([("csrf", V + "csrf.v3.CsrfPolicy", c)], routes), requests)

if t("cors"):
    policy = {
        "allow_origin_string_match": [{"exact": "http://a"}, {"safe_regex": {"regex": "http://.*\\.b"}}],
        "allow_methods": "GET,PUT",
        "allow_headers": "x-h",
        "expose_headers": "x-e",
        "max_age": "60",
        "allow_credentials": True,
        "allow_private_network_access": True,
    }
    P = V + "cors.v3.CorsPolicy"
    routes = [
        route("/any", {"cors": (P, {"allow_origin_string_match": [{"safe_regex": {"regex": ".*"}}], "forward_not_matching_preflights": False})}),
        route("/shadow", {"cors": (P, dict(policy, filter_enabled=none, shadow_enabled=full))}),
        route("/off", {"cors": (P, dict(policy, filter_enabled=none))}),
        route("/"),
    ]
    vhost = {"typed_per_filter_config": {"cors": dict({"@type": T + P}, **policy)}}
    requests = [
        req(p, method=m, headers=h)
        for p in ("/", "/any", "/shadow", "/off")
        for m in ("GET", "OPTIONS")
        for h in (
            "",
            "origin: http://a",
            "origin: http://x.b",
            "origin: http://evil",
            "origin: http://a\naccess-control-request-method: PUT\naccess-control-request-headers: x-y",
            "origin: http://evil\naccess-control-request-method: PUT",
            "origin: http://a\naccess-control-request-method: PUT\naccess-control-request-private-network: true",
        )
    ]
    run("cors", mk([("cors", V + "cors.v3.Cors", {})], routes, vhost=vhost), requests)

if t("buffer"):
    B = V + "buffer.v3.Buffer"
    P = V + "buffer.v3.BufferPerRoute"
    routes = [
        route("/more", {"buffer": (P, {"buffer": {"max_request_bytes": 20}})}),
        route("/off", {"buffer": (P, {"disabled": True})}),
        route("/"),
    ]
    chunked = "POST %s HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nabcde\r\n3\r\nfgh\r\n0\r\n\r\n"
    requests = [req(p, method="POST", body=b) for p in ("/", "/more", "/off") for b in ("", "abc", "x" * 12)]
    requests += [chunked % "/", chunked % "/more", chunked % "/off"]
    run("buffer", mk([("buffer", B, {"max_request_bytes": 10})], routes), requests)

if t("decompressor"):
    lib = {"name": "gz", "typed_config": {"@type": T + "envoy.extensions.compression.gzip.decompressor.v3.Gzip"}}
    packed = gzip.compress(b"hello " * 50, mtime=0)

    def post(path, body, more=""):
        head = f"POST {path} HTTP/1.1\r\nhost: h\r\n{more}content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        return head.encode() + body

    requests = [
        post("/", packed, "content-encoding: gzip\r\n"),
        post("/", packed, "content-encoding: br\r\n"),
        post("/", packed, "content-encoding: gzip\r\ncache-control: no-transform\r\n"),
        post("/", b"plain"),
        req("/gzip"),
        req("/gzip", headers="accept-encoding: br"),
        req("/x"),
    ]
    for name, c in (
        ("both", {}),
        ("request only", {"response_direction_config": {"common_config": {"enabled": {"default_value": False, "runtime_key": "r"}}}}),
        ("advertise", {"request_direction_config": {"advertise_accept_encoding": True}}),
    ):
        run("decompressor " + name, mk([("d", V + "decompressor.v3.Decompressor", dict({"decompressor_library": lib}, **c))]), requests)

if t("grpc"):
    message = frame(b"payload")
    text = base64.b64encode(message)

    def call(path, kind, body, more=""):
        head = f"POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        return head.encode() + body

    web = [
        call("/s.S/web", "application/grpc-web", message),
        call("/s.S/web", "application/grpc-web+proto", message, "accept: application/grpc-web-text\r\n"),
        call("/s.S/web", "application/grpc-web-text", text),
        call("/s.S/web", "application/grpc-web-text+proto", text),
        call("/s.S/web", "application/grpc", message),
        call("/s.S/x", "text/plain", b"x"),
        req("/s.S/web"),
    ]
    run("grpc_web", mk([("w", V + "grpc_web.v3.GrpcWeb", {})]), web)
    calls = [
        call("/s.S/web", "application/grpc", message),
        call("/s.S/web", "application/grpc", message + message),
        call("/s.S/bridge", "application/grpc", message),
        call("/other.O/M", "application/grpc", message),
        call("/noslash", "application/grpc", message),
        call("/s.S/web", "application/json", b"{}"),
        req("/s.S/web"),
    ]
    for name, c in (
        ("all methods", {"stats_for_all_methods": True, "emit_filter_state": True}),
        ("one method", {"individual_method_stats_allowlist": {"services": [{"name": "s.S", "method_names": ["web"]}]}}),
        ("upstream", {"stats_for_all_methods": False, "enable_upstream_stats": True}),
    ):
        run("grpc_stats " + name, mk([("s", V + "grpc_stats.v3.FilterConfig", c)], logx="%FILTER_STATE(envoy.filters.http.grpc_stats:PLAIN)%"), calls)
    bridged = calls + [call("/s.S/bridge", "application/x-protobuf", b"payload")]
    for name, c in (("plain", {}), ("protobuf", {"upgrade_protobuf_to_grpc": True})):
        run("grpc_http1_bridge " + name, mk([("b", V + "grpc_http1_bridge.v3.Config", c)]), bridged)

if t("metadata"):
    c = {
        "request_rules": [
            {"header": "x-a", "on_header_present": {"metadata_namespace": "ns", "key": "a"}, "remove": True},
            {"header": "x-b", "on_header_present": {"key": "b", "value": "fixed"}, "on_header_missing": {"metadata_namespace": "ns", "key": "b", "value": "gone"}},
            {"header": "x-n", "on_header_present": {"metadata_namespace": "ns", "key": "n", "type": "NUMBER"}},
            {"header": "x-p", "on_header_present": {"metadata_namespace": "ns", "key": "p", "type": "PROTOBUF_VALUE", "encode": "BASE64"}},
            {"header": "x-r", "on_header_present": {"metadata_namespace": "ns", "key": "r", "regex_value_rewrite": {"pattern": {"regex": "^/(\\w+)/.*$"}, "substitution": "\\1"}}},
            {"cookie": "ck", "on_header_present": {"metadata_namespace": "ns", "key": "c"}, "on_header_missing": {"metadata_namespace": "ns", "key": "c", "value": "none"}},
        ],
        "response_rules": [
            {"header": "x-to", "on_header_present": {"metadata_namespace": "ns", "key": "to"}, "remove": True},
            {"header": "x-num", "on_header_present": {"metadata_namespace": "ns", "key": "num", "type": "NUMBER"}},
        ],
    }
    requests = [
        req("/meta", headers=h)
        for h in (
            "",
            "x-a: 1\nx-b: 2",
            "x-a: 1\nx-a: 2",
            "x-n: 12.5",
            "x-n: no",
            "x-r: /users/1",
            "x-r: nothing",
            "cookie: ck=v; other=1",
            "x-p: " + base64.b64encode(b"\x1a\x03abc").decode(),
            "x-p: ???",
            "x-a: ",
        )
    ]
    run("header_to_metadata", mk([("h", V + "header_to_metadata.v3.Config", c)], logx="%DYNAMIC_METADATA(ns)% %DYNAMIC_METADATA(envoy.lb)%"), requests)

    def value(key, text, **more):
        return dict({"object_key": key, "factory_key": "envoy.string", "format_string": {"text_format_source": {"inline_string": text}}}, **more)

    c = {"on_request_headers": [value("one", "%REQ(x-a)%"), value("two", "%REQ(x-b)%", skip_if_empty=True, read_only=True), value("three", "%PROTOCOL%-%REQ(:METHOD)%", shared_with_upstream="ONCE")]}
    n = {"on_new_connection": [value("net", "n:%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", shared_with_upstream="TRANSITIVE")]}
    net = [{"name": "n", "typed_config": dict({"@type": T + "envoy.extensions.filters.network.set_filter_state.v3.Config"}, **n)}]
    logx = " ".join(f"%FILTER_STATE({k}:PLAIN)%" for k in ("one", "two", "three", "net"))
    requests = [req("/", headers=h) for h in ("", "x-a: 1", "x-a: 1\nx-b: 2", "x-b: 3")]
    run("set_filter_state", mk([("f", V + "set_filter_state.v3.Config", c)], logx=logx, net=net), requests)

if t("session"):
    both = cluster("up", up)
    both["load_assignment"]["endpoints"][0]["lb_endpoints"].append(
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": two}}}}
    )

    def state(kind, **c):
        return {"session_state": {"name": "envoy.http.stateful_session." + kind, "typed_config": dict({"@type": T + f"envoy.extensions.http.stateful_session.{kind}.v3." + ("CookieBasedSessionState" if kind == "cookie" else "HeaderBasedSessionState")}, **c)}}

    def cookie(port):
        return base64.b64encode(f"127.0.0.1:{port}".encode()).decode()

    S = V + "stateful_session.v3.StatefulSession"
    ck = {"cookie": {"name": "sid", "path": "/p"}}
    # Which host a request without a session gets is chance, and with it the session that is told: only chosen hosts are compared.
    requests = [req(p, headers=f"cookie: sid={cookie(port)}") for p in ("/p/x", "/p") for port in (up, two)]
    requests += [req("/p", headers=f"cookie: a=b; sid={cookie(two)}")]
    run("stateful_session cookie", mk([("s", S, state("cookie", **ck))], clusters=[both]), requests)
    requests = [req("/p", headers=f"x-sid: {cookie(port)}") for port in (up, two)]
    run("stateful_session header", mk([("s", S, state("header", name="x-sid"))], clusters=[both]), requests)
    strict = dict(state("header", name="x-sid"), strict=True)
    requests += [req("/p", headers=f"x-sid: {cookie(1)}")]
    run("stateful_session strict", mk([("s", S, strict)], clusters=[both]), requests)
    # One host, so that all sessions are known.
    for name, c in (("cookie", state("cookie", **ck)), ("header", state("header", name="x-sid"))):
        requests = [req("/p/x"), req("/q"), req("/p", headers="cookie: sid=%%%\nx-sid: %%%"), req("/p", headers=f"cookie: sid={cookie(9)}\nx-sid: {cookie(9)}")]
        run("stateful_session new " + name, mk([("s", S, c)]), requests)

if t("limit"):
    L = V + "local_ratelimit.v3.LocalRateLimit"

    def bucket(n):
        return {"max_tokens": n, "tokens_per_fill": n, "fill_interval": "600s"}

    def entries(*pairs):
        return [{"key": k, **({"value": v} if v else {})} for k, v in pairs]

    base = {
        "stat_prefix": "lrl",
        "token_bucket": bucket(100),
        "filter_enabled": full,
        "filter_enforced": full,
        "response_headers_to_add": [{"header": {"key": "x-limited", "value": "yes"}}],
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "descriptors": [
            {"entries": entries(("who", "a")), "token_bucket": bucket(2)},
            {"entries": entries(("who", "b"), ("path", "/p")), "token_bucket": bucket(1)},
            {"entries": entries(("who", "")), "token_bucket": bucket(3)},
        ],
    }
    limits = {"rate_limits": [
        {"actions": [{"request_headers": {"header_name": "x-who", "descriptor_key": "who"}}]},
        {"actions": [{"request_headers": {"header_name": "x-who", "descriptor_key": "who"}}, {"request_headers": {"header_name": ":path", "descriptor_key": "path"}}]},
    ]}
    requests = [req("/p", headers=h) for h in ("", "x-who: a", "x-who: a", "x-who: a", "x-who: b", "x-who: b", "x-who: c", "x-who: c", "x-who: c", "x-who: c", "x-who: d")]
    for name, c in (
        ("descriptors", {}),
        ("not enforced", {"filter_enforced": none}),
        ("grpc and status", {"rate_limited_as_resource_exhausted": True, "status": {"code": "ServiceUnavailable"}}),
        ("request headers", {"request_headers_to_add_when_not_enforced": [{"header": {"key": "x-over", "value": "1"}}], "filter_enforced": none}),
        ("small", {"token_bucket": bucket(3), "descriptors": []}),
    ):
        run("local_ratelimit " + name, mk([("l", L, dict(base, **c))], [route("/", **limits)]), requests + [req("/p", method="POST", headers="x-who: a\ncontent-type: application/grpc")])
