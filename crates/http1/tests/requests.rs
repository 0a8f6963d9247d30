//! Which requests are accepted, and as what? A table of ordinary and ambiguous ones, and properties.

use http1::{
    BodyKind, BodyReader, HeadError, HeadScanner, HeaderBlock, HeaderCase, RequestOptions, ResponseOptions, Underscore,
    Version, parse_request, parse_response, write_request_head,
};
use proptest::prelude::*;

fn options() -> RequestOptions {
    RequestOptions::default()
}

fn parse(input: &[u8], o: &RequestOptions) -> Result<Option<String>, HeadError> {
    let (mut block, mut scanner) = (HeaderBlock::new(), HeadScanner::default());
    let head = parse_request(input, &mut scanner, o, &mut block)?;
    Ok(head.map(|h| {
        let fields: Vec<String> = block
            .iter()
            .map(|(n, v)| format!("{}={}", String::from_utf8_lossy(n), String::from_utf8_lossy(v)))
            .collect();
        let mut text = format!("{:?} {}", h.body, fields.join(" "));
        if !h.keep_alive {
            text.push_str(" CLOSE");
        }
        if h.upgrade {
            text.push_str(" UPGRADE");
        }
        if h.expect_continue {
            text.push_str(" CONTINUE");
        }
        text
    }))
}

#[track_caller]
fn ok(input: &str, expect: &str) {
    assert_eq!(parse(input.as_bytes(), &options()).unwrap().as_deref(), Some(expect), "{input:?}");
}

#[track_caller]
fn bad(input: impl AsRef<[u8]>, expect: HeadError) {
    let input = input.as_ref();
    assert_eq!(parse(input, &options()), Err(expect), "{:?}", String::from_utf8_lossy(input));
}

