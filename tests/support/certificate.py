"""A self-signed certificate for 127.0.0.1, made by the ``openssl`` command."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificate(folder: Path, digest: str = "sha256") -> tuple[Path, Path]:
    """The files of certificate and key, in PEM."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", f"-{digest}", "-nodes", "-days", "2"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
