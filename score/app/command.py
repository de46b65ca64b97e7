"""What every command shares: Hydra in front, one line of error and exit code 2 when the input is at fault."""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import math
import os
import re
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from score.errors import ConfigError, ScoreError
from score.files import not_installed, shipped

CONFIGS = shipped("configs")
LISTS = ("area", "bands", "stretch")  # take numbers in a list, and text where they are none
MANY = ("data", "images", "models", "runs", "vocabulary")  # take one or several, of text or of settings
NULLS = ("picture", "stretch")  # may be null, though their files have text
_REFERENCE = re.compile(r"\$\{[\w.]+\}$")  # to another setting: of that one's kind
TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
_stopped: list[int] = []  # by these signals, in their order


def command(config: str, words: Sequence[str] = ()) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Turn ``main(config)`` into a command that reads its settings from ``configs/<config>.yaml`` and the command line.

    What the input is to blame for (:class:`ScoreError`, a bad override, a file that cannot be opened) becomes one line
    ``error: what, where, what to do`` on stderr and exit code 2. ``HYDRA_FULL_ERROR=1`` shows the traceback instead.

    Args:
        config: its path under ``configs``, without suffix.
        words: keys that leading arguments without a key set in turn: with ``("action",)``, ``list`` is ``action=list``.
    """
    folder, name = (CONFIGS / config).parent, Path(config).name

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def task(settings: DictConfig) -> None:
            with _one_line_errors(folder, name):  # in here as well: Hydra adds lines to what leaves its task
                _check_kinds(settings, _defaults(folder, name))
                for group, file in HydraConfig.get().runtime.choices.items():
                    if group != "data":  # which takes names, and settings in their place
                        _check_kinds(settings, _choice(folder / group, file))
                main(settings)

        run = hydra.main(version_base="1.3", config_path=str(folder), config_name=name)(task)

        @functools.wraps(main)
        def guarded() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would otherwise print and exit on
            for place, key in enumerate(words, start=1):
                if place == len(sys.argv) or not re.fullmatch(r"\w+", sys.argv[place]):
                    break
                sys.argv[place] = f"{key}={sys.argv[place]}"
            # Hydra cannot put a single set of one's own where its files have a list
            sys.argv[1:] = [re.sub(r"^data\.test=(\{.*\})$", r"data.test=[\1]", word) for word in sys.argv[1:]]
            # nor an address, whose signs mean something to it
            address = re.compile(r"^([\w.]+)=((?:\w+:)?\w+://[^'\"]*)$")
            sys.argv[1:] = [address.sub(r"\1='\2'", word) for word in sys.argv[1:]]
            sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # anywhere
            with _stoppable(), _one_line_errors(folder, name):
                _check_options()
                _check_choices(folder)
                if {"-h", "--help"} & set(sys.argv[1:]):
                    print(_help(folder, name, sys.modules[main.__module__].__doc__ or ""))
                else:
                    run()

        return guarded

    return decorate


def _help(folder: Path, name: str, doc: str) -> str:
    """What a command is for, its settings as their file explains them, and the choices of its groups."""
    text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    own = re.sub(r"^(defaults|hydra):\n( .*\n|\n)*", "", text, flags=re.MULTILINE).split("\n", 1)[1].strip()
    groups = [key for item in yaml.safe_load(text)["defaults"] if isinstance(item, dict) for key in item]
    choices = {key: sorted(path.stem for path in (folder / key).glob("*.yaml")) for key in groups}
    lines = [f"{key}: {', '.join(names)}" for key, names in choices.items() if names]
    wrapped = [line for item in lines for line in textwrap.wrap(item, 80, subsequent_indent="  ")]
    words = [textwrap.fill(part, 80) for part in doc.strip().replace("``", "").split("\n\n")]
    parts = [*words, f"Settings, KEY=VALUE\n\n{own}"]
    parts += ["Files of settings, GROUP=FILE\n\n" + "\n".join(wrapped)] if lines else []
    return "\n\n".join(
        [*parts, "--cfg job   show all settings, and do nothing\n-m          run every combination of KEY=A,B"]
    )


def _check_options() -> None:
    """Refuse in one line what Hydra's parser would refuse in several of usage."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            get_args_parser().parse_args()
    except SystemExit as end:
        if not end.code:
            raise
        message = said.getvalue().rpartition("error: ")[2].strip()
        raise ConfigError(f"{message}; settings are written KEY=VALUE, --help says more") from None


