"""Cases for what is watched and told: active health checks, outlier detection, access logs over gRPC and OpenTelemetry."""

import harness
from harness import *
import grpc
from google.protobuf import json_format as JF

harness.STAT = re.compile(
    # Whether a gauge of nothing was ever touched is not told.
    r"^(?!.*: 0$).*(health_check\.(healthy|degraded|passive_failure|verify_cluster)|membership_(healthy|degraded|excluded|total)|outlier|access_logs\.\w+\.logs_|http\.t\.downstream_rq_[0-9]|cluster\.u\.upstream_rq_\d)"
)
T = "type.googleapis.com/"
# Of each side, by the port of its listener.
EVENTS = {}


def answering(status, body):
    """A server whose requests are not noted: health checks come when they come."""

    class H(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *a):
            pass

        def do_GET(self):
            code = status if self.path != "/well" else 200
            self.send_response_only(code)
            for k, v in (("content-length", str(len(body))),) + ((("x-envoy-degraded", "1"),) if body == b"slow" else ()):
                self.send_header(k, v)
            self.end_headers()
            self.wfile.write(body)

    class S(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

    s = S(("127.0.0.1", 0), H)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s.server_port


SERVERS = []


def grpc_server(methods):
    s = grpc.server(futures.ThreadPoolExecutor(16))
    for service, handlers in methods.items():
        s.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = s.add_insecure_port("127.0.0.1:0")
    s.start()
    SERVERS.append(s)
    return port


# What health checks of each side asked, by the port of its listener.
ASKED = {}


def health(reply, asked=None):
    def check(request, context):
        if asked is not None:
            sent = [f"{k}: {v}" for k, v in context.invocation_metadata() if k not in ("user-agent", "grpc-accept-encoding")]
            asked.add((request, *sorted(sent)))
        if not isinstance(reply, bytes):
            context.abort(reply, "not so")
        return reply

    return grpc_server({"grpc.health.v1.Health": {"Check": grpc.unary_unary_rpc_method_handler(check)}})


def asked(port):
    """What health checks have said since."""
    for _ in range(250):
        if ASKED[port]:
            break
        time.sleep(0.02)
    return repr(sorted(ASKED[port])).encode()


good, bad, degraded = answering(200, b"good"), answering(503, b"bad"), answering(200, b"slow")
failing, goods = answering(500, b"failing"), tuple(answering(200, b"good") for _ in range(4))
serving, resting, unknown = health(b"\x08\x01"), health(b"\x08\x02"), health(b"\x08\x03")
missing, lacking = health(grpc.StatusCode.NOT_FOUND), health(grpc.StatusCode.UNIMPLEMENTED)


def hosts(name, *ports, **more):
    c = cluster(name, ports[0])
    c["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": p}}}} for p in ports
    ]
    return dict(c, **more)


def mk(clusters, logger=None):
    def make(lp, ap, log):
        EVENTS[lp] = log + ".events"
        open(EVENTS[lp], "w").close()
        ASKED[lp] = set()
        made = clusters(lp) if callable(clusters) else clusters
        text = json.loads(json.dumps(made).replace("EVENTS", EVENTS[lp]))
        made = boot([], [{"match": {"prefix": "/"}, "route": {"cluster": "u"}}], text, lp, ap, log, hcm={"access_log": [logger]} if logger else {})
        made["cluster_manager"] = {"outlier_detection": {"event_log_path": EVENTS[lp]}}
        return made

    return make


TIMES = re.compile(r'"(timestamp|secs_since_last_action)":"[^"]*"')


def events(wait):
    """What the event log holds by then, without times, in the order of the hosts."""

    def read(port):
        time.sleep(wait)
        lines = TIMES.sub(r'"\1":"*"', open(EVENTS[port]).read()).splitlines()
        return "\n".join(json.dumps(l, sort_keys=True) for l in sorted((json.loads(l) for l in lines), key=lambda l: json.dumps(l, sort_keys=True))).encode()

    return read


W = sys.argv[1:]


def t(n):
    return not W or n in W


