"""How often a stress test tries, and with what."""

import os
import random

# Set these in the environment to try more, or the same again.
COUNT = int(os.environ.get("MIXKD_STRESS_COUNT", "50"))
SEED = int(os.environ.get("MIXKD_STRESS_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)


def changed(chance: random.Random, whole: bytes) -> tuple[str, bytes]:
    """Returns a damaged copy of a file's content, and in words what was done to it."""
    content, size = bytearray(whole), len(whole)
    at = chance.randrange(size)
    if chance.random() < 0.5:  # where a file tells what is in it
        at = chance.randrange(min(size, 4096))
    length = min(chance.choice((1, 1, 4, 16, 163)), size - at)
    kind = chance.choice(("flip", "flip", "zero", "noise", "move", "cut", "insert", "drop"))
    if kind == "flip":
        content[at] ^= 1 << chance.randrange(8)
    elif kind == "zero":
        content[at : at + length] = bytes(length)
    elif kind == "noise":
        content[at : at + length] = chance.randbytes(length)
    elif kind == "move":
        start = chance.randrange(size - length + 1)
        content[at : at + length] = whole[start : start + length]
    elif kind == "cut":
        del content[at:]
    elif kind == "insert":
        content[at:at] = chance.randbytes(length)
    else:
        del content[at : at + length]
    return f"{kind} of {length} bytes at {at}", bytes(content)
