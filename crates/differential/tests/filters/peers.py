"""Cases for Istio's exchange of metadata on byte streams, over mutual TLS: two of our proxies, and one with a peer made of
Python's own TLS and protobuf. Stock Envoy does not have the filters: what is expected is written down here."""

import harness
from streams import *
import urllib.request
from google.protobuf import any_pb2, struct_pb2

IDENTITIES = Identities()
EXCHANGE = "istio-peer-exchange"
MAGIC = 0x3D230467


def node(workload, app):
    labels = {"app": app, "version": "v1", "service.istio.io/canonical-name": app, "service.istio.io/canonical-revision": "latest"}
    owner = f"kubernetes://apis/apps/v1/namespaces/ns/deployments/{workload}"
    metadata = {"NAME": workload + "-1", "NAMESPACE": "ns", "WORKLOAD_NAME": workload, "OWNER": owner, "CLUSTER_ID": "c1", "LABELS": labels}
    return {"id": f"sidecar~10.0.0.1~{workload}-1.ns~ns.svc.cluster.local", "cluster": app, "metadata": metadata}


MEET = typed("istio.metadata_exchange", "envoy.tcp.metadataexchange.config.MetadataExchange", protocol=EXCHANGE)
COUNT = typed("istio.stats", "stats.PluginConfig")


class Proxy:
    def __init__(self, title, workload, direction, filters, cluster_, transport=None):
        self.port, self.admin, log = free(), free(), tempfile.mktemp()
        made = tcp(filters, [cluster_], {"cluster": cluster_["name"]})(self.port, self.admin, log)
        made["node"] = node(workload, workload)
        listener = made["static_resources"]["listeners"][0]
        listener["traffic_direction"] = direction
        if transport:
            listener["filter_chains"][0]["transport_socket"] = transport
        self.process, folder = begin(OURS, made)
        assert ready(self.process, folder, title, self.admin)

    def series(self, name):
        """Labels and value of the one series of a metric, once it is there."""
        for _ in range(500):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/stats/prometheus?filter=istio_tcp") as said:
                found = re.findall(rf"^{name}{{(.*)}} (\d+)$", said.read().decode(), re.M)
            if found:
                assert len(found) == 1, found
                return dict(re.findall(r'(\w+)="([^"]*)"', found[0][0])), int(found[0][1])
            time.sleep(0.02)
        raise AssertionError(f"no {name}")

    def end(self):
        self.process.kill()
        self.process.wait()


def expect(title, got, **wanted):
    """Each label is as it is wanted to be."""
    wrong = {k: (got.get(k), v) for k, v in wanted.items() if got.get(k) != v}
    FAILED[0] += bool(wrong)
    print("== ok" if not wrong else "==", title, *([f"{k}: {g!r}, expected {w!r}" for k, (g, w) in wrong.items()]))


def of(side, workload, principal=True):
    known = {"workload": workload, "workload_namespace": "ns", "app": workload, "version": "v1", "canonical_service": workload, "canonical_revision": "latest", "cluster": "c1"}
    if principal:
        known["principal"] = "spiffe://cluster.local/ns/ns/sa/" + workload
    return {f"{side}_{k}": v for k, v in known.items()}


def unknown(side):
    """A peer that said nothing: its namespace is told by its certificate."""
    return {f"{side}_{k}": "unknown" for k in ("workload", "app", "version", "canonical_service")} | {side + "_workload_namespace": "ns"}


def upstream(port, alpn, filters):
    c = hosts("outbound|5432||db.ns.svc.cluster.local", port, transport_socket=IDENTITIES.client("web", alpn), filters=filters)
    service = {"host": "db.ns.svc.cluster.local", "name": "db", "namespace": "ns"}
    return dict(c, metadata={"filter_metadata": {"istio": {"services": [service]}}})


def server_first(c):
    """As a database greets."""
    c.sendall(b"hello:")
    c.sendall(c.recv(100))


