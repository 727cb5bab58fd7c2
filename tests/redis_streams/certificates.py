"""Certificates for the tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

__all__ = ["Authority", "Certificate"]


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """Somebody who signs certificates, and whom one may trust or not.

    Attributes:
        cert: its own certificate, a PEM file.
    """

    def __init__(self, directory: Path) -> None:
        """Files are made in `directory`."""
        self._directory = directory
        self._signs = trustme.CA()
        self.cert = directory / "ca.pem"
        self._signs.cert_pem.write_to_path(self.cert)

    def issue(self, name: str) -> Certificate:
        """A certificate for a host name or an IP address, in files called so."""
        issued = self._signs.issue_cert(name)
        made = Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        made.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(made.key)
        return made
