"""Peaks of the embedded model's tokens, against a plain forward pass of one text at a time."""

import numpy as np
import pytest

from engines.embedded import model_path
from engines.embedder import BATCH, SentenceEmbedder

TEXTS = ["", "Yes.", "# A list\n\n- one\n- two", "The cat sleeps. " * 40, "Well, " * 600, "Zwölf Boxkämpfer; 字"]


@pytest.fixture(scope="module")
def path() -> str:
    return model_path("embedded:all-minilm-l6-v2", "models.embedder")


@pytest.mark.models
def test_a_peak_is_the_maximum_over_the_tokens_of_a_plain_forward_pass(path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    embedder = SentenceEmbedder(path, "x")
    found = embedder.peaks(TEXTS)
    assert (found.dtype, found.shape) == (np.float32, (len(TEXTS), 384))
    longest = embedder._loaded().max_seq_length
    for text, peak in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            given = tokenizer([text], return_tensors="pt", truncation=True, max_length=longest)
            states = model(**given).last_hidden_state[0]  # (tokens, dims), [CLS] and [SEP] among them
        assert peak == pytest.approx(states.max(dim=0).values.numpy(), abs=1e-5)


@pytest.mark.models
def test_a_peak_depends_neither_on_padding_nor_on_the_order_of_the_texts(path):
    embedder = SentenceEmbedder(path, "x")
    texts = [f"{'very ' * (n % 50)}long {n}" for n in range(BATCH + 3)]
    found = embedder.peaks(texts)
    assert embedder.peaks(texts[::-1])[::-1] == pytest.approx(found, abs=1e-5)
    assert np.concatenate([embedder.peaks([text]) for text in texts[:8]]) == pytest.approx(found[:8], abs=1e-5)


def test_no_texts_need_no_model():
    embedder = SentenceEmbedder("/nowhere", "x")
    assert embedder.peaks([]).shape == embedder.embed([]).shape == (0, 0)
