"""The report: reads stage files only, compares settings, and draws what it says."""
