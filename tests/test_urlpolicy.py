"""Which URLs are opened."""

from __future__ import annotations

import pytest

from printago_moonraker.errors import ForbiddenUrl
from printago_moonraker.urlpolicy import UrlPolicy


@pytest.mark.parametrize(
    "url", ["https://storage.example.com/a.gcode?sig=1", "https://93.184.216.34/", "https://[2606:4700::1111]:8443/x"]
)
def test_public(url: str) -> None:
    """https to a name or to a public address is let through."""
    UrlPolicy().check_url(url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://example.com/a", "allow_http"),
        ("ftp://example.com/a", "Only https"),
        ("file:///etc/passwd", "Only https"),
        ("//example.com/a", "Only https"),
        ("", "Only https"),
        ("https://", "no host"),
        ("https:///a", "no host"),
        ("https://user:pass@example.com/", "user name or password"),
        ("https://@example.com/", "user name or password"),
        ("https://example.com:99999/", "cannot be read"),
        ("https://[::1/", "cannot be read"),
        ("https://127.0.0.1/", "private network"),
        ("https://[::1]/", "private network"),
    ],
)
def test_refused(url: str, sentence: str) -> None:
    """Every other URL is refused, in words that do not repeat what is secret in it."""
    with pytest.raises(ForbiddenUrl, match=sentence) as error:
        UrlPolicy().check_url(url)
    assert "pass@" not in str(error.value)


def test_http_when_allowed() -> None:
    """http is let through when the configuration says so, to public hosts only."""
    policy = UrlPolicy(allow_http=True)
    policy.check_url("http://example.com/a")
    with pytest.raises(ForbiddenUrl):
        policy.check_url("http://10.0.0.1/a")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.5", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1",
        "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "fec0::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "::ffff:192.168.1.5", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:7f00:1::",
        "2002:c0a8:105::1", "::127.0.0.1", "::10.0.0.1", "2001:db8::1", "not an address", "",
    ],
)  # fmt: skip
def test_private_addresses(address: str) -> None:
    """No address behind the router is let through, in whatever disguise."""
    with pytest.raises(ForbiddenUrl):
        UrlPolicy().check_address("files.example.com", address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_public_addresses(address: str) -> None:
    """A public address is let through, in whatever notation."""
    UrlPolicy().check_address("files.example.com", address)


@pytest.mark.parametrize("entry", ["192.168.1.0/24", "192.168.1.5", "nas.local", "NAS.local."])
def test_allowed_hosts(entry: str) -> None:
    """A network, an address or a name in the configuration is let through although private; its neighbours are not."""
    policy = UrlPolicy(allowed_hosts=[entry])
    policy.check_address("nas.local", "192.168.1.5")
    with pytest.raises(ForbiddenUrl):
        policy.check_address("other.local", "192.168.2.5")


@pytest.mark.parametrize(
    "host",
    [
        "2130706433", "127.1", "127.0.1", "0177.0.0.1", "0", "017700000001", "0x7f000001", "0x7f.1", "0X7F.0.0.0x1",
        "127.0.0.1.", "1.2.3.4.5", "256.1.1.1", "a.1", "0x", "8.8.8.8.", "::1]", "1:2",
    ],
)  # fmt: skip
def test_numbers_that_some_take_for_addresses(host: str) -> None:
    """A host that is an address to the C library alone is neither a name nor an address, and refused."""
    with pytest.raises(ForbiddenUrl, match="neither a name nor an address"):
        UrlPolicy(allowed_hosts=[host]).check_host(host)


@pytest.mark.parametrize("host", ["1.example.com", "3com.com", "0x7f.org", "printer-1", "x1", "a.0xfg", "8.8.8.8"])
def test_names_with_numbers(host: str) -> None:
    """A number elsewhere than at the end of a name is of no importance."""
    UrlPolicy().check_host(host)


def test_allowed_literal() -> None:
    """An allowed network lets a URL with an address of it through, also when it is written as IPv6."""
    policy = UrlPolicy(allowed_hosts=["10.0.0.0/8", "fd00::/8"])
    for host in ("10.1.1.1", "[::ffff:10.1.1.1]", "[fd00::5]"):
        policy.check_url(f"https://{host}/a")


def test_the_sentence_helps() -> None:
    """A refused host is named with its address, and with the option that would let it through."""
    with pytest.raises(ForbiddenUrl) as error:
        UrlPolicy().check_address("nas.local", "192.168.1.5")
    assert str(error.value) == (
        "The host nas.local (192.168.1.5) is in a private network; it can be allowed by allowed_hosts in [transfers]."
    )
