"""Cases for lua."""

from harness import *

up = server("up", lambda h, b: (200, [("x-up", "u")], b"upbody:" + b))
LU = "envoy.extensions.filters.http.lua.v3.Lua"
PR = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute"


def mk(code, routes=None, x={}):
    r = routes or [
        {
            "match": {"prefix": "/"},
            "route": {"cluster": "up"},
            "metadata": {"filter_metadata": {"envoy.filters.http.lua": {"foo": "bar", "n": {"m": [1, 2]}}}},
        }
    ]
    return lambda lp, ap, log: boot(
        [("envoy.filters.http.lua", LU, dict({"default_source_code": {"inline_string": code}}, **x))],
        r,
        [cluster("up", up)],
        lp,
        ap,
        log,
        logx="%DYNAMIC_METADATA(ns)%",
    )


code = """
function envoy_on_request(h)
  local p = h:headers():get(":path")
  h:headers():add("x-lua", "1")
  h:headers():replace("x-r", "r")
  h:headers():remove("x-rm")
  if p == "/resp" then h:respond({[":status"] = "403", ["x-a"]="b", ["set-cookie"]={"a","b"}}, "nope") end
  if p == "/meta" then h:headers():add("x-m", h:metadata():get("foo")) h:headers():add("x-n", tostring(h:metadata():get("n")["m"][2])) h:streamInfo():dynamicMetadata():set("ns","k",{a=1,b="x"}) h:headers():add("x-d", h:streamInfo():dynamicMetadata():get("ns")["k"]["b"]) end
  if p == "/body" then local b = h:body() if b then h:headers():add("x-len", tostring(b:length())) b:setBytes("changed!") else h:headers():add("x-none","1") end end
  if p == "/call" then local hd, b = h:httpCall("up", {[":method"]="POST",[":path"]="/sub",[":authority"]="sub",["x-q"]="1"}, "hello", 1000) h:headers():add("x-call", hd[":status"] .. hd["x-up"] .. b) end
  if p == "/err" then local x = nil; x.y = 1 end
  if p == "/badcl" then h:httpCall("nono", {[":method"]="POST",[":path"]="/sub",[":authority"]="sub"}, "hello", 1000) end
  if p == "/all" then local n=0 for k,v in pairs(h:headers()) do n=n+1 end h:headers():add("x-count", tostring(n)) end
  if p == "/info" then h:headers():add("x-p", h:streamInfo():protocol()) h:headers():add("x-rn", h:streamInfo():routeName()) h:headers():add("x-idx", tostring(h:headers():getNumValues("x-z"))..(h:headers():getAtIndex("x-z",1) or "nil")) h:headers():add("x-64", h:base64Escape("foo")) end
  if p == "/path" then h:headers():replace(":path", "/new") end
end
function envoy_on_response(h)
  h:headers():add("x-resp-lua", h:headers():get(":status"))
  if h:headers():get("x-up") then local b = h:body() if b then b:setBytes("<" .. b:getBytes(0, b:length()) .. ">") end end
end
"""
reqs = [
    req("/x", headers="x-rm: 1\nx-r: old"),
    req("/resp"),
    req("/meta"),
    req("/body"),
    req("/body", method="POST", body="hello"),
    req("/call"),
    req("/err"),
    req("/badcl"),
    req("/all", headers="a: 1\nb: 2"),
    req("/info", headers="x-z: 1\nx-z: 2"),
    req("/path"),
    req("/x", method="HEAD"),
]
W = sys.argv[1:]
run("lua", mk(code), reqs)
run("lua bad", mk("function envoy_on_request(h"), reqs[:1])
rt = [
    {
        "match": {"prefix": "/off"},
        "route": {"cluster": "up"},
        "typed_per_filter_config": {"envoy.filters.http.lua": {"@type": PR, "disabled": True}},
    },
    {
        "match": {"prefix": "/name"},
        "route": {"cluster": "up"},
        "typed_per_filter_config": {"envoy.filters.http.lua": {"@type": PR, "name": "n"}},
    },
    {
        "match": {"prefix": "/none"},
        "route": {"cluster": "up"},
        "typed_per_filter_config": {"envoy.filters.http.lua": {"@type": PR, "name": "zz"}},
    },
    {
        "match": {"prefix": "/src"},
        "route": {"cluster": "up"},
        "typed_per_filter_config": {
            "envoy.filters.http.lua": {
                "@type": PR,
                "source_code": {"inline_string": 'function envoy_on_request(h) h:headers():add("x-src","1") end'},
            }
        },
    },
    {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
]
run(
    "lua route",
    mk(
        'function envoy_on_request(h) h:headers():add("x-def","1") end',
        rt,
        {"source_codes": {"n": {"inline_string": 'function envoy_on_request(h) h:headers():add("x-named","1") end'}}},
    ),
    [req("/off"), req("/name"), req("/none"), req("/src"), req("/x")],
)
