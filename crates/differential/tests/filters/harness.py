"""The same configuration and requests to stock Envoy and to our proxy: replies, what the upstream saw, log lines and counters are compared."""

import itertools, socket, subprocess, sys, time, json, threading, os, re, tempfile, http.server, socketserver, base64
import yaml
from concurrent import futures


NEXT = [os.getpid() * 997]


def free():
    """A port below those that the system gives to clients, which could take it between its choice and its use."""
    while True:
        p = 11000 + NEXT[0] % 21000
        NEXT[0] += 1
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", p))
                return p
            except OSError:
                pass


seen = []
FAILED = [0]
import atexit

atexit.register(lambda: os._exit(1 if FAILED[0] else 0))


def broken(*what):
    FAILED[0] += 1
    sys.__excepthook__(*what)


sys.excepthook = broken


class B(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *a):
        pass

    def go(self):
        n = int(self.headers.get("content-length") or 0)
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                l = int(self.rfile.readline().split(b";")[0], 16)
                d = self.rfile.read(l)
                self.rfile.readline()
                if not l:
                    break
                body += d
        else:
            body = self.rfile.read(n)
        seen.append(
            (
                self.server.name,
                self.requestline.replace("HTTP/1.1", ""),
                sorted(
                    (k.lower(), v)
                    for k, v in self.headers.items()
                    if k.lower() not in ("x-request-id", "x-forwarded-for", "x-envoy-expected-rq-timeout-ms")
                ),
                body,
            )
        )
        h = self.server.answer(self, body)
        st, hs, b = h
        self.send_response_only(st)
        for k, v in hs:
            self.send_header(k, v)
        if not any(k == "content-length" or k == "transfer-encoding" for k, v in hs):
            self.send_header("content-length", str(len(b)))
        self.end_headers()
        if any(k == "transfer-encoding" for k, v in hs):
            for i in range(0, len(b), 1000):
                c = b[i : i + 1000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(c), c))
            self.wfile.write(b"0\r\n\r\n")
        elif self.command != "HEAD":
            self.wfile.write(b)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = go


def server(name, answer):
    class S(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

    s = S(("127.0.0.1", 0), B)
    s.name = name
    s.answer = answer
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s.server_port


def cluster(name, port, h2=False):
    c = {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
                    ]
                }
            ],
        },
    }
    if h2:
        c["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return c


LOG = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %REQ(:PATH)%"


def boot(filters, routes, clusters, lp, ap, log, vhost={}, logx="", hcm={}, net=[]):
    fs = [
        {"name": n, "typed_config": dict({"@type": "type.googleapis.com/" + t}, **c), **x}
        for n, t, c, *y in filters
        for x in [y[0] if y else {}]
    ]
    fs.append(
        {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }
    )
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": ap}}},
        "node": {"id": "n", "cluster": "nc"},
        "static_resources": {
            "clusters": clusters,
            "listeners": [
                {
                    "name": "l",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": lp}},
                    "filter_chains": [
                        {
                            "filters": net
                            + [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": dict(
                                        {
                                            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                                            "stat_prefix": "t",
                                            "generate_request_id": False,
                                            # Envoy waits that long for the client to close first, and the client for Envoy.
                                            "delayed_close_timeout": "0.01s",
                                            "route_config": {
                                                "name": "r",
                                                "virtual_hosts": [
                                                    dict({"name": "v", "domains": ["*"], "routes": routes}, **vhost)
                                                ],
                                            },
                                            "http_filters": fs,
                                            "access_log": [
                                                {
                                                    "name": "a",
                                                    "typed_config": {
                                                        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                                                        "path": log,
                                                        "log_format": {
                                                            "text_format_source": {
                                                                "inline_string": LOG + " " + logx + "\n"
                                                            }
                                                        },
                                                    },
                                                }
                                            ],
                                        },
                                        **hcm,
                                    ),
                                }
                            ]
                        }
                    ],
                }
            ],
        },
    }


def raw(port, data, timeout=8):
    s = socket.create_connection(("127.0.0.1", port))
    s.settimeout(timeout)
    s.sendall(data)
    out = b""
    try:
        while True:
            d = s.recv(65536)
            if not d:
                break
            out += d
    except socket.timeout:
        out += b"<TIMEOUT>"
    except ConnectionError:
        # Whether a close is clean depends on what was still on its way.
        pass
    s.close()
    return out


OURS = [os.environ["PROA_PROXY"]]
if os.path.basename(OURS[0]) == "proa":
    OURS.append("proxy")
ENVOY = [os.environ["PROA_ENVOY"]]


def begin(cmd, b):
    """A process with the configuration, and its folder."""
    d = tempfile.mkdtemp()
    f = d + "/b.json"
    json.dump(b, open(f, "w"))
    more = "--concurrency 1 --disable-hot-restart --file-flush-interval-msec 20 -l " + os.environ.get("LV", "error")
    p = subprocess.Popen(cmd + ["-c", f] + more.split(), stdout=subprocess.DEVNULL, stderr=open(d + "/err", "w"))
    atexit.register(p.kill)
    return p, d


