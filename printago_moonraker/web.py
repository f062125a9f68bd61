"""HTTP as the whole agent uses it: sessions, redirects that are judged, foreign exceptions as ours. The only module
that knows aiohttp, which is imported with the first session, because it costs 9 MB of memory.

Source: RFC 9110 sections 15.4 (redirections) and 9.3.4 (PUT).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from printago_moonraker.errors import ForbiddenUrl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from aiohttp import AddrInfoType, ClientResponse, ClientSession
    from aiohttp.abc import AbstractResolver, ResolveResult
    from yarl import URL

    from printago_moonraker.errors import AgentError
    from printago_moonraker.urlpolicy import UrlPolicy

Session: TypeAlias = "ClientSession"
Response: TypeAlias = "ClientResponse"

CHUNK: Final = 256 * 1024
MAX_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
SAME_METHOD: Final = frozenset({307, 308})  # the redirections that never turn a PUT into a GET


class Broken(Exception):
    """This attempt failed; another one may not."""


class Unreachable(Broken):
    """There was no connection, so the peer has seen nothing."""


@dataclass(frozen=True)
class Peer:
    """Who is spoken to: `name` stands in sentences, `error` is raised for what will not pass by itself."""

    name: str
    error: type[AgentError]

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """aiohttp's exceptions as `error` or Broken. Their texts are not passed on: they may hold the URL, and with
        it a signature.
        """
        import aiohttp

        try:
            yield
        except (aiohttp.InvalidURL, UnicodeError):  # the latter for a host that no resolver's codec takes
            raise self.error(f"The {self.name} URL cannot be read.") from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise self.error(f"The {self.name} server's certificate is not valid.") from error
        except TimeoutError as error:
            raise Broken("the server stopped sending") from error
        except aiohttp.ClientConnectorDNSError as error:
            raise Unreachable("the server's name was not found") from error
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error.__cause__, ForbiddenUrl):
                raise error.os_error.__cause__ from None
            raise Unreachable("the server cannot be reached") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Broken("the connection broke") from error

    def parse(self, url: str) -> URL:
        """A URL as it stands: a signed one must not be rewritten, unless it holds what no request line may."""
        import yarl

        try:
            parsed = yarl.URL(url, encoded=url.isascii() and url.isprintable() and " " not in url)
            _ = str(parsed), parsed.host  # host and port are read only now
        except ValueError:
            raise self.error(f"The {self.name} URL cannot be read.") from None
        return parsed

    async def request(
        self,
        session: Session,
        method: str,
        url: str,
        policy: UrlPolicy,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        redirects: frozenset[int] = REDIRECTS,
    ) -> Response:
        """The first response that is no redirection of `redirects`; every hop is judged before it is made.

        Raises `error`, ForbiddenUrl, Broken. Whoever gets the response closes it. Cancelling is safe.
        """
        target = self.parse(url)
        for _ in range(MAX_REDIRECTS + 1):
            policy.check_url(str(target))
            policy.check_host(target.host or "")  # as the one that connects reads it
            data = None if body is None else _Body(body)
            length = {} if body is None else {"Content-Length": str(len(body))}
            with self.mapped():
                response = await session.request(
                    method, target, headers={**headers, **length}, data=data, allow_redirects=False
                )
            if response.status not in redirects or "Location" not in response.headers:
                return response
            response.close()
            target = target.join(self.parse(response.headers["Location"]))
        raise self.error(f"The {self.name} URL redirects more than {MAX_REDIRECTS} times.")


class _Body:
    """A request's body in pieces, because aiohttp sends large bytes in one blocking one; and from its start whenever it
    is asked for: aiohttp sends a PUT again when the connection broke, and up to 3.14.0 an empty one if this is a file.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._sent = 0

    def __aiter__(self) -> _Body:
        return _Body(self._content)

    async def __anext__(self) -> bytes:
        piece = self._content[self._sent : self._sent + CHUNK]
        if not piece:
            raise StopAsyncIteration
        self._sent += len(piece)
        return piece


def session(
    policy: UrlPolicy | None = None,
    *,
    connect_timeout: float | None = None,
    read_timeout: float | None = None,
    ca_file: Path | None = None,
) -> Session:
    """A session for one peer; an async context manager. Timeouts in seconds, `read_timeout` is the longest silence.

    With a `policy`, only addresses that it lets through are connected to. Certificates are checked against the
    system's store, or against `ca_file`.
    """
    import aiohttp

    gate = _Gate(policy) if policy else None
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=cast("AbstractResolver", gate) if gate else None,
            socket_factory=gate.make_socket if gate else None,
            use_dns_cache=False,
            force_close=True,
            ssl=ssl.create_default_context(cafile=ca_file) if ca_file else True,
        ),
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout, sock_read=read_timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # sizes and sums are those of the bytes sent
        trust_env=False,  # a proxy would resolve names by itself, unchecked; and none leads to the printer
        read_bufsize=CHUNK,
    )


class _Gate:
    """The system's resolver, of whose answers only those go on that the policy lets through: the address that was
    checked is the address that is connected to, so a name cannot change its mind in between.

    aiohttp asks no resolver for what it takes for an address itself, and what that is has changed between its versions;
    so the policy is asked again where the socket is made.
    """

    def __init__(self, policy: UrlPolicy) -> None:
        self._policy = policy
        self._let_through: set[str] = set()  # addresses; a host that is allowed by its name may have private ones

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        for _, _, _, _, address in found:
            self._policy.check_address(host, str(address[0]))
        self._let_through.update(str(address[0]) for *_, address in found)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            {"hostname": host, "host": str(address[0]), "port": port, "family": kind, "proto": proto, "flags": flags}
            for kind, _, proto, _, address in found
        ]

    def make_socket(self, where: AddrInfoType) -> socket.socket:
        """For one connection. Raises OSError because of ForbiddenUrl: aiohttp knows what to do with no other."""
        family, kind, proto, _, (address, *_) = where
        if address not in self._let_through:
            try:
                self._policy.check_address(str(address), str(address))
            except ForbiddenUrl as error:
                raise OSError(errno.EACCES, str(error)) from error
        return socket.socket(family, kind, proto)

    async def close(self) -> None:
        pass
