"""The notebook is built from its text, and runs from top to bottom."""

import nbclient
import nbformat
import pytest

from examples import build

NOTEBOOK = build.TEXT.with_suffix(".ipynb")


def test_the_notebook_is_built_from_its_text():
    assert NOTEBOOK.read_text(encoding="utf-8") == build.built(), "python -m examples.build"


@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    notebook = nbformat.reads(NOTEBOOK.read_text(encoding="utf-8"), as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [
        output for cell in notebook.cells[-2:] for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2  # ten samples of each digit, twice
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "first layer of type A: causal: True, leaks: []" in printed
    assert "first layer of type B: causal: False" in printed
    assert "the same: True" in printed