def _check_choices(folder: Path) -> None:
    """Refuse what is no name where a file of a group is chosen, for Hydra does so with a traceback."""
    for word in sys.argv[1:]:
        group, _, value = word.partition("=")
        names = sorted(path.stem for path in (folder / group).glob("*.yaml")) if re.fullmatch(r"\w+", group) else []
        if names and re.fullmatch(r"null|true|false|[-+]?[\d.]+", value, re.IGNORECASE):
            raise ConfigError(f"{word}: no such choice; there are: {', '.join(names)}")


def _defaults(folder: Path, name: str) -> dict[str, Any]:
    """What a command's file says, and the file that it extends, where there is one."""
    own = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    extended = [item for item in own.pop("defaults") if isinstance(item, str) and item != "_self_"]
    own.pop("hydra", None)
    return {key: value for file in extended for key, value in _defaults(folder, file).items()} | own


def _choice(folder: Path, file: str | None) -> dict[str, Any]:
    """What the file chosen of a group sets, with what it extends; nothing of Hydra's own, and of whole experiments."""
    path = folder / f"{file}.yaml"
    text = path.read_text(encoding="utf-8") if path.is_file() else "# @package _global_"
    package = found[1] if (found := re.match(r"# @package (\S+)", text)) else folder.name
    if package == "_global_":
        return {}
    own = cast(DictConfig, OmegaConf.create(text))
    extended = [item for item in own.pop("defaults", []) if isinstance(item, str) and item != "_self_"]
    for key in reversed(package.split(".")):
        own = OmegaConf.create({key: own})
    merged = OmegaConf.merge(*(_choice(folder, item) for item in extended), own)
    return cast("dict[str, Any]", OmegaConf.to_container(merged))


def _check_kinds(settings: DictConfig, defaults: dict[str, Any], parent: str = "") -> None:
    """Refuse a value of another kind than the file's, and take a number where text belongs as the text it was typed as.

    Text belongs where the file has text, asks for a value (``???``), or has none and the setting is no number: folders
    and words may be numbers.
    """
    typed = dict(word.split("=", 1) for word in HydraConfig.get().overrides.task if "=" in word)
    for own, default in defaults.items():
        if parent and isinstance(default, str) and (default == "???" or "${" in default):
            continue  # filled in later on, or of another setting's kind
        key, value = f"{parent}{own}", settings[own]  # raises where it was given none
        if isinstance(default, dict) and not isinstance(value, DictConfig):
            raise ConfigError(f"{key}={value}: it holds settings of its own, as in {key}.{next(iter(default))}=VALUE")
        if isinstance(default, dict):
            _check_kinds(value, default, f"{key}.")
        elif isinstance(default, list) and not isinstance(value, ListConfig):
            raise ConfigError(f"{key}={value}: it takes a list, as in {key}=[A,B]")
        elif isinstance(default, bool) and key != "resume" and not isinstance(value, bool):
            raise ConfigError(f"{key}={value}: it takes true or false")
        elif parent and type(default) in (int, float) and not _is_number(key, value):
            raise ConfigError(f"{key}={'null' if value is None else value}: it takes a number")
        elif key in LISTS and isinstance(value, ListConfig):
            continue
        elif _is_text(key, default):
            if (text := _text(value, typed.get(key))) != value:
                settings[own] = text
            if isinstance(default, str) and not _is_given(key, default, text):
                raise ConfigError(f"{key}={'null' if text is None else text}: give one value, as in {key}=VALUE")


def _is_number(key: str, value: Any) -> bool:
    """Whether it is a finite number, or is checked with its bounds later on."""
    from score.engine.checks import NUMBERS

    return key in NUMBERS or (type(value) in (int, float) and math.isfinite(value))


def _is_text(key: str, default: object) -> bool:
    if default is None:
        from score.engine.checks import NUMBERS  # PyTorch takes seconds

        return key not in NUMBERS
    return isinstance(default, str) and not _REFERENCE.match(default)


def _is_given(key: str, default: str, value: Any) -> bool:
    """Whether a setting whose file has text holds text, or what else it takes."""
    if value is None:
        return key in NULLS or default.startswith("${oc.")  # of the environment, which may have none
    return isinstance(value, str) or (key in MANY and None not in value)


