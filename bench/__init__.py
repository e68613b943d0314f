"""Benchmarks: each module runs as `python -m bench.<room>.<name>` and prints ratios against a ceiling measured in the same run.

Absolute times mean little on shared machines; ratios and CPU seconds per million events can be compared. Results and the noise of
the machine they were measured on stand in `bench/RESULTS.md`.
"""
