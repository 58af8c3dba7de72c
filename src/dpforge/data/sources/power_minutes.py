"""The first minutes of UCI's household power table, in the form in which they circulate."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

MINUTES = 19_446


def convert(official: Path, target: Path) -> None:
    """Write the first 19,446 records of ``household_power_consumption.txt`` as one CSV.

    Date and time become one field, ``;`` becomes ``,`` and ``?`` becomes an empty field.
    """
    with open(official, encoding="ascii", errors="replace") as lines, open(target, "w", newline="\n") as out:
        for number, line in enumerate(islice(lines, MINUTES + 1)):
            date, time, *fields = line.rstrip("\n").split(";") if line.count(";") else (line.rstrip("\n"), "")
            stamp = "Datetime" if number == 0 else f"{date} {time}"
            out.write(",".join([stamp, *("" if field == "?" else field for field in fields)]) + "\n")
