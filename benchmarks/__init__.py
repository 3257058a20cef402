"""Measures tfp_vae beside its peers; see benchmarks/README.md."""
