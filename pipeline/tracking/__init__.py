"""MLflow tracking. No other package uses MLflow.

There is one experiment. Each cell has one run for training and evaluation together, which MLflow's
compare view needs; each invocation has one run for the report. The stage files are the source of
truth: ``publish`` updates the store to match them, and can be repeated at any time.
"""

from pipeline.tracking.runs import ALL, LATER, LiveRun, finish_pipeline, publish
from pipeline.tracking.store import provenance_of

__all__ = ["ALL", "LATER", "LiveRun", "finish_pipeline", "provenance_of", "publish"]
