"""`make model`: explore all worlds, the long ones too, and print what was found.

Exits with 1 if an invariant does not hold, or if a rule can be left out without damage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tests.model.explore import Report, explore
from tests.model.long_worlds import LONG, LONG_LIFECYCLES
from tests.model.worlds import LIFECYCLES, LOSSY, SHORT


def _holding() -> Iterator[Report]:
    for lifecycle in (*LIFECYCLES.values(), *LONG_LIFECYCLES.values()):
        yield explore(lifecycle())
    for spec in (*SHORT, *LOSSY, *LONG):
        yield explore(spec.make(frozenset()))


def main() -> int:
    """Explore everything; the number of failures as an exit status."""
    failures = 0
    reports: list[Report] = []
    print("All rules on: no invariant may be broken, and every job must be able to end.")
    for report in _holding():
        reports.append(report)
        print(f"  {'ok ' if report.broken is None else 'BAD'} {report}", flush=True)
        failures += report.broken is not None
    print("One rule off: its damage must be found.")
    for spec in (*SHORT, *LOSSY):
        for rule, damage in spec.about.items():
            report = explore(spec.make(frozenset({rule})))
            reports.append(report)
            is_found = report.broken is not None and report.broken.startswith(damage)
            print(f"  {'ok ' if is_found else 'BAD'} without {rule.name} ({rule.value})")
            print(
                f"      {report.broken} after {len(report.trace)} steps in {spec.name!r}",
                flush=True,
            )
            failures += not is_found
    print(
        f"{len(reports)} explorations, {sum(r.states for r in reports)} states,"
        f" {sum(r.transitions for r in reports)} transitions,"
        f" {sum(r.seconds for r in reports):.0f} s, {failures} failures"
    )
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
