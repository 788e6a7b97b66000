"""Execute the example notebook and write it back with its output: `python examples/run_notebook.py`."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
LIMIT = 900  # seconds of a cell


def main(path: Path) -> None:
    """Execute a notebook in place; the first cell that raises ends it with its traceback."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=LIMIT, resources={"metadata": {"path": str(HERE)}})
    client.execute()
    for cell in notebook.cells:  # times and progress differ from run to run
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    nbformat.write(notebook, path)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            print(text.rstrip())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "notebook.ipynb")
