//! The program; everything that it does is in the library, so that linking it costs little.

fn main() -> std::process::ExitCode {
    session_buddy_bridge::internals::cli::main()
}
