"""Cases for overload: what happens to requests and connections under pressure, and after it; the limit on connections."""

import harness
from streams import *
import urllib.request

harness.STAT = re.compile(r"^overload\.|downstream_(cx|rq)_overload|downstream_cx_overload_(reject|disable)|global_cx_overflow|http\.t\.downstream_rq_[0-9]")
ACTION, MONITOR = "envoy.overload_actions.", "envoy.resource_monitors."
FILES, ADMIN = {}, {}


def monitor(name, kind, **c):
    return typed(MONITOR + name, "envoy.extensions.resource_monitors." + kind, **c)


def action(name, resource):
    return {"name": ACTION + name, "triggers": [{"name": MONITOR + resource, "threshold": {"value": 0.9}}]}


def mk(monitors, actions, listener={}):
    def make(lp, ap, log):
        FILES[lp], ADMIN[lp] = tempfile.mktemp(), ap
        press(lp, 0.1)
        made = boot([], [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}], [cluster("up", up)], lp, ap, log)
        made["static_resources"]["listeners"][0].update(listener)
        text = json.loads(json.dumps(monitors).replace("PRESSURE", FILES[lp]))
        made["overload_manager"] = {"refresh_interval": "0.05s", "resource_monitors": text, "actions": actions}
        return made

    return make


def press(port, value):
    with open(FILES[port] + ".new", "w") as f:
        f.write(str(value))
    os.rename(FILES[port] + ".new", FILES[port])


def stat(port, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN[port]}/stats?filter=^{name}$") as said:
        text = said.read().decode()
    return int(text.rpartition(": ")[2] or 0)


def until(name, value):
    def go(port):
        for _ in range(500):
            if stat(port, f"overload.{name}".replace(".", r"\.")) == value:
                # Switches are set with the gauge, workers look at them on their own.
                time.sleep(0.05)
                return b"as expected"
            time.sleep(0.02)
        return b"never"

    return go


def pressed(value, name):
    def go(port):
        press(port, value)
        return until(f"{ACTION}{name}.active", 1 if value > 0.9 else 0)(port)

    return go


def whole(s):
    """One answer, head and body."""
    said = b""
    while not said.endswith((b"\r\n\r\nup", b"envoy overloaded")) and (more := s.recv(65536)):
        said += more
    return said


def kept(port):
    """Two requests on one connection, if it is kept."""
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.settimeout(8)
        said = b""
        for _ in range(2):
            try:
                s.sendall(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
                said += whole(s)
                if b"connection: close" in said:
                    break
            except ConnectionError:
                break
    return b"kept" if said.count(b"HTTP/1.1 200") == 2 else said


WAITS = {}


def begun(port):
    """Connects and asks, and does not wait for the answer."""
    s = WAITS[port] = socket.create_connection(("127.0.0.1", port))
    s.sendall(req("/waits").encode())
    s.settimeout(0.3)
    try:
        return s.recv(65536)
    except TimeoutError:
        return b"nothing yet"


def answered(port):
    s = WAITS.pop(port)
    s.settimeout(8)
    with s:
        return whole(s)


def three(port):
    """As many connections as may be, and one more; then one again when another has ended."""
    open_, said = [], []
    for i in range(4):
        if i == 3:
            open_[0].close()
            time.sleep(0.3)
        s = socket.create_connection(("127.0.0.1", port))
        s.settimeout(8)
        open_.append(s)
        try:
            s.sendall(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
            said.append(whole(s)[:15] or b"closed")
        except ConnectionError:
            said.append(b"closed")
    [s.close() for s in open_]
    return b" ".join(said)


up = server("up", lambda h, body: (200, [], b"up"))
injected = [monitor("injected_resource", "injected_resource.v3.InjectedResourceConfig", filename="PRESSURE")]
heap = [monitor("fixed_heap", "fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=1)]
limit = [monitor("global_downstream_max_connections", "downstream_connections.v3.DownstreamConnectionsConfig", max_active_downstream_connections=2)]


def acts(name):
    return [action(name, "injected_resource")]


def around(name, *during):
    return [kept, pressed(0.95, name), *during, pressed(0.1, name), kept]


run("stop accepting requests", mk(injected, acts("stop_accepting_requests")), around("stop_accepting_requests", req("/"), kept))
run("disable keep-alive", mk(injected, acts("disable_http_keepalive")), around("disable_http_keepalive", req("/"), kept))
run("reject connections", mk(injected, acts("reject_incoming_connections")), around("reject_incoming_connections", req("/")))
run("stop accepting connections", mk(injected, acts("stop_accepting_connections")), around("stop_accepting_connections", begun)[:-1] + [answered, kept])
harness.STAT = re.compile(r"^overload\..*active: 1$|http\.t\.downstream_rq_[0-9]|overload_close")
run("the heap is full", mk(heap, [action("stop_accepting_requests", "fixed_heap")]), [until(f"{ACTION}stop_accepting_requests.active", 1), req("/")])
harness.STAT = re.compile(r"shrink_heap.active")
run("the heap is shrunk", mk(heap, [action("shrink_heap", "fixed_heap")]), [until(f"{ACTION}shrink_heap.active", 1), req("/")])
harness.STAT = re.compile(r"global_cx_overflow|http\.t\.downstream_rq_[0-9]")
run("connections at most", mk(limit, []), [three])
run("connections at most, but here", mk(limit, [], {"ignore_global_conn_limit": True}), [three])
