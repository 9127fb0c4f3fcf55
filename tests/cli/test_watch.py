"""`mlplatform replicate --watch`, as an operator runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import stage
from tests.real.failover.platform import metrics
from tests.real.servers.launch import free_port
from tests.waiting import wait_until


def test_it_converges_serves_metrics_and_ends_well(tmp_path: Path) -> None:
    environment = stage(tmp_path)
    line = [sys.executable, "-m", "mlplatform.cli.app"]
    publish = ["publish", "resnet50", "--model", "resnet50", "--version", "v1.2.0"]
    subprocess.run(
        [*line, *publish], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    port = free_port()
    watching = subprocess.Popen(
        [*line, "replicate", "--watch", "--interval", "0.2", "--metrics", f"127.0.0.1:{port}"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    lag = (
        'mlplatform_replication_lag_seconds{model="resnet50",source_region="us-east-1",'
        'target_region="eu-west-1",version="v1.2.0"} 0.0'
    )
    ended = "\nmlplatform_replication_last_round_timestamp_seconds "
    wanted = (lag, ended, 'mlplatform_attempts_total{result="ok"')
    try:
        wait_until(lambda: all(each in metrics(port) for each in wanted), lambda: metrics(port))
        assert (tmp_path / "eu-west-1/models/resnet50/v1.2.0/manifest.json").is_file()
    finally:
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=60)
    assert watching.returncode in (0, 130), said
    assert "Traceback" not in said
