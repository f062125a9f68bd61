"""What is taken out before a stranger sees it."""

from __future__ import annotations

import pytest

from printago_moonraker import log
from printago_moonraker.redaction import redacted, shareable

KEY = "pk_live_0123456789abcdefghijKLMNOPQRSTUV"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", ())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("client apiclient_0123456789abcdef_voron", "client apiclient_***_voron"),
        ("https://pi:raspberry@cam.local/x", "https://***@cam.local/x"),
        ("http://pi:rasp/berry@home@cam.local/x", "http://***@cam.local/x"),
        ("rtsp://cam.local/x?token=abc done", "rtsp://cam.local/x?*** done"),
        ("GET https://s3.example/f.gcode?X-Amz-Signature=abc done", "GET https://s3.example/f.gcode?*** done"),
        ("Authorization: Bearer abcdef.ghijkl", "Authorization: ***"),
        ("with Bearer abcdef.ghijkl", "with Bearer ***"),
        ("cookie: session=abc; x", "cookie: ***"),
        ("{'password': 'abc with spaces', 'x': 1}", "{'password': '***', 'x': 1}"),
        ("> X-Api-Key: 0123456789abcdef", "> X-Api-Key: ***"),
        ('{"api_key": "abc", "x": 1}', '{"api_key": *** "x": 1}'),
        (f"it was {KEY}, once", "it was ***, once"),
        (
            "[mqtt] password_file: 'hunter2' is not an absolute path",
            "[mqtt] password_file: '***' is not an absolute path",
        ),
        ("password_file: there is no file '/home/pi/key'", "password_file: there is no file '/home/pi/key'"),
        ("[mqtt] pasword: there is no such option; x", "[mqtt] pasword: there is no such option; x"),
        ("moonraker_api_key_file: /home/pi/key", "moonraker_api_key_file: /home/pi/key"),
        ("token_url: https://a.example/token", "token_url: https://a.example/token"),
        ("nozzle 210 of 210", "nozzle 210 of 210"),
        ("it has passed: 3 of 4, by a bypass: yes", "it has passed: 3 of 4, by a bypass: yes"),
    ],
)
def test_what_looks_like_a_secret(text: str, left: str) -> None:
    """Secrets that this process was never told are known by their surroundings; names and numbers stay."""
    assert redacted(text).replace('"***"', "***").replace("***,", "***") == left.replace("***,", "***")


@pytest.mark.parametrize(
    "name", ["pasword", "passwd", "pass", "pw", "pwd", "passphrase", "psk", "key", "apikey", "api-key"]
)
def test_a_password_by_any_name(name: str) -> None:
    """In a log, whatever people call a password by is followed by nothing."""
    assert "hunter2" not in redacted(f"got {name}: hunter2")
    assert "hunter2" not in redacted(f"{name} = hunter2 and more\n")


@pytest.mark.parametrize(
    "text",
    [
        "[mqtt]\npasword: hunter2\n",
        "[mqtt]\nPasswort = hunter2\n",
        "[mqtt]\nwhatever: hunter2\n",
        "[mqtt]\npassword:\n    hunter2\n",
        "[mqtt]\npassword:\n\n    hunter2\n",
        "[mqtt]\nhost: broker.lan\n    hunter2: x\n",
        "[mqtt]\nhunter2\n",
        "hunter2: x\n",
        "[mqtt]\nhunter2 = x\n",
        "[mqtt]\npassword_file: hunter2\n",
        "[printer a]\nmoonraker_api_key_file = hunter2/x\n",
        "# password hunter2\n",
        "[mqtt]\nport: 8883  # not hunter2\n",
        "[mqtt]\nport: 8883 ; not hunter2\n",
        "[transfers]\nallowed_hosts:\n    nas.lan\n    pw: hunter2\n",
        "[mqtt hunter2\n",
        "[printer a]\nmoonraker_url: http://me:hunter2@printer\n",
        "[mqtt]\n  host: a\n  pw: hunter2\n",
    ],
)
def test_a_configuration_without_secrets(text: str) -> None:
    """Of a configuration only what is known to be harmless is left, wherever a secret was put and whatever over."""
    assert "hunter2" not in redacted(shareable(text))


def test_what_is_left_of_a_configuration() -> None:
    """Sections, known options and their values stay, and of the others the names: they are what a helper looks for."""
    text = (
        "# mine\n[printago]\nDialect: klipper\n[mqtt]\nprot: 1883\nhost=broker.lan # there\nport:\n"
        "password_file: ~/key\n\n[transfers]\nallowed_hosts: nas.lan\n  10.0.0.0/8, x.lan\n[printer voron-24]\n"
        "moonraker_url: http://127.0.0.1:7125\n"
    )
    assert shareable(text) == (
        "# ***\n[printago]\nDialect: klipper\n[mqtt]\nprot: ***\nhost= broker.lan # ***\nport:\n"
        "password_file: ~/key\n\n[transfers]\nallowed_hosts: nas.lan\n    10.0.0.0/8, x.lan\n[printer voron-24]\n"
        "moonraker_url: http://127.0.0.1:7125\n"
    )