if t("health"):
    sink = {
        "name": "envoy.health_check.event_sinks.file",
        "typed_config": {"@type": T + "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink", "event_log_path": "EVENTS"},
    }
    base = {"timeout": "0.3s", "interval": "0.1s", "no_traffic_interval": "0.1s", "unhealthy_threshold": 2, "healthy_threshold": 1, "event_logger": [sink]}
    h2 = cluster("x", 1, True)["typed_extension_protocol_options"]
    for name, c, ports, more in (
        ("http", {"http_health_check": {"path": "/health"}}, (good, bad), {}),
        ("http network", {"http_health_check": {"path": "/health"}}, (good, 1), {}),
        ("http degraded", {"http_health_check": {"path": "/health"}}, (degraded, bad), {}),
        ("http statuses", {"http_health_check": {"path": "/health", "expected_statuses": [{"start": 503, "end": 504}]}}, (good, bad), {}),
        ("http body", {"http_health_check": {"path": "/health", "receive": [{"text": b"good".hex()}]}}, (good, degraded), {}),
        ("tcp", {"tcp_health_check": {}}, (good, 1), {}),
        ("grpc", {"grpc_health_check": {}}, (serving, resting, 1), {"typed_extension_protocol_options": h2}),
        ("grpc answers", {"grpc_health_check": {"service_name": "shop.Cart"}}, (serving, unknown, missing, lacking), {"typed_extension_protocol_options": h2}),
    ):
        checked = hosts("u", *ports, health_checks=[dict(base, **c)], **more)
        requests = [events(0.5)] + ([] if "grpc" in name else [req("/"), req("/")])
        run("health " + name, mk([checked]), requests)
    probe = {"service_name": "shop.Cart", "authority": "cart.test", "initial_metadata": [{"header": {"key": "x-who", "value": "checker"}}]}
    more = {"health_checks": [dict(base, grpc_health_check=probe)], "typed_extension_protocol_options": h2}
    run("health grpc asks", mk(lambda port: [hosts("u", health(b"\x08\x01", ASKED[port]), **more)]), [asked])

if t("outlier"):
    base = {"interval": "600s", "base_ejection_time": "600s", "max_ejection_percent": 100}
    soon = dict(base, interval="0.4s")
    five = [req("/")] * 5
    # All requests lie within the first interval, even when the proxy takes seconds to start.
    rates = dict(base, interval="5s", consecutive_5xx=1000, success_rate_minimum_hosts=5, success_rate_request_volume=10, success_rate_stdev_factor=1900)

    def many(port):
        """A hundred requests; how many of them failed."""
        sent = b"".join(b"GET / HTTP/1.1\r\nhost: h\r\n" + (b"connection: close\r\n" if i == 99 else b"") + b"\r\n" for i in range(100))
        return b"%d failed" % len(re.findall(rb"HTTP/1.1 50", raw(port, sent)))

    for name, c, ports, more in (
        ("5xx", dict(base, consecutive_5xx=3), (failing,), {}),
        ("gateway", dict(base, consecutive_gateway_failure=2, enforcing_consecutive_gateway_failure=100), (bad,), {}),
        ("not enforced", dict(base, consecutive_5xx=3, enforcing_consecutive_5xx=0), (failing,), {}),
        ("local origin", dict(base, split_external_local_origin_errors=True, consecutive_local_origin_failure=2), (1,), {}),
        ("overflow", dict(base, consecutive_5xx=2, max_ejection_percent=0, always_eject_one_host={"value": False}), (failing,), {}),
        ("failure percentage", dict(soon, consecutive_5xx=100, enforcing_failure_percentage=100, failure_percentage_minimum_hosts=1, failure_percentage_request_volume=3), (failing,), {}),
        ("success rate", dict(rates, enforcing_success_rate=100), goods + (failing,), {}),
        ("success rate, few hosts", dict(rates, enforcing_success_rate=100, success_rate_minimum_hosts=6), goods + (failing,), {}),
        ("success rate, little traffic", dict(rates, enforcing_success_rate=100, success_rate_request_volume=1000), goods + (failing,), {}),
        ("success rate, not enforced", dict(rates, enforcing_success_rate=0), goods + (failing,), {}),
        ("failure percentage, some", dict(rates, enforcing_success_rate=0, enforcing_failure_percentage=100, failure_percentage_minimum_hosts=5, failure_percentage_request_volume=10), goods[:3] + (failing, bad), {}),
        ("success rate, local origin", dict(rates, split_external_local_origin_errors=True, enforcing_local_origin_success_rate=100, consecutive_local_origin_failure=1000, enforcing_success_rate=0), goods + (1,), {}),
        ("no panic", dict(base, consecutive_5xx=3), (failing,), {"common_lb_config": {"healthy_panic_threshold": {"value": 0}}}),
    ):
        if name == "overflow":
            c = {k: v for k, v in c.items() if k != "always_eject_one_host"}
        waits = {"0.4s": 0.6, "5s": 5.5}.get(c["interval"], 0.1)
        requests = [many] if c["interval"] == "5s" else five
        run("outlier " + name, mk([hosts("u", *ports, outlier_detection=c, **more)]), requests + [events(waits)] + ([] if c["interval"] == "5s" else [req("/")]))

