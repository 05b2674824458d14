"""Build the notebook from its text: python -m examples.build."""

from pathlib import Path

import jupytext

TEXT = Path(__file__).parent / "pixelcnn_mnist.py"


def built() -> str:
    """The notebook, without outputs, as the text has it."""
    notebook = jupytext.read(TEXT)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # else they are drawn at random
    return jupytext.writes(notebook, fmt="ipynb")


def main() -> None:
    """Write it beside the text."""
    TEXT.with_suffix(".ipynb").write_text(built(), encoding="utf-8")


if __name__ == "__main__":
    main()
