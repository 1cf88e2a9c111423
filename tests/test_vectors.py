"""Vectors that are computed once for a run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kiloset.core import recorded
from kiloset.core.calls import CallStore
from kiloset.core.progress import Silent
from kiloset.core.recorded import RecordedEmbedder


class InCompany:
    """An embedder whose vector of a text depends on what it is embedded with, as a real one's last digits do."""

    identity, is_costly = "in company", True

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        angles = np.array([len(text) + len(texts) / 1000 for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_a_text_has_one_vector_in_whatever_company_it_comes_again(tmp_path: Path) -> None:
    model, store = InCompany(), CallStore(tmp_path / "calls.sqlite")
    embedder = RecordedEmbedder(model, store, Silent())
    first = embedder.embed(["one", "three", "one"])
    again = embedder.embed(["three", "seventeen", "one"])

    assert model.asked == [["one", "three"], ["seventeen"]]
    assert first[0].tolist() == first[2].tolist() == again[2].tolist()
    assert first[1].tolist() == again[0].tolist()
    assert first.dtype == again.dtype == np.float32
    assert first.shape == (3, 2)


def test_what_was_embedded_before_a_stop_is_not_embedded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "EMBED_TEXTS", 2)

    class Stops(InCompany):
        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().embed(texts)

    texts = [f"text {'x' * n}" for n in range(7)]
    halted, store = Stops(), CallStore(tmp_path / "calls.sqlite")
    with pytest.raises(KeyboardInterrupt):
        RecordedEmbedder(halted, store, Silent()).embed(texts)
    store.close()

    model = InCompany()
    result = RecordedEmbedder(model, CallStore(tmp_path / "calls.sqlite"), Silent()).embed(texts)
    assert [text for part in model.asked for text in part] == texts[4:]
    whole = RecordedEmbedder(InCompany(), CallStore(tmp_path / "other.sqlite"), Silent()).embed(texts)
    assert result.tobytes() == whole.tobytes()


def test_another_model_has_vectors_of_its_own(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "calls.sqlite")
    RecordedEmbedder(InCompany(), store, Silent()).embed(["one"])
    other = InCompany()
    other.identity = "another"
    RecordedEmbedder(other, store, Silent()).embed(["one"])
    assert other.asked == [["one"]]


def test_no_texts_need_no_model(tmp_path: Path) -> None:
    model = InCompany()
    assert RecordedEmbedder(model, CallStore(tmp_path / "calls.sqlite"), Silent()).embed([]).shape == (0, 0)
    assert not model.asked
