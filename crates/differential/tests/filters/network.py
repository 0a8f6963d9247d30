"""Cases for byte streams: TCP proxy, RBAC, limits, PROXY protocol in and out, forwarding by SNI."""

import harness
from streams import *

harness.STAT = re.compile(
    r"rbac|connection_limit|limit|lrl|tunnel|proxy_proto|tcp\.(t\.)?(?!.*(bytes|time|_active))|http\.t\.downstream_rq_[0-9]|cluster\.\w+\.upstream_(rq_(total|pending_total)|cx_(total|connect_fail|none_healthy))"
)
def tunnel(c):
    head = b""
    while b"\r\n\r\n" not in head:
        more = c.recv(65536)
        if not more:
            return
        head += more
    head, _, rest = head.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    seen.append(("tunnel", lines[0], sorted(l for l in lines[1:] if not l.lower().startswith("x-request-id"))))
    if "refuse" in lines[0]:
        c.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        return
    c.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    rest = rest or c.recv(65536)
    c.sendall(b"through:" + rest)


a, b = stream("a", echo("a")), stream("b", echo("b"))
tunnels = stream("tunnel", tunnel)
up = server("up", lambda h, body: (200, [], b"up"))


W = sys.argv[1:]


def t(n):
    return not W or n in W


def any_source(prefix, length):
    return {"permissions": [{"any": True}], "principals": [{"direct_remote_ip": {"address_prefix": prefix, "prefix_len": length}}]}


if t("tcp"):
    run("plain", tcp([], [hosts("a", a)]), [b"one", b"two"])
    weighted = {"weighted_clusters": {"clusters": [{"name": "b", "weight": 7}]}}
    run("weighted", tcp([], [hosts("a", a), hosts("b", b)], weighted), [b"one"] * 2)
    shares = {"weighted_clusters": {"clusters": [{"name": "a", "weight": 30}, {"name": "b", "weight": 70}]}}

    def shared(port):
        """Out of 300 connections, within seven standard deviations."""
        got = sum(raw(port, b"x").startswith(b"a:") for _ in range(300))
        seen.clear()
        return b"as weighted" if 34 < got < 146 else b"%d of 300" % got

    run("reset", tcp([], [hosts("a", a)]), [reset])
    run("reset by the host", tcp([], [hosts("a", stream("resets", resets))]), [b"one"])
    whole, harness.STAT = harness.STAT, re.compile("none is compared")
    run("weighted, several", tcp([], [hosts("a", a), hosts("b", b)], shares, logged="one"), [shared])
    harness.STAT = whole
    run("no host", tcp([], [hosts("a", 1)]), [b"one"])
    run("retries", tcp([], [hosts("a", 1)], {"max_connect_attempts": 3}), [b"one"])
    missing = {"cluster": "missing"}
    run("no cluster", tcp([], [hosts("a", a)], missing), [b"one"])
    for policy in ("RING_HASH", "MAGLEV"):
        both = hosts("a", a, b, lb_policy=policy)
        run("hash by source " + policy, tcp([], [both], {"hash_policy": [{"source_ip": {}}]}), [b"one"] * 3)
        for key in ("k1", "k2", "other"):
            value = {"object_key": "k", "factory_key": "envoy.hashable_string", "format_string": {"text_format_source": {"inline_string": key}}}
            state = net("s", "set_filter_state.v3.Config", on_new_connection=[value])
            run(f"hash by state {policy} {key}", tcp([state], [both], {"hash_policy": [{"filter_state": {"key": "k"}}]}), [b"one"])

if t("tunnel"):
    for host in ("host:443", "refuse:1", "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%:8"):
        c = {"tunneling_config": {"hostname": host, "headers_to_add": [{"header": {"key": "x-added", "value": "%PROTOCOL%v"}}]}}
        run("tunnel " + host, tcp([], [hosts("a", tunnels)], c), [b"hello"])

