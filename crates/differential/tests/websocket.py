"""Talks WebSocket through a proxy with a real library at both ends.

Usage: websocket.py server | websocket.py client PORT CONNECTIONS
The server prints its port. The client prints one line per check and exits with 1 when one fails.
"""
import asyncio, hashlib, os, sys
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

MESSAGE_MAX = 32 << 20


async def echo(ws):
    try:
        async for message in ws:
            if isinstance(message, str) and message.startswith("close "):
                _, code, reason = message.split(" ", 2)
                await ws.close(int(code), reason)
                return
            if isinstance(message, str) and message.startswith("ping "):
                waiter = await ws.ping(message[5:].encode())
                await waiter
                await ws.send("ponged")
                continue
            if isinstance(message, str) and message.startswith("pieces "):
                await ws.send([str(i) + "," for i in range(int(message[7:]))])
                continue
            await ws.send(message)
    except ConnectionClosed:
        pass


async def server():
    async with serve(echo, "127.0.0.1", 0, max_size=MESSAGE_MAX, ping_interval=None, subprotocols=["chat"],
                     select_subprotocol=lambda ws, offered: "chat" if "chat" in offered else None) as s:
        print(s.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


def dial(port, **more):
    more.setdefault("compression", None)
    return connect(f"ws://127.0.0.1:{port}/ws", max_size=MESSAGE_MAX, ping_interval=None, open_timeout=60, proxy=None, **more)


async def text_and_binary(port):
    async with dial(port) as ws:
        for message in ["", "hello", "\u00fcml\u00e4ut \U0001f600" * 50, b"", bytes(range(256)) * 200]:
            await ws.send(message)
            assert await ws.recv() == message


async def fragmentation(port):
    async with dial(port) as ws:
        await ws.send([b"a" * n for n in range(1, 400)])
        assert await ws.recv() == b"".join(b"a" * n for n in range(1, 400))
        await ws.send("pieces 300")
        got = [piece async for piece in ws.recv_streaming()]
        assert len(got) == 301 or len(got) == 300, len(got)
        assert "".join(got) == "".join(f"{i}," for i in range(300))


async def ping_pong(port):
    async with dial(port) as ws:
        for n in range(20):
            await (await ws.ping(b"p%d" % n))
        await ws.send("ping from-the-server")
        assert await ws.recv() == "ponged"
        # A control frame between the pieces of a message.
        await ws.send([b"x" * 70000, b"y" * 70000])
        assert len(await ws.recv()) == 140000


async def close_codes(port):
    for code in [1000, 1001, 1003, 1008, 1011, 3000, 4999]:
        async with dial(port) as ws:
            await ws.send(f"close {code} because {code}")
            try:
                await ws.recv()
                raise AssertionError("not closed")
            except ConnectionClosed as e:
                assert e.rcvd.code == code and e.rcvd.reason == f"because {code}", e
        ws = await dial(port)
        await ws.close(code, "mine")
        assert ws.close_code == code, ws.close_code


async def big_messages(port):
    data = os.urandom(16 << 20)
    async with dial(port) as ws:
        for _ in range(2):
            await ws.send(data)
            assert hashlib.sha256(await ws.recv()).digest() == hashlib.sha256(data).digest()


async def extensions(port):
    async with dial(port, compression="deflate", subprotocols=["chat", "other"]) as ws:
        assert ws.subprotocol == "chat"
        await ws.send("z" * 100000)
        assert await ws.recv() == "z" * 100000


async def abrupt_end(port):
    ws = await dial(port)
    await ws.send("hello")
    ws.transport.abort()
    async with dial(port) as other:
        await other.send("still there")
        assert await other.recv() == "still there"


async def many(port, count):
    opened = []
    gate = asyncio.Semaphore(50)

    async def one():
        async with gate:
            opened.append(await dial(port))

    await asyncio.gather(*[one() for _ in range(count)])
    assert len(opened) == count

    async def talk(i, ws):
        for n in range(3):
            await ws.send(f"{i}-{n}")
            assert await ws.recv() == f"{i}-{n}"

    await asyncio.gather(*[talk(i, ws) for i, ws in enumerate(opened)])
    await asyncio.gather(*[ws.close() for ws in opened])
    assert all(ws.close_code == 1000 for ws in opened)


async def client(port, connections):
    checks = [text_and_binary, fragmentation, ping_pong, close_codes, big_messages, extensions, abrupt_end]
    failed = 0
    for check in checks + [lambda p: many(p, connections)]:
        name = check.__name__ if check in checks else f"{connections} connections"
        try:
            await asyncio.wait_for(check(port), 120)
            print(f"{name}: passed", flush=True)
        except Exception as e:
            failed += 1
            print(f"{name}: FAILED {type(e).__name__}: {e}", flush=True)
    sys.exit(1 if failed else 0)


if sys.argv[1] == "server":
    asyncio.run(server())
else:
    asyncio.run(client(int(sys.argv[2]), int(sys.argv[3])))
