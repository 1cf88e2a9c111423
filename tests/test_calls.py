import math
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from core.calls import APPLICATION_ID, BATCH, SCHEMA, CallStore, RecordedEngine, RecordedScorer
from core.errors import DataError
from core.models import Completion, Request, Silent

REQUEST = Request("Say hi", "response", 20, 0.7, 0.9)


class Parrot:
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
    """Scores a response by its length, and by the company it is scored in (as floating point does)."""

    identity = "ruler@1"

    def __init__(self, fail_at_batch=None):
        self.batches, self.fail_at_batch = [], fail_at_batch

    def logprobs(self, prompts, responses):
        if len(self.batches) == self.fail_at_batch:
            raise KeyboardInterrupt
        self.batches.append(list(responses))
        return [(-float(len(response)) - 1e-6 * len(responses), 2) for response in responses]


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
    [{"prompt": "Say ho"}, {"max_tokens": 21}, {"temperature": 0.8}, {"top_p": 1.0}, {"stop": ("x",)}, {"sample": 1}, {"raw": True}],
)  # fmt: skip
def test_whatever_changes_an_answer_changes_the_key(other):
    assert replace(REQUEST, **other).key("m") != REQUEST.key("m")


def test_the_purpose_does_not_change_the_key_but_the_model_does():
    assert replace(REQUEST, purpose="plain").key("m") == REQUEST.key("m")
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
    assert ruler.batches == [["aaaa", "bb"]]
    scorer.mean_logprobs(prompts, ["aaaa", "bb", "aaaa"], "fit")
    assert len(ruler.batches) == 1


def test_a_resumed_scoring_gives_the_very_same_digits(tmp_path):
    prompts = [[{"role": "user", "content": "q"}]] * (2 * BATCH + 5)
    responses = ["x" * n for n in range(1, len(prompts) + 1)]
    whole, halted = CallStore(tmp_path / "whole.sqlite"), CallStore(tmp_path / "halted.sqlite")
    undisturbed = RecordedScorer(Ruler(), whole, Silent()).mean_logprobs(prompts, responses, "fit")
    with pytest.raises(KeyboardInterrupt):
        RecordedScorer(Ruler(fail_at_batch=1), halted, Silent()).mean_logprobs(prompts, responses, "fit")
    resumed = Ruler()
    assert RecordedScorer(resumed, halted, Silent()).mean_logprobs(prompts, responses, "fit") == undisturbed
    assert [len(batch) for batch in resumed.batches] == [BATCH, 5]
    whole.close()
    halted.close()


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
    with closing(CallStore.read_only(killed / "calls.sqlite")) as found:
        assert found.call(REQUEST.key("parrot@1"))["text"] == "Say hi #0"
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
            lambda: store.completions(["k"]), lambda: store.scores(["k"]), lambda: store.call("k"),
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
        found = super().logprobs(prompts, responses)
        return [(n if len(r) <= 40 else math.nan, t) for (n, t), r in zip(found, responses, strict=True)]


def test_a_row_too_long_to_score_is_nan_and_asked_once_with_its_whole_batch(store):
    prompts = [[{"role": "user", "content": "q"}]] * (BATCH + 20)
    responses = ["x" * n for n in range(1, len(prompts) + 1)]
    first = RecordedScorer(Short(), store, Silent()).mean_logprobs(prompts, responses, "fit")
    assert [math.isnan(mean) for mean in first] == [len(response) > 40 for response in responses]
    again = Short()
    assert RecordedScorer(again, store, Silent()).mean_logprobs(prompts, responses, "fit") == pytest.approx(
        first, rel=0, abs=0, nan_ok=True
    )
    assert again.batches == []


def test_a_completion_is_on_disk_before_the_next_is_asked_for(tmp_path):
    path = tmp_path / "calls.sqlite"
    store = CallStore(path)
    seen = []

    class Watching(Parrot):
        def complete(self, requests):
            for answer in super().complete(requests):
                yield answer
                with sqlite3.connect(path) as other:
                    seen.append(other.execute("SELECT COUNT(*) FROM calls").fetchone()[0])

    RecordedEngine(Watching(), store, Silent()).complete(_requests(3), "test")
    store.close()
    assert seen == [1, 2, 3]
