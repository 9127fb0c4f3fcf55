"""LitServe around a sleep, in an environment of its own. All that it is told is in
variables, for its worker is a process that imports this anew."""

from __future__ import annotations

import os
import time

import litserve

FIXED, EACH = (float(os.environ[name]) for name in ("PEER_FIXED_MS", "PEER_EACH_MS"))


class Sleeper(litserve.LitAPI):  # type: ignore[misc]
    """Gives back what it is given."""

    def setup(self, device: str) -> None:
        """There is nothing to load."""

    def decode_request(self, request: dict[str, float]) -> float:
        """The number."""
        return request["x"]

    def batch(self, inputs: list[float]) -> list[float]:
        """They are a batch already."""
        return inputs

    def predict(self, x: list[float]) -> list[float]:
        """After as long as it takes."""
        time.sleep((FIXED + EACH * len(x)) / 1000)
        return x

    def unbatch(self, output: list[float]) -> list[float]:
        """One each."""
        return output

    def encode_response(self, output: float) -> dict[str, float]:
        """The number."""
        return {"y": output}


if __name__ == "__main__":
    api = Sleeper(max_batch_size=32, batch_timeout=float(os.environ["PEER_WINDOW_SECONDS"]))
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        devices=1,
        workers_per_device=1,
        timeout=float(os.environ["PEER_TIMEOUT_SECONDS"]),
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        log_level="error",
        generate_client_file=False,
    )
