"""Drives a node with an outside client of the Open Inference Protocol, by HTTP and by gRPC.

Called with the two addresses; reads {"features": [[...]], "sequence": [[[...]]], "versions": {model: version}} from
standard input and prints, for each model and way, the values that came back. A wrong answer ends it with an error.
"""

import json
import sys

import numpy as np
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException


def main() -> None:
    given = json.load(sys.stdin)
    inputs = {name: np.array(given[name], dtype=np.float32) for name in ("features", "sequence")}
    clients = {"http": http.InferenceServerClient(sys.argv[1]), "grpc": grpc.InferenceServerClient(sys.argv[2])}
    values: dict[str, dict[str, list[float]]] = {}
    for way, client in clients.items():
        library = {"http": http, "grpc": grpc}[way]
        assert client.is_server_live() and client.is_server_ready()
        server = client.get_server_metadata()
        assert field(server, "name") == "footfall"
        assert "binary_tensor_data" in field(server, "extensions")
        for model, version in given["versions"].items():
            assert client.is_model_ready(model) and client.is_model_ready(model, version)
            assert not client.is_model_ready(model, "99")
            metadata = client.get_model_metadata(model, version)
            assert field(metadata, "name") == model and list(field(metadata, "versions")) == [version]
            [tensor], [output] = field(metadata, "inputs"), field(metadata, "outputs")
            name, rows = field(tensor, "name"), inputs[field(tensor, "name")]
            shape = [int(n) for n in field(tensor, "shape")]
            assert shape == [-1, *rows.shape[1:]], shape
            for binary in (True, False) if way == "http" else (True,):
                x = library.InferInput(name, list(rows.shape), field(tensor, "datatype"))
                y = library.InferRequestedOutput(field(output, "name"))
                if way == "http":
                    x.set_data_from_numpy(rows, binary_data=binary)
                    y = http.InferRequestedOutput(field(output, "name"), binary_data=binary)
                else:
                    x.set_data_from_numpy(rows)
                result = client.infer(model, [x], model_version=version if binary else "", outputs=[y], request_id="42")
                response = result.get_response()
                assert field(response, "id") == "42" and field(response, "model_version") == version
                answer = result.as_numpy(field(output, "name"))
                assert answer.shape == (len(rows), 1), answer.shape
                key = f"{way}{'' if binary else ' json'}"
                values.setdefault(model, {})[key] = [float(v) for v in answer[:, 0]]
        refused(client, library, inputs["features"])
        client.close()
    json.dump(values, sys.stdout)


def refused(client, library, rows: np.ndarray) -> None:
    """Checks that what is wrong is said, as the client's own error."""
    for model, shape, text in (
        ("gpt", [1, 10], 'no model "gpt" serves'),
        ("churn_risk", [2, 5], "inputs[0].shape: is [2 5], and features of churn_risk is [-1 10]"),
        ("churn_risk", [1, 10], "inputs[0].name"),
    ):
        x = library.InferInput("wrong" if text == "inputs[0].name" else "features", shape, "FP32")
        x.set_data_from_numpy(rows[:1].reshape(shape))
        try:
            client.infer(model, [x])
        except InferenceServerException as e:
            assert text in e.message(), e.message()
        else:
            raise AssertionError(f"{model} {shape} was taken")


def field(answer, name: str):
    """One field of an answer: a dict by HTTP, a message by gRPC."""
    return answer[name] if isinstance(answer, dict) else getattr(answer, name)


if __name__ == "__main__":
    main()
