"""Benchmarks: what the claims of the project are measured by. Quote ratios: seconds are the machine's.

- Against the textbook, side by side, in one process and one run, alternating: ``python -m benchmarks.sampling course
  --batch 64``, ``python -m benchmarks.training course --batch 64`` and ``python -m benchmarks.scaling``.
- One way of the zoo against another: ``precision`` and ``ways``.
- About trained models: ``curves`` and ``conditions``.
"""