def ready(p, d, name, admin):
    t = time.time()
    while time.time() - t < 20:
        if p.poll() is not None:
            print(name, "REFUSED", open(d + "/err").read()[-800:])
            return False
        try:
            # Not the listener: it would count the connection.
            if b"LIVE" in raw(admin, b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"):
                break
        except OSError:
            pass
        time.sleep(0.01)
    return True


def blank(t):
    t = re.sub(rb"(?im)^date: .*\r\n", b"", t)
    t = re.sub(rb"(?im)^x-envoy-upstream-service-time: .*\r\n", b"", t)
    h, _, b = t.partition(b"\r\n\r\n")
    ls = h.split(b"\r\n")
    return b"\r\n".join([ls[0]] + sorted(ls[1:])) + b"\r\n\r\n" + b


STAT = re.compile(
    os.environ.get(
        "STAT",
        r"jwt_authn|ext_authz|rbac|rate_?limit|compressor|ext_proc|lua|stateful|http\.t\.downstream_rq_[0-9]|cluster\.\w+\.(internal\.)?upstream_rq_\d",
    )
)


# Interpreters are made per worker when they are needed; who gives up first at a deadline, service or proxy, is chance.
UNCOMPARED = re.compile(r"lua_vm_count|ext_authz\.(\w+\.)?timeout|cluster\.(az|rls)\.(internal\.)?upstream_rq_(200|504|[25]xx)")


def run(title, mk, reqs, post=None, wait=0, only=None):
    res = {}
    sides = []
    for name, cmd in (("envoy", ENVOY), ("ours", OURS)):
        if only and name != only:
            continue
        lp, ap = free(), free()
        log = tempfile.mktemp()
        open(log, "w").close()
        sides.append((name, lp, ap, log) + begin(cmd, mk(lp, ap, log)))
    answers = {}
    for name, lp, ap, log, p, d in sides:
        if not ready(p, d, name, ap):
            continue
        if wait:
            time.sleep(wait)
        out = []
        for r in reqs:
            seen.clear()
            said = r(lp) if callable(r) else raw(lp, r.encode() if isinstance(r, str) else r)
            a = blank(said).replace(str(lp).encode(), b"LP")
            out.append((a.decode("latin1"), list(seen)))
        answers[name] = out
    # Counters and logs settle.
    time.sleep(0.15)
    for name, lp, ap, log, p, d in sides:
        if name not in answers:
            p.kill()
            continue
        try:
            st = (
                raw(ap, b"GET /stats?usedonly HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .decode()
                .split("\r\n\r\n", 1)[1]
            )
        except Exception as e:
            st = str(e)
        st = sorted(
            l
            for l in st.split("\n")
            if not UNCOMPARED.search(l)
            and STAT.search(l) and not l.startswith("listener.") and "No recorded" not in l and "P0(" not in l
        )
        # Its log is written by now.
        p.kill()
        p.wait()
        # Connections end when they do: the order of lines is not compared.
        logged = re.sub(r'("\w+_duration":)\d+', r"\1*", open(log).read())
        res[name] = (answers[name], sorted(logged.split("\n")), st, open(d + "/err").read())
    e, o = res.get("envoy"), res.get("ours")
    if not e or not o:
        print("==", title, "NOT RUN")
        FAILED[0] += (e is None) != (o is None)
        return
    bad = 0
    for i, (x, y) in enumerate(zip(e[0], o[0])):
        sent = reqs[i] if isinstance(reqs[i], str) else repr(reqs[i])
        if x[0] != y[0]:
            bad += 1
            print("==", title, i, repr(sent[:160]), "\n ENVOY", repr(x[0][:700]), "\n OURS ", repr(y[0][:700]))
        if x[1] != y[1]:
            bad += 1
            print("==", title, i, repr(sent[:160]), "UPSTREAM")
            for k in range(max(len(x[1]), len(y[1]))):
                a = x[1][k] if k < len(x[1]) else None
                b = y[1][k] if k < len(y[1]) else None
                if a != b:
                    print("   ENVOY", str(a)[:700], "\n   OURS ", str(b)[:700])
    for x, y in itertools.zip_longest(e[1], o[1]):
        if x != y:
            bad += 1
            print("==", title, "LOG\n ENVOY", x, "\n OURS ", y)
    if e[2] != o[2]:
        bad += 1
        print("==", title, "STATS")
        for l in sorted(set(e[2]) - set(o[2])):
            print("   ENVOY", l)
        for l in sorted(set(o[2]) - set(e[2])):
            print("   OURS ", l)
    FAILED[0] += bad
    if not bad:
        print("== ok", title, len(reqs), "requests")
    if os.environ.get("V"):
        print("\n".join(map(str, e[0])), e[1], "\n".join(e[2]))
    if o[3].strip():
        print("   our stderr:", o[3][-600:])
    return res


def req(path="/", method="GET", headers="", body="", v="HTTP/1.1"):
    h = f"{method} {path} {v}\r\nhost: h\r\n"
    for l in headers.split("\n"):
        if l:
            h += l + "\r\n"
    if body:
        h += f"content-length: {len(body)}\r\n"
    return h + "connection: close\r\n\r\n" + body