#[test]
fn accepted() {
    ok("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "None :method=GET :path=/ :authority=a");
    ok("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "None :method=GET :path=/ :authority=a");
    ok("GET /?q=/../ HTTP/1.1\r\nHost: a:80\r\n\r\n", "None :method=GET :path=/?q=/../ :authority=a:80");
    ok("GET / HTTP/1.1\r\nHost:a\r\nX:\t v \t\r\nE:\r\n\r\n", "None :method=GET :path=/ :authority=a x=v e=");
    ok(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        "Length(5) :method=POST :path=/ :authority=a content-length=5",
    );
    ok(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "None :method=POST :path=/ :authority=a content-length=0",
    );
    ok(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
        "Chunked :method=POST :path=/ :authority=a transfer-encoding=Chunked",
    );
    ok("GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", "None :method=GET :path=/x :authority=b :scheme=http");
    // A query without a path stays one, which no route's prefix matches, as Envoy has it.
    ok("GET HTTPS://b?x HTTP/1.1\r\nHost: a\r\n\r\n", "None :method=GET :path=?x :authority=b :scheme=https");
    ok("GET http://u:p@b:80/x HTTP/1.1\r\nHost: a\r\n\r\n", "None :method=GET :path=/x :authority=b:80 :scheme=http");
    ok(
        "GET http://[::1]:80/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "None :method=GET :path=/x :authority=[::1]:80 :scheme=http",
    );
    ok("GET http://b?x HTTP/1.1\r\nHost: a\r\n\r\n", "None :method=GET :path=?x :authority=b :scheme=http");
    ok("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", "None :method=GET :path=/ :authority=b :scheme=http");
    ok("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "Tunnel :method=CONNECT :authority=a:80");
    ok("CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "Tunnel :method=CONNECT :authority=a:80");
    ok("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "None :method=OPTIONS :path=* :authority=a");
    ok(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "None :method=GET :path=/ :authority=a connection=close CLOSE",
    );
    ok(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Close\r\n\r\n",
        "None :method=GET :path=/ :authority=a connection=keep-alive, Close CLOSE",
    );
    ok(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Foo\r\nX-Foo: 1\r\n\r\n",
        "None :method=GET :path=/ :authority=a connection=X-Foo",
    );
    ok(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: te\r\nTE: trailers, gzip\r\n\r\n",
        "None :method=GET :path=/ :authority=a connection=te te=trailers",
    );
    ok(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "None :method=GET :path=/ :authority=a connection=Upgrade upgrade=websocket UPGRADE",
    );
    ok(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
        "None :method=GET :path=/ :authority=a connection=Upgrade, HTTP2-Settings",
    );
    ok(
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n",
        "Length(1) :method=POST :path=/ :authority=a expect=100-Continue content-length=1 CONTINUE",
    );
    ok("GET / HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n", "None :method=GET :path=/ :authority=a x=\u{e9}");
    ok("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "None :method=GET :path=/ :authority=[::1]:80");
}

#[test]
fn refused() {
    use HeadError::*;
    let with = |h: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{h}\r\n\r\n");
    for (headers, error) in [
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", LengthAndChunked),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", LengthAndChunked),
        ("Content-Length: 3\r\nContent-Length: 3", InvalidContentLength),
        ("Content-Length: 3\r\nContent-Length: 4", InvalidContentLength),
        ("Content-Length: 3, 3", InvalidContentLength),
        ("Content-Length: +3", InvalidContentLength),
        ("Content-Length: -1", InvalidContentLength),
        ("Content-Length: 0x10", InvalidContentLength),
        ("Content-Length: 1 2", InvalidContentLength),
        ("Content-Length: ", InvalidContentLength),
        ("Content-Length: 18446744073709551616", InvalidContentLength),
        ("Transfer-Encoding: gzip", InvalidTransferEncoding),
        ("Transfer-Encoding: gzip, chunked", InvalidTransferEncoding),
        ("Transfer-Encoding: chunked, chunked", InvalidTransferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", InvalidTransferEncoding),
        ("Transfer-Encoding: xchunked", InvalidTransferEncoding),
        ("Transfer-Encoding: \"chunked\"", InvalidTransferEncoding),
        ("Transfer-Encoding: identity", InvalidTransferEncoding),
        ("Transfer-Encoding: \x0bchunked", Malformed),
        ("Transfer-Encoding : chunked", Malformed),
        (" Transfer-Encoding: chunked", Malformed),
        ("X: 1\r\n folded", Malformed),
        ("X: 1\r\n\tfolded", Malformed),
        ("X: a\rb", Malformed),
        ("X: a\nY: b", Malformed),
        ("X: a\n\nY: b", Malformed),
        ("X: \0", Malformed),
        ("X\0: 1", Malformed),
        (": 1", Malformed),
        ("X", Malformed),
        ("X Y: 1", Malformed),
        ("X(: 1", Malformed),
        ("Host: b", HostTwice),
        ("Connection: x-forwarded-for", ConnectionHeader),
        ("Connection: :path", ConnectionHeader),
        ("Connection: content-length\r\nContent-Length: 1", ConnectionHeader),
        ("Connection: transfer-encoding\r\nTransfer-Encoding: chunked", ConnectionHeader),
        ("Connection: host", ConnectionHeader),
        ("Connection: a,b,c,d,e,f,g,h,i,j", ConnectionHeader),
    ] {
        bad(with(headers), error);
    }
    for (input, error) in [
        ("GET / HTTP/1.1\nHost: a\n\n", Malformed),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Malformed),
        ("GET / HTTP/1.1\rHost: a\r\r", Malformed),
        ("garbage\r\n\r\n", Malformed),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Malformed),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Malformed),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Malformed),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Malformed),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Malformed),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Malformed),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Malformed),
        ("GET / HTTP/0.9\r\n\r\n", Malformed),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Malformed),
        ("GET /\r\n\r\n", Malformed),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", Malformed),
        ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", Malformed),
        ("GET / HTTP/1.0\r\n\r\n", LowVersion),
        ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl),
        ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl),
        ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl),
        ("GET http://b:x/ HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl),
        ("GET http://b:99999/ HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl),
        ("GET http://b:/ HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl),
        ("GET http://[::1/ HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl),
        ("GET http://u@/ HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl),
        ("GET ftp://b/x HTTP/1.1\r\nHost: a\r\n\r\n", InvalidScheme),
        ("GET 1http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", ContentLengthNotAllowed),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncodingNotAllowed),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", InvalidHost),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", InvalidHost),
    ] {
        bad(input, error);
    }
    bad("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", InvalidUrl);
    bad([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc], Malformed);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: 1\r\n".repeat(101));
    bad(many, TooManyHeaders);
    let large = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(61 << 10));
    bad(large, TooLarge);
}

