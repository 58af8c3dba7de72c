"""The folder of a run: every path in one place, every write atomic."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpforge.errors import RunError
from dpforge.generators.atomic import write_atomic

STATES = ("planned", "running", "done", "failed")


@dataclass(frozen=True)
class RunDir:
    """Paths of one run below ``outputs/<study>/<slug>-<run_id>``.

    Args:
        root: The folder of the run.
    """

    root: Path

    @property
    def config(self) -> Path:
        """Resolved configuration."""
        return self.root / "config.yaml"

    @property
    def status_file(self) -> Path:
        """State of the run and of its stages."""
        return self.root / "status.json"

    @property
    def environment(self) -> Path:
        """Versions, commit, digest of the configuration tree, device."""
        return self.root / "environment.json"

    @property
    def schema(self) -> Path:
        """Public schema with the provenance of every bound and category set."""
        return self.root / "schema.json"

    @property
    def ledger(self) -> Path:
        """Reservations, written before noise."""
        return self.root / "ledger.jsonl"

    @property
    def certificate(self) -> Path:
        """Epsilon of the run, with everything needed to check it."""
        return self.root / "certificate.json"

    @property
    def checkpoints(self) -> Path:
        """Training state."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """Finished model."""
        return self.root / "model"

    @property
    def synthetic(self) -> Path:
        """Synthetic table."""
        return self.root / "samples" / "synthetic.parquet"

    @property
    def images(self) -> Path:
        """Synthetic images."""
        return self.root / "samples" / "samples.npz"

    @property
    def grid(self) -> Path:
        """Some of the synthetic images side by side, for people."""
        return self.root / "samples" / "preview.png"

    @property
    def preview(self) -> Path:
        """First rows of the synthetic table, for people."""
        return self.root / "samples" / "preview.csv"

    @property
    def metrics_csv(self) -> Path:
        """Values of every step."""
        return self.root / "metrics.csv"

    @property
    def metrics(self) -> Path:
        """Final scores with versions and visibility."""
        return self.root / "metrics.json"

    @property
    def plots(self) -> Path:
        """Pictures."""
        return self.root / "plots"

    @property
    def tables(self) -> Path:
        """Per-column and per-pair scores and associations, for reports; private."""
        return self.root / "tables.json"

    @property
    def report(self) -> Path:
        """Report of the run: ``index.html``, ``scores.csv``, ``scores.md``."""
        return self.root / "report"

    @property
    def api_answers(self) -> Path:
        """Images that a paid service sent, by request, so that a resumed run does not pay twice."""
        return self.root / "api_answers"

    @property
    def log(self) -> Path:
        """Messages of the run."""
        return self.root / "log.txt"

    @property
    def traceback(self) -> Path:
        """Traceback of the last failure; may quote private values, readable by its owner only."""
        return self.root / "traceback.txt"

    @property
    def private(self) -> Path:
        """Noise key and keyed hashes; readable by their owner only."""
        return self.root / "private"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.root / ".lock"

    def released(self) -> dict[str, str]:
        """Return the SHA-256 of every file that the certificate covers, by path below the run folder."""
        samples = [path for path in sorted(self.synthetic.parent.rglob("*")) if path.suffix != ".tmp"]
        files = [self.schema, *samples, *sorted(self.model.glob("model.*"))]
        return {file.relative_to(self.root).as_posix(): _digest(file) for file in files if file.is_file()}

    def create(self) -> None:
        """Make the folders.

        Raises:
            RunError: The place cannot be written, or a file of the run is a link to another place.
        """
        try:
            for folder in (self.root, self.checkpoints, self.model, self.synthetic.parent, self.plots):
                folder.mkdir(parents=True, exist_ok=True)
            self.private.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"the run folder {self.root} cannot be made ({error.strerror})."
                " Choose a writable place with output_root=…"
            ) from error
        written = (self.ledger, self.log, self.traceback, self.metrics_csv, self.status_file, self.config)
        for path in (*written, self.private, self.private / "key", self.lock):
            if path.is_symlink():
                raise RunError(f"{path} is a link to another place, which is not written. Delete the link.")

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write JSON atomically; raises ``RunError`` if the disk is full or read-only."""
        write_atomic(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())

    def write_text(self, path: Path, text: str) -> None:
        """Write text atomically; raises ``RunError`` if the disk is full or read-only."""
        write_atomic(path, text.encode())

    def write_secret(self, path: Path, data: bytes) -> None:
        """Write a file that only its owner can read, and wait until it is on disk."""
        temporary = path.with_name(path.name + ".tmp")
        try:
            temporary.unlink(missing_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise RunError(
                f"{path.name} cannot be written ({error.strerror}); no noise was drawn."
                " Free the disk and start the same command again."
            ) from error

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read JSON; raises ``RunError`` if the file is missing or damaged."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path} is missing or damaged ({type(error).__name__}). Delete it and start the command"
                " of the run again: what is missing is made anew and costs no privacy."
            ) from error
        if not isinstance(content, dict):
            raise RunError(f"{path} does not hold a JSON object. Delete it and start the command again.")
        return content

    def status(self) -> dict[str, Any]:
        """Return the state of the run; a run without a readable status is ``planned``."""
        if not self.status_file.is_file():
            return {"state": "planned", "stages": {}}
        try:
            content = self.read_json(self.status_file)
        except RunError:
            return {"state": "planned", "stages": {}}
        return {"state": "planned", "stages": {}, **content}

    def complete(self) -> bool:
        """Whether the run ended and all that it made is still here."""
        made = (self.ledger, self.certificate, self.metrics, self.schema)
        ended = self.status()["state"] == "done" and self.fitted() and self.sampled()
        return ended and all(path.is_file() for path in made) and self.intact("sample")

    def sampled(self) -> bool:
        """Whether the synthetic table or the synthetic images are here."""
        return self.synthetic.is_file() or self.images.is_file()

    def fitted(self) -> bool:
        """Whether the fit ended and its model is still here, as it was; a damaged one is made again."""
        here = self.stage_seconds("fit") is not None and (self.model / "model.json").is_file()
        return here and self.intact("fit")

    def intact(self, stage: str) -> bool:
        """Whether the files that a finished stage made are still here and unaltered, where it noted them."""
        noted = self.status()["stages"].get(stage, {}).get("files", {})
        return all(_digest(self.root / name) == digest for name, digest in noted.items())

    def _made(self, stage: str) -> dict[str, str]:
        files = {"fit": sorted(self.model.glob("model.*")), "sample": [self.synthetic, self.images]}
        made = [path for path in files.get(stage, ()) if path.is_file() and path.suffix != ".tmp"]
        return {path.relative_to(self.root).as_posix(): _digest(path) for path in made}

    def set_status(self, state: str, **changes: Any) -> None:
        """Change the state of the run."""
        self.write_json(self.status_file, {**self.status(), "state": state, **changes})

    def finish_stage(self, name: str, seconds: float) -> None:
        """Record that a stage is complete; later attempts skip it."""
        stages = self.status()["stages"]
        made = {"seconds": round(seconds, 3), "files": self._made(name)}
        self.set_status("running", stages={**stages, name: made})

    def stage_seconds(self, name: str) -> float | None:
        """Return how long a finished stage took, or ``None`` if it is not finished."""
        stage = self.status()["stages"].get(name)
        return None if stage is None else float(stage["seconds"])


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file; an empty text for one that is gone or cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
