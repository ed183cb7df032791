"""What `cli_demo.py compare` can be told.

In: keys of the door. Out: a checked `CompareConfig`. Imports nothing heavy.
"""

from dataclasses import dataclass, field
from typing import Any

from chatlm.errors import ConfigError
from chatlm.generation_config import GenerationConfig

MAX_NEW_TOKENS = 256
QUANTIZE = ("none", "nf4")


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class CompareConfig:
    """Settings of `cli_demo.py compare`.

    Raises:
        ConfigError: a value is out of its range or contradicts another.
    """

    model: str = _setting("", "微调过的检查点或训练目录；不写就用 out/ 下最新的")
    base: str = _setting("", "和哪个模型比：目录或名字；不写就关掉适配器，用它自己的底座")
    data: str = _setting(
        "", "问题和参考答案：JSON、JSON Lines、parquet，或 token 目录；只用留出的行"
    )
    questions: str = _setting("", "自己的问题：文本文件，每行一个，没有参考答案")
    rows: int = _setting(64, "抽取多少个留出的问题；0 用全部")
    probe: bool = _setting(True, "再用固定的日常问题测一测忘了多少")
    out: str = _setting("", "写到哪个目录；不写就是 out/compare-<训练名>-<数据名>")
    show: int = _setting(10, "终端里显示多少行；文件里总有全部")
    max_new_tokens: int = _setting(
        0, f"回答最多多少个 token；0 是 {MAX_NEW_TOKENS}，模型容不下时是它长度的一半"
    )
    num_beams: int = _setting(1, "束搜索的宽度")
    temperature: float = _setting(0.0, "0 总取最可能的词，两次结果一样；越大越随机")
    repetition_penalty: float = _setting(1.0, "大于 1 时少重复")
    no_repeat_ngram_size: int = _setting(0, "禁止重复的连续 token 数；0 不禁止")
    seed: int = _setting(0, "抽取的随机种子，temperature 大于 0 时用")
    batch_size: int = _setting(16, "一次回答多少个问题")
    device: str = _setting("auto", "auto、cpu 或 cuda")
    dtype: str = _setting("auto", "权重的精度：auto（GPU 上 bf16）、fp32 或 bf16")
    quantize: str = _setting("none", "底座的权重：none，或 nf4（4 位，要 CUDA）")

    def __post_init__(self) -> None:
        rules = (
            ("rows", self.rows >= 0, "0 (all) or more"),
            ("show", self.show >= 0, "0 (none) or more"),
            ("max_new_tokens", self.max_new_tokens >= 0, "0 (automatic) or more"),
            ("seed", 0 <= self.seed < 2**63, "0 to 2**63 - 1"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("quantize", self.quantize in QUANTIZE, " or ".join(QUANTIZE)),
        )
        for key, holds, expected in rules:
            if not holds:
                raise ConfigError(f"{key}={getattr(self, key)}: expected {expected}")
        if self.data and self.questions:
            raise ConfigError("data= and questions= both name what is asked: leave one of them out")
        self.generation(MAX_NEW_TOKENS)

    def generation(self, most_tokens: int) -> GenerationConfig:
        """Returns how both models answer.

        Args:
            most_tokens: how long a prompt and its answer may be together.

        Raises:
            ConfigError: a value is out of its range or contradicts another.
        """
        automatic = max(1, min(MAX_NEW_TOKENS, most_tokens // 2))
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens or automatic,
            num_beams=self.num_beams,
            temperature=self.temperature,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            seed=self.seed,
        )