#[test]
fn options_change_verdicts() {
    let old = RequestOptions { accept_http_10: true, ..options() };
    let expect = "None :method=GET :path=/ CLOSE";
    assert_eq!(parse(b"GET / HTTP/1.0\r\n\r\n", &old).unwrap().unwrap(), expect);
    let chunked = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(parse(chunked, &old), Err(HeadError::TransferEncodingNotAllowed));
    let input = b"GET / HTTP/1.1\r\nHost: a\r\nX_Y: 1\r\n\r\n";
    let reject = RequestOptions { underscore: Underscore::Reject, ..options() };
    assert_eq!(parse(input, &reject), Err(HeadError::Underscore));
    let drop = RequestOptions { underscore: Underscore::Drop, ..options() };
    assert_eq!(parse(input, &drop).unwrap().unwrap(), "None :method=GET :path=/ :authority=a");
    let relative = RequestOptions { allow_absolute_url: false, ..options() };
    let kept = parse(b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", &relative);
    assert_eq!(kept.unwrap().unwrap(), "None :method=GET :path=http://b/ :authority=a");
    let lenient = RequestOptions { allow_chunked_length: true, ..options() };
    let both = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
    let expect = "Chunked :method=POST :path=/ :authority=a transfer-encoding=chunked";
    assert_eq!(parse(both, &lenient).unwrap().unwrap(), expect);
}

#[test]
fn header_case() {
    let input = b"GET / HTTP/1.1\r\nHOST: a\r\nX-fOO: 1\r\n\r\n";
    let check = |preserve, case, expect: &str| {
        let o = RequestOptions { preserve_case: preserve, ..options() };
        let (mut block, mut scanner) = (HeaderBlock::new(), HeadScanner::default());
        parse_request(input, &mut scanner, &o, &mut block).unwrap().unwrap();
        block.add(b"x-added", b"2");
        let mut out = Vec::new();
        write_request_head(&mut out, &block, Version::Http11, case, b"");
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    };
    check(false, HeaderCase::Lower, "GET / HTTP/1.1\r\nhost: a\r\nx-foo: 1\r\nx-added: 2\r\n\r\n");
    check(false, HeaderCase::Proper, "GET / HTTP/1.1\r\nHost: a\r\nX-Foo: 1\r\nX-Added: 2\r\n\r\n");
    check(true, HeaderCase::Preserve, "GET / HTTP/1.1\r\nHost: a\r\nX-fOO: 1\r\nx-added: 2\r\n\r\n");
}

#[test]
fn responses() {
    let check = |input: &str, o: ResponseOptions, expect: Result<(u16, BodyKind, bool), HeadError>| {
        let (mut block, mut scanner) = (HeaderBlock::new(), HeadScanner::default());
        let got = parse_response(input.as_bytes(), &mut scanner, &o, &mut block)
            .map(|h| h.map(|h| (h.status, h.body, h.keep_alive)).unwrap());
        assert_eq!(got, expect, "{input:?}");
    };
    let o = ResponseOptions::default();
    let head = ResponseOptions { head_request: true, ..o };
    let connect = ResponseOptions { connect_request: true, ..o };
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", o, Ok((200, BodyKind::Length(2), true)));
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", head, Ok((200, BodyKind::None, true)));
    check("HTTP/1.1 200\r\n\r\n", o, Ok((200, BodyKind::UntilClose, false)));
    check("HTTP/1.1 204 No\r\n\r\n", o, Ok((204, BodyKind::None, true)));
    check("HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", o, Ok((304, BodyKind::None, true)));
    check("HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n", o, Ok((101, BodyKind::Tunnel, true)));
    check("HTTP/1.1 200 OK\r\n\r\n", connect, Ok((200, BodyKind::Tunnel, true)));
    check("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", o, Ok((200, BodyKind::Length(2), false)));
    check(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        o,
        Ok((200, BodyKind::Chunked, false)),
    );
    check("HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", o, Err(HeadError::TransferEncodingNotAllowed));
    check("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", o, Err(HeadError::InvalidContentLength));
    check(
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        o,
        Err(HeadError::LengthAndChunked),
    );
    check("HTTP/1.1 099 X\r\n\r\n", o, Err(HeadError::Malformed));
}

/// Relays a body in pieces of the given sizes; returns (forwarded, consumed, done) or the error.
fn relay(kind: BodyKind, input: &[u8], sizes: &[usize], raw: bool) -> Result<(Vec<u8>, usize, bool), http1::BodyError> {
    let mut reader = BodyReader::new(kind);
    let (mut out, mut at, mut held, mut i) = (Vec::new(), 0, 0, 0);
    while held < input.len() {
        held = (held + sizes[i % sizes.len()].max(1)).min(input.len());
        i += 1;
        while at < held && !reader.is_done() {
            let chunk = &input[at..held];
            let (range, used) = if raw {
                let (r, used, _) = reader.next_raw(chunk)?;
                (r, used)
            } else {
                reader.next_data(chunk)?
            };
            out.extend_from_slice(&chunk[range]);
            at += used;
            if used == 0 {
                break;
            }
        }
    }
    Ok((out, at, reader.is_done()))
}

#[test]
fn chunked_bodies() {
    let check = |input: &str, raw: &str, data: &str, consumed: usize| {
        let got = relay(BodyKind::Chunked, input.as_bytes(), &[1 << 20], true).unwrap();
        assert_eq!((String::from_utf8(got.0).unwrap().as_str(), got.1, got.2), (raw, consumed, true), "{input:?}");
        let got = relay(BodyKind::Chunked, input.as_bytes(), &[1 << 20], false).unwrap();
        assert_eq!((String::from_utf8(got.0).unwrap().as_str(), got.1), (data, consumed), "{input:?}");
    };
    check("0\r\n\r\n", "0\r\n\r\n", "", 5);
    check("3\r\nabc\r\n0\r\n\r\nNEXT", "3\r\nabc\r\n0\r\n\r\n", "abc", 13);
    check("3;x=y\r\nabc\r\n0;z\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "abc", 19);
    check("003\r\nabc\r\n00\r\nA: b\r\n\r\n", "003\r\nabc\r\n00\r\n\r\n", "abc", 22);
    let refuse = |input: &str| {
        assert!(relay(BodyKind::Chunked, input.as_bytes(), &[1 << 20], true).is_err(), "{input:?}");
        assert!(relay(BodyKind::Chunked, input.as_bytes(), &[1], false).is_err(), "{input:?}");
    };
    for input in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 \r\n",
        "1\n",
        "1\rX",
        "1\r\nabc\r\n",
        "1\r\na\n",
        "1\r\na\rX",
        "11111111111111111\r\n",
        "1;\n\r\n",
        "1;a\rb\r\n",
        "1;\0\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA\0: b\r\n\r\n",
        "0\r\n\n",
    ] {
        refuse(input);
    }
    refuse(&format!("1;{}\r\n", "x".repeat(2000)));
}

#[test]
fn an_empty_line_may_come_in_two_pieces() {
    let input = b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut block, mut scanner) = (HeaderBlock::new(), HeadScanner::default());
    for held in 0..input.len() {
        assert_eq!(parse_request(&input[..held], &mut scanner, &options(), &mut block).map(|h| h.is_some()), Ok(false));
    }
    let head = parse_request(input, &mut scanner, &options(), &mut block).unwrap().unwrap();
    assert_eq!((head.consumed, block.method()), (input.len(), &b"GET"[..]));
}

