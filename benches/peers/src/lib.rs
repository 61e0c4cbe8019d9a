//! Nothing but the benchmark.
