"""A small starter topic, and ways to save and to break it."""

import copy
from pathlib import Path

import yaml

TABLES = {
    "topic": "colours",
    "tables": [
        {
            "name": "mixing",
            "kind": "closed",
            "columns": ["one", "two", "result"],
            "train": [f"{{one}}加{{two}}是什么颜色，第{number}问" for number in range(6)],
            "valid": ["把{one}和{two}混在一起会得到什么？"],
            "test": ["{one}与{two}调出哪种颜色？"],
            "answer": "{one}和{two}混合得到{result}。",
            "rows": [["红", "黄", "橙色"], ["蓝", "黄", "绿色"]],
        },
        {
            "name": "taste",
            "kind": "open",
            "items": [
                {
                    "train": [f"你喜欢什么颜色，第{number}问" for number in range(5)],
                    "valid": ["你最爱哪种颜色？"],
                    "test": ["颜色里你偏爱哪个？"],
                    "answer": "我没有眼睛，不过大家常说蓝色让人平静。",
                }
            ],
        },
    ],
}


def save(folder: Path, content: object, name: str = "colours.yaml") -> Path:
    (folder / name).write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return folder


def break_table(change) -> dict:
    content = copy.deepcopy(TABLES)
    change(content)
    return content
