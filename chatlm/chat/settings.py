"""How a conversation's answers are chosen, as a user sets it.

In: keys of a door. Out: a `GenerationConfig` for an engine, and stop strings, which engines do not
know.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from chatlm.errors import ConfigError
from chatlm.generation_config import GenerationConfig

if TYPE_CHECKING:  # a door that only shows its help needs no engine
    from chatlm.inference.engine import Limits

MAX_STOPS = 16
MAX_STOP_CHARS = 256


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ChatSettings:
    """The meaning of each key but `stop` is that of `GenerationConfig`.

    Raises:
        ConfigError: a stop string is empty or too long, or there are too many.
    """

    temperature: float = _setting(0.0, "0 总取最可能的词；越大越随机")
    top_k: int = _setting(0, "只在最可能的 k 个词中抽取；0 不限")
    top_p: float = _setting(1.0, "只在累计概率达到 p 的词中抽取")
    max_new_tokens: int = _setting(0, "回答最多多少个 token；0 用模型训练时的长度")
    min_new_tokens: int = _setting(0, "回答至少多少个 token")
    num_beams: int = _setting(1, "束搜索的宽度；大于 1 时回答一次性显示")
    length_penalty: float = _setting(1.0, "束搜索的长度偏好")
    repetition_penalty: float = _setting(1.0, "大于 1 时少重复")
    no_repeat_ngram_size: int = _setting(0, "禁止重复的连续 token 数；0 不禁止")
    seed: int | None = _setting(None, "抽取的随机种子；none 每次不同")
    stop: list[str] = field(
        default_factory=list,
        metadata={"help": "出现其中之一就停，它本身不显示；用逗号分开，\\n 是换行"},
    )

    def __post_init__(self) -> None:
        if len(self.stop) > MAX_STOPS:
            raise ConfigError(f"stop: {len(self.stop)} strings, at most {MAX_STOPS} are allowed")
        for text in self.stop:
            if not 0 < len(text) <= MAX_STOP_CHARS:
                raise ConfigError(
                    f"stop={text[:20]!r}: expected 1 to {MAX_STOP_CHARS} characters each"
                )

    def with_line_ends(self) -> "ChatSettings":
        r"""Returns the settings as typed on one line: `\n` in a stop string is a newline."""
        return replace(self, stop=[text.replace("\\n", "\n") for text in self.stop])

    def resolve(self, limits: "Limits") -> GenerationConfig:
        """Returns what an engine has to know.

        Raises:
            ConfigError: a value is out of its range or contradicts another.
        """
        values = asdict(self)
        del values["stop"]
        values["max_new_tokens"] = self.max_new_tokens or limits.max_new_tokens
        return GenerationConfig(**values)
