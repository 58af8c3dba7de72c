"""``dpforge-pretrain PRESET --out FOLDER``: train a small public diffusion model on public images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpforge.cli.errors import clean_errors
from dpforge.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from dpforge.pretrain.settings import PretrainSettings

_EPILOG = """\
dpforge-pretrain tiny_imagenet32 --out models/tiny32 --max-minutes 60
dpforge-pretrain fashion_mnist steps=2000 --out models/fashion
dpforge-pretrain my.yaml dataset=/data/public_photos --out models/photos
dpforge model=private_evolution model/api=improved_diffusion model.api.checkpoint=models/tiny32 …

The images must be public: nothing protects them. The same command continues a stopped training.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 2 when it is refused and with 130 when it is interrupted."""
    arguments = _parser().parse_args(argv)
    with clean_errors():
        _train(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpforge-pretrain",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("preset", help=f"{', '.join(_presets())}, or a YAML file with the same keys")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--max-minutes", type=float, help="end after so many minutes with what is reached")
    return parser


def _train(arguments: argparse.Namespace) -> None:
    settings = read_settings(arguments.preset, arguments.overrides)

    import torch
    from rich.console import Console

    from dpforge.data.public_images import load_public_images
    from dpforge.pretrain.training import train_diffusion

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    size = (settings.size, settings.size)
    images, names = load_public_images(settings.dataset, size=size, channels=settings.channels)
    images = first_of_each(images, settings.max_images)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{len(images):,} images of {len(names)} classes")
    with _bar(console) as tell:
        record = train_diffusion(
            images, names, settings, arguments.out, device=arguments.device,
            max_minutes=arguments.max_minutes, report=tell,
        )  # fmt: skip
    console.print(
        f"{arguments.out}: {record['parameters']:,} parameters, {record['steps_done']:,} steps, loss"
        f" {record['loss']}",
        markup=False,
    )


def read_settings(preset: str, overrides: Sequence[str]) -> PretrainSettings:
    """Read a preset or a file, and the ``key=value`` words after it.

    Raises:
        ConfigError: No such preset or file, a word without ``=``, or wrong settings.
    """
    import yaml

    from dpforge.pretrain.settings import settings_from

    path = _preset_folder() / f"{preset}.yaml" if preset in _presets() else Path(preset).expanduser()
    if not path.is_file():
        known = _presets()
        raise ConfigError(
            f"unknown preset '{preset}'.{did_you_mean(preset, known)} Known: {', '.join(known)}; or give a"
            " YAML file."
        )
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        changes = {key: yaml.safe_load(value) for key, value in map(_word, overrides)}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path.name} or a key=value is not valid YAML ({type(error).__name__})."
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path.name}: expected keys and values, such as 'dataset: fashion_mnist'.")
    return settings_from({**content, **changes})


def _word(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise ConfigError(f"'{word}': expected key=value.")
    return key, value


def first_of_each(images: Any, count: int | None) -> Any:
    """Keep the first ``count`` images of each class; all of them for ``None``."""
    if count is None:
        return images
    import numpy as np

    kept = [np.flatnonzero(images.labels == label)[:count] for label in np.unique(images.labels)]
    return images.take(np.sort(np.concatenate(kept)))


def _bar(console: Any) -> Any:
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def shown() -> Any:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=None, loss="")

            def tell(done: int, total: int, loss: float) -> None:
                progress.update(task, completed=done, total=total, loss=f"loss {loss:.4f}")

            yield tell

    return shown()


def _preset_folder() -> Path:
    return Path(__file__).resolve().parents[1] / "pretrain" / "presets"


def _presets() -> list[str]:
    return sorted(path.stem for path in _preset_folder().glob("*.yaml"))


if __name__ == "__main__":
    main()