for title, talk, sent, back in (("client first", echo("db"), b"query", b"db:query"), ("server first", server_first, b"query", b"hello:query")):
    for alpn in ([EXCHANGE, "istio"], ["istio"]):
        named = f"{title}, {alpn[0]}"
        server = Proxy(named, "db", "INBOUND", [MEET, COUNT], hosts("inbound|5432||", stream("db", talk)), IDENTITIES.server("db", [EXCHANGE, "istio"]))
        client = Proxy(named, "web", "OUTBOUND", [COUNT], upstream(server.port, alpn, [MEET]))
        said = raw(client.port, sent)
        # The exchange is the proxies' own: neither side's application sees a byte of it.
        expect(f"bytes, {named}", {"said": said}, said=back)
        meets = alpn[0] == EXCHANGE
        for proxy, reporter, policy in ((client, "source", "unknown"), (server, "destination", "mutual_tls")):
            closed, n = proxy.series("istio_tcp_connections_closed_total")
            own = of("source", "web") if reporter == "source" else of("destination", "db")
            peer, side = ("db", "destination") if reporter == "source" else ("web", "source")
            wanted = dict(own, **(of(side, peer) if meets else unknown(side)))
            expect(f"{reporter}, {named}", dict(closed, n=n), n=1, reporter=reporter, request_protocol="tcp", connection_security_policy=policy, response_flags="-", **wanted)
            opened, n = proxy.series("istio_tcp_connections_opened_total")
            expect(f"{reporter} opened, {named}", dict(opened, n=n), **dict(closed, n=1))
            expect(f"{reporter} received, {named}", {"n": proxy.series("istio_tcp_received_bytes_total")[1]}, n=len(sent))
            expect(f"{reporter} sent, {named}", {"n": proxy.series("istio_tcp_sent_bytes_total")[1]}, n=len(back))
        service, _ = client.series("istio_tcp_connections_closed_total")
        expect(f"service, {named}", service, destination_service="db.ns.svc.cluster.local", destination_service_name="db", destination_service_namespace="ns")
        client.end(), server.end()


def stranger(port, hello):
    """A peer by other means: what the proxy says of itself, and what its application answers."""
    tls = IDENTITIES.common("web", [])
    context = ssl.create_default_context(cafile=tls["validation_context"]["trusted_ca"]["filename"])
    context.check_hostname = False
    pair = tls["tls_certificates"][0]
    context.load_cert_chain(pair["certificate_chain"]["filename"], pair["private_key"]["filename"])
    context.set_alpn_protocols([EXCHANGE])
    with socket.create_connection(("127.0.0.1", port)) as c, context.wrap_socket(c) as s:
        s.settimeout(8)
        assert s.selected_alpn_protocol() == EXCHANGE
        # In pieces, and the application's first bytes with the last one.
        for piece in (hello[:3], hello[3:11], hello[11:] + b"query"):
            s.sendall(piece)
            time.sleep(0.05)
        data = b""
        try:
            while more := s.recv(65536):
                data += more
        except OSError:
            pass
    if len(data) < 8 or struct.unpack(">I", data[:4])[0] != MAGIC:
        return None, data
    size = struct.unpack(">I", data[4:8])[0]
    told = struct_pb2.Struct()
    assert any_pb2.Any.FromString(data[8 : 8 + size]).Unpack(told)
    return told, data[8 + size :]


def hello(metadata):
    told, packed = struct_pb2.Struct(), any_pb2.Any()
    told.update({"x-envoy-peer-metadata": metadata, "x-envoy-peer-metadata-id": "sidecar~10.0.0.2~web-1.ns~ns.svc.cluster.local"})
    packed.Pack(told)
    body = packed.SerializeToString()
    return struct.pack(">II", MAGIC, len(body)) + body


mine = node("web", "web")["metadata"]
for title, sent, known in (("a stranger", hello(mine), True), ("one without metadata", hello({}), False)):
    server = Proxy(title, "db", "INBOUND", [MEET, COUNT], hosts("inbound|5432||", stream("db", echo("db"))), IDENTITIES.server("db", [EXCHANGE, "istio"]))
    told, rest = stranger(server.port, sent)
    expect(f"bytes, {title}", {"rest": rest}, rest=b"db:query")
    about = told["x-envoy-peer-metadata"] if told else {}
    expect(f"what is told, {title}", {k: about[k] for k in about} if told else {}, NAME="db-1", NAMESPACE="ns", CLUSTER_ID="c1", OWNER="kubernetes://apis/apps/v1/namespaces/ns/deployments/db")
    expect(f"id, {title}", {"id": told["x-envoy-peer-metadata-id"] if told else ""}, id="sidecar~10.0.0.1~db-1.ns~ns.svc.cluster.local")
    closed, _ = server.series("istio_tcp_connections_closed_total")
    expect(f"series, {title}", closed, connection_security_policy="mutual_tls", **(of("source", "web") if known else {"source_workload": "unknown"}))
    server.end()
