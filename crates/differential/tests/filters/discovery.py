"""Cases for HTTP filters that the control plane tells (ECDS): defaults, warming, changes, refusals, removal."""

import harness
from harness import *
import grpc
import queue
import urllib.request
from google.protobuf import json_format
from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.service.discovery.v3 import discovery_pb2 as D

harness.STAT = re.compile(r"extension_config_discovery.*(reload|conflict|fail)|http\.t\.downstream_rq_[0-9]|http\.t\.no_route")
T = "type.googleapis.com/"
EXTENSION, LISTENER = T + "envoy.config.core.v3.TypedExtensionConfig", T + "envoy.config.listener.v3.Listener"
FAULT, CORS = T + "envoy.extensions.filters.http.fault.v3.HTTPFault", T + "envoy.extensions.filters.http.cors.v3.Cors"
# The control plane of each side, by the port of its listener.
PLANES, ADMIN = {}, {}


def abort(status):
    """A filter that answers by itself."""
    return {"@type": FAULT, "abort": {"http_status": status, "percentage": {"numerator": 100}}}


class Plane:
    """Says what the script tells it to, and keeps what it hears."""

    def __init__(self, delta):
        self.delta, self.has, self.heard, self.version = delta, {}, [], 0
        self.news, self.lock = queue.Queue(), threading.Condition()
        types = (D.DeltaDiscoveryRequest, D.DeltaDiscoveryResponse) if delta else (D.DiscoveryRequest, D.DiscoveryResponse)
        method = "DeltaAggregatedResources" if delta else "StreamAggregatedResources"
        handler = grpc.stream_stream_rpc_method_handler(self.talk, types[0].FromString, types[1].SerializeToString)
        service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def talk(self, requests, context):
        def listen():
            try:
                for r in requests:
                    with self.lock:
                        self.heard.append((r.type_url, r.response_nonce, r.error_detail.message))
                        self.lock.notify_all()
                    first = not r.response_nonce
                    if first and self.has.get(r.type_url):
                        self.news.put((r.type_url, list(self.has[r.type_url]), []))
            except grpc.RpcError:
                pass
            self.news.put(None)

        threading.Thread(target=listen, daemon=True).start()
        while (said := self.news.get()) is not None:
            kind, names, gone = said
            self.version += 1
            version = str(self.version)
            if self.delta:
                added = [D.Resource(name=n, version=version, resource=self.has[kind][n]) for n in names]
                yield D.DeltaDiscoveryResponse(type_url=kind, nonce=version, system_version_info=version, resources=added, removed_resources=gone)
            else:
                yield D.DiscoveryResponse(type_url=kind, nonce=version, version_info=version, resources=list(self.has[kind].values()))

    def tell(self, kind, name, message):
        """Tells it, and what the proxy says to that."""
        packed = D.Resource().resource
        packed.Pack(message)
        self.has.setdefault(kind, {})[name] = packed
        return self._answered(kind, [name], [])

    def take(self, kind, name):
        del self.has[kind][name]
        return self._answered(kind, [], [name])

    def _answered(self, kind, names, gone):
        with self.lock:
            subscribed = self.lock.wait_for(lambda: any(h[0] == kind for h in self.heard), 10)
            if not subscribed:
                return "never asked for"
            before = sum(1 for h in self.heard if h[0] == kind and h[1])
            self.news.put((kind, names, gone))
            self.lock.wait_for(lambda: sum(1 for h in self.heard if h[0] == kind and h[1]) > before, 10)
            return "refused" if [h for h in self.heard if h[0] == kind][-1][2] else "taken"


def extension(config):
    return json_format.ParseDict({"name": "told", "typed_config": config}, extension_pb2.TypedExtensionConfig())


def told(config):
    return lambda port: PLANES[port].tell(EXTENSION, "told", extension(config)).encode()


def removed(port):
    return PLANES[port].take(EXTENSION, "told").encode()


def until(status):
    """Asks until that is answered: workers hear of a change after the control plane has heard of them."""

    def go(port):
        for _ in range(200):
            try:
                said = raw(port, req("/").encode())
            except OSError:
                said = b"not listening"
            if said.startswith(b"HTTP/1.1 %d " % status if status else b"not listening"):
                break
            time.sleep(0.02)
        seen.clear()
        return said

    return go


def dump(port):
    """What the admin interface tells of filters."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN[port]}/config_dump") as said:
        told = [c for c in json.load(said)["configs"] if "Ecds" in c["@type"]]
    for filter_ in (f for c in told for f in c.get("ecds_filters", [])):
        filter_["last_updated"] = "*"
    return json.dumps(told, sort_keys=True).encode()


def place(more):
    source = {"config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0.5s"}, "type_urls": [FAULT, CORS]}
    return {"name": "told", "config_discovery": dict(source, **more)}


def mk(more, delta=False, dynamic=False):
    def make(lp, ap, log):
        ADMIN[lp] = ap
        plane = PLANES[lp] = Plane(delta)
        made = boot([], [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}], [cluster("up", up), cluster("xds", plane.port, True)], lp, ap, log)
        manager = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["http_filters"].insert(0, place(more))
        grpc_ = {"api_type": "DELTA_GRPC" if delta else "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}
        made["dynamic_resources"] = {"ads_config": grpc_}
        # Its requests come when they come.
        manager["access_log"] = []
        if dynamic:
            made["dynamic_resources"]["lds_config"] = {"ads": {}, "resource_api_version": "V3"}
            listener = made["static_resources"].pop("listeners")[0]
            plane.has[LISTENER] = {}
            plane.listener = json_format.ParseDict(listener, listener_pb2.Listener())
            # Nothing to begin with; the server is live then.
            plane.news.put((LISTENER, [], []))
        return made

    return make


def served(port):
    plane = PLANES[port]
    return plane.tell(LISTENER, "l", plane.listener).encode()


up = server("up", lambda h, body: (200, [], b"up"))
harness.STAT = re.compile(r"extension_config_discovery.*(reload|conflict|fail)")
default = {"default_config": abort(401)}
patient = {"config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}}

for delta in (False, True):
    way = "delta" if delta else "state of the world"
    changes = [dump, told(abort(402)), until(402), dump, told({"@type": T + "envoy.extensions.filters.http.router.v3.Router"}), until(402), told({"@type": CORS}), until(200)]
    gone = [removed, until(401)] if delta else []
    run(f"default without warming, {way}", mk(dict(patient, **default, apply_default_config_without_warming=True), delta), [until(401)] + changes + gone)
    run(f"default after the time is up, {way}", mk(default, delta), [until(401)] + changes)
    gone = [removed, until(500)] if delta else []
    run(f"no default, {way}", mk({}, delta), [until(500)] + changes + gone)
    run(f"a listener waits, {way}", mk(patient, delta, True), [served, until(0), told(abort(402)), until(402)])
