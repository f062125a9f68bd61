"""A picture to a pre-signed URL of the cloud's storage. The URL is a secret: only its host is ever told."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from printago_moonraker import web
from printago_moonraker.backoff import Backoff
from printago_moonraker.errors import DestinationFailed
from printago_moonraker.log import printable

if TYPE_CHECKING:
    from printago_moonraker.urlpolicy import UrlPolicy

ATTEMPTS: Final = 4
TIMEOUT: Final = 30.0  # s, for all attempts together
CONNECT_TIMEOUT: Final = 10.0  # s
READ_TIMEOUT: Final = 15.0  # s of silence


class Refused(DestinationFailed):
    """The storage said no, and would say it again: the signature has expired, or was never good."""

    code = DestinationFailed.code


_STORAGE: Final = web.Peer("destination", Refused)


async def upload(
    url: str,
    content: bytes,
    policy: UrlPolicy,
    *,
    content_type: str,
    method: str = "PUT",
    attempts: int = ATTEMPTS,
    timeout: float = TIMEOUT,
    backoff: Backoff | None = None,
) -> None:
    """Send `content` as the whole body of a `PUT` or `POST`, until it is answered with a 2xx.

    A 5xx and a broken connection are tried again, up to `attempts` times within `timeout` seconds; any other answer is
    not. Only redirections that keep the method (307, 308) are followed, each judged by the policy. Raises ForbiddenUrl,
    Refused, DestinationFailed. Cancelling is safe; what was sent may have arrived.
    """
    backoff = backoff or Backoff(base=0.5, cap=5.0)
    host = printable(urlsplit(url).hostname or "", 100) if _readable(url) else ""
    reason = "no answer"
    try:
        async with (
            asyncio.timeout(timeout),
            web.session(policy, connect_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT) as session,
        ):
            for left in reversed(range(attempts)):
                try:
                    return await _attempt(session, method, url, policy, content, content_type)
                except web.Broken as broken:
                    reason = str(broken)
                if left:
                    await asyncio.sleep(backoff.next())
    except TimeoutError:
        reason = f"{reason} within {timeout:g} s"
    raise DestinationFailed(f"The picture could not be sent to {host}: {reason}.")


async def _attempt(
    session: web.Session, method: str, url: str, policy: UrlPolicy, content: bytes, content_type: str
) -> None:
    headers = {"Content-Type": content_type}
    response = await _STORAGE.request(
        session, method, url, policy, headers=headers, body=content, redirects=web.SAME_METHOD
    )
    response.close()  # what it says beyond its status interests nobody
    if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise web.Broken(f"the server answered {response.status}")
    if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
        raise Refused(f"The destination refused the picture: it answered {response.status}.")


def _readable(url: str) -> bool:
    try:
        _ = urlsplit(url).hostname
    except ValueError:
        return False
    return True
