"""`reproduce` on several processes: the same numbers to the bit however many there are, and whichever of them are killed when."""

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import attattr
from attattr.book.commands import main
from attattr.book.files import alone
from attattr.book.reproduce import Run, evidence, flows, reproduce, running
from attattr.book.reproduce.running import resumable
from attattr.book.training.evaluation import accelerate

TEXTS = ["a warm and moving film .", "a dull mess .", "never boring", "funny and bright", "empty and far too long .", "it drags on"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run on a few sentences, and the table that one process makes of it."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "SST-2").mkdir()
    lines = [f"{text}\t{('negative', 'positive')[number % 2]}" for number, text in enumerate(TEXTS)]
    for name in ("dev.tsv", "train.tsv"):
        (folder / "SST-2" / name).write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")
    flows.untrained("bert", 2, width=64).save_pretrained(folder / "model")
    attattr.load("sst2")[1].save_pretrained(folder / "model")
    run = Run(task="sst2", data=folder, model=str(folder / "model"), output=folder / "unbroken")
    return run, table(reproduce("fig4", run))


def table(path):
    """All numbers of a result as they stand in its file."""
    return path.read_text().split('"columns"')[1]


def kept(run):
    """The numbers of the jobs that the processes of an unfinished run have kept, and how many files they are in."""
    files = list(run.output.glob(".fig4*.jsonl"))
    return [json.loads(line)[0] for file in files for line in file.read_text().splitlines()], len(files)


def process(rank, processes, port, last, run):
    """One of several processes, as torchrun would start it; it is killed when it has kept its job number ``last``."""
    from accelerate.state import AcceleratorState

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(reset_partial_state=True)
    real, count = running.keep, []

    def keep(path, line):
        real(path, line)
        count.append(line)
        if len(count) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    running.keep = keep
    reproduce("fig4", replace(run, accelerator=accelerate("cpu")))


def start(run, *last):
    """As many processes as numbers are given, of which each is killed after so many jobs (0: never); what they end with."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fresh = multiprocessing.get_context("spawn")  # a fork would have whatever other tests have left in accelerate
    started = [fresh.Process(target=process, args=(rank, len(last), port, after, run)) for rank, after in enumerate(last)]
    for one in started:
        one.start()
    for one in started:
        one.join(180)
        assert one.exitcode is not None, "it hangs"
    return [one.exitcode for one in started]


def test_whichever_processes_are_killed_others_go_on_and_nothing_is_lost_or_done_twice(unbroken, tmp_path, monkeypatch):
    run = replace(unbroken[0], output=tmp_path)
    assert start(run, 0, 1) == [1, -signal.SIGKILL]  # one of two is killed; the other does its share, and does not wait for ever
    numbers, files = kept(run)
    assert (sorted(numbers), files) == ([0, 1, 2, 4], 2)
    assert start(run, 1, 1) == [-signal.SIGKILL] * 2  # all are
    numbers, files = kept(run)
    assert (sorted(numbers), files) == ([0, 1, 2, 3, 4, 5], 4)
    lost = max(run.output.glob(".fig4*.jsonl"), key=lambda path: path.stat().st_mtime)
    lost.write_text(lost.read_text()[:-9])  # as if the last had been killed while it wrote
    asked, real = [], evidence.graphs_of
    monkeypatch.setattr(evidence, "graphs_of", lambda *arguments: asked.append(0) or real(*arguments))
    assert table(reproduce("fig4", run)) == unbroken[1]
    assert len(asked) == 1
    assert not list(tmp_path.glob(".*"))


def test_the_command_on_two_processes_gives_what_one_gives(unbroken, tmp_path):
    run, numbers = unbroken
    words = ["--standalone", "--nproc_per_node", "2", "-m", "attattr", "reproduce", "fig4", "--task", "sst2", "--model", run.model]
    command = [sys.executable, "-m", "torch.distributed.run", *words, "--data", str(run.data), "--output", str(tmp_path)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr
    assert found.stdout == f"{tmp_path / 'fig4-sst2.json'}\n"  # once
    assert "6/6" in found.stderr
    assert table(tmp_path / "fig4-sst2.json") == numbers
    assert json.loads((tmp_path / "fig4-sst2.json").read_text())["provenance"]["processes"] == 2
    assert not list(tmp_path.glob(".*"))


def test_of_two_commands_the_second_ends_on_all_its_processes_before_it_does_anything(unbroken, tmp_path):
    run = replace(unbroken[0], output=tmp_path)
    with alone(tmp_path / "fig4-sst2.json"):
        assert start(run, 0, 0) == [1, 1]
    assert kept(run) == ([], 0)


def test_numbers_do_not_depend_on_how_many_threads_there_are(unbroken, tmp_path, monkeypatch):
    threads, seen = torch.get_num_threads(), []
    monkeypatch.setattr(evidence, "drawn", lambda run: seen.append(torch.get_num_threads()) or running.drawn(run))
    torch.set_num_threads(2)
    try:
        reproduce("fig4", replace(unbroken[0], output=tmp_path, rows=1))
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def read_only(folder):
    """Let nobody write to a folder; root may everywhere, and is somebody else meanwhile."""
    above = [path for path in folder.parents if Path(tempfile.gettempdir()) in path.parents]
    for path in (*reversed(above), folder):
        path.chmod(0o555)
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path in (folder, *above):
            path.chmod(0o700)


def test_a_folder_that_cannot_be_written_to_is_refused_and_what_is_there_stays(unbroken, tmp_path):
    run = replace(unbroken[0], output=tmp_path)
    path = tmp_path / "fig4-sst2.json"
    path.write_text("old")
    jobs = [(number,) for number in range(4)]
    resumable(run, "rows", jobs[:2], lambda number: number)
    with read_only(tmp_path), pytest.raises(OSError, match=r"cannot keep what is finished in .*Permission denied"):
        resumable(run, "rows", jobs, lambda number: number)  # it has become so
    with (
        read_only(tmp_path),
        pytest.raises(OSError, match=r"cannot write .*fig4-sst2.json: .*Permission denied.*another output"),
        alone(path),
    ):
        pass
    assert path.read_text() == "old"
    assert resumable(run, "rows", jobs, lambda number: number if number > 1 else pytest.fail("it was done")) == [0, 1, 2, 3]


def test_a_disk_that_is_full_at_the_end_costs_nothing_but_the_writing(unbroken, tmp_path, monkeypatch):
    run = replace(unbroken[0], output=tmp_path)
    path = tmp_path / "fig4-sst2.json"
    path.write_text("old")
    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match=r"cannot write .*fig4-sst2.json, which is as it was: .*No space left"),
    ):
        patch.setattr(Path, "write_text", full_disk)
        reproduce("fig4", run)
    assert path.read_text() == "old"
    assert sorted(kept(run)[0]) == list(range(6))
    monkeypatch.setattr(evidence, "attribute", lambda *_, **__: pytest.fail("something was computed again"))
    assert table(reproduce("fig4", run)) == unbroken[1]


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(unbroken, tmp_path, capsys):
    run = unbroken[0]
    words = ["reproduce", "fig3", "--task", "sst2", "--model", run.model, "--data", str(run.data), "--rows", "4", "--dry-run", "--output"]
    main([*words, str(tmp_path / "new")])
    values, curves = capsys.readouterr().out.splitlines()
    assert values.startswith("fig3 sst2: values: 8 jobs, 0 of them done; the others take about 0:00:")
    assert curves.startswith("fig3 sst2: curves: 51 jobs, 0 of them done; the others take about 0:00:")
    assert list(tmp_path.iterdir()) == []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evidence, "predict", interrupted)
        main([*words[:-2], "--output", str(tmp_path)])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with alone(tmp_path / "fig3-sst2.json"):  # it may be at work
        main([*words, str(tmp_path)])
    assert capsys.readouterr().out.startswith("fig3 sst2: values: 8 jobs, 8 of them done; the others take about 0:00:00\nfig3 sst2: curves")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("device", ["cuda", "mps", "banana"])
def test_a_device_that_is_not_there_is_refused_by_every_command_and_those_that_are_are_named(unbroken, tmp_path, device):
    if getattr(torch, device, None) and getattr(torch, device).is_available():
        pytest.skip("there is one")
    (tmp_path / "rows.csv").write_text("text,label\ngood,positive\n")
    of_file = ["--model", "sst2", "--csv", str(tmp_path / "rows.csv")]
    data = ["--task", "sst2", "--data", str(unbroken[0].data), "--output", str(tmp_path / "out")]
    commands = [["reproduce", "fig4", *data], ["finetune", *data], ["evaluate", *of_file]]
    for words in (*commands, ["attribute", *of_file, "--output", str(tmp_path / "out")]):
        with pytest.raises(ValueError, match=f"unknown device '{device}': expected one of 'cpu'"):
            main([*words, "--device", device])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
