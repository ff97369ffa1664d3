"""Stage ``report``: tables and figures from the stage files."""


def report() -> None:
    """Write reports/index.html."""
