//! `kvmoor-dev`: see [`kvmoor_dev::command`].

use std::process::ExitCode;

use clap::Parser as _;
use kvmoor_dev::command::{Args, run};

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nkvmoor-dev: {error:#}");
            ExitCode::FAILURE
        }
    }
}
