import math
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from kiloset.core.calls import APPLICATION_ID, SCHEMA, CallStore
from kiloset.core.errors import DataError
from kiloset.core.models import Completion, Request
from kiloset.core.progress import Silent
from kiloset.core.recorded import RecordedEngine, RecordedScorer
from tests.fakes import InBatches

REQUEST = Request("Say hi", "response", 20, 0.7, 0.9)


class Parrot(InBatches):
    """Answers with the prompt; may stop before it has answered everything."""

    identity = "parrot@1"

    def __init__(self, fail_after=None):
        self.sent, self.fail_after = [], fail_after

    def render(self, messages):
        return messages[-1]["content"]

    def complete(self, requests):
        for number, (key, request) in enumerate(requests):
            if number == self.fail_after:
                raise KeyboardInterrupt
            self.sent.append(key)
            yield key, Completion(f"{request.prompt} #{request.sample}", "stop", 2, 3)


class Ruler:
    """Scores a response by its length, the longest first."""

    identity = "ruler@1"

    def __init__(self, fail_after=None):
        self.scored, self.fail_after = [], fail_after

    def logprobs(self, prompts, responses):
        for at in sorted(range(len(responses)), key=lambda at: -len(responses[at])):
            if len(self.scored) == self.fail_after:
                raise KeyboardInterrupt
            self.scored.append(responses[at])
            yield at, -float(len(responses[at])), 2


@pytest.fixture
def store(tmp_path):
    opened = CallStore(tmp_path / "calls.sqlite")
    yield opened
    opened.close()


def _requests(count):
    return [replace(REQUEST, sample=i) for i in range(count)]


def test_a_stored_completion_is_never_sent_again(store):
    parrot = Parrot()
    engine = RecordedEngine(parrot, store, Silent())
    first = engine.complete(_requests(3), "test")
    again = engine.complete(_requests(4), "test")
    assert [c.text for c in again] == [f"Say hi #{i}" for i in range(4)]
    assert again[:3] == first
    assert len(parrot.sent) == len(set(parrot.sent)) == 4
    assert store.resent_after_completion() == 0


def test_what_finished_before_a_stop_is_kept_and_the_rest_is_asked_again(store):
    with pytest.raises(KeyboardInterrupt):
        RecordedEngine(Parrot(fail_after=2), store, Silent()).complete(_requests(5), "test")
    parrot = Parrot()
    assert len(RecordedEngine(parrot, store, Silent()).complete(_requests(5), "test")) == 5
    assert len(parrot.sent) == 3
    assert store.account()["response"] == {
        "sent": 8, "completed": 5, "prompt_tokens": 10, "completion_tokens": 15,
    }  # fmt: skip
    assert store.resent_after_completion() == 0


def test_equal_requests_are_sent_once_and_answered_each(store):
    parrot = Parrot()
    answers = RecordedEngine(parrot, store, Silent()).complete([REQUEST, REQUEST], "test")
    assert len(parrot.sent) == 1
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "other",
    [{"prompt": "Say ho"}, {"schema": "{}"}, {"temperature": 0.8}, {"top_p": 1.0}, {"stop": ("x",)}, {"sample": 1}, {"raw": True}],
)  # fmt: skip
def test_whatever_changes_an_answer_changes_the_key(other):
    assert replace(REQUEST, **other).key("m") != REQUEST.key("m")


def test_purpose_and_limit_do_not_change_the_key_but_the_model_does():
    assert replace(REQUEST, purpose="plain", max_tokens=21).key("m") == REQUEST.key("m")
    assert REQUEST.key("m") != REQUEST.key("n")


def test_a_resend_would_be_seen(store):
    RecordedEngine(Parrot(), store, Silent()).complete([REQUEST], "test")
    store.note_sent([(REQUEST.key("parrot@1"), REQUEST)])
    assert store.resent_after_completion() == 1


def test_the_prompt_and_parameters_of_a_call_can_be_read_back(store):
    RecordedEngine(Parrot(), store, Silent()).complete([REQUEST], "test")
    call = store.call(REQUEST.key("parrot@1"))
    assert (call["prompt"], call["text"], call["purpose"]) == ("Say hi", "Say hi #0", "response")
    assert store.call("nothing") is None


def test_scores_are_per_token_and_in_order_and_asked_once(store):
    ruler = Ruler()
    scorer = RecordedScorer(ruler, store, Silent())
    prompts = [[{"role": "user", "content": "q"}]] * 3
    assert scorer.mean_logprobs(prompts, ["aaaa", "bb", "aaaa"], "fit") == pytest.approx([-2, -1, -2], abs=1e-5)
    assert ruler.scored == ["aaaa", "bb"]
    scorer.mean_logprobs(prompts, ["aaaa", "bb", "aaaa"], "fit")
    assert len(ruler.scored) == 2


