//! End-to-end cases on clusters of real parts: etcd, kube-apiserver, libvirt, QEMU and Kvmoor's own processes.
//!
//! On a cluster the cases run one after another, because many of them kill what the others stand on; two clusters share
//! them out, see `lanes`. `cargo test --test e2e NAME` runs those whose name contains NAME, with `-- --test-threads 1` on
//! one cluster. The clusters are taken down whatever happens.

mod adoption;
mod authorization;
mod bad_input;
mod classes;
mod clone;
mod conformance;
mod console;
mod crash;
mod crash_cluster;
mod debian;
mod disks;
mod domain_xml;
mod feed;
mod firmware;
mod guest_data;
mod images;
mod installation;
mod kubectl;
mod lacking_hosts;
mod lanes;
mod lifecycle;
mod metrics;
mod networks;
mod outages;
mod quota;
mod reference;
mod replicas;
mod request_ids;
mod resize;
mod schemathesis;
mod serial;
mod shared;
mod snapshots;
mod tls;
mod trouble;
mod upload;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use lanes::Lane;
use libtest_mimic::{Arguments, Failed, Trial};
use shared::Shared;
use tokio::runtime::Handle;

/// Clusters at once, unless `--test-threads` says how many.
const LANES: usize = 2;

type Case = for<'a> fn(&'a Shared) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>;

macro_rules! cases {
    ($($module:ident::$case:ident),* $(,)?) => {
        [$((concat!(stringify!($module), "::", stringify!($case)), (|shared| Box::pin($module::$case(shared))) as Case)),*]
    };
}

fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::from_args();
    let lanes = arguments.test_threads.replace(1).unwrap_or(LANES);
    let cases = cases![
        lifecycle::from_nothing_to_a_booted_guest,
        lifecycle::kubectl_applies_the_example,
        lifecycle::every_power_state,
        lifecycle::a_dead_guest_is_seen_and_started_again,
        lifecycle::a_guest_that_powers_off_stays_off,
        lifecycle::resize_waits_for_a_restart,
        resize::a_running_guest_grows,
        resize::what_was_plugged_in_comes_back_with_a_snapshot,
        resize::less_waits_for_a_restart_and_is_charged_until_then,
        adoption::a_guest_of_an_older_version_runs_on,
        trouble::a_panic_is_a_crash_with_a_name,
        trouble::a_crash_that_comes_again_backs_off,
        trouble::no_room_halts_a_guest_until_there_is_some,
        classes::a_size_by_name,
        classes::a_class_that_comes_later_or_goes,
        firmware::secure_boot_and_a_tpm,
        firmware::uefi_without_secure_boot,
        firmware::a_tpm_is_part_of_a_snapshot,
        reference::users,
        reference::virtual_machines,
        reference::quota,
        reference::errors,
        reference::document,
        conformance::every_request,
        conformance::the_document_has_every_request,
        conformance::the_document_has_the_interfaces,
        authorization::every_operation_by_everybody,
        quota::over_rest,
        quota::limits_of_snapshots_and_disks,
        quota::kubectl_is_refused_at_once,
        quota::the_cluster_controller_has_the_last_word,
        quota::a_lowered_quota_stops_nothing,
        quota::two_hundred_at_once_over_three_replicas,
        replicas::what_one_has_made_the_other_knows,
        bad_input::names_that_bite,
        bad_input::no_host_fits,
        bad_input::no_image,
        bad_input::the_pool_is_full,
        lacking_hosts::without_libvirt_or_kvm,
        installation::an_upgrade_labels_the_admins_secret_and_ends_no_session,
        installation::the_catalog_is_applied_and_admins_have_the_last_word,
        installation::the_check_of_helm_test_says_what_is_wrong,
        domain_xml::libvirt_takes_what_is_written,
        disks::they_grow_on_and_off,
        disks::they_come_and_go,
        disks::a_guest_that_does_not_let_go,
        disks::they_outlive_a_restore,
        disks::what_does_not_fit_is_said,
        disks::over_rest,
        clone::of_a_machine_that_is_off,
        clone::of_a_snapshot,
        clone::while_the_disks_are_copied,
        clone::what_cannot_be_is_said,
        clone::over_rest,
        images::imported_once_for_all_that_wait,
        images::what_is_wrong_is_said_and_nothing_is_left,
        images::the_pool_fills_up_meanwhile,
        images::private_addresses_are_refused_unless_allowed,
        images::unused_ones_are_collected,
        upload::a_guest_boots_from_what_was_uploaded,
        upload::what_is_wrong_is_said_and_nothing_is_left,
        upload::two_at_once,
        upload::it_stays_while_its_image_is_there,
        upload::the_api_server_holds_little_of_it,
        feed::each_sees_its_own_in_order_and_nothing_else,
        feed::refused_before_the_upgrade,
        feed::a_ticket_is_for_one_use,
        feed::closed_when_the_right_ends,
        feed::the_slow_are_closed_and_others_not_delayed,
        feed::pings,
        feed::the_server_stops_and_all_come_back,
        guest_data::user_data_from_a_secret,
        guest_data::over_rest,
        guest_data::only_its_own_host_is_told,
        guest_data::the_cluster_controller_is_away,
        debian::cloud_init_and_the_guest_agent,
        networks::tenants_do_not_reach_each_other,
        networks::a_guest_that_pretends_is_not_heard,
        networks::only_bridges_that_are_allowed,
        networks::an_isolated_segment_is_the_namespaces_own,
        networks::no_address_is_left,
        snapshots::the_old_state_comes_back,
        snapshots::a_guest_that_is_off_is_restored,
        snapshots::errors_are_clear,
        snapshots::what_qemu_cannot_restore_has_failed,
        snapshots::quota,
        metrics::all_are_documented_and_none_is_missing,
        metrics::they_count_what_happens,
        metrics::probes,
        tls::https_websockets_and_a_renewal,
        request_ids::every_line_of_a_request_has_its_id,
        outages::libvirtd_dies,
        outages::the_control_plane_dies,
        outages::a_host_is_lost_and_comes_back,
        outages::another_leader_takes_over,
        console::measurements,
        console::a_host_serves_only_the_api_server,
        console::a_display_over_a_websocket,
        console::consoles_leave_no_descriptor_behind,
        console::novnc_in_chromium,
        kubectl::the_manifest_of_krew_fits_the_archive,
        kubectl::every_word_of_the_plugin,
        serial::a_shell_over_a_websocket,
        serial::who_may_open_it_and_how_it_ends,
        serial::reconnects_leave_no_descriptor_behind,
        serial::the_boot_log,
        schemathesis::by_an_admin,
        crash::creating,
        crash::starting,
        crash::stopping,
        crash::restarting,
        crash::pausing,
        crash::resetting,
        crash::renewing_the_seed,
        crash::deleting,
        resize::crash_while_growing,
        crash::cluster_controller,
        crash_cluster::the_api_server_before_a_refusal,
        crash_cluster::the_cluster_controller_and_snapshots,
        images::killed_in_the_middle_of_an_import,
        images::crash_while_importing,
        upload::crash_while_uploading,
        disks::crash_while_changing,
        disks::crash_while_detaching,
        networks::crash_while_a_segment_goes,
        clone::crash_while_cloning,
        trouble::crash_after_a_panic,
        trouble::crash_while_there_is_no_room,
        snapshots::crash_while_taking,
        snapshots::crash_while_restoring,
        snapshots::crash_while_deleting,
        snapshots::killed_in_the_middle_of_a_restore,
    ];
    if arguments.list {
        libtest_mimic::run(&arguments, trials(&cases, None)).exit();
    }
    let filter = arguments.filter.clone().unwrap_or_default();
    let mut cases: Vec<_> = cases.into_iter().filter(|(name, _)| name.contains(&filter)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(lane) = Lane::current()? {
        cases = cases.into_iter().enumerate().filter(|(n, _)| lane.has(*n)).map(|(_, case)| case).collect();
    } else {
        runtime.block_on(lanes::fetch(cases.iter().any(|(name, _)| name.starts_with("debian::"))))?;
        if lanes > 1 && cases.len() > 1 {
            let passed = lanes::run(lanes.min(cases.len()))?;
            std::process::exit(if passed { 0 } else { 101 });
        }
    }
    let shared = Arc::new(runtime.block_on(Shared::start())?);
    let conclusion = libtest_mimic::run(&arguments, trials(&cases, Some((runtime.handle(), &shared))));
    let shared = Arc::into_inner(shared);
    if let Some(shared) = shared {
        runtime.block_on(shared.stop())?;
    }
    conclusion.exit()
}

fn trials(cases: &[(&'static str, Case)], on: Option<(&Handle, &Arc<Shared>)>) -> Vec<Trial> {
    let trial = |(name, case): &(&'static str, Case)| {
        let (case, on) = (*case, on.map(|(handle, shared)| (handle.clone(), shared.clone())));
        Trial::test(*name, move || match on {
            Some((handle, shared)) => {
                handle.block_on(shared.run(case)).map_err(|error| Failed::from(format!("{error:#}")))
            }
            None => Ok(()),
        })
    };
    cases.iter().map(trial).collect()
}
