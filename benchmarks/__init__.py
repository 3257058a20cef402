"""Compares tfp_vae with other libraries; see benchmarks/README.md."""
