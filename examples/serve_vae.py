"""Serves an exported VAE with TensorFlow alone: neither TFP nor tfp_vae is imported.

    python examples/train_vae.py
    echo '{"signature_name": "generate", "inputs": {"n": 2, "seed": 1}}' \
        | python examples/serve_vae.py output/digits/served
    python examples/serve_vae.py output/digits/served --port 8501

The second command answers one request, the third answers requests over HTTP:

    curl http://127.0.0.1:8501/v1/models/vae
    curl http://127.0.0.1:8501/v1/models/vae/metadata
    curl -d '{"signature_name": "generate", "inputs": {"n": 2, "seed": 1}}' \
        http://127.0.0.1:8501/v1/models/vae:predict

Requests and answers are those of TensorFlow Serving's REST API, in row and in column
format, https://www.tensorflow.org/tfx/serving/api_rest, so that its server can take the
place of this script. SIGTERM and Ctrl-C end the server, after it has answered the
requests that it has begun.
"""

import argparse
import contextlib
import http
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

VERSION = "1"
STATUS = {
    "model_version_status": [
        {
            "version": VERSION,
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
    ]
}
# Arguments of endpoints that are numbers of draws.
DRAWS = ("n", "num_samples")


class Refused(Exception):
    """A request that cannot be answered.

    Args:
        message: What is wrong with it.
        status: The HTTP status.
    """

    def __init__(
        self, message: str, status: http.HTTPStatus = http.HTTPStatus.BAD_REQUEST
    ) -> None:
        super().__init__(message)
        self.status = status


def main(argv: Sequence[str] | None = None) -> None:
    """Loads the model and answers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("served", help="directory that VAE.export wrote")
    port = "port to listen on; by default one request is read from the standard input"
    parser.add_argument("--port", type=int, help=port)
    parser.add_argument("--name", default="vae", help="name of the model in URLs")
    draws = "largest n and num_samples of a request, default 10000"
    parser.add_argument("--max-draws", type=int, default=10_000, help=draws)
    body = "largest body of a request in bytes, default 64 MiB"
    parser.add_argument("--max-bytes", type=int, default=2**26, help=body)
    seconds = "seconds to wait for a slow client, default 30"
    parser.add_argument("--timeout", type=float, default=30.0, help=seconds)
    args = parser.parse_args(argv)
    if args.port is None:
        model = tf.saved_model.load(args.served)
        try:
            print(json.dumps(predict(model, json.load(sys.stdin), args.max_draws)))
        except (Refused, json.JSONDecodeError) as error:
            print(json.dumps({"error": str(error)}))
        return
    server = Server(
        args.served,
        args.port,
        name=args.name,
        max_draws=args.max_draws,
        max_bytes=args.max_bytes,
        timeout=args.timeout,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # In a thread: `shutdown` waits for the loop that the signal has interrupted.
        signal.signal(
            number, lambda *_: threading.Thread(target=server.shutdown).start()
        )
    host, bound = server.server_address[:2]
    print(f"POST to http://{host!s}:{bound}/v1/models/{args.name}:predict", flush=True)
    server.serve_forever()
    server.server_close()


def predict(model: Any, request: Any, max_draws: int | None = None) -> dict[str, Any]:
    """Calls the signature that a request names.

    Args:
        model: The loaded SavedModel.
        request: A dictionary with `inputs` or `instances`, and `signature_name`, by
            default `"serving_default"`.
        max_draws: The largest `n` and `num_samples`.

    Returns:
        `{"outputs": ...}` for `inputs`, `{"predictions": ...}` for `instances`.

    Raises:
        Refused: If the request cannot be answered.
    """
    if not isinstance(request, dict):
        raise Refused("a request expects a JSON object")
    given = {"inputs", "instances"} & set(request)
    if len(given) != 1:
        raise Refused("a request expects either `inputs` or `instances`")
    name = request.get("signature_name", "serving_default")
    if not isinstance(name, str) or name not in model.signatures:
        raise Refused(f"no signature {name!r}; there are {sorted(model.signatures)}")
    signature = model.signatures[name]
    specs = signature.structured_input_signature[1]
    in_rows = given == {"instances"}
    columns = (_columns if in_rows else _named)(request[given.pop()], sorted(specs))
    if set(columns) != set(specs):
        raise Refused(f"{name!r} expects the inputs {sorted(specs)}")
    tensors = {key: _tensor(columns[key], specs[key], key) for key in specs}
    for key in set(DRAWS) & set(tensors):
        if max_draws is not None and int(tensors[key]) > max_draws:
            raise Refused(f"`{key}` expects at most {max_draws} draws")
    try:
        outputs = signature(**tensors)
    except tf.errors.InvalidArgumentError as error:
        raise Refused(_reason(error)) from error
    except tf.errors.ResourceExhaustedError as error:
        status = http.HTTPStatus.INSUFFICIENT_STORAGE
        raise Refused(
            "the answer does not fit in the memory: ask for fewer rows or draws", status
        ) from error
    lists = {key: value.numpy().tolist() for key, value in outputs.items()}
    only = next(iter(lists.values())) if len(lists) == 1 else None
    if not in_rows:
        return {"outputs": lists if only is None else only}
    lengths = {len(v) if isinstance(v, list) else None for v in lists.values()}
    if len(lengths) != 1 or None in lengths:
        raise Refused(f"{name!r} does not answer in rows: use `inputs`")
    if only is not None:
        return {"predictions": only}
    rows = zip(*lists.values(), strict=True)
    return {"predictions": [dict(zip(lists, row, strict=True)) for row in rows]}


def _reason(error: tf.errors.OpError) -> str:
    """What an operation of the model said, without the place in the graph."""
    said = re.search(r"assertion failed: \[([^\]]*)\]", error.message)
    lines = filter(
        None, error.message.removeprefix("Graph execution error:").split("\n")
    )
    return said[1] if said else next(lines, type(error).__name__)


def _named(inputs: Any, names: list[str]) -> dict[str, Any]:
    """The inputs by name; a single input needs none."""
    if isinstance(inputs, dict):
        return inputs
    if len(names) != 1:
        raise Refused(f"`inputs` expects an object with {names}")
    return {names[0]: inputs}


def _columns(instances: Any, names: list[str]) -> dict[str, Any]:
    """Rows of inputs, by name where there are several, as columns."""
    if not isinstance(instances, list) or not instances:
        raise Refused("`instances` expects a list of at least one row")
    if not any(isinstance(row, dict) for row in instances):
        return _named(instances, names)
    if not all(isinstance(row, dict) and set(row) == set(names) for row in instances):
        raise Refused(f"each row of `instances` expects an object with {names}")
    return {name: [row[name] for row in instances] for name in names}


def _tensor(value: Any, spec: tf.TensorSpec, name: str) -> tf.Tensor:
    """The tensor of an input."""
    shape, dtype = spec.shape.as_list(), spec.dtype
    wanted = f"`{name}` expects numbers of dtype {dtype.name} and shape {shape}"
    try:
        # TensorFlow would wrap an integer that is too large.
        array = np.asarray(value)
        if dtype.is_integer and np.any((array < dtype.min) | (array > dtype.max)):
            raise Refused(f"{wanted}, from {dtype.min} to {dtype.max}")
        tensor = tf.constant(value, dtype)
    except (OverflowError, TypeError, ValueError, tf.errors.OpError) as error:
        raise Refused(f"{wanted}: {str(error)[:200]}") from error
    if not spec.shape.is_compatible_with(tensor.shape):
        found = tensor.shape.as_list()
        raise Refused(f"`{name}` expects the shape {shape}, not {found}")
    return tensor


def metadata(served: str, name: str) -> dict[str, Any]:
    """The signatures of a model, as TensorFlow Serving describes them.

    Args:
        served: Directory of the SavedModel.
        name: Name of the model.

    Returns:
        A `GetModelMetadataResponse` as a dictionary for JSON.
    """
    content = pathlib.Path(served, "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0]
    signatures = {
        key: json_format.MessageToDict(
            signature,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for key, signature in graph.signature_def.items()
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": VERSION},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


class Server(http.server.ThreadingHTTPServer):
    """An HTTP server that answers requests from this machine with a model.

    Args:
        served: Directory of the SavedModel.
        port: Port to listen on; 0 for any free port.
        name: Name of the model in URLs.
        max_draws: The largest `n` and `num_samples` of a request.
        max_bytes: The largest body of a request, in bytes.
        timeout: Seconds to wait for a slow client.
    """

    # `server_close` waits for the requests that have begun.
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(
        self,
        served: str,
        port: int,
        name: str = "vae",
        max_draws: int | None = 10_000,
        max_bytes: int = 2**26,
        timeout: float = 30.0,
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.model, self.served = tf.saved_model.load(served), served
        self.name = name
        self.max_draws, self.max_bytes = max_draws, max_bytes
        self.client_timeout = timeout
        self.closing = False
        self.idle: set[socket.socket] = set()
        self.lock = threading.Lock()

    def shutdown(self) -> None:
        """Ends `serve_forever`, and connections that wait for a request."""
        with self.lock:
            self.closing = True
            for connection in self.idle:
                with contextlib.suppress(OSError):  # The client has gone away.
                    connection.shutdown(socket.SHUT_RD)
        super().shutdown()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keeps quiet about clients that have gone away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of a connection."""

    protocol_version = "HTTP/1.1"
    server: Server
    # Else the kernel delays the last packet of an answer.
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """Sets how long to wait for the client."""
        super().setup()
        self.connection.settimeout(self.server.client_timeout)

    def handle_one_request(self) -> None:
        """Answers a request; until it comes, `shutdown` may close the connection."""
        with self.server.lock:
            if self.server.closing:
                self.close_connection = True
                return
            self.server.idle.add(self.connection)
        try:
            super().handle_one_request()
        finally:
            self._mark_busy()

    def parse_request(self) -> bool:
        """Parses the headers; from here on `shutdown` lets the request finish."""
        is_valid = super().parse_request()
        self._mark_busy()
        return is_valid

    def do_GET(self) -> None:
        """Answers with the status or the metadata of the model."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Answers a prediction."""
        self._answer(self._post)

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Sends errors of HTTP itself as JSON, too."""
        self.close_connection = True
        self._send(code, {"error": message or http.HTTPStatus(code).phrase})

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""

    def _mark_busy(self) -> None:
        with self.server.lock:
            self.server.idle.discard(self.connection)

    def _get(self) -> dict[str, Any]:
        if self.headers.get("Content-Length", "0") != "0":
            self.close_connection = True  # The body is not read.
        rest = self._rest()
        if rest == "/metadata":
            return metadata(self.server.served, self.server.name)
        if rest:
            raise Refused(f"Malformed request: GET {self.path}")
        return STATUS

    def _post(self) -> dict[str, Any]:
        text = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]+", text):
            self.close_connection = True
            status = http.HTTPStatus.LENGTH_REQUIRED
            raise Refused("a request expects a Content-Length", status)
        if int(text) > self.server.max_bytes:
            # A client reads the answer only after it has sent its body.
            for _ in self._parts(int(text)):
                pass
            status = http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            raise Refused(f"a body has at most {self.server.max_bytes} bytes", status)
        body = b"".join(self._parts(int(text)))
        if self._rest() != ":predict":
            raise Refused(f"Malformed request: POST {self.path}")
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused(f"JSON Parse error: {error}") from error
        return predict(self.server.model, request, self.server.max_draws)

    def _parts(self, length: int) -> Iterator[bytes]:
        """The body of a request, from a client that may be slow or go away."""
        end = time.monotonic() + self.server.client_timeout
        while length:
            part = self.rfile.read1(min(length, 2**16))
            if not part:
                raise ConnectionAbortedError
            if time.monotonic() > end:
                raise TimeoutError
            yield part
            length -= len(part)

    def _rest(self) -> str:
        """What follows the name and the version of the model in the path."""
        found = re.fullmatch(
            r"/v1/models/([^/:]+)(?:/versions/(\d+))?(/metadata|:\w+)?", self.path
        )
        if found is None:
            raise Refused(f"Malformed request: {self.command} {self.path}")
        name, version, rest = found.groups()
        if name != self.server.name or version not in (None, VERSION):
            which = f"Specific({name}, {version})" if version else f"Latest({name})"
            message = f"Servable not found for request: {which}"
            raise Refused(message, http.HTTPStatus.NOT_FOUND)
        return rest or ""

    def _answer(self, make: Any) -> None:
        try:
            found, status = make(), http.HTTPStatus.OK
        except Refused as error:
            found, status = {"error": str(error)}, error.status
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
            status = http.HTTPStatus.INTERNAL_SERVER_ERROR
        self._send(status, found)

    def _send(self, status: int, found: dict[str, Any]) -> None:
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection or self.server.closing:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    main()
