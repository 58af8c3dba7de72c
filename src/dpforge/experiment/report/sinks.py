"""Private values that a report received are named in the ledger and the certificate, as of any sink."""

from __future__ import annotations

import os
from collections.abc import Iterable

from dpforge.errors import RunError
from dpforge.experiment.attempt import locked
from dpforge.experiment.certificate import make_certificate
from dpforge.experiment.rundir import RunDir
from dpforge.privacy.ledger import Ledger


def record_sink(folder: RunDir, sink: str, names: Iterable[str]) -> None:
    """Record that ``sink`` receives the private values ``names``; what is on record already changes nothing.

    Raises:
        RunError: The run folder cannot be written, or another process works on it.
    """
    names = list(names)
    certificate = folder.read_json(folder.certificate)
    if set(names) <= set(certificate["tainted_sinks"].get(sink, ())):
        return
    if not (os.access(folder.ledger, os.W_OK) and os.access(folder.root, os.W_OK)):
        raise RunError(
            f"{folder.root} cannot be written, so its ledger cannot record that a report received private"
            " values. Use --public, or report on a copy of the run folder."
        )
    with locked(folder):
        ledger = Ledger.open(folder.ledger)
        for name in names:
            ledger.taint(name, sink)
        # The files stay those that the certificate was issued for, even if one was changed since.
        folder.write_json(folder.certificate, make_certificate(ledger, certificate["files"]))
