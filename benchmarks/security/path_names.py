"""Names that lead out of a folder where one believes them, and some that only look odd.

In: the folder that must not be left, and the one outside that a name wants to reach. Out: more than
two hundred names. None of them is a good name of a file of ours.
"""

from pathlib import Path

SECRET = "secret"
"""The file outside; whoever opens it has left the folder."""


def names(outside: Path) -> list[str]:
    """Returns the names, each once."""
    found = dict.fromkeys(
        [*_climbing(), *_absolute(outside), *_encoded(), *_unicode(), *_controls(), *_odd(outside)]
    )
    return list(found)


def _climbing() -> list[str]:
    up = ["..", "../", "./..", "../..", "../../..", "a/..", "a/../..", "step_000005/../.."]
    up += ["....//", "..././", "..//", ".../", "./../", "a/b/../../..", "../outside/../outside"]
    ends = ["", f"/outside/{SECRET}", "/etc/passwd", f"/{SECRET}"]
    found = [f"{one}{end}" for one in up for end in ends]
    return found + ["../" * many + "etc/passwd" for many in (1, 2, 3, 8, 64, 1000)]


def _absolute(outside: Path) -> list[str]:
    target = str(outside / SECRET)
    found = [target, f"/{target}", f"//{target}", f"/.{target}", "/", "//", "/etc/passwd"]
    found += ["/proc/self/environ", "/dev/zero", "/dev/stdin", "/proc/self/cwd/../../../etc/passwd"]
    found += ["~", "~/.bashrc", "~root/.bashrc", "$HOME", "${HOME}/.bashrc", "%USERPROFILE%"]
    found += [
        "C:\\Windows\\win.ini",
        "C:win.ini",
        "c:/windows",
        "\\\\server\\share\\x",
        "\\\\?\\C:\\x",
    ]
    found += ["//server/share/x", "\\\\.\\pipe\\x", "..\\..\\etc\\passwd", "a\\..\\..\\b", "\\etc"]
    schemes = ("file", "http", "https", "ftp", "data", "hf", "s3", "jar", "\\file")
    return found + [f"{scheme}://localhost{target}" for scheme in schemes]


def _encoded() -> list[str]:
    dots = ["%2e%2e", "%252e%252e", ".%2e", "%2E.", "..%00", "%c0%ae%c0%ae", "%u002e%u002e", "..;"]
    slashes = ["/", "%2f", "%252f", "%5c", "\\", "%c0%af", "%u2215"]
    return [f"{dot}{slash}outside{slash}{SECRET}" for dot in dots for slash in slashes]


def _unicode() -> list[str]:
    dots = ["\uff0e\uff0e", "\u2024\u2024", "\u2025", "\ufe52\ufe52", "\u3002\u3002", ".\u200b."]
    slashes = ["/", "\u2215", "\u2044", "\uff0f", "\u29f8", "\uff3c"]
    found = [f"{dot}{slash}outside{slash}{SECRET}" for dot in dots for slash in slashes]
    odd = ["\u202e../x", "\ufeff..", "..\u0338/x", "\ud800/../x", "\U000e002e\U000e002e/x"]
    return found + odd


def _controls() -> list[str]:
    codes = [*range(0x20), 0x7F, 0x85, 0x2028]
    return [f"..{chr(code)}/{SECRET}" for code in codes] + [
        "model.safetensors\x00.txt",
        "\x00",
        "\x00/etc/passwd",
        "a\nb",
        "\x1b]0;title\x07",
        "..\r\n/x",
    ]


def _odd(outside: Path) -> list[str]:
    found = ["", ".", "./", " ", "  ..", ".. ", "...", "-", "--", "-rf", "*", "?", "[a]", "|id"]
    found += ["`id`", "$(id)", ";id", "&", "<x", ">x", "'", '"', "#", "!", "CON", "NUL.txt", "a:b"]
    found += ["x" * 256, "x" * 5000, "a/" * 500 + "x", ("../" * 2000)[:5999], "é" * 200]
    found += ["link_file", "link_folder/secret", "./link_file", "link_folder/../secret"]
    return [*found, f"link_folder/{outside.name}", "link_folder"]
