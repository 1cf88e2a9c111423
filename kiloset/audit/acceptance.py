"""What the fidelity gate let through: candidates by kind, and the verdicts of each of its checks."""

from dataclasses import dataclass

import polars as pl
from rich.console import Console

from kiloset.audit.figures import tally
from kiloset.audit.terminal import literal, print_table, share_of


@dataclass(frozen=True, slots=True)
class Kind:
    """Candidates of one kind."""

    kind: str
    offered: int
    accepted: int
    """Those that passed the gate and that the base model could read."""
    chosen: int


@dataclass(frozen=True, slots=True)
class Check:
    """Verdicts of one check; None where a run kept only the first failed one of each candidate."""

    check: str
    applied: int | None
    """Candidates it could be applied to."""
    passed: int | None
    first: int
    """Candidates that it is named to have rejected: it is the first that they failed."""
    alone: int | None
    """Candidates that failed it and no other."""

    @property
    def failed(self) -> int | None:
        """Candidates that failed it."""
        return None if self.applied is None or self.passed is None else self.applied - self.passed


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What became of the candidates for all rows that came to rewriting."""

    rows: int
    kinds: list[Kind]
    checks: list[Check]
    """Those that rejected most first."""
    recorded: bool
    """Whether all verdicts of a candidate are recorded, not just the first failed one."""


def acceptance(offered: pl.DataFrame | None, rows: int) -> Acceptance | None:
    """Count the candidates (see `kiloset.audit.rewriting.candidates`) of so many rows; None where they are not recorded."""
    if offered is None:
        return None
    kinds = []
    for kind, count in sorted(tally(offered["kind"]).items(), key=lambda pair: pair[0], reverse=True):
        status = tally(offered.filter(pl.col("kind") == kind)["status"])
        kinds.append(Kind(kind, count, status.get("passed", 0) + status.get("chosen", 0), status.get("chosen", 0)))
    first = tally(offered.filter(pl.col("status") == "rejected")["check"])
    recorded = isinstance(offered.schema["verdicts"], pl.List) and offered["verdicts"].null_count() < offered.height
    counts = _verdicts(offered) if recorded else {}
    checks = []
    for name in {*first, *counts}:
        applied, passed, alone = counts.get(name, (None, None, None))
        checks.append(Check(name, applied, passed, first.get(name, 0), alone))
    checks.sort(key=lambda found: (-(found.failed if found.failed is not None else found.first), found.check))
    return Acceptance(rows, kinds, checks, recorded)


def show_acceptance(found: Acceptance | None, console: Console) -> None:
    """Print acceptance by kind of candidate and by check."""
    if found is None or not found.kinds:
        print_table(console, "Gate: candidates", ("kind",), [], "not recorded" if found is None else "none offered")
        return
    offered = sum(kind.offered for kind in found.kinds)
    every = Kind("all", offered, sum(k.accepted for k in found.kinds), sum(k.chosen for k in found.kinds))
    rows = [
        (k.kind, k.offered, k.accepted, share_of(k.accepted, k.offered), k.chosen, share_of(k.chosen, k.offered))
        for k in (*found.kinds, every)
    ]
    title = f"Gate: {offered} candidates for the {found.rows} rows that came to rewriting"
    print_table(console, title, ("kind", "offered", "accepted", "share", "chosen", "share"), rows)
    _show_checks(found, console)


def _show_checks(found: Acceptance, console: Console) -> None:
    title = "Gate: acceptance by check"
    if not found.recorded:
        rows = [(check.check, check.first) for check in found.checks]
        print_table(console, title, ("check", "first to reject"), rows, "nothing was rejected")
        console.print(literal("this run kept no other verdicts: acceptance by check is not recorded"))
        return
    full = [
        (
            check.check, *("" if n is None else n for n in (check.applied, check.passed, check.failed)),
            share_of(check.passed or 0, check.applied or 0), check.first, "" if check.alone is None else check.alone,
        )
        for check in found.checks
    ]  # fmt: skip
    columns = ("check", "applied", "passed", "failed", "acceptance", "first", "alone")
    print_table(console, title, columns, full)
    console.print(
        literal("first: it is the first that a candidate failed, and named as its reason; alone: it failed no other")
    )


def _verdicts(offered: pl.DataFrame) -> dict[str, tuple[int, int, int]]:
    """Return, by check, how many candidates it applied to, passed, and was alone to reject."""
    flat = offered.select("verdicts").with_row_index("candidate").explode("verdicts")
    flat = flat.filter(pl.col("verdicts").is_not_null()).unnest("verdicts")
    failed = pl.col("status") == "failed"
    single = failed & (failed.sum().over("candidate") == 1)
    counts = flat.with_columns(alone=single).group_by("check").agg(
        pl.len(), (~failed).sum().alias("passed"), pl.col("alone").sum()
    )  # fmt: skip
    return {check: (applied, passed, alone) for check, applied, passed, alone in counts.iter_rows()}
