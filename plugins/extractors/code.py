"""Source code: kept as it is, cut at top-level definitions; generated, minified and vendored files are left out.

No parser per language: a definition starts where a line stands at the margin after a blank line. That holds for the
indented bodies of all languages here, and costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

from forge.phase import Requirement
from forge.plugins.extractors._decode import decode
from forge.plugins.extractors._outline import lines_locator
from forge.protocols import Reading
from forge.records import Piece

SOURCE = "text/x-source"
LANGUAGES: Mapping[str, tuple[str, ...]] = {
    "Ada": (".adb", ".ads"), "Assembly": (".asm", ".s"), "Awk": (".awk",), "Batch": (".bat", ".cmd"), "C": (".c", ".h"),
    "C#": (".cs",), "C++": (".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".ino"), "CMake": (".cmake",), "COBOL": (".cob", ".cbl"),
    "CSS": (".css", ".less", ".sass", ".scss"), "CUDA": (".cu", ".cuh"), "Clojure": (".clj", ".cljc", ".cljs"), "Crystal": (".cr",),
    "D": (".d",), "Dart": (".dart",), "Elixir": (".ex", ".exs"), "Elm": (".elm",), "Erlang": (".erl", ".hrl"), "F#": (".fs", ".fsi", ".fsx"),
    "Fortran": (".f", ".f03", ".f90", ".f95", ".for"), "GLSL": (".frag", ".glsl", ".vert"), "Go": (".go",), "GraphQL": (".gql", ".graphql"),
    "Groovy": (".gradle", ".groovy"), "HCL": (".hcl", ".tf"), "Haskell": (".hs", ".lhs"), "Haxe": (".hx",), "INI": (".cfg", ".conf", ".ini"),
    "Java": (".java",), "JavaScript": (".cjs", ".js", ".jsx", ".mjs"), "Julia": (".jl",), "Kotlin": (".kt", ".kts"), "Lisp": (".el", ".lisp", ".scm"),
    "Lua": (".lua",), "Makefile": (".mak", ".mk"), "Nim": (".nim",), "Nix": (".nix",), "OCaml": (".ml", ".mli"), "Objective-C": (".m", ".mm"),
    "PHP": (".php",), "Pascal": (".pas", ".pp"), "Perl": (".pl", ".pm"), "PowerShell": (".ps1", ".psd1", ".psm1"), "Prolog": (".pro",),
    "Protocol Buffers": (".proto",), "Python": (".py", ".pyi", ".pyx"), "R": (".r",), "Ruby": (".gemspec", ".rake", ".rb"), "Rust": (".rs",),
    "SQL": (".sql",), "Scala": (".sbt", ".scala"), "Shell": (".bash", ".fish", ".sh", ".zsh"), "Solidity": (".sol",), "Swift": (".swift",),
    "TOML": (".toml",), "Tcl": (".tcl",), "Thrift": (".thrift",), "TypeScript": (".cts", ".mts", ".ts", ".tsx"), "VHDL": (".vhd", ".vhdl"),
    "Verilog": (".sv", ".v"), "Vim script": (".vim",), "Visual Basic": (".bas", ".vb"), "Vue": (".svelte", ".vue"), "YAML": (".yaml", ".yml"), "Zig": (".zig",),
}  # fmt: skip
"""Language -> its file extensions. A shared one (.m, .pl, .v) is named for its commonest language; the text is the same."""

BY_EXTENSION = {extension: language for language, extensions in LANGUAGES.items() for extension in extensions}
BY_NAME = {
    "makefile": "Makefile", "gnumakefile": "Makefile", "dockerfile": "Dockerfile", "containerfile": "Dockerfile", "cmakelists.txt": "CMake",
    "rakefile": "Ruby", "gemfile": "Ruby", "vagrantfile": "Ruby", "jenkinsfile": "Groovy", "build": "Starlark", "justfile": "Makefile",
}  # fmt: skip
SHEBANG = re.compile(r"^#![ \t]*(?:\S*/)?(?:env[ \t]+(?:-S[ \t]+)?(?:\S+=\S+[ \t]+)*)?(?:\S*/)?([A-Za-z]+)")
INTERPRETERS = {
    "python": "Python", "pypy": "Python", "sh": "Shell", "bash": "Shell", "dash": "Shell", "zsh": "Shell", "ksh": "Shell", "fish": "Shell",
    "node": "JavaScript", "deno": "TypeScript", "bun": "JavaScript", "perl": "Perl", "ruby": "Ruby", "php": "PHP", "lua": "Lua", "tclsh": "Tcl",
    "rscript": "R", "awk": "Awk", "gawk": "Awk", "julia": "Julia", "make": "Makefile", "groovy": "Groovy", "osascript": "AppleScript",
}  # fmt: skip

LOCK_FILES = {
    "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock", "poetry.lock", "pdm.lock", "uv.lock", "pipfile.lock",
    "cargo.lock", "gemfile.lock", "composer.lock", "podfile.lock", "mix.lock", "pubspec.lock", "flake.lock", "go.sum", "packages.lock.json",
    "gradle.lockfile", "deno.lock", ".terraform.lock.hcl",
}  # fmt: skip
GENERATED_NAME = re.compile(
    r"(?:[.-]min\.(?:js|css|mjs)|\.(?:js|mjs|css|ts)\.map|\.pb\.(?:go|cc|h)|_pb2(?:_grpc)?\.pyi?|_pb\.js|\.g\.dart|\.freezed\.dart|\.designer\.cs|\.g\.cs"
    r"|\.generated\.\w+|_generated\.\w+|zz_generated\.\w+\.go|\.bundle\.js|\.chunk\.js)$"
)
GENERATED_NOTE = re.compile(
    r"@generated\b|\bDO NOT EDIT\b|\bDO NOT MODIFY\b[^\n]*\bgenerated\b"
    r"|\b(?:this (?:file|code) (?:is|was|has been) |file )?(?:auto(?:matically)?[- ]?)generated\b(?! (?:code|files?) (?:is|are))",
    re.IGNORECASE,
)
COMMENT_START = re.compile(r"^\s*(?:#|//|/\*|\*|--|;|%|<!--|\"\"\"|\(\*|')")
NOTE_LINES = 15
"""A generator signs at the top. Further down, "generated" is what the code talks about."""

VENDORED = {"node_modules", "bower_components", "vendor", "third_party", "third-party", "thirdparty", "site-packages", "dist-packages", "jspm_packages", "godeps"}
LONG_LINE, LONG_MEAN = 5_000, 400
"""Minified: a line, or the mean line, is longer than anyone writes (style guides end at 80 to 120 characters)."""

LICENSE = re.compile(r"SPDX-License-Identifier:\s*([\w.+()-]+(?:\s+(?:AND|OR|WITH)\s+[\w.+()-]+)*)")
SPLIT_CHARACTERS = 200
"""Definitions shorter than this stay with the next one: a run of imports or constants is one block."""


class CodeExtractor:
    """Blocks of code with their line numbers; the language and an SPDX licence as metadata."""

    name: ClassVar[str] = "code"
    media_types: ClassVar[tuple[str, ...]] = (SOURCE,)
    extensions: ClassVar[Mapping[str, str]] = dict.fromkeys(BY_EXTENSION, SOURCE)
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def accepts(self, head: bytes, name: str) -> str:
        """Claims scripts by their first line, build files and lock files by their names."""
        file = PurePosixPath(name).name.lower()
        if file in LOCK_FILES or file in BY_NAME or GENERATED_NAME.search(file):
            return SOURCE if b"\0" not in head else ""
        known = PurePosixPath(file).suffix in BY_EXTENSION
        return SOURCE if head.startswith(b"#!") and not known and _interpreter(head[:200].decode("ascii", "replace")) else ""

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield the language as metadata, then the code ("line=10..24"). Generated code is dropped with its reason."""
        text = decode(path.read_bytes())
        name = ctx.name or path.name
        lines = text.split("\n")
        if reason := unwanted(name, lines):
            yield Piece(text=text, dropped=reason)
            return
        facts = [f"Language: {language_of(name, text)}", *[f"License: {match[1]}" for match in [LICENSE.search(text[:4096])] if match]]
        yield Piece(text="\n".join(facts), kind="metadata")
        for first, block in definitions(lines):
            yield Piece(text="\n".join(block), locator=lines_locator(first, len(block)), kind="code")


