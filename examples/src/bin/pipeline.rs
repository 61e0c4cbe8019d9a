//! `pipeline`: see `pipeline --help` and examples/README.md.

fn main() -> std::process::ExitCode {
    subscription_examples::cli::main()
}
