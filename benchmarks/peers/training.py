"""Trains a peer: batches, initial weights, and a loop that survives a kill."""

import argparse
import copy
import io
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

import datasets
import reproduction
import resuming

# The checks of arguments and values take longer than small networks.
torch.distributions.Distribution.set_default_validate_args(False)


def load(name: str, args: argparse.Namespace) -> datasets.Images:
    """Loads all images of a data set from the data directory.

    Args:
        name: Name of the data set.
        args: The command line.

    Returns:
        The images.

    Raises:
        ValueError: If no data directory is given: Keras, which would download the
            images, loads TensorFlow.
    """
    if args.data_dir is None and datasets.VARIABLE not in os.environ:
        raise ValueError(
            "A peer expects a directory of data. Received: none, and "
            f"{datasets.VARIABLE} is not set. Give --data-dir PATH."
        )
    return datasets.load(name, args.data_dir, args.seed)


def flat(images: Any) -> torch.Tensor:
    """Images as rows of float32."""
    return torch.from_numpy(np.asarray(images, "float32")).flatten(1)


def grey(images: datasets.Images) -> torch.Tensor:
    """The training images as probabilities of white."""
    return flat(images.train) / (images.levels - 1)


def observed(levels: int, seed: int, *parts: np.ndarray) -> list[torch.Tensor]:
    """Images with the very pixels that the example draws.

    Args:
        levels: Number of grey levels.
        seed: Seed of the run.
        *parts: The test images, and those for validation.

    Returns:
        Rows of zeros and ones, for each part.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "images.npz")
        np.savez(path, *parts, levels=levels, seed=seed)
        command = [sys.executable, "-m", "benchmarks.peers.draw", str(path)]
        subprocess.run(command, cwd=reproduction.ROOT, check=True)
        with np.load(path) as drawn:
            return [flat(drawn[f"arr_{number}"]) for number in range(len(parts))]


def adam(model: nn.Module, rate: float, eps: float = 1e-7) -> torch.optim.Adam:
    """PyTorch's Adam with the epsilon of Keras, which is added at another place.

    Keras divides by the root of the second moment before its correction for the first
    steps, plus epsilon: it has eps / sqrt(1 - 0.999^t) where PyTorch has eps.

    Args:
        model: The network.
        rate: The learning rate.
        eps: Epsilon.

    Returns:
        The optimizer.
    """
    weights = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(weights, rate, fused=True)

    def correct(*_: Any) -> None:
        state = optimizer.state.get(weights[0])
        step = 1 + (int(state["step"]) if state else 0)
        (group,) = optimizer.param_groups
        group["eps"] = eps / math.sqrt(1 - group["betas"][1] ** step)

    optimizer.register_step_pre_hook(correct)
    return optimizer


def glorot(module: nn.Module) -> None:
    """Starts a network as Keras does.

    Kernels have Glorot's uniform law, recurrent ones are orthogonal, and biases are
    zero but those of forget gates, which are one. One of the two biases of a recurrent
    layer is not trained.

    Args:
        module: The network.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.RNNBase):
            for name, value in part.named_parameters():
                if name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(value)
                elif name.startswith("weight_hh"):
                    nn.init.orthogonal_(value)
                else:
                    nn.init.zeros_(value)
                if name.startswith("bias_hh"):  # Keras has one bias.
                    value.requires_grad_(False)
                if name.startswith("bias_ih") and isinstance(part, nn.LSTM):
                    nn.init.ones_(value[part.hidden_size : 2 * part.hidden_size])


def shuffled(x: torch.Tensor, size: int, binarize: bool = False) -> Any:
    """A function whose calls go over the rows in a new order.

    Args:
        x: Images, or the probabilities of their pixels.
        size: Length of a batch.
        binarize: Whether to draw the pixels in each batch.

    Returns:
        A function without arguments that returns an iterator.
    """

    def batches() -> Iterable[torch.Tensor]:
        for rows in torch.randperm(len(x)).split(size):
            yield torch.bernoulli(x[rows]) if binarize else x[rows]

    return batches


def fit(
    model: nn.Module,
    loss: Callable[[Any, int], torch.Tensor],
    batches: Callable[[], Iterable[Any]],
    optimizer: torch.optim.Optimizer,
    epochs: int,
    progress: resuming.Progress,
    name: str = reproduction.TRAINING,
    *,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    validate: Callable[[], float] | None = None,
    start: int = 0,
    patience: int | None = None,
) -> None:
    """Trains, from where an earlier run was killed.

    Args:
        model: The parameters.
        loss: Function from a batch and the number of the step to the mean loss.
        batches: Function that returns the batches of an epoch.
        optimizer: The optimizer of the parameters.
        epochs: How many.
        progress: What an earlier run has done.
        name: Name of the training.
        scheduler: A schedule of the rate in steps.
        validate: Function without arguments: the loss that chooses the epoch whose
            weights are kept; by default the last.
        start: The first epoch that may be chosen.
        patience: After how many epochs without gain training stops; `None` for never.
    """
    path = progress.checkpoint(name, "pt")
    best, kept, waited, done, step = math.inf, None, 0, 0, 0
    if path is not None and path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if scheduler is not None:
            scheduler.load_state_dict(state["scheduler"])
        best, kept, waited, done, step = state["progress"]
    if patience is not None and waited >= patience:
        epochs = done  # Killed after the last checkpoint, before that was recorded.
    epochs = progress.begin_training(name, epochs, done)
    for epoch in range(done, epochs):
        progress.begin_epoch()
        losses = []
        for batch in batches():
            optimizer.zero_grad(set_to_none=True)
            value = loss(batch, step)
            value.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(value.detach())
            step += 1
        line = f"epoch {epoch + 1} of {epochs}, loss {torch.stack(losses).mean():.3f}"
        if validate is not None:
            with torch.no_grad():
                found = validate()
            line += f", validation {found:.3f}"
            if epoch >= start:
                waited += 1
                if found < best:
                    best, kept, waited = found, copy.deepcopy(model.state_dict()), 0
        print(line, flush=True)
        if path is not None:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "scheduler": None if scheduler is None else scheduler.state_dict(),
                "progress": (best, kept, waited, epoch + 1, step),
            }
            content = io.BytesIO()
            torch.save(state, content)
            resuming.replace(path, content.getvalue())
        is_last = patience is not None and waited >= patience
        progress.end_epoch(name, epoch + 1, epochs, is_last)
        if is_last:
            break
    if kept is not None:
        model.load_state_dict(kept)
