//! Child processes: started with everything recorded, and ended by id and start time only, never by name.

mod id;
mod managed;
mod reaper;
mod run;
mod running;
mod spawner;
mod spec;
mod stat;

pub use id::ProcessId;
pub use managed::Managed;
pub(crate) use reaper::reap_orphans;
pub(crate) use run::output;
pub use run::run;
pub use spec::Spec;
pub(crate) use stat::pids;
