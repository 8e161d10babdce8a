"""A second reader of the revocation formats, written from crates/revocation/FORMAT.md alone.

Reads one JSON object from the first file: the trust domain, a CA key, delegations and signed objects in the order in which
they came, and questions about certificates, each with its time. Writes to the second what became of each object, and the
answers. Octets are hexadecimal, times are milliseconds. Numbers in brackets name sections of FORMAT.md.
"""

import hashlib
import json
import struct
import sys
import time
import urllib.error
import urllib.request

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

HEADER = 320
SNAPSHOT, DELTA, HEARTBEAT = 1, 2, 3
WIDTHS = {1: 60_000, 2: 3_600_000, 3: 604_800_000}
SKEW, FRESH, GRACE = 60_000, 60_000, 600_000
LIMITS = {"issuers": 4_096, "segments": 65_536, "rules": 100_000, "exceptions": 65_536}
IDENTITY, PREFIX, KEY, ISSUER = 1, 2, 3, 4
MASK = (1 << 48) - 1
ROUNDS = 16


class Refused(Exception):
    """What is wrong with an object."""


def require(holds, what):
    if not holds:
        raise Refused(what)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def fingerprint(foreign, issuer, serial):
    """[1]"""
    native_shape = serial[:4] == bytes(4) and serial[4] >> 6 == 1
    octets = serial[8:] if native_shape and not foreign else sha256(b"mintage-revocation-serial-v1\0", issuer, serial)[:12]
    high, low = int.from_bytes(octets[:6], "big"), int.from_bytes(octets[6:], "big")
    return (low + high * 0x9E3779B97F4B) & MASK


class Header:
    """[2]"""

    def __init__(self, octets):
        require(len(octets) >= HEADER, "shorter than a header")
        magic, version, self.kind, algorithm, length, flags = struct.unpack_from("<8sHBBIQ", octets)
        require(magic == b"MNTGRVK1" and version == 1 and algorithm == 1 and length == HEADER, "no header of version 1")
        self.domain = octets[24:56]
        self.epoch, self.sequence, self.base = struct.unpack_from("<QQQ", octets, 56)
        self.previous, self.set_hash = octets[80:112], octets[112:144]
        self.this_update, self.next_update, self.horizon = struct.unpack_from("<qqq", octets, 144)
        self.key_id = octets[168:200]
        body_length = struct.unpack_from("<Q", octets, 200)[0]
        self.body_hash, self.signature = octets[208:240], octets[256:HEADER]
        self.signed, self.body = octets[:256], octets[HEADER:]
        require(flags == 0 and octets[240:256] == bytes(16), "zero fields are not zero")
        require(self.kind in (SNAPSHOT, DELTA, HEARTBEAT), "its kind is unknown")
        require(body_length == len(self.body) <= 268_435_456, "its body has another length")
        require((self.kind == HEARTBEAT) == (body_length == 0), "only a heartbeat has no body")
        require(self.next_update > self.this_update and self.horizon <= self.this_update - GRACE, "its dates do not fit")
        if self.kind == DELTA:
            require(self.base < self.sequence, "it continues nothing")
        else:
            require(self.base == 0 and self.previous == bytes(32), "only a delta continues something")


