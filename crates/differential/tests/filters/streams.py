"""What the scripts for byte streams share: servers, TCP proxies in front of them, certificates of workloads."""

from harness import *
import datetime
import ipaddress
import ssl
import struct

T = "type.googleapis.com/"
N = "envoy.extensions.filters.network."
LOGGED = "%RESPONSE_FLAGS% %CONNECTION_TERMINATION_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER%"


def stream(name, talk):
    """A server whose connections are handed to `talk`."""

    class H(socketserver.BaseRequestHandler):
        def handle(self):
            try:
                talk(self.request)
            except OSError:
                pass

    class S(socketserver.ThreadingMixIn, socketserver.TCPServer):
        daemon_threads = True
        allow_reuse_address = True

    s = S(("127.0.0.1", 0), H)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s.server_address[1]


def echo(name):
    def talk(c):
        data = c.recv(65536)
        if data:
            seen.append((name, data))
        c.sendall(name.encode() + b":" + data)

    return talk


def reset(port):
    """Goes away without a word."""
    s = socket.create_connection(("127.0.0.1", port))
    s.settimeout(8)
    s.sendall(b"x")
    out = s.recv(100)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    return out


def gathers(c):
    """Sends back what comes until a word that ends it."""
    data = b""
    while not data.endswith(b"data") and (more := c.recv(65536)):
        data += more
    seen.append(("gathers", data))
    c.sendall(b"gathers:" + data)


def resets(c):
    """A host that answers and breaks."""
    c.sendall(b"got:" + c.recv(100))
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def typed(name, kind, **c):
    return {"name": name, "typed_config": dict({"@type": T + kind}, **c)}


def net(name, kind, **c):
    return typed(name, N + kind, **c)


def logger(log, text):
    source = {"text_format_source": {"inline_string": text + "\n"}}
    return typed("a", "envoy.extensions.access_loggers.file.v3.FileAccessLog", path=log, log_format=source)


def tcp(filters, clusters, proxy={}, logx="", listener={}, logged=LOGGED, more=[]):
    """A configuration whose listener is a TCP proxy; `more` are listeners beside it."""

    def mk(lp, ap, log):
        c = {"stat_prefix": "t", "access_log": [logger(log, logged + " " + logx)]}
        c.update({"cluster": "a"} if "weighted_clusters" not in proxy else {}, **proxy)
        boot_ = boot([], [], clusters, lp, ap, log)
        listeners = boot_["static_resources"]["listeners"]
        listeners[0]["filter_chains"] = [{"filters": filters + [net("tcp", "tcp_proxy.v3.TcpProxy", **c)]}]
        listeners[0].update(listener)
        listeners.extend(l(log) if callable(l) else l for l in more)
        return boot_

    return mk


def hosts(name, *ports, **more):
    c = cluster(name, ports[0])
    c["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": p}}}} for p in ports
    ]
    return dict(c, **more)


class Identities:
    """Certificates of workloads, and the authority they all trust."""

    def __init__(self):
        from cryptography.hazmat.primitives.asymmetric import ec

        self.folder = tempfile.mkdtemp()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._made("root", self.key, None)
        self._write("root.pem", self._pem(self.root))

    def _made(self, name, key, uri):
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        def named(n):
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, n)])

        now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
        made = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named("root")).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
        made = made.add_extension(x509.BasicConstraints(ca=uri is None, path_length=None), critical=True)
        if uri is not None:
            names = [x509.UniformResourceIdentifier(uri), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return made.sign(self.key, hashes.SHA256())

    def _pem(self, it):
        from cryptography.hazmat.primitives import serialization as s

        if hasattr(it, "private_bytes"):
            return it.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
        return it.public_bytes(s.Encoding.PEM)

    def _write(self, name, pem):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as f:
            f.write(pem)
        return path

    def common(self, workload, alpn):
        """The `common_tls_context` of a workload that trusts all others."""
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        made = self._made(workload, key, "spiffe://cluster.local/ns/ns/sa/" + workload)
        chain, private = self._write(workload + ".pem", self._pem(made)), self._write(workload + ".key", self._pem(key))
        return {
            "alpn_protocols": alpn,
            "tls_certificates": [{"certificate_chain": {"filename": chain}, "private_key": {"filename": private}}],
            "validation_context": {"trusted_ca": {"filename": os.path.join(self.folder, "root.pem")}},
        }

    def client(self, workload, alpn):
        kind = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        return typed("envoy.transport_sockets.tls", kind, common_tls_context=self.common(workload, alpn))

    def server(self, workload, alpn):
        kind = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
        required = {"require_client_certificate": True, "common_tls_context": self.common(workload, alpn)}
        return typed("envoy.transport_sockets.tls", kind, **required)
