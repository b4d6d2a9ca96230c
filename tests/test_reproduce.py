"""Dataset-scale runs: killed ones go on where they stopped, and the committed results say where they come from."""

import hashlib
import json

import pytest

import attattr
from attattr.reproduce import resumable


def test_a_killed_run_goes_on_and_does_nothing_twice(tmp_path):
    asked = []

    def measure(item):
        asked.append(item)
        if asked == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return {"item": item}

    path = tmp_path / "results" / ".rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        resumable(path, "test", range(6), measure)
    with path.open("a") as file:
        file.write('{"item": 3')  # the half line that a kill can leave
    assert resumable(path, "test", range(6), measure) == [{"item": i} for i in range(6)]
    assert asked == [0, 1, 2, 3, 3, 4, 5]
    assert resumable(path, "test", range(6), measure) == [{"item": i} for i in range(6)]
    assert asked == [0, 1, 2, 3, 3, 4, 5]


def test_the_committed_certificate_holds_and_belongs_to_the_committed_models():
    found = attattr.result("certificate")
    folder = attattr.data.data_folder() / "models"
    for task, summary in found["summary"].items():
        weights = (folder / task / "adapter_model.safetensors").read_bytes()
        assert found["provenance"]["models"][task] == hashlib.sha256(weights).hexdigest()
        assert summary["texts"] == 200
        assert summary["within_reported"] >= 0.95
        assert summary["error_median"] <= 1e-3
        assert summary["error_worst"] <= 2e-2
        assert summary["evaluations_median"] <= 6
    assert set(found["summary"]) == {"sst2", "mnli"}
    assert {"command", "models", "data", "versions", "seconds"} <= set(found["provenance"])
    assert "sentence" not in json.dumps(found)
