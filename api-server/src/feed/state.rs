//! What was last told of each virtual machine, and to whom the next change is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use kvmoor_crds::VirtualMachine;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::model::Vm;
use crate::store::{Change, Key};
use crate::vm::owner::Owners;

/// Frames that a reader may be behind.
const QUEUE: usize = 256;

/// What a text frame of `/ws/vm-status` says.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type")]
#[schema(as = VMFrame)]
pub enum Frame {
    /// All virtual machines that one follows; the first frame, where one follows more than one.
    #[serde(rename = "vm_list")]
    #[cfg_attr(not(test), expect(dead_code, reason = "put together from what was written before, see `list`"))]
    List {
        /// Virtual machines by number.
        vms: Vec<Vm>,
    },
    /// A virtual machine as it is now; the first frame, where one follows that one.
    #[serde(rename = "vm_update")]
    Update {
        /// The virtual machine.
        vm: Box<Vm>,
    },
    /// A virtual machine is gone.
    #[serde(rename = "vm_deleted")]
    Deleted {
        /// Its number.
        vm_id: i64,
    },
}

const LIST: (&str, &str) = (r#"{"type":"vm_list","vms":["#, "]}");
const UPDATE: (&str, &str) = (r#"{"type":"vm_update","vm":"#, "}");

/// Which virtual machines one follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Everything,
    /// Those of a namespace.
    Namespace(String),
    /// One, by number.
    One(i64),
}

impl Scope {
    fn covers(&self, namespace: &str, id: i64) -> bool {
        match self {
            Self::Everything => true,
            Self::Namespace(own) => own == namespace,
            Self::One(own) => *own == id,
        }
    }
}

/// The frames of one who follows.
#[derive(Debug)]
pub struct Subscription {
    /// How things stand; `None` for one virtual machine that the feed has not heard of yet.
    pub first: Option<Utf8Bytes>,
    /// What changes from then on, in order and without gaps. It ends when the reader was too slow.
    pub changes: mpsc::Receiver<Utf8Bytes>,
    /// Cancelled at once when the reader is too slow.
    pub too_slow: CancellationToken,
}

/// The virtual machines as they were last told, and those who follow them.
#[derive(Debug, Default)]
pub struct Feed(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    synced: bool,
    told: BTreeMap<Key, Told>,
    readers: Vec<Reader>,
}

#[derive(Debug)]
struct Told {
    vm: Arc<VirtualMachine>,
    /// Number, owner and frame, once it has a number.
    shown: Option<Shown>,
}

#[derive(Debug, Clone)]
struct Shown {
    id: i64,
    owner: i64,
    frame: Utf8Bytes,
}

#[derive(Debug)]
struct Reader {
    scope: Scope,
    queue: mpsc::Sender<Utf8Bytes>,
    too_slow: CancellationToken,
}

impl Feed {
    /// Follows from now on.
    pub fn subscribe(&self, scope: Scope) -> Result<Subscription, ApiError> {
        let (queue, changes) = mpsc::channel(QUEUE);
        let too_slow = CancellationToken::new();
        let mut state = self.lock();
        if !state.synced {
            return Err(ApiError::unavailable("The server has not read the cluster's state yet"));
        }
        let frames = state.frames(&scope);
        state.readers.push(Reader { scope: scope.clone(), queue, too_slow: too_slow.clone() });
        drop(state);
        let first = match scope {
            Scope::One(_) => frames.into_iter().next().map(|(_, frame)| frame),
            Scope::Everything | Scope::Namespace(_) => Some(list(frames)),
        };
        Ok(Subscription { first, changes, too_slow })
    }

    /// Takes a change and tells of it whoever follows, if it shows.
    pub fn take(&self, change: Change<VirtualMachine>, owners: &Owners<'_>) {
        let mut state = self.lock();
        match change {
            Change::Put(vm) => state.put(vm, owners),
            Change::Removed(key) => state.remove(&key),
            Change::Listed(vms) => {
                let gone: Vec<_> = {
                    let there: std::collections::BTreeSet<_> = vms.iter().map(|vm| Key::of(vm.as_ref())).collect();
                    state.told.keys().filter(|key| !there.contains(key)).cloned().collect()
                };
                for key in gone {
                    state.remove(&key);
                }
                for vm in vms {
                    state.put(vm, owners);
                }
                state.synced = true;
            }
        }
    }

    /// Tells of virtual machines that are somebody else's now.
    pub fn owners_changed(&self, owners: &Owners<'_>) {
        let mut state = self.lock();
        let differs = |told: &&Told| told.shown.as_ref().is_some_and(|shown| shown.owner != owners.of(&told.vm));
        let moved: Vec<_> = state.told.values().filter(differs).map(|told| told.vm.clone()).collect();
        for vm in moved {
            state.put(vm, owners);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn frames(&self, scope: &Scope) -> BTreeMap<i64, Utf8Bytes> {
        let shown = self.told.iter().filter_map(|(key, told)| Some((key, told.shown.as_ref()?)));
        let visible = shown.filter(|(key, shown)| scope.covers(&key.namespace, shown.id));
        visible.map(|(_, shown)| (shown.id, shown.frame.clone())).collect()
    }

    fn put(&mut self, vm: Arc<VirtualMachine>, owners: &Owners<'_>) {
        let key = Key::of(vm.as_ref());
        let before = self.told.get(&key).and_then(|told| told.shown.clone());
        let shown = show(&vm, owners);
        let namespace = key.namespace.clone();
        self.told.insert(key, Told { vm, shown: shown.clone() });
        // Another object of the same name.
        if let Some(before) = before.as_ref().filter(|before| shown.as_ref().is_none_or(|now| now.id != before.id)) {
            self.tell(&namespace, before.id, &deleted(before.id));
        }
        if let Some(now) = shown.filter(|now| before.is_none_or(|before| before.frame != now.frame)) {
            self.tell(&namespace, now.id, &now.frame);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(Told { shown: Some(shown), .. }) = self.told.remove(key) {
            self.tell(&key.namespace, shown.id, &deleted(shown.id));
        }
    }

    fn tell(&mut self, namespace: &str, id: i64, frame: &Utf8Bytes) {
        self.readers.retain(|reader| {
            if !reader.scope.covers(namespace, id) {
                return !reader.queue.is_closed();
            }
            match reader.queue.try_send(frame.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    reader.too_slow.cancel();
                    false
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }
}

fn show(vm: &VirtualMachine, owners: &Owners<'_>) -> Option<Shown> {
    let view = owners.show(vm)?;
    let (id, owner) = (view.id, view.owner_id);
    match serde_json::to_string(&Frame::Update { vm: Box::new(view) }) {
        Ok(text) => Some(Shown { id, owner, frame: text.into() }),
        Err(error) => {
            tracing::error!(id, %error, "cannot write a virtual machine as JSON");
            None
        }
    }
}

fn deleted(vm_id: i64) -> Utf8Bytes {
    serde_json::to_string(&Frame::Deleted { vm_id }).unwrap_or_default().into()
}

/// The first frame, put together from the frames of each.
fn list(frames: BTreeMap<i64, Utf8Bytes>) -> Utf8Bytes {
    let vm = |frame: &Utf8Bytes| {
        let vm = frame.as_str().strip_prefix(UPDATE.0).and_then(|rest| rest.strip_suffix(UPDATE.1));
        vm.unwrap_or_default().to_owned()
    };
    let vms: Vec<_> = frames.values().map(vm).collect();
    format!("{}{}{}", LIST.0, vms.join(","), LIST.1).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvmoor_crds::User;
    use serde_json::{Value, json};

    use super::*;
    use crate::store::Objects;

    fn vm(namespace: &str, name: &str, id: Option<i64>, cpu: i64) -> Arc<VirtualMachine> {
        let object = json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine",
            "metadata": { "name": name, "namespace": namespace, "uid": format!("{namespace}/{name}/{id:?}") },
            "spec": { "cpu": cpu, "memory": "1Gi" },
            "status": { "id": id },
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn with_owners<T>(test: impl FnOnce(&Owners<'_>) -> T) -> T {
        let users: Objects<User> = Objects::default();
        test(&Owners::new(&users))
    }

    fn feed(vms: Vec<Arc<VirtualMachine>>) -> Feed {
        let feed = Feed::default();
        with_owners(|owners| feed.take(Change::Listed(vms), owners));
        feed
    }

    fn take(feed: &Feed, change: Change<VirtualMachine>) {
        with_owners(|owners| feed.take(change, owners));
    }

    fn json(frame: &Utf8Bytes) -> Value {
        serde_json::from_str(frame.as_str()).unwrap()
    }

    fn waiting(subscription: &mut Subscription) -> Vec<String> {
        std::iter::from_fn(|| subscription.changes.try_recv().ok())
            .map(|frame| {
                let frame = json(&frame);
                match frame["type"].as_str().unwrap() {
                    "vm_update" => format!("{}={}", frame["vm"]["id"], frame["vm"]["cpu"]),
                    "vm_deleted" => format!("{} gone", frame["vm_id"]),
                    other => other.to_owned(),
                }
            })
            .collect()
    }

    #[test]
    fn closed_until_the_first_listing() {
        assert!(Feed::default().subscribe(Scope::Everything).is_err());
    }

    #[test]
    fn begins_with_how_things_stand() {
        let feed = feed(vec![vm("b", "x", Some(10), 1), vm("a", "x", Some(9), 1), vm("a", "new", None, 1)]);
        let first = |scope| feed.subscribe(scope).unwrap().first.map(|frame| json(&frame));
        let ids = |frame: Option<Value>| {
            let frame = frame.unwrap();
            assert_eq!(frame["type"], "vm_list");
            frame["vms"].as_array().unwrap().iter().map(|vm| vm["id"].as_i64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(ids(first(Scope::Everything)), [9, 10]);
        assert_eq!(ids(first(Scope::Namespace("a".into()))), [9]);
        assert_eq!(ids(first(Scope::Namespace("nobody's".into()))), [0; 0]);
        let one = first(Scope::One(10)).unwrap();
        assert_eq!((&one["type"], &one["vm"]["id"]), (&json!("vm_update"), &json!(10)));
        assert_eq!(first(Scope::One(77)), None);
    }

    #[test]
    fn a_list_reads_as_the_type_says() {
        let feed = feed(vec![vm("a", "x", Some(1), 1), vm("a", "y", Some(2), 1)]);
        let frame = feed.subscribe(Scope::Everything).unwrap().first.unwrap();
        let vms: Vec<Vm> = serde_json::from_value(json(&frame)["vms"].clone()).unwrap();
        assert_eq!(serde_json::to_string(&Frame::List { vms }).unwrap(), frame.as_str());
    }

    #[test]
    fn tells_each_change_once_in_order_to_whom_it_concerns() {
        let feed = feed(vec![vm("a", "x", Some(1), 1)]);
        let mut all = feed.subscribe(Scope::Everything).unwrap();
        let mut a = feed.subscribe(Scope::Namespace("a".into())).unwrap();
        let mut two = feed.subscribe(Scope::One(2)).unwrap();
        take(&feed, Change::Put(vm("a", "x", Some(1), 1)));
        assert!(waiting(&mut all).is_empty(), "what does not show is not told");
        take(&feed, Change::Put(vm("a", "x", Some(1), 2)));
        take(&feed, Change::Put(vm("b", "y", None, 1)));
        take(&feed, Change::Put(vm("b", "y", Some(2), 1)));
        take(&feed, Change::Put(vm("b", "y", Some(2), 3)));
        take(&feed, Change::Removed(Key::namespaced("b", "y")));
        take(&feed, Change::Removed(Key::namespaced("b", "never there")));
        assert_eq!(waiting(&mut all), ["1=2", "2=1", "2=3", "2 gone"]);
        assert_eq!(waiting(&mut a), ["1=2"]);
        assert_eq!(waiting(&mut two), ["2=1", "2=3", "2 gone"]);
    }

    #[test]
    fn a_relisting_tells_what_was_missed() {
        let feed = feed(vec![vm("a", "gone", Some(1), 1), vm("a", "same", Some(2), 1), vm("a", "again", Some(3), 1)]);
        let mut all = feed.subscribe(Scope::Everything).unwrap();
        let now = vec![vm("a", "same", Some(2), 1), vm("a", "again", Some(4), 1), vm("a", "new", Some(5), 1)];
        take(&feed, Change::Listed(now));
        assert_eq!(waiting(&mut all), ["1 gone", "3 gone", "4=1", "5=1"]);
    }

    #[test]
    fn another_owner_shows() {
        let feed = feed(vec![vm("kvmoor-user-u", "x", Some(1), 1)]);
        let mut all = feed.subscribe(Scope::Everything).unwrap();
        let mut users: Objects<User> = Objects::default();
        let user = json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "User", "metadata": { "name": "u", "uid": "u" },
            "spec": { "username": "u" }, "status": { "id": 7, "namespace": "kvmoor-user-u" },
        });
        users.put(serde_json::from_value(user).unwrap());
        feed.owners_changed(&Owners::new(&users));
        feed.owners_changed(&Owners::new(&users));
        let frame = json(&all.changes.try_recv().unwrap());
        assert_eq!(frame["vm"]["owner_id"], 7);
        assert!(all.changes.try_recv().is_err(), "once");
    }

    #[test]
    fn the_slow_are_let_go_of_and_nobody_else_is_delayed() {
        let feed = feed(vec![vm("a", "x", Some(1), 1)]);
        let mut slow = feed.subscribe(Scope::Everything).unwrap();
        let mut quick = feed.subscribe(Scope::Everything).unwrap();
        let gone = feed.subscribe(Scope::Everything).unwrap();
        drop(gone);
        let last = i64::try_from(QUEUE).unwrap() + 2;
        for cpu in 2..=last {
            take(&feed, Change::Put(vm("a", "x", Some(1), cpu)));
            assert_eq!(waiting(&mut quick), [format!("1={cpu}")]);
            assert_eq!(slow.too_slow.is_cancelled(), cpu == last, "{cpu}");
        }
        // What is in the queue has no gap, and then it ends.
        assert_eq!(waiting(&mut slow), (2..last).map(|cpu| format!("1={cpu}")).collect::<Vec<_>>());
        assert!(matches!(slow.changes.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        assert!(!quick.too_slow.is_cancelled());
        assert_eq!(feed.lock().readers.len(), 1, "nothing is kept of those who left");
    }

    /// Readers come and go while things change: each sees every change after its first frame.
    #[test]
    fn no_gap_between_the_first_frame_and_the_changes() {
        let feed = Arc::new(feed(vec![vm("a", "x", Some(1), 1)]));
        let writer = std::thread::spawn({
            let feed = feed.clone();
            move || (2..200).for_each(|cpu| take(&feed, Change::Put(vm("a", "x", Some(1), cpu))))
        });
        let mut subscriptions: Vec<_> = (0..100).map(|_| feed.subscribe(Scope::One(1)).unwrap()).collect();
        writer.join().unwrap();
        for subscription in &mut subscriptions {
            let first = json(subscription.first.as_ref().unwrap())["vm"]["cpu"].as_i64().unwrap();
            let expected: Vec<_> = (first + 1..200).map(|cpu| format!("1={cpu}")).collect();
            assert_eq!(waiting(subscription), expected);
        }
    }
}
