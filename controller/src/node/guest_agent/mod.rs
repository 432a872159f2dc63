//! The guest agent (qemu-guest-agent), which a guest may have: what it is asked, when, and what of its answers is taken.
//!
//! The guest controls it, so it is trusted with nothing: its answers are bounded and cleaned, who waits for one waits in
//! the background, and it is never asked to do what there is another way for. It is asked when it connects, again after
//! growing delays while an answer is missing, and then once in a while, with a look that was due anyway.

mod memory;
mod report;
mod schedule;

pub use memory::{Guest, Guests};
pub use report::{GuestReport, clean, usable};

use std::sync::Arc;
use std::time::Instant;

use super::context::Context;
use super::desired::{Desired, Machine};
use super::hypervisor::{Domain, DomainFacts, Hypervisor};
use super::observe::Observed;

/// Takes note of whether the agent is connected, sees to it that it is asked when it is time, and puts what is known of
/// it into the observation.
pub fn attend<H: Hypervisor>(ctx: &Context<H>, desired: &Desired, observed: &mut Observed) {
    let (Desired::Present(machine), Observed::Complete(facts)) = (desired, observed) else { return };
    let DomainFacts::Ours(domain) = &facts.domain else { return };
    let uid = machine.identity.uid.as_str();
    let now = Instant::now();
    if !domain.power.is_active() {
        ctx.guests.forget(uid);
    } else if ctx.guests.seen(uid, domain, now) && ctx.guests.take_up(uid, lacks_address(ctx, machine, domain), now) {
        let (guests, hypervisor) = (ctx.guests.clone(), Arc::clone(&ctx.hypervisor));
        let macs = machine.nics.iter().map(|nic| nic.mac.clone()).collect();
        let (uid, object) = (uid.to_owned(), ctx.known.get(uid));
        tokio::spawn(async move {
            let answer = hypervisor.ask_guest(&uid, macs).await;
            if let Err(error) = &answer {
                tracing::debug!(vm.uid = uid, %error, "the guest agent does not answer");
            }
            guests.answered(&uid, answer.ok(), object);
        });
    }
    facts.remembered.guest = ctx.guests.of(uid, now);
}

/// Whether the address of an interface is not known yet.
fn lacks_address<H>(ctx: &Context<H>, machine: &Machine, domain: &Domain) -> bool {
    let guest = ctx.guests.of(&machine.identity.uid, Instant::now());
    let reported = guest.report.iter().flat_map(|report| &report.addresses);
    let known: Vec<&str> = domain.leases.iter().chain(reported).map(|lease| lease.mac.as_str()).collect();
    machine.nics.iter().any(|nic| !known.iter().any(|mac| nic.mac.eq_ignore_ascii_case(mac)))
}