if t("rbac"):
    inside, outside = any_source("127.0.0.0", 8), any_source("10.0.0.0", 8)
    logx = "%DYNAMIC_METADATA(envoy.filters.network.rbac)%"
    for name, c in (
        ("allow", {"rules": {"action": "ALLOW", "policies": {"in": inside}}}),
        ("refuse", {"rules": {"action": "ALLOW", "policies": {"out": outside}}}),
        ("deny", {"rules": {"action": "DENY", "policies": {"in": inside, "out": outside}}}),
        ("log", {"rules": {"action": "LOG", "policies": {"in": inside}}}),
        ("shadow", {"shadow_rules": {"action": "ALLOW", "policies": {"out": outside}}, "shadow_rules_stat_prefix": "sh_"}),
        ("both", {"rules": {"action": "ALLOW", "policies": {"in": inside}}, "shadow_rules": {"action": "DENY", "policies": {"in": inside}}}),
        ("none", {}),
        ("empty", {"rules": {}}),
    ):
        rbac = net("r", "rbac.v3.RBAC", stat_prefix="x.", **c)
        # What is asked of the host before a refusal: docs/differences.md.
        refused = name in ("refuse", "deny", "empty")
        kept = harness.STAT
        if refused:
            harness.STAT = re.compile("rbac")
        logged = "%RESPONSE_FLAGS% %CONNECTION_TERMINATION_DETAILS%" if refused else LOGGED
        run("rbac " + name, tcp([rbac], [hosts("a", a)], logx=logx, logged=logged), [b"one", b"two"])
        harness.STAT = kept

if t("authz"):
    import grpc
    from google.protobuf import json_format
    from envoy.service.auth.v3 import external_auth_pb2 as auth

    def check(request, context):
        said = json_format.MessageToDict(request)
        for side in ("source", "destination"):
            if side == "source" or said["attributes"][side]["address"]["socketAddress"]["portValue"]:
                said["attributes"][side]["address"]["socketAddress"]["portValue"] = "*"
        said["attributes"].get("request", {}).pop("time", None)
        seen.append(("check", json.dumps(said, sort_keys=True)))
        answer = auth.CheckResponse()
        answer.dynamic_metadata.update({"who": "me"})
        if verdict[0] == "error":
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if verdict[0] == "late":
            time.sleep(1)
        answer.status.code = 7 if verdict[0] == "denied" else 0
        return answer

    verdict = ["ok"]
    service = grpc.server(futures.ThreadPoolExecutor(4))
    handlers = {"Check": grpc.unary_unary_rpc_method_handler(check, auth.CheckRequest.FromString, auth.CheckResponse.SerializeToString)}
    service.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", handlers),))
    authz = service.add_insecure_port("127.0.0.1:0")
    service.start()

    def judged(kind):
        def go(port):
            verdict[0] = kind
            return raw(port, b"hello")

        return go

    asked = {"envoy_grpc": {"cluster_name": "az"}, "timeout": "0.3s"}
    for name, c in (
        ("", {}),
        (" fails open", {"failure_mode_allow": True}),
        (" for some", {"filter_enabled_metadata": {"filter": "x", "path": [{"key": "y"}], "value": {"present_match": True}}}),
    ):
        filters = [net("z", "ext_authz.v3.ExtAuthz", stat_prefix="z", transport_api_version="V3", grpc_service=asked, **c)]
        # What is asked of the host before a refusal: docs/differences.md.
        whole, harness.STAT = harness.STAT, re.compile(r"ext_authz\.z\.(?!disabled)|^tcp\.t\.downstream_cx_total")
        logged = "%RESPONSE_FLAGS% %CONNECTION_TERMINATION_DETAILS% %DYNAMIC_METADATA(envoy.filters.network.ext_authz)%"
        made = tcp(filters, [hosts("a", a), cluster("az", authz, True)], logged=logged)
        run("ext_authz" + name, made, [judged(k) for k in ("ok", "denied", "error", "late")])
        harness.STAT = whole

if t("limit"):

    def three(port):
        open_ = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        out = []
        for i, s in enumerate(open_):
            s.settimeout(5)
            try:
                # A refused one is closed without being asked.
                if i < 2:
                    s.sendall(b"x")
                out.append(s.recv(100))
            except OSError:
                out.append(b"reset")
        return b" ".join(out)

    # The third connection finds two: none of them ends before it was asked.
    limit = net("c", "connection_limit.v3.ConnectionLimit", stat_prefix="cl", max_connections=2)
    run("connection_limit", tcp([limit], [hosts("a", a)]), [three])
    rate = net("l", "local_ratelimit.v3.LocalRateLimit", stat_prefix="lrl", token_bucket={"max_tokens": 2, "tokens_per_fill": 2, "fill_interval": "600s"})
    run("local_ratelimit", tcp([rate], [hosts("a", a)]), [b"one", b"two", lambda port: raw(port, b"")])

V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(command, family, body):
    return V2 + bytes([0x20 | command, family]) + struct.pack(">H", len(body)) + body