def _text(value: Any, typed: str | None = None) -> Any:
    """Numbers as text, in lists as well."""
    if isinstance(value, ListConfig):
        return [_text(item) for item in value]
    return (typed or str(value)) if isinstance(value, int | float) else value


def _stop(number: int, frame: object) -> None:
    """Take a signal as an interrupt."""
    _stopped.append(number)
    sys.unraisablehook = lambda _: None  # of loaders, whose processes got the signal as well
    raise KeyboardInterrupt


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Within it what asks a process to end, as a scheduler or ``kill`` does, lets it put all in order, as Ctrl-C does.

    What is ignored, as Ctrl-C is in the background of a shell, stays so.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    caught = {number: handler for number, handler in usual.items() if signal.getsignal(number) == handler}
    for number in caught:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in caught.items():
            if signal.getsignal(number) == _stop:
                signal.signal(number, handler)


@contextlib.contextmanager
def _one_line_errors(folder: Path, name: str) -> Iterator[None]:
    """End the process with one line and exit code 2 where the input is at fault."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as raised:
        if _stopped or isinstance(raised, KeyboardInterrupt):  # some libraries make other errors of an interrupt
            number = _stopped[0] if _stopped else signal.SIGINT
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_DFL)  # all is in order: a second one ends what is left at once
            print("interrupted", file=sys.stderr)
            sys.exit(128 + number)
        error = not_installed(raised) if isinstance(raised, ModuleNotFoundError) else raised
        expected = isinstance(error, (ScoreError, HydraException, OmegaConfBaseException, OSError))
        if TRACEBACK or not (expected or _score_error(error)):
            raise
        print(f"error: {explain(error, folder, name)}", file=sys.stderr)
        sys.exit(2)


def typed() -> str:
    """The command that is running, as it was typed."""
    job, overrides = HydraConfig.get().job.name, HydraConfig.get().overrides.task
    from_checkout = Path(sys.argv[0]).name == f"{job}.py"
    return shlex.join([*([f"tools/{job}.py"] if from_checkout else ["score", job]), *overrides])


def plain(config: DictConfig) -> dict[str, Any]:
    """Settings as dictionaries and lists, all that they refer to filled in.

    Raises:
        MissingMandatoryValue: one that must be given was not.
    """
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True, throw_on_missing=True))


def explain(error: BaseException, folder: Path, name: str) -> str:
    """Say in one line what is wrong, where, and what to do."""
    if (cause := _score_error(error)) is not None:
        return _one_line(cause)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        choice = error.missing_cfg_file.removesuffix(".yaml").replace("/", "=", 1)
        options = list(error.options or [])
        return f"{choice}: no such choice{suggest(choice.split('=')[-1], options)}; there are: {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not readable as KEY=VALUE; quote it for the shell and for Hydra, as in 'key=\"a b\"'"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: not given; add {error.full_key}=VALUE"
    if match := re.search(r"Could not (?:override|append) (?:to )?'([^']+)'", str(error)):
        key = match[1].split("@")[0]
        return f"{key}: no such setting{suggest(key, list(_keys(folder, name)))}; --cfg job lists them all"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}; check the path, its rights and the space on the disk"
    root = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
    where = re.search(r"full_key: (\S+)", str(error))
    return f"{where[1]}: {_one_line(root)}" if where and where[1] not in _one_line(root) else _one_line(root)


def _score_error(error: BaseException | None) -> ScoreError | None:
    """The ScoreError among an exception and its causes: Hydra wraps what a constructor raises."""
    while error is not None and not isinstance(error, ScoreError):
        error = error.__cause__
    return error


def _one_line(error: BaseException) -> str:
    text = str(error)
    if "Original Traceback" in text:  # a process that reads images failed; its own error stands last
        text = re.split(r"^score\.errors\.\w+: ", text, flags=re.MULTILINE)[-1]
    return " ".join(text.split()) or type(error).__name__


def suggest(word: str, known: list[str]) -> str:
    """`` (did you mean X?)``, or nothing where no known word is near."""
    near = [key for key in known if key.endswith(f".{word}")] + difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _keys(folder: Path, name: str) -> Iterator[str]:
    """All dotted keys of a command's default configuration."""

    def walk(node: object, prefix: str) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield f"{prefix}{key}"
                yield from walk(value, f"{prefix}{key}.")

    with hydra.initialize_config_dir(str(folder), version_base="1.3"):
        yield from walk(OmegaConf.to_container(hydra.compose(name)), "")
