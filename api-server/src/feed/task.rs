//! The task that reads the store's changes.

use kvmoor_crds::VirtualMachine;
use tokio::sync::mpsc;

use crate::app::AppState;
use crate::store::Change;
use crate::vm::owner::Owners;

/// Hands `changes` on to all who follow them, until there are no more.
pub async fn fan_out(app: AppState, mut changes: mpsc::UnboundedReceiver<Change<VirtualMachine>>) {
    let mut users_changed = app.stores.user_changes();
    // Whose a virtual machine is stands in each frame.
    while app.stores.users().is_err() {
        if users_changed.changed().await.is_err() {
            return;
        }
    }
    loop {
        tokio::select! {
            biased;
            change = changes.recv() => {
                let Some(change) = change else { return };
                let Ok(users) = app.stores.users() else { continue };
                app.feed.take(change, &Owners::new(&users.read()));
            }
            changed = users_changed.changed() => {
                let (Ok(()), Ok(users)) = (changed, app.stores.users()) else { return };
                app.feed.owners_changed(&Owners::new(&users.read()));
            }
        }
    }
}
