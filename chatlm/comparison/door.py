"""`cli_demo.py compare`: argv in, tables on the terminal and two files out."""

from collections.abc import Sequence

from chatlm import cli
from chatlm.checkpoint.paths import resolve_model
from chatlm.comparison.settings import CompareConfig
from chatlm.sanitize import sanitize

ALIASES = {"beams": "num_beams"}
USAGE = """用法：
  python cli_demo.py compare model=out/zh data=data/alpaca_data_zh.json

微调后的模型和它的底座（同一个模型，关掉适配器）回答留出的问题，和参考答案并排，算出 chrF、
BLEU-4、ROUGE-L、重复和截断的比例、胜负，以及在日常问题上忘了多少。结果显示在终端里，并写成
comparison.html 和 comparison.json。不写 data= 时问六个一般的问题（三个中文，三个英文）。

compare 的键（写成 键=值，--键=值 或 --键 值 都行）：
"""


def run(argv: Sequence[str]) -> int:
    """Compares, shows and writes.

    Raises:
        ChatLMError: a setting, a model or the data cannot be used, or the files not be written.
    """
    if any(word in ("-h", "--help", "help") for word in argv):
        print(f"{USAGE}{cli.help_text(CompareConfig)}")
        return 0
    config = cli.parse(argv, CompareConfig, aliases=ALIASES)
    model = resolve_model(config.model or None)

    from chatlm.comparison import files, screen
    from chatlm.comparison.compare import compare

    comparison = compare(config)
    screen.show(comparison, config.show)
    table, page = files.write(comparison, files.folder_of(config, model))
    print(sanitize(f"\n写到了 {page} 和 {table}"))
    return 0
