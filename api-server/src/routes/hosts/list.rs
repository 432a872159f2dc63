//! `GET /api/hosts`

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use kvmoor_crds::names;

use crate::app::AppState;
use crate::auth::extract::Admin;
use crate::error::{ApiError, Noun, from_kube};
use crate::model::{Host, is_alive};

/// The KVM hosts, with what they have and what is promised
#[utoipa::path(
    get,
    path = "/hosts",
    operation_id = "list_hosts",
    tag = "hosts",
    security(("bearer" = [])),
    responses((status = 200, description = "Hosts by name", body = Vec<Host>))
)]
pub async fn list_hosts(State(app): State<AppState>, _: Admin) -> Result<Json<Vec<Host>>, ApiError> {
    // Leases are renewed all the time, so they are asked for when they are wanted and not kept.
    let leases: Api<Lease> = Api::namespaced(app.client.clone(), &app.system_namespace);
    let leases = leases.list(&ListParams::default()).await.map_err(|error| from_kube(Noun::Host, error))?;
    let now = Timestamp::now();
    let alive: HashMap<_, _> = leases.iter().map(|lease| (lease.name_any(), is_alive(lease, now))).collect();
    let mut vms: HashMap<String, usize> = HashMap::new();
    for host in app.stores.vms()?.read().all().filter_map(|vm| vm.spec.node_name.clone()) {
        *vms.entry(host).or_default() += 1;
    }
    let hosts = app.stores.hosts()?.read();
    let show = |host: &kvmoor_crds::Host| {
        let name = host.name_any();
        let alive = alive.get(&names::host_lease(&name)).copied().unwrap_or_default();
        Host::new(host, alive, vms.get(&name).copied().unwrap_or_default())
    };
    Ok(Json(hosts.all().map(|host| show(host)).collect()))
}
