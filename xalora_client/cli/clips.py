"""``xalora upscale clip.mp4``: clips upscaled one after another, with one bar, resumed where they were."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from ..client import open_journal
from ..config import Settings
from ..errors import JournalError, XaloraError
from ..media.media_types import CLIP_CONTAINERS, sniff_clip, sniff_file
from ..prices import Sent, cost_of, cost_text
from ..results import REMOTE_ENGINE
from ..text import counted, differing, elapsed_text
from .command import with_client
from .destinations import CLIPS, Destination, Output, is_url, plan_for_inputs
from .exit_codes import ExitCode, exit_code_of, most_serious
from .formats import printable, short_path, shortened
from .interrupted import ended_at_once, note_cancels, parts_in_flight, print_parts_left
from .options import RunOptions
from .outputs import check_destinations, check_free, put, remarks_on_name
from .progress import BAR_WIDTH, LABEL_WIDTH
from .screen import Screen, error_fields, stopping_nothing

if TYPE_CHECKING:
    from ..client import AsyncXalora
    from ..journal import Journal
    from ..video.report import UpscaledVideo, VideoProgress

TOLD_SECONDS = 1.0
"""How often ``--jsonl`` tells how far a clip is."""


@dataclass(frozen=True, kw_only=True)
class ClipChoices:
    """What the user chose for clips alone.

    Args:
        max_in_flight: How many tasks at the same time; None for the setting.
        max_tasks: Above so many new tasks nothing is sent.
        same_engine: All frames by what makes the first.
    """

    max_in_flight: int | None = None
    max_tasks: int | None = None
    same_engine: bool = False


@dataclass
class _Clip:
    """A clip, where it goes, and what became of it."""

    source: str
    output: Path
    progress: VideoProgress | None = None
    made: UpscaledVideo | None = None
    error: XaloraError | None = None
    told_at: float = field(default=0.0, repr=False)

    @property
    def name(self) -> str:
        return Path(self.source).name

    def code(self, *, engine_is_named: bool) -> ExitCode:
        if self.error is not None:
            return exit_code_of(self.error)
        if self.made is None:
            return ExitCode.INTERRUPTED
        return ExitCode.DONE_HERE if self.made.made_here and not engine_is_named else ExitCode.DONE

    def document(self) -> dict[str, Any]:
        """What became of it, as JSON."""
        return {
            "input": self.source,
            "output": str(self.made.path if self.made else self.output),
            "status": "failed" if self.error else "interrupted" if self.made is None else "done",
            "frames_written": self.progress.done if self.progress else 0,
            "video": asdict(self.made) if self.made else None,
            "error": error_fields(self.error) if self.error else None,
        }


def clips_among(sources: Sequence[str]) -> list[str]:
    """Those of the inputs that are video files, by their content; a broken one by its suffix."""
    return [source for source in sources if not is_url(source) and _is_clip(Path(source))]


def _is_clip(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        is_broken = path.suffix.lower() in CLIPS and sniff_file(path) is None
        return is_broken or sniff_clip(path) is not None
    except OSError:
        return False


def plan_for_clips(sources: Sequence[str], output: Output) -> list[Destination]:
    """A destination for each clip: beside it as ``NAME.xalora.mp4`` (``.mov``, ``.mkv``), or at ``output``.

    Raises:
        typer.BadParameter: The output is standard output.
    """
    if output.is_stream:
        raise typer.BadParameter("a clip is written to a file, not to standard output", param_hint="-o")
    places = plan_for_inputs(sources, output)
    return [
        place if place.exact else _with_suffix(place, source)
        for source, place in zip(sources, places, strict=True)
    ]


def _with_suffix(place: Destination, source: str) -> Destination:
    suffix = Path(source).suffix.lower()
    kept = suffix if suffix in CLIP_CONTAINERS else ".mp4"
    return replace(place, path=place.path.with_name(place.path.name + kept), exact=True)


def do_clips(
    screen: Screen,
    settings: Settings,
    planned: Sequence[tuple[str, Destination]],
    options: RunOptions,
    choices: ClipChoices,
    *,
    skipped: Sequence[str] = (),
) -> ExitCode:
    """Upscale clips, one after another; with ``--dry-run`` say how many tasks they need.

    Args:
        skipped: Inputs without a job, for the JSON document.

    Raises:
        MissingKeyError: The network is to be asked, and no key is set.
        OutputExistsError: A result would replace a file, and ``force`` is not set.
        ConfigurationError: A destination can't be written.
    """
    destinations = [place for _, place in planned]
    if options.dry_run:
        check_free(destinations, force=options.force)
    else:
        if planned and options.asks_network(settings):
            settings.credentials()
        check_destinations(destinations, force=options.force)
    clips = [_Clip(source, place.path) for source, place in planned]
    runner = _Runner(screen, settings, clips, options, choices)
    is_interrupted = False
    with open_journal(settings) as journal:
        try:
            with_client(settings, journal, runner.run, runner.say_cancels, runner.last_words)
        except KeyboardInterrupt:
            is_interrupted = True
            runner.say_where_it_goes_on()
            # The journal knows the confirmed cancels now that the client is closed.
            with suppress(JournalError):
                runner.say_what_runs_on(journal)
            runner.tell_interrupted()
    named = options.engine not in ("auto", REMOTE_ENGINE)
    code = most_serious(clip.code(engine_is_named=named) for clip in clips)
    if options.dry_run and not is_interrupted:
        code = most_serious(exit_code_of(clip.error) for clip in clips if clip.error)
    document = {
        "dry_run": options.dry_run,
        "skipped": list(skipped),
        "results": [clip.document() | runner.estimate(clip) for clip in clips],
        "exit_code": int(code),
    }
    if screen.json:
        screen.document(document)
    screen.event("end", skipped=list(skipped), exit_code=int(code))
    return code


class _Runner:
    """Upscales the clips of a command, and shows how far it is."""

    def __init__(
        self,
        screen: Screen,
        settings: Settings,
        clips: Sequence[_Clip],
        options: RunOptions,
        choices: ClipChoices,
    ) -> None:
        self._screen, self._settings, self._clips = screen, settings, clips
        self._options, self._choices = options, choices
        self._current: _Clip | None = None

    async def run(self, client: AsyncXalora) -> None:
        for clip in self._clips:
            self._current = clip
            try:
                await (self._look(client, clip) if self._options.dry_run else self._upscale(client, clip))
            except XaloraError as error:
                clip.error = error
            with stopping_nothing():
                self._say_outcome(clip)
            with stopping_nothing():
                if not self._options.dry_run:
                    self._screen.event("result", **clip.document())
                elif clip.error is None:
                    self._screen.event("planned", **clip.document(), **self.estimate(clip))

    def tell_interrupted(self) -> None:
        """Print the ``result`` line of ``--jsonl`` for each clip that was interrupted."""
        for clip in self._clips:
            if not self._options.dry_run and clip.made is None and clip.error is None:
                self._screen.event("result", **clip.document())

    async def _upscale(self, client: AsyncXalora, clip: _Clip) -> None:
        from ..client import HostOptions

        options = self._options
        local = None if options.engine in ("auto", REMOTE_ENGINE) else options.engine
        with _Bar(self._screen, clip) as bar:

            def on_progress(progress: VideoProgress) -> None:
                is_first = clip.progress is None or clip.progress.stage != "upscaling"
                clip.progress = progress
                with stopping_nothing():
                    bar.show(progress)
                    if progress.stage == "upscaling" and is_first:
                        self._say_plan(clip)
                    self._tell(clip)

            clip.made = await client.upscale_video(
                clip.source,
                clip.output,
                max_in_flight=self._choices.max_in_flight,
                max_tasks=self._choices.max_tasks,
                engine=local,  # type: ignore[arg-type]
                same_engine=self._choices.same_engine,
                task_options={"timeout_seconds": options.network_timeout},
                on_progress=on_progress,
                reuse=client.settings.reuse and not options.no_reuse,
                if_unknown=options.if_unknown,
                timeout=options.timeout,
                fallback="never" if options.engine == REMOTE_ENGINE else options.fallback,
                host=HostOptions(renames=lambda draft, wanted: put(draft, wanted, force=options.force)),
            )

    async def _look(self, client: AsyncXalora, clip: _Clip) -> None:
        from ..journal import ClaimOptions
        from ..video.frames import VideoOptions
        from ..video.upscaling import look_through

        choices = self._choices
        with _Bar(self._screen, clip) as bar:
            most = choices.max_in_flight or self._settings.max_in_flight
            looking = VideoOptions(
                most,
                max_tasks=choices.max_tasks,
                claim=ClaimOptions(
                    reuse=self._settings.reuse and not self._options.no_reuse,
                    if_unknown=self._options.if_unknown,
                ),
                asks_network=self._options.asks_network(self._settings),
                on_progress=bar.show,
            )
            clip.progress = await look_through(client, clip.source, clip.output, looking)

    # --- words ----------------------------------------------------------------------------------------------

    def _say_outcome(self, clip: _Clip) -> None:
        if clip.error is not None:
            self._screen.error(clip.error, clip.name if len(self._clips) > 1 else "")
            if clip.progress is not None and clip.progress.stage == "upscaling":
                self.say_where_it_goes_on()
        elif clip.made is not None:
            self._say_made(clip, clip.made)
        else:
            self._say_plan(clip)

    def estimate(self, clip: _Clip) -> dict[str, Any]:
        """How many tasks are left to be sent, or taken up, and what they cost by the user's prices."""
        progress = clip.progress
        if progress is None or progress.stage == "reading":
            return {"frames": progress.frames if progress else None, "tasks": None, "estimate": None}
        sends = self._options.asks_network(self._settings)
        cost = cost_of(self._settings.prices, [Sent("upscaler", None, progress.to_send)]) if sends else None
        return {
            "frames": progress.frames,
            "tasks": progress.to_send if sends else 0,
            "estimate": None if cost is None else cost_text(cost),
        }

    def _say_plan(self, clip: _Clip) -> None:
        progress, planned = clip.progress, self.estimate(clip)
        assert progress is not None
        written = f", {progress.done:,} are written" if progress.done else ""
        sends, kept = self._options.asks_network(self._settings), progress.left - progress.to_send
        if sends and kept:
            written += f", no new task for {kept:,}"
        cost = f", about {planned['estimate']} by your prices" if planned["estimate"] else ""
        by = f"{_counted(progress.to_send, 'task')}{cost}"
        if not sends:
            by = "done by this machine, nothing is sent"
        differ = differing(progress.tasks, progress.frames, "frame")
        self._screen.say(f"{clip.name}: {differ}{written}: {by}")
        self._screen.event("plan", input=clip.source, **planned)

    def _tell(self, clip: _Clip) -> None:
        progress = clip.progress
        assert progress is not None
        is_due = monotonic() - clip.told_at >= TOLD_SECONDS
        if is_due or progress.done == progress.frames:
            clip.told_at = monotonic()
            self._screen.event("progress", input=clip.source, **asdict(progress))

    def _say_made(self, clip: _Clip, made: UpscaledVideo) -> None:
        parts = [f"{made.width}x{made.height}", _counted(made.frames, "frame")]
        parts += ["by the network" if list(made.engines) == [REMOTE_ENGINE] else _by_engines(made.engines)]
        if made.sent is not None:
            parts.append(f"{_counted(made.sent, 'task')} sent")
        with stopping_nothing():
            self._screen.say(
                ("✓ ", "green") if not made.made_here else ("~ ", "yellow"),
                f"{clip.source} -> ",
                (short_path(made.path), "bold"),
                (f"  {' · '.join(parts)}", "dim"),
            )
        for note in (*made.notes, *remarks_on_name(clip.output, made.path)):
            self._screen.warn(note)
        if made.made_here and made.engines.get(REMOTE_ENGINE):
            self._screen.warn(
                f"this machine made {_frames(made.made_here)}; they may look different (--same-engine has "
                "one engine make all)"
            )
        if made.resent:
            self._screen.note(f"Sent again after a failure: {_frames(made.resent)}.")

    def say_cancels(self) -> None:
        """Print why the command does not end at once after an interrupt."""
        note_cancels(self._screen, self._in_flight)

    def last_words(self) -> str:
        """What may run on where the command ends before its cancels are answered."""
        return ended_at_once(parts_in_flight(self._current.name, self._in_flight) if self._current else ())

    @property
    def _in_flight(self) -> int:
        clip = self._current
        return clip.progress.in_flight if clip is not None and clip.progress else 0

    def say_what_runs_on(self, journal: Journal) -> None:
        """Print how many tasks may run on, after an interrupt and the client's close.

        Raises:
            JournalError: It can't be read.
        """
        clip = self._current
        if clip is not None and clip.progress is not None:
            print_parts_left(self._screen, journal, clip.name, clip.progress.whole_id)

    def say_where_it_goes_on(self) -> None:
        """Print what the same command does later."""
        clip = self._current
        if clip is None or clip.progress is None or clip.progress.stage == "reading" or clip.made:
            return
        progress = clip.progress
        self._screen.note(
            f"{clip.name}: {progress.done:,} of {_counted(progress.frames, 'frame')} are encoded, and what "
            "is paid for is kept. The same command goes on from there."
        )


