//! The product's own entry point, built beside the system tests.

fn main() -> std::process::ExitCode {
    holdfast::main()
}
