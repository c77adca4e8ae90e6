import json
import logging
import os
import subprocess
import sys
import time

import onnx
import pytest
from onnx import TensorProto, helper

from stages.bench import latency, machine, scheduler, worker
from stages.bench.child import Child
from stages.bench.latency import Plan, Spread, Timing

SHAPES = {"x": (1, 64)}


def chain(path, layers):
    """A file with so many matrix products in a row."""
    nodes = [helper.make_node("MatMul", [f"x{i}" if i else "x", "w"], [f"x{i + 1}"])
             for i in range(layers)]  # fmt: skip
    weight = helper.make_tensor("w", TensorProto.FLOAT, [64, 64], [0.01] * 64 * 64)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64])
            for name in ("x", f"x{layers}")]  # fmt: skip
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chains")
    return {"long": chain(folder / "long.onnx", 400), "short": chain(folder / "short.onnx", 4)}


@pytest.fixture(scope="module")
def timings(models):
    rounds = []
    made = latency.measure(models, SHAPES, 1, Plan(2, 3, 1), lambda: rounds.append(1))
    assert len(rounds) == 2
    return made


def test_every_network_is_timed_in_every_round(timings):
    assert [(t.round, t.name) for t in timings] == [
        (0, "long"), (0, "short"), (1, "long"), (1, "short"),
    ]  # fmt: skip
    for timing in timings:
        assert len(timing.milliseconds) == 3 and min(timing.milliseconds) > 0
        assert timing.threads == 1 and timing.runtime.startswith("onnxruntime 1.")


def test_a_hundred_times_the_work_takes_longer(timings):
    fastest = {t.name: min(t.milliseconds) for t in timings}
    assert fastest["long"] > fastest["short"]


def test_memory_is_the_processes_own(timings):
    for timing in timings:
        assert 0 < timing.model_mb < timing.peak_mb < 200  # with torch it would be 300 and more


def test_the_worker_does_not_import_torch(root):
    code = "import sys, stages.bench.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_networks_take_turns(models, monkeypatch):
    asked = []
    ask = Child.ask

    def listen(self, **request):
        asked.append((id(self), request["do"]))
        return ask(self, **request)

    monkeypatch.setattr(Child, "ask", listen)
    latency.measure(models, SHAPES, 1, Plan(1, 3, 0))
    turns = [who for who, what in asked if what == "run"]
    assert turns == turns[:2] * 3 and len(set(turns)) == 2


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match=r"(?s)stages\.bench\.worker ended.*broken\.onnx"):
        latency.measure({"broken": tmp_path / "broken.onnx"}, SHAPES, 1, Plan(1, 1, 0))


def test_a_child_ends_with_its_parent():
    child = Child("stages.bench.worker", {})
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child._process.pid, 0)


def test_the_worker_ends_when_nobody_asks_any_more(models, root):
    request = {"do": "open", "model": str(models["short"]), "shapes": {"x": [1, 64]}, "threads": 2}
    done = subprocess.run(
        [sys.executable, "-m", "stages.bench.worker"],
        input=json.dumps(request) + "\n", cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["runtime"].startswith("onnxruntime")


class Session:
    """Takes no time; counts its runs."""

    runs = 0

    def run(self, outputs, feeds):
        self.runs += 1


@pytest.fixture
def idle(monkeypatch):
    """A worker with such a session, and what its threads will have waited, reading by reading."""
    made, readings = worker.Worker(), []
    made.session = Session()
    monkeypatch.setattr(worker.scheduler, "waited", lambda: readings.pop(0))
    return made, readings


def test_a_run_that_waited_for_a_core_is_tried_again(idle):
    made, readings = idle
    readings += [0, 5_000_000, 5_000_000, 5_000_000]
    answer = made.run(warmup=3)
    assert not answer["disturbed"] and answer["nanoseconds"] < 5_000_000
    assert made.session.runs == 2 * (3 + 1)


def test_where_all_waited_the_least_disturbed_is_given_and_counted(idle):
    made, readings = idle
    for _ in range(worker.TRIES):
        readings += [0, 5_000_000]
    assert made.run(warmup=0)["disturbed"]
    assert made.session.runs == worker.TRIES


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a way to share a core")
def test_waiting_for_a_core_is_seen():
    cores = os.sched_getaffinity(0)
    spin = f"import os; os.sched_setaffinity(0, {{{min(cores)}}})\nwhile True: pass"
    before = scheduler.waited()
    with subprocess.Popen([sys.executable, "-c", spin]) as other:
        try:
            os.sched_setaffinity(0, {min(cores)})
            deadline = time.monotonic() + 20
            while scheduler.waited() - before < 20_000_000 and time.monotonic() < deadline:
                sum(range(10_000))
        finally:
            os.sched_setaffinity(0, cores)
            other.kill()
    assert scheduler.waited() - before >= 20_000_000


def test_a_busy_machine_is_told_of(caplog):
    quiet, loud = (Timing("n", 1, 0, (1.0,) * 10, n, 1.0, 1.0, "r") for n in (0, 5))
    machine.warn_if_busy([quiet], logging.getLogger("bench"))
    assert not caplog.records
    machine.warn_if_busy([quiet, loud], logging.getLogger("bench"))
    assert "25 % of the timed runs" in caplog.text


def test_quartiles():
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(2.0, 3.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_the_median_of_a_round_is_not_moved_by_one_slow_run():
    assert Timing("n", 1, 0, (1.0, 1.0, 900.0), 1, 1.0, 1.0, "r").median == 1.0
