"""Extracts a folder with markitdown, all files in one process:  PYTHON_WITH_MARKITDOWN markitdown_folder.py IN OUT"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    from markitdown import MarkItDown

    root, converter = Path(sys.argv[1]), MarkItDown()
    with Path(sys.argv[2]).open("w", encoding="utf-8") as out:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            row = {"path": path.relative_to(root).as_posix()}
            try:
                row["text"] = converter.convert(str(path)).text_content
            except Exception as error:  # noqa: BLE001 - whatever it raises is that file's result
                row["error"] = f"{type(error).__name__}: {error}"[:200]
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
