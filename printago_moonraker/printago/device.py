"""Pairing by a code that a person types into a browser. Source: RFC 8628 (device authorization grant), RFC 6749."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

from printago_moonraker import web
from printago_moonraker.credentials import Credentials
from printago_moonraker.errors import AgentError
from printago_moonraker.log import printable
from printago_moonraker.urlpolicy import UrlPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from printago_moonraker.config import PrintagoSection

GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
TIMEOUT: Final = 15.0  # s for one question
INTERVAL: Final = 5.0  # s between two questions, where the server does not say (section 3.2)
SLOWER: Final = 5.0  # s more after slow_down (section 3.5)
MAX_INTERVAL: Final = 60.0
LIFETIME: Final = 900.0  # s, the longest that a code is shown
MAX_BYTES: Final = 64 * 1024
# What is shown to people, in G-code among others: nothing else of a server's text gets there.
USER_CODE: Final = re.compile(r"[A-Z0-9-]{4,16}", re.ASCII)
VERIFICATION_URI: Final = re.compile(
    r"https?://[A-Za-z0-9][A-Za-z0-9.-]{0,99}(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]{0,100})?", re.ASCII
)


class PairingFailed(AgentError):
    """The server's answer ends this pairing: the owner said no, or it is not as RFC 8628 says."""


class CodeExpired(PairingFailed):
    """Nobody has entered the code in time; another can be asked for."""


_SERVER: Final = web.Peer("pairing server", PairingFailed)


@dataclass(frozen=True)
class DeviceCode:
    """What a person enters where; `expires_in` and `interval` in s. `user_code` and `verification_uri` are harmless
    also in G-code.
    """

    user_code: str
    verification_uri: str
    device_code: str = field(repr=False)
    expires_in: float
    interval: float


class DeviceFlow:
    """The two endpoints of the configuration. Methods raise PairingFailed for what trying again will not mend, and
    web.Broken when the server is not there. Cancelling is safe.
    """

    def __init__(self, settings: PrintagoSection, username: str | None = None) -> None:
        """`username` is for servers that give a key only."""
        if settings.device_authorization_url is None or settings.token_url is None:
            raise PairingFailed("[printago] device_authorization_url and token_url are not set.")
        self._settings = settings
        self._username = username
        self._authorization_url, self._token_url = settings.device_authorization_url, settings.token_url

    async def request_code(self) -> DeviceCode:
        """A new code (section 3.1)."""
        form = {"client_id": self._settings.client_id, "scope": self._settings.scope}
        status, answer = await self._post(self._authorization_url, form)
        if status != HTTPStatus.OK:
            raise PairingFailed(f"The pairing server gives no code: {_words(status, answer)}.")
        user_code, uri = str(answer.get("user_code")), str(answer.get("verification_uri"))
        device_code = answer.get("device_code")
        if not (isinstance(device_code, str) and USER_CODE.fullmatch(user_code) and VERIFICATION_URI.fullmatch(uri)):
            raise PairingFailed("The pairing server's code or address is not one that can be shown.")
        lifetime = _seconds(answer.get("expires_in"), LIFETIME)
        return DeviceCode(
            user_code, uri, device_code, min(lifetime, LIFETIME), _seconds(answer.get("interval"), INTERVAL)
        )

    async def wait(self, code: DeviceCode) -> Credentials:
        """Ask until the owner has entered the code (section 3.4). Raises CodeExpired when he has not."""
        interval = code.interval
        try:
            async with asyncio.timeout(code.expires_in):
                while True:
                    await asyncio.sleep(interval)
                    try:
                        found = await self._ask(code)
                    except web.Broken:
                        interval = min(interval * 2, MAX_INTERVAL)  # section 3.5: a time-out doubles the interval
                        continue
                    if isinstance(found, Credentials):
                        return found
                    interval = min(interval + found, MAX_INTERVAL)
        except TimeoutError:
            raise CodeExpired("The code has expired.") from None

    async def _ask(self, code: DeviceCode) -> Credentials | float:
        """The credentials, or by how much slower to go on asking."""
        form = {"grant_type": GRANT, "device_code": code.device_code, "client_id": self._settings.client_id}
        status, answer = await self._post(self._token_url, form)
        if status == HTTPStatus.OK:
            return self._credentials(answer)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise web.Broken(f"the server answered {status}")
        match answer.get("error"):
            case "authorization_pending":
                return 0.0
            case "slow_down":
                return SLOWER
            case "expired_token":
                raise CodeExpired("The code has expired.")
            case "access_denied":
                raise PairingFailed("The pairing was refused in the browser.")
        raise PairingFailed(f"The pairing server ends the pairing: {_words(status, answer)}.")

    def _credentials(self, answer: Mapping[str, Any]) -> Credentials:
        """The access token is the API key; beside it is the store ID (RFC 6749 section 5.1 allows further members)."""
        try:
            return Credentials(
                str(answer.get("store_id") or self._username or ""), str(answer.get("access_token") or "")
            )
        except ValueError as error:
            raise PairingFailed(f"The pairing server's answer cannot be used: {error}.") from error

    async def _post(self, url: str, form: Mapping[str, str | None]) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of the answer, `{}` for anything else. A redirection is not followed: it is an answer
        like any other.
        """
        body = urlencode({name: value for name, value in form.items() if value is not None}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        policy = UrlPolicy(allow_http=True, allowed_hosts=(urlsplit(url).hostname or "",))  # the owner's own choice
        try:
            async with asyncio.timeout(TIMEOUT), web.session() as session:
                response = await _SERVER.request(
                    session, "POST", url, policy, headers=headers, body=body, redirects=frozenset()
                )
                try:
                    return response.status, await _read(response)
                finally:
                    response.close()
        except TimeoutError:
            raise web.Broken(f"no answer within {TIMEOUT:g} s") from None


async def _read(response: web.Response) -> dict[str, Any]:
    body = b""
    while len(body) <= MAX_BYTES:
        with _SERVER.mapped():
            chunk = await response.content.read(MAX_BYTES)
        if not chunk:
            break
        body += chunk
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _words(status: int, answer: Mapping[str, Any]) -> str:
    return printable(f"{status} {answer.get('error', '')}", 100)


def _seconds(value: Any, default: float) -> float:
    sound = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return min(float(value), 86400.0) if sound else default
