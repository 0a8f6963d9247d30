"""Cases for ext_proc."""

import harness
from harness import *
import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as P
from envoy.config.core.v3 import base_pb2 as C
from google.protobuf import json_format as JF


def HV(k, v, **x):
    o = C.HeaderValueOption(header=C.HeaderValue(key=k, raw_value=v.encode()))
    for a, b in x.items():
        if a == "append":
            o.append.value = b
        else:
            setattr(o, a, b)
    return o


# How a body is cut into pieces depends on when they arrive: where it is streamed, all of it is noted with its end.
WHOLE = [False]


def process(it, ctx):
    path = "?"
    bodies = {"request_body": b"", "response_body": b""}
    for m in it:
        k = m.WhichOneof("request")
        d = JF.MessageToDict(m, preserving_proto_field_name=True)
        d.pop("protocol_config", None)
        d.pop("metadata_context", None)
        hs = None
        if k in ("request_headers", "response_headers"):
            hs = {h.key: (h.raw_value or h.value.encode()).decode() for h in getattr(m, k).headers.headers}
            d[k]["headers"] = sorted(
                (a, b)
                for a, b in hs.items()
                if a
                not in (
                    "x-forwarded-for",
                    "date",
                    "x-request-id",
                    "x-envoy-upstream-service-time",
                    "x-envoy-expected-rq-timeout-ms",
                )
            )
        note = True
        if WHOLE[0] and k in bodies:
            bodies[k] += getattr(m, k).body
            note = getattr(m, k).end_of_stream
            d[k]["body"] = bodies[k].decode()
        if note:
            seen.append(("proc", json.dumps(d, sort_keys=True)))
        if k == "request_headers":
            path = hs.get(":path", "?")
        r = P.ProcessingResponse()
        if "gerr" in path:
            ctx.abort(grpc.StatusCode.INTERNAL, "boo hoo")
        if "close" in path:
            return
        if "slow" in path:
            time.sleep(0.6)
        if (
            "imm" in path
            and (k == "request_headers" or ("immr" in path and k == "response_headers"))
            and not ("immr" in path and k == "request_headers")
        ):
            r.immediate_response.status.code = 418
            r.immediate_response.body = b"imm"
            r.immediate_response.headers.set_headers.append(HV("x-imm", "1"))
            r.immediate_response.details = "det ail"
            yield r
            continue
        if "spur" in path:
            r.response_trailers.SetInParent()
            yield r
            continue
        if k in ("request_headers", "response_headers"):
            c = getattr(r, k).response
            if "mut" in path:
                c.header_mutation.set_headers.extend(
                    [
                        HV("x-set", "n"),
                        HV("x-app", "n", append=True),
                        HV("x-addif", "n", append_action=1),
                        HV("x-over", "n", append_action=2),
                        HV(":authority", "evil"),
                        HV("x-envoy-a", "b"),
                    ]
                )
                if k == "request_headers":
                    c.header_mutation.set_headers.append(HV(":path", "/new"))
                c.header_mutation.remove_headers.extend(["x-rm", ":method"])
            if "repl" in path and k == "request_headers":
                c.status = 1
                c.body_mutation.body = b"replaced"
                c.header_mutation.set_headers.append(HV("x-set", "n"))
            if "rrep" in path and k == "response_headers":
                c.status = 1
                c.body_mutation.body = b"RR"
            if "route" in path and k == "request_headers":
                c.clear_route_cache = True
                c.header_mutation.set_headers.append(HV("x-route", "b"))
            if "mode" in path and k == "request_headers":
                r.mode_override.request_body_mode = 2
                r.mode_override.response_header_mode = 2
            if k == "request_headers" and "mut" in path:
                pass
            getattr(r, k).SetInParent()
            r.dynamic_metadata.update({"ns": {"k": "v"}})
        elif k in ("request_body", "response_body"):
            c = getattr(r, k).response
            getattr(r, k).SetInParent()
            if "dup" in path:
                c.body_mutation.streamed_response.body = getattr(m, k).body.upper()
                c.body_mutation.streamed_response.end_of_stream = getattr(m, k).end_of_stream
            elif "bup" in path:
                c.body_mutation.body = getattr(m, k).body.upper()
            elif "bmut" in path:
                c.body_mutation.body = b"[" + getattr(m, k).body + b"]"
                c.header_mutation.set_headers.append(HV("x-body", "1"))
            elif "bclr" in path:
                c.body_mutation.clear_body = True
        else:
            getattr(r, k).SetInParent()
        yield r


