//! Quotas.

pub mod get;
pub mod put;

use std::time::Duration;

use kvmoor_crds::{Quota, User, names};

use crate::app::App;
use crate::error::{ApiError, Noun};
use crate::model::{Limits, QuotaUsage, Usage};
use crate::store::{Key, Objects, Stored};

/// How long a quota may take to get its number.
const NUMBER: Duration = Duration::from_secs(5);

/// The quota that holds in a namespace, and whether it is everybody's default.
fn in_force<'a>(quotas: &'a Objects<Quota>, namespace: &str, system_namespace: &str) -> Option<(&'a Quota, bool)> {
    let of = |namespace: &str| quotas.get(&Key::namespaced(namespace, names::QUOTA_NAME));
    let own = of(namespace).filter(|_| namespace != system_namespace);
    own.map(|quota| (&**quota, false)).or_else(|| of(system_namespace).map(|quota| (&**quota, true)))
}

/// Waits until the quota in force in `namespace` has its number, and shows it for `user`.
async fn show(app: &App, user: &User, user_id: i64, namespace: &str) -> Result<QuotaUsage, ApiError> {
    let quotas = app.stores.quotas()?;
    let missing = in_force(&quotas.read(), namespace, &app.system_namespace).is_none();
    if missing {
        return Err(ApiError::NotFound(Noun::Quota));
    }
    let numbered = quotas.wait(NUMBER, |quotas| {
        in_force(quotas, namespace, &app.system_namespace)
            .and_then(|(quota, default)| Limits::new(quota, user_id, default))
    });
    let quota = numbered.await.ok_or(ApiError::unavailable("The quota has no number yet; try again in a moment"))?;
    let (vms, snapshots) = (app.stores.vms()?.read(), app.stores.snapshots()?.read());
    let usage = user.tenant_namespace().map(|own| {
        Usage::of(vms.in_namespace(own).map(|vm| &**vm), snapshots.in_namespace(own).map(|snapshot| &**snapshot))
    });
    Ok(QuotaUsage { quota, usage: usage.unwrap_or_default() })
}