class Body:
    """[3]"""

    def __init__(self, octets):
        self.rest = octets
        head = self.take(64)
        counts = struct.unpack_from("<IIII", head)
        rule_octets, code_octets = struct.unpack_from("<QQ", head, 16)
        require(head[32:] == bytes(32), "zero fields are not zero")
        for (name, limit), count in zip(LIMITS.items(), counts):
            require(count <= limit, f"{count} {name}, at most {limit}")
        issuers, segments, rules, exceptions = counts
        self.issuers = [self.issuer(self.take(64)) for _ in range(issuers)]
        tables = [self.take(32) for _ in range(segments)]
        self.exceptions = [self.exception(self.take(32)) for _ in range(exceptions)]
        rule_part, codes = self.take(rule_octets), self.take(code_octets)
        require(not self.rest, "something follows the body")
        self.rules = self.read_rules(rule_part, rules)
        self.segments = self.read_segments(tables, codes)
        rising([row[0] for row in self.issuers], "issuers")
        rising([row[:3] for row in self.segments], "segments")
        rising(self.exceptions, "exceptions")
        rising([row[:2] for row in self.rules], "rules")

    def take(self, length):
        require(length <= len(self.rest), "a part goes beyond the body")
        part, self.rest = self.rest[:length], self.rest[length:]
        return part

    def issuer(self, row):
        flags, until = row[32], struct.unpack_from("<q", row, 40)[0]
        require(flags & ~3 == 0 and row[33:40] == bytes(7) and row[48:] == bytes(16), "an issuer's zero fields are not zero")
        return row[:32], bool(flags & 1), bool(flags & 2), until

    def exception(self, row):
        at = struct.unpack_from("<I", row)[0]
        require(row[4:12] == bytes(8) and at < len(self.issuers) and any(row[12:]), "an exception does not fit")
        return self.issuers[at][0], row[12:]

    def read_rules(self, octets, count):
        rules, at = [], 0
        for _ in range(count):
            require(at + 16 <= len(octets), "a rule goes beyond its part")
            kind, flags, length, zero, cut = struct.unpack_from("<BBHIq", octets, at)
            end = at + 16 + length
            next_at = at + 16 + (length + 7) // 8 * 8
            require(1 <= kind <= 4 and flags <= 1 and zero == 0 and length <= 2_050, "a rule does not fit")
            require(next_at <= len(octets) and not any(octets[end:next_at]), "a rule goes beyond its part")
            subject = octets[at + 16:end]
            require(kind in (IDENTITY, PREFIX) or length == 32, "a rule's hash has 32 octets")
            if kind == PREFIX:
                require(subject.endswith(b"/*"), "a prefix ends in /*")
                subject = subject[:-2]
            require(flags == 1 or cut == 0, "no cut is zero")
            rules.append((kind, subject, cut if flags else None))
            at = next_at
        require(at == len(octets), "something follows the rules")
        return rules

    def read_segments(self, tables, codes):
        segments, at = [], 0
        for row in tables:
            issuer, span, k, zero, index, count, length, last = struct.unpack_from("<IBBHIIQQ", row)
            require(zero == 0 and last == 0 and issuer < len(self.issuers) and k < 48, "a segment does not fit")
            require(span in WIDTHS or (span == 4 and index == 0), "a segment's span is unknown")
            require(count >= 1 and at + length <= len(codes), "a segment goes beyond the codes")
            # A gap takes at least one bit and its k low ones.
            require(count * (k + 1) <= 8 * length, "a segment's code is too short for its count")
            segments.append((issuer, span, index, rice(codes[at:at + length], k, count)))
            at += length
        require(at == len(codes), "something follows the codes")
        require(sum(len(segment[3]) for segment in segments) <= 60_000_000, "too many serials")
        return segments


def rising(rows, what):
    require(all(a < b for a, b in zip(rows, rows[1:])), f"its {what} are not sorted")


