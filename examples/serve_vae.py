"""Serves an exported VAE with TensorFlow alone: neither TFP nor tfp_vae is imported.

    python examples/train_vae.py
    echo '{"signature_name": "generate", "inputs": {"n": 2, "seed": 1}}' \
        | python examples/serve_vae.py output/digits/served
    python examples/serve_vae.py output/digits/served --port 8501

The second command answers one request, the third those over HTTP. Requests
and answers are those of TensorFlow Serving's REST API in column format,
https://www.tensorflow.org/tfx/serving/api_rest, so that its server can take the place
of this script.
"""

import argparse
import http.server
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf


def main(argv: Sequence[str] | None = None) -> None:
    """Loads the model and answers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("served", help="directory that VAE.export wrote")
    port = "port to listen on; by default one request is read from the standard input"
    parser.add_argument("--port", type=int, help=port)
    args = parser.parse_args(argv)
    model = tf.saved_model.load(args.served)
    if args.port is None:
        print(json.dumps(answer(model, json.load(sys.stdin))))
        return
    server = make_server(model, args.port)
    host, bound = server.server_address[:2]
    print(f"POST to http://{host!s}:{bound}/v1/models/vae:predict", flush=True)
    server.serve_forever()


def answer(model: Any, request: Any) -> dict[str, Any]:
    """Calls the signature that a request names.

    Args:
        model: The loaded SavedModel.
        request: A dictionary with `inputs`, which maps names to nested lists, and
            `signature_name`, by default `"serving_default"`.

    Returns:
        `{"outputs": ...}`: nested lists, or a dictionary from names to them if there
        are several; `{"error": ...}` if the request cannot be answered.
    """
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), dict):
        return {"error": "a request expects `inputs`, an object of arrays by name"}
    name = request.get("signature_name", "serving_default")
    if name not in model.signatures:
        return {"error": f"no signature {name!r}; there are {sorted(model.signatures)}"}
    signature = model.signatures[name]
    specs = signature.structured_input_signature[1]
    inputs = request["inputs"]
    if set(inputs) != set(specs):
        return {"error": f"{name!r} expects the inputs {sorted(specs)}"}
    try:
        tensors = {
            key: tf.constant(value, specs[key].dtype) for key, value in inputs.items()
        }
        for key, tensor in tensors.items():
            if not specs[key].shape.is_compatible_with(tensor.shape):
                expected = specs[key].shape.as_list()
                found = f"{key} of shape {expected}, not {tensor.shape.as_list()}"
                return {"error": f"{name!r} expects {found}"}
        outputs = signature(**tensors)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        return {"error": str(error)}
    lists = {key: value.numpy().tolist() for key, value in outputs.items()}
    return {"outputs": lists if len(lists) > 1 else next(iter(lists.values()))}


def make_server(model: Any, port: int) -> http.server.HTTPServer:
    """An HTTP server on this machine alone that answers with the model.

    Args:
        model: The loaded SavedModel.
        port: Port to listen on; 0 for any free port.

    Returns:
        The server, not yet running.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name that the base class requires
            length = int(self.headers.get("Content-Length", 0))
            try:
                found = answer(model, json.loads(self.rfile.read(length)))
            except json.JSONDecodeError as error:
                found = {"error": f"the request is no JSON: {error}"}
            body = json.dumps(found).encode()
            self.send_response(400 if "error" in found else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

    return http.server.HTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    main()
