"""Tokens that only this dashboard can have made, for the one browser that they were made for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final

from sqla_jobs.errors import ConfigurationError

SHORTEST: Final = 16
_KEPT: Final = 64


class Signer:
    """Signs texts for a browser, which is known by a random cookie.

    Parameters:
        secret: None: a random one; what another process, or this one before, has signed is refused then.

    Raises:
        ConfigurationError: the secret is too short to be one.
    """

    def __init__(self, secret: str | bytes | None = None) -> None:
        if secret is None:
            secret = secrets.token_bytes(32)
        elif len(secret) < SHORTEST:
            raise ConfigurationError(
                f"the dashboard's secret has less than {SHORTEST} characters; expected a random text that "
                "all processes share, e.g. of secrets.token_urlsafe(), or None for one of each process's own"
            )
        given = secret.encode() if isinstance(secret, str) else secret
        self._key: Final = hashlib.sha256(b"sqla_jobs.web" + given).digest()

    def token(self, browser: str, who: str) -> str:
        """What each form of a page carries: of this browser and this visitor, and of no others."""
        return self._mac("form", browser, who)

    def is_token(self, given: str, browser: str, who: str) -> bool:
        """Whether a form carried the token of this browser and visitor; in the time that any other takes."""
        return hmac.compare_digest(given.encode(), self.token(browser, who).encode())

    def note(self, text: str, browser: str) -> str:
        """A text that comes back by way of the browser, and that nobody else can put there."""
        return f"{base64.urlsafe_b64encode(text.encode()).decode()}.{self._mac('note', browser, text)}"

    def noted(self, given: str, browser: str) -> str | None:
        """The text of `note`; None: it is not from there."""
        coded, _, mac = given.partition(".")
        try:
            text = base64.urlsafe_b64decode(coded.encode()).decode()
        except ValueError:
            return None
        return text if hmac.compare_digest(mac.encode(), self._mac("note", browser, text).encode()) else None

    def _mac(self, *parts: str) -> str:
        # With their lengths: no two lists of parts are one text.
        told = "".join(f"{len(part)}:{part}" for part in parts)
        return hmac.new(self._key, told.encode("utf-8", "surrogatepass"), "sha256").hexdigest()


def new_browser() -> str:
    """A name for a browser that has none yet."""
    return secrets.token_urlsafe(24)


def is_browser(given: str | None) -> bool:
    """Whether a cookie can be a name that was made here."""
    return (
        given is not None and 16 <= len(given) <= _KEPT and given.replace("-", "").replace("_", "").isalnum()
    )
