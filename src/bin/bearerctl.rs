//! The command line; the story is in `bearerd::ctl`.

fn main() -> std::process::ExitCode {
    bearerd::ctl::main()
}
