"""Dataset-scale runs: killed ones go on where they stopped, and the committed results say where they come from."""

import hashlib

import pytest

import attattr
from attattr.reproduce import certificate_summary, resumable


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


@pytest.mark.parametrize("task", ["sst2", "mnli"])
def test_the_committed_certificate_holds_and_belongs_to_the_committed_model(task):
    found = attattr.result(f"certificate-{task}")
    weights = (attattr.data.data_folder() / "models" / task / "adapter_model.safetensors").read_bytes()
    assert found["provenance"]["model"] == hashlib.sha256(weights).hexdigest()
    assert {"command", "model", "data", "versions", "seconds"} <= set(found["provenance"])
    summary = found["summary"]
    assert summary == certificate_summary(found["rows"])
    assert summary["texts"] == 200
    assert summary["within_reported"] >= 0.95
    assert summary["error_median"] <= 1e-3
    assert summary["error_worst"] <= 2e-2
    assert summary["evaluations_median"] <= 6
