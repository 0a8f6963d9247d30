"""Cases for tunnels: byte streams over HTTP/2 by CONNECT and POST, and HBONE; every pair of our ends and stock Envoy's."""

import harness
from streams import *

harness.STAT = re.compile(r"tcp\.t\.(?!.*(bytes|time|_active|flow_control))|cluster\.tunnel\.(upstream_(rq_(total|pending_total)|cx_(total|http2_total|connect_fail|connect_attempts|none_healthy))|outlier)")
IDENTITIES = Identities()
H2 = cluster("x", 1, True)["typed_extension_protocol_options"]
HCM = N + "http_connection_manager.v3.HttpConnectionManager"


def whole(c):
    """Answers when the other side has ended."""
    data = b""
    while more := c.recv(65536):
        data += more
    seen.append(("whole", len(data), data[:10]))
    c.sendall(b"%d:" % len(data) + data)


def stays(c):
    """Answers, and leaves the end to the client: what Envoy's internal connections carry is lost when both ends close at once."""
    c.sendall(b"stays:" + c.recv(100))
    c.recv(100)


a, all_, stay = stream("a", echo("a")), stream("whole", whole), stream("stays", stays)


def asks(port):
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.settimeout(8)
        s.sendall(b"one")
        return s.recv(100)


class End:
    """A process that ends tunnels, in plain and under mutual TLS."""

    def __init__(self, command):
        self.plain, self.tls, admin, self.log = free(), free(), free(), tempfile.mktemp()
        open(self.log, "w").close()
        by_path = [
            {"match": {"connect_matcher": {}, "headers": [{"name": ":authority", "string_match": {"prefix": "refuse"}}]}, "direct_response": {"status": 403}},
            {"match": {"connect_matcher": {}, "headers": [{"name": ":authority", "string_match": {"prefix": "whole"}}]}, "route": self.ends("whole", {})},
            {"match": {"connect_matcher": {}, "headers": [{"name": ":authority", "string_match": {"prefix": "stays"}}]}, "route": self.ends("stays", {})},
            {"match": {"connect_matcher": {}}, "route": self.ends("a", {})},
            {"match": {"prefix": "/tunnel"}, "route": self.ends("a", {"allow_post": True})},
            {"match": {"prefix": "/whole"}, "route": self.ends("whole", {"allow_post": True})},
        ]
        boot_ = boot([], by_path, [hosts("a", a), hosts("whole", all_), hosts("stays", stay)], self.plain, admin, self.log)
        listener = boot_["static_resources"]["listeners"][0]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        manager["http2_protocol_options"] = {"allow_connect": True}
        manager["upgrade_configs"] = [{"upgrade_type": "CONNECT"}]
        text = "%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %REQ(x-added)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DOWNSTREAM_PEER_URI_SAN%"
        manager["access_log"] = [logger(self.log, text)]
        twin = json.loads(json.dumps(listener))
        twin["name"], twin["address"]["socket_address"]["port_value"] = "tls", self.tls
        twin["filter_chains"][0]["transport_socket"] = IDENTITIES.server("server", ["h2"])
        boot_["static_resources"]["listeners"].append(twin)
        self.process, folder = begin(command, boot_)
        assert ready(self.process, folder, "the end", admin)

    @staticmethod
    def ends(name, config):
        upgrade = {"upgrade_type": "POST" if config else "CONNECT", "connect_config": config}
        upgrades = [{"upgrade_type": "CONNECT", "connect_config": config}]
        return {"cluster": name, "upgrade_configs": upgrades, "timeout": "0s"}

    def told(self, lines):
        """What its log has said since, as soon as it is so much."""

        def go(port):
            for _ in range(200):
                said = open(self.log).read()
                if said.count("\n") >= lines:
                    break
                time.sleep(0.02)
            open(self.log, "w").close()
            return "\n".join(sorted(said.splitlines())).encode()

        return go


def at_once(port):
    """Two streams that live at the same time."""
    two = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
    out = []
    for s in two:
        s.settimeout(8)
        try:
            s.sendall(b"x")
            out.append(s.recv(100))
        except ConnectionError:
            out.append(b"reset")
    [s.close() for s in two]
    return b" ".join(out)


def halves(size):
    """Ends its side, then reads the other's."""

    def go(port):
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.settimeout(8)
            sender = threading.Thread(target=lambda: (s.sendall(b"d" * size), s.shutdown(socket.SHUT_WR)))
            sender.start()
            data = b""
            while more := s.recv(65536):
                data += more
            sender.join()
        return b"%d %s" % (len(data), data[:10])

    return go


def through(end, more={}, port=None, attempts=1):
    tunnel = hosts("tunnel", port or end.plain, typed_extension_protocol_options=H2)
    added = {"header": {"key": "x-added", "value": "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"}}
    config = dict({"hostname": "host:443", "headers_to_add": [added]}, **more)
    return tcp([], [tunnel], {"cluster": "tunnel", "tunneling_config": config, "max_connect_attempts": attempts})


def hbone(end, hostname):
    """An internal listener tunnels what a TCP proxy hands it, under mutual TLS."""
    inner = hosts("a", 1)
    inner["load_assignment"]["endpoints"][0]["lb_endpoints"] = [{"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": "inner"}}}}]
    raw_ = typed("raw", "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")
    inner["transport_socket"] = typed("i", "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport", transport_socket=raw_)
    tunnel = hosts("tunnel", end.tls, typed_extension_protocol_options=H2, transport_socket=IDENTITIES.client("client", ["h2"]))
    proxy = net("tcp", "tcp_proxy.v3.TcpProxy", stat_prefix="inner", cluster="tunnel", tunneling_config={"hostname": hostname})
    more = {"name": "inner", "internal_listener": {}, "filter_chains": [{"filters": [proxy]}]}
    made = tcp([], [inner, tunnel], more=[more])

    def mk(lp, ap, log):
        boot_ = made(lp, ap, log)
        boot_["bootstrap_extensions"] = [typed("i", "envoy.extensions.bootstrap.internal_listener.v3.InternalListener")]
        return boot_

    return mk


SEEN = {}
for name, command in (("envoy", ENVOY), ("ours", OURS)):
    end = End(command)
    for title, mk, requests in (
        ("connect", through(end), [b"one", b"two", at_once, end.told(4)]),
        ("connect, halves", through(end, {"hostname": "whole:1"}), [halves(10), halves(3 << 20), end.told(2)]),
        # What the end says of it: docs/differences.md.
        ("connect, reset", through(end, {"hostname": "stays:1"}), [reset, asks, lambda port, e=end: e.told(2)(port) and b""]),
        ("connect refused", through(end, {"hostname": "refuse:1"}, attempts=2), [b"one", end.told(2)]),
        ("nobody", through(end, port=1, attempts=2), [b"one"]),
        ("post", through(end, {"use_post": True, "post_path": "/tunnel"}), [b"one", b"two", end.told(2)]),
        ("post, halves", through(end, {"use_post": True, "post_path": "/whole"}), [halves(10), halves(3 << 20), end.told(2)]),
        ("hbone", hbone(end, "stays:8"), [asks, at_once, end.told(3)]),
        ("hbone, halves", hbone(end, "whole:1"), [halves(3 << 20), end.told(1)]),
    ):
        got = run(f"{title}, to {name}", mk, requests)
        SEEN.setdefault(title, []).append(got and got.get("envoy") and got["envoy"][0])
for title, (theirs, ours) in SEEN.items():
    if theirs != ours:
        harness.FAILED[0] += 1
        print("==", title, "the ends differ\n ENVOY", str(theirs)[:900], "\n OURS ", str(ours)[:900])
