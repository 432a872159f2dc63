//! Writes the CustomResourceDefinitions, one file each, into the folder given as the only argument.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: crdgen FOLDER");
        return ExitCode::from(2);
    };
    match kvmoor_crds::yaml::files()
        .and_then(|files| files.into_iter().try_for_each(|(name, text)| Ok(std::fs::write(folder.join(name), text)?)))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}
