"""The table of families: every type is in it, what runs is right, and what does not has its reason."""

import sys
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

import attattr

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import families

TABLE = attattr.result("families").set_index("type")
RUNS = TABLE[TABLE.outcome == "runs"]
NAMED = ["deberta-v2", "mpnet", "xlnet", "gptj", "bloom", "llama", "gemma3", "modernbert", "t5", "bart"]
NORM_AFTER = ["exaone4", "gemma2", "gemma3_text", "glm4", "olmo2", "olmo3", "t5gemma", "zamba2"]


def test_every_type_of_transformers_is_in_the_table():
    assert sorted(TABLE.index) == sorted(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    assert set(TABLE.outcome) == {"runs", "refused", "not built"}
    assert len(RUNS) >= 115
    assert set(NAMED) <= set(RUNS.index)


def test_what_runs_agrees_with_whole_passes_and_decides_something():
    assert (RUNS.agreement.astype(float) <= 1e-5).all()
    assert (RUNS.difference.astype(float) >= 1e-3).all()  # where F does not move, everything agrees
    assert (RUNS.layers >= 2).all() and (RUNS.heads >= 2).all()
    assert RUNS.reason.isna().all()
    assert RUNS.replayed.sum() >= 80


def test_what_does_not_run_has_its_reason():
    assert TABLE[TABLE.outcome != "runs"].reason.str.len().between(20, 100).all()
    assert list(TABLE.index[TABLE.outcome == "not built"]) == ["layoutlmv2"]


def test_a_norm_right_after_attention_leaves_the_path_nothing_to_say():
    assert (RUNS.early[NORM_AFTER].astype(float) > 0.98).all()
    assert RUNS.early.drop(NORM_AFTER).astype(float).median() < 0.1
    assert RUNS.completeness.drop(NORM_AFTER).astype(float).median() < 1e-4


@pytest.mark.parametrize("kind", ["nystromformer", "qwen3", "fnet"])
def test_the_command_comes_to_what_the_table_says(kind):
    row, known = families.measure(kind), TABLE.loc[kind]
    assert row["outcome"] == known.outcome
    if row["outcome"] != "runs":
        assert row["reason"] == known.reason
        return
    assert (row["layers"], row["heads"], row["replayed"]) == (known.layers, known.heads, known.replayed)
    assert row["agreement"] <= 1e-5
    assert row["completeness"] <= 10 * known.completeness
    assert (row["difference"], row["early"]) == pytest.approx((known.difference, known.early), rel=0.02)


def test_a_refusal_is_in_the_words_of_the_package(monkeypatch):
    monkeypatch.delitem(families.REASONS, "funnel")
    row = families.measure("funnel")
    assert row["outcome"] == "refused"
    assert "attention of 5 queries to 9 keys in layer 1 of FunnelForSequenceClassification" in row["reason"]


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (lambda kind: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda kind: __import__("os")._exit(1), "its process died"),
        (lambda kind: bytearray(10 << 30), "MemoryError: "),
        (lambda kind: __import__("time").sleep(60), "nothing after 2 seconds"),
    ],
)
def test_whatever_becomes_of_one_type_is_a_row(work, reason, monkeypatch):
    monkeypatch.setattr(families, "measure", work)
    monkeypatch.setattr(families, "SECONDS", 2)
    row = families.attempt("bert")
    assert row.pop("seconds") < 10
    assert row == {"type": "bert", "outcome": "fails", "reason": reason}
