"""An evaluation as one HTML file: `learned-opt report DIR`.

Importing this package does not import JAX or Matplotlib.

    args              arguments of the command
    loading           the directory of an evaluation
    svg               Matplotlib figures as inline SVG
    task_figures      figures of one task
    overview_figures  figures over all tasks
    markup            pieces of HTML
    tables            tables of one task, ratios by task, failures
    overview_tables   tables over all tasks
    published         the section of speed-ups over published curves
    overview          the sections over all tasks
    page              the document
"""

from pathlib import Path

from meta_train.report.args import ReportArgs

__all__ = ["ReportArgs", "report", "run"]


def report(directory: Path) -> Path:
    """Write the report of an evaluation; what is there is replaced.

    Args:
      directory: output of `learned-opt evaluate`, also of one that is not finished.

    Returns:
      directory/report.html: one file, with nothing in it from elsewhere.

    Raises:
      InputError: there is no summary in it, or one of another version.
      RunFailed: the file cannot be written.
    """
    from meta_train.errors import RunFailed
    from meta_train.report import loading
    from meta_train.report.page import page

    target = directory / "report.html"
    text = page(loading.load(directory))
    partial = target.with_suffix(".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise RunFailed(f"cannot write {target} ({error.strerror}); the evaluation is intact") from error
    return target


def run(args: ReportArgs) -> int:
    """`learned-opt report`: write the file, say where it is, return the exit status."""
    print(report(args.directory))
    return 0