class _Bar:
    """One bar for a clip; a context manager."""

    def __init__(self, screen: Screen, clip: _Clip) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=BAR_WIDTH),
            TextColumn("{task.fields[words]}", markup=False, style="dim"),
            console=screen.live,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
            disable=screen.live is None,
        )
        self._is_live = screen.live is not None
        self._task = self._progress.add_task(
            shortened(printable(clip.name), LABEL_WIDTH), total=None, words="reading"
        )

    def __enter__(self) -> _Bar:
        if self._is_live:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._progress.stop()

    def show(self, progress: VideoProgress) -> None:
        """Show how far the clip is."""
        self._progress.update(
            self._task, total=progress.frames, completed=progress.done, words=words_of(progress)
        )


def words_of(progress: VideoProgress) -> str:
    """``512 of 1,500 frames · 8 tasks in flight · about 3 min 20 s left``"""
    frames = f"{progress.done:,} of {_counted(progress.frames, 'frame')}"
    if progress.stage == "reading":
        return f"reading · {frames}"
    if progress.stage == "joining":
        return f"writing · {frames}"
    parts = [frames]
    if progress.in_flight:
        parts.append(f"{counted(progress.in_flight, 'task')} in flight")
    if progress.seconds_left is not None and progress.done < progress.frames:
        parts.append(f"about {elapsed_text(progress.seconds_left)} left")
    return " · ".join(parts)


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _by_engines(engines: dict[str, int]) -> str:
    names = {REMOTE_ENGINE: "the network"}
    return "by " + ", ".join(f"{names.get(engine, engine)} ({count})" for engine, count in engines.items())


def _frames(numbers: Sequence[int]) -> str:
    """Frames by their numbers from 1: the first ten, the others as a number."""
    shown = ", ".join(str(number + 1) for number in numbers[:10])
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"frame{'' if len(numbers) == 1 else 's'} {shown}{more}"
