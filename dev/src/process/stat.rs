//! What `/proc` tells of a process (proc(5)).

use std::fs;

/// The ids of all processes.
pub(crate) fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What is read of a `/proc/PID/stat` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Field 3, such as `S` for one that sleeps and `Z` for a zombie.
    pub(super) state: char,
    /// Field 4: the parent's id.
    pub(super) parent: i32,
    /// Field 6: the session's id.
    pub(super) session: i32,
    /// Field 22: the start time in clock ticks since boot.
    pub(super) started: u64,
}

impl Stat {
    /// That of a process, while there is one of that id.
    pub(super) fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field (the name) may hold spaces and brackets.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        let started = fields.nth(15)?.parse().ok()?;
        Some(Self { state, parent, session, started })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_hostile_name() {
        let line = "42 (a) S (b) c) R 1 41 40 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        assert_eq!(Stat::parse(line), Some(Stat { state: 'R', parent: 1, session: 40, started: 987_654 }));
        assert_eq!(Stat::parse(""), None);
    }
}
