"""From a task as the user wrote it to what is sent: images read, work fingerprinted. Nothing leaves yet."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..concurrency import DaemonThreads
from ..config import DEFAULT_WORKFLOW_URL, Credentials, names_host, no_key
from ..errors import InputImageError, InvalidTaskError, NoMinerError
from ..journal import Work
from ..journal.records import INPUTS, without_queries
from ..media.inputs import PreparedImage, is_remote, prepare_image
from ..tasks import WorkflowTask

PLACE_SECONDS = 5.0
"""How long an image that is slow to read keeps its place among those that are prepared."""

_threads = DaemonThreads("xalora-images", 32)


@dataclass(frozen=True)
class PreparedTask:
    """A task ready to be sent.

    Attributes:
        parameters: All parameters; those in ``images`` still stand for what the user gave.
        images: The local images among the parameters, encoded.
        more_details: What a class's own ``task_details`` have beside the parameters.
    """

    task: WorkflowTask
    credentials: Credentials
    job_id: str
    parameters: Mapping[str, Any]
    images: Mapping[str, PreparedImage]
    fingerprint: str
    kind: str
    more_details: Mapping[str, Any] = field(default_factory=dict)


def credentials_of(task: WorkflowTask, default: Credentials | None, sequencer_url: str) -> Credentials:
    """Who pays for this task.

    Raises:
        MissingKeyError: Neither the task nor the client has a key.
    """
    credentials = task.own_credentials(default)
    if credentials is None:
        raise no_key(sequencer_url)
    return credentials


class Preparation:
    """Prepares tasks, as many at once as half the cores: the first task of a batch is not sent with its last.

    Images are read on threads that nothing else uses, and one on a disk that hangs gives up its place after
    a while: it holds up neither a cancel nor the other images.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))

    async def prepare(
        self, task: WorkflowTask, default: Credentials | None, sequencer_url: str
    ) -> PreparedTask:
        """See :func:`prepare`."""
        async with self._places:
            preparing = asyncio.ensure_future(prepare(task, default, sequencer_url))
            try:
                await asyncio.wait({preparing}, timeout=PLACE_SECONDS)
            except asyncio.CancelledError:
                preparing.cancel()
                raise
        return await preparing


async def prepare(task: WorkflowTask, default: Credentials | None, sequencer_url: str) -> PreparedTask:
    """Read and encode the task's images, on threads of their own, and name the work.

    Raises:
        MissingKeyError: There is no key to pay with.
        NoMinerError: The workflow has no id on the hosted network.
        InvalidTaskError: A parameter has no JSON form.
        InputImageError: An image can't be read.
    """
    if sequencer_url == DEFAULT_WORKFLOW_URL and not task.is_hosted:
        raise NoMinerError(
            f"The hosted network does not know the workflow {task.workflow_id}",
            next_step="Run it on this machine (--engine comfyui), or on miners of your own.",
        )
    credentials = credentials_of(task, default, sequencer_url)
    details = task.details()
    parameters = details.pop("parameters")
    given_images = task.images_among(parameters)
    others = {name: value for name, value in parameters.items() if name not in given_images}
    _check_json(
        {**others, **details, "workflow_id": task.workflow_id, "consumer_id": credentials.consumer_id}
    )
    images: dict[str, PreparedImage] = {}
    digests: dict[str, str] = {}
    for name, image in given_images.items():
        if is_remote(image):
            _check_json({name: image})
            if str(image)[:5].lower() != "data:" and not names_host(str(image)):
                raise InputImageError(
                    f"Parameter {name}: the image's URL has no host, or no valid port",
                    next_step="Correct the URL.",
                )
            digests[name] = str(image)
        else:
            preparing = asyncio.get_running_loop().run_in_executor(_threads, prepare_image, image)
            try:
                images[name] = await preparing
            except InputImageError as error:
                # Of several inputs, the user must learn which.
                error.what = f"Parameter {name}: {error.what[:1].lower()}{error.what[1:]}"
                raise
            digests[name] = images[name].pixel_digest
    return PreparedTask(
        task=task,
        credentials=credentials,
        job_id=task.new_job_id(),
        parameters=parameters,
        images=images,
        fingerprint=_fingerprint_of(task, credentials, sequencer_url, parameters, details, digests),
        kind=duration_kind(
            task_type=task.kind_of_task,
            workflow_id=task.workflow_id,
            parameters=parameters,
            pixels=sum(image.width * image.height for image in images.values()) or None,
        ),
        more_details=details,
    )


