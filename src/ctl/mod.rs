//! (to be written)
#![forbid(unsafe_code)]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
