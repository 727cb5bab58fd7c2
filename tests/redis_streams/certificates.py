"""Certificates for the tests, made with the `openssl` command."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Certificate", "make_authority", "make_certificate"]


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


def make_authority(directory: Path) -> Certificate:
    """Somebody who signs certificates, and whom one may trust or not."""
    _openssl(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=tests"
        " -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign",
        directory,
    )
    return Certificate(directory / "ca.pem", directory / "ca.key")


def make_certificate(authority: Certificate, name: str, alternatives: str) -> Certificate:
    """A certificate signed by the authority, in files called `name` beside its own.

    Args:
        authority: signs it.
        name: of the files.
        alternatives: whose it is, as `DNS:localhost,IP:127.0.0.1`.
    """
    directory = authority.cert.parent
    (directory / f"{name}.ext").write_text(f"subjectAltName={alternatives}\n")
    _openssl(
        f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN=x", directory
    )
    _openssl(
        f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
        f" -extfile {name}.ext -out {name}.pem",
        directory,
    )
    return Certificate(directory / f"{name}.pem", directory / f"{name}.key")


def _openssl(arguments: str, directory: Path) -> None:
    subprocess.run(
        ["openssl", *shlex.split(arguments)], cwd=directory, check=True, capture_output=True
    )
