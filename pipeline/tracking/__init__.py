"""MLflow: the only package that knows it.

One experiment; one run per cell, which holds training and evaluation together, so that MLflow's
compare view works; one run per invocation, which holds the report. The stage files are the truth:
``publish`` brings the store to what they say and may be repeated at any time.
"""

from pipeline.tracking.runs import ALL, LATER, LiveRun, finish_pipeline, publish
from pipeline.tracking.store import provenance_of

__all__ = ["ALL", "LATER", "LiveRun", "finish_pipeline", "provenance_of", "publish"]
