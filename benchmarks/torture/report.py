"""The torture harness's figures as people read them in the READMEs.

In: benchmarks/torture.json. Out: the part of README.md and README.en.md between two marks.

    python -m benchmarks.torture.report        # writes the figures of torture.json into the READMEs
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import Record
from benchmarks.torture.report_words import COMPARED, HEADS, OURS, PEER_HEADS, WORDS

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "zh", "README.en.md": "en"}
MARKS = ("<!-- torture: begin -->", "<!-- torture: end -->")


def survived(scenario: Record) -> str:
    """Returns `199/200`: faults that were survived as promised, of all."""
    faults = scenario["faults"]
    return f"{max(0, faults - len(scenario['failures'])):,}/{faults:,}"


def readme_lines(record: Record, language: str) -> list[str]:
    """Returns the lines between the marks of a README: what was injected, ours beside others'."""
    scenarios, peers, words = record["scenarios"], record["peers"], WORDS[language]
    lines = [words["sum"].format(faults=record["faults"], failures=record["failures"])]
    if "R18" in scenarios:
        lines.append(words["samples"].format(**scenarios["R18"]["figures"]))
    lines += ["", *_table(HEADS[language])]
    for name, texts in OURS.items():
        if name in scenarios and not scenarios[name]["skipped"]:
            one = scenarios[name]
            count = survived(one) if one["faults"] else words["checked"]
            lines.append(f"| {name} | {texts[language]} | {count} |")
    named = [(key, own) for key, own in peers.items() if isinstance(own, Mapping)]
    if not named:
        return lines
    heads = [PEER_HEADS[key].format(**own) for key, own in named]
    lines += ["", words["beside"], "", *_table([words["fault"], "ChatLM", *heads])]
    for key, scenario, texts in COMPARED:
        own = _ours(key, scenarios.get(scenario))
        others = [_theirs(key, peer, words) for _, peer in named]
        lines.append(f"| {texts[language]} | {own} | {' | '.join(others)} |")
    return [*lines, "", words["how"]]


def _table(heads: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]


def _ours(key: str, scenario: Record | None) -> str:
    if scenario is None or scenario["skipped"]:
        return "—"
    if key in ("same_bits", "same_samples"):
        runs = scenario["figures"]["runs"]
        return f"{max(0, runs - len(scenario['failures']))}/{runs}"
    return survived(scenario)


def _theirs(key: str, peer: Record, words: Mapping[str, str]) -> str:
    """Returns one figure of a peer as `survived/all`."""
    kills, flips = peer["kills"], peer["bit_flips"]
    if key == "kills":
        return f"{kills['faults'] - kills.get('restarts_failed', 0)}/{kills['faults']}"
    if key in ("same_bits", "same_samples"):
        differ = "weights" if key == "same_bits" else "samples_lost_or_repeated"
        name = f"ended_with_{'other_weights' if differ == 'weights' else differ}"
        ended = kills.get("runs", 0) - kills.get("restarts_failed", 0)
        # A run that could not go on has no result; its samples are not judged.
        of = kills["runs"] if key == "same_bits" else ended
        return f"{ended - kills.get(name, 0)}/{of}"
    if key == "flips":
        return f"{flips['reported']}/{flips['faults']}"
    if key == "disk":
        full = peer["disk_full"]
        return f"{full.get('restarts_ended', 0)}/{full['faults']}" if full.get("faults") else "—"
    if key == "together":
        both = peer["two_in_one_folder"]
        return f"{both['second_refused']}/{both['faults']}"
    launcher = peer.get("launcher_killed")
    if not launcher:
        return "—"
    gone = launcher["workers"] - launcher["alive_after_5_s"]
    return words["gone"].format(gone=gone, workers=launcher["workers"])


def replaced(text: str, lines: Sequence[str]) -> str:
    """Returns a page with these lines between its marks.

    Raises:
        ValueError: the page has no marks.
    """
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise ValueError("the page has no marks to write between")
    return "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"])


def main() -> None:
    """Writes the figures into the READMEs."""
    record = json.loads((ROOT / "benchmarks" / "torture.json").read_text())
    for page, language in PAGES.items():
        path = ROOT / page
        path.write_text(replaced(path.read_text(), readme_lines(record, language)))


if __name__ == "__main__":
    main()
