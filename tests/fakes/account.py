"""A broker with accounts, as Printago's: passwords, rights to topics, TLS. The real mosquitto."""

from __future__ import annotations

import signal
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.fakes.mosquitto import Mosquitto, mosquitto, program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes.tls import Authority

STORE, KEY = "store-4711", "pk_live_0123456789abcdefghijKLMNOPQRSTUV"
CLOUD, CLOUD_PASSWORD = "the-cloud", "itself"  # who sees it all
OTHER_KEY = "pk_live_ANOTHERKEYANOTHERKEYANOTHERKEY99"


class AccountBroker:
    """`broker` is the process; keys and rights can change while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker: Mosquitto
        self._passwords, self._rights = folder / "passwords", folder / "rights"

    @property
    def port(self) -> int:
        return self.broker.port

    def lines(self) -> list[str]:
        return ["allow_anonymous false", f"password_file {self._passwords}", f"acl_file {self._rights}"]

    def set_key(self, key: str) -> None:
        """The store's key from now on; whoever has another is thrown out by `reload`."""
        self._passwords.write_text("")
        for user, password in ((STORE, key), (CLOUD, CLOUD_PASSWORD)):
            command = [program("mosquitto_passwd"), "-b", str(self._passwords), user, password]
            subprocess.run(command, check=True, capture_output=True)
        self._passwords.chmod(0o600)

    def set_rights(self, *lines: str) -> None:
        """mosquitto's ACL of the account."""
        store = [f"user {STORE}", *(f"topic {line}" for line in lines)]
        self._rights.write_text("\n".join([*store, f"user {CLOUD}", "topic readwrite #", ""]))
        self._rights.chmod(0o600)

    def reload(self) -> None:
        """mosquitto(8): SIGHUP reads passwords and ACL anew, and disconnects whom they no longer admit."""
        assert self.broker.process is not None
        self.broker.process.send_signal(signal.SIGHUP)


@asynccontextmanager
async def account_broker(
    folder: Path, *, authority: Authority | None = None, certificate: str = "good", rights: tuple[str, ...] = ()
) -> AsyncIterator[AccountBroker]:
    """With the account STORE, its key KEY, and all rights below printago/, unless `rights` says others."""
    account = AccountBroker(folder)
    account.set_key(KEY)
    account.set_rights(*(rights or ("readwrite printago/#",)))
    listener = authority.listener(certificate) if authority else []
    async with mosquitto(folder, account.lines(), listener=listener) as broker:
        account.broker = broker
        yield account
