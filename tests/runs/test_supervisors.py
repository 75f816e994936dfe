"""The batch script and the JobSet of docs/pods-and-clusters.md, as they stand but for the data:
run by a stand-in for SLURM and for Kubernetes, with two processes.
"""

import os
import pathlib
import re
import signal
import stat
import sys
import time

import pytest
import yaml

from arcface_jax.runs.processes import ADDRESS, COUNT, NUMBER
from experiments.reliability.processes import free_port
from experiments.reliability.runs import TINY, Run
from tests import processes

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "pods-and-clusters.md"
DATA = "webface12m-r100 --data.root /data/train.rec --data.verify /data/lfw.bin"
FOLDER = "/shared/runs/wf12m"
OPTIONS = TINY | {"model.name": "tests.runs.one_layer:OneLayer", "head.kind": "sharded"}
OPTIONS |= {"run.steps": "12", "run.evaluate-every": "12"}
TASKS = 2

SRUN = """#!{python}
import os, signal, subprocess, sys, time

tasks, patience = [], 100
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
open({place!r}, "w").write(str(os.getpid()))
assert sys.argv[1] == "--kill-on-bad-exit=1"
for number in range({tasks}):
    mine = {{"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "{tasks}"}}
    mine |= {{"SLURM_STEP_NUM_NODES": "1", "SLURM_LOCALID": str(number)}}
    mine |= {{"SLURM_PROCID": str(number)}}
    tasks.append(subprocess.Popen(sys.argv[2:], env={{**os.environ, **mine}}))
while any(task.poll() is None for task in tasks):
    patience -= any(task.poll() for task in tasks)
    if patience == 0:
        [task.kill() for task in tasks]
    time.sleep(0.1)
sys.exit(max(abs(task.returncode) + 128 * (task.returncode < 0) for task in tasks))
"""
"""Starts the tasks; ten seconds after one has failed, the others are killed."""


def block(language):
    """The one code block of a language that is a whole file."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 1
    return found[0]


def tiny_arguments():
    return [text for name, value in OPTIONS.items() for text in (f"--{name}", value)]


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Of processes on this machine with a device each."""
    flags = processes.quick_to_compile()
    changed = {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=1"}
    changed |= {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    return {**os.environ, **changed, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def program(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def wait_for_checkpoint(run, process, seconds=240):
    until = time.monotonic() + seconds
    while run.newest() == 0:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_a_job_of_slurm_that_is_stopped_goes_back_into_the_queue_and_on(tmp_path, environment):
    """SIGTERM comes as two minutes before the end of its time; the next start finishes the run."""
    folder, requeued, srun = tmp_path / "run", tmp_path / "requeued", tmp_path / "srun"
    script, python = block("bash"), sys.executable
    for theirs, ours in ((DATA, " ".join(tiny_arguments())), (FOLDER, str(folder))):
        assert theirs in script
        script = script.replace(theirs, ours)
    (tmp_path / "job.sh").write_text(script)
    program(tmp_path / "bin" / "srun", SRUN.format(python=python, tasks=TASKS, place=str(srun)))
    program(tmp_path / "bin" / "python", f'#!/bin/sh\nexec {python} "$@"\n')
    program(tmp_path / "bin" / "scontrol", f'#!/bin/sh\necho "$@" >> {requeued}\n')
    run = Run(folder, OPTIONS)

    def start(restarts):
        job = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
        job |= {"JAX_COORDINATOR_PORT": str(free_port())}
        return processes.start(["bash", tmp_path / "job.sh"], env=environment | job)

    for restarts in (0, 1):
        job = start(restarts)
        try:
            if restarts == 0:
                wait_for_checkpoint(run, job)
                os.kill(int(srun.read_text()), signal.SIGTERM)
            said = job.communicate(timeout=240)
        finally:
            processes.end(job)
        assert job.returncode == (143, 0)[restarts], said
        assert requeued.read_text() == "requeue 7\n"
        assert run.is_finished() == (restarts == 1)


@pytest.mark.slow
def test_a_jobset_starts_all_processes_again_where_one_is_killed(tmp_path, environment):
    spec = yaml.safe_load(block("yaml"))["spec"]
    (job,) = spec["replicatedJobs"]
    indexed = job["template"]["spec"]
    (container,) = indexed["template"]["spec"]["containers"]
    count, run = indexed["completions"], Run(tmp_path / "run", OPTIONS)
    assert count == indexed["parallelism"] == TASKS
    command = " ".join(container["command"])
    for theirs, ours in ((DATA, " ".join(tiny_arguments())), (FOLDER, str(run.folder))):
        assert theirs in command
        command = command.replace(theirs, ours)
    command = [sys.executable, *command.split()[1:]]

    def start(number, port):
        mine = {ADDRESS: f"localhost:{port}"}
        for variable in container["env"]:
            if "valueFrom" in variable:
                where = variable["valueFrom"]["fieldRef"]["fieldPath"]
                assert where == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
                mine[variable["name"]] = str(number)
            elif variable["name"] == ADDRESS:
                assert variable["value"] == "wf12m-train-0-0.wf12m:1234"
            else:
                mine[variable["name"]] = variable["value"]
        assert mine.keys() == {ADDRESS, COUNT, NUMBER}
        return processes.start(command, env=environment | mine)

    starts = 0
    while starts <= min(spec["failurePolicy"]["maxRestarts"], 2):
        port, starts = free_port(), starts + 1
        pods = [start(number, port) for number in range(count)]
        try:
            if starts == 1:
                wait_for_checkpoint(run, pods[0])
                pods[1].kill()
            said = [pod.communicate(timeout=240) for pod in pods]
        finally:
            for pod in pods:
                processes.end(pod)
        if all(pod.returncode == 0 for pod in pods):
            break
        assert "cannot go on with the others" in said[0][1]
    assert starts == 2, said
    assert run.is_finished()