extractor = CodeExtractor()


def language_of(name: str, text: str) -> str:
    """The language by the file's name, else by its first line; "unknown" when neither tells."""
    file = PurePosixPath(name).name.lower()
    return BY_NAME.get(file) or BY_EXTENSION.get(PurePosixPath(file).suffix) or _interpreter(text[:200]) or "unknown"


def _interpreter(start: str) -> str:
    match = SHEBANG.match(start)
    return INTERPRETERS.get(match[1].lower(), "") if match else ""


def unwanted(name: str, lines: list[str]) -> str:
    """Why nobody wrote this file by hand: "lock file", "generated code", "vendored code", "minified code"; else ""."""
    path = PurePosixPath(name.lower())
    if path.name in LOCK_FILES:
        return "lock file"
    if VENDORED & set(path.parts[:-1]):
        return "vendored code"
    if GENERATED_NAME.search(path.name):
        return "minified code" if "min." in path.name else "generated code"
    if any(COMMENT_START.match(line) and GENERATED_NOTE.search(line) for line in lines[:NOTE_LINES]):
        return "generated code"
    filled = [len(line) for line in lines if line.strip()]
    is_code = path.suffix not in {".sql", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf"}
    if is_code and filled and (sum(filled) > LONG_MEAN * len(filled) or sum(n for n in filled if n > LONG_LINE) > sum(filled) / 2):
        return "minified code"
    return ""


def definitions(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) of each top-level block; blank lines inside a block stay, so that it can be run."""
    start = end = 0
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        if _opens(line) and end < number and sum(map(len, lines[start:end])) >= SPLIT_CHARACTERS:
            yield start + 1, lines[start:end]
            start = number
        elif end == 0:
            start = number
        end = number + 1
    if end:
        yield start + 1, lines[start:end]


def _opens(line: str) -> bool:
    """True when a definition may start here: at the margin, and not with what closes one."""
    return not line[0].isspace() and line[0] not in ")]}" and not line.startswith(("end", "else", "except", "finally", "fi", "done"))
