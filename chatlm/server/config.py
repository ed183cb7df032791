"""The settings of `cli_demo.py serve`.

In: keys of the command line. Out: a checked `ServeConfig`, and the key that clients must send. That
key never stands on a command line, where every user of the machine can read it.
"""

import ipaddress
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm.errors import ConfigError

KEY_VARIABLE = "CHATLM_API_KEY"
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_KEY = re.compile(rb"[!-~]{16,512}")
_HOW_TO_KEY = "openssl rand -hex 24 > key && chmod 600 key"


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ServeConfig:
    """Settings of `cli_demo.py serve`.

    Raises:
        ConfigError: a value is out of its range.
    """

    model: str = _setting(
        "", "检查点、训练、导出或任何 Hugging Face 模型的目录；不写用 out/ 下最新的"
    )
    device: str = _setting("auto", "auto、cpu 或 cuda")
    threads: int = _setting(0, "在 CPU 上用多少个线程计算；0 全部")
    host: str = _setting("127.0.0.1", "监听的地址；本机以外的地址必须设密钥")
    port: int = _setting(8812, "监听的端口；0 由系统选")
    api_key_file: str = _setting(
        "", f"存放密钥的文件，权限须为 600；也可用环境变量 {KEY_VARIABLE}；都不设则不验证"
    )
    allowed_hosts: list[str] = field(
        default_factory=list,
        metadata={"help": "除本机外还接受哪些 Host 名，用逗号分开；放在反向代理之后时要设"},
    )
    model_id: str = _setting("", "接口中的模型名；不写就用目录名")
    max_streams: int = _setting(0, "最多同时生成多少个回答；0 由引擎决定")
    max_queue: int = _setting(64, "最多多少个请求排队，再多就回答 429")
    max_new_tokens: int = _setting(0, "一个回答最多多少个 token；0 用模型训练时的长度")
    deadline_seconds: float = _setting(120.0, "一个请求从到达到答完的时限，含排队")
    grace_seconds: float = _setting(30.0, "收到停止信号后，给正在生成的回答留的时间")
    max_connections: int = _setting(1000, "最多同时多少个连接")

    def __post_init__(self) -> None:
        rules = (
            ("port", 0 <= self.port < 2**16, "0 to 65535"),
            ("threads", self.threads >= 0, "0 (all cores) or more"),
            ("max_streams", self.max_streams >= 0, "0 (the engine's own) or more"),
            ("max_queue", self.max_queue >= 0, "0 (nobody waits) or more"),
            ("max_new_tokens", self.max_new_tokens >= 0, "0 (the model's own) or more"),
            ("deadline_seconds", 0 < self.deadline_seconds <= 86400, "above 0, at most 86400"),
            ("grace_seconds", 0 <= self.grace_seconds <= 86400, "0 to 86400"),
            ("max_connections", 1 <= self.max_connections <= 100_000, "1 to 100000"),
            (
                "model_id",
                not self.model_id or bool(MODEL_ID.fullmatch(self.model_id)),
                "a letter or digit, then up to 63 letters, digits, '.', '_' or '-'",
            ),
        )
        for key, holds, expected in rules:
            if not holds:
                raise ConfigError(f"{key}={getattr(self, key)}: expected {expected}")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    def known_hosts(self) -> frozenset[str]:
        """Returns the names that a Host header may have; empty: any.

        A page of another site can let its own name point to this machine, and would then be talked
        to as if it came from here. Where a key is needed that gains nothing.
        """
        if not self.is_local and not self.allowed_hosts:
            return frozenset()
        return frozenset(name.lower() for name in (*LOOPBACK_NAMES, *self.allowed_hosts))


def read_key(config: ServeConfig) -> bytes | None:
    """Returns the key that clients must send, None if none is configured.

    The variable is taken out of the environment, so that no child process has it.

    Raises:
        ConfigError: the key cannot be used, others can read its file, or there is none although
            other machines can reach the server.
    """
    from_environment = os.environ.pop(KEY_VARIABLE, "")
    if from_environment and config.api_key_file:
        raise ConfigError(f"both api_key_file and {KEY_VARIABLE} are set: set one of them")
    if config.api_key_file:
        key = _read_private(Path(config.api_key_file).expanduser()).strip()
        source = config.api_key_file
    elif from_environment:
        key, source = os.fsencode(from_environment).strip(), KEY_VARIABLE
    elif config.is_local:
        return None
    else:
        raise ConfigError(
            f"host={config.host} can be reached by other machines, so a key is needed: "
            f"{_HOW_TO_KEY}, then api_key_file=key"
        )
    if not _KEY.fullmatch(key):
        raise ConfigError(
            f"the key in {source} cannot be used: expected 16 to 512 ASCII letters, digits and "
            f"signs without spaces; make one with: {_HOW_TO_KEY}"
        )
    return key


def _read_private(path: Path) -> bytes:
    """Returns the content of a small file that nobody else may read."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"api_key_file={path} is no file")
            if os.name == "posix" and found.st_mode & 0o077:
                raise ConfigError(f"api_key_file={path} can be read by others: chmod 600 {path}")
            return file.read(4096)
    except OSError as error:
        raise ConfigError(f"api_key_file={path} cannot be read: {error.strerror}") from error
