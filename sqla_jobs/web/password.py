"""Passwords as they are kept, and how often somebody may guess one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

from sqla_jobs.errors import ConfigurationError

N: Final = 2**15
R: Final = 8
P: Final = 1
"""scrypt's cost: 32 MB, and some 60 ms of a core for each guess."""
SHORTEST: Final = 10
"""Characters of a password."""
LONGEST: Final = 1000
_MEMORY: Final = 128 * 2**20

ATTEMPTS: Final = 5
"""Wrong ones of an address, after which it waits for `PAUSE`."""
PAUSE: Final = 60.0
"""Seconds; they double with each further wrong one, up to `LONGEST_PAUSE`."""
LONGEST_PAUSE: Final = 3600.0
_ADDRESSES: Final = 10_000


def hash_password(password: str) -> str:
    """What is kept of a password: ``scrypt:n:r:p:salt:hash``, which no shell takes for something else.

    Raises:
        ConfigurationError: it is too short or too long.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise ConfigurationError(
            f"the password has {len(password)} characters; expected {SHORTEST} to {LONGEST}"
        )
    salt = secrets.token_bytes(16)
    return f"scrypt:{N}:{R}:{P}:{_text(salt)}:{_text(_scrypt(password, salt, N, R, P))}"


class Password:
    """A password, by its hash.

    Raises:
        ConfigurationError: it is none of `hash_password`. The message does not repeat what may be a password.
    """

    def __init__(self, kept: str, source: str = "the hash of the password") -> None:
        try:
            kind, *costs, salt, hashed = kept.strip().split(":")
            self._n, self._r, self._p = (int(each) for each in costs)
            self._salt, self._hash = _bytes(salt), _bytes(hashed)
            right = kind == "scrypt" and len(self._hash) >= 32 and len(self._salt) >= 8
            right = right and self._n >= 2**14 and 128 * self._n * self._r * self._p <= _MEMORY // 2
            if right:
                _scrypt("", self._salt, self._n, self._r, self._p)
        except ValueError:
            right = False
        if not right:
            raise ConfigurationError(
                f"{source} is no hash of a password; expected the line that `sqla-jobs web hash-password` "
                "prints"
            )

    def is_right(self, given: str) -> bool:
        """Whether it is this one; takes as long for any other."""
        made = _scrypt(given[:LONGEST], self._salt, self._n, self._r, self._p)
        return hmac.compare_digest(made, self._hash)


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    coded = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(coded, salt=salt, n=n, r=r, p=p, maxmem=_MEMORY, dklen=32)


def _text(given: bytes) -> str:
    return base64.urlsafe_b64encode(given).decode().rstrip("=")


def _bytes(given: str) -> bytes:
    return base64.b64decode(given + "=" * (-len(given) % 4), altchars=b"-_", validate=True)


class Attempts:
    """How often each address has guessed wrong.

    Parameters:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock: Final = clock
        self._wrong: Final[dict[str, tuple[int, float]]] = {}
        self._guard: Final = threading.Lock()

    def wait(self, address: str) -> float:
        """How many seconds an address has to wait before its next attempt; 0: none."""
        with self._guard:
            count, last = self._wrong.get(_network(address), (0, 0.0))
            return max(0.0, last + _pause(count) - self._clock())

    def begin(self, address: str) -> None:
        """Count an attempt before it is looked at: many at once are many."""
        key = _network(address)
        with self._guard:
            count, last = self._wrong.pop(key, (0, 0.0))
            now = self._clock()
            if now - last > 2 * LONGEST_PAUSE:
                count = 0
            if len(self._wrong) >= _ADDRESSES:
                del self._wrong[next(iter(self._wrong))]
            self._wrong[key] = (count + 1, now)

    def forgive(self, address: str) -> None:
        """It was right."""
        with self._guard:
            self._wrong.pop(_network(address), None)


def _pause(count: int) -> float:
    if count < ATTEMPTS:
        return 0.0
    return min(LONGEST_PAUSE, PAUSE * 2.0 ** min(count - ATTEMPTS, 20))


def _network(address: str) -> str:
    """An address, or of IPv6 the network that its owner has all of."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False))
