"""Compares tfp_vae with other libraries; see docs/benchmarks.md."""