GOT = []


def masked(value):
    """A message without times, ports that are chance, and ids."""
    if isinstance(value, dict):
        chance = re.compile(r"(?i)time|duration|portvalue|uniqueid|^downstream(direct)?(remote|local)|upstreamlocal|bytes|version|id$")
        return {k: "*" if chance.search(k) and not isinstance(v, dict) else masked(v) for k, v in sorted(value.items()) if not re.search(r"(?i)time|duration|^upstreamWire|HeaderBytes", k)}
    if isinstance(value, list):
        return [masked(v) for v in value]
    return value


def told(port):
    time.sleep(0.4)
    out = json.dumps([masked(g) for g in GOT], sort_keys=True)
    GOT.clear()
    return out.encode()


if t("logs"):
    from envoy.service.accesslog.v3 import als_pb2 as A
    from envoy.data.accesslog.v3 import accesslog_pb2
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as L

    def entries(messages, ctx):
        for m in messages:
            d = JF.MessageToDict(m)
            d.get("identifier", {}).get("node", {}).clear()
            GOT.append(d)
        return A.StreamAccessLogsResponse()

    def export(m, ctx):
        GOT.append(JF.MessageToDict(m))
        return L.ExportLogsServiceResponse()

    sink = grpc_server(
        {
            "envoy.service.accesslog.v3.AccessLogService": {
                "StreamAccessLogs": grpc.stream_unary_rpc_method_handler(entries, A.StreamAccessLogsMessage.FromString, A.StreamAccessLogsResponse.SerializeToString)
            },
            "opentelemetry.proto.collector.logs.v1.LogsService": {
                "Export": grpc.unary_unary_rpc_method_handler(export, L.ExportLogsServiceRequest.FromString, L.ExportLogsServiceResponse.SerializeToString)
            },
        }
    )
    common = {"log_name": "name", "transport_api_version": "V3", "grpc_service": {"envoy_grpc": {"cluster_name": "logs"}}, "buffer_flush_interval": "0.1s"}
    http_log = {
        "name": "als",
        "typed_config": {
            "@type": T + "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            "common_config": common,
            "additional_request_headers_to_log": ["x-a", "x-b"],
            "additional_response_headers_to_log": ["content-length"],
        },
    }
    otel = {
        "name": "otel",
        "typed_config": {
            "@type": T + "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
            "common_config": common,
            "body": {"string_value": "%REQ(:METHOD)% %RESPONSE_CODE%"},
            "attributes": {"values": [{"key": "path", "value": {"string_value": "%REQ(:PATH)%"}}, {"key": "a", "value": {"string_value": "%REQ(x-a)%"}}]},
            "resource_attributes": {"values": [{"key": "r", "value": {"string_value": "v"}}]},
            },
    }
    for name, logger in (("grpc", http_log), ("open telemetry", otel)):
        sent = [req("/x?q=1", headers="x-a: 1\nx-b: 2\nuser-agent: me\nreferer: r"), told, req("/y", headers="x-forwarded-for: 9.9.9.9"), told]
        run("access log " + name, mk([hosts("u", good), cluster("logs", sink, True)], logger), sent)


