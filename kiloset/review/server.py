"""The server of the review page: it shows rows, and appends each decision to review.jsonl before it responds.

Every response to the page is one fragment that replaces the whole page. One thread handles all requests in order, so two windows
cannot write at the same time.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from json import dumps
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from kiloset.audit.safe_text import visible
from kiloset.core.errors import DataError
from kiloset.core.review import TEXTS, Decision, ReviewFile
from kiloset.core.run import RunFolder
from kiloset.review.filter import PARTS, SCORES, STATES, Filter, read_filter
from kiloset.review.form import Refused, edited_text, from_form, read_form
from kiloset.review.row_view import RowView, check_constraints, view_row
from kiloset.review.rows import (
    Rows,
    by_category,
    neighbours,
    overlaid,
    progress,
    select,
    signature,
    values_of,
)

STATIC, TEMPLATES = (Path(__file__).parent / name for name in ("static", "templates"))
FILES = {"htmx.min.js": "text/javascript", "review.js": "text/javascript", "review.css": "text/css"}
LONGEST = 20_000
"""Longest text shown, in characters; an edit field always contains the whole text."""
REASONS = (
    "false", "no task", "unclear", "not useful", "off-topic", "style", "personal data", "licence", "duplicate",
)  # fmt: skip
"""Reasons to reject a row, by the keys 1 to 9."""
PAST = {"accept": "accepted", "reject": "rejected", "undo": "undone"}


class ReviewServer:
    """The review of one run."""

    def __init__(self, run: RunFolder, rows: Rows, file: ReviewFile) -> None:
        """Take a run's rows, and its locked file of decisions."""
        self._run, self._rows, self._file = run, rows, file
        self._signature = signature(run)
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._templates.filters["shown"] = lambda text: visible(text, LONGEST)
        for name in ("review.html.j2", "review_page.html.j2", "review_row.html.j2", "review_constraints.html.j2"):
            self._templates.get_template(name)  # compiled here, before the first request

    def app(self) -> Starlette:
        """Return the application; it must be wrapped in `kiloset.review.guard.Guard`."""
        app = Starlette(
            routes=[
                Route("/", self._page, methods=["GET"]),
                Route("/decide", self._decide, methods=["POST"]),
                Route("/check", self._check, methods=["POST"]),
                Route("/static/{name}", self._static, methods=["GET"]),
            ],
            exception_handlers={Refused: _refused, DataError: _bad_address},
        )
        app.router.redirect_slashes = False
        return app

    async def _page(self, request: Request) -> Response:
        chosen = read_filter(request.query_params, self._rows.table)
        here = request.query_params.get("row")
        alarm = f"There is no row {here} in this run." if here and here not in self._rows.places else ""
        return self._answer(request, chosen, here if here in self._rows.places else None, alarm=alarm)

    async def _decide(self, request: Request) -> Response:
        chosen, form = read_filter(request.query_params, self._rows.table), await read_form(request)
        id, version = self._named(form), form.get("version", "")
        if not re.fullmatch(r"[0-9]{1,9}", version):
            raise Refused(400, "the version of the row is missing")
        try:
            decision = self._decision(id, form)
            written = self._file.append(decision, int(version))
        except Refused as error:
            return self._answer(request, chosen, id, status=error.status, alarm=str(error), typed=form)
        except DataError as error:
            alarm = f"NOT saved: {error}"
            return self._answer(request, chosen, id, status=507, alarm=alarm, typed=form)
        if not written:
            return self._answer(request, chosen, id, status=409, alarm=self._conflict(id), typed=form)
        verdict = decision.verdict
        message = f"{id} {PAST[verdict]}{f': {decision.reason}' if decision.reason else ''}."
        event = {"id": id, "version": self._file.version(id), "undo": verdict == "undo"}
        answer = self._answer(request, chosen, id, message=message, moves=verdict != "undo")
        answer.headers["hx-trigger-after-swap"] = dumps({"decided": event})
        return answer

    async def _check(self, request: Request) -> Response:
        """Return which constraints of a row the text in the edit field satisfies."""
        form = await read_form(request)
        row = self._rows.row(self._named(form))
        checks = check_constraints(row["constraints"] or (), from_form(form.get("response", "")))
        return HTMLResponse(self._templates.get_template("review_constraints.html.j2").render(constraints=checks))

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            raise Refused(404, "no such file")
        return Response((STATIC / name).read_bytes(), media_type=FILES[name])

    def _named(self, form: Mapping[str, str]) -> str:
        if (id := form.get("id", "")) not in self._rows.places:
            raise Refused(404, "no such row in this run")
        return id

    def _valid_decision(self, id: str) -> Decision | None:
        """Return the current decision about a row, if the row has the texts that were decided about."""
        decision = self._file.decision(id)
        return decision if decision is not None and decision.born == self._rows.identity(id) else None

    def _decision(self, id: str, form: Mapping[str, str]) -> Decision:
        """Return the decision in a form.

        Raises:
            Refused: The form contains no valid decision.
        """
        verdict, reason = form.get("verdict"), form.get("reason", "").strip()
        earlier = self._valid_decision(id)
        # The first decision settles whether a row was read without its figures: they are visible after it.
        blind = ("yes" if self._is_drawn(id) else "") if earlier is None else earlier.blind
        identity, time = self._rows.identity(id), datetime.now(UTC).isoformat(timespec="seconds")
        if verdict == "undo":
            if self._file.decision(id) is None:
                raise Refused(422, f"There is no decision about {id} to undo.")
            return Decision(id, "undo", identity, time)
        if verdict == "reject":
            return Decision(id, "reject", identity, time, reason, blind=blind)
        if verdict != "accept":
            raise Refused(400, "a decision is accept, reject or undo")
        now = view_row(self._rows, id, earlier, 0).texts
        texts = {name: edited_text(now[name], form[name]) if name in form else now[name] for name in TEXTS}
        for name in TEXTS:
            if name != "input" and not texts[name].strip():
                raise Refused(422, f"NOT saved: an accepted row needs its {name}; press e to write one.")
        if texts["category"] not in self._rows.categories:
            raise Refused(422, f"NOT saved: there is no category {texts['category']}.")
        return Decision(id, "accept", identity, time, reason, **texts, blind=blind)

    def _is_drawn(self, id: str) -> bool:
        """Whether a row was drawn for a blind reading: its figures are hidden until it is decided."""
        return self._rows.row(id)["sampled"] is not None

    def _conflict(self, id: str) -> str:
        decision = self._file.decision(id)
        if decision is None:
            done = "its decision was undone"
        else:
            reason = f" ({decision.reason})" if decision.reason else ""
            done = f"it was {PAST[decision.verdict]}{reason} at {decision.time}"
        return (
            f"NOT saved: the decision about this row has changed since this page was loaded: {done}, in another window, or in this "
            "one just before the server ended. The page now shows the current decision; you can decide again."
        )

    def _answer(
        self, request: Request, chosen: Filter, here: str | None, *, status: int = 200, message: str = "", alarm: str = "",
        moves: bool = False, typed: Mapping[str, str] | None = None,
    ) -> HTMLResponse:  # fmt: skip
        """Return the page at the row `here`, at the next undecided row if `moves`, or at the first row if `here` is None."""
        valid = self._rows.valid(self._file.decisions)
        table = overlaid(self._rows, valid)
        selected = select(table, chosen, here)
        if moves or here is None:
            here, ended = _onward(selected, here)
            message += ended
        selected = selected.filter(pl.col("matches") | (pl.col("id") == pl.lit(here, pl.String)))
        before, after, undecided = neighbours(selected, here)
        fragment = request.headers.get("hx-request") == "true"
        row = None if here is None else view_row(self._rows, here, valid.get(here), self._file.version(here))
        status_line = {"message": message, "alarm": alarm, "typed": typed or {}, "fragment": fragment}
        links = {"previous": before, "next": after, "undecided": undecided}
        text = self._templates.get_template("review_page.html.j2" if fragment else "review.html.j2").render(
            **status_line, row=row, blind=row is not None and row.decision is None and self._is_drawn(row.id),
            fields=_fields(row, typed), name=self._run.path.name, filter=chosen, links=links,
            reasons=REASONS, categories=self._rows.categories, place=_place(selected, here), choices=self._choices(),
            mine=progress(select(table, replace(chosen, state=""))["state"]), whole=progress(table.filter(part="set")["state"]),
            parts=by_category(table.filter(part="set")), lost=len(self._file.decisions) - len(valid),
            is_stale=signature(self._run) != self._signature, scores=SCORES, longest=LONGEST,
        )  # fmt: skip
        answer = HTMLResponse(text, status, {"vary": "HX-Request"})
        if fragment and status == 200:
            query = chosen.query(row=here or "")
            answer.headers["hx-push-url"] = f"/?{query}" if query else "/"
        return answer

    def _choices(self) -> dict[str, Any]:
        table = self._rows.table
        scores = [name for name in SCORES if name in table.columns and table[name].null_count() < table.height]
        return {
            "sampled": table["sampled"].count() > 0, "parts": PARTS, "states": STATES, "reasons": values_of(table, "reason"), "scores": scores,
            "origins": [*values_of(table, "source"), *values_of(table, "strategy")],
        }  # fmt: skip


def _onward(selected: pl.DataFrame, here: str | None) -> tuple[str | None, str]:
    """Return the next undecided row of the filter; without one, this or the first row, and a message."""
    *_, undecided = neighbours(selected, here)
    if undecided is not None:
        return undecided, ""
    first = selected.filter("matches")["id"].to_list()[:1]
    ended = " Every row of this filter is decided." if here or first else ""
    return here or (first[0] if first else None), ended


def _place(selected: pl.DataFrame, here: str | None) -> tuple[int | None, int]:
    """Return the place of a row among the rows of the filter, None if it is not one of them, and the number of these rows."""
    ids = selected.filter("matches")["id"].to_list()
    return ids.index(here) + 1 if here in ids else None, len(ids)


def _fields(row: RowView | None, typed: Mapping[str, str] | None) -> dict[str, str]:
    """Return the content of a row's edit fields: what was typed and could not be saved, else its texts."""
    return {} if row is None else {**row.texts, **{name: typed[name] for name in TEXTS if typed and name in typed}}


async def _refused(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", error.status if isinstance(error, Refused) else 500)


async def _bad_address(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 400)
