import sqlite3
from dataclasses import replace

import pytest

from core.calls import BATCH, CallStore, RecordedEngine, RecordedScorer
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
    with pytest.raises(DataError, match="not a store of completions"):
        CallStore(path)


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