if t("proxy"):
    four = bytes([1, 2, 3, 4, 5, 6, 7, 8]) + struct.pack(">HH", 10, 20)
    tlv = b"\x02\x00\x04name" + b"\xe0\x00\x02hi"
    whole = req("/").encode()
    inputs = [
        b"PROXY TCP4 1.2.3.4 5.6.7.8 10 20\r\n" + whole,
        b"PROXY TCP6 1::2 3::4 10 20\r\n" + whole,
        b"PROXY UNKNOWN\r\n" + whole,
        b"PROXY UNKNOWN more words\r\n" + whole,
        v2(1, 0x11, four) + whole,
        v2(1, 0x11, four + tlv) + whole,
        v2(1, 0x21, bytes([0, 1] + [0] * 13 + [2]) + bytes(15) + b"\x01" + struct.pack(">HH", 10, 20)) + whole,
        v2(0, 0x00, b"") + whole,
        v2(0, 0x11, four) + whole,
        # Those that Envoy does not take.
        b"PROXY TCP4 1.2.3.4 5.6.7.8 10\r\n" + whole,
        b"PROXY TCP4 1.2.3.4 5.6.7.8 10 99999\r\n" + whole,
        b"PROXY TCP4 1.2.3 5.6.7.8 10 20\r\n" + whole,
        b"PROXY TCP5 1.2.3.4 5.6.7.8 10 20\r\n" + whole,
        b"PROXY " + b"x" * 120 + b"\r\n" + whole,
        v2(1, 0x12, four) + whole,
        v2(1, 0x11, four[:8]) + whole,
        V2 + bytes([0x31, 0x11]) + struct.pack(">H", 12) + four + whole,
        whole,
    ]
    P = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
    rules = [{"tlv_type": 2, "on_tlv_present": {"metadata_namespace": "pp", "key": "authority"}}]
    for name, c in (("required", {"rules": rules}), ("optional", {"allow_requests_without_proxy_protocol": True}), ("only v1", {"disallowed_versions": ["V2"]})):

        def mk(lp, ap, log, c=c):
            logx = "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DYNAMIC_METADATA(pp)%"
            made = boot([], [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}], [cluster("up", up)], lp, ap, log, logx=logx if c.get("rules") else "")
            made["static_resources"]["listeners"][0]["listener_filters"] = [{"name": "pp", "typed_config": dict({"@type": T + P}, **c)}]
            return made

        # Where no addresses are told, those of the connection are logged: its ports are chance.
        sent = [i for i in inputs if c.get("rules") is None or b"UNKNOWN" not in i and i[12:13] != b"\x20"]
        run("proxy_protocol " + name, mk, sent)
    for version in ("V1", "V2"):
        socket_ = {
            "name": "pp",
            "typed_config": {
                "@type": T + "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
                "config": {"version": version},
                "transport_socket": {"name": "raw", "typed_config": {"@type": T + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}},
            },
        }
        filters = {"listener_filters": [{"name": "pp", "typed_config": {"@type": T + P}}]}
        c = tcp([], [hosts("a", stream("gathers", gathers), transport_socket=socket_)], listener=filters)
        run("proxy_protocol out " + version, c, [inputs[0].replace(whole, b"data"), inputs[1].replace(whole, b"data")])

if t("sni"):
    tls = Identities().common("localhost", [])["tls_certificates"][0]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls["certificate_chain"]["filename"], tls["private_key"]["filename"])

    def secret(c):
        with context.wrap_socket(c, server_side=True) as s:
            s.sendall(b"secret:" + s.recv(100))

    secrets = stream("secret", secret)

    def shake(sni):
        def go(port):
            client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
            try:
                with socket.create_connection(("127.0.0.1", port)) as c:
                    c.settimeout(5)
                    with client.wrap_socket(c, server_hostname=sni) as s:
                        s.sendall(b"hello")
                        return s.recv(100)
            except OSError:
                return b"closed"

        return go

    cache = {"name": "cache", "dns_lookup_family": "V4_ONLY"}
    dynamic = {
        "name": "a",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "1s",
        "cluster_type": {
            "name": "envoy.clusters.dynamic_forward_proxy",
            "typed_config": {"@type": T + "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig", "dns_cache_config": cache},
        },
    }
    sni = {
        "name": "sni",
        "typed_config": {
            "@type": T + "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
            "dns_cache_config": cache,
            "port_value": secrets,
        },
    }
    inspector = {"name": "tls", "typed_config": {"@type": T + "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}
    logged = "%RESPONSE_FLAGS% %REQUESTED_SERVER_NAME% %UPSTREAM_CLUSTER%"
    listener = {"listener_filters": [inspector]}
    run("sni_dynamic_forward_proxy", tcp([sni], [dynamic], listener=listener, logged=logged), [shake("localhost"), shake("nowhere.invalid"), b"plain"])
