//! What to run: a program with everything it needs, kept so that it can be started again.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sys::{prctl, signal::Signal};

use crate::libvirt_host::PrivateMounts;

/// A log grows no larger than this over restarts: then it becomes `NAME.1`.
const MAX_LOG_BYTES: u64 = 64 << 20;

/// A program, its arguments and its surroundings.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name for logs and state files, unique within one cluster.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments, without the program itself.
    pub args: Vec<OsString>,
    /// Environment variables on top of the inherited ones.
    pub env: BTreeMap<String, OsString>,
    /// Environment variables that are not inherited; `env` may set them all the same.
    pub without_env: Vec<&'static str>,
    /// File that standard output and standard error are appended to.
    pub log: PathBuf,
    /// A private view of some directories and files, for libvirt's daemons and what must agree with them.
    pub mounts: Option<PrivateMounts>,
}

impl Spec {
    /// A program that logs to `log`, still without arguments.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            without_env: Vec::new(),
            log: log.into(),
            mounts: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds `--flag=value`.
    #[must_use]
    pub fn flag(self, flag: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        let mut arg = OsString::from(format!("--{flag}="));
        arg.push(value);
        self.arg(arg)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// The command to spawn: its own process group (a Ctrl-C in the terminal is for the parent alone, which then stops
    /// its children in order), killed by the kernel when the parent dies, logging to the file.
    pub(super) fn command(&self) -> io::Result<Command> {
        let log = open_log(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).process_group(0);
        for name in &self.without_env {
            command.env_remove(name);
        }
        command.envs(&self.env);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mounts = self.mounts.as_ref().map(PrivateMounts::prepare).transpose()?;
        let enter = move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if let Some(mounts) = &mounts {
                mounts.enter()?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls on data prepared above are made: nothing allocates or locks.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|found| found.len() > MAX_LOG_BYTES) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}
