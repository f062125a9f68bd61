"""Certificates as a broker may show them, made by openssl: good, expired, not valid yet, for another name."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.fakes.mosquitto import program

if TYPE_CHECKING:
    from pathlib import Path

_PERIODS = {  # from, to; YYMMDDHHMMSSZ
    "good": ("200101000000Z", "400101000000Z"),
    "expired": ("200101000000Z", "210101000000Z"),
    "future": ("390101000000Z", "400101000000Z"),
    "other-name": ("200101000000Z", "400101000000Z"),
}
_CONFIG = """\
[ca]
default_ca = here
[here]
dir = {folder}
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_md = sha256
policy = any
unique_subject = no
copy_extensions = none
[any]
commonName = supplied
"""


@dataclass(frozen=True)
class Authority:
    """A folder with `ca.pem`, and of each kind a certificate and its key."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def listener(self, kind: str) -> list[str]:
        """mosquitto's options for a listener that shows the certificate of this kind."""
        return [f"certfile {self.folder}/{kind}.pem", f"keyfile {self.folder}/{kind}.key"]


def make_authority(folder: Path) -> Authority:
    """Takes about a third of a second."""
    openssl = program("openssl")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (folder / "index").touch()
    (folder / "serial").write_text("01")
    (folder / "ca.cnf").write_text(_CONFIG.format(folder=folder))
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "9999", "-subj", "/CN=test CA")
    for kind, (start, end) in _PERIODS.items():
        name = "DNS:other.example" if kind == "other-name" else "IP:127.0.0.1,DNS:localhost"
        (folder / "ext").write_text(f"subjectAltName={name}")
        run("req", *key, "-keyout", f"{kind}.key", "-out", f"{kind}.csr", "-subj", f"/CN={kind}")
        run("ca", "-batch", "-notext", "-config", "ca.cnf", "-in", f"{kind}.csr", "-out", f"{kind}.pem",
            "-startdate", start, "-enddate", end, "-extfile", "ext")  # fmt: skip
    for file in folder.iterdir():
        file.chmod(0o644)
    return Authority(folder)
