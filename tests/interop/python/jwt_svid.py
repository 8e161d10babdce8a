"""Verifies a JWT-SVID from its standard alone, with the signatures of `cryptography`: token and JWK Set in, claims out."""

import base64
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256


def octets(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def key_of(jwks, kid, kind):
    for key in jwks["keys"]:
        if key["kid"] == kid and key["use"] == "jwt-svid" and key["kty"] == kind:
            return key
    raise ValueError(f"no {kind} key {kid}")


def check_es256(key, signature, said):
    if key["crv"] != "P-256" or len(signature) != 64:
        raise ValueError("no P-256, or a signature that has not 64 octets")
    x, y = (int.from_bytes(octets(key[name]), "big") for name in ("x", "y"))
    der = utils.encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key().verify(der, said, ec.ECDSA(SHA256()))


def check_rs256(key, signature, said):
    e, n = (int.from_bytes(octets(key[name]), "big") for name in ("e", "n"))
    rsa.RSAPublicNumbers(e, n).public_key().verify(signature, said, padding.PKCS1v15(), SHA256())


ALGORITHMS = {"ES256": ("EC", check_es256), "RS256": ("RSA", check_rs256)}


def verify(token, jwks, audience, now):
    header, payload, signature = token.split(".")
    head = json.loads(octets(header))
    if head["alg"] not in ALGORITHMS or set(head) - {"alg", "kid", "typ"}:
        raise ValueError(f"header {head}")
    kind, check = ALGORITHMS[head["alg"]]
    check(key_of(jwks, head["kid"], kind), octets(signature), f"{header}.{payload}".encode())
    claims = json.loads(octets(payload))
    if audience not in claims["aud"]:
        raise ValueError("another audience")
    if not claims["iat"] <= now + 5 or now >= claims["exp"]:
        raise ValueError("outside of its life")
    return claims


def main():
    told = json.load(open(sys.argv[1], encoding="utf-8"))
    try:
        claims = verify(told["token"], told["jwks"], told["audience"], told["now"])
        answer = {"claims": claims, "header": json.loads(octets(told["token"].split(".")[0]))}
    except (ValueError, KeyError, InvalidSignature) as error:
        answer = {"refused": f"{type(error).__name__}: {error}"}
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        json.dump(answer, out)


main()
