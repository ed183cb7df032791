"""Command lines of the form `key=value`: argv in, one frozen dataclass out.

In: tokens (`key=value`, `--key=value`, `--key value`, a lone `--flag`) and a dataclass that names
every key, its type, default and help. Out: an instance of it. Order of precedence, last wins:
defaults, further layers given by the caller, `config=file.yaml`, the tokens. All mistakes are
reported at once. It does not know any command; the doors do.
"""

import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar, get_type_hints

from chatlm import log, untrusted
from chatlm.errors import ChatLMError, ConfigError
from chatlm.sanitize import sanitize

T = TypeVar("T")
Layer = Mapping[str, Any]


def keys(schema: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Yields every dotted key of a dataclass with its field, nested dataclasses unfolded."""
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from keys(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field


def help_text(schema: type) -> str:
    """Returns one line for every key: name, default and what it is for."""
    rows = [
        (f"{name}={_default(field)}", str(field.metadata.get("help", "")))
        for name, field in keys(schema)
    ]
    width = min(44, max(len(left) for left, _ in rows))
    return "\n".join(f"  {left:<{width}}  {text}".rstrip() for left, text in rows)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return str(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return ",".join(map(str, field.default_factory()))
    return "<required>"


def pairs(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields (key, value) for every token, whichever of the accepted spellings it uses.

    Raises:
        ConfigError: a token is neither a pair nor a flag.
    """
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        name = token.removeprefix("--")
        if "=" in name:
            key, _, value = name.partition("=")
            yield key, value
        elif token.startswith("--") and tokens and not _looks_like_key(tokens[0]):
            yield name, tokens.pop(0)
        elif token.startswith("--"):
            yield name, "True"
        else:
            raise ConfigError(f"'{token}' is not understood: settings are written key=value")


def _looks_like_key(token: str) -> bool:
    return token.startswith("--") or "=" in token


def overrides(
    argv: Sequence[str], schema: type, *, aliases: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Returns the settings that argv gives, `config=file.yaml` unfolded below the others.

    Args:
        argv: the tokens after the command.
        schema: the dataclass that names the allowed keys.
        aliases: old spelling -> today's key; a notice is logged when one is used.

    Raises:
        ConfigError: unknown keys or an unreadable config file; all of them in one message.
    """
    known = [name for name, _ in keys(schema)]
    from_file: dict[str, Any] = {}
    given: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in pairs(argv):
        name = (aliases or {}).get(key, key)
        if name != key:
            log.info(f"'{key}' is called '{name}' today: read as {name}={value}")
        if name == "config" and "config" not in known:
            found = read_config_file(Path(value))
            problems += [f"{_unknown(one, known)} ({value})" for one in found if one not in known]
            from_file.update(found)
        elif name in known:
            given[name] = value
        else:
            problems.append(_unknown(name, known))
    if problems:
        raise ConfigError("; ".join(problems))
    return from_file | given


def _unknown(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:  # `rank` should find `lora.rank`
        close = [key for key in known if key.rpartition(".")[2] == name][:1]
    hint = f"did you mean '{close[0]}'?" if close else "--help lists the settings"
    return f"unknown setting '{name}': {hint}"


def read_config_file(path: Path) -> dict[str, Any]:
    """Returns a YAML file's settings as dotted keys.

    Raises:
        ConfigError: the file cannot be read, or is no mapping.
    """
    try:
        content = untrusted.read_yaml(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot read config file {path}: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path} must hold 'key: value' lines")
    return dict(_flatten(content))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def build(schema: type[T], *layers: Layer) -> T:
    """Returns an instance of the schema: its defaults, then each layer of dotted keys on top.

    Raises:
        ConfigError: values of the wrong type (all at once), or refused by the dataclass itself.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config = OmegaConf.structured(schema)
    _unlock(config)
    fields = dict(keys(schema))
    problems: list[str] = []
    for key, value in (item for layer in layers for item in layer.items()):
        if _has_magic(value):
            problems.append(f"{key}={value} is not understood: `${{` and `???` mean nothing here")
            continue
        try:
            OmegaConf.update(config, key, _value(fields[key], value))
        except OmegaConfBaseException as error:
            expected = str(fields[key].type).removeprefix("<class '").removesuffix("'>")
            first = str(error).splitlines()[0]
            problems.append(f"{key}={value} is not a valid {expected} ({first})")
    if problems:
        raise ConfigError("; ".join(problems))
    result = OmegaConf.to_object(config)
    assert isinstance(result, schema)
    return result


def _has_magic(value: Any) -> bool:
    """Tells whether OmegaConf would see more in a value than a text: `${oc.env:HOME}` is one."""
    if isinstance(value, list):
        return any(map(_has_magic, value))
    return isinstance(value, str) and ("${" in value or value == "???")


def _unlock(node: Any) -> None:
    """Lets a config made from frozen dataclasses take its layers; the result is frozen again."""
    from omegaconf import DictConfig, OmegaConf

    OmegaConf.set_readonly(node, False)
    for key in node:
        if isinstance(child := node._get_node(key), DictConfig) and not child._is_none():
            _unlock(child)


def _value(field: dataclasses.Field[Any], value: Any) -> Any:
    """Returns a token's text as OmegaConf wants it: lists split at commas, `none` as None."""
    kind = str(field.type)
    if not isinstance(value, str):
        return value
    if "list[" in kind or "List[" in kind:
        return [part for part in value.split(",") if part]
    if "None" in kind and value.lower() in ("none", "null", ""):
        return None
    return value


def parse(argv: Sequence[str], schema: type[T], *, aliases: Mapping[str, str] | None = None) -> T:
    """Returns the schema's instance for argv.

    Raises:
        ConfigError: everything that is wrong with argv, in one message.
    """
    return build(schema, overrides(argv, schema, aliases=aliases))


def to_yaml(config: Any) -> str:
    """Returns a dataclass as the YAML text that `config=` reads back."""
    import yaml

    return yaml.safe_dump(dataclasses.asdict(config), allow_unicode=True, sort_keys=False)


def run(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs a door and ends the process with its exit code.

    A mistake of the user is one line on stderr and the error's exit code; Ctrl-C is 130; a closed
    pipe ends quietly; any other exception keeps its traceback.
    """
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except ChatLMError as error:
        _tell(f"error: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        _silence(sys.stdout)
        code = 0
    sys.exit(code)


def _tell(line: str) -> None:
    """Writes a line to stderr; where that is full, the exit code alone has to say it.

    What strangers wrote may stand in it: names of files, or what a file holds.
    """
    try:
        print(sanitize(line).replace("\n", " "), file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Lets nothing more reach a stream, lest Python ends with its own exit code for it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
