#!/usr/bin/env bash
# Guess:   a broker that does not take an OAUTHBEARER token fails the log-in: the client raises
#          SaslAuthenticationFailed, as it does for a wrong password with PLAIN and SCRAM.
# Instead: aiokafka logs "Authenticated via OAUTHBEARER" and goes on. By RFC 7628 section 3.2.2 a server refuses with a
#          JSON document in an answer that is no error yet, and waits for one more message of the client's; aiokafka
#          reads the answer of any content as success. With Apache Kafka the next request then fails in a way that tells
#          nothing: "No broker metadata found in MetadataResponse", or a connection that was closed.
# Matters: a wrong audience, issuer or clock looks like brokers whose addresses are wrong, and tokens that are refused
#          are never renewed. Whoever uses aiokafka with OAUTHBEARER has to read that answer itself.
# Source:  aiokafka 0.14.0, conn.OAuthAuthenticator.step and AIOKafkaConnection._do_sasl_handshake. The document is what
#          Apache Kafka 4.2's OAuthBearerSaslServer writes.
# Needs:   python3. Takes a few seconds. Reaches nothing but loopback once it is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aiokafka==0.14.0
cat > "$folder/look.py" <<'PY'
import asyncio
import struct

import aiokafka
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError

REFUSAL = b'{"status":"invalid_token"}'
API_VERSIONS, HANDSHAKE, AUTHENTICATE = 18, 17, 36


class Tokens(AbstractTokenProvider):
    async def token(self):
        return "a.b.c"


async def serve(reader, writer):
    """A listener that knows OAUTHBEARER and takes no token: Kafka's protocol, RFC 7628's refusal."""
    try:
        while True:
            (length,) = struct.unpack(">i", await reader.readexactly(4))
            key, version, correlation = struct.unpack(">hhi", (await reader.readexactly(length))[:8])
            if key == HANDSHAKE:
                body = struct.pack(">hi", 0, 1) + struct.pack(">h", 11) + b"OAUTHBEARER"
            elif key == AUTHENTICATE:
                body = struct.pack(">hhi", 0, -1, len(REFUSAL)) + REFUSAL
                body += struct.pack(">q", 0) if version > 0 else b""
            elif key == API_VERSIONS:
                ranges = [(API_VERSIONS, 0, 0), (HANDSHAKE, 0, 1), (AUTHENTICATE, 0, 0), (3, 0, 1)]
                body = struct.pack(">hi", 0, len(ranges)) + b"".join(struct.pack(">hhh", *one) for one in ranges)
            else:
                return
            writer.write(struct.pack(">ii", len(body) + 4, correlation) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        connection = await create_conn(
            "127.0.0.1",
            port,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="OAUTHBEARER",
            sasl_oauth_token_provider=Tokens(),
        )
    except KafkaError as error:
        raise SystemExit(f"the refusal was read: {error!r}")
    print("aiokafka", aiokafka.__version__, "- connected with a token that was refused:", connection.connected())
    assert connection.connected()
    connection.close()


asyncio.run(main())
PY
"$folder/venv/bin/python" "$folder/look.py"
