//! `gateway`: see `gateway --help` and docs/enforcement.md.

fn main() -> std::process::ExitCode {
    subscription_examples::gateway::main()
}
