"""Verifies a JWT-SVID from its standard alone, with the signatures of `cryptography`: token and JWK Set in, claims out."""

import base64
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256


def octets(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def key_of(jwks, kid):
    for key in jwks["keys"]:
        if key["kid"] == kid and key["use"] == "jwt-svid" and key["kty"] == "EC" and key["crv"] == "P-256":
            x, y = (int.from_bytes(octets(key[name]), "big") for name in ("x", "y"))
            return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    raise ValueError(f"no key {kid}")


def verify(token, jwks, audience, now):
    header, payload, signature = token.split(".")
    head = json.loads(octets(header))
    if head["alg"] != "ES256" or set(head) - {"alg", "kid", "typ"}:
        raise ValueError(f"header {head}")
    raw = octets(signature)
    if len(raw) != 64:
        raise ValueError("the signature has not 64 octets")
    der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key_of(jwks, head["kid"]).verify(der, f"{header}.{payload}".encode(), ec.ECDSA(SHA256()))
    claims = json.loads(octets(payload))
    if audience not in claims["aud"]:
        raise ValueError("another audience")
    if not claims["iat"] <= now + 5 or now >= claims["exp"]:
        raise ValueError("outside of its life")
    return claims


def main():
    told = json.load(open(sys.argv[1], encoding="utf-8"))
    try:
        answer = {"claims": verify(told["token"], told["jwks"], told["audience"], told["now"])}
    except (ValueError, KeyError, InvalidSignature) as error:
        answer = {"refused": f"{type(error).__name__}: {error}"}
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        json.dump(answer, out)


main()
