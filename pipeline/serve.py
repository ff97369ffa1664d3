"""``ui`` and ``serve``: check that MLflow's own programs can work, then start them."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipeline.tracking.trouble import explain
from pipeline.workspace import dvc_root, on_stop
from semimae.files import write_text
from semimae.types import UserError

_HERE = "127.0.0.1"  # there is no authentication, so only this machine is served
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


def ui(port: Port = 5000) -> None:
    """Show the runs in MLflow's web UI until Ctrl-C.

    If MLFLOW_TRACKING_URI is a server, print its address instead, since it has a UI of its own.

    Example: python -m pipeline ui --port 5005
    """
    from pipeline.tracking.address import address_of, ui_record
    from pipeline.tracking.store import open_store

    address, runs = address_of(dvc_root()), "#/experiments?workflowType=machine_learning"
    if address.is_server:
        typer.echo(f"Runs: {address.pages}/{runs}")
        return
    _require_free(port)
    try:
        open_store(dvc_root())
    except Exception as error:
        raise UserError(f"MLflow: {explain(error, 'try again later')}") from None
    pages = f"http://{_HERE}:{port}"
    write_text(ui_record(dvc_root()), pages)  # where the links of the next report lead
    typer.echo(f"Runs: {pages}/{runs}")
    _run_mlflow("ui", "--backend-store-uri", address.uri, "--host", _HERE, "--port", str(port))


def serve(
    model: Annotated[
        str | None, typer.Option(help="A registered model. Default: this project's model.")
    ] = None,
    port: Port = 5001,
) -> None:
    """Serve the headline model on this machine until Ctrl-C.

    Send images to POST /invocations.

    Example: python -m pipeline serve --port 5005
    """
    from pipeline.tracking.model import served_model

    try:
        uri, address = served_model(dvc_root(), model or None)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"MLflow: {explain(error, 'try again later')}") from None
    _require_free(port)
    os.environ["MLFLOW_TRACKING_URI"] = address.uri
    os.environ["MLFLOW_REGISTRY_URI"] = address.registry
    local = ("--env-manager", "local", "--host", _HERE, "--port", str(port))
    _run_mlflow("models", "serve", "--model-uri", uri, *local)


def _require_free(port: int) -> None:
    """Refuse a port that another program uses."""
    with socket.socket() as probe:
        # A program that has just ended may still hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HERE, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "another program is using it" if taken else error.strerror
            raise UserError(
                f"port {port} cannot be used ({reason}); choose another one, such as {port + 1}."
            ) from None


def _run_mlflow(*arguments: str) -> NoReturn:
    """Run MLflow until it ends or this process is asked to stop, and exit with its code."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *arguments],
        env={**os.environ, "PATH": path},  # MLflow starts other programs of this environment
        process_group=0,  # this process passes Ctrl-C on, once
    )
    with on_stop(lambda number, _: os.killpg(process.pid, number)):
        raise typer.Exit(process.wait())