def _turns(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


def test_a_resumed_scoring_keeps_each_score_that_was_done(tmp_path):
    prompts = _turns("p", "q", "p", "r", "q", "p")
    responses = ["x" * n for n in range(1, len(prompts) + 1)]
    whole, halted = CallStore(tmp_path / "whole.sqlite"), CallStore(tmp_path / "halted.sqlite")
    undisturbed = RecordedScorer(Ruler(), whole, Silent()).mean_logprobs(prompts, responses, "fit")
    with pytest.raises(KeyboardInterrupt):
        RecordedScorer(Ruler(fail_after=2), halted, Silent()).mean_logprobs(prompts, responses, "fit")
    resumed = Ruler()
    assert RecordedScorer(resumed, halted, Silent()).mean_logprobs(prompts, responses, "fit") == undisturbed
    assert resumed.scored == ["x" * n for n in (4, 3, 2, 1)]
    whole.close()
    halted.close()


def test_more_rows_leave_the_scores_there_are_as_they_were(store):
    prompts, responses = _turns("p", "p", "q"), ["x", "xx", "xxx"]
    before = RecordedScorer(Ruler(), store, Silent()).mean_logprobs(prompts, responses, "fit")
    again = Ruler()
    more = RecordedScorer(again, store, Silent()).mean_logprobs(
        _turns("n", "p", "p", "p", "q"), ["y", "z", *responses], "fit"
    )
    assert more[2:] == before
    assert again.scored == ["y", "z"]


def test_a_file_that_is_no_store_is_refused(tmp_path):
    path = tmp_path / "calls.sqlite"
    path.write_bytes(b"not a database, but long enough to be taken for the header of one" * 20)
    for opened in (CallStore, CallStore.read_only):
        with pytest.raises(
            DataError, match=r"calls\.sqlite: not a store of completions \(.*\); move it away to begin anew$"
        ):
            opened(path)


@pytest.mark.parametrize("opened", [CallStore, CallStore.read_only])
def test_what_cannot_be_opened_is_refused_in_one_line(tmp_path, opened):
    for path in (tmp_path, tmp_path / "no" / "calls.sqlite"):
        with pytest.raises(
            DataError, match=rf"^{path}: this store of completions cannot be used \(unable to open .*\)$"
        ):
            opened(path)


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("CREATE TABLE songs (name TEXT)", "its application id is 0x0, not 0x4b494c4f"),
        ("PRAGMA application_id=7", "its application id is 0x7"),
        (SCHEMA + "PRAGMA application_id=7", "its application id is 0x7"),
        (f"CREATE TABLE calls (key TEXT); PRAGMA application_id={APPLICATION_ID}", "its tables or columns are others"),
    ],
)
def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path, script, cause):
    path = tmp_path / "calls.sqlite"
    with closing(sqlite3.connect(path)) as foreign:
        foreign.executescript(script)
    before = path.read_bytes()
    with pytest.raises(DataError, match=rf"not a store of completions \({cause}.*\); move it away to begin anew$"):
        CallStore(path)
    with pytest.raises(DataError, match=r"not a store of completions \(.*\); move it away"):
        CallStore.read_only(path)
    assert [file.name for file in tmp_path.iterdir()] == ["calls.sqlite"]
    assert path.read_bytes() == before


def test_a_store_from_before_the_id_was_written_can_still_be_read(tmp_path):
    path = tmp_path / "calls.sqlite"
    with closing(sqlite3.connect(path)) as older:
        older.executescript(SCHEMA.replace("nats REAL,", "nats REAL NOT NULL,"))
    with closing(CallStore.read_only(path)) as store:
        assert store.account() == {}


def test_a_store_that_is_opened_again_keeps_what_it_holds(tmp_path):
    for _ in range(2):
        with closing(CallStore(tmp_path / "calls.sqlite")) as store:
            RecordedEngine(Parrot(), store, Silent()).complete([REQUEST], "test")
            assert store.account()["response"]["sent"] == 1


