"""Which URLs from a command this agent opens: a cloud account must not become a door into the operator's network.

The decisions alone. Who connects asks three times: for the URL, for its host, and for the addresses that the name
has at the moment of connecting, on every redirect anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from printago_moonraker.errors import ForbiddenUrl
from printago_moonraker.log import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Network

# Ranges in which an IPv6 address has an IPv4 address in it that a gateway would reach: RFC 6052, RFC 8215, RFC 4291
# 2.5.5.1.
_NAT64: Final = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL: Final = IPv6Network("64:ff9b:1::/48")
_IPV4_COMPATIBLE: Final = IPv6Network("::/96")
# A last part that is a number makes an address of the whole (https://url.spec.whatwg.org/#ends-in-a-number-checker);
# no top-level domain is one. A colon is in no name at all.
_NUMERIC: Final = re.compile(r":|(^|\.)(\d+|0x[0-9a-f]*)\.?$", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class UrlPolicy:
    """`https` to public addresses; more where the configuration says so.

    `allowed_hosts` are names (whatever their addresses), addresses, or networks (`192.168.1.0/24`). Every method
    raises ForbiddenUrl, with a sentence in which no query and no password of the URL appears.
    """

    allow_http: bool = False
    allowed_hosts: Sequence[str] = ()
    _names: frozenset[str] = field(init=False, repr=False)
    _networks: tuple[IPv4Network | IPv6Network, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names, networks = set(), []
        for entry in self.allowed_hosts:
            try:
                networks.append(ip_network(entry, strict=False))
            except ValueError:
                names.add(_canonical(entry))
        object.__setattr__(self, "_names", frozenset(names))
        object.__setattr__(self, "_networks", tuple(networks))

    def check_url(self, url: str) -> None:
        """Scheme, credentials, and the host as far as the text shows it."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ForbiddenUrl("The URL cannot be read.") from None
        if parts.scheme not in ({"https", "http"} if self.allow_http else {"https"}):
            remedy = "; http can be allowed by allow_http in [transfers]" if parts.scheme == "http" else ""
            raise ForbiddenUrl(f"Only https URLs are opened, not {printable(parts.scheme, 20) or 'this'}{remedy}.")
        if not host:
            raise ForbiddenUrl("The URL has no host.")
        if parts.username is not None or parts.password is not None:
            raise ForbiddenUrl("The URL carries a user name or password, which is not accepted.")
        self.check_host(host)

    def check_host(self, host: str) -> None:
        """A host that is an address itself is judged here, because no resolver will ever see it; a name passes.

        What is neither is refused: `127.1`, `2130706433` and `0x7f.1` are addresses to whoever asks the C library.
        """
        try:
            ip_address(host)
        except ValueError:
            if _NUMERIC.search(host):
                raise ForbiddenUrl(f"The host {printable(host)} is neither a name nor an address.") from None
            return
        self.check_address(host, host)

    def check_address(self, host: str, address: str) -> None:
        """One address (text) that `host` resolved to, at the moment of connecting."""
        if _canonical(host) in self._names:
            return
        try:
            ip = _unwrapped(ip_address(address.partition("%")[0]))
        except ValueError:
            raise ForbiddenUrl(f"The host {printable(host)} has no usable address.") from None
        if _is_public(ip) or any(ip in network for network in self._networks):
            return
        where = "" if _canonical(host) == str(ip) else f" ({ip})"
        remedy = "it can be allowed by allowed_hosts in [transfers]"
        raise ForbiddenUrl(f"The host {printable(host)}{where} is in a private network; {remedy}.")


def _canonical(name: str) -> str:
    return name.strip().rstrip(".").lower()


def _unwrapped(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for, else the address itself."""
    if isinstance(ip, IPv4Address):
        return ip
    if embedded := ip.ipv4_mapped or ip.sixtofour:
        return embedded
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


def _is_public(ip: IPv4Address | IPv6Address) -> bool:
    if not ip.is_global or ip.is_multicast or ip.is_reserved or ip.is_unspecified:
        return False
    return isinstance(ip, IPv4Address) or not (ip.is_site_local or ip in _NAT64_LOCAL or ip in _IPV4_COMPATIBLE)
