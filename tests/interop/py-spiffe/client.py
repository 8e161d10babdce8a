"""Follows the Workload API with `spiffe`, unchanged, and prints what it hears, one line an event.

`set` is a message of the stream with every SVID in it, `source` what an X509Source hands out, `ended` the end of the stream.
On the word `fetch` in its input it asks anew, and prints `fetched` or `refused`; on `jwt AUDIENCE` it asks for a token through
a JwtSource, verifies it against the source's bundle, and prints `token` or `refused`.
"""

import sys
import threading

from spiffe import JwtSource, JwtSvid, WorkloadApiClient, X509Source
from spiffe.errors import PySpiffeError

# Seconds for the first answer, and for each ask after it.
ANSWER_MAX = 30

saying = threading.Lock()


def say(*words: object) -> None:
    with saying:
        print(*words, flush=True)


def shown(svid) -> str:
    serial = svid.leaf.serial_number
    return f"{svid.spiffe_id}={serial.to_bytes((serial.bit_length() + 7) // 8).hex()}"


def heard(context) -> None:
    for svid in context.x509_svids:
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        if bundle is None or not bundle.x509_authorities:
            say("unusable", shown(svid))
    say("set", *sorted(map(shown, context.x509_svids)))


def fetch(client) -> None:
    say("fetched", *sorted(map(shown, client.fetch_x509_svids(timeout=ANSWER_MAX))))


def token(address: str, audience: str) -> None:
    with JwtSource(socket_path=address, timeout_in_seconds=ANSWER_MAX) as source:
        svid = source.fetch_svid(audience={audience})
        bundle = source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        valid = JwtSvid.parse_and_validate(svid.token, bundle, {audience})
        say("token", f"{valid.spiffe_id}={','.join(sorted(valid.audience))}")


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: client.py <address of the socket>", file=sys.stderr)
        return 2
    address = sys.argv[1]
    with WorkloadApiClient(address) as client, X509Source(socket_path=address, timeout_in_seconds=ANSWER_MAX) as source:
        source.subscribe_for_updates(lambda: say("source", shown(source.get_x509_context().default_svid)))
        say("source", shown(source.get_x509_context().default_svid))
        # By default a refusal is asked again without a word, so this stream ends at its first.
        client.stream_x509_contexts(heard, lambda error: say("ended", error), retry_connect=False)
        for line in sys.stdin:
            word, _, audience = line.strip().partition(" ")
            try:
                token(address, audience) if word == "jwt" else fetch(client)
            except PySpiffeError as error:
                say("refused", type(error).__name__, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
