//! `pipeline`: see `pipeline --help` and examples/README.md.

/// Batches are made on one thread and freed on another, by the hundred megabytes: glibc's allocator would keep half as much
/// again, and give pages back to the system only to take them anew. C libraries are served too: librdkafka does the same with every
/// record. How it is set stands in `.cargo/config.toml`.
#[cfg(all(unix, target_pointer_width = "64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    subscription_examples::cli::main()
}