def _contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("name", ["run", "a run? #1 50%20"])
def test_reading_a_closed_store_changes_no_file_and_leaves_none_behind(tmp_path, name):
    (tmp_path / name).mkdir()
    path = tmp_path / name / "calls.sqlite"
    with closing(CallStore(path)) as store:
        RecordedEngine(Parrot(), store, Silent()).complete([REQUEST], "test")
    before = _contents(path.parent)
    with closing(CallStore.read_only(path)) as store:
        assert store.call(REQUEST.key("parrot@1"))["text"] == "Say hi #0"
        assert _contents(path.parent) == before
        with pytest.raises(DataError, match="readonly database"):
            store.note_sent([("k", REQUEST)])
    assert _contents(path.parent) == before
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_reading_sees_what_stands_only_in_the_log_of_a_killed_run(store, tmp_path):
    RecordedEngine(Parrot(), store, Silent()).complete([REQUEST], "test")
    killed = tmp_path / "killed"
    killed.mkdir()
    for file in ("calls.sqlite", "calls.sqlite-wal", "calls.sqlite-shm"):
        shutil.copy(tmp_path / file, killed / file)
    before = (killed / "calls.sqlite").read_bytes(), (killed / "calls.sqlite-wal").read_bytes()
    with closing(CallStore.read_only(killed / "calls.sqlite")) as result:
        assert result.call(REQUEST.key("parrot@1"))["text"] == "Say hi #0"
    assert ((killed / "calls.sqlite").read_bytes(), (killed / "calls.sqlite-wal").read_bytes()) == before


def test_a_log_that_cannot_be_read_does_not_hide_what_the_file_holds(tmp_path):
    path = tmp_path / "calls.sqlite"
    with closing(CallStore(path)) as store:
        RecordedEngine(Parrot(), store, Silent()).complete([REQUEST], "test")
    Path(f"{path}-wal").mkdir()  # as little to be opened as the log in a folder that cannot be written, for root too
    with closing(CallStore.read_only(path)) as store:
        assert store.call(REQUEST.key("parrot@1"))["text"] == "Say hi #0"


def test_a_file_that_breaks_later_is_named_by_everything_that_reads_it(tmp_path):
    path = tmp_path / "calls.sqlite"
    with closing(CallStore(path)) as store:
        RecordedEngine(Parrot(), store, Silent()).complete(_requests(200), "test")
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with closing(CallStore.read_only(path)) as store:
        for read in (
            lambda: store.completions({"k": 1}), lambda: store.scores(["k"]), lambda: store.call("k"),
            store.account, store.resent_after_completion,
        ):  # fmt: skip
            with pytest.raises(
                DataError, match=r"calls\.sqlite: not a store of completions \(.*malformed.*\); move it"
            ):
                read()


class Narrow(Parrot):
    """Refuses every prompt until it is made wider."""

    wide = False

    def complete(self, requests):
        for key, completion in super().complete(requests):
            yield key, completion if self.wide else Completion("", "refused", 9, 0)


def test_a_refused_prompt_is_asked_again_since_a_longer_context_may_take_it(store):
    narrow = Narrow()
    engine = RecordedEngine(narrow, store, Silent())
    assert engine.complete([REQUEST], "test") == [Completion("", "refused", 9, 0, REQUEST.key("parrot@1"))]
    assert store.call(REQUEST.key("parrot@1")) is None
    narrow.wide = True
    assert [c.text for c in engine.complete([REQUEST], "test")] == ["Say hi #0"]
    assert store.resent_after_completion() == 0


class Short(Ruler):
    """Gives no score to what is longer than 40 characters."""

    def logprobs(self, prompts, responses):
        for at, nats, tokens in super().logprobs(prompts, responses):
            yield at, nats if len(responses[at]) <= 40 else math.nan, tokens


def test_a_row_too_long_to_score_is_nan_and_asked_once(store):
    prompts, responses = _turns("p", "p", "q"), ["x" * 39, "x" * 41, "x" * 50]
    first = RecordedScorer(Short(), store, Silent()).mean_logprobs(prompts, responses, "fit")
    assert [math.isnan(mean) for mean in first] == [False, True, True]
    again = Short()
    assert RecordedScorer(again, store, Silent()).mean_logprobs(prompts, responses, "fit") == pytest.approx(
        first, rel=0, abs=0, nan_ok=True
    )
    assert again.scored == []


def test_a_completion_is_on_disk_before_the_next_is_asked_for(tmp_path):
    path = tmp_path / "calls.sqlite"
    store = CallStore(path)
    seen = []

    class Watching(Parrot):
        def complete(self, requests):
            for answer in super().complete(requests):
                with sqlite3.connect(path) as other:
                    seen.append(other.execute("SELECT COUNT(*) FROM calls").fetchone()[0])
                yield answer

    RecordedEngine(Watching(), store, Silent()).complete(_requests(3), "test")
    store.close()
    assert seen == [0, 1, 2]


class Cutting(Parrot):
    """Writes thirty tokens where it may, and is cut where it may not."""

    def complete(self, requests):
        for key, request in requests:
            self.sent.append((key, request.max_tokens))
            whole = request.max_tokens >= 30
            yield (
                key,
                Completion("all" if whole else "al", "stop" if whole else "length", 2, min(30, request.max_tokens)),
            )


def _limited(*limits):
    return [replace(REQUEST, sample=n, max_tokens=limit) for n, limit in enumerate(limits)]


