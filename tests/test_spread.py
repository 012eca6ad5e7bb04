"""Many images at once by Dask: the results of one after the other, whatever workers do."""

import os
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
import tifffile
from bright import bright_model
from distributed import Client, LocalCluster
from fatal import always_fatal, fail_once
from test_predict import contents

from micranet_helpers import zoo
from micranet_helpers.files.spread import LOCAL, spread
from micranet_helpers.lessons import command
from micranet_helpers.predict import predict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """Two workers, a thread each."""
    with LocalCluster(n_workers=2, **LOCAL) as two:
        yield two


def test_lost_workers_are_survived(cluster, tmp_path) -> None:
    address = cluster.scheduler_address
    found = dict(spread(partial(fail_once, tmp_path), range(4), address))
    assert found == {number: number**2 for number in range(4)}
    [(item, why)] = spread(always_fatal, [5], address, lambda item, why: why)
    assert item == 5 and "5 ended several workers" in why
    with Client(address) as client:
        client.wait_for_workers(2)


def test_predict_by_dask_is_predict_though_a_worker_is_killed(cluster, tmp_path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).random((300, 300)) ** 9
        tifffile.imwrite(folder / f"{number}.tif", (pixels * 255).astype(np.uint8))
    (folder / "broken.tif").write_bytes(b"II*\0")
    usage = zoo.Usage(("cell",), "fixed", dtype="uint8")
    zoo.save(tmp_path / "zoo.hdf5", "MICRANet", bright_model(0.3), {}, usage=usage)
    model = tmp_path / "zoo.hdf5"
    with Client(cluster.scheduler_address) as client:
        victim = next(iter(client.run(os.getpid).values()))

    def kill_when_some_are_done() -> None:
        while not list(out.rglob("done.json")):
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill_when_some_are_done)
    killer.start()
    predict(folder, model, out, scheduler=cluster.scheduler_address)
    killer.join()
    predict(folder, model, tmp_path / "alone")

    assert contents(out) == contents(tmp_path / "alone")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*-mask.ome.tif")}
    arguments = ["predict", str(folder), "--model", str(model), "--out", str(out)]
    assert command.main([*arguments, "--scheduler", cluster.scheduler_address]) == 0
    assert times == {path: path.stat().st_mtime_ns for path in times}, "nothing is done twice"


def test_a_cluster_of_this_machine() -> None:
    assert sorted(spread(abs, [-1, -2], "local")) == [(-2, 2), (-1, 1)]
