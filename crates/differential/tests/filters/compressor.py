"""Cases for compressor."""

from harness import *
import gzip


def ans(h, b):
    hs = [("content-type", "text/html; charset=utf-8")]
    body = b"the quick brown fox " * 100
    p = h.path
    if "json" in p:
        hs = [("content-type", "application/json")]
    if "png" in p:
        hs = [("content-type", "image/png")]
    if "noct" in p:
        hs = []
    if "small" in p:
        body = b"small"
    if "etagw" in p:
        hs.append(("etag", 'W/"x"'))
    elif "etag" in p:
        hs.append(("etag", '"x"'))
    if "enc" in p:
        hs.append(("content-encoding", "gzip"))
        body = gzip.compress(body, mtime=0)
    if "nt" in p:
        hs.append(("cache-control", "no-transform, x"))
    if "vary" in p:
        hs.append(("vary", "Cookie"))
    if "chunk" in p:
        hs.append(("transfer-encoding", "chunked"))
    if "204" in p:
        return (204, [("content-type", "text/html")], b"")
    return (200, hs, body)


up = server("up", ans)
C = "envoy.extensions.filters.http.compressor.v3.Compressor"
D = "envoy.extensions.filters.http.decompressor.v3.Decompressor"


def lib(n, t):
    return {"name": n, "typed_config": {"@type": "type.googleapis.com/envoy.extensions.compression." + t}}


gz = lib("gzip", "gzip.compressor.v3.Gzip")
br = lib("br", "brotli.compressor.v3.Brotli")
zs = lib("zs", "zstd.compressor.v3.Zstd")
PR = "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.CompressorPerRoute"


def mk(fs, routes=None):
    return lambda lp, ap, log: boot(
        fs,
        routes
        or [
            {
                "match": {"prefix": "/off"},
                "route": {"cluster": "up"},
                "typed_per_filter_config": {"c0": {"@type": PR, "disabled": True}},
            },
            {"match": {"prefix": "/dr"}, "direct_response": {"status": 200, "body": {"inline_string": "z" * 200}}},
            {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
        ],
        [cluster("up", up)],
        lp,
        ap,
        log,
    )


import harness as H

# compressed bodies differ between libraries: compare decoded
import zlib


def dec(b):
    head, _, body = b.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        out = b""
        r = body
        while r:
            l, _, r = r.partition(b"\r\n")
            try:
                n = int(l, 16)
            except ValueError:
                break
            out += r[:n]
            r = r[n + 2 :]
        body = out
    for enc, f in (("gzip", lambda x: zlib.decompress(x, 47)),):
        if f"content-encoding: {enc}".encode() in head and not b"/enc" in head:
            try:
                body = b"GZ:" + f(body)
            except Exception as e:
                body = b"BADGZ " + body[:20]
    if b"content-encoding: br" in head or b"content-encoding: zstd" in head:
        body = b"<opaque>"
    return head + b"\r\n\r\n" + body


old = H.blank
H.blank = lambda t: old(dec(t))
import re as _r

H.LOG = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %REQ(:PATH)%"
os.environ["STAT"] = "compressor"
H.STAT = _r.compile(r"compressor\.(?!.*total_compressed)")
paths = [
    "/x",
    "/json",
    "/png",
    "/noct",
    "/small",
    "/etag",
    "/etagw",
    "/enc",
    "/nt",
    "/vary",
    "/chunk",
    "/204",
    "/dr",
    "/chunksmall",
]
reqs = (
    [req(p, headers="accept-encoding: gzip") for p in paths]
    + [req("/x")]
    + [
        req("/x", headers="accept-encoding: " + a)
        for a in (
            "gzip;q=0",
            "*",
            "identity",
            "deflate",
            "gzip;q=0.5, br",
            "br;q=0.1,gzip",
            "gzip;q=x",
            "zstd, br, gzip",
            "gzip;q=0, *",
            ",",
            "identity;q=0.5, gzip;q=0.4",
            "GZIP",
        )
    ]
    + [req("/x", method="HEAD", headers="accept-encoding: gzip"), req("/vary")]
)
W = sys.argv[1:]


def t(n):
    return not W or n in W


if t("off"):
    # Who counts a filter that the route disables is not compared.
    H.STAT = _r.compile(r"^$")
    run("off", mk([("c0", C, {"compressor_library": gz})]), [req("/off", headers="accept-encoding: gzip")])
    H.STAT = _r.compile(r"compressor\.(?!.*total_compressed)")
if t("one"):
    run("gz", mk([("c0", C, {"compressor_library": gz})]), reqs)
if t("two"):
    run(
        "gz+br+zstd",
        mk(
            [
                ("c0", C, {"compressor_library": gz}),
                ("c1", C, {"compressor_library": br, "choose_first": True}),
                (
                    "c2",
                    C,
                    {
                        "compressor_library": zs,
                        "response_direction_config": {
                            "common_config": {"min_content_length": 100, "content_type": ["text/html"]},
                            "disable_on_etag_header": True,
                            "remove_accept_encoding_header": True,
                        },
                    },
                ),
            ]
        ),
        reqs,
    )
if t("req"):
    run(
        "request",
        mk(
            [
                (
                    "c0",
                    C,
                    {
                        "compressor_library": gz,
                        "request_direction_config": {
                            "common_config": {"enabled": {"default_value": True, "runtime_key": "x"}}
                        },
                        "response_direction_config": {
                            "common_config": {"enabled": {"default_value": False, "runtime_key": "y"}}
                        },
                    },
                )
            ]
        ),
        [
            req("/x", headers="accept-encoding: gzip"),
            req("/x", method="POST", headers="content-type: text/plain", body="a" * 10),
            req("/x", method="POST", headers="content-type: image/png", body="a" * 100),
        ],
    )
dgz = {
    "name": "gunzip",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.compression.gzip.decompressor.v3.Gzip"},
}
H.blank = old
if t("dec"):
    run(
        "decompress",
        mk([("d", D, {"decompressor_library": dgz})]),
        [
            req("/enc"),
            req("/x"),
            req("/enc", headers="accept-encoding: br"),
            req("/enc", headers="accept-encoding: gzip;q=0.1"),
            req("/encnt"),
            b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-encoding: gzip\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            % len(gzip.compress(b"hello", mtime=0))
            + gzip.compress(b"hello", mtime=0),
        ],
    )
