"""Verification of certificates: the same with every version of Python."""

from __future__ import annotations

import ssl
from os import PathLike

NOT_REQUIRED = ssl.VERIFY_X509_STRICT
"""What Python 3.13 demands by default, and earlier versions, curl and psql do not: extensions that RFC 5280 prescribes.

An authority that `openssl req -x509` made, as many in-house ones, has no key usage: its servers would be refused after
an update of the operating system. Signatures, dates and names are verified as before.
"""


def verifying_context(ca_file: str | PathLike[str] | None = None) -> ssl.SSLContext:
    """A context that verifies certificate and name, by the authorities of a file or of the system. Raises OSError."""
    context = ssl.create_default_context(cafile=ca_file)
    context.verify_flags &= ~NOT_REQUIRED
    return context
