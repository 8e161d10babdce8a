"""Reads one exported log with tlog-scales, which nobody here wrote.

The checkpoint's signature, the root out of the tiles, and for each record the hash of its bytes against its own proof:
all by that package. With a second key the cosignature of a witness is verified too. Prints the number of records, or
ends with code 1.
"""

import sys
from pathlib import Path

from tlog_scales import signing, tiles
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader


def verify(folder: str, keys: list[str]) -> int:
    reader = TilesReader(LocalBackend(Path(folder)))
    checkpoint = reader.get_checkpoint()
    for key in keys:
        checkpoint.verify(signing.Vkey.from_string(key))
    if checkpoint.origin != signing.Vkey.from_string(keys[0]).name:
        raise ValueError(f"the checkpoint is of {checkpoint.origin!r}")
    size, root = checkpoint.size, checkpoint.root_hash
    if reader.calculate_root_hash() != root:
        raise ValueError("the tiles have another root than the checkpoint")
    for index in range(size):
        proof = reader.get_inclusion_proof(index, size)
        proof.check(tiles.leaf_hash(reader.get_entry(index)), root)
    return size


def main() -> int:
    if len(sys.argv) < 3:
        print("usage: verify.py <log folder> <verifier key> [<witness key>...]", file=sys.stderr)
        return 2
    try:
        print(verify(sys.argv[1], sys.argv[2:]))
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