s = grpc.server(futures.ThreadPoolExecutor(16))
s.add_generic_rpc_handlers(
    (
        grpc.method_handlers_generic_handler(
            "envoy.service.ext_proc.v3.ExternalProcessor",
            {
                "Process": grpc.stream_stream_rpc_method_handler(
                    process,
                    request_deserializer=P.ProcessingRequest.FromString,
                    response_serializer=P.ProcessingResponse.SerializeToString,
                )
            },
        ),
    )
)
gp = s.add_insecure_port("127.0.0.1:0")
s.start()
up = server("up", lambda h, b: (200, [("x-up", "u"), ("x-rm", "1")], b"upbody:" + b))
EP = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
routes = [
    {
        "match": {"prefix": "/", "headers": [{"name": "x-route", "string_match": {"exact": "b"}}]},
        "direct_response": {"status": 200, "body": {"inline_string": "routed"}},
    },
    {
        "match": {"prefix": "/off"},
        "route": {"cluster": "up"},
        "typed_per_filter_config": {
            "envoy.filters.http.ext_proc": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
                "disabled": True,
            }
        },
    },
    {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
]


def mk(c):
    c = dict({"grpc_service": {"envoy_grpc": {"cluster_name": "ep"}}, "message_timeout": "0.3s"}, **c)
    return lambda lp, ap, log: boot(
        [("envoy.filters.http.ext_proc", EP, c)],
        routes,
        [cluster("up", up), cluster("ep", gp, True)],
        lp,
        ap,
        log,
        logx="%DYNAMIC_METADATA(ns:k)%",
    )


base = [
    req("/x"),
    req("/mut", headers="x-rm: 1\nx-set: o\nx-app: o\nx-addif: o"),
    req("/gerr"),
    req("/close"),
    req("/slow"),
    req("/imm"),
    req("/immr"),
    req("/spur"),
    req("/repl"),
    req("/rrep"),
    req("/route"),
    req("/mode", method="POST", body="mm"),
    req("/off"),
    req("/x", method="POST", body="hello"),
]
W = sys.argv[1:]


def t(n):
    return not W or n in W


if t("hdr"):
    run("headers", mk({}), base)
if t("allow"):
    run(
        "allow",
        mk(
            {
                "failure_mode_allow": True,
                "allow_mode_override": True,
                "metadata_options": {"receiving_namespaces": {"untyped": ["ns"]}},
                "request_attributes": ["request.path", "source.address" if 0 else "request.method"],
                "stat_prefix": "sp",
            }
        ),
        base,
    )
b = [
    req("/x", method="POST", body="hello"),
    req("/x"),
    req("/bmut", method="POST", body="hello"),
    req("/bclr", method="POST", body="hello"),
    req("/bmut"),
    req("/imm", method="POST", body="hello"),
    "POST /bmut HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nabcde\r\n3\r\nfgh\r\n0\r\n\r\n",
]
if t("buf"):
    run("buffered", mk({"processing_mode": {"request_body_mode": "BUFFERED", "response_body_mode": "BUFFERED"}}), b)
def whole(title, c, requests):
    # As many messages as there are pieces.
    WHOLE[0], harness.STAT = True, re.compile(r"ext_proc\.(?!stream_msgs|rejected)|http\.t\.downstream_rq_[0-9]|cluster\.\w+\.upstream_rq_\d")
    run(title, mk(c), requests)
    WHOLE[0], harness.STAT = False, STAT


if t("str"):
    streamed = [r.replace("bmut", "bup") for r in b]
    whole("streamed", {"processing_mode": {"request_body_mode": "STREAMED", "response_body_mode": "STREAMED"}}, streamed)
if t("skip"):
    run(
        "skip",
        mk(
            {
                "processing_mode": {
                    "request_header_mode": "SKIP",
                    "response_header_mode": "SKIP",
                    "request_body_mode": "BUFFERED",
                }
            }
        ),
        b,
    )
if t("dup"):
    whole(
        "duplex",
        {
            "processing_mode": {
                "request_body_mode": "FULL_DUPLEX_STREAMED",
                "response_body_mode": "FULL_DUPLEX_STREAMED",
                "request_trailer_mode": "SEND",
                "response_trailer_mode": "SEND",
            }
        },
        [req("/dup", method="POST", body="hello"), req("/dup")],
    )