def test_a_larger_limit_redoes_only_what_was_cut(store):
    cutting = Cutting()
    engine = RecordedEngine(cutting, store, Silent())
    first = engine.complete(_limited(20, 40, 30), "test")
    assert [c.finish_reason for c in first] == ["length", "stop", "stop"]
    cutting.sent.clear()
    raised = engine.complete(_limited(50, 50, 50), "test")
    assert cutting.sent == [(first[0].key, 50)]
    assert [(c.text, c.finish_reason) for c in raised] == [("all", "stop")] * 3
    assert store.resent_after_completion() == 0
    assert store.superseded(["response"]) == (1, 22)
    assert store.spent(["response"])[:2] == (4, 22 + 3 * 32)


def test_a_smaller_limit_sends_nothing_and_calls_what_is_longer_cut(store):
    cutting = Cutting()
    engine = RecordedEngine(cutting, store, Silent())
    engine.complete(_limited(40, 20), "test")
    cutting.sent.clear()
    assert [c.finish_reason for c in engine.complete(_limited(25, 10), "test")] == ["length", "length"]
    assert cutting.sent == []


def test_hours_count_the_work_and_not_the_pause(store, monkeypatch):
    clock = iter([0.0, 10.0, 30.0, 9000.0])
    for number, now in enumerate(clock):
        monkeypatch.setattr("kiloset.core.calls.time.time", lambda now=now: now)
        store.add("m", f"k{number}", REQUEST, Completion("x", "stop", 1, 1))
    assert store.spent(["response"]) == (4, 8, pytest.approx((10 + 20 + 60) / 3600))
    assert store.spent(["plain"]) == (0, 0, 0.0)


def test_waves_are_given_back_as_they_were_noted(store):
    asks = [{"maths": {"evolve": 3}}, {}, {"a'b": {"x": 1}}]
    for each in asks:
        store.add_wave(each, cut=not each)
    assert (store.waves(), store.whole_waves()) == (asks, 2)


def test_a_flow_takes_requests_while_others_are_under_way_and_gives_each_its_tag(store):
    parrot = Parrot()
    flow = RecordedEngine(parrot, store, Silent()).flow()
    first, second, third = _requests(3)
    flow.put([(first, "a"), (second, "b"), (first, "c")])
    assert len(flow) == 3
    tag, completion = flow.get()
    assert (tag, completion.text) == ("a", "Say hi #0")
    flow.put([(third, "d"), (first, "e")])
    assert sorted(flow.get()[0] for _ in range(len(flow))) == ["b", "c", "d", "e"]
    assert (flow.sent, flow.received, flow.completion_tokens, len(flow)) == (3, 3, 9, 0)
    assert len(parrot.sent) == 3


def test_a_flow_that_may_not_send_answers_what_is_stored_and_names_the_rest(store):
    engine = RecordedEngine(Parrot(), store, Silent())
    first, second = _requests(2)
    engine.complete([first], "test")
    flow = engine.flow()
    assert flow.put([(first, "a"), (second, "b")], send=False) == ["b"]
    assert flow.get()[0] == "a"
    assert (len(flow), flow.sent) == (0, 0)


def _without_cached_tokens(path):
    """Turn a store into one of a version that did not count cached tokens."""
    with closing(sqlite3.connect(path)) as older:
        older.execute("ALTER TABLE calls DROP COLUMN cached_tokens")


def test_a_store_without_cached_tokens_can_be_read_and_continued(tmp_path):
    path, parrot = tmp_path / "calls.sqlite", Parrot()
    with closing(CallStore(path)) as store:
        RecordedEngine(parrot, store, Silent()).complete([REQUEST], "test")
    _without_cached_tokens(path)
    with closing(CallStore.read_only(path)) as store:
        assert store.cached_tokens() == {"response": 0}
        assert store.completions({REQUEST.key("parrot@1"): 30})[REQUEST.key("parrot@1")].cached_tokens == 0
    for _ in range(2):
        with closing(CallStore(path)) as store:
            RecordedEngine(parrot, store, Silent()).complete([REQUEST], "test")
            store.add("m", "k", REQUEST, Completion("x", "stop", 9, 1, cached_tokens=8))
            assert store.cached_tokens() == {"response": 8}
            assert store.completions({"k": 30})["k"] == Completion("x", "stop", 9, 1, "k", 8)
    assert len(parrot.sent) == 1


def test_a_store_that_lacks_another_column_is_refused(tmp_path):
    path = tmp_path / "calls.sqlite"
    with closing(CallStore(path)):
        pass
    with closing(sqlite3.connect(path)) as other:
        other.execute("ALTER TABLE calls DROP COLUMN finished")
    for opened in (CallStore, CallStore.read_only):
        with pytest.raises(DataError, match="its tables or columns are others"):
            opened(path)
