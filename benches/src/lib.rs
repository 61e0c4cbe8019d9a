//! Benchmarks of the SDK; see the README beside this package's manifest.