proptest! {
    /// However the bytes of a request are split, the verdict is the same.
    #[test]
    fn any_split_gives_the_same_head(cut in prop::collection::vec(1usize..20, 1..20), which in 0usize..4) {
        let inputs: [&[u8]; 4] = [
            b"GET /a HTTP/1.1\r\nHost: a\r\nX-Y: 1\r\n\r\n",
            b"\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        ];
        let input = inputs[which];
        let whole = parse(input, &options());
        let (mut block, mut scanner) = (HeaderBlock::new(), HeadScanner::default());
        let (mut held, mut i) = (0, 0);
        let split = loop {
            held = (held + cut[i % cut.len()]).min(input.len());
            i += 1;
            match parse_request(&input[..held], &mut scanner, &options(), &mut block) {
                Ok(None) => prop_assert!(held < input.len()),
                Ok(Some(h)) => break Ok(h.consumed),
                Err(e) => break Err(e),
            }
        };
        prop_assert_eq!(whole.is_ok(), split.is_ok());
        if let Ok(consumed) = split {
            prop_assert_eq!(consumed, input.len());
        }
    }

    /// However a chunked body is split, the same bytes come out; and the raw form decodes to the data.
    #[test]
    fn any_split_gives_the_same_body(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
        extension in any::<bool>(),
        sizes in prop::collection::vec(1usize..30, 1..10),
    ) {
        let mut input = Vec::new();
        let mut data = Vec::new();
        for c in &chunks {
            input.extend_from_slice(format!("{:x}{}\r\n", c.len(), if extension { ";e=1" } else { "" }).as_bytes());
            input.extend_from_slice(c);
            input.extend_from_slice(b"\r\n");
            data.extend_from_slice(c);
        }
        input.extend_from_slice(b"0\r\nT: 1\r\n\r\n");
        let decoded = relay(BodyKind::Chunked, &input, &sizes, false).unwrap();
        prop_assert_eq!(&decoded.0, &data);
        prop_assert!(decoded.2 && decoded.1 == input.len());
        let raw = relay(BodyKind::Chunked, &input, &sizes, true).unwrap();
        let again = relay(BodyKind::Chunked, &raw.0, &[7], false).unwrap();
        prop_assert_eq!(&again.0, &data);
        prop_assert!(again.2 && again.1 == raw.0.len());
    }

    /// No input makes the parsers panic.
    #[test]
    fn never_panics(input in prop::collection::vec(any::<u8>(), 0..400), step in 1usize..50) {
        let _ = parse(&input, &options());
        let _ = relay(BodyKind::Chunked, &input, &[step], true);
        let (mut block, mut scanner) = (HeaderBlock::new(), HeadScanner::default());
        let _ = parse_response(&input, &mut scanner, &ResponseOptions::default(), &mut block);
    }
}
