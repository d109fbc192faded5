"""Tests of a real GPU, marked `gpu`: `make test-gpu`. On a CPU some show that they can run.

Nothing here imports `tests.simulated`, which takes the place of torch's pinned memory and of its
accelerator in the whole process.
"""
