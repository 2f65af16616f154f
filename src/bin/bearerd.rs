//! The daemon; the story is in `bearerd::daemon`.

fn main() -> std::process::ExitCode {
    bearerd::daemon::main()
}
