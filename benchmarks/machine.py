"""What benchmarks say of the machine they ran on."""

from __future__ import annotations

from pathlib import Path


def processor() -> str:
    """Its name as `lscpu` has it."""
    rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((row.split(":")[1].strip() for row in rows if "model name" in row), "unknown processor")
