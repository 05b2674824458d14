"""Benchmarks, each side by side with the textbook implementation, in one process and one run, alternating.

``python -m benchmarks.sampling course --batch 64``, ``python -m benchmarks.training course --batch 64`` and
``python -m benchmarks.scaling``; all of them print JSON with ``--json``. Quote ratios: seconds are the machine's.
"""
