"""Write what README.md takes from the code: the table of methods. With --check only compare."""

import argparse
import re
import sys
from pathlib import Path

from edgecl.methods import methods

README = Path(__file__).parent.parent / "README.md"
PLANNED = (
    "RanPAC, LayUP, DualPrompt, CODA-Prompt, S-Prompts, HiDe-Prompt, DAP, EASE, LAE, C-ADA, ESN, "
    "SLCA; for CLIP: CGIL, DIKI, S-liPrompts, PROOF, PromptFusion, ZSCL, MulKI"
)


def method_table() -> str:
    """Return the methods of the registry as a Markdown table."""
    lines = ["| method | family | passes | command | status |", "|---|---|---|---|---|"]
    lines += [
        f"| [{m.title}]({m.paper}) | {m.family} | {len(m.passes)} | `edgecl train {name}` | "
        "trains, exports, ships, verified |"
        for name, m in methods().items()
    ]
    lines.append(f"| {PLANNED} | | | | planned |")
    return "\n".join(lines)


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    block = f"<!-- methods -->\n{method_table()}\n<!-- /methods -->"
    made = re.sub(r"<!-- methods -->.*<!-- /methods -->", lambda _: block, text, flags=re.DOTALL)
    if check and made != text:
        sys.exit("README.md must hold the methods of the registry, found others. Run `make docs`.")
    README.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