def fields(message):
    """A message of protobuf by number and wire type: this library has no metrics service."""
    out, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            value = varint()
        elif key & 7 == 1:
            value = struct.unpack("<d", message[at : at + 8])[0]
            at += 8
        else:
            size = varint()
            value = message[at : at + size]
            at += size
        out.setdefault(key >> 3, []).append(value)
    return out


def family(message):
    """Name, kind, labels and values of a family; what depends on time is left out."""
    f = fields(message)
    said = [f[1][0].decode(), {0: "counter", 1: "gauge", 2: "summary", 4: "histogram"}[f.get(3, [0])[0]]]
    for metric in map(fields, f[4]):
        labels = sorted(tuple(v[0].decode() for _, v in sorted(fields(l).items())) for l in metric.get(1, []))
        said.append(labels)
        said.append(sorted(metric.keys() - {1, 6}))
        for number in (2, 3):
            said.extend(fields(v).get(1, [0])[0] for v in metric.get(number, []))
        for number in (4, 7):
            for v in map(fields, metric.get(number, [])):
                said.append(v.get(1, [0])[0] if number == 7 else "*")
                parts = [fields(p) for p in v.get(3, [])]
                said.append([p.get(2 if number == 7 else 1, [0])[0] for p in parts])
    return repr(said)


if t("metrics"):
    import struct

    TOLD = {}

    def metrics(port):
        def listen(messages, context):
            for m in messages:
                TOLD[port].extend(fields(m).get(2, []))
                TOLD[port].append(b"")
            return b""

        return grpc_server({"envoy.service.metrics.v3.MetricsService": {"StreamMetrics": grpc.stream_unary_rpc_method_handler(listen)}})

    WANTED = re.compile(r"(cluster\.(u\.)?|http\.(t\.)?)(upstream_rq_total|upstream_rq_(200|xx)?$|membership_total|downstream_rq_(2xx|xx)$|upstream_rq_time|downstream_rq_time)")

    def heard(port):
        """What was said of some statistics, once the requests are among them; of deltas the sum."""
        for _ in range(500):
            said = sorted({family(m) for m in list(TOLD[port]) if m and WANTED.search(fields(m)[1][0].decode())})
            if any("upstream_rq_total" in s and s.endswith(" 3.0]") for s in said):
                # What is counted a moment later comes with one of the next.
                time.sleep(0.6)
                said = sorted({family(m) for m in list(TOLD[port]) if m and WANTED.search(fields(m)[1][0].decode())})
                break
            time.sleep(0.02)
        # Values before the requests and between them come when they come.
        return "\n".join(s for s in said if not re.search(r" [012]\.0\]$|\[7\], [012],", s) or "membership" in s).encode()

    for name, c in (
        ("", {}),
        (" with labels", {"emit_tags_as_labels": True}),
        (" of summaries", {"histogram_emit_mode": "SUMMARY"}),
        (" of histograms", {"histogram_emit_mode": "HISTOGRAM"}),
    ):

        def made(lp, ap, log, c=c):
            TOLD[lp] = []
            boot_ = mk([hosts("u", good), cluster("metrics", metrics(lp), True)])(lp, ap, log)
            sink = dict({"@type": T + "envoy.config.metrics.v3.MetricsServiceConfig", "grpc_service": {"envoy_grpc": {"cluster_name": "metrics"}}, "transport_api_version": "V3"}, **c)
            boot_["stats_sinks"] = [{"name": "envoy.stat_sinks.metrics_service", "typed_config": sink}]
            boot_["stats_flush_interval"] = "0.2s"
            return boot_

        run("metrics service" + name, made, [req("/")] * 3 + [heard])
