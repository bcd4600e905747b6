"""From a task as the user wrote it to what is sent: images read, work fingerprinted. Nothing leaves yet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import DEFAULT_WORKFLOW_URL, Credentials
from ..errors import InvalidTaskError, MissingKeyError, NoMinerError
from ..fingerprint import duration_kind, fingerprint
from ..media.inputs import PreparedImage, is_remote, prepare_image
from ..tasks import WorkflowTask


@dataclass(frozen=True)
class PreparedTask:
    """A task ready to be sent.

    Attributes:
        parameters: All parameters; those in ``images`` still stand for what the user gave.
        images: The local images among the parameters, encoded.
    """

    task: WorkflowTask
    credentials: Credentials
    job_id: str
    parameters: Mapping[str, Any]
    images: Mapping[str, PreparedImage]
    fingerprint: str
    kind: str


def credentials_of(task: WorkflowTask, default: Credentials | None) -> Credentials:
    """Who pays for this task.

    Raises:
        MissingKeyError: Neither the task nor the client has a key.
    """
    credentials = task.own_credentials(default)
    if credentials is None:
        raise MissingKeyError(
            "No API key is set",
            next_step="Set XALORA_API_KEY (or put it into a .env file), or run against a devnet.",
        )
    return credentials


async def prepare(task: WorkflowTask, default: Credentials | None, sequencer_url: str) -> PreparedTask:
    """Read and encode the task's images (off the event loop) and name the work.

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
    credentials = credentials_of(task, default)
    parameters = task.parameters()
    given_images = task.image_parameters()
    _check_json({name: value for name, value in parameters.items() if name not in given_images})
    images: dict[str, PreparedImage] = {}
    digests: dict[str, str] = {}
    for name, image in given_images.items():
        if is_remote(image):
            digests[name] = str(image)
        else:
            images[name] = await asyncio.to_thread(prepare_image, image)
            digests[name] = images[name].pixel_digest
    return PreparedTask(
        task=task,
        credentials=credentials,
        job_id=task.new_job_id(),
        parameters=parameters,
        images=images,
        fingerprint=fingerprint(
            sequencer_url=sequencer_url,
            consumer_id=credentials.consumer_id,
            task_type=task.kind_of_task,
            workflow_id=task.workflow_id,
            parameters=parameters,
            image_digests=digests,
        ),
        kind=duration_kind(
            task_type=task.kind_of_task,
            workflow_id=task.workflow_id,
            parameters=parameters,
            pixels=sum(image.width * image.height for image in images.values()) or None,
        ),
    )


def _check_json(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidTaskError(
                f"Parameter {name} can't be sent, since JSON has no form for it ({error})",
                next_step="Give it as a text, a finite number, true or false, or a list or dict of these.",
            ) from None