def fingerprint_with(
    task: WorkflowTask, credentials: Credentials, sequencer_url: str, image_digests: Mapping[str, str]
) -> str:
    """The fingerprint that :func:`prepare` gives the task where its images have these pixel digests."""
    details = task.details()
    parameters = details.pop("parameters")
    return _fingerprint_of(task, credentials, sequencer_url, parameters, details, image_digests)


def _fingerprint_of(
    task: WorkflowTask,
    credentials: Credentials,
    sequencer_url: str,
    parameters: Mapping[str, Any],
    details: Mapping[str, Any],
    digests: Mapping[str, str],
) -> str:
    return fingerprint(
        sequencer_url=sequencer_url,
        consumer_id=credentials.consumer_id,
        task_type=task.kind_of_task,
        workflow_id=task.workflow_id,
        parameters=parameters,
        image_digests=digests,
        recipe=task.recipe,
        more_details=details,
    )


def _check_json(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidTaskError(
                f"Parameter {name} holds half a character ({error.object[error.start]!r}) and can't be sent",
                next_step="Enter the text again; a cut-off emoji leaves such a half.",
            ) from None
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidTaskError(
                f"Parameter {name} can't be sent, since JSON has no form for it ({error})",
                next_step="Give it as a text, a finite number, true or false, or a list or dict of these.",
            ) from None


def fingerprint(
    *,
    sequencer_url: str,
    consumer_id: str,
    task_type: str,
    workflow_id: str | None,
    parameters: Mapping[str, Any],
    image_digests: Mapping[str, str],
    recipe: str | None = None,
    more_details: Mapping[str, Any] | None = None,
) -> str:
    """A digest that is equal exactly for the same task asked of the same network by the same consumer.

    Images count by their decoded pixels, not by file name or encoding; the sequencer's URL is part of it, so
    that a devnet's answer can never stand for the hosted network's.

    Args:
        parameters: As sent; images among them are passed over.
        image_digests: For each image parameter, the digest of its pixels, or its URL.
        recipe: A digest of the graph that computes it, where that is known.
        more_details: What is sent beside the parameters.
    """
    work = {
        "sequencer": sequencer_url.rstrip("/"),
        "consumer": consumer_id,
        "type": task_type,
        "workflow": workflow_id,
        "parameters": {name: value for name, value in parameters.items() if name not in image_digests},
        "images": dict(image_digests),
    }
    if recipe is not None:
        work["recipe"] = recipe
    if more_details:
        work["details"] = dict(more_details)
    canonical = json.dumps(work, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def duration_kind(
    *,
    task_type: str,
    workflow_id: str | None,
    parameters: Mapping[str, Any],
    pixels: int | None,
) -> str:
    """The class of tasks that take about as long as this one: type, workflow, size and length.

    Image sizes fall into classes half an octave wide, since two photographs seldom have the very same size.
    """
    parts = [task_type, workflow_id or "-"]
    if pixels:
        parts.append(f"2^{round(2 * math.log2(pixels)) / 2:g}px")
    for name in ("aspect_ratio", "width", "height", "length", "steps"):
        if parameters.get(name) is not None:
            parts.append(f"{name}={parameters[name]}")
    return " ".join(parts)


def work_of(prepared: PreparedTask, sequencer_url: str) -> Work:
    """What a prepared task is to do, for the journal."""
    task = prepared.task
    # No pixels, and no query of an address, which may sign it.
    details = {n: without_queries(v) for n, v in prepared.parameters.items() if n not in prepared.images}
    inputs = [
        os.path.abspath(given)  # noqa: PTH100  # resolve() would follow links
        for name in prepared.images
        if isinstance(given := prepared.parameters[name], (str, os.PathLike))
    ]
    if inputs:
        details[INPUTS] = inputs
    return Work(
        fingerprint=prepared.fingerprint,
        sequencer_url=sequencer_url,
        consumer_id=prepared.credentials.consumer_id,
        task_type=task.kind_of_task,
        workflow_id=task.workflow_id,
        kind=prepared.kind,
        label=task.describe(),
        seeded=task.repeatable,
        own_key=task.api_key is not None,
        details=details,
        whole=task.whole(),
    )
