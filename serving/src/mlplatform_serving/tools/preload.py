"""`python -m mlplatform_serving.tools.preload`: fetch model versions from a region's store into the
folder that a server loads from, before the server starts. What an init container runs.

Without flags it does what the server's own environment says (MODEL_SOURCE, MODEL_CACHE_DIR, MODELS,
MODEL_VERSION). It can be interrupted, and killed, and run again: it goes on from where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from mlplatform_serving import logs
from mlplatform_serving.errors import ServingError
from mlplatform_serving.models.progress import Progress
from mlplatform_serving.names import by_number, is_name
from mlplatform_serving.settings import Settings, log_level
from mlplatform_serving.stores.fetch import Fetched, StoreSource
from mlplatform_serving.stores.source import Damaged, NotInStore, StoreDenied
from mlplatform_serving.stores.url import StoreURLWrong

log = logging.getLogger("model_loader")

_PROGRESS_SECONDS = 10.0
_USAGE, _MISMATCH, _DENIED, _INCOMPLETE, _INTERRUPTED = 2, 3, 4, 5, 130


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one version: what was fetched, or why not."""

    model: str
    version: str
    result: Fetched | ServingError

    def as_json(self) -> dict[str, object]:
        """One line of `--output json`."""
        told: dict[str, object] = {"model": self.model, "version": self.version}
        if isinstance(self.result, ServingError):
            return {**told, "error": self.result.message}
        return {
            **told,
            "bytes": self.result.size_bytes,
            "fetched_bytes": self.result.fetched_bytes,
            "seconds": round(self.result.seconds, 3),
            "there_already": self.result.there_already,
        }

    def __str__(self) -> str:
        subject = f"{self.model}@{self.version}"
        if isinstance(self.result, ServingError):
            return f"{subject}: {self.result.message}"
        if self.result.there_already:
            return f"{subject}: verified, nothing to fetch"
        fetched, size, rate = (
            self.result.fetched_bytes / 1e6,
            self.result.size_bytes / 1e6,
            self.result.bytes_per_second / 1e6,
        )
        return f"{subject}: fetched {fetched:.1f} of {size:.1f} MB at {rate:.0f} MB/s"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 all is there · 2 usage · 3 something is damaged · 4 no permission · 5 something could not
    be fetched · 130 interrupted."""
    asked = _parser().parse_args(arguments)
    given = {
        "model_source": asked.source,
        "model_cache_dir": asked.cache_dir,
        "models": ",".join(asked.model) or None,
    }
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for each in error.errors():
            sys.stderr.write(f"error: {'.'.join(map(str, each['loc'])).upper()}: {each['msg']}\n")
        return _USAGE
    if settings.model_source is None:
        sys.stderr.write(
            "error: no store is named\n"
            "hint: --source URL, or MODEL_SOURCE: the region's `store` in topology.yaml\n"
        )
        return _USAGE
    logs.set_up(log_level(settings), environment=settings.environment)
    try:
        source = StoreSource(settings.model_source, concurrent=asked.concurrent)
        outcomes = [
            _preload(source, name, version, settings.model_cache_dir)
            for name, version in _wanted(source, settings)
        ]
    except StoreURLWrong as error:
        sys.stderr.write(f"error: MODEL_SOURCE: {error}\n")
        return _USAGE
    except ServingError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return _code(error)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run it again, it goes on from where it was\n")
        return _INTERRUPTED
    for outcome in outcomes:
        told = json.dumps(outcome.as_json()) if asked.output == "json" else str(outcome)
        sys.stdout.write(f"{told}\n")
    return min(
        (_code(each.result) for each in outcomes if isinstance(each.result, ServingError)),
        default=0,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mlplatform_serving.tools.preload",
        description="Fetch model versions from a region's store, verified, before a server starts.",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME[@VERSION]",
        help="what to fetch, several times for several; else MODELS, else every model; without a "
        "version MODEL_VERSION, else the newest",
    )
    parser.add_argument("--source", metavar="URL", help="the store; else MODEL_SOURCE")
    parser.add_argument(
        "--cache-dir", type=Path, metavar="PATH", help="the folder; else MODEL_CACHE_DIR"
    )
    parser.add_argument(
        "--concurrent", type=_positive, default=8, metavar="N", help="reads at once (%(default)s)"
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _wanted(source: StoreSource, settings: Settings) -> list[tuple[str, str]]:
    """Names and versions. What has no version is left out, with a word in the log; where it was
    asked for by name, `NotInStore`."""
    named = [each.partition("@")[::2] for each in settings.models]
    wanted = []
    for name, version in named or [(each, "") for each in source.models()]:
        chosen = version or settings.model_version
        if chosen is None:
            versions = source.versions(name) if is_name(name) else []
            if not versions and named:
                raise NotInStore(f"Model file not found: the store has no version of {name}")
            if not versions:
                continue
            chosen = max(versions, key=by_number)
        wanted.append((name, chosen))
    return wanted


def _preload(source: StoreSource, name: str, version: str, folder: Path) -> Outcome:
    progress, over = Progress(), threading.Event()
    teller = threading.Thread(target=_tell, args=(name, version, progress, over), daemon=True)
    teller.start()
    try:
        return Outcome(name, version, source.preload(name, version, folder, progress))
    except ServingError as error:
        log.error("Model failed to load: %s@%s: %s", name, version, error.message)
        return Outcome(name, version, error)
    except KeyboardInterrupt:
        progress.stop("interrupted")
        raise
    finally:
        over.set()


def _tell(name: str, version: str, progress: Progress, over: threading.Event) -> None:
    while not over.wait(_PROGRESS_SECONDS):
        log.info("model_preload: %s@%s: %s", name, version, progress.told())


def _code(error: ServingError) -> int:
    if isinstance(error, Damaged):
        return _MISMATCH
    return _DENIED if isinstance(error, StoreDenied) else _INCOMPLETE


if __name__ == "__main__":
    sys.exit(main())