def rice(code, k, count):
    bits, at, last, values = int.from_bytes(code, "little"), 0, -1, []
    total = 8 * len(code)
    for _ in range(count):
        ones = 0
        while at < total and bits >> at & 1:
            ones, at = ones + 1, at + 1
        require(at + 1 + k <= total, "a code ends in the middle of a number")
        gap = ones << k | (bits >> at + 1 & (1 << k) - 1)
        at += 1 + k
        last += 1 + gap
        require(last <= MASK, "a fingerprint has more than 48 bits")
        values.append(last)
    require(bits >> at == 0 and (at + 63) // 64 * 8 == len(code), "a code is not padded as it should be")
    return values


def get(base, path, read):
    read.append(path)
    try:
        with urllib.request.urlopen(base + path, timeout=60) as answer:
            return answer.read(HEADER + 268_435_456 + 1)
    except urllib.error.HTTPError as refused:
        require(refused.code == 404, f"{path}: {refused}")
        return None


class Follower:
    """[4]"""

    def __init__(self, domain, ca_spki):
        self.domain = sha256(b"mintage-revocation-trust-domain-v1\0", domain.encode())
        self.ca_spki, self.ca = ca_spki, load_der_public_key(ca_spki)
        self.keys, self.highest, self.position = {}, 0, None
        self.issuers, self.segments, self.rules, self.exceptions = {}, {}, {}, set()
        self.heartbeat, self.horizon = None, -(1 << 63)

    def trust(self, octets):
        """[5]"""
        require(160 < len(octets) <= 512, "no delegation")
        magic, version, algorithm, zeros = struct.unpack_from("<8sHB5s", octets)
        require(magic == b"MNTGDLG1" and version == 1 and algorithm == 1, "no delegation of version 1")
        require(zeros == bytes(5) and octets[128:160] == bytes(32), "zero fields are not zero")
        require(octets[16:48] == self.domain, "another trust domain")
        epoch, end = struct.unpack_from("<Qq", octets, 48)
        require(octets[96:128] == sha256(self.ca_spki), "another CA key")
        try:
            message = b"mintage-revocation-delegation-v1\0" + octets[:160]
            self.ca.verify(octets[160:], message, ec.ECDSA(SHA256()))
        except InvalidSignature:
            raise Refused("the delegation is not the CA's") from None
        require(epoch >= self.highest, "an epoch that is over")
        if epoch > self.highest:
            self.keys, self.highest = {}, epoch
        self.keys[sha256(octets[64:96])] = (ed25519.Ed25519PublicKey.from_public_bytes(octets[64:96]), end)

    def take(self, octets, now):
        header = self.verified(octets, now)
        {SNAPSHOT: self.snapshot, DELTA: self.delta, HEARTBEAT: self.beat}[header.kind](header, now)

    def fetch(self, base):
        """[8]: follows over HTTP until the newest is held; the paths that were read."""
        read = []
        for _ in range(ROUNDS):
            now = int(time.time() * 1000)
            latest = get(base, "/revocation/v1/latest", read)
            require(latest is not None, "there is no latest")
            named = self.verified(latest, now)
            require(named.kind == HEARTBEAT, "latest is no heartbeat")
            epoch, sequence = self.position[:2] if self.position else (0, 0)
            if (epoch, sequence) == (named.epoch, named.sequence) and not self.is_cut(now):
                self.take(latest, now)
                return read
            found = None
            if epoch == named.epoch and sequence < named.sequence:
                found = get(base, f"/revocation/v1/delta/{epoch}-{sequence}-{named.sequence}", read)
            if found is None:
                found = get(base, f"/revocation/v1/snapshot/{named.epoch}-{named.sequence}", read)
            if found is not None:
                self.take(found, now)
        raise Refused("it never came to its end")

    def verified(self, octets, now):
        header = Header(octets)
        require(header.domain == self.domain, "another trust domain")
        require(header.key_id in self.keys, "a key that nobody delegated to")
        key, end = self.keys[header.key_id]
        try:
            key.verify(header.signature, b"mintage-revocation-header-v1\0" + header.signed)
        except InvalidSignature:
            raise Refused("the header is not the key's") from None
        require(sha256(header.body) == header.body_hash, "the body is another")
        require(now <= end and header.epoch == self.highest, "its key's time or epoch is over")
        require(header.this_update <= now + SKEW and now <= header.next_update, "its time has not come or is over")
        return header

    def snapshot(self, header, now):
        at = (header.epoch, header.sequence)
        if self.position is not None:
            require(at >= self.position[:2], "older than what is held")
            if at == self.position[:2]:
                require(header.set_hash == self.position[2], "another set of this sequence")
                if not self.is_cut(now):
                    return self.vouched(header, now)
        body = Body(header.body)
        if self.is_cut(now):
            self.horizon = -(1 << 63)
        self.issuers, self.segments, self.rules, self.exceptions = {}, {}, {}, set()
        self.heartbeat = None
        self.add(header, body, now)

    def delta(self, header, now):
        require(self.position is not None, "nothing to continue")
        epoch, sequence, set_hash = self.position
        if (header.epoch, header.sequence, header.set_hash) == self.position:
            return self.vouched(header, now)
        require((header.epoch, header.base, header.previous) == (epoch, sequence, set_hash), "it continues another set")
        self.add(header, Body(header.body), now)

    def beat(self, header, now):
        require(self.position is not None, "nothing is held")
        if header.sequence == self.position[1]:
            require((header.epoch, header.sequence, header.set_hash) == self.position, "another set of this sequence")
            self.vouched(header, now)
            require(not self.is_cut(now), "it was cut short while the clock was ahead: take the snapshot")

    def is_cut(self, now):
        return self.horizon > now + SKEW - GRACE

    def add(self, header, body, now):
        for key, covered, foreign, until in body.issuers:
            held = self.issuers.get(key, (False, foreign, until))
            self.issuers[key] = (covered or held[0], held[1], until)
        for at, span, index, values in body.segments:
            self.segments.setdefault((body.issuers[at][0], span, index), set()).update(values)
        for kind, subject, cut in body.rules:
            self.rules[kind, subject] = cut
        self.exceptions = set(body.exceptions)
        self.position = (header.epoch, header.sequence, header.set_hash)
        self.vouched(header, now)

    def vouched(self, header, now):
        until = min(header.this_update, now)
        if self.heartbeat is not None and self.heartbeat > now + SKEW:
            self.heartbeat = None
        self.heartbeat = until if self.heartbeat is None else max(self.heartbeat, until)
        self.horizon = max(self.horizon, header.horizon)

    def answer(self, asked, now):
        if self.position is None:
            return "stale"
        issuer, serial = bytes.fromhex(asked["issuer"]), bytes.fromhex(asked["serial"])
        if self.struck(asked, issuer):
            return "revoked"
        if issuer not in self.issuers or self.issuers[issuer][2] < self.horizon:
            return "not covered"
        covered, foreign, _ = self.issuers[issuer]
        wanted, not_after = fingerprint(foreign, issuer, serial), asked["not_after"]
        buckets = [(span, not_after // width) for span, width in WIDTHS.items()] + [(4, 0)]
        dead = lambda span, index: span in WIDTHS and (index + 1) * WIDTHS[span] <= self.horizon
        held = any(wanted in self.segments.get((issuer, *bucket), ()) for bucket in buckets if not dead(*bucket))
        if held and (issuer, serial) not in self.exceptions:
            return "revoked"
        if not covered or not_after < self.horizon:
            return "not covered"
        age = now - self.heartbeat
        return "good" if -SKEW <= age < FRESH else "stale"

    def struck(self, asked, issuer):
        text = asked["id"].encode()
        subjects = [(IDENTITY, text), (KEY, bytes.fromhex(asked["spki"])), (ISSUER, issuer)]
        subjects += [(PREFIX, text[:at]) for at in range(len(text)) if text[at:at + 1] == b"/"]
        for subject in subjects:
            if subject in self.rules:
                cut = self.rules[subject]
                if cut is None or asked["not_before"] <= cut:
                    return True
        return False


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        told = json.load(file)
    follower, outcomes, read = Follower(told["domain"], bytes.fromhex(told["ca"])), [], []
    for step in told["steps"]:
        try:
            if step["what"] == "fetch":
                read += follower.fetch(step["base"])
            elif step["what"] == "delegation":
                follower.trust(bytes.fromhex(step["octets"]))
            else:
                follower.take(bytes.fromhex(step["octets"]), step["now"])
            outcomes.append(None)
        except Refused as refused:
            outcomes.append(str(refused))
    answers = [follower.answer(asked, asked["now"]) for asked in told["questions"]]
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump({"outcomes": outcomes, "answers": answers, "read": read}, file)


if __name__ == "__main__":
    main()
