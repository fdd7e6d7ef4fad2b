#!/usr/bin/env python3
"""Writes the dashboards beside it. With --check: fails unless they are as it would write them."""

import json
import sys
from pathlib import Path

import boards
from panels import DASHBOARDS


def main():
    folder = Path(__file__).parent
    stale = []
    for board in boards.ALL:
        path, text = folder / f"{board['uid']}.json", json.dumps(board, indent=2) + "\n"
        if "--check" in sys.argv:
            stale += [] if path.exists() and path.read_text() == text else [path.name]
        else:
            path.write_text(text)
    assert [board["uid"] for board in boards.ALL] == list(DASHBOARDS), "links lead to all dashboards"
    if stale:
        sys.exit(f"not as dashboards/generate.py writes them: {', '.join(stale)}")


if __name__ == "__main__":
    main()
