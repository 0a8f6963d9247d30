//! How does the echo sample speak WebSocket (RFC 6455)? The handshake, and every message sent back.

use std::io;

use base64::Engine as _;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::http::{Body, reply};

/// What the server's key is made with (RFC 6455, 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longest message.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

fn accept_key(key: &[u8]) -> String {
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID.as_bytes()].concat());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// Takes a request for a WebSocket; `None`: it is none.
pub(super) fn accept(request: &mut Request<Incoming>) -> Option<Response<Body>> {
    let wanted = request.headers().get(UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket");
    let key = request.headers().get("sec-websocket-key").filter(|_| wanted)?;
    let accepted = HeaderValue::from_str(&accept_key(key.as_bytes())).ok()?;
    let upgrade = hyper::upgrade::on(request);
    tokio::task::spawn_local(async move {
        if let Ok(stream) = upgrade.await {
            // A client that leaves in the middle is its own business.
            let _ = echo(TokioIo::new(stream)).await;
        }
    });
    let mut response = reply(200, "text/plain", "");
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert("sec-websocket-accept", accepted);
    Some(response)
}

/// Sends back every frame until the client closes.
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    loop {
        let first = stream.read_u8().await?;
        let second = stream.read_u8().await?;
        let length = match second & 0x7f {
            126 => stream.read_u16().await?.into(),
            127 => stream.read_u64().await?,
            short => short.into(),
        };
        // Clients mask, and nobody sends more than this sample is for.
        if second & 0x80 == 0 || length > MESSAGE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut mask = [0; 4];
        stream.read_exact(&mut mask).await?;
        let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        stream.read_exact(&mut payload).await?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        let opcode = first & 0x0f;
        let answered = if opcode == PING { first & 0xf0 | PONG } else { first };
        stream.write_all(&head(answered, payload.len())).await?;
        stream.write_all(&payload).await?;
        stream.flush().await?;
        if opcode == CLOSE {
            return Ok(());
        }
    }
}

fn head(first: u8, length: usize) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..=125 => head.push(length as u8),
        126..=65_535 => {
            head.push(126);
            head.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_the_standards() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn frames_come_back_unmasked() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let served = tokio::spawn(echo(server));
        let masked = |opcode: u8, payload: &[u8]| {
            let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8, 1, 2, 3, 4];
            frame.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
            frame
        };
        client.write_all(&[masked(1, b"hello"), masked(PING, b"?"), masked(CLOSE, b"")].concat()).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, [&[0x81, 5][..], b"hello", &[0x80 | PONG, 1], b"?", &[0x80 | CLOSE, 0]].concat());
        served.await.unwrap().unwrap();
    }
}
