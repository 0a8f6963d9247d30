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


def health(reply):
    return grpc_server({"grpc.health.v1.Health": {"Check": grpc.unary_unary_rpc_method_handler(lambda r, c: reply)}})


good, bad, degraded = answering(200, b"good"), answering(503, b"bad"), answering(200, b"slow")
failing = answering(500, b"failing")
serving, resting = health(b"\x08\x01"), health(b"\x08\x02")


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
        text = json.loads(json.dumps(clusters).replace("EVENTS", EVENTS[lp]))
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
    ):
        checked = hosts("u", *ports, health_checks=[dict(base, **c)], **more)
        requests = [events(0.5)] + ([] if name == "grpc" else [req("/"), req("/")])
        run("health " + name, mk([checked]), requests)

if t("outlier"):
    base = {"interval": "600s", "base_ejection_time": "600s", "max_ejection_percent": 100}
    soon = dict(base, interval="0.4s")
    five = [req("/")] * 5
    for name, c, ports, more in (
        ("5xx", dict(base, consecutive_5xx=3), (failing,), {}),
        ("gateway", dict(base, consecutive_gateway_failure=2, enforcing_consecutive_gateway_failure=100), (bad,), {}),
        ("not enforced", dict(base, consecutive_5xx=3, enforcing_consecutive_5xx=0), (failing,), {}),
        ("local origin", dict(base, split_external_local_origin_errors=True, consecutive_local_origin_failure=2), (1,), {}),
        ("overflow", dict(base, consecutive_5xx=2, max_ejection_percent=0, always_eject_one_host={"value": False}), (failing,), {}),
        ("failure percentage", dict(soon, consecutive_5xx=100, enforcing_failure_percentage=100, failure_percentage_minimum_hosts=1, failure_percentage_request_volume=3), (failing,), {}),
        ("no panic", dict(base, consecutive_5xx=3), (failing,), {"common_lb_config": {"healthy_panic_threshold": {"value": 0}}}),
    ):
        if name == "overflow":
            c = {k: v for k, v in c.items() if k != "always_eject_one_host"}
        run("outlier " + name, mk([hosts("u", *ports, outlier_detection=c, **more)]), five + [events(0.6 if c is not base and c.get("interval") == "0.4s" else 0.1), req("/")])

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
