//! What is deleted of imported images: what imports left that broke off, and what nobody has used for a while. Pure.
//!
//! An image that is to go is retired first: its record says so, and nothing new is put on it. Only a while later, when
//! whoever had found it before is done, and if still nothing stands on it, its volume is deleted, and then the record.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::super::hypervisor::libvirt::Inventory;
use super::record::{self, Record};

/// How long a retired image stays: longer than any reconcile needs from looking an image up to standing on it.
pub const GRACE: Duration = Duration::from_secs(300);

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Delete a volume.
    Delete(String),
    /// Write a record anew: retired, or wanted again.
    Write(String, Record),
}

/// What is remembered from one look to the next: since when images are seen to be unused or retired. After a restart the
/// time begins anew.
#[derive(Debug, Default)]
pub struct Memory(HashMap<String, Instant>);

/// What decides what stays.
pub struct Policy<'a> {
    /// How long an unused image stays.
    pub keep_unused: Duration,
    /// How long a retired image stays.
    pub grace: Duration,
    /// Names of records that stay, used or not.
    pub pinned: &'a HashSet<String>,
    /// Checksums of what was being imported before the inventory was made, or is now.
    pub under_way: &'a HashSet<String>,
}

/// Decides.
pub fn collect(memory: &mut Memory, inventory: &Inventory, policy: &Policy<'_>, now: Instant) -> Vec<Action> {
    let Inventory { whole, rest, backing } = inventory;
    let mut actions = Vec::new();
    for name in rest {
        let is_under_way = record::sha256_of(name).is_none_or(|sha256| policy.under_way.contains(sha256));
        // A volume without record that something stands on is not ours to judge.
        if !is_under_way && !backing.contains(name) {
            actions.push(Action::Delete(name.clone()));
        }
    }
    let mut seen = HashMap::new();
    for (name, record) in whole {
        let is_used = backing.contains(&record.volume)
            || policy.pinned.contains(name)
            || policy.under_way.contains(&record.sha256);
        if is_used {
            if record.retired {
                actions.push(Action::Write(name.clone(), Record { retired: false, ..record.clone() }));
            }
            continue;
        }
        let key = format!("{}/{name}", record.retired);
        let since = memory.0.get(&key).copied().unwrap_or(now);
        let age = now.saturating_duration_since(since);
        if !record.retired && age >= policy.keep_unused {
            actions.push(Action::Write(name.clone(), Record { retired: true, ..record.clone() }));
        }
        if record.retired && age >= policy.grace {
            actions.push(Action::Delete(record.volume.clone()));
            actions.push(Action::Delete(name.clone()));
        }
        seen.insert(key, since);
    }
    memory.0 = seen;
    actions
}

#[cfg(test)]
mod tests {
    use super::super::super::domain_xml::DiskFormat;
    use super::super::record::Content;
    use super::*;

    const KEEP: Duration = Duration::from_secs(3600);

    struct World {
        memory: Memory,
        inventory: Inventory,
        pinned: HashSet<String>,
        under_way: HashSet<String>,
        start: Instant,
    }

    impl World {
        fn new() -> Self {
            let content = content();
            let record = Record {
                volume: content.volume("1"),
                sha256: content.sha256.clone(),
                length: 1,
                virtual_size: 1,
                retired: false,
            };
            let inventory = Inventory { whole: vec![(content.record(), record)], ..Inventory::default() };
            let (memory, pinned, under_way) = Default::default();
            Self { memory, inventory, pinned, under_way, start: Instant::now() }
        }

        fn after(&mut self, seconds: u64) -> Vec<Action> {
            let Self { memory, inventory, pinned, under_way, start } = self;
            let policy = Policy { keep_unused: KEEP, grace: GRACE, pinned, under_way };
            let actions = collect(memory, inventory, &policy, *start + Duration::from_secs(seconds));
            for action in &actions {
                if let Action::Write(_, record) = action {
                    inventory.whole[0].1 = record.clone();
                }
            }
            actions
        }
    }

    fn content() -> Content {
        Content::new(&"ab".repeat(32), DiskFormat::Qcow2).unwrap()
    }

    #[test]
    fn an_unused_image_is_retired_and_later_deleted_record_last() {
        let mut world = World::new();
        assert_eq!(world.after(0), []);
        assert_eq!(world.after(3599), []);
        assert!(matches!(world.after(3600).as_slice(), [Action::Write(_, Record { retired: true, .. })]));
        assert_eq!(world.after(3601), [], "the grace begins");
        assert_eq!(world.after(3900), []);
        let volume = world.inventory.whole[0].1.volume.clone();
        assert_eq!(world.after(3901), [Action::Delete(volume), Action::Delete(content().record())]);
    }

    #[test]
    fn what_is_used_stays_and_begins_anew() {
        let mut world = World::new();
        world.after(0);
        world.inventory.backing = vec![world.inventory.whole[0].1.volume.clone()];
        assert_eq!(world.after(4000), []);
        world.inventory.backing.clear();
        assert_eq!(world.after(4001), []);
        assert_eq!(world.after(7600), []);
        assert_eq!(world.after(7601).len(), 1);
        // Somebody had found it just before.
        world.inventory.backing = vec![world.inventory.whole[0].1.volume.clone()];
        assert!(matches!(world.after(9000).as_slice(), [Action::Write(_, Record { retired: false, .. })]));
    }

    #[test]
    fn what_is_pinned_or_under_way_stays() {
        let mut world = World::new();
        world.pinned.insert(content().record());
        world.after(0);
        assert_eq!(world.after(9999), []);
        world.pinned.clear();
        world.under_way.insert(content().sha256);
        assert_eq!(world.after(19999), []);
    }

    #[test]
    fn what_broke_off_is_deleted_at_once_unless_it_goes_on() {
        let mut world = World::new();
        world.inventory = Inventory { rest: vec![content().volume("2")], ..Inventory::default() };
        world.under_way.insert(content().sha256);
        assert_eq!(world.after(0), []);
        world.under_way.clear();
        world.inventory.backing = vec![content().volume("2")];
        assert_eq!(world.after(1), []);
        world.inventory.backing.clear();
        assert_eq!(world.after(2), [Action::Delete(content().volume("2"))]);
    }
}
