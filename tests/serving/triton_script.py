"""What a user of `tritonclient[http]` types. It runs in that client's own environment, and prints
what it found; `test_triton_client.py` starts it."""

import json
import sys
from collections.abc import Callable

import ml_dtypes
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

url, token = sys.argv[1:]
admin = {"Authorization": f"Bearer {token}"}
found: dict[str, object] = {}
client = triton.InferenceServerClient(url)

found["live"], found["ready"] = client.is_server_live(), client.is_server_ready()
found["model ready"] = client.is_model_ready("layers"), client.is_model_ready("nobody")
found["server"] = client.get_server_metadata()["name"]
found["metadata"] = client.get_model_metadata("layers")["inputs"]
found["config"] = client.get_model_config("layers")["output"]
found["index"] = {each["name"] for each in client.get_model_repository_index()} >= {"layers"}
stats = client.get_inference_statistics("layers")["model_stats"]
found["stats"] = stats[0]["name"]
found["all stats"] = len(client.get_inference_statistics()["model_stats"]) > 1

for datatype in sys.stdin.read().split():
    name, echo = f"in_{datatype}", f"out_{datatype}"
    if datatype == "BYTES":
        given = np.array([[b"one", b"\xff\x00", b""]], object)
    elif datatype == "BF16":
        given = np.array([[1.5, -2.0, 0.0]], ml_dtypes.bfloat16)
    else:
        given = np.array([[0, 1, 1]]).astype(triton_to_np_dtype(datatype))
    tensor = triton.InferInput(name, list(given.shape), datatype)
    tensor.set_data_from_numpy(given)
    # No outputs are named: the client asks for all of them as binary data.
    answer = client.infer(f"echo-{datatype.lower()}", [tensor], request_id="7")
    told = answer.as_numpy(echo)
    same = told.tolist() == given.tolist() and answer.get_response()["id"] == "7"
    found[datatype] = bool(same)

x = triton.InferInput("x", [1, 4], "FP32")
x.set_data_from_numpy(np.array([[1, 2, 3, 4]], np.float32), binary_data=False)
for packing in ("gzip", "deflate"):
    answer = client.infer(
        "layers",
        [x],
        outputs=[triton.InferRequestedOutput("y", binary_data=packing == "gzip")],
        request_compression_algorithm=packing,
        response_compression_algorithm=packing,
    )
    found[packing] = answer.as_numpy("y").tolist()
found["async"] = client.async_infer("layers", [x]).get_result().as_numpy("y").tolist()


def refused(name: str, ask: Callable[[], object]) -> None:
    try:
        ask()
    except InferenceServerException as error:
        found[name] = [error.status(), error.message()]


refused("unknown", lambda: client.infer("nobody", [x]))
refused("load refused", lambda: client.load_model("layers"))
refused("load failed", lambda: client.load_model("nobody", headers=admin))
refused(
    "load with files",
    lambda: client.load_model("layers", headers=admin, config="{}", files={"file:1/a": b"x"}),
)
client.unload_model("echo-bool", headers=admin)
found["unloaded"] = client.is_model_ready("echo-bool")
client.load_model("echo-bool", headers=admin)
found["loaded"] = client.is_model_ready("echo-bool")
sys.stdout.write(json.dumps(found))
