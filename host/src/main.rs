//! The tcw-host binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcw_host::cli::main()
}
