"""Questions asked of models and datasets: benchmarks, sweeps, ablations, their tables and reports."""
