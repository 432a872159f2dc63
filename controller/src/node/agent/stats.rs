//! `GET /v1/vms/{uid}/stats`

use std::time::Instant;

use http::StatusCode;
use kvmoor_crds::agent::Stats;

use super::Agent;
use super::answer::{Answer, Refusal, json};
use super::cpu::{Sample, WINDOW};

/// What libvirt measures of a virtual machine, now.
pub async fn get(agent: &Agent, uid: &str) -> Result<Answer, Refusal> {
    let (mut stats, mut sample) = measure(agent, uid).await?;
    if stats.active {
        let earlier = match agent.cpu.recent(uid, sample.at) {
            Some(earlier) => earlier,
            None => {
                let first = sample;
                tokio::time::sleep(WINDOW).await;
                (stats, sample) = measure(agent, uid).await?;
                first
            }
        };
        stats.cpu.percent = sample.percent_since(earlier, stats.cpu.count).unwrap_or_default();
        agent.cpu.note(uid, sample);
    }
    Ok(json(StatusCode::OK, &stats))
}

async fn measure(agent: &Agent, uid: &str) -> Result<(Stats, Sample), Refusal> {
    let stats = agent.hypervisor.measure(uid).await?.ok_or_else(Refusal::not_found)?;
    let sample = Sample { at: Instant::now(), time_ns: stats.cpu.time_ns };
    Ok((stats, sample))
}
